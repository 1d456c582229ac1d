"""The pictures of mistakes: which records, in which order, and refusals."""

import dataclasses

import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.runs import artifacts
from tests import made_up_run
from tools import plot_mistakes


@pytest.fixture
def run(small_config, small_data, tmp_path, monkeypatch):
  """A run with one finished fold of made-up predictions, and its mistakes."""
  config = small_config.copy_and_resolve_references()
  config.folds = (0, 1)
  folder = tmp_path / 'run'
  spec = small_data.dataset.spec
  artifacts.begin_run(folder, config, small_data.digests(), spec)
  labels = small_data.dataset.labels('v3')
  rng = np.random.default_rng(0)
  sets, wrong = {}, {}
  for name in ('test', 'validation'):
    records = sorted(small_data.table['folds']['0'][name])
    classes = np.array([spec.classes.index(labels[x]) for x in records])
    probabilities = rng.dirichlet(np.ones(4), len(records))
    own = probabilities[np.arange(len(records)), classes]
    mistaken = probabilities.argmax(axis=1) != classes
    wrong[name] = {records[k]: own[k] for k in np.flatnonzero(mistaken)}
    sets[name] = records, classes, probabilities.astype(np.float32)
  made_up_run.write_fold(folder, 0, sets)
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [small_data])
  return folder, wrong


@pytest.mark.parametrize('set_name', ['test', 'validation'])
def test_mistakes_are_the_wrong_records_least_likely_first(run, set_name):
  folder, wrong = run
  found = plot_mistakes.read_mistakes(folder, set_name)
  assert len(found) > 5
  expected = sorted(wrong[set_name], key=wrong[set_name].get)
  assert [mistake.record for mistake in found] == expected
  kinds = plot_mistakes.confusions(found)
  together = [mistake for kind in kinds.values() for mistake in kind]
  assert sorted(together) == sorted(found)
  for (label, predicted), mistakes in kinds.items():
    for mistake in mistakes:
      assert (mistake.label, mistake.predicted) == (label, predicted)
      assert label != predicted
    assert mistakes == [m for m in found if m in mistakes]


def test_command_draws_the_worst_and_each_kind(run, monkeypatch, capsys):
  folder, _ = run
  drawn = {}
  plot = plot_mistakes.plot_records

  def recorded(mistakes, dataset, title):
    drawn[title] = mistakes
    return plot(mistakes[:2], dataset, title)

  monkeypatch.setattr(plot_mistakes, 'plot_records', recorded)
  assert plot_mistakes.main([str(folder), '--count=4']) == 0
  mistakes = plot_mistakes.read_mistakes(folder, 'test')
  assert next(iter(drawn.values())) == mistakes[:4]
  assert max(map(len, drawn.values())) <= 4
  kinds = plot_mistakes.confusions(mistakes)
  out = capsys.readouterr().out
  for (label, predicted), found in kinds.items():
    assert f'{label} called {predicted}' in out
    assert found[0].record in out
    names = f'{label}_as_{predicted}.png'.replace('~', 'noise')
    picture = folder / 'errors_test' / names
    assert picture.read_bytes().startswith(b'\x89PNG')
  assert len(list((folder / 'errors_test').iterdir())) == 1 + len(kinds)


def test_what_cannot_be_drawn_gets_one_sentence(
  run, small_data, tmp_path, monkeypatch, refusal
):
  folder, _ = run
  main = plot_mistakes.main
  assert '--count is 0' in refusal(main, folder, '--count=0')
  assert 'config.json cannot be read' in refusal(main, tmp_path)
  assert '--out' in refusal(main, folder, '--out=/proc/none')
  signal = small_data.dataset.signal + np.int16(1)
  other = dataclasses.replace(small_data.dataset, signal=signal)
  data = dataclasses.replace(small_data, dataset=other)
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [data])
  assert 'dataset had other content' in refusal(main, folder)
  (folder / 'fold0' / 'validation_predictions.csv').unlink()
  words = 'no finished fold with validation predictions'
  assert words in refusal(main, folder, '--set=validation')
  (folder / 'fold0' / 'scores.json').unlink()
  assert 'no finished fold with test predictions' in refusal(main, folder)
  assert not (folder / 'errors_test').exists()

"""The calibration of a run, on predictions made up here."""

import json

import numpy as np
import pytest

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.evaluation import calibration, summary
from ecg_jax.runs import predictions
from tests import made_up_run
from tools import calibrate


def draw(records, planted, rng):
  """Records, labels, and probabilities whose logits are honest x `planted`."""
  logits = 1.5 * rng.normal(size=(len(records), 4))
  honest = calibration.softmax(logits, 1.0).cumsum(axis=1)[:, :3]
  labels = (honest < rng.random((len(records), 1))).sum(axis=1)
  return records, labels, calibration.softmax(planted * logits, 1.0)


@pytest.fixture
def make_run(tmp_path):
  def make(folds=2, planted=2.0, size=1500):
    rng = np.random.default_rng(0)
    names = [f'R{index:05d}' for index in range(folds * size)]
    folder = tmp_path / 'run'
    made_up_run.write_config(folder, range(folds))
    for fold in range(folds):
      test = names[fold * size : (fold + 1) * size]
      # The next fold's test records: they validate here.
      after = (fold + 1) % max(folds, 2)
      validation = names[after * size :][:size] or [f'V{n}' for n in test]
      sets = {'test': test, 'validation': validation}
      made_up_run.write_fold(
        folder,
        fold,
        {name: draw(records, planted, rng) for name, records in sets.items()},
      )
    return folder

  return make


def shuffled_labels(path):
  """Gives each record of a predictions.csv the label of another."""
  header, *lines = path.read_text().splitlines()
  rows = [line.split(',') for line in lines]
  for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
    row[2] = other[2]
  path.write_text('\n'.join([header, *map(','.join, rows)]) + '\n')


def test_command_corrects_planted_overconfidence(make_run, capsys):
  folder = make_run(planted=2.0)
  assert calibrate.main([str(folder)]) == 0
  found = json.loads((folder / calibration.FILE).read_text())
  assert found['folds'] == [0, 1]
  assert calibration.read(folder, (0, 1)) == pytest.approx(2.0, rel=0.1)
  before, after = found['test']['before'], found['test']['after']
  assert before['expected_calibration_error'] > 0.1
  assert after['expected_calibration_error'] < 0.04
  for name in ('brier_score', 'loss'):
    assert after[name] < before[name]
  shares = [one['coverage'] for one in found['withheld']]
  assert shares[0] == 1
  assert shares == sorted(shares, reverse=True)
  out = capsys.readouterr().out
  assert f'temperature {found["temperature"]:.3f}' in out
  for values in (before, after):
    assert f'{values["expected_calibration_error"]:.4f}' in out
  for name in ('calibration.png', 'coverage.png'):
    assert (folder / name).read_bytes().startswith(b'\x89PNG')
    assert str(folder / name) in out


def test_files_are_written_though_stdout_is_closed(make_run, monkeypatch):
  def fail(*_):
    raise BrokenPipeError

  folder = make_run()
  monkeypatch.setattr('builtins.print', fail)
  with pytest.raises(BrokenPipeError):
    calibrate.main.__wrapped__([str(folder)])
  for name in (calibration.FILE, 'calibration.png', 'coverage.png'):
    assert (folder / name).exists()


def test_temperature_comes_from_validation_labels_alone(make_run):
  folder = make_run(folds=1)
  [validation] = summary.read_set(folder, 'validation').values()
  fitted = calibrate.fit([validation])
  shuffled_labels(folder / 'fold0' / 'predictions.csv')
  classes = CHALLENGE.classes
  [test] = [predictions.read(folder / 'fold0' / 'predictions.csv', 0, classes)]
  assert calibrate.fit([validation]) == fitted
  # One fold's test set is calibrated with the temperature of the run.
  np.testing.assert_array_equal(
    calibrate.rescale_test([test], [validation]),
    calibration.rescale(test.probabilities, fitted),
  )
  shuffled_labels(folder / 'fold0' / 'validation_predictions.csv')
  path = folder / 'fold0' / 'validation_predictions.csv'
  assert calibrate.fit([predictions.read(path, 0, classes)]) > 1.5 * fitted


def test_no_label_of_a_test_record_calibrates_it(make_run):
  folder = make_run(folds=2)
  validation = list(summary.read_set(folder, 'validation').values())
  test = list(summary.read_set(folder, 'test').values())
  fitted = calibrate.rescale_test(test, validation)
  # Fold 0 validates on the test records of fold 1: these are left out there.
  assert set(validation[0].records) == set(test[1].records)
  other = validation[0]._replace(labels=(validation[0].labels + 1) % 4)
  found = calibrate.rescale_test(test, [other, validation[1]])
  size = len(test[0].records)
  np.testing.assert_array_equal(found[size:], fitted[size:])
  assert np.abs(found[:size] - fitted[:size]).max() > 0.05


def test_what_cannot_be_calibrated_gets_one_sentence(
  make_run, tmp_path, refusal
):
  main = calibrate.main
  assert 'config.json cannot be read' in refusal(main, tmp_path)
  folder = make_run(folds=1, size=40)
  path = folder / 'fold0' / 'validation_predictions.csv'
  path.write_text(path.read_text() + 'more\n')
  assert 'is not a prediction of fold 0' in refusal(main, folder)
  path.unlink()
  words = 'no finished fold with validation predictions'
  assert words in refusal(main, folder)
  assert not (folder / calibration.FILE).exists()
  assert not list(folder.glob('*.png'))

"""Exported programs predict as the folds they come from, without ecg_jax."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from ecg_jax import experiment, export
from ecg_jax.configs import cnn, crnn_fast
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import ensemble, exporter
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.runs import artifacts, finished_run
from tests import made_up_run

TEMPERATURE = 1.7


def random_folds(config):
  """Two folds of random weights and statistics."""
  network = experiment.make_network(config, CHALLENGE)

  def variables(seed):
    rng = np.random.default_rng(seed)

    def draw(x):
      if x.ndim == 1:
        return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)
      fan_in = np.prod(x.shape[:-1])
      return rng.normal(0, fan_in**-0.5, x.shape).astype(x.dtype)

    return jax.tree.map(draw, finished_run.variable_shapes(network))

  both = (variables(0), variables(1))
  run = pathlib.Path('run')
  return Ensemble(run, config, (0, 1), network, both, ({}, {}), CHALLENGE)


@pytest.fixture(scope='module', params=['cnn', 'crnn', 'residual_crnn'])
def folds(request, small_config):
  if request.param == 'crnn':
    return random_folds(small_config)
  if request.param == 'cnn':
    config = cnn.get_config()
    sizes = {'width': 4, 'growth': 4, 'blocks': 3, 'layers_per_block': 1}
  else:
    config = crnn_fast.get_config()
    sizes = {'widths': (4, 6), 'blocks_per_stage': 1, 'lstm_units': 4}
  config.model.update(sizes)
  return random_folds(config)


def padded(windows, samples):
  """Windows as rows, padded with samples that must not be read."""
  signal = np.full((len(windows), samples), 12_345, np.int16)
  for row, window in zip(signal, windows, strict=True):
    row[: len(window)] = window
  return signal, np.array([len(window) for window in windows], np.int32)


def test_programs_predict_as_the_folds_do(folds):
  """Whatever the batch and the length, odd ones too, one frame at least."""
  rng = np.random.default_rng(0)
  weights = exporter.stacked_weights(folds)
  loaded = {
    name: jax.export.deserialize(bytearray(program))
    for name, program in exporter.programs(folds, TEMPERATURE).items()
  }
  assert loaded.keys() == {'predict_int16', 'predict_millivolt'}
  for lengths, samples in (([64], 64), ([777, 64, 1300], 1301)):
    windows = [rng.normal(0, 400, size).astype(np.int16) for size in lengths]
    each = calibration.softmax(folds.logits(windows), TEMPERATURE)
    assert np.abs(each[0] - each[1]).max() > 1e-3
    signal, length = padded(windows, samples)
    found = loaded['predict_int16'].call(weights, signal, length)
    assert (found.shape, found.dtype) == ((len(windows), 4), np.float32)
    np.testing.assert_allclose(found, each.mean(axis=0), rtol=0, atol=1e-6)
  millivolt = (signal / 1000).astype(np.float32)
  again = loaded['predict_millivolt'].call(weights, millivolt, length)
  np.testing.assert_array_equal(again, found)
  for program in loaded.values():
    assert program.platforms == ('cpu', 'cuda')


@pytest.fixture(scope='module')
def model_folder(small_run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported') / 'below' / 'model'
  assert export.main([str(small_run), '--out', str(folder)]) == 0
  return folder


def test_the_card_explains_how_to_use_them_without_ecg_jax(
  model_folder, small_run, tmp_path
):
  """Runs the code of the card, as it stands, where ecg_jax is not."""
  card = (model_folder / 'MODEL_CARD.md').read_text()
  [code] = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
  rng = np.random.default_rng(1)
  signal = rng.normal(0, 300, (2, 900)).astype(np.int16)
  length = np.array([900, 500], np.int32)
  np.savez(tmp_path / 'in.npz', signal=signal, length=length)
  script = '\n'.join(
    [
      'import numpy as np, sys',
      f'given = np.load({str(tmp_path / "in.npz")!r})',
      "signal, length = given['signal'], given['length']",
      code.replace("'MODEL_FOLDER'", repr(str(model_folder))),
      f'np.save({str(tmp_path / "out.npy")!r}, probabilities)',
      "print({'ecg_jax', 'flax'} & set(sys.modules))",
    ]
  )
  command = [sys.executable, '-c', script]
  assert subprocess.check_output(command, cwd=tmp_path) == b'set()\n'
  windows = [signal[0], signal[1, :500]]
  each = calibration.softmax(ensemble.load(small_run).logits(windows), 1.0)
  np.testing.assert_allclose(
    np.load(tmp_path / 'out.npy'), each.mean(axis=0), rtol=0, atol=1e-6
  )


def test_the_card_describes_the_run(model_folder, small_run, small_data):
  card = (model_folder / 'MODEL_CARD.md').read_text()
  scores = artifacts.read_scores(small_run / 'fold1' / 'scores.json')
  test = scores['sets']['test']
  for text in (
    'not a medical device',
    'was not calibrated',
    f'Trained on {small_data.dataset.spec.description}.',
    'N, A, O, ~, in this order',
    'at 300 samples a second',
    '1/1000 mV',
    'the mean F1 of N, A and O.',
    'fold(s) 1 of the run `small`',
    f'| 1                       | {test["records"]:>7} |',
    f' {test["score"]:.1f} |',
  ):
    assert text in card
  assert '$' not in card


def test_a_tilde_stands_for_the_home_folder(small_run, tmp_path, monkeypatch):
  """In the run, whose calibration counts, and in the place to write to."""
  temperatures = []
  monkeypatch.setattr(
    exporter, 'programs', lambda _, x: temperatures.append(x) or {}
  )
  home = tmp_path / 'home'
  home.mkdir()
  (home / 'run').symlink_to(small_run)
  monkeypatch.setenv('HOME', str(home))
  with made_up_run.calibrated(small_run, 1.25, error=0.034):
    assert export.main(['--run=~/run', '--out=~/model']) == 0
    exporter.export(pathlib.Path('~/run'), tmp_path / 'model')
  assert temperatures == [1.25, 1.25]
  for folder in (home, tmp_path):
    card = (folder / 'model/MODEL_CARD.md').read_text()
    assert 'the temperature 1.25, fitted to' in card
    assert '| expected calibration error | 0.0340 | 0.0340 |' in card


def test_an_existing_folder_is_left_alone(model_folder, small_run, refusal):
  before = sorted(model_folder.iterdir())
  sentence = refusal(export.main, small_run, '--out', model_folder)
  assert f'{model_folder} exists already' in sentence
  assert sorted(model_folder.iterdir()) == before
  assert sorted(model_folder.parent.iterdir()) == [model_folder]


def test_a_full_disk_leaves_nothing(small_run, tmp_path, monkeypatch):
  monkeypatch.setattr(exporter, 'programs', lambda *_: {'predict_int16': b'1'})

  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(exporter.os, 'rename', fail)
  with pytest.raises(InputError, match=r'model cannot be written.*No space'):
    exporter.export(small_run, tmp_path / 'model')
  assert not list(tmp_path.iterdir())

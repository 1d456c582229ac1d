"""Kept weights answer as in training, whatever windows they are given with."""

import dataclasses
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.datasets import folds
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.errors import InputError
from ecg_jax.prediction import ensemble
from ecg_jax.runs import artifacts, finished_run, predictions
from ecg_jax.runtime import sharding


@pytest.fixture(scope='module')
def model(small_run):
  return ensemble.load(small_run)


@pytest.fixture
def copied_run(small_run, tmp_path):
  """A copy of the run that may be damaged."""
  folder = shutil.copytree(small_run, tmp_path / 'run')
  table = shutil.copy(small_run.with_name('folds.json'), tmp_path)
  path = folder / 'config.json'
  run = json.loads(path.read_text())
  run['config']['data']['folds_file'] = str(table)
  path.write_text(json.dumps(run))
  return folder


def window_of(dataset, record):
  [index] = dataset.find([record])
  start = dataset.offsets[index]
  return dataset.signal[start : start + dataset.lengths[index]]


def test_answers_are_those_of_the_end_of_training(model, small_run, small_data):
  path = small_run / 'fold1' / 'predictions.csv'
  saved = predictions.read(path, 1, small_data.dataset.spec.classes)
  windows = [window_of(small_data.dataset, name) for name in saved.records]
  logits = model.logits(windows)
  expected = saved.probabilities
  assert model.folds == (1,)
  assert logits.shape == (1, *expected.shape)
  assert logits.dtype == np.float32
  np.testing.assert_allclose(
    jax.nn.softmax(logits[0]), expected, rtol=0, atol=1e-6
  )
  assert np.ptp(expected, axis=0).max() > 1e-3


def test_a_window_is_answered_alike_in_any_company(model):
  rng = np.random.default_rng(0)
  windows = [
    rng.normal(0, 300, size).astype(np.int16)
    for size in (64, 9000, 65, 9001, 18_286, 18_287, *range(3000, 3019))
  ]
  # More of one length than a batch holds.
  assert len(windows) > 6 + 2 * model.config.evaluation_batch_size
  together = model.logits(windows)
  order = rng.permutation(len(windows))
  shuffled = model.logits([windows[index] for index in order])
  np.testing.assert_allclose(shuffled, together[:, order], rtol=0, atol=2e-6)
  alone = np.hstack([model.logits([window]) for window in windows])
  np.testing.assert_allclose(alone, together, rtol=0, atol=2e-6)
  assert np.ptp(together, axis=1).min() > 1e-4
  for index, (window, found) in enumerate(
    zip(windows, model.beats(windows), strict=True)
  ):
    assert len(found.positions) == found.number
    assert np.all(found.positions < len(window))
    if index < 2:
      [alone] = model.beats([window])
      jax.tree.map(np.testing.assert_array_equal, alone, found)


@pytest.mark.parametrize(
  ('rate', 'longest', 'lengths', 'expected'),
  [
    (300, 18_286, [1, 9000, 9001, 18_286, 18_287, 40_000],
     [9000, 9000, 18_286, 18_286, 36_572, 54_858]),
    (500, 5000, [64, 5000, 5001, 15_000], [5000, 5000, 10_000, 15_000]),
    (100, 6000, [64, 3000, 3001, 6001], [3000, 3000, 6000, 12_000]),
  ],
)  # fmt: skip
def test_windows_are_padded_to_few_lengths(
  model, rate, longest, lengths, expected
):
  spec = dataclasses.replace(
    CHALLENGE, sampling_rate=rate, longest_samples=longest
  )
  other = dataclasses.replace(model, spec=spec)
  assert [other.bucket(length) for length in lengths] == expected


def test_no_windows_have_no_answers(model):
  assert model.logits([]).shape == (1, 0, 4)
  assert model.beats([]) == []


def test_a_window_shorter_than_a_spectrum_is_refused(model):
  windows = [np.zeros(64, np.int16), np.zeros(63, np.int16)]
  with pytest.raises(InputError, match='63 samples at 300 Hz, less than'):
    model.logits(windows)


def test_a_lost_digest_is_reported(copied_run, small_data):
  path = copied_run / 'config.json'
  run = json.loads(path.read_text())
  record = small_data.table['folds']['1']['train'][0]
  del run['digests']['records'][record]
  path.write_text(json.dumps(run))
  with pytest.raises(InputError, match=rf'damaged \(no digest of {record}\)'):
    ensemble.load(copied_run)


def test_records_trained_on_are_known_by_their_samples(model, small_data):
  dataset = small_data.dataset
  sets = small_data.table['folds']['1']
  expected = {}
  for record in {*sets['train'], *sets['validation']}:
    samples = window_of(dataset, record).astype('<i2').tobytes()
    expected[hashlib.sha256(samples).hexdigest()] = record
  assert model.trained_on == (expected,)


def test_published_folds_are_drawn_from_the_labels_kept(
  small_config, small_data, tmp_path
):
  dataset = small_data.dataset
  data = experiment.FoldedDataset(
    dataset, folds.make_folds(dataset.labels('v2'))
  )
  artifacts.begin_run(tmp_path, small_config, data.digests(), dataset.spec)
  path = tmp_path / 'labels.csv'
  labels = {v: dataset.labels(v) for v in CHALLENGE.label_versions}
  artifacts.write_labels(path, labels)
  table = finished_run.read_table(tmp_path, small_config)
  assert table['folds'] == data.table['folds']
  labels['v2'] = {**labels['v2'], dataset.records[0]: '?'}
  artifacts.write_labels(path, labels)
  with pytest.raises(InputError, match=r'labels\.csv has been changed'):
    finished_run.read_table(tmp_path, small_config)
  path.unlink()
  with pytest.raises(InputError, match=r'labels\.csv cannot be read'):
    finished_run.read_table(tmp_path, small_config)


def test_another_table_of_folds_is_refused(
  copied_run, small_config, small_data, tmp_path
):
  config = small_config.copy_and_resolve_references()
  config.data.folds_file = str(tmp_path / 'other.json')
  sets = small_data.table['folds']
  table = {**small_data.table, 'folds': {'0': sets['1'], '1': sets['0']}}
  folds.write_table(table, config.data.folds_file)
  with pytest.raises(InputError, match=r'other\.json makes other folds'):
    finished_run.read_table(copied_run, config)


def _change_a_byte(folder):
  steps = (folder / 'fold1' / 'checkpoints').iterdir()
  latest = max(steps, key=lambda step: int(step.name))
  path = max(latest.rglob('d/*'), key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _remove(name):
  def remove(folder):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()

  return remove


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (_remove('fold1/checkpoints'), 'has no checkpoints, which hold the weig'),
    (_change_a_byte, 'no checkpoint that can be used'),
    (_remove('fold1/scores.json'), 'has no finished fold'),
    (_remove('config.json'), 'is no run folder'),
    (lambda x: (x / 'config.json').write_text('{'), r'config\.json is damaged'),
    (_remove('../folds.json'), r'folds\.json cannot be read'),
  ],
)
def test_a_run_that_cannot_be_loaded_is_refused(copied_run, damage, message):
  damage(copied_run)
  with pytest.raises(InputError, match=message):
    ensemble.load(copied_run)


def test_weights_of_another_model_are_refused(model, copied_run):
  config = model.config.copy_and_resolve_references()
  config.model.lstm_units = 5
  mesh = sharding.make_mesh(jax.devices()[:1])
  with pytest.raises(InputError, match=r'another run \(model\.lstm_units: 5'):
    finished_run.restore(copied_run, config, 1, model.network, mesh)

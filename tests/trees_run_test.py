"""A fold with trees: fitted at its end, kept, and averaged with the network."""

import dataclasses
import shutil

import jax
import jax.export
import numpy as np
import pytest
import release_weights

from ecg_jax import experiment
from ecg_jax.beats import features
from ecg_jax.errors import InputError
from ecg_jax.fields.training import TreesFields
from ecg_jax.models import forward
from ecg_jax.models import trees as trees_lib
from ecg_jax.prediction import ensemble, exporter, pictures, predictor
from ecg_jax.runs import artifacts, predictions, trees_file
from ecg_jax.training import boosting, fold_run, train_loop
from ecg_jax.training import job as job_lib
from ecg_jax.training.phases import Phase
from tests import few_features, training_helpers
from tests.helpers import run_python

FIELDS = TreesFields(rounds=3, leaves=4, least_leaf_records=2)


@pytest.fixture(scope='module', autouse=True)
def with_few_features():
  with few_features.instead():
    yield


@pytest.fixture(scope='module')
def model(trees_run):
  return ensemble.load(trees_run)


@pytest.fixture
def copied(trees_run, tmp_path):
  """The folder of the fold in a copy of the run that may be damaged."""
  return shutil.copytree(trees_run, tmp_path / 'run') / 'fold1'


@pytest.fixture
def make_job(small_job, tmp_path):
  """Makes a job of one epoch with trees; fields of it can be replaced."""
  phases = (Phase('lstm', 1, 5e-3),)

  def make(name, **fields):
    fields = {'trees': FIELDS, 'training_buckets': 1} | fields
    return small_job(tmp_path / name, phases=phases, **fields)

  return make


def windows_of(dataset, places):
  ends = dataset.offsets + dataset.lengths
  return [dataset.signal[dataset.offsets[k] : ends[k]] for k in places]


def batch_of(dataset, places):
  windows = windows_of(dataset, places)
  return ensemble.make_batch(windows, len(windows), dataset.lengths.max())


def test_probabilities_are_the_mean_of_network_and_trees(
  model, trees_run, small_data
):
  path = trees_run / 'fold1' / 'predictions.csv'
  saved = predictions.read(path, 1, small_data.dataset.spec.classes)
  places = small_data.dataset.find(saved.records)
  batch = batch_of(small_data.dataset, places)
  [variables] = model.variables
  network = {x: variables[x] for x in ('params', 'batch_stats')}
  logits = [
    ensemble.evaluate_batch(model.network, network, batch, None),
    jax.jit(trees_lib.logits)(
      variables['trees'], forward.beat_features_of(model.network, batch)
    ),
  ]
  each = jax.nn.softmax(np.array(logits))
  assert np.abs(each[0] - each[1]).max() > 0.1
  assert np.ptp(each[1], axis=0).max() > 0.1
  np.testing.assert_allclose(
    saved.probabilities, each.mean(axis=0), rtol=0, atol=1e-6
  )
  np.testing.assert_allclose(
    jax.nn.softmax(model.logits(windows_of(small_data.dataset, places))[0]),
    saved.probabilities,
    rtol=0,
    atol=1e-6,
  )


def test_they_are_fitted_to_the_train_set(make_job, train_job):
  job = make_job('fold')
  train_job(job)
  dataset, records = job.fold.dataset, np.sort(job.fold.sets['train'])
  batch = batch_of(dataset, records)
  expected = boosting.fit(
    np.asarray(forward.beat_features_of(job.network, batch)),
    dataset.classes['v3'][records],
    FIELDS,
    num_classes=4,
    key=(job.seed, 0),
  )
  scores = artifacts.read_scores(job.folder / 'scores.json')
  found = trees_file.read(job.folder / 'trees.npz', scores['trees'])
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert (expected.splits.node >= 0).any()


def test_network_and_training_are_as_without_trees(
  make_job, train_job, read_result
):
  jobs = [make_job('with'), make_job('without')]
  jobs[1] = dataclasses.replace(jobs[1], trees=TreesFields())
  for job in jobs:
    train_job(job)
  found, expected = map(read_result, jobs)
  for same in ('arrays', 'metrics', 'progress'):
    assert found[same] == expected[same]
  assert found['predictions.csv'] != expected['predictions.csv']


@pytest.mark.parametrize('devices', [1, 3])
def test_features_are_the_same_from_disk_and_on_several_devices(
  make_job, small_data, stored_dataset, devices
):
  mesh = training_helpers.make_group(count=devices).mesh
  expected = forward.beat_features_of(
    make_job('any').network, batch_of(small_data.dataset, range(60))
  )
  for dataset in (small_data.dataset, stored_dataset):
    job = make_job('any', dataset=dataset)
    chunks = job.sampler.evaluation_chunks('train')
    data = training_helpers.put_data(job, mesh)
    found, records = boosting.features_of(
      data, chunks, network=job.network, mesh=mesh
    )
    np.testing.assert_array_equal(records, np.sort(job.fold.sets['train']))
    np.testing.assert_allclose(found, expected[records], rtol=1e-5, atol=1e-6)


def test_a_run_that_ends_behind_the_fit_goes_on_to_the_same(
  make_job, train_job, read_result, monkeypatch
):
  whole, stopped = make_job('whole'), make_job('stopped')
  train_job(whole)

  def write(path, trees):
    path.write_bytes(b'of another fit')
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(trees_file, 'write', write)
    with pytest.raises(KeyboardInterrupt):
      train_job(stopped)
  train_job(stopped)
  assert read_result(stopped) == read_result(whole)


def test_each_program_is_compiled_once_and_ahead_of_its_call(
  make_job, train_job
):
  job = make_job('fold', chunk_steps=5)  # As no other test has.
  with training_helpers.compilations() as compiled:
    train_job(job)
  own = [program for program in compiled if '_chunk' in program[0]]
  assert sorted(own) == [
    ('compute_chunk', True),
    *[('evaluate_chunk', True)] * 2,  # Of the network alone, and with trees.
    *[('train_chunk', True)] * len(job.sampler.buckets),
  ]


def test_a_stop_before_the_fit_fits_nothing(make_job, monkeypatch):
  job, group = make_job('stopped'), training_helpers.make_group()
  data = training_helpers.put_data(job, group.mesh)
  ended = []
  training_helpers.spy(
    monkeypatch, fold_run.FoldRun, 'end_phase', after=lambda *_: ended.append(1)
  )
  train_loop.train_fold(job, group, data, position=0, stop=lambda: bool(ended))
  assert ended
  assert not (job.folder / 'trees.npz').exists()
  assert not job.finished


def _change_a_byte(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (_change_a_byte, r'trees\.npz has been changed since it was written: rest'),
    (lambda path: path.unlink(), r'trees\.npz, which holds the trees, cannot'),
  ],
)
def test_damaged_trees_are_refused(copied, damage, message):
  damage(copied / 'trees.npz')
  with pytest.raises(InputError, match=message):
    ensemble.load(copied.parent)


def test_trees_on_other_features_are_refused(trees_run, monkeypatch):
  monkeypatch.setattr(features, 'names', lambda: ('seconds', 'other'))
  with pytest.raises(InputError, match='other beat features than this version'):
    ensemble.load(trees_run)


def test_released_weights_have_the_trees(
  model, trees_run, small_data, tmp_path, monkeypatch
):
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [small_data])
  out = tmp_path / 'trees.zip'
  arguments = [str(trees_run), f'--out={out}', '--kernels=float32']
  assert release_weights.main(arguments) == 0
  found = ensemble.load(out)
  jax.tree.map(np.testing.assert_array_equal, found.variables, model.variables)


def test_training_starts_from_the_network_alone(
  trees_run, model, small_config, small_data, tmp_path
):
  config = small_config.copy_and_resolve_references()
  config.init_from = str(trees_run)
  found = job_lib.make_job(config, small_data, 1, tmp_path).initial_variables()
  expected = {x: model.variables[0][x] for x in ('params', 'batch_stats')}
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_exported_programs_average_with_trees(model):
  rng = np.random.default_rng(0)
  lengths = np.array([900, 500], np.int32)
  windows = [rng.normal(0, 300, k).astype(np.int16) for k in lengths]
  signal = np.zeros((2, 900), np.int16)
  for row, window in zip(signal, windows, strict=True):
    row[: len(window)] = window
  program = exporter.programs(model, 1.5)['predict_int16']
  found = jax.export.deserialize(bytearray(program)).call(
    exporter.stacked_weights(model), signal, lengths
  )
  expected = jax.nn.softmax(model.logits(windows)[0] / 1.5)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_card_tells_of_trees(model):
  card = exporter.model_card(model, 1.0)
  assert '4 rounds of gradient-boosted trees' in ' '.join(card.split())


def test_a_picture_says_that_its_bars_are_of_the_network(model):
  signal = np.random.default_rng(0).normal(0, 0.2, 900)
  result = predictor.Model(model).predict(signal, sampling_rate=300, units='mV')
  figure = pictures.draw(model, result)
  assert any('not of the trees' in x.get_text() for x in figure.texts)


def test_only_a_fit_imports_scikit_learn():
  run_python(
    'import sys\n'
    'from ecg_jax import evaluate, export, main, predict\n'
    'from ecg_jax.evaluation import rescore\n'
    'from ecg_jax.prediction import exporter, predictor\n'
    'from ecg_jax.training import train_runs\n'
    "sys.exit('sklearn' in sys.modules)"
  )

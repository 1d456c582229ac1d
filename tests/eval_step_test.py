"""Evaluation: each record once, whatever the batches; kept weights again."""

import csv
import dataclasses
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from ecg_jax import evaluate, experiment
from ecg_jax.configs import cnn
from ecg_jax.datasets import folds
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.errors import InputError
from ecg_jax.evaluation import eval_step, score
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.runs import artifacts, checkpoint
from ecg_jax.runs import predictions as predictions_lib
from ecg_jax.runtime import sharding
from ecg_jax.training.job import make_job
from tests.training_helpers import put_data, with_model


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(jax.devices()[:1])


@pytest.fixture(scope='module')
def evaluated(small_job, mesh, tmp_path_factory):
  """Evaluates a set of records in batches of one's choice."""
  job = small_job(tmp_path_factory.mktemp('evaluated'))
  data = put_data(job, mesh)
  variables = sharding.replicate(job.initial_variables(), mesh)

  def evaluate_set(
    records, *, batch_size=8, num_buckets=1, kind='all', metrics=None
  ):
    draws = dataclasses.replace(
      job.sampler,
      sets={'some': records},
      evaluation_buckets=num_buckets,
      evaluation_batch_size=batch_size,
      chunk_steps=2,
    )
    return eval_step.evaluate(
      variables,
      data,
      draws.evaluation_chunks('some'),
      fold=dataclasses.replace(job.fold, metrics=metrics or {}),
      network=job.network,
      kind=kind,
      mesh=mesh,
    )

  return job, evaluate_set


def test_the_part_of_the_model_that_is_named_is_evaluated(evaluated):
  job, evaluate_set = evaluated
  records = job.fold.sets['test']
  whole, auxiliary = (
    evaluate_set(records, kind=kind).probabilities
    for kind in ('all', 'auxiliary')
  )
  assert np.abs(whole - auxiliary).max() > 1e-3


@pytest.mark.parametrize(('batch_size', 'num_buckets'), [(1, 1), (7, 3)])
def test_result_does_not_depend_on_batches_and_buckets(
  evaluated, batch_size, num_buckets
):
  job, evaluate_set = evaluated
  records = job.fold.sets['test'][::-1]
  expected = evaluate_set(records, batch_size=8, num_buckets=1)
  found = evaluate_set(records, batch_size=batch_size, num_buckets=num_buckets)
  for result in (expected, found):
    np.testing.assert_array_equal(result.records, np.sort(records))
  np.testing.assert_allclose(
    found.probabilities, expected.probabilities, rtol=1e-5, atol=1e-6
  )
  assert np.ptp(expected.probabilities, axis=0).max() > 1e-3
  assert found.scores['confusion'] == expected.scores['confusion']
  assert found.scores['loss'] == pytest.approx(expected.scores['loss'], 1e-5)


def test_scores_are_those_of_the_probabilities(evaluated):
  job, evaluate_set = evaluated
  records = job.fold.sets['test']
  result = evaluate_set(records, batch_size=8, num_buckets=1)
  labels = job.fold.dataset.classes[job.fold.label_version][result.records]
  confusion = np.zeros((4, 4), int)
  np.add.at(confusion, (labels, result.probabilities.argmax(axis=1)), 1)
  np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-6)
  picked = result.probabilities[np.arange(len(labels)), labels]
  loss = np.mean(-np.log(picked) * job.fold.weights[result.records])
  assert result.scores['records'] == len(records)
  assert result.scores['loss'] == pytest.approx(loss, rel=1e-5)
  for name, value in score.scores(confusion, job.fold.dataset.spec).items():
    assert result.scores[name] == value


def test_metrics_of_the_fold_are_computed(evaluated):
  job, evaluate_set = evaluated
  records = job.fold.sets['test'][::-1]
  metrics = {'kappa': score.kappa, 'first': lambda labels: labels[0]}
  scores = evaluate_set(records, batch_size=7, metrics=metrics).scores
  labels = job.fold.dataset.classes[job.fold.label_version]
  assert scores['metrics'] == {
    'kappa': score.kappa(np.array(scores['confusion'])),
    'first': labels[min(records)],  # In the order of records.
  }
  assert 'metrics' not in evaluate_set(records).scores


# The kept weights of a run.


@pytest.fixture
def evaluate_run(small_run, small_data, monkeypatch):
  """Evaluates the run on the data it was trained on, or on others."""

  def call(set_name='test', label_version=None, data=small_data):
    monkeypatch.setattr(experiment, 'load_data', lambda configs: [data])
    return evaluate.evaluate_run(
      small_run, set_name=set_name, label_version=label_version
    )

  return call


def _contents(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return {path: path.read_bytes() for path in files}


def _predictions(folder):
  path = folder / 'fold1' / 'predictions.csv'
  return list(csv.DictReader(path.read_text().splitlines()))


def _read_scores(folder):
  return json.loads((folder / 'fold1' / 'scores.json').read_text())


@pytest.mark.parametrize('set_name', ['test', 'validation'])
def test_kept_weights_score_as_at_the_end_of_training(
  small_run, evaluate_run, set_name
):
  before = _contents(small_run / 'fold1')
  out = evaluate_run(set_name)
  assert out == small_run / f'evaluation_{set_name}_v3'
  trained, found = _read_scores(small_run), _read_scores(out)
  assert found['sets'] == {set_name: trained['sets'][set_name]}
  for name in ('fold', 'seed', 'label_version', 'max_records', 'best'):
    assert found[name] == trained[name]
  name = f'fold1/{predictions_lib.FILES[set_name]}'
  assert (out / name).read_bytes() == (small_run / name).read_bytes()
  assert _contents(small_run / 'fold1') == before
  assert not (out / 'fold0').exists()


def test_another_label_version_changes_the_labels_alone(
  small_run, evaluate_run, small_data
):
  before = _contents(small_run / 'fold1')
  out = evaluate_run(label_version='v2')
  assert _contents(small_run / 'fold1') == before
  kept, found = (_predictions(folder) for folder in (small_run, out))
  labels = small_data.dataset.labels('v2')
  assert kept != found
  assert found == [row | {'label': labels[row['record']]} for row in kept]
  assert _read_scores(out)['label_version'] == 'v2'
  first, second = (_read_scores(x)['sets']['test'] for x in (small_run, out))
  assert first['accuracy'] != second['accuracy']


def test_other_data_than_the_runs_are_refused(evaluate_run, small_data):
  signal = small_data.dataset.signal + np.int16(1)
  other = dataclasses.replace(small_data.dataset, signal=signal)
  with pytest.raises(InputError, match='dataset had other content'):
    evaluate_run(data=dataclasses.replace(small_data, dataset=other))


def test_labels_that_the_run_does_not_have_are_refused(evaluate_run):
  with pytest.raises(InputError, match=r"is 'v4': use .* v1, v2, v3\.$"):
    evaluate_run(label_version='v4')


def test_run_without_a_finished_fold_is_refused(
  small_config, small_data, tmp_path
):
  spec = small_data.dataset.spec
  artifacts.begin_run(tmp_path, small_config, small_data.digests(), spec)
  with pytest.raises(InputError, match='has no finished fold'):
    evaluate.evaluate_run(tmp_path, set_name='test')


# Compute in bfloat16.


@pytest.fixture
def real_job(real_data, tmp_path):
  """A job on real records, 10 s of each: 300 to train on, 1,000 to test."""
  text = (real_data / 'REFERENCE-v3.csv').read_text()
  labels = folds.parse_labels(text, source='REFERENCE-v3.csv')
  records = sorted(labels)[:: len(labels) // 1400]
  signals = []
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    for record in records:
      with io.BytesIO(archive.read(f'training2017/{record}.mat')) as file:
        signals.append(scipy.io.loadmat(file)['val'][0, :3000])
  lengths = np.array([len(signal) for signal in signals])
  classes = [CHALLENGE.classes.index(labels[record]) for record in records]
  dataset = Dataset(
    records=tuple(records),
    signal=np.concatenate(signals),
    offsets=np.cumsum(lengths) - lengths,
    lengths=lengths,
    classes={'v3': np.array(classes, np.int32)},
    spec=CHALLENGE,
  )
  sets = {
    'train': records[:300],
    'validation': records[300:400],
    'test': records[400:],
  }
  config = cnn.get_config()
  config.augmentation.resampling = config.augmentation.bursts = False
  config.spectrogram.hop_samples = 64
  config.model.width = config.model.growth = 8
  config.model.blocks, config.model.layers_per_block = 3, 1
  config.model.batch_norm_momentum = 0.9
  config.dropout.convolution = 0.0
  # The falling rate ends well above a constant answer on any CPU.
  config.phases.epochs, config.phases.learning_rates = (12,), (4e-3,)
  config.phases.schedule = 'cosine'
  config.batch_size, config.evaluation_batch_size = 10, 50
  config.validate_every_epochs = 2
  config.buckets.training = config.buckets.evaluation = 1
  config.tensorboard = False
  table = {'folds': {'0': sets}}
  return make_job(config, experiment.FoldedDataset(dataset, table), 0, tmp_path)


def test_bfloat16_predicts_what_float32_does_on_real_records(
  real_job, train_job, mesh
):
  train_job(real_job)
  text = (real_job.folder / 'predictions.csv').read_text()
  full = [row['predicted'] for row in csv.DictReader(text.splitlines())]
  like = sharding.replicate(real_job.initial_variables(), mesh)
  with checkpoint.Checkpoints(
    real_job.folder / 'checkpoints', real_job.settings
  ) as checkpoints:
    best = checkpoints.restore('best', like)
  half_job = with_model(real_job, dtype=jnp.dtype('bfloat16'))
  found = eval_step.evaluate(
    best,
    put_data(half_job, mesh),
    half_job.sampler.evaluation_chunks('test'),
    fold=half_job.fold,
    network=half_job.network,
    kind='all',
    mesh=mesh,
  )
  half = [CHALLENGE.classes[k] for k in found.probabilities.argmax(axis=1)]
  # It has learned something: a constant answer scores about 25.
  assert found.scores['score'] > 30
  assert len(half) == len(full) > 1000
  assert np.mean(np.array(half) == full) >= 0.99

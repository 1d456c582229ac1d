"""Training from kept weights: which, and when it is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.datasets import folds, schema
from ecg_jax.errors import InputError
from ecg_jax.prediction import ensemble
from ecg_jax.runs import artifacts, checkpoint
from ecg_jax.runtime import sharding
from ecg_jax.training import job as job_lib
from ecg_jax.training.phases import Phase


@pytest.fixture
def make_job(small_run, small_config, small_data, tmp_path):
  """Makes a job of fold 1 that starts from the small run."""

  def make(data=small_data, fold=1, init_from=small_run, **model):
    config = small_config.copy_and_resolve_references()
    config.init_from = str(init_from)
    config.model.update(model)
    return job_lib.make_job(config, data, fold, tmp_path / 'tuned')

  return make


@pytest.fixture(scope='module')
def kept(small_run):
  [variables] = ensemble.load(small_run).variables
  return jax.device_get(variables)


def assert_same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_fold_starts_from_the_kept_weights_of_its_number(
  make_job, small_job, kept, tmp_path
):
  assert_same(make_job().initial_variables(), kept)
  with pytest.raises(AssertionError):  # Otherwise they are random.
    assert_same(small_job(tmp_path).initial_variables(), kept)


def test_training_goes_on_from_them_and_a_stop_changes_nothing(
  make_job, train_job, read_result, tmp_path
):
  phases = (Phase('lstm', 2, 1e-30),)
  job = dataclasses.replace(make_job(), phases=phases)
  train_job(job)
  stopped = dataclasses.replace(job, folder=tmp_path / 'stopped')
  assert not train_job(stopped, stop_after=2)
  train_job(stopped)
  assert read_result(stopped) == read_result(job)
  # So small a rate changes no weight, so they are those it started from.
  folder = job.folder / 'checkpoints'
  mesh = sharding.make_mesh(jax.devices()[:1])
  like = sharding.replicate(job.initial_variables(), mesh)
  with checkpoint.Checkpoints(folder, job.settings) as checkpoints:
    best = checkpoints.restore('best', like)
  assert_same(jax.device_get(best)['params'], job.initial['params'])


def test_other_classes_have_a_last_layer_of_their_own(
  make_job, small_data, kept, caplog
):
  dataset = small_data.dataset
  classes = {name: np.minimum(x, 1) for name, x in dataset.classes.items()}
  spec = schema.DatasetSpec(
    classes=('normal', 'other'),
    label_versions=dataset.spec.label_versions,
    sampling_rate=300,
  )
  fewer = dataclasses.replace(dataset, classes=classes, spec=spec)
  data = experiment.FoldedDataset(fewer, small_data.table)
  job = make_job(data)
  assert (
    '4 classes, and there are 2 here: the last layer of fold 1' in caplog.text
  )
  found = job.initial_variables()
  fresh = dataclasses.replace(job, initial=None).initial_variables()
  assert_same(found['batch_stats'], kept['batch_stats'])
  params = dict(found['params'])
  output = params.pop('output')
  assert output['bias'].shape == (2,)
  assert_same(output, fresh['params']['output'])
  assert_same(params, {name: kept['params'][name] for name in params})


ANOTHER = r"model \(.*'mean'\]: 'float32\[9\]' here, 'float32\[8\]' there"


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'fold': 0}, 'whose fold 0 is not finished'),
    ({'init_from': '/proc'}, 'is no run folder'),
    # Another model, with its first array.
    ({'growth': 5}, ANOTHER),
    ({'lstm_units': 5}, r"\['auxiliary'\]\['bias'\]: 'float"),
  ],
)
def test_a_run_that_cannot_be_started_from_is_refused(
  make_job, fields, message
):
  with pytest.raises(InputError, match=message):
    make_job(**fields)


def renamed(data, names):
  """The same samples under other names, whose table is `names` applied."""
  dataset = dataclasses.replace(
    data.dataset, records=tuple(names[r] for r in data.dataset.records)
  )
  table = {
    'holdout': [],
    'folds': {
      fold: {name: sorted(names[r] for r in s) for name, s in sets.items()}
      for fold, sets in data.table['folds'].items()
    },
  }
  return experiment.FoldedDataset(dataset, table)


def test_records_are_compared_by_their_samples(make_job, small_data, kept):
  """Not by their names: other ones change nothing."""
  names = {record: f'Z{record[1:]}' for record in small_data.dataset.records}
  other = renamed(small_data, names)
  assert_same(make_job(other).initial_variables(), kept)


@pytest.mark.parametrize('name', ['train', 'validation'])
def test_a_test_record_that_was_learnt_from_is_refused(
  make_job, small_data, name
):
  """Any one record of either set, exchanged with one of the test set."""
  sets = small_data.table['folds']['1']
  seen, unseen = sets[name][-1], sets['test'][0]
  changed = {
    **sets,
    name: sorted({*sets[name], unseen} - {seen}),
    'test': sorted({*sets['test'], seen} - {unseen}),
  }
  table = {**small_data.table, 'folds': {'1': changed}}
  with pytest.raises(InputError, match=rf'here \(1, like {seen}, '):
    make_job(experiment.FoldedDataset(small_data.dataset, table))


def test_a_record_that_the_new_fold_learns_from_too_is_not(
  make_job, small_data
):
  """The challenge has records twice, in a train and a test set."""
  dataset, sets = small_data.dataset, small_data.table['folds']['1']
  twin, record = sets['test'][0], sets['train'][0]
  [index, kept] = dataset.find([twin, record])
  offsets, lengths = dataset.offsets.copy(), dataset.lengths.copy()
  offsets[index], lengths[index] = offsets[kept], lengths[kept]
  twins = dataclasses.replace(dataset, offsets=offsets, lengths=lengths)
  make_job(experiment.FoldedDataset(twins, small_data.table))
  table = {
    **small_data.table,
    'folds': {'1': {**sets, 'train': sets['train'][1:]}},
  }
  with pytest.raises(InputError, match=rf'like {twin}, which is {record} '):
    make_job(experiment.FoldedDataset(twins, table))


@pytest.fixture
def tuned_run(small_run, small_config, small_data, train_job, tmp_path):
  """A run of half of the records that started from the small run."""
  dataset = small_data.dataset
  sets = small_data.table['folds']['1']
  halves = {
    'train': sorted(sets['validation']),
    'validation': sets['test'][::2],
    'test': sets['test'][1::2],
  }
  changes = {
    'holdout': sorted(sets['train']),
    'folds': {'0': halves, '1': halves},
  }
  table = {**small_data.table, **changes}
  config = small_config.copy_and_resolve_references()
  config.folds = (1,)
  config.init_from = str(small_run)
  config.data.folds_file = str(tmp_path / 'halves.json')
  folds.write_table(table, config.data.folds_file)
  data = experiment.FoldedDataset(dataset, table)
  folder = tmp_path / 'tuned'
  artifacts.begin_run(folder, config, data.digests(), dataset.measured_spec())
  artifacts.write_labels(folder / 'labels.csv', dataset.all_labels())
  phases = (Phase('lstm', 1, 1e-3),)
  job = job_lib.make_job(config, data, 1, folder)
  train_job(dataclasses.replace(job, phases=phases))
  return folder, data


def test_what_the_run_before_learnt_from_is_not_forgotten(
  tuned_run, small_data
):
  folder, data = tuned_run
  digests = data.dataset.record_digests()
  sets = small_data.table['folds']['1']
  # The first are the holdout here.
  records = [*sets['train'], *sets['validation'], *sets['test'][::2]]
  expected = {digests[record]: record for record in records}
  assert ensemble.load(folder).trained_on == (expected,)

"""Jobs side by side on device groups: none disturbs another."""

import dataclasses
import gc
import math
import threading
import traceback

import jax
import numpy as np
import pytest

from ecg_jax.errors import InputError, TrainingError
from ecg_jax.input_pipeline import sampler
from ecg_jax.models import loss
from ecg_jax.runtime import files
from ecg_jax.training import job_queue, train_loop
from ecg_jax.training.job import make_job
from ecg_jax.training.phases import Phase
from tests.training_helpers import with_fields

PHASES = (Phase('lstm', 2, 1e-3),)


@pytest.fixture
def make_jobs(small_config, small_data):
  """Makes short jobs of folds 0 and 1 in a folder."""

  def make(folder):
    return [
      dataclasses.replace(
        make_job(small_config, small_data, fold, folder), phases=PHASES
      )
      for fold in (0, 1)
    ]

  return make


def _see_devices(monkeypatch, count):
  devices = jax.devices()[:count]
  monkeypatch.setattr(jax, 'devices', lambda: devices)


@pytest.fixture
def train_as(monkeypatch):
  """Replaces the training of a fold, on so many devices."""

  def use(train_fold, devices):
    _see_devices(monkeypatch, devices)
    monkeypatch.setattr(train_loop, 'train_fold', train_fold)

  return use


@pytest.mark.parametrize('devices', [1, 2])
def test_jobs_end_as_if_each_were_alone(
  make_jobs, train_job, read_result, tmp_path, monkeypatch, devices
):
  alone = make_jobs(tmp_path / 'alone')
  for job in alone:
    train_job(job)
  _see_devices(monkeypatch, devices)
  together = make_jobs(tmp_path / 'together')
  assert job_queue.run(together) == {}
  results = [read_result(job) for job in alone]
  assert [read_result(job) for job in together] == results
  assert results[0] != results[1]


def test_failed_job_is_named_and_disturbs_no_other(
  make_jobs, tmp_path, monkeypatch, capsys
):
  _see_devices(monkeypatch, 2)
  good, bad = reversed(make_jobs(tmp_path))
  phases = (dataclasses.replace(PHASES[0], learning_rate=math.inf),)
  failed = job_queue.run([dataclasses.replace(bad, phases=phases), good])
  assert set(failed) == {'fold 0'}
  assert isinstance(failed['fold 0'], TrainingError)
  assert 'fold 0 failed: the loss or' in capsys.readouterr().err
  assert not (bad.folder / 'scores.json').exists()
  assert (good.folder / 'scores.json').exists()


def test_a_failed_job_holds_no_state(make_jobs, tmp_path, monkeypatch):
  _see_devices(monkeypatch, 1)
  phases = (dataclasses.replace(PHASES[0], learning_rate=math.inf),)

  def count_kernels():
    gc.collect()
    return sum(array.ndim >= 3 for array in jax.live_arrays())

  before = count_kernels()
  jobs = [dataclasses.replace(x, phases=phases) for x in make_jobs(tmp_path)]
  failed = job_queue.run(jobs)
  assert count_kernels() <= before
  # Where it was raised can still be told.
  assert '_train' in ''.join(traceback.format_exception(failed['fold 0']))


def test_a_job_whose_error_is_its_own_cause_fails_too(
  make_jobs, tmp_path, train_as
):
  """As an error does that a library raises again from what it caused."""

  def train_fold(*args, **kwargs):
    cause, error = OSError('full'), InputError('not written')
    cause.__cause__ = error
    raise error from cause

  train_as(train_fold, 1)
  failed = {}
  thread = threading.Thread(
    target=lambda: failed.update(job_queue.run(make_jobs(tmp_path))),
    daemon=True,
  )
  thread.start()
  thread.join(60)
  assert set(failed) == {'fold 0', 'fold 1'}


def test_jobs_do_not_wait_for_each_other(make_jobs, tmp_path, train_as):
  """One that compiles or validates for long does not hold up the rest."""
  slow, fast = make_jobs(tmp_path)
  ended = threading.Event()

  def train_fold(job, *args, **kwargs):
    if job is slow:
      assert ended.wait(60)
    else:
      ended.set()

  train_as(train_fold, 2)
  assert job_queue.run([slow, fast]) == {}


def test_devices_per_job_that_cannot_be_had(make_jobs, tmp_path, monkeypatch):
  _see_devices(monkeypatch, 2)
  with pytest.raises(InputError, match='devices_per_job is 5: there are 2'):
    job_queue.run(make_jobs(tmp_path), 5)
  assert not list(tmp_path.iterdir())


def test_devices_per_job_makes_jobs_share_or_take_turns(
  make_jobs, tmp_path, train_as
):
  seen = []

  def train_fold(job, group, *args, **kwargs):
    seen.append((job.fold.number, group.mesh.size))

  train_as(train_fold, 2)
  assert job_queue.run(make_jobs(tmp_path), 2) == {}
  assert seen == [(0, 2), (1, 2)]


def test_jobs_that_take_turns_each_have_their_own_labels(
  make_jobs, tmp_path, train_as
):
  first, second = make_jobs(tmp_path)
  other = with_fields(second, label_version='v2', folder=tmp_path / 'other')
  given = []

  def train_fold(job, mesh, data, **kwargs):
    given.append((job, data))

  train_as(train_fold, 1)
  assert job_queue.run([first, second, other]) == {}
  for job, data in given:
    classes = job.fold.dataset.classes[job.fold.label_version]
    np.testing.assert_array_equal(data.labels, classes)
  # One of the same dataset and labels takes what is there.
  assert given[0][1] is given[1][1] is not given[2][1]


def test_finished_jobs_are_left_as_they_are(make_jobs, tmp_path):
  work = make_jobs(tmp_path)
  for job in work:
    job.folder.mkdir()
    (job.folder / 'scores.json').write_text('finished')
  assert job_queue.run(work) == {}
  for job in work:
    assert [path.name for path in job.folder.iterdir()] == ['scores.json']
    assert (job.folder / 'scores.json').read_text() == 'finished'


def test_job_whose_folder_is_in_use_is_refused(
  make_jobs, tmp_path, monkeypatch
):
  _see_devices(monkeypatch, 1)
  job, _ = make_jobs(tmp_path)
  with files.locked(job.folder, wait=False):
    failed = job_queue.run([job])
  assert 'is in use by process' in str(failed['fold 0'])
  assert [path.name for path in job.folder.iterdir()] == ['.lock']


def test_job_is_what_its_config_says(small_config, small_data, tmp_path):
  config = small_config.copy_and_resolve_references()
  config.update({'compensated_sampling': True, 'max_epochs': 2, 'seed': 4})
  config.data.max_records = 10
  job = make_job(config, small_data, 1, tmp_path)
  assert (job.name, job.folder) == ('fold 1', tmp_path / 'fold1')
  assert (job.seed, job.fold.number, job.sampler.key) == (4, 1, (4, 1))
  assert job.settings['data.max_records'] == 10
  assert [phase.epochs for phase in job.phases] == [2, 2, 2]
  assert len(job.sampler.repeats) == len(job.fold.sets['train'])
  assert all(len(members) <= 12 for members in job.fold.sets.values())
  plain = make_job(small_config, small_data, 1, tmp_path)
  assert plain.sampler.repeats is None


@pytest.mark.parametrize('version', ['v2', 'v3'])
def test_weights_and_repeats_are_of_the_folds_train_set(
  small_config, small_data, tmp_path, version
):
  config = small_config.copy_and_resolve_references()
  config.label_version = version
  config.compensated_sampling = True
  classes = small_data.dataset.classes[version]
  weights = []
  for fold in (0, 1):
    job = make_job(config, small_data, fold, tmp_path)
    train_set = job.fold.sets['train']
    own = loss.class_weights(classes[train_set], 4)
    np.testing.assert_array_equal(job.fold.weights, own[classes])
    repeats = sampler.class_repeats(classes[train_set], 4)
    np.testing.assert_array_equal(job.sampler.repeats, repeats)
    assert (own != loss.class_weights(classes, 4)).any()
    weights.append(own)
  assert (weights[0] != weights[1]).any()

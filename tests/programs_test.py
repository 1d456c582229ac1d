"""Programs that are compiled ahead of their calls."""

import os
import threading

import jax
import pytest

from ecg_jax.runtime import device_groups, multihost
from ecg_jax.training import job_queue, programs, train_loop
from ecg_jax.training.phases import Phase
from tests.training_helpers import (
  compilations,
  make_group,
  put_data,
  spy,
  with_fields,
)


@pytest.fixture
def make_job(small_job, tmp_path):
  """Makes a job of one epoch and one bucket; fields can be replaced."""

  def make(**fields):
    phases = (Phase('auxiliary', 1, 1e-3),)
    return small_job(tmp_path, phases=phases, training_buckets=1, **fields)

  return make


def _train(job, devices=1, **stop):
  """Trains a job; tells the programs that were compiled, and which ahead."""
  group = make_group(count=devices)
  data = put_data(job, group.mesh)
  with compilations() as compiled:
    train_loop.train_fold(job, group, data, position=0, **stop)
  return sorted(program for program in compiled if '_chunk' in program[0])


def test_programs_of_several_devices_are_compiled_ahead(make_job):
  compiled = _train(make_job(), devices=2)
  assert compiled == [('evaluate_chunk', True), ('train_chunk', True)]


def test_jobs_share_the_cores(monkeypatch):
  cores = set(range(16))
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: cores, raising=False)
  assert [programs.num_threads(n) for n in (1, 5, 8, 64)] == [15, 2, 1, 1]


def test_program_that_cannot_be_compiled_ahead_is_compiled_by_its_call(
  make_job, monkeypatch
):
  """As where the device has room again once other programs are compiled."""

  def fail(_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no memory')

  monkeypatch.setattr(jax.stages.Lowered, 'compile', fail)
  job = make_job(chunk_steps=3)  # As no other test has.
  assert ('train_chunk', False) in _train(job)
  assert (job.folder / 'scores.json').exists()


def test_error_of_a_program_is_its_jobs(make_job, capsys):
  def exhaust(signal, lengths, keys):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no memory')

  failed = job_queue.run([with_fields(make_job(), augmentations=(exhaust,))])
  assert isinstance(failed['fold 0'], jax.errors.JaxRuntimeError)
  assert 'fold 0 failed: Out of memory (RES' in capsys.readouterr().err


def test_processes_that_share_a_job_begin_together(make_job, monkeypatch):
  """Once all have compiled the first program; see `Programs.begin`."""
  begin, happened = programs.Programs.begin, []

  def begin_as_one_of_two(*args):
    both = property(lambda group: (0, 1))
    with monkeypatch.context() as patch:
      patch.setattr(device_groups.DeviceGroup, 'members', both)
      patch.setattr(multihost, 'exchange', lambda *args: happened.append(args))
      begin(*args)
    happened.append('begun')

  monkeypatch.setattr(programs.Programs, 'begin', begin_as_one_of_two)
  spy(monkeypatch, jax.stages.Lowered, 'compile', before=happened.append)
  job = make_job(chunk_steps=5)  # As no other test has.
  assert _train(job) == [('evaluate_chunk', False), ('train_chunk', False)]
  lowered, *others = happened
  assert isinstance(lowered, jax.stages.Lowered)
  assert others == [('fold 0 compiled 0', '', (0, 1)), 'begun']
  assert (job.folder / 'scores.json').exists()


def test_stop_waits_for_what_is_being_compiled_and_drops_the_rest(
  make_job, monkeypatch
):
  dropped, lowered = threading.Event(), []

  def watch_last(_, own, *args):
    *_, last = own._begun.values()
    last.add_done_callback(lambda _: dropped.set())

  def hold_second(*_):
    lowered.append(1)
    assert len(lowered) == 1 or dropped.wait(60)

  spy(monkeypatch, programs.Programs, 'begin', after=watch_last)
  spy(monkeypatch, programs, 'lower', before=hold_second)
  phases = tuple(Phase(kind, 1, 1e-3) for kind in ('auxiliary', 'lstm'))
  job = with_fields(make_job(), phases=phases)
  _train(job, stop=lambda: True)
  assert dropped.is_set()
  assert len(lowered) <= 2
  assert list((job.folder / 'checkpoints').iterdir())
  names = [thread.name for thread in threading.enumerate()]
  assert not [name for name in names if name.startswith('compile')]

"""Runs training jobs side by side, each on a group of devices of its own."""

import collections
import concurrent.futures
import contextlib
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ecg_jax import cli, errors
from ecg_jax.input_pipeline import device_data
from ecg_jax.runtime import device_groups, files, multihost, sharding
from ecg_jax.runtime.device_groups import DeviceGroup
from ecg_jax.training import programs, train_loop
from ecg_jax.training.job import Job


def run(
  jobs: Sequence[Job],
  devices_per_job: int | None = None,
  stop: Callable[[], bool] = lambda: False,
  position: int = 0,
  processes: int = 1,
) -> dict[str, Exception]:
  """Runs the jobs that are not finished, as many at once as there are groups.

  Each group of devices has a thread of the host that dispatches its work and
  waits for its results, and others that compile its programs, so that no job
  waits for another; a group that falls free takes the next job. A job that
  fails does not disturb the others. Of several processes each has its share of
  the jobs, or a job has all devices of some of them, which then do the same,
  and the first writes.

  Args:
    jobs: All jobs of the command, finished ones too.
    devices_per_job: Devices that a job is to have, or None: all there are,
      divided among the jobs.
    stop: Asked at each edge of a chunk whether to save and stop all jobs.
    position: Line of the first progress bar.
    processes: Of this host that share its cores.

  Returns:
    Name -> error of each job that failed, of all processes, in their order.

  Raises:
    InputError: There are fewer devices than a job is to have.
    Interrupted: Another process was told to stop.
  """
  parts = device_groups.divide_devices(
    jax.devices(), len(jobs), devices_per_job
  )
  groups = [DeviceGroup(sharding.make_mesh(devices)) for devices in parts]
  teams = list(dict.fromkeys(group.members for group in groups))
  groups = [group for group in groups if group.is_local]
  waiting = collections.deque(
    job
    for index, job in enumerate(jobs)
    if jax.process_index() in teams[index % len(teams)] and not job.finished
  )
  failed: dict[str, Exception] = {}

  threads = min(len(groups), len(waiting))
  compiling = programs.num_threads(max(1, threads) * processes)
  with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
    submitted = [
      pool.submit(_run_waiting, group, line, compiling, waiting, failed, stop)
      for line, group in enumerate(groups[:threads], position)
    ]
    for ended in submitted:
      ended.result()
  reasons = {name: str(error) for name, error in failed.items()}
  reports = multihost.exchange(
    'ended', json.dumps([stop(), reasons]), range(jax.process_count())
  )
  for stopped, elsewhere in map(json.loads, reports):
    for name, message in elsewhere.items():
      failed.setdefault(name, errors.TrainingError(message))
    if stopped and not stop():
      raise errors.Interrupted(signal.SIGTERM)
  return {job.name: failed[job.name] for job in jobs if job.name in failed}


def _run_waiting(
  group: DeviceGroup,
  position: int,
  compiling: int,
  waiting: collections.deque[Job],
  failed: dict[str, Exception],
  stop: Callable[[], bool],
) -> None:
  """Runs jobs on a group of devices until none is left.

  Args:
    group: The devices.
    position: Line of the progress bars of its jobs.
    compiling: Threads that compile programs ahead.
    waiting: Jobs of all groups of this process; those that run are removed.
    failed: Name -> error of each failed job; errors are added.
    stop: As of `run`.

  Raises:
    PartialFailure: A job failed in this process alone, of several.
  """
  data: Any = None
  held: tuple[int, str] | None = None  # Dataset and label version of `data`.
  first_device = group.mesh.devices.flat[0].id
  group_stops = group.agreed(stop, f'stop/{first_device}')
  while not group_stops():
    try:
      job = waiting.popleft()
    except IndexError:  # Another group took it.
      return
    try:
      with _lock(job, group), multihost.watched(group.members):
        wanted = id(job.fold.dataset), job.fold.label_version
        if held != wanted:
          held = data = None  # Room for the other one.
          dataset, version = job.fold.dataset, job.fold.label_version
          data = device_data.put_dataset(dataset, version, group.mesh)
          held = wanted
        train_loop.train_fold(
          job,
          group,
          data,
          position=position,
          threads=compiling,
          stop=group_stops,
        )
    except Exception as raised:  # Reported at the end; the other jobs go on.
      error = multihost.broken_off(raised, group.members) or raised
      failed[job.name] = error
      together = isinstance(error, errors.TrainingError | _RefusedError)
      if group.is_coordinator or not together:
        reason, _ = cli.explain(error)
        print(f'{job.name} failed: {reason}', file=sys.stderr)
      _release(raised)
      if not together and len(group.members) > 1:
        # They wait for each other; without one of them the others end too.
        raise errors.PartialFailure(
          f'{job.name} failed in process {jax.process_index()}: start all'
          ' processes again with the same command to go on from the last'
          ' checkpoint.'
        ) from error


def _release(error: BaseException) -> None:
  """Frees what the frames hold in which an error and its causes were raised.

  It is kept until the command ends; a fold's arrays would be kept with it.
  """
  left: list[BaseException | None] = [error]
  seen = set()
  while left:
    found = left.pop()
    # An error that is raised again can be a cause of its own cause.
    if found is not None and id(found) not in seen:
      seen.add(id(found))
      traceback.clear_frames(found.__traceback__)
      left += [found.__cause__, found.__context__]


class _RefusedError(errors.InputError):
  """The coordinator's refusal, in all processes of a job."""


@contextlib.contextmanager
def _lock(job: Job, group: DeviceGroup) -> Iterator[None]:
  """Holds the lock of a job's folder, for all of its processes."""
  with contextlib.ExitStack() as stack:
    refusal = ''
    if group.is_coordinator:
      try:
        stack.enter_context(files.locked(job.folder, wait=False))
      except errors.InputError as error:
        refusal = str(error)
    refusal = group.exchange(f'{job.name} begins', refusal)[0]
    if refusal:
      raise _RefusedError(refusal)
    yield

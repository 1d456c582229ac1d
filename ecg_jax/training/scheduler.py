"""Runs training jobs side by side, each on a group of devices of its own."""

import collections
import concurrent.futures
import contextlib
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from ecg_jax import cli
from ecg_jax.errors import (
  InputError,
  Interrupted,
  PartialFailure,
  TrainingError,
)
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.runtime import files, multihost, sharding
from ecg_jax.training import train_loop
from ecg_jax.training.job import Job


def run(
  jobs: Sequence[Job],
  stop: Callable[[], bool] = lambda: False,
) -> dict[str, Exception]:
  """Runs the jobs that are not finished, as many at once as there are groups.

  Each group of devices has a thread of the host that dispatches its work,
  compiles its programs and waits for its results, so that no job waits for
  another; a group that falls free takes the next job. A job that fails does
  not disturb the others. Of several processes each has its share of the jobs,
  or a job has all devices of some of them, which then do the same, and the
  first writes.

  Args:
    jobs: All jobs of the command, finished ones too.
    stop: Asked at each edge of a chunk whether to save and stop all jobs.

  Returns:
    Name -> error of each job that failed, of all processes, in their order.

  Raises:
    InputError: There are fewer devices than a job is to have, or the jobs are
      to have different numbers of them.
    Interrupted: Another process was told to stop.
  """
  sizes = {job.devices_per_job for job in jobs}
  if len(sizes) > 1:
    listed = ' and '.join(sorted(map(str, sizes)))
    raise InputError(
      f'devices_per_job is {listed} in the configs of this list: use one value'
      ' for all.'
    )
  groups = sharding.device_groups(jax.devices(), len(jobs), sizes.pop())
  meshes = [sharding.make_mesh(group) for group in groups]
  teams = list(dict.fromkeys(map(sharding.members, meshes)))
  meshes = [
    mesh for mesh in meshes if jax.process_index() in sharding.members(mesh)
  ]
  waiting = collections.deque(
    job
    for index, job in enumerate(jobs)
    if jax.process_index() in teams[index % len(teams)]
    and not (job.folder / 'scores.json').exists()
  )
  if waiting and jax.process_index() == 0:
    print(
      'The first batch of each length waits for its program to be compiled.'
    )
  failed: dict[str, Exception] = {}

  def work(group: int) -> None:
    held: _GroupData | None = None
    mesh = meshes[group]
    leads = sharding.leads(mesh)
    members = sharding.members(mesh)
    # A group's number is that among the process's own.
    first = mesh.devices.flat[0].id
    group_stops = multihost.agreed(stop, f'stop/{first}', members)
    while not group_stops():
      try:
        job = waiting.popleft()
      except IndexError:
        return
      try:
        with _lock(job, mesh):
          if held is None or not held.serves(job):
            held = None  # Room for the other one.
            held = _GroupData.put(job, mesh)
          train_loop.train_fold(
            job, mesh, held.arrays, position=group, stop=group_stops
          )
      except Exception as error:  # Told at the end; the other jobs go on.
        failed[job.name] = error
        together = isinstance(error, TrainingError | _RefusedError)
        if leads or not together:
          reason, _ = cli.explain(error)
          print(f'{job.name} failed: {reason}', file=sys.stderr)
        _release(error)
        if not together and len(members) > 1:
          # They wait for each other; without one of them the others end too.
          raise PartialFailure(
            f'{job.name} failed in process {jax.process_index()}: start all'
            ' processes again with the same command to go on from the last'
            ' checkpoint.'
          ) from error

  threads = min(len(meshes), len(waiting))
  with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
    for ended in [pool.submit(work, group) for group in range(threads)]:
      ended.result()
  told = {name: str(error) for name, error in failed.items()}
  said = multihost.exchange(
    'ended', json.dumps([stop(), told]), range(jax.process_count())
  )
  for stopped, elsewhere in map(json.loads, said):
    for name, message in elsewhere.items():
      failed.setdefault(name, TrainingError(message))
    if stopped and not stop():
      raise Interrupted(signal.SIGTERM)
  return {job.name: failed[job.name] for job in jobs if job.name in failed}


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


class _RefusedError(InputError):
  """What all processes of a job were told by the first."""


@contextlib.contextmanager
def _lock(job: Job, mesh: Mesh) -> Iterator[None]:
  """Holds the lock of a job's folder, for all of its processes."""
  with contextlib.ExitStack() as stack:
    refusal = ''
    if sharding.leads(mesh):
      try:
        stack.enter_context(files.locked(job.folder, wait=False))
      except InputError as error:
        refusal = str(error)
    refusal = multihost.exchange(
      f'{job.name} begins', refusal, sharding.members(mesh)
    )[0]
    if refusal:
      raise _RefusedError(refusal)
    yield


class _GroupData(NamedTuple):
  """The dataset that a group of devices holds."""

  dataset: Dataset
  label_version: str
  arrays: device_data.Data

  @classmethod
  def put(cls, job: Job, mesh: Mesh) -> '_GroupData':
    """Puts the dataset of a job on the devices."""
    arrays = device_data.put_dataset(job.dataset, job.label_version, mesh)
    return cls(job.dataset, job.label_version, arrays)

  def serves(self, job: Job) -> bool:
    """Whether it is the dataset of this job too."""
    same = self.dataset is job.dataset
    return same and self.label_version == job.label_version

"""Runs training jobs side by side, each on a group of devices of its own."""

import collections
import concurrent.futures
import contextlib
import json
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from ecg_jax import (
  artifacts,
  configuration,
  errors,
  experiment,
  fine_tuning,
  input_pipeline,
  optimizer,
  processes,
  sampler,
  sharding,
  train,
)
from ecg_jax.errors import InputError


def make_job(
  config: ml_collections.ConfigDict,
  data: experiment.Data,
  fold: int,
  workdir: pathlib.Path,
  run: str = '',
) -> train.Job:
  """The job that trains one fold of a config.

  Args:
    config: The config.
    data: The data that it names.
    fold: The fold.
    workdir: Folder of the run.
    run: What to call the run in messages, if there are several.

  Raises:
    InputError: It cannot start from the run that the config names.
  """
  sets = experiment.make_sets(data, fold, config)
  classes = data.dataset.classes[config.label_version][sets['train']]
  repeats = None
  if config.compensated_sampling:
    repeats = sampler.class_repeats(classes)
  network, kept_variables = experiment.make_network(config), None
  if config.init_from is not None:
    kept_variables = fine_tuning.starting_variables(
      pathlib.Path(config.init_from).expanduser(),
      network,
      data.dataset,
      sets,
      fold,
    )
  return train.Job(
    name=f'{run} fold {fold}'.strip(),
    folder=workdir / f'fold{fold}',
    seed=config.seed,
    fold=fold,
    settings=configuration.deciding(config) | {'fold': fold},
    network=network,
    phases=optimizer.phases(
      kinds=config.phases.kinds,
      epochs=config.phases.epochs,
      learning_rates=config.phases.learning_rates,
      schedule=config.phases.schedule,
      warmup_epochs=config.phases.warmup_epochs,
      max_epochs=config.max_epochs,
    ),
    regularisation=optimizer.Regularisation(
      weight_decay=config.weight_decay, average_decay=config.average_decay
    ),
    dataset=data.dataset,
    sets=sets,
    label_version=config.label_version,
    class_weights=experiment.make_class_weights(classes, config),
    repeats=repeats,
    max_samples=config.augmentation.max_samples,
    resampling=experiment.make_resampling(config),
    training_buckets=config.buckets.training,
    evaluation_buckets=config.buckets.evaluation,
    batch_size=config.batch_size,
    evaluation_batch_size=config.evaluation_batch_size,
    chunk_steps=config.chunk_steps,
    validate_every_epochs=config.validate_every_epochs,
    patience_epochs=config.patience_epochs,
    checkpoint_minutes=config.checkpoint_minutes,
    tensorboard=config.tensorboard,
    on_nan=config.on_nan,
    max_records=config.data.max_records,
    devices_per_job=config.devices_per_job,
    kept_variables=kept_variables,
  )


def run(
  jobs: Sequence[train.Job],
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
    group_stops = processes.agreed(stop, f'stop/{first}', members)
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
          train.train_fold(
            job, mesh, held.arrays, position=group, stop=group_stops
          )
      except Exception as error:  # Told at the end; the other jobs go on.
        failed[job.name] = error
        together = isinstance(error, errors.TrainingError | _RefusedError)
        if leads or not together:
          reason, _ = errors.explain(error)
          print(f'{job.name} failed: {reason}', file=sys.stderr)
        _release(error)
        if not together and len(members) > 1:
          # They wait for each other; without one of them the others end too.
          raise errors.PartialFailure(
            f'{job.name} failed in process {jax.process_index()}: start all'
            ' processes again with the same command to go on from the last'
            ' checkpoint.'
          ) from error

  threads = min(len(meshes), len(waiting))
  with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
    for ended in [pool.submit(work, group) for group in range(threads)]:
      ended.result()
  told = {name: str(error) for name, error in failed.items()}
  said = processes.exchange(
    'ended', json.dumps([stop(), told]), range(jax.process_count())
  )
  for stopped, elsewhere in map(json.loads, said):
    for name, message in elsewhere.items():
      failed.setdefault(name, errors.TrainingError(message))
    if stopped and not stop():
      raise errors.Interrupted(signal.SIGTERM)
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
def _lock(job: train.Job, mesh: Mesh) -> Iterator[None]:
  """Holds the lock of a job's folder, for all of its processes."""
  with contextlib.ExitStack() as stack:
    refusal = ''
    if sharding.leads(mesh):
      try:
        stack.enter_context(artifacts.locked(job.folder, wait=False))
      except InputError as error:
        refusal = str(error)
    refusal = processes.exchange(
      f'{job.name} begins', refusal, sharding.members(mesh)
    )[0]
    if refusal:
      raise _RefusedError(refusal)
    yield


class _GroupData(NamedTuple):
  """The dataset that a group of devices holds."""

  dataset: input_pipeline.Dataset
  label_version: str
  arrays: input_pipeline.Data

  @classmethod
  def put(cls, job: train.Job, mesh: Mesh) -> '_GroupData':
    """Puts the dataset of a job on the devices."""
    arrays = input_pipeline.put_dataset(job.dataset, job.label_version, mesh)
    return cls(job.dataset, job.label_version, arrays)

  def serves(self, job: train.Job) -> bool:
    """Whether it is the dataset of this job too."""
    same = self.dataset is job.dataset
    return same and self.label_version == job.label_version

"""The programs of a fold, compiled in threads ahead of their first call.

A compiled program is kept where `jax.jit` looks for it, so its call finds it
there, and nothing else depends on what is done here: a program that could not
be compiled ahead is compiled by its call, which then raises what is wrong.

Several processes that share a fold compile nothing ahead, but wait for each
other until all have compiled the first program.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np

from ecg_jax.evaluation import eval_step
from ecg_jax.fields.training import TreesFields
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.models import forward
from ecg_jax.runtime import sharding
from ecg_jax.runtime.device_groups import DeviceGroup
from ecg_jax.training import boosting, train_state, train_step
from ecg_jax.training.job import Job
from ecg_jax.training.progress import Progress
from ecg_jax.training.train_state import TrainState


class Evaluation(NamedTuple):
  """An evaluation of the network, alone or with trees."""

  network: forward.Network
  kind: str
  """Part of the model that is used."""
  trees: TreesFields | None = None
  """How the trees are fitted, if there are some."""


class BeatFeatures(NamedTuple):
  """The computation of the features that trees are fitted to."""

  network: forward.Network


Step = train_step.TrainStep | Evaluation | BeatFeatures
"""What a program does with a batch."""


class Programs:
  """Compiles the programs of a fold in the order in which it needs them."""

  def __init__(self, group: DeviceGroup, threads: int):
    """Sets the devices, and how many threads compile; none does yet."""
    self._group = group
    self._pool = futures.ThreadPoolExecutor(threads, 'compile')
    self._tracing = threading.Lock()
    self._begun: dict[Hashable, futures.Future[None]] = {}

  def begin(
    self,
    job: Job,
    progress: Progress,
    data: device_data.Data,
    state: TrainState,
    report: Callable[[int, int], None],
  ) -> None:
    """Begins to compile what a fold needs from here to its end.

    A group of several processes compiles the first program here, and waits
    until all have it: on CPUs the first call waits half a minute for the
    others', no more. Nothing is compiled ahead. On GPUs, XLA divides its
    measurements among them, and each waits for the others in the midst of
    compiling: one that stops would leave them waiting.

    Args:
      job: The fold.
      progress: Where it stands.
      data: Its dataset.
      state: Of any phase.
      report: Gets how many programs are compiled, and how many there are, now
        and each time that one is; in any thread.

    Raises:
      PartialFailure: One of several processes has ended.
      jax.errors.JaxRuntimeError: One of several cannot compile.
    """
    shapes = sharding.shapes(state)
    if len(self._group.members) > 1:
      step, chunk = next(needed(job, progress))
      self._compile(job, step, shapes, data, chunk)
      self._group.exchange(f'{job.name} compiled {progress.restores}', '')
      return
    for step, chunk in needed(job, progress):
      key = _key(step, chunk)
      if key not in self._begun:
        self._begun[key] = self._pool.submit(
          self._compile, job, step, shapes, data, chunk
        )
    begun = list(self._begun.values())

    def tell(_: object) -> None:
      report(sum(future.done() for future in begun), len(begun))

    tell(None)
    for future in begun:
      future.add_done_callback(tell)

  def wait_for(self, step: Step, chunk: Chunk) -> None:
    """Waits for the program of a chunk, if it is being compiled ahead."""
    future = self._begun.get(_key(step, chunk))
    if future is not None:
      futures.wait([future])

  def close(self) -> None:
    """Drops the programs that wait for a thread; waits for the others."""
    self._pool.shutdown(cancel_futures=True)

  def _compile(
    self,
    job: Job,
    step: Step,
    state: TrainState,
    data: device_data.Data,
    chunk: Chunk,
  ) -> None:
    mesh = self._group.mesh
    # Python traces one at a time, so the one needed first is to be the first.
    with self._tracing:
      # Nothing is read from the disk for a chunk without records.
      empty = dataclasses.replace(chunk, mask=np.zeros_like(chunk.mask))
      [inputs] = device_data.feed(data, [empty], mesh)
      lowered = lower(job, step, state, sharding.shapes(inputs), mesh)
    lowered.compile()


def needed(job: Job, progress: Progress) -> Iterator[tuple[Step, Chunk]]:
  """What a fold runs from here to its end, in its order.

  Yields:
    Steps and chunks, not all of them, but some of each program.
  """
  sampler = job.sampler
  for number, phase in enumerate(job.phases[progress.phase :], progress.phase):
    epoch, done = 1, 0
    if number == progress.phase:
      if phase.is_over(progress, job.loop.patience_epochs):
        continue
      epoch, done = progress.epoch + 1, progress.chunk
    # Of the rest of this epoch and the next one: one alone may lack a bucket.
    chunks = sampler.training_chunks(number, epoch)[done:]
    if epoch < phase.epochs:
      chunks += sampler.training_chunks(number, epoch + 1)
    for chunk in chunks:
      yield job.train_step(phase), chunk
    for chunk in sampler.evaluation_chunks('validation'):
      yield Evaluation(job.network, phase.evaluated_as), chunk
  trees = job.trees if job.trees.rounds else None
  if trees:
    for chunk in sampler.evaluation_chunks('train'):
      yield BeatFeatures(job.network), chunk
  for name in job.fold.sets:
    for chunk in sampler.evaluation_chunks(name):
      yield Evaluation(job.network, job.phases[-1].evaluated_as, trees), chunk


def _key(step: Step, chunk: Chunk) -> Hashable:
  return step, chunk.bucket, chunk.mask.shape


def lower(
  job: Job,
  step: Step,
  state: TrainState,
  inputs: tuple[device_data.DeviceData, Chunk],
  mesh: jax.sharding.Mesh,
) -> jax.stages.Lowered:
  """Traces a program with arguments as its call will have them.

  Args:
    job: The fold.
    step: What the program does with a batch.
    state: Of any phase, as shapes.
    inputs: What `device_data.feed` gives, as shapes.
    mesh: The devices.
  """
  devices = mesh.abstract_mesh
  if isinstance(step, BeatFeatures):
    network = step.network
    return boosting.compute_chunk.lower(*inputs, network=network, mesh=devices)
  if isinstance(step, Evaluation):
    network, kind, trees = step
    variables = dict(state.evaluated)
    if trees:
      unfitted = boosting.empty(trees, network.num_classes)
      variables['trees'] = sharding.replicated(unfitted, mesh)
    return eval_step.evaluate_chunk.lower(
      variables, *inputs, network=network, kind=kind, mesh=devices
    )
  # The optimizer's moments are those of the parameters that the phase trains.
  begin = functools.partial(
    train_state.begin_phase,
    trained=step.network.model.trained[step.kind],
    averaged=step.optimizer.average_decay > 0,
  )
  state = jax.eval_shape(begin, state.variables, state.step, state.key)
  state, rate = sharding.replicated((state, np.float32(0)), mesh)
  run = train_step.chunk_program(cuda_graphs=job.loop.cuda_graphs)
  return run.lower(state, *inputs, rate, train_step=step, mesh=devices)


def num_threads(jobs: int) -> int:
  """How many threads compile for each of so many jobs at once.

  Their share of the cores but one, which is left to training.
  """
  if hasattr(os, 'sched_getaffinity'):  # On Linux: those it may use.
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  return max(1, cores // jobs - 1)

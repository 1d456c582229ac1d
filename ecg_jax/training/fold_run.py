"""A fold while it trains: each method is a line of the training loop."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.evaluation import eval_step
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.runs import artifacts, predictions, trees_file
from ecg_jax.runs.checkpoint import Checkpoints
from ecg_jax.runtime import files, sharding
from ecg_jax.runtime.device_groups import DeviceGroup
from ecg_jax.training import (
  boosting,
  learning_rate,
  log,
  train_state,
  train_step,
)
from ecg_jax.training.job import Job
from ecg_jax.training.phases import Phase
from ecg_jax.training.programs import BeatFeatures, Evaluation, Programs
from ecg_jax.training.progress import Progress
from ecg_jax.training.train_state import TrainState


class NotFinite(Exception):  # noqa: N818
  """A loss or a gradient is not finite; the message says where."""

  def __init__(self, message: str, restores: int):
    super().__init__(message)
    self.restores = restores
    """Times that training went back before."""


@dataclasses.dataclass(frozen=True)
class Dispatch:
  """What the next call of the chunk program gets."""

  chunk: Chunk
  """On the host."""
  inputs: tuple[device_data.DeviceData, Chunk]
  """The dataset, or as much of it as the chunk needs; and the chunk."""
  learning_rate: jax.Array
  """float32 scalar."""


@dataclasses.dataclass
class FoldRun:
  """A job on its devices, with its files open."""

  job: Job
  group: DeviceGroup
  data: device_data.Data
  """The dataset, with the weights of the fold."""
  checkpoints: Checkpoints
  progress: Progress
  state: TrainState
  best: dict[str, Any]
  """`params` and `batch_stats` of the best validation score."""
  log: log.Log
  programs: Programs

  def __post_init__(self) -> None:
    self._validation_chunks = self.job.sampler.evaluation_chunks('validation')
    # Chunks whose results have not been fetched, oldest first.
    self._pending: list[tuple[Chunk, train_step.ChunkResult]] = []
    self._epoch_began = self._last_save = time.monotonic()
    # Whether the last save was long ago; asked by all members alike.
    self.save_due = self.group.agreed(
      self._own_save_due, f'{self.job.name} saves {self.progress.restores}'
    )

  @property
  def phase(self) -> Phase:
    """The present phase."""
    return self.job.phases[self.progress.phase]

  @property
  def finished(self) -> bool:
    """Whether all phases are over."""
    return self.progress.phase >= len(self.job.phases)

  @property
  def phase_over(self) -> bool:
    """Whether the phase ends here; always after a validation."""
    return self.phase.is_over(self.progress, self.job.loop.patience_epochs)

  def begin_phase(self) -> None:
    """Takes over the best weights so far, with fresh optimizer moments."""
    if not self.progress.begun:
      self.state = initial_state(
        self.job, self.phase, self.best, self.state.step, self.state.key
      )
      self.progress.begun = True

  def remaining_chunks(self) -> Iterator[Dispatch]:
    """The chunks of the epoch that are left, put on the devices one by one."""
    progress = self.progress
    epoch = progress.epoch + 1
    chunks = self.job.sampler.training_chunks(progress.phase, epoch)
    rates = learning_rate.chunk_rates(self.phase, epoch, len(chunks))
    self._epoch_began = time.monotonic() - progress.seconds
    return self.feed(chunks[progress.chunk :], rates[progress.chunk :])

  def feed(
    self, chunks: Sequence[Chunk], learning_rates: Sequence[float]
  ) -> Iterator[Dispatch]:
    """Puts chunks on the devices one by one, each with its learning rate."""
    mesh = self.group.mesh
    fed = device_data.feed(self.data, chunks, mesh)
    for chunk, inputs, rate in zip(chunks, fed, learning_rates, strict=True):
      learning_rate = sharding.replicate(np.float32(rate), mesh)
      yield Dispatch(chunk, inputs, learning_rate)

  def dispatch(self, work: Dispatch) -> None:
    """Starts a chunk, then fetches the result of the one before it."""
    step = self.job.train_step(self.phase)
    self.programs.wait_for(step, work.chunk)
    cuda_graphs = self.job.loop.cuda_graphs
    run = train_step.chunk_program(cuda_graphs=cuda_graphs)
    self.state, result = run(
      self.state,
      *work.inputs,
      work.learning_rate,
      train_step=step,
      mesh=self.group.mesh.abstract_mesh,
    )
    self._pending.append((work.chunk, result))
    if len(self._pending) > 1:
      self._fetch_first()

  def fetch_all(self) -> None:
    """Waits for all chunks that were started."""
    while self._pending:
      self._fetch_first()
    self.progress.seconds = time.monotonic() - self._epoch_began

  def save(self) -> None:
    """Saves in the middle of an epoch."""
    self.fetch_all()
    self._save()
    self._epoch_began = time.monotonic() - self.progress.seconds

  def end_epoch(self) -> bool:
    """Validates when due, keeps the weights if they are better, and saves then.

    Returns:
      Whether it saved.
    """
    self.fetch_all()
    progress = self.progress
    progress.epoch += 1
    due = progress.epoch % self.job.loop.validate_every_epochs == 0
    validation = self._validate() if due or self.phase_over else None
    step = int(sharding.fetch(self.state.step))
    self.log.end_epoch(progress, step, validation)
    progress.begin_row()
    if validation is not None:
      self._save()
    return validation is not None

  def end_phase(self) -> None:
    """Goes on to the next phase."""
    self.log.end_phase(self.progress)
    evaluated = self.phase.evaluated_as
    following = self.job.phases[self.progress.phase + 1 :][:1]
    same_network = all(new.evaluated_as == evaluated for new in following)
    self.progress.next_phase(same_network=same_network)

  def write_results(self, stop: Callable[[], bool]) -> None:
    """Fits the trees, if there are to be some, and scores every set.

    It uses the best weights; scores.json, the last, ends it.

    Args:
      stop: Asked before the fit and each set whether to end before the end.
    """
    self.checkpoints.wait()
    job, fold = self.job, self.job.fold
    variables, digests = self.best, {}
    if job.trees.rounds:
      if stop():
        return
      digests['trees'] = self._fit_trees()
      path = job.folder / trees_file.FILE
      trees = trees_file.read(path, digests['trees'])
      trees = sharding.replicate(trees, self.group.mesh)
      variables = {**self.best, 'trees': trees}
    scores = {}
    for set_name in fold.sets:
      if stop():
        return
      chunks = job.sampler.evaluation_chunks(set_name)
      result = self._evaluate(variables, chunks, job.phases[-1])
      scores[set_name] = result.scores
      if set_name in predictions.FILES and self.group.is_coordinator:
        path = job.folder / predictions.FILES[set_name]
        eval_step.write_predictions(path, result, fold)
    best = {
      'phase': self.progress.best_phase,
      'epoch': self.progress.best_epoch,
    }
    content = {
      'fold': fold.number,
      'seed': job.seed,
      'label_version': fold.label_version,
      'max_records': job.settings['data.max_records'],
      'versions': artifacts.versions(),
      'commit': artifacts.commit(),
      'best': best,
      **digests,
      'sets': scores,
    }
    if self.group.is_coordinator:
      artifacts.write_scores(job.folder / 'scores.json', content)

  def _fit_trees(self) -> str:
    """Fits trees to the train set; returns the SHA-256 of their file."""
    job, fold, digest = self.job, self.job.fold, ''
    chunks = job.sampler.evaluation_chunks('train')
    for chunk in chunks:
      self.programs.wait_for(BeatFeatures(job.network), chunk)
    features, records = boosting.features_of(
      self.data, chunks, network=job.network, mesh=self.group.mesh
    )
    if self.group.is_coordinator:
      trees = boosting.fit(
        features,
        fold.dataset.classes[fold.label_version][records],
        job.trees,
        num_classes=job.network.num_classes,
        key=job.sampler.key,
      )
      digest = trees_file.write(job.folder / trees_file.FILE, trees)
    return self.group.exchange(f'{job.name} trees', digest)[0]

  def _fetch_first(self) -> None:
    """Adds the oldest pending chunk to the sums of the epoch."""
    chunk, result = self._pending.pop(0)
    sums, bad_step = sharding.fetch(result)
    if bad_step >= 0:
      positions = chunk.records[bad_step][chunk.mask[bad_step]]
      names = [self.job.fold.dataset.records[index] for index in positions]
      progress = self.progress
      raise NotFinite(
        'the loss or a gradient is not finite in'
        f' {self.job.where(progress.phase, progress.epoch + 1)}, chunk'
        f' {progress.chunk + 1}, step {bad_step + 1} (records'
        f' {", ".join(names)})',
        progress.restores,
      )
    self.progress.add_chunk(float(sums.loss), int(sums.records))
    self.log.count_chunk(self.progress, int(sums.records))

  def _validate(self) -> dict[str, Any]:
    """Scores of the validation set; the best weights are kept."""
    found = self._evaluate(
      self.state.evaluated, self._validation_chunks, self.phase
    ).scores
    progress = self.progress
    if not math.isfinite(found['loss']):
      where = self.job.where(progress.phase, progress.epoch)
      raise NotFinite(
        f'the validation loss is {found["loss"]} after {where}',
        progress.restores,
      )
    if progress.improve(found['score']):
      self.best = _copy(self.state.evaluated)
    return found

  def _evaluate(
    self, variables: dict[str, Any], chunks: list[Chunk], phase: Phase
  ) -> eval_step.Result:
    trees = self.job.trees if 'trees' in variables else None
    step = Evaluation(self.job.network, phase.evaluated_as, trees)
    for chunk in chunks:
      self.programs.wait_for(step, chunk)
    return eval_step.evaluate(
      variables,
      self.data,
      chunks,
      fold=self.job.fold,
      network=self.job.network,
      kind=phase.evaluated_as,
      mesh=self.group.mesh,
    )

  def _own_save_due(self) -> bool:
    seconds = time.monotonic() - self._last_save
    is_late = seconds > 60 * self.job.loop.checkpoint_minutes
    return self.group.is_coordinator and is_late

  def _save(self) -> None:
    self.checkpoints.save(
      self.state.saved(), self.best, dataclasses.asdict(self.progress)
    )
    self._last_save = time.monotonic()


@contextlib.contextmanager
def open_run(
  job: Job,
  group: DeviceGroup,
  data: device_data.Data,
  programs: Programs,
  *,
  restores: int,
  position: int,
) -> Iterator[FoldRun]:
  """Opens a fold at its latest checkpoint, or at its beginning.

  Args:
    job: What to train.
    group: The devices to train on.
    data: The dataset, from `device_data.put_dataset`.
    programs: Of the job, which begin to be compiled here.
    restores: Restores so far, if the checkpoint knows of fewer.
    position: Line of the progress bar.

  Raises:
    InputError: A file cannot be read or written.
  """
  # By now the coordinator has ended the save that it was at, if it goes back.
  group.exchange(f'{job.name} opens {restores}', '')
  with contextlib.ExitStack() as stack:
    folder, is_reader = job.folder / 'checkpoints', not group.is_coordinator
    checkpoints = stack.enter_context(
      Checkpoints(folder, job.settings, read_only=is_reader)
    )
    progress = Progress(**(checkpoints.progress() or {}))
    digest = files.digest(dataclasses.asdict(progress))
    digests = group.exchange(f'{job.name} restored {restores}', digest)
    if len(set(digests)) > 1:
      raise InputError(
        f'The processes found different checkpoints in {job.folder}: give them'
        ' one --workdir on a disk that they share, and start all again.'
      )
    progress.restores = max(progress.restores, restores)
    state, best = restore(job, group, checkpoints, progress)
    next_step = int(sharding.fetch(state.step)) + 1
    reports = log.open_log(
      job, progress, next_step, position, enabled=group.is_coordinator
    )
    opened = stack.enter_context(reports)
    weighted = device_data.with_weights(data, job.fold.weights, group.mesh)
    programs.begin(job, progress, weighted, state, opened.count_programs)
    yield FoldRun(
      job, group, weighted, checkpoints, progress, state, best, opened, programs
    )


def restore(
  job: Job, group: DeviceGroup, checkpoints: Checkpoints, progress: Progress
) -> tuple[TrainState, dict[str, Any]]:
  """State and best weights: those of the latest checkpoint, or the initial.

  Args:
    job: The job.
    group: Where the arrays go, whole on each device.
    checkpoints: Of its folder.
    progress: Of the latest checkpoint, if there is one.
  """
  # Bursts and dropout are drawn anew after going back.
  key = jax.random.fold_in(job.key(), 1 + progress.restores)
  step, key, best = sharding.replicate(
    (np.int32(0), key, job.initial_variables()), group.mesh
  )
  phase = job.phases[min(progress.phase, len(job.phases) - 1)]
  state = initial_state(job, phase, best, step, key)
  if checkpoints.progress() is None:
    return state, best
  best = checkpoints.restore('best', best)
  return state.restored(checkpoints.restore('state', state.saved())), best


def initial_state(
  job: Job,
  phase: Phase,
  variables: dict[str, Any],
  step: jax.Array,
  key: jax.Array,
) -> TrainState:
  """The state in which a phase begins, where the variables are."""
  with jax.transfer_guard_host_to_device('allow'):  # Its moments are zeros.
    state = train_state.begin_phase(
      _copy(variables),
      step,
      key,
      job.network.model.trained[phase.kind],
      averaged=job.optimizer.average_decay > 0,
    )
    return sharding.place_like(state, step)


def _copy(tree: Any) -> Any:
  """Arrays of their own, since a step takes over the memory of its state."""
  return jax.tree.map(jnp.copy, tree)

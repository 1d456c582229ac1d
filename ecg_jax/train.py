"""Trains one fold: the step, the chunk of steps, the loop."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ecg_jax import (
  artifacts,
  checkpoint,
  evaluate,
  forward,
  input_pipeline,
  models,
  optimizer,
  sampler,
  sharding,
  summary,
  train_state,
  writers,
)
from ecg_jax import metrics as metrics_lib

# State, bucket, chunk and its number of steps -> new state, sums.
Program = Callable[
  [train_state.TrainState, int, input_pipeline.ChunkArrays, jax.Array],
  tuple[train_state.TrainState, metrics_lib.Metrics],
]


class TrainingError(Exception):
  """Training went wrong; the message is a sentence that says where."""


@dataclasses.dataclass(frozen=True)
class Job:
  """One fold to train, and all that decides what comes out."""

  name: str
  """What to call it in messages, like 'fold 0'."""
  folder: pathlib.Path
  """Where its artifacts go."""
  seed: int
  fold: int
  network: forward.Network
  phases: tuple[optimizer.Phase, ...]
  dataset: input_pipeline.Dataset
  sets: Mapping[str, np.ndarray]
  """'train', 'validation', 'test' -> int32 positions in the dataset."""
  label_version: str
  class_weights: np.ndarray
  """float32 [4], in the loss."""
  repeats: np.ndarray | None
  """int [train records], of class-compensated sampling, or None."""
  resampling: sampler.Resampling | None
  training_buckets: int
  evaluation_buckets: int
  batch_size: int
  evaluation_batch_size: int
  chunk_steps: int
  validate_every_epochs: int
  patience_epochs: int
  checkpoint_minutes: float
  """Between saves; a state is also saved at each validation."""
  tensorboard: bool
  max_records: int | None
  """What the sets were thinned to, for the record."""


@dataclasses.dataclass
class Progress:
  """Where the loop of a job stands, beside its arrays."""

  phase: int = 0
  begun: bool = False
  """Whether the phase has its initial state."""
  epoch: int = 0
  """Complete epochs of the phase."""
  chunk: int = 0
  """Complete chunks of the epoch after it."""
  loss: float = 0.0
  """Sum of the losses over those chunks."""
  records: int = 0
  """Records in those chunks."""
  seconds: float = 0.0
  """Time spent on those chunks."""
  best_score: float = -math.inf
  """Validation score of the best weights, in percent."""
  best_phase: int | None = None
  best_epoch: int | None = None
  last_improvement: int = 0
  """Epoch of this phase that made the best weights; 0 if none did."""

  def begin_row(self) -> None:
    """Begins the sums of the next epoch."""
    self.chunk, self.records, self.loss, self.seconds = 0, 0, 0.0, 0.0


def train_step(
  state: train_state.TrainState,
  batch: forward.Batch,
  key: jax.Array,
  class_weights: jax.Array,
  learning_rate: jax.Array,
  *,
  network: forward.Network,
  kind: str,
  samples: int,
) -> tuple[train_state.TrainState, jax.Array, jax.Array]:
  """One step of Adam on the mean weighted cross-entropy of a batch.

  Args:
    state: The state before.
    batch: Recordings; at least one row is valid.
    key: The step's random key.
    class_weights: float32 [4].
    learning_rate: float32 scalar.
    network: The static half of the forward pass.
    kind: Which parameters are trained: a key of `network.model.trained`.
    samples: Length that the batch's signals are computed in.

  Returns:
    The state after, and each row's probabilities [B, 4] and loss [B].
  """
  trained, frozen = optimizer.split(state.params, network.model.trained[kind])

  def mean_loss(trained):
    logits, batch_stats = forward.train_logits(
      network,
      {'params': {**trained, **frozen}, 'batch_stats': state.batch_stats},
      batch,
      key,
      samples=samples,
      kind=kind,
    )
    losses = forward.losses(logits, batch.labels, class_weights)
    total = jnp.sum(losses, where=batch.mask)
    return total / jnp.sum(batch.mask), (logits, losses, batch_stats)

  gradients, (logits, losses, batch_stats) = jax.grad(mean_loss, has_aux=True)(
    trained
  )
  trained, moments = optimizer.update(
    trained, gradients, state.optimizer_state, learning_rate
  )
  state = dataclasses.replace(
    state,
    params={**trained, **frozen},
    batch_stats=batch_stats,
    optimizer_state=moments,
    step=state.step + 1,
  )
  return state, jax.nn.softmax(logits), losses


@functools.partial(
  jax.jit,
  static_argnames=('network', 'kind', 'samples', 'window'),
  donate_argnames=('state',),
)
def train_chunk(
  state: train_state.TrainState,
  data: input_pipeline.DeviceData,
  chunk: input_pipeline.ChunkArrays,
  num_steps: jax.Array,
  key: jax.Array,
  class_weights: jax.Array,
  learning_rate: jax.Array,
  *,
  network: forward.Network,
  kind: str,
  samples: int,
  window: int,
) -> tuple[train_state.TrainState, metrics_lib.Metrics]:
  """The steps of a chunk, without the host.

  The number of steps is an argument, so a chunk that is not full costs no
  more than its steps and is the same program.

  Args:
    state: The state before; its memory is used for the state after.
    data: The dataset.
    chunk: Which records, [K, B].
    num_steps: Steps to make, at most K.
    key: The job's random key; a step's comes from it and the step's number.
    class_weights: float32 [4].
    learning_rate: float32 scalar.
    network: The static half of the forward pass.
    kind: Which parameters are trained.
    samples: The bucket: length that signals are computed in.
    window: Samples to cut out of the dataset for each record.

  Returns:
    The state after, and sums over the chunk's records.
  """

  def step(index, carry):
    state, metrics = carry
    batch = input_pipeline.take_batch(data, chunk, index, window)
    state, probabilities, losses = train_step(
      state,
      batch,
      jax.random.fold_in(key, state.step),
      class_weights,
      learning_rate,
      network=network,
      kind=kind,
      samples=samples,
    )
    metrics = metrics.add(probabilities, batch.labels, losses, batch.mask)
    return state, metrics

  empty = metrics_lib.Metrics.empty()
  return jax.lax.fori_loop(0, num_steps, step, (state, empty))


def phase_program(
  job: Job,
  phase: optimizer.Phase,
  data: input_pipeline.DeviceData,
  key: jax.Array,
  class_weights: jax.Array,
  mesh: Mesh,
) -> Program:
  """`train_chunk` of a phase, with all that its chunks have in common."""
  learning_rate = sharding.replicate(np.float32(phase.learning_rate), mesh)

  def program(state, samples, chunk, num_steps):
    return train_chunk(
      state,
      data,
      chunk,
      num_steps,
      key,
      class_weights,
      learning_rate,
      **static_arguments(job, phase, samples),
    )

  return program


def static_arguments(
  job: Job, phase: optimizer.Phase, samples: int
) -> dict[str, Any]:
  """What `train_chunk` is compiled for: the phase and the bucket."""
  longest = int(job.dataset.lengths.max())
  return {
    'network': job.network,
    'kind': phase.kind,
    'samples': samples,
    'window': sampler.window_samples(samples, longest, job.resampling),
  }


def train_chunks(
  program: Program,
  state: train_state.TrainState,
  chunks: Sequence[sampler.Chunk],
  mesh: Mesh,
  *,
  count: Callable[[metrics_lib.Metrics], None],
  stop: Callable[[], bool],
) -> Generator[None, None, train_state.TrainState]:
  """Dispatches chunks in order, one ahead of the metrics that are fetched.

  Args:
    program: From `phase_program`.
    state: The state before; its memory is taken over.
    chunks: What to train on.
    mesh: The devices.
    count: Is given each chunk's sums, on the host.
    stop: Asked after each chunk whether to leave the others.

  Yields:
    After each dispatch.

  Returns:
    The state after; everything dispatched has been counted.
  """
  pending: list[metrics_lib.Metrics] = []
  for chunk in chunks:
    inputs = input_pipeline.put_chunk(chunk, mesh)
    state, metrics = program(state, chunk.samples, *inputs)
    yield
    pending.append(metrics)
    if stop():
      break
    if len(pending) > 1:
      count(sharding.fetch(pending.pop(0)))
  for metrics in pending:
    count(sharding.fetch(metrics))
  return state


def training_bounds(job: Job) -> tuple[int, ...]:
  """The buckets of training."""
  return sampler.bucket_bounds(
    job.dataset.lengths,
    num_buckets=job.training_buckets,
    resampling=job.resampling,
  )


def epoch_chunks(
  job: Job, bounds: tuple[int, ...], phase: int, epoch: int
) -> list[sampler.Chunk]:
  """The chunks of an epoch (from 1), whatever happened before."""
  records = job.sets['train']
  return sampler.training_chunks(
    key=(job.seed, job.fold, phase, epoch),
    records=records,
    lengths=job.dataset.lengths[records],
    repeats=job.repeats,
    resampling=job.resampling,
    shortest=job.network.spectrogram.window_samples,
    bounds=bounds,
    batch_size=job.batch_size,
    chunk_steps=job.chunk_steps,
  )


def set_chunks(job: Job, set_name: str) -> list[sampler.Chunk]:
  """The chunks of a set's evaluation."""
  return evaluate.set_chunks(
    job.dataset,
    job.sets[set_name],
    num_buckets=job.evaluation_buckets,
    batch_size=job.evaluation_batch_size,
    chunk_steps=job.chunk_steps,
  )


def initial_variables(job: Job) -> dict[str, Any]:
  """Variables of the job's model as its seed and fold draw them."""
  key = jax.random.fold_in(jax.random.key(job.seed), job.fold)
  return models.initialise(job.network.model, key, job.network.spectrogram.bins)


def train_fold(
  job: Job,
  mesh: Mesh,
  data: input_pipeline.DeviceData,
  *,
  position: int,
) -> Iterator[None]:
  """Trains a fold to its end and leaves its artifacts, or goes on with it.

  Each `next` dispatches work to the mesh without waiting for it, so that a host
  loop over several jobs keeps all their devices busy. The order, for each
  phase: take over the best weights of the phase before, with fresh optimizer
  moments; for each epoch dispatch its chunks, each one's metrics fetched after
  the next was dispatched; validate when due; keep the weights if they are
  better; write the row; save; stop early if nothing improved for long. At the
  end the best weights score every set, the test set for the first time.

  Args:
    job: What to train.
    mesh: The devices to train on.
    data: The dataset on these devices.
    position: Line of the progress bar.

  Yields:
    After each dispatch.

  Raises:
    TrainingError: The loss or the validation loss is not finite.
  """
  key = jax.random.fold_in(jax.random.key(job.seed), job.fold)
  step_key, class_weights = sharding.replicate(
    (jax.random.fold_in(key, 1), job.class_weights), mesh
  )
  bounds = training_bounds(job)
  validation_chunks = set_chunks(job, 'validation')

  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      checkpoint.Checkpoints(job.folder / 'checkpoints')
    )
    progress, state, best = _restore(job, checkpoints, mesh)
    log = stack.enter_context(_open_log(job, progress, state, position))
    last_save = time.monotonic()

    def save_due():
      return time.monotonic() - last_save > 60 * job.checkpoint_minutes

    while progress.phase < len(job.phases):
      phase = job.phases[progress.phase]
      if not progress.begun:
        state = _begin(job, progress, best, state.step, mesh)
        progress.begun = True
      program = phase_program(job, phase, data, step_key, class_weights, mesh)

      while not _over(job, progress):
        chunks = epoch_chunks(job, bounds, progress.phase, progress.epoch + 1)
        begun = time.monotonic() - progress.seconds
        while progress.chunk < len(chunks):
          state = yield from train_chunks(
            program,
            state,
            chunks[progress.chunk :],
            mesh,
            count=lambda sums: _count(job, progress, sums, log),
            stop=save_due,
          )
          progress.seconds = time.monotonic() - begun
          if save_due():
            checkpoints.save(state, best, dataclasses.asdict(progress))
            last_save = time.monotonic()
        progress.epoch += 1

        validation = None
        if _validation_due(job, progress):
          outputs = evaluate.dispatch(
            state.variables,
            data,
            validation_chunks,
            class_weights,
            network=job.network,
            kind=phase.evaluated_as,
            mesh=mesh,
          )
          yield
          validation = evaluate.collect(validation_chunks, outputs).scores
          _check_finite(job, progress, validation['loss'])
          if validation['score'] > progress.best_score:
            best = _copy(state.variables)
            progress.best_score = validation['score']
            progress.best_phase = progress.phase
            progress.best_epoch = progress.last_improvement = progress.epoch
        _write_row(job, progress, state, validation, log)
        progress.begin_row()
        if validation is not None:
          checkpoints.save(state, best, dataclasses.asdict(progress))
          last_save = time.monotonic()

      log.bar.skip((phase.epochs - progress.epoch) * len(job.sets['train']))
      _next_phase(job, progress)
    yield from _write_results(job, mesh, data, class_weights, best, progress)


@dataclasses.dataclass
class _Log:
  """What tells of a job while it runs."""

  rows: writers.MetricsFile
  board: writers.TensorBoard
  bar: writers.ProgressBar


@contextlib.contextmanager
def _open_log(
  job: Job,
  progress: Progress,
  state: train_state.TrainState,
  position: int,
) -> Iterator[_Log]:
  epoch = len(job.sets['train'])
  epochs = [phase.epochs for phase in job.phases]
  done = epoch * (sum(epochs[: progress.phase]) + progress.epoch)
  board = writers.TensorBoard(
    job.folder / 'tensorboard',
    next_step=int(sharding.fetch(state.step)) + 1,
    enabled=job.tensorboard,
  )
  bar = writers.ProgressBar(
    job.name,
    total=epoch * sum(epochs),
    done=done + progress.records,
    position=position,
  )
  rows = writers.MetricsFile(
    job.folder / 'metrics.csv', progress.phase, progress.epoch
  )
  with contextlib.closing(board), contextlib.closing(bar):
    yield _Log(rows, board, bar)


def _restore(
  job: Job, checkpoints: checkpoint.Checkpoints, mesh: Mesh
) -> tuple[Progress, train_state.TrainState, dict[str, Any]]:
  """Progress, state and best weights: the latest kept, or the initial ones."""
  best = sharding.replicate(initial_variables(job), mesh)
  saved = checkpoints.progress()
  progress = Progress(**saved) if saved else Progress()
  state = _begin(job, progress, best, 0, mesh)
  if saved:
    best = checkpoints.restore_best(best)
    state = checkpoints.restore_state(state)
  return progress, state, best


def _begin(
  job: Job,
  progress: Progress,
  best: Mapping[str, Any],
  step: jax.Array | int,
  mesh: Mesh,
) -> train_state.TrainState:
  """The phase's initial state: the best weights with fresh moments."""
  trained = job.network.model.trained[job.phases[progress.phase].kind]
  state = train_state.begin_phase(_copy(best), step, trained)
  return sharding.replicate(state, mesh)


def _where(job: Job, phase: int, epoch: int) -> str:
  """Names an epoch for people; phases count from 0 as in metrics.csv."""
  phases, epochs = len(job.phases), job.phases[phase].epochs
  return f'phase {phase} of 0-{phases - 1}, epoch {epoch} of {epochs}'


def _over(job: Job, progress: Progress) -> bool:
  """Whether the phase ends here; always after a validation."""
  return (
    progress.epoch >= job.phases[progress.phase].epochs
    or progress.epoch - progress.last_improvement >= job.patience_epochs
  )


def _validation_due(job: Job, progress: Progress) -> bool:
  """Whether to validate after the epoch just completed."""
  return progress.epoch % job.validate_every_epochs == 0 or _over(job, progress)


def _check_finite(job: Job, progress: Progress, loss: float) -> None:
  """Refuses weights that the last step of an epoch spoilt."""
  if not math.isfinite(loss):
    raise TrainingError(
      f'{job.name}: the validation loss is {loss} in'
      f' {_where(job, progress.phase, progress.epoch)}: try a lower learning'
      ' rate in another --workdir.'
    )


def _next_phase(job: Job, progress: Progress) -> None:
  """Goes on to the next phase.

  Its network starts from the best weights. If it is the one that gave them
  their score, that stands (evaluation is deterministic: validating them again
  would give it again); another network has no score yet.
  """
  phase = job.phases[progress.phase]
  progress.phase += 1
  progress.begun = False
  progress.epoch = progress.last_improvement = 0
  following = job.phases[progress.phase : progress.phase + 1]
  if any(new.evaluated_as != phase.evaluated_as for new in following):
    progress.best_score = -math.inf
    progress.best_phase = progress.best_epoch = None


def _count(
  job: Job, progress: Progress, sums: metrics_lib.Metrics, log: _Log
) -> None:
  """Adds a finished chunk to the epoch's row."""
  progress.loss += float(sums.loss)
  progress.records += int(sums.records)
  progress.chunk += 1
  where = _where(job, progress.phase, progress.epoch + 1)
  if not math.isfinite(progress.loss):
    raise TrainingError(
      f'{job.name}: the loss is {progress.loss} in {where}, chunk'
      f' {progress.chunk}: try a lower learning rate in another'
      ' --workdir.'
    )
  log.bar.advance(
    int(sums.records),
    where=where,
    loss=progress.loss / progress.records,
    best=progress.best_score,
  )


def _write_row(
  job: Job,
  progress: Progress,
  state: train_state.TrainState,
  validation: Mapping[str, Any] | None,
  log: _Log,
) -> None:
  """Writes the row of the epoch just completed."""
  row = {
    'phase': progress.phase,
    'epoch': progress.epoch,
    'step': int(sharding.fetch(state.step)),
    'train_loss': progress.loss / progress.records,
    'validation_loss': validation and validation['loss'],
    'validation_score': validation and validation['score'],
    'learning_rate': job.phases[progress.phase].learning_rate,
    'records_per_second': progress.records / progress.seconds,
    'seconds': progress.seconds,
  }
  log.rows.append(row)
  log.board.write(row)
  log.bar.end_epoch(
    row,
    where=_where(job, progress.phase, progress.epoch),
    best=progress.best_score,
  )


def _copy(tree: Any) -> Any:
  """Arrays of their own, since a step takes over the memory of its state."""
  return jax.tree.map(jnp.copy, tree)


def _write_results(
  job: Job,
  mesh: Mesh,
  data: input_pipeline.DeviceData,
  class_weights: jax.Array,
  best: Mapping[str, Any],
  progress: Progress,
) -> Iterator[None]:
  """Scores every set with the best weights; scores.json, the last, ends it."""
  scores = {}
  for set_name in job.sets:
    chunks = set_chunks(job, set_name)
    outputs = evaluate.dispatch(
      dict(best),
      data,
      chunks,
      class_weights,
      network=job.network,
      kind=job.phases[-1].evaluated_as,
      mesh=mesh,
    )
    yield
    result = evaluate.collect(chunks, outputs)
    scores[set_name] = result.scores
    if set_name in summary.PREDICTION_FILES:
      evaluate.write_predictions(
        job.folder / summary.PREDICTION_FILES[set_name],
        result,
        job.dataset,
        fold=job.fold,
        label_version=job.label_version,
      )
  artifacts.write_scores(
    job.folder / 'scores.json',
    {
      'fold': job.fold,
      'seed': job.seed,
      'label_version': job.label_version,
      'max_records': job.max_records,
      'versions': artifacts.versions(),
      'commit': artifacts.commit(),
      'best': {'phase': progress.best_phase, 'epoch': progress.best_epoch},
      'sets': scores,
    },
  )

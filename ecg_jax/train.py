"""Trains one fold: the step, the chunk of steps, the loop."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ecg_jax import (
  artifacts,
  batch_axis,
  checkpoint,
  evaluate,
  forward,
  input_pipeline,
  models,
  optimizer,
  processes,
  sampler,
  sharding,
  summary,
  train_state,
  writers,
)
from ecg_jax import metrics as metrics_lib
from ecg_jax.errors import InputError, TrainingError

MOST_RESTORES = 3
"""Of a fold with on_nan 'restore', before it fails."""


class ChunkResult(NamedTuple):
  """What the host learns of a chunk."""

  metrics: metrics_lib.Metrics
  """Sums over its records."""
  bad_step: jax.Array
  """int32, the first step whose loss or gradient is not finite, or -1."""


# State, bucket, data, chunk, its number of steps, learning rate -> new state,
# result.
Program = Callable[
  [
    train_state.TrainState,
    int,
    input_pipeline.DeviceData,
    input_pipeline.ChunkArrays,
    jax.Array,
    jax.Array,
  ],
  tuple[train_state.TrainState, ChunkResult],
]


class NotFinite(Exception):  # noqa: N818
  """A loss or a gradient is no number any more; the message says where."""

  def __init__(self, message: str, restores: int):
    super().__init__(message)
    self.restores = restores
    """Times that training went back before."""


@dataclasses.dataclass(frozen=True)
class Job:
  """One fold to train, and all that decides what comes out."""

  name: str
  """What to call it in messages, like 'fold 0'."""
  folder: pathlib.Path
  """Where its artifacts go."""
  seed: int
  fold: int
  settings: Mapping[str, Any]
  """The fold, and the config's fields that decide the result; as JSON."""
  network: forward.Network
  phases: tuple[optimizer.Phase, ...]
  regularisation: optimizer.Regularisation
  dataset: input_pipeline.Dataset
  sets: Mapping[str, np.ndarray]
  """'train', 'validation', 'test' -> int32 positions in the dataset."""
  label_version: str
  class_weights: np.ndarray
  """float32 [4], in the loss."""
  repeats: np.ndarray | None
  """int [train records], of class-compensated sampling, or None."""
  max_samples: int | None
  """Samples of a recording that a step uses at most, or None for all."""
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
  on_nan: str
  """'stop' or 'restore': what to do about numbers that are not finite."""
  max_records: int | None
  """What the sets were thinned to, for the record."""
  devices_per_job: int | None
  """Devices to train on, or None: all there are, divided among the jobs."""
  kept_variables: Mapping[str, Any] | None
  """`params` and `batch_stats` to start from, or None for random ones."""


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
  restores: int = 0
  """Times that training went back because of numbers that are not finite."""

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
  regularisation: optimizer.Regularisation,
  kind: str,
  samples: int,
) -> tuple[train_state.TrainState, jax.Array, jax.Array, jax.Array]:
  """One step of AdamW on the mean weighted cross-entropy of a batch.

  Args:
    state: The state before.
    batch: Recordings; at least one row is valid.
    key: The step's random key.
    class_weights: float32 [4].
    learning_rate: float32 scalar.
    network: The static half of the forward pass.
    regularisation: Weight decay and average.
    kind: Which parameters are trained: a key of `network.model.trained`.
    samples: Length that the batch's signals are computed in.

  Returns:
    The state after, each row's probabilities [B, 4] and loss [B], and whether
    loss and gradients are finite.
  """
  trained, frozen = optimizer.split(state.params, network.model.trained[kind])

  def own_loss(trained):
    logits, batch_stats = forward.train_logits(
      network,
      {'params': {**trained, **frozen}, 'batch_stats': state.batch_stats},
      batch,
      key,
      samples=samples,
      kind=kind,
    )
    losses = forward.losses(logits, batch.labels, class_weights)
    loss = jnp.sum(losses, where=batch.mask) / records
    return loss, (logits, losses, batch_stats)

  records = batch_axis.total(jnp.sum(batch.mask))
  (loss, (logits, losses, batch_stats)), gradients = jax.value_and_grad(
    own_loss, has_aux=True
  )(trained)
  loss, gradients = batch_axis.total((loss, gradients))
  # A sum is not finite if a part of it is not.
  total = sum(jnp.sum(gradient) for gradient in jax.tree.leaves(gradients))
  finite = jnp.isfinite(loss + total)
  trained, moments = optimizer.update(
    trained,
    gradients,
    state.optimizer_state,
    learning_rate,
    regularisation.weight_decay,
  )
  params, average = {**trained, **frozen}, state.average
  if average:
    average = optimizer.update_average(
      average,
      {'params': params, 'batch_stats': batch_stats},
      network.model.trained[kind],
      state.step,
      regularisation.average_decay,
    )
  state = train_state.TrainState(
    params=params,
    batch_stats=batch_stats,
    optimizer_state=moments,
    average=average,
    step=state.step + 1,
  )
  return state, jax.nn.softmax(logits), losses, finite


@functools.partial(
  jax.jit,
  static_argnames=(
    'network',
    'regularisation',
    'kind',
    'samples',
    'window',
    'mesh',
  ),
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
  regularisation: optimizer.Regularisation,
  kind: str,
  samples: int,
  window: int,
  mesh: AbstractMesh,
) -> tuple[train_state.TrainState, ChunkResult]:
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
    regularisation: Weight decay and average.
    kind: Which parameters are trained.
    samples: The bucket: length that signals are computed in.
    window: Samples to cut out of the dataset for each record.
    mesh: How many devices the rows are divided over.

  Returns:
    The state after, and what came out.
  """

  def run(state, data, chunk, num_steps, key, class_weights, learning_rate):
    def step(index, carry):
      state, (metrics, bad_step) = carry
      batch = input_pipeline.take_batch(data, chunk, index, window)
      state, probabilities, losses, finite = train_step(
        state,
        batch,
        jax.random.fold_in(key, state.step),
        class_weights,
        learning_rate,
        network=network,
        regularisation=regularisation,
        kind=kind,
        samples=samples,
      )
      metrics = metrics.add(probabilities, batch.labels, losses, batch.mask)
      bad_step = jnp.where(finite | (bad_step >= 0), bad_step, index)
      return state, ChunkResult(metrics, bad_step)

    empty = ChunkResult(metrics_lib.Metrics.empty(), jnp.int32(-1))
    state, (metrics, bad_step) = jax.lax.fori_loop(
      0, num_steps, step, (state, empty)
    )
    return state, ChunkResult(batch_axis.total(metrics), bad_step)

  return sharding.on_own_rows(run, mesh)(
    state, data, chunk, num_steps, key, class_weights, learning_rate
  )


def phase_program(
  job: Job,
  phase: optimizer.Phase,
  key: jax.Array,
  class_weights: jax.Array,
  mesh: Mesh,
) -> Program:
  """`train_chunk` of a phase, with all that its chunks have in common."""

  def program(state, samples, data, chunk, num_steps, learning_rate):
    return train_chunk(
      state,
      data,
      chunk,
      num_steps,
      key,
      class_weights,
      learning_rate,
      **static_arguments(job, phase, samples, mesh),
    )

  return program


def static_arguments(
  job: Job, phase: optimizer.Phase, samples: int, mesh: Mesh
) -> dict[str, Any]:
  """What `train_chunk` is compiled for: phase, bucket, devices."""
  return {
    'network': job.network,
    'regularisation': job.regularisation,
    'kind': phase.kind,
    'samples': samples,
    'window': window_samples(job, samples),
    'mesh': mesh.abstract_mesh,
  }


def window_samples(job: Job, samples: int) -> int:
  """Samples that are cut out of the dataset for a bucket's recordings."""
  longest = int(_used_lengths(job).max())
  return sampler.window_samples(samples, longest, job.resampling)


def train_chunks(
  program: Program,
  state: train_state.TrainState,
  inputs: Iterable[input_pipeline.Inputs],
  chunks: Sequence[sampler.Chunk],
  learning_rates: Sequence[float],
  mesh: Mesh,
  *,
  count: Callable[[sampler.Chunk, ChunkResult], None],
  stop: Callable[[], bool],
) -> train_state.TrainState:
  """Dispatches chunks in order, one ahead of the results that are fetched.

  Args:
    program: From `phase_program`.
    state: The state before; its memory is taken over.
    inputs: Of each chunk, from `input_pipeline.feed`.
    chunks: What to train on.
    learning_rates: The one of each chunk.
    mesh: The devices.
    count: Is given each chunk and its result, on the host.
    stop: Asked after each chunk whether to leave the others.

  Returns:
    The state after; everything dispatched has been counted.
  """
  pending: list[tuple[sampler.Chunk, ChunkResult]] = []

  def count_first():
    chunk, result = pending.pop(0)
    count(chunk, sharding.fetch(result))

  for given, chunk, rate in zip(inputs, chunks, learning_rates, strict=True):
    learning_rate = sharding.replicate(np.float32(rate), mesh)
    state, result = program(state, chunk.samples, *given, learning_rate)
    pending.append((chunk, result))
    if stop():
      break
    if len(pending) > 1:
      count_first()
  while pending:
    count_first()
  return state


def training_bounds(job: Job) -> tuple[int, ...]:
  """The buckets of training."""
  return sampler.bucket_bounds(
    _used_lengths(job),
    num_buckets=job.training_buckets,
    resampling=job.resampling,
  )


def _used_lengths(job: Job) -> np.ndarray:
  """Samples of each recording that training uses, before resampling."""
  return np.minimum(job.dataset.lengths, job.max_samples or sys.maxsize)


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
    max_samples=job.max_samples,
    resampling=job.resampling,
    shortest=job.network.spectrogram.window_samples,
    bounds=bounds,
    batch_size=job.batch_size,
    chunk_steps=job.chunk_steps,
  )


def chunk_rates(
  phase: optimizer.Phase, epoch: int, num_chunks: int
) -> list[float]:
  """Learning rate of each chunk of an epoch (from 1): that of its middle."""
  return [
    phase.rate_at(epoch - 1 + (chunk + 0.5) / num_chunks)
    for chunk in range(num_chunks)
  ]


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
  """The variables given, or those that the job's seed and fold draw."""
  if job.kept_variables is not None:
    return dict(job.kept_variables)
  key = jax.random.fold_in(jax.random.key(job.seed), job.fold)
  return models.initialise(job.network.model, key, job.network.spectrogram.bins)


def train_fold(
  job: Job,
  mesh: Mesh,
  data: input_pipeline.Data,
  *,
  position: int,
  stop: Callable[[], bool] = lambda: False,
) -> None:
  """Trains a fold to its end and leaves its artifacts, or goes on with it.

  Numbers that are not finite end it, or with `on_nan` 'restore' take it back to
  the latest checkpoint, from which it goes on with other bursts and dropout.

  Args:
    job: What to train.
    mesh: The devices to train on.
    data: The dataset, from `input_pipeline.put_dataset`.
    position: Line of the progress bar.
    stop: Asked at each edge of a chunk whether to save and end before the end.

  Raises:
    TrainingError: A loss or a gradient is not finite.
    InputError: A file cannot be read or written.
  """
  restores = 0
  while True:
    try:
      _train_from_latest(job, mesh, data, position, restores, stop)
      return
    except NotFinite as error:
      restores = error.restores + 1
      advice = 'try a lower learning rate in another --workdir'
      if job.on_nan == 'stop':
        advice += ', or --config.on_nan restore'
      if job.on_nan == 'stop' or restores > MOST_RESTORES:
        raise TrainingError(f'{error}: {advice}.') from error
      print(
        f'{job.name}: {error}: going back to the latest checkpoint, {restores}'
        f' of {MOST_RESTORES} times.',
        file=sys.stderr,
      )


def _train_from_latest(
  job: Job,
  mesh: Mesh,
  data: input_pipeline.Data,
  position: int,
  restores: int,
  stop: Callable[[], bool],
) -> None:
  """Trains a fold from its latest checkpoint to its end.

  The order, for each phase: take over the best weights of the phase before,
  with fresh optimizer moments; for each epoch dispatch its chunks, each one's
  metrics fetched after the next was dispatched; validate when due; keep the
  weights if they are better; write the row; save; stop early if nothing
  improved for long. At the end the best weights score every set, the test set
  for the first time.

  Args:
    job: What to train.
    mesh: The devices to train on.
    data: The dataset, from `input_pipeline.put_dataset`.
    position: Line of the progress bar.
    restores: Restores so far, if the checkpoint knows of fewer.
    stop: Asked at each edge of a chunk whether to save and end.

  Raises:
    NotFinite: A loss or a gradient is not finite.
  """
  bounds = training_bounds(job)
  validation_chunks = set_chunks(job, 'validation')
  members, leads = sharding.members(mesh), sharding.leads(mesh)
  # By now the first has ended the save that it was at, if it goes back.
  processes.exchange(f'{job.name} opens {restores}', '', members)

  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      checkpoint.Checkpoints(
        job.folder / 'checkpoints',
        job.settings,
        read_only=not leads,
      )
    )
    progress, state, best = _restore(job, checkpoints, mesh)
    found = processes.exchange(
      f'{job.name} restored {restores}',
      artifacts.digest(dataclasses.asdict(progress)),
      members,
    )
    if len(set(found)) > 1:
      raise InputError(
        f'The processes found different checkpoints in {job.folder}: give them'
        ' one --workdir on a disk that they share, and start all again.'
      )
    progress.restores = max(progress.restores, restores)
    key = jax.random.fold_in(jax.random.key(job.seed), job.fold)
    step_key, class_weights = sharding.replicate(
      (jax.random.fold_in(key, 1 + progress.restores), job.class_weights), mesh
    )
    log = stack.enter_context(_open_log(job, progress, state, mesh, position))
    last_save = time.monotonic()
    save_due = processes.agreed(
      lambda: (
        leads and time.monotonic() - last_save > 60 * job.checkpoint_minutes
      ),
      f'{job.name} saves {restores}',
      members,
    )

    while progress.phase < len(job.phases):
      phase = job.phases[progress.phase]
      if not progress.begun:
        state = _begin(job, progress, best, state.step, mesh)
        progress.begun = True
      program = phase_program(job, phase, step_key, class_weights, mesh)

      while not _over(job, progress):
        chunks = epoch_chunks(job, bounds, progress.phase, progress.epoch + 1)
        rates = chunk_rates(phase, progress.epoch + 1, len(chunks))
        while progress.chunk < len(chunks):
          begun = time.monotonic() - progress.seconds
          coming = chunks[progress.chunk :]
          state = train_chunks(
            program,
            state,
            input_pipeline.feed(
              data, coming, mesh, functools.partial(window_samples, job)
            ),
            coming,
            rates[progress.chunk :],
            mesh,
            count=lambda chunk, result: _count(
              job, progress, chunk, result, log
            ),
            stop=lambda: save_due() or stop(),
          )
          progress.seconds = time.monotonic() - begun
          stopping = stop()
          if save_due() or stopping:
            checkpoints.save(state, best, dataclasses.asdict(progress))
            last_save = time.monotonic()
          if stopping:
            return
        progress.epoch += 1

        validation = None
        if _validation_due(job, progress):
          outputs = evaluate.dispatch(
            state.evaluated,
            data,
            validation_chunks,
            class_weights,
            network=job.network,
            kind=phase.evaluated_as,
            mesh=mesh,
          )
          validation = evaluate.collect(validation_chunks, outputs).scores
          _check_finite(job, progress, validation['loss'])
          if validation['score'] > progress.best_score:
            best = _copy(state.evaluated)
            progress.best_score = validation['score']
            progress.best_phase = progress.phase
            progress.best_epoch = progress.last_improvement = progress.epoch
        _write_row(job, progress, state, validation, log)
        progress.begin_row()
        if validation is not None:
          checkpoints.save(state, best, dataclasses.asdict(progress))
          last_save = time.monotonic()
          if stop():
            return

      log.bar.skip((phase.epochs - progress.epoch) * len(job.sets['train']))
      _next_phase(job, progress)
    checkpoints.wait()
    _write_results(job, mesh, data, class_weights, best, progress, stop)


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
  mesh: Mesh,
  position: int,
) -> Iterator[_Log]:
  leads = sharding.leads(mesh)
  epoch = len(job.sets['train'])
  epochs = [phase.epochs for phase in job.phases]
  done = epoch * (sum(epochs[: progress.phase]) + progress.epoch)
  board = writers.TensorBoard(
    job.folder / 'tensorboard',
    next_step=int(sharding.fetch(state.step)) + 1,
    enabled=job.tensorboard and leads,
  )
  bar = writers.ProgressBar(
    job.name,
    total=epoch * sum(epochs),
    done=done + progress.records,
    position=position,
    enabled=leads,
  )
  rows = writers.MetricsFile(
    job.folder / 'metrics.csv', progress.phase, progress.epoch, enabled=leads
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
  state = train_state.begin_phase(
    _copy(best),
    step,
    trained,
    averaged=job.regularisation.average_decay > 0,
  )
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
    where = _where(job, progress.phase, progress.epoch)
    raise NotFinite(
      f'the validation loss is {loss} after {where}', progress.restores
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
  job: Job,
  progress: Progress,
  chunk: sampler.Chunk,
  result: ChunkResult,
  log: _Log,
) -> None:
  """Adds a finished chunk to the epoch's row."""
  sums, bad_step = result.metrics, int(result.bad_step)
  where = _where(job, progress.phase, progress.epoch + 1)
  if bad_step >= 0:
    positions = chunk.records[bad_step][chunk.mask[bad_step]]
    records = ', '.join(job.dataset.records[index] for index in positions)
    raise NotFinite(
      f'the loss or a gradient is not finite in {where}, chunk'
      f' {progress.chunk + 1}, step {bad_step + 1} (records {records})',
      progress.restores,
    )
  progress.loss += float(sums.loss)
  progress.records += int(sums.records)
  progress.chunk += 1
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
  """Writes the row of the epoch just completed.

  Its learning rate is that of the middle of the epoch.
  """
  phase = job.phases[progress.phase]
  row = {
    'phase': progress.phase,
    'epoch': progress.epoch,
    'step': int(sharding.fetch(state.step)),
    'train_loss': progress.loss / progress.records,
    'validation_loss': validation and validation['loss'],
    'validation_score': validation and validation['score'],
    'learning_rate': phase.rate_at(progress.epoch - 0.5),
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
  data: input_pipeline.Data,
  class_weights: jax.Array,
  best: Mapping[str, Any],
  progress: Progress,
  stop: Callable[[], bool],
) -> None:
  """Scores every set with the best weights; scores.json, the last, ends it."""
  scores = {}
  for set_name in job.sets:
    if stop():
      return
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
    result = evaluate.collect(chunks, outputs)
    scores[set_name] = result.scores
    if set_name in summary.PREDICTION_FILES and sharding.leads(mesh):
      evaluate.write_predictions(
        job.folder / summary.PREDICTION_FILES[set_name],
        result,
        job.dataset,
        fold=job.fold,
        label_version=job.label_version,
      )
  if not sharding.leads(mesh):
    return
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

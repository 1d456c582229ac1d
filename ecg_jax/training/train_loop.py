"""Trains one fold: the step, the chunk of steps, the loop."""

import contextlib
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ecg_jax.errors import InputError, TrainingError
from ecg_jax.evaluation import eval_step
from ecg_jax.input_pipeline import device_data, sampler
from ecg_jax.runs import artifacts, checkpoint, metrics_csv, predictions
from ecg_jax.runtime import files, multihost, sharding
from ecg_jax.training import job as job_lib
from ecg_jax.training import optimizer, train_state, train_step, writers
from ecg_jax.training.job import Job, NotFinite, Progress
from ecg_jax.training.train_step import ChunkResult

MOST_RESTORES = 3
"""Of a fold with on_nan 'restore', before it fails."""


# State, bucket, data, chunk, its number of steps, learning rate -> new state,
# result.
Program = Callable[
  [
    train_state.TrainState,
    int,
    device_data.DeviceData,
    device_data.ChunkArrays,
    jax.Array,
    jax.Array,
  ],
  tuple[train_state.TrainState, ChunkResult],
]


def phase_program(
  job: Job,
  phase: optimizer.Phase,
  key: jax.Array,
  class_weights: jax.Array,
  mesh: Mesh,
) -> Program:
  """`train_chunk` of a phase, with all that its chunks have in common."""

  def program(state, samples, data, chunk, num_steps, learning_rate):
    return train_step.train_chunk(
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
    'window': job_lib.window_samples(job, samples),
    'mesh': mesh.abstract_mesh,
  }


def train_chunks(
  program: Program,
  state: train_state.TrainState,
  inputs: Iterable[device_data.Inputs],
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


def train_fold(
  job: Job,
  mesh: Mesh,
  data: device_data.Data,
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
  data: device_data.Data,
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
  bounds = job_lib.training_bounds(job)
  validation_chunks = job_lib.set_chunks(job, 'validation')
  members, leads = sharding.members(mesh), sharding.leads(mesh)
  # By now the first has ended the save that it was at, if it goes back.
  multihost.exchange(f'{job.name} opens {restores}', '', members)

  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      checkpoint.Checkpoints(
        job.folder / 'checkpoints',
        job.settings,
        read_only=not leads,
      )
    )
    progress, state, best = _restore(job, checkpoints, mesh)
    found = multihost.exchange(
      f'{job.name} restored {restores}',
      files.digest(dataclasses.asdict(progress)),
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
    save_due = multihost.agreed(
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
        chunks = job_lib.epoch_chunks(
          job, bounds, progress.phase, progress.epoch + 1
        )
        rates = job_lib.chunk_rates(phase, progress.epoch + 1, len(chunks))
        while progress.chunk < len(chunks):
          begun = time.monotonic() - progress.seconds
          coming = chunks[progress.chunk :]
          state = train_chunks(
            program,
            state,
            device_data.feed(
              data, coming, mesh, functools.partial(job_lib.window_samples, job)
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
          outputs = eval_step.dispatch(
            state.evaluated,
            data,
            validation_chunks,
            class_weights,
            network=job.network,
            kind=phase.evaluated_as,
            mesh=mesh,
          )
          validation = eval_step.collect(validation_chunks, outputs).scores
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

  rows: metrics_csv.MetricsFile
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
  rows = metrics_csv.MetricsFile(
    job.folder / 'metrics.csv', progress.phase, progress.epoch, enabled=leads
  )
  with contextlib.closing(board), contextlib.closing(bar):
    yield _Log(rows, board, bar)


def _restore(
  job: Job, checkpoints: checkpoint.Checkpoints, mesh: Mesh
) -> tuple[Progress, train_state.TrainState, dict[str, Any]]:
  """Progress, state and best weights: the latest kept, or the initial ones."""
  best = sharding.replicate(job_lib.initial_variables(job), mesh)
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
  data: device_data.Data,
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
    chunks = job_lib.set_chunks(job, set_name)
    outputs = eval_step.dispatch(
      dict(best),
      data,
      chunks,
      class_weights,
      network=job.network,
      kind=job.phases[-1].evaluated_as,
      mesh=mesh,
    )
    result = eval_step.collect(chunks, outputs)
    scores[set_name] = result.scores
    if set_name in predictions.FILES and sharding.leads(mesh):
      eval_step.write_predictions(
        job.folder / predictions.FILES[set_name],
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

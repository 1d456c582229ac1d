"""What reports on a fold while it trains."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ecg_jax.runs import metrics_csv
from ecg_jax.training import writers
from ecg_jax.training.job import Job
from ecg_jax.training.learning_rate import rate_at
from ecg_jax.training.progress import Progress


class Log:
  """metrics.csv, TensorBoard and the progress bar of one fold."""

  def __init__(
    self,
    job: Job,
    rows: metrics_csv.MetricsFile,
    board: writers.TensorBoard,
    bar: writers.ProgressBar,
  ):
    self._job, self._rows, self._board, self._bar = job, rows, board, bar

  def count_chunk(self, progress: Progress, records: int) -> None:
    """Reports a chunk of the epoch that `progress` has summed up so far."""
    self._bar.advance(
      records,
      where=self._job.where(progress.phase, progress.epoch + 1),
      loss=progress.loss / progress.records,
      best=progress.best_score,
    )

  def count_programs(self, ready: int, total: int) -> None:
    """Reports how many programs are compiled; in any thread."""
    self._bar.count_programs(ready, total)

  def end_epoch(
    self, progress: Progress, step: int, validation: Mapping[str, Any] | None
  ) -> None:
    """Writes the row of the epoch just completed.

    Args:
      progress: With the sums of the epoch.
      step: Steps since the job began.
      validation: Scores of the validation set, or None if it was not due.
    """
    phase = self._job.phases[progress.phase]
    row = {
      'phase': progress.phase,
      'epoch': progress.epoch,
      'step': step,
      'train_loss': progress.loss / progress.records,
      'validation_loss': validation and validation['loss'],
      'validation_score': validation and validation['score'],
      'learning_rate': rate_at(phase, progress.epoch - 0.5),  # Of its middle.
      'records_per_second': progress.records / progress.seconds,
      'seconds': progress.seconds,
    }
    for name in self._job.fold.metrics:
      value = validation and validation['metrics'][name]
      row[f'{metrics_csv.METRIC}{name}'] = value
    self._rows.append(row)
    self._board.write(row)
    self._bar.end_epoch(
      row,
      where=self._job.where(progress.phase, progress.epoch),
      best=progress.best_score,
    )

  def end_phase(self, progress: Progress) -> None:
    """Takes the epochs that an early stop saved off the progress bar."""
    left = self._job.phases[progress.phase].epochs - progress.epoch
    self._bar.skip(left * len(self._job.fold.sets['train']))


@contextlib.contextmanager
def open_log(
  job: Job, progress: Progress, next_step: int, position: int, *, enabled: bool
) -> Iterator[Log]:
  """Opens the files and the bar of a fold where its training goes on.

  Args:
    job: The job.
    progress: Where it stands.
    next_step: The step that comes next, from 1.
    position: The progress bar's line, 0 for the first.
    enabled: Whether this process reports on the job.
  """
  if enabled and next_step > 1:
    where = 'with its scores'
    if progress.phase < len(job.phases):
      where = f'after epoch {progress.epoch} of phase {progress.phase}'
    if progress.chunk:
      where = f'in epoch {progress.epoch + 1} of phase {progress.phase}'
    print(f'{job.name} goes on {where}.', flush=True)
  epoch = len(job.fold.sets['train'])
  epochs = [phase.epochs for phase in job.phases]
  done = epoch * (sum(epochs[: progress.phase]) + progress.epoch)
  board = writers.TensorBoard(
    job.folder / 'tensorboard',
    next_step=next_step,
    enabled=job.loop.tensorboard and enabled,
  )
  bar = writers.ProgressBar(
    job.name,
    total=epoch * sum(epochs),
    done=done + progress.records,
    position=position,
    enabled=enabled,
  )
  rows = metrics_csv.MetricsFile(
    job.folder / 'metrics.csv',
    progress.phase,
    progress.epoch,
    enabled=enabled,
    metrics=job.fold.metrics,
  )
  with contextlib.closing(board), contextlib.closing(bar):
    yield Log(job, rows, board, bar)

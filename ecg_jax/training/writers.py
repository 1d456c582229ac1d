"""Reports the progress of a job: TensorBoard and a progress bar."""

import contextlib
import datetime
import fcntl
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorboardX.summary
import tqdm
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2


class TensorBoard:
  """Scalars of each epoch for TensorBoard, or nothing when switched off.

  It is a view of metrics.csv: training goes on if it cannot be written.
  """

  def __init__(self, folder: pathlib.Path, *, next_step: int, enabled: bool):
    """Opens the folder; events from `next_step` on are replaced."""
    self._folder = folder
    self._file: event_file_writer.EventsWriter | None = None
    if enabled:
      with self._giving_up():
        folder.mkdir(parents=True, exist_ok=True)
        # SummaryWriter(purge_step=) writes in a thread: when the disk is full
        # the thread dies, and add_scalar blocks for ever once its queue of ten
        # events is full.
        self._file = event_file_writer.EventsWriter(str(folder / 'events'))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(next_step, session_log=start)
        self._file.flush()

  def write(self, row: dict[str, Any]) -> None:
    """Writes the fields of a row of metrics.csv."""
    if self._file is None:
      return
    with self._giving_up():
      for name, value in row.items():
        if value is not None and name != 'step':
          self._add(
            row['step'], summary=tensorboardX.summary.scalar(name, value)
          )
      self._file.flush()

  def close(self) -> None:
    """Releases the folder."""
    if self._file is not None:
      with self._giving_up():
        self._file.close()

  def _add(self, step: int, **content: Any) -> None:
    assert self._file is not None
    self._file.write_event(
      event_pb2.Event(wall_time=time.time(), step=step, **content)
    )

  @contextlib.contextmanager
  def _giving_up(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      self._file = None
      print(
        f'{self._folder} cannot be written ({error}): training goes on without'
        ' TensorBoard files.',
        file=sys.stderr,
      )


def share_terminal(path: str) -> None:
  """Draws bars while no other process does that shares the file at a path."""
  tqdm.tqdm.set_lock(_FileLock(path))


class _FileLock:
  """A lock that, unlike tqdm's own, ends with the process that holds it."""

  def __init__(self, path: str):
    self._file = open(path, 'w')  # noqa: SIM115
    self._threads, self._depth = threading.RLock(), 0

  def acquire(self) -> None:
    self._threads.acquire()
    if not self._depth:
      fcntl.flock(self._file, fcntl.LOCK_EX)
    self._depth += 1

  def release(self) -> None:
    self._depth -= 1
    if not self._depth:
      fcntl.flock(self._file, fcntl.LOCK_UN)
    self._threads.release()

  def __enter__(self) -> None:
    self.acquire()

  def __exit__(self, *error: object) -> None:
    self.release()


class ProgressBar:
  """Progress of a job: a bar on a terminal, else a plain line per epoch."""

  def __init__(
    self, name: str, *, total: int, done: int, position: int, enabled: bool
  ):
    """Starts the clock and, on a terminal, the bar.

    Args:
      name: Name of the job.
      total: Maximum number of training records, over all epochs.
      done: How many of them were trained on before this start.
      position: Line of the bar, 0 for the first.
      enabled: Whether this process prints.
    """
    self._name = name
    self._total, self._seen, self._begun = total, 0, time.monotonic()
    self._done, self._enabled = done, enabled
    self._programs = ''  # What is told of them.
    self._bar = tqdm.tqdm(
      desc=name,
      total=total,
      initial=done,
      position=position,
      unit=' records',
      dynamic_ncols=True,
      smoothing=0.05,
      disable=not (enabled and sys.stderr.isatty()),
      bar_format=(
        '{desc} {percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left'
        '{postfix}'
      ),
    )

  def count_programs(self, ready: int, total: int) -> None:
    """Tells, in any thread, how many programs are compiled, until all are."""
    told = f'{ready} of {total} programs compiled'
    self._programs = told if ready < total else ''
    if not self._seen:
      self._bar.set_postfix_str(self._programs)

  def advance(
    self, records: int, *, where: str, loss: float, best: float
  ) -> None:
    """Counts the records of a chunk.

    Args:
      records: Number of training records.
      where: Phase and epoch.
      loss: Mean training loss of the epoch so far.
      best: Best validation score so far, in percent; minus infinity if none.
    """
    self._seen += records
    parts = [where, f'loss {loss:.4f}']
    if best >= 0:
      parts.append(f'best validation {best:.1f}')
    if self._programs:
      parts.append(self._programs)
    self._bar.set_postfix_str(', '.join(parts), refresh=False)
    self._bar.update(records)

  def skip(self, records: int) -> None:
    """Subtracts records that an early stop saves."""
    self._total -= records
    self._bar.total -= records

  def end_epoch(self, row: dict[str, Any], *, where: str, best: float) -> None:
    """Prints a line for an epoch, unless the output is a terminal."""
    if not (self._enabled and self._bar.disable):
      return
    rate = self._seen / max(1e-9, time.monotonic() - self._begun)
    left = max(0, self._total - self._done - self._seen) / max(rate, 1e-9)
    score = row['validation_score']
    validation = (
      ''
      if score is None
      else f', validation loss {row["validation_loss"]:.4f} score {score:.1f}'
      f' (best {best:.1f})'
    )
    print(
      f'{self._name}, {where}: loss {row["train_loss"]:.4f}{validation},'
      f' {row["records_per_second"]:.1f} records/s,'
      f' {datetime.timedelta(seconds=round(left))} left',
      flush=True,
    )

  def close(self) -> None:
    """Closes the bar."""
    self._bar.close()

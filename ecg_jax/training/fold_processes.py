"""Folds in processes of their own, several of which share a device.

A fold with the paper's batches uses a small part of a GPU, and one process runs
one program at a time on it. So each fold gets a process, which does what the
command for this fold alone does. JAX is imported there only, once it is known
which device it may use.
"""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

import ml_collections

from ecg_jax import cli, errors
from ecg_jax.runtime import device_sharing
from ecg_jax.runtime.device_sharing import Devices

if TYPE_CHECKING:
  from ecg_jax.training.job import Job

_PAUSE_SECONDS = 0.1
"""After which `stop` is asked again."""


def run(
  jobs: 'Sequence[Job]',
  configs: Mapping[pathlib.Path, ml_collections.ConfigDict],
  devices: Devices,
  jobs_per_device: int,
  stop: Callable[[], bool],
) -> dict[str, Exception]:
  """Trains the jobs that are not finished, so many at once on each device.

  A job that fails, or whose process is killed, does not disturb the others.

  Args:
    jobs: All jobs of the command, finished ones too.
    configs: Folder of a run -> its config.
    devices: On which to train.
    jobs_per_device: Processes on each, at most.
    stop: Asked all the time whether to save and stop all jobs.

  Returns:
    Name -> error of each job that failed, in their order.
  """
  waiting = collections.deque(job for job in jobs if not job.finished)
  num_devices = len(devices.numbers)
  count = min(len(waiting), jobs_per_device * num_devices)
  sharers = -(-count // num_devices)  # Of the device that has the most.
  free = collections.deque(range(count))
  running: list[_FoldProcess] = []
  failed = {}
  with contextlib.ExitStack() as stack:
    mps: Mapping[str, str] = {}
    if sharers > 1 and devices.platform == 'gpu':
      service = device_sharing.multi_process_service(devices)
      mps = stack.enter_context(service)
    lock = stack.enter_context(tempfile.NamedTemporaryFile()).name
    stack.callback(_abandon, running)
    while running or (waiting and not stop()):
      while waiting and free and not stop():
        job, place = waiting.popleft(), free.popleft()
        variables = device_sharing.variables(
          devices, place % num_devices, sharers, os.environ, mps
        )
        fold = _Fold(
          job.name,
          configs[job.folder.parent],
          job.fold.number,
          job.folder.parent,
          place,
          count,
          lock,
          variables,
        )
        running.append(_FoldProcess(job, fold))
      if stop():
        for process in running:
          process.stop()
      told = wait([process.connection for process in running], _PAUSE_SECONDS)
      for process in [one for one in running if one.connection in told]:
        running.remove(process)
        if error := process.end():
          failed[process.job.name] = error
        free.append(process.place)
  return {job.name: failed[job.name] for job in jobs if job.name in failed}


@dataclasses.dataclass(frozen=True)
class _Fold:
  """What a process is told of its job."""

  name: str
  """In messages."""
  config: ml_collections.ConfigDict
  number: int
  run_folder: pathlib.Path
  place: int
  """Among the processes that run at once."""
  processes: int
  """How many run at once."""
  lock: str
  """File of `writers.share_terminal`."""
  variables: Mapping[str, str]
  """Of the environment, beside those of this process."""


class _FoldProcess:
  """The process of a fold, which ends with this one, however this one ends."""

  def __init__(self, job: 'Job', fold: _Fold):
    self.job, self.place = job, fold.place
    context = multiprocessing.get_context('spawn')
    # It says there why the fold failed; when it is closed, the process ends.
    self.connection, theirs = context.Pipe()
    self._stopped = False
    self._process = context.Process(target=_work, args=(theirs, fold))
    # A terminal sends Ctrl-C to all, and this process says what to do. So these
    # are blocked there from its start. That of the tracker would unblock them.
    resource_tracker.ensure_running()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
      self._process.start()
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()

  def stop(self) -> None:
    """Asks it to save and to end."""
    if not self._stopped:
      self._stopped = True
      with contextlib.suppress(OSError):  # It has ended.
        self.connection.send('stop')

  def end(self) -> Exception | None:
    """Waits for its end, which the connection told; returns why it failed."""
    said = None
    with contextlib.suppress(EOFError, OSError):
      said = self.connection.recv()
    self._process.join()
    self.connection.close()
    if sys.stderr.isatty():
      # Clears its bar and those below the cursor, which are drawn again.
      print('\r\x1b[J', end='', file=sys.stderr, flush=True)
    code = self._process.exitcode
    if said is not None:
      reason, code = said
    elif code and not (self._stopped or self.job.finished):
      how = signal.Signals(-code).name if code < 0 else f'exit code {code}'
      reason = (
        f'its process ended ({how}): start again with the same command to go on'
        ' from the last checkpoint, with a smaller --config.jobs_per_device if'
        ' there is too little memory'
      )
      reason = f'{self.job.name} failed: {reason}.'
      print(reason, file=sys.stderr)
    else:
      return None
    return (errors.InputError if code == 2 else errors.TrainingError)(reason)


def _abandon(running: Sequence[_FoldProcess]) -> None:
  """Ends what is left after an error."""
  for process in running:
    process.connection.close()


def _work(parent: Connection, fold: _Fold) -> None:
  """What the process of a fold does."""
  stopped = threading.Event()
  threading.Thread(target=_listen, args=(parent, stopped), daemon=True).start()
  os.environ.update(fold.variables)
  sys.exit(cli.run_command(lambda: _train(fold, parent, stopped), debug=False))


def _listen(parent: Connection, stopped: threading.Event) -> None:
  """Hears that the fold is to stop; ends this process if the parent ended."""
  try:
    while True:
      parent.recv()
      stopped.set()
  except (EOFError, OSError):
    os._exit(1)


def _train(fold: _Fold, parent: Connection, stopped: threading.Event) -> int:
  """Trains the fold; tells the parent if it fails."""
  from ecg_jax import experiment
  from ecg_jax.runs import checkpoint
  from ecg_jax.runtime import startup
  from ecg_jax.training import job_queue, writers
  from ecg_jax.training.job import make_job

  startup.enable_compilation_cache()
  checkpoint.report_failed_saves_once()
  writers.share_terminal(fold.lock)
  [data] = experiment.load_data([fold.config])
  job = make_job(fold.config, data, fold.number, fold.run_folder)
  job = dataclasses.replace(job, name=fold.name)
  # The line above the bars is for messages.
  failed = job_queue.run(
    [job],
    1,
    stopped.is_set,
    position=1 + fold.place,
    processes=fold.processes,
  )
  for error in failed.values():
    if cli.is_defect(error):
      traceback.print_exception(error)
    parent.send(cli.explain(error))
  return 0

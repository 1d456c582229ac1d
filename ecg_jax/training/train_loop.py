"""Trains one fold: the loop."""

import contextlib
import sys
from collections.abc import Callable

import jax

from ecg_jax.errors import TrainingError
from ecg_jax.input_pipeline import device_data
from ecg_jax.runtime.device_groups import DeviceGroup
from ecg_jax.training.fold_run import FoldRun, NotFinite, open_run
from ecg_jax.training.job import Job
from ecg_jax.training.programs import Programs

MOST_RESTORES = 3
"""Of a fold with on_nan 'restore', before it fails."""


def train_fold(
  job: Job,
  group: DeviceGroup,
  data: device_data.Data,
  *,
  position: int,
  threads: int = 1,
  stop: Callable[[], bool] = lambda: False,
) -> None:
  """Trains a fold to its end and leaves its artifacts, or goes on with it.

  Numbers that are not finite end it, or with `on_nan` 'restore' take it back to
  the latest checkpoint, from which it goes on with other bursts and dropout.

  Args:
    job: What to train.
    group: The devices to train on.
    data: The dataset, from `device_data.put_dataset`.
    position: Line of the progress bar.
    threads: How many compile its programs ahead.
    stop: Asked at each edge of a chunk whether to save and end before the end.

  Raises:
    TrainingError: A loss or a gradient is not finite.
    InputError: A file cannot be read or written.
  """
  restores = 0
  with contextlib.closing(Programs(group, threads)) as programs:
    while True:
      try:
        with open_run(
          job, group, data, programs, restores=restores, position=position
        ) as run:
          _train(run, stop)
        return
      except NotFinite as error:
        restores = error.restores + 1
        advice = 'try a lower learning rate in another --workdir'
        if job.loop.on_nan == 'stop':
          advice += ', or --config.on_nan restore'
        if job.loop.on_nan == 'stop' or restores > MOST_RESTORES:
          raise TrainingError(f'{error}: {advice}.') from error
        print(
          f'{job.name}: {error}: going back to the latest checkpoint,'
          f' {restores} of {MOST_RESTORES} times.',
          file=sys.stderr,
        )


def _train(run: FoldRun, stop: Callable[[], bool]) -> None:
  """Trains from the latest checkpoint on, unless `stop` ends it.

  Each phase takes over the best weights of the phase before. The result of a
  chunk is fetched after the next was dispatched. An epoch ends with the
  validation, if it is due, the row of metrics.csv and a save. The test set is
  scored last, once, with the best weights.
  """
  # Nothing goes from the host to the devices but by an explicit put.
  with jax.transfer_guard_host_to_device('disallow'):
    while not run.finished:
      run.begin_phase()
      while not run.phase_over:
        for work in run.remaining_chunks():
          run.dispatch(work)
          due, stopped = run.save_due(), stop()
          if due or stopped:
            run.save()
          if stopped:
            return
        saved = run.end_epoch()
        if saved and stop():
          return
      run.end_phase()
    run.write_results(stop)

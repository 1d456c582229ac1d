"""A run's finished folds, ready to answer: windows -> logits of each fold."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from ecg_jax import experiment
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward
from ecg_jax.runs import finished_run
from ecg_jax.runtime import sharding

LONGEST_SAMPLES = 18_286
"""Of the longest record at 300 Hz, of the challenge and of the synthetic set;
longer ones were never trained on."""


# Lengths that windows are padded to: half a minute, as most records have, and
# the longest record; longer windows to a multiple of that.
_BUCKETS = (9_000, LONGEST_SAMPLES)


@dataclasses.dataclass(frozen=True)
class TrainedFolds:
  """A run's finished folds with their kept weights."""

  run_folder: pathlib.Path
  config: ml_collections.ConfigDict
  """Of the run."""
  folds: tuple[int, ...]
  """Finished folds, in ascending order."""
  network: forward.Network
  """The static half of the forward pass, the same for all."""
  variables: tuple[dict[str, Any], ...]
  """`params` and `batch_stats` of each of `folds`, on the device."""
  learnt: tuple[Mapping[str, str], ...]
  """What shaped each of `folds`, as `learnt_from` finds it."""
  longest_samples: int = LONGEST_SAMPLES
  """Of the longest record that was trained on, at 300 Hz."""

  def logits(self, windows: Sequence[np.ndarray]) -> np.ndarray:
    """What each fold says of each window, as it did in training.

    Args:
      windows: int16 [samples] each, counts of 1/1000 mV at 300 Hz, of any
        lengths from the spectrogram's window on.

    Returns:
      float32 [folds, len(windows), 4], order N, A, O, ~.

    Raises:
      InputError: A window is too short.
    """
    lengths = np.array([len(window) for window in windows], np.int32)
    shortest = self.network.spectrogram.window_samples
    if np.any(lengths < shortest):
      raise InputError(
        f'A recording has {lengths.min()} samples at 300 Hz, less than the'
        f' {shortest} of one spectrum: give a longer one.'
      )
    found = np.zeros((len(self.folds), len(windows), 4), np.float32)
    buckets = np.array([bucket(length) for length in lengths], np.int64)
    outputs = []
    for samples in np.unique(buckets):
      (members,) = np.nonzero(buckets == samples)
      rows = min(
        self.config.evaluation_batch_size, 1 << (len(members) - 1).bit_length()
      )
      for part in np.array_split(members, -(-len(members) // rows)):
        batch = make_batch(
          [windows[index] for index in part], rows, int(samples)
        )
        outputs.append(
          (
            part,
            [_evaluate(self.network, fold, batch) for fold in self.variables],
          )
        )
    for part, of_folds in sharding.fetch(outputs):
      found[:, part] = np.stack(of_folds)[:, : len(part)]
    return found


def load(run_folder: str | pathlib.Path) -> TrainedFolds:
  """Loads the kept weights of all finished folds of a run; no data needed.

  Raises:
    InputError: There is no such run, none of its folds is finished, or a file
      of it is damaged or missing.
  """
  run_folder = pathlib.Path(run_folder).expanduser()
  config = finished_run.read_config(run_folder, manual_dir=None, data_dir=None)
  folds = finished_run.finished_folds(run_folder, config)
  network = experiment.make_network(config)
  mesh = sharding.make_mesh(jax.local_devices()[:1])
  return TrainedFolds(
    run_folder=run_folder,
    config=config,
    folds=folds,
    network=network,
    variables=tuple(
      finished_run.restore(run_folder, config, fold, network, mesh)
      for fold in folds
    ),
    learnt=tuple(finished_run.trained_on(run_folder, fold) for fold in folds),
  )


@functools.partial(jax.jit, static_argnames='network')
def _evaluate(
  network: forward.Network, variables: dict[str, Any], batch: Batch
) -> jax.Array:
  """Logits, float32 [B, 4]."""
  return forward.evaluate_logits(network, variables, batch, kind='all')


def bucket(length: int) -> int:
  """Samples that a window of this length is padded to."""
  for bucket in _BUCKETS:
    if length <= bucket:
      return bucket
  return -(-length // LONGEST_SAMPLES) * LONGEST_SAMPLES


def make_batch(windows: Sequence[np.ndarray], rows: int, samples: int) -> Batch:
  """The windows as a batch on the device, padded to rows x samples."""
  signal = np.zeros((rows, samples), np.int16)
  lengths = np.zeros(rows, np.int32)
  for row, window in enumerate(windows):
    signal[row, : len(window)] = window
    lengths[row] = len(window)
  unread = np.zeros_like(lengths), np.zeros(rows, np.float32)
  arrays = signal, lengths, lengths, lengths > 0, *unread
  return Batch(*map(jax.device_put, arrays))

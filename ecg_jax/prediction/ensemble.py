"""An ensemble: a run's finished folds, which compute logits of windows."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any

import jax
import ml_collections
import numpy as np

from ecg_jax import experiment
from ecg_jax.beats import r_peaks
from ecg_jax.datasets import schema
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward
from ecg_jax.recordings import lead
from ecg_jax.runs import artifacts, finished_run, released
from ecg_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """A run's finished folds with their saved weights."""

  run_folder: Traversable
  """The run, from `released.open_run`."""
  config: ml_collections.ConfigDict
  """Config of the run."""
  folds: tuple[int, ...]
  """Finished folds, in ascending order."""
  network: forward.Network
  """The static half of the forward pass, the same for all folds."""
  variables: tuple[dict[str, Any], ...]
  """`params` and `batch_stats` of each of `folds`, and `trees` where the run
  has some, on the device."""
  trained_on: tuple[Mapping[str, str], ...]
  """Records that shaped each of `folds`: `finished_run.trained_on`."""
  spec: schema.DatasetSpec
  """What the records are that they were trained on."""

  @property
  def encoding(self) -> lead.Encoding:
    """Rate and unit of the windows."""
    return lead.Encoding(
      self.spec.sampling_rate, self.spec.counts_per_millivolt
    )

  @property
  def has_trees(self) -> bool:
    """Whether each fold averages its network with trees."""
    return 'trees' in self.variables[0]

  @property
  def longest_samples(self) -> int:
    """Length of the longest record trained on."""
    assert self.spec.longest_samples is not None  # It was measured.
    return self.spec.longest_samples

  def bucket(self, length: int) -> int:
    """Number of samples that a window of this length is padded to.

    Half a minute, as most recordings have, or the longest record, if shorter;
    the longest record; longer windows to a multiple of that.
    """
    longest = self.longest_samples
    short = min(30 * self.spec.sampling_rate, longest)
    return short if length <= short else -(-length // longest) * longest

  @jax.enable_x64(False)
  def logits(self, windows: Sequence[np.ndarray]) -> np.ndarray:
    """Computes the logits of each fold for each window, as in training.

    Args:
      windows: int16 [samples] each, encoded as the records of `spec`, of any
        lengths from the spectrogram's window on.

    Returns:
      float32 [folds, len(windows), C], in the order of `spec.classes`.

    Raises:
      InputError: A window is too short.
    """
    lengths = [len(window) for window in windows]
    shortest = self.network.spectrogram.window_samples
    if min(lengths, default=shortest) < shortest:
      raise InputError(
        f'A recording has {min(lengths)} samples at'
        f' {self.spec.sampling_rate} Hz, less than the {shortest} of one'
        ' spectrum: give a longer one.'
      )
    shape = len(self.folds), len(windows), self.spec.num_classes
    logits = np.zeros(shape, np.float32)
    outputs = []
    for part, batch in self._batches(windows):
      with _one_platform():
        beats = _beat_features(self.network, batch) if self.has_trees else None
        by_fold = [
          evaluate_batch(self.network, x, batch, beats) for x in self.variables
        ]
      outputs.append((part, by_fold))
    for part, by_fold in sharding.fetch(outputs):
      logits[:, part] = np.stack(by_fold)[:, : len(part)]
    return logits

  @jax.enable_x64(False)
  def beats(self, windows: Sequence[np.ndarray]) -> list[r_peaks.Beats]:
    """Finds the R peaks of each window.

    Args:
      windows: int16 [samples] each, encoded as the records of `spec`.

    Returns:
      NumPy arrays, `positions` without the fill behind the last.
    """
    rate = self.spec.sampling_rate
    outputs = [
      (part, _find_beats(batch.signal, batch.signal_lengths, rate))
      for part, batch in self._batches(windows)
    ]
    found = {
      index: r_peaks.Beats(positions[:number], number, evenness)
      for part, beats in sharding.fetch(outputs)
      for index, positions, number, evenness in zip(part, *beats, strict=False)
    }
    return [found[index] for index in range(len(windows))]

  def _batches(
    self, windows: Sequence[np.ndarray]
  ) -> Iterator[tuple[np.ndarray, Batch]]:
    """Positions of windows that are padded alike, and a batch of them."""
    buckets = np.array([self.bucket(len(x)) for x in windows], np.int64)
    for samples in np.unique(buckets):
      (members,) = np.nonzero(buckets == samples)
      most = self.config.evaluation_batch_size
      rows = min(most, 1 << (len(members) - 1).bit_length())
      for part in np.array_split(members, -(-len(members) // rows)):
        yield part, make_batch([windows[k] for k in part], rows, int(samples))


@jax.enable_x64(False)  # As the run was trained, whatever a user computes.
def load(run_folder: str | Traversable | None) -> Ensemble:
  """Loads the saved weights of all finished folds of a run, without its data.

  Args:
    run_folder: The run, as `released.open_run` takes it.

  Raises:
    InputError: There is no such run, none of its folds is finished, a file of
      it is damaged or missing, or there is no device.
  """
  run_folder = released.open_run(run_folder)
  config = finished_run.read_config(run_folder, manual_dir=None, data_dir=None)
  folds = finished_run.finished_folds(run_folder, config)
  mesh = sharding.one_device()
  spec = artifacts.read_spec(run_folder)
  network = experiment.make_network(config, spec)
  with _one_platform():
    variables = tuple(
      finished_run.restore(run_folder, config, fold, network, mesh)
      for fold in folds
    )
  trained_on = tuple(finished_run.trained_on(run_folder, x) for x in folds)
  return Ensemble(
    run_folder, config, folds, network, variables, trained_on, spec
  )


def _one_platform() -> contextlib.AbstractContextManager[object]:
  """Where `platforms.choose` knows the platform, and traces for no other."""
  mesh = sharding.one_device()
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


@functools.partial(jax.jit, static_argnames='network')
def evaluate_batch(
  network: forward.Network,
  variables: dict[str, Any],
  batch: Batch,
  beats: jax.Array | None,
) -> jax.Array:
  """Logits, float32 [B, C]."""
  return forward.evaluate_logits(
    network, variables, batch, kind='all', beats=beats
  )


_beat_features = jax.jit(forward.beat_features_of, static_argnames='network')


@functools.partial(jax.jit, static_argnames='sampling_rate')
def _find_beats(
  signal_BxN: jax.Array, lengths: jax.Array, sampling_rate: int
) -> r_peaks.Beats:
  """Beats of each row."""
  find = functools.partial(r_peaks.find, sampling_rate=sampling_rate)
  return jax.vmap(find)(signal_BxN, lengths)


def make_batch(windows: Sequence[np.ndarray], rows: int, samples: int) -> Batch:
  """Pads windows to a batch of rows x samples, on the device."""
  signal = np.zeros((rows, samples), np.int16)
  lengths = np.zeros(rows, np.int32)
  for row, window in enumerate(windows):
    signal[row, : len(window)] = window
    lengths[row] = len(window)
  return jax.device_put(unlabeled_batch(signal, lengths))


def unlabeled_batch(signal: Any, lengths: Any) -> Batch:
  """A batch without labels, of arrays of NumPy or of JAX, as is given.

  Args:
    signal: int16 [B, samples].
    lengths: int32 [B], samples of each row; 0 for a row that is padding only.
  """
  return Batch(
    signal=signal,
    signal_lengths=lengths,
    lengths=lengths,
    mask=lengths > 0,
    labels=0 * lengths,
    weights=(0 * lengths).astype(np.float32),
  )

"""From samples to frames: masks, normalisation and the log-spectrogram.

Pure functions on arrays. B: batch, N: samples, T: frames, F: frequency bins.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.fields.data import SpectrogramFields

UNIT = 1000.0
"""Counts per mV in which spectrograms are computed, whatever the dataset's."""

# Standard deviation, in counts of 1/1000 mV, that 'record' scales every
# recording to; near the median of the PhysioNet 2017 records, so that the power
# floor has about the same effect with and without normalization.
NORMALISED_DEVIATION = 200.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrogram(SpectrogramFields):
  """Parameters of the log-spectrogram, in samples of the dataset's rate."""

  sampling_rate: int
  """Samples per second, Hz."""
  counts_per_millivolt: float = UNIT
  """Unit of the signal."""

  def __post_init__(self) -> None:
    super().__post_init__()
    window, most = self.window_samples, self.window_samples // 2 + 1
    self.require(
      self.kept_bins is None or self.kept_bins <= most,
      'kept_bins',
      f'not exceed {most}, as a window of {window} samples at'
      f' {self.sampling_rate} Hz has no more',
    )

  @property
  def bins(self) -> int:
    """Number of frequency bins, F."""
    return self.kept_bins or self.window_samples // 2 + 1


def valid(lengths: jax.Array, size: int) -> jax.Array:
  """Returns the bool mask [B, size] of the first `lengths` [B] positions."""
  return jnp.arange(size)[None, :] < lengths[:, None]


def num_frames(samples: Any, spectrogram: Spectrogram) -> Any:
  """Number of complete frames, not positive if there is none.

  Args:
    samples: An int or an integer array.
    spectrogram: Window and hop.
  """
  return (samples - spectrogram.window_samples) // spectrogram.hop_samples + 1


def normalise(
  signal_BxN: jax.Array, lengths: jax.Array, spectrogram: Spectrogram
) -> jax.Array:
  """Scales each recording to `UNIT`, and according to its `normalise`.

  Args:
    signal_BxN: Float32 counts, zero beyond each length.
    lengths: Valid samples, int32 [B].
    spectrogram: Its `normalise` is 'none' (the paper's) or 'record' (zero mean
      and NORMALISED_DEVIATION over the valid samples).

  Returns:
    The signal, float32 [B, N], zero beyond each length.
  """
  if spectrogram.counts_per_millivolt != UNIT:
    signal_BxN = signal_BxN * (UNIT / spectrogram.counts_per_millivolt)
  if spectrogram.normalise == 'none':
    return signal_BxN
  mask = valid(lengths, signal_BxN.shape[1])
  count = jnp.maximum(lengths, 1).astype(jnp.float32)[:, None]
  mean = jnp.sum(signal_BxN, axis=1, keepdims=True) / count
  centered = jnp.where(mask, signal_BxN - mean, 0.0)
  variance = jnp.sum(centered**2, axis=1, keepdims=True) / count
  # A constant recording stays zero.
  deviation = jnp.sqrt(jnp.maximum(variance, 1.0))
  return centered * (NORMALISED_DEVIATION / deviation)


def tukey_window(size: int, shape: float = 0.25) -> np.ndarray:
  """Tukey window: flat, with cosine edges.

  Args:
    size: Samples.
    shape: Fraction of the window in its two edges, above 0 and up to 1.

  Returns:
    Float64 [size], equal to `scipy.signal.get_window(('tukey', shape), size)`
    (periodic, for spectra); importing SciPy would add 1.5 s to every start.
  """
  position = np.arange(size) / size
  from_edge = np.minimum(position, 1 - position) / (shape / 2)
  return 0.5 - 0.5 * np.cos(np.pi * np.minimum(from_edge, 1))


def log_spectrogram(
  signal_BxN: jax.Array, lengths: jax.Array, spectrogram: Spectrogram
) -> tuple[jax.Array, jax.Array]:
  """Logarithm of the one-sided power spectral density of each frame.

  The power equals `scipy.signal.spectrogram(x, fs=sampling_rate,
  window=('tukey', 0.25), nperseg=window_samples, noverlap=window_samples -
  hop_samples)`: mean of the frame removed, density scaling. The transform is a
  matrix product, which suits accelerators and vmap better than short FFTs.

  Args:
    signal_BxN: Float32 counts; samples beyond a length have no effect.
    lengths: Valid samples, int32 [B].
    spectrogram: Window, hop, floor and sampling rate.

  Returns:
    log(max(power, floor)), float32 [B, T, F], zero in frames that are not
    completely inside the recording, and the number of valid frames, int32 [B].
    T is at least 1, so that a batch of recordings shorter than one window has
    a shape too.
  """
  size, hop = spectrogram.window_samples, spectrogram.hop_samples
  frames = max(1, num_frames(signal_BxN.shape[1], spectrogram))
  padding = max(0, size - signal_BxN.shape[1])
  signal_BxN = jnp.pad(signal_BxN, ((0, 0), (0, padding)))
  starts = jnp.arange(frames) * hop
  frame_BxTxW = signal_BxN[:, starts[:, None] + jnp.arange(size)[None, :]]
  frame_BxTxW -= frame_BxTxW.mean(axis=-1, keepdims=True)

  window = tukey_window(size)
  scale = 1 / (spectrogram.sampling_rate * np.sum(window**2))
  # One side represents both, except at zero and at the Nyquist frequency.
  sides = np.full(size // 2 + 1, 2.0)
  sides[0] = 1
  if size % 2 == 0:
    sides[-1] = 1
  transform = np.fft.rfft(np.eye(size), axis=1) * window[:, None]
  transform *= np.sqrt(scale * sides)
  transform = transform[:, : spectrogram.bins]

  def product(matrix):
    # By default accelerators multiply in reduced precision.
    return jnp.matmul(
      frame_BxTxW,
      matrix.astype(np.float32),
      precision=jax.lax.Precision.HIGHEST,
    )

  power = product(transform.real) ** 2 + product(transform.imag) ** 2
  log_power = jnp.log(jnp.maximum(power, spectrogram.power_floor))
  frame_lengths = jnp.maximum(num_frames(lengths, spectrogram), 0)
  mask = valid(frame_lengths, frames)
  return jnp.where(mask[:, :, None], log_power, 0.0), frame_lengths

"""From samples to frames: masks, normalisation and the log-spectrogram.

Pure functions of arrays. B: batch, N: samples, T: frames, F: frequency bins.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Standard deviation, in counts of 1/1000 mV, that 'record' scales every
# recording to; near the median of the PhysioNet 2017 records, so that the power
# floor means about the same with and without normalisation.
NORMALISED_DEVIATION = 200.0


@dataclasses.dataclass(frozen=True)
class Spectrogram:
  """What the log-spectrogram is computed with (paper, section 2.1)."""

  window_samples: int = 64
  """Length of the Tukey window."""
  hop_samples: int = 32
  """Distance between the starts of neighbouring frames."""
  power_floor: float = 1e-3
  """Smallest power, in counts^2 / Hz, before the logarithm."""
  sampling_rate: float = 300.0
  """In Hz."""
  normalise: str = 'none'
  """'none' or 'record'."""
  kept_bins: int | None = None
  """The lowest frequency bins that are kept, or None for all."""

  @property
  def bins(self) -> int:
    """Frequency bins, F."""
    return self.kept_bins or self.window_samples // 2 + 1


def valid(lengths: jax.Array, size: int) -> jax.Array:
  """Returns the bool mask [B, size] of the first `lengths` [B] positions."""
  return jnp.arange(size) < lengths[:, None]


def num_frames(samples: Any, spectrogram: Spectrogram) -> Any:
  """Number of whole frames in `samples` samples (an int or an int array)."""
  frames = (samples - spectrogram.window_samples) // spectrogram.hop_samples
  return (frames + 1) * (frames >= 0)


def normalise(
  signal_BxN: jax.Array, lengths: jax.Array, spectrogram: Spectrogram
) -> jax.Array:
  """Scales each recording as `spectrogram.normalise` says.

  Args:
    signal_BxN: Float32 counts of 1/1000 mV, zero behind each length.
    lengths: Int32 [B], valid samples.
    spectrogram: Its `normalise` is 'none' (as is, the paper's) or 'record'
      (zero mean and NORMALISED_DEVIATION over the valid samples).

  Returns:
    The signal, float32 [B, N], zero behind each length.
  """
  if spectrogram.normalise == 'none':
    return signal_BxN
  mask = valid(lengths, signal_BxN.shape[1])
  count = jnp.maximum(lengths, 1)[:, None]
  mean = jnp.sum(signal_BxN, axis=1, keepdims=True) / count
  centred = jnp.where(mask, signal_BxN - mean, 0.0)
  variance = jnp.sum(centred**2, axis=1, keepdims=True) / count
  # A constant recording stays zero.
  return centred * (NORMALISED_DEVIATION / jnp.sqrt(jnp.maximum(variance, 1.0)))


def tukey_window(size: int, shape: float = 0.25) -> np.ndarray:
  """The Tukey window: flat, with cosine edges over a share of its length.

  Args:
    size: Samples.
    shape: Share of the edges, both together, above 0 and up to 1.

  Returns:
    float64 [size], as `scipy.signal.get_window(('tukey', shape), size)` gives
    it for spectra (periodic); importing SciPy's would cost every start 1.5 s.
  """
  position = np.arange(size) / size
  from_edge = np.minimum(position, 1 - position) / (shape / 2)
  return 0.5 - 0.5 * np.cos(np.pi * np.minimum(from_edge, 1))


def log_spectrogram(
  signal_BxN: jax.Array, lengths: jax.Array, spectrogram: Spectrogram
) -> tuple[jax.Array, jax.Array]:
  """Logarithm of the one-sided power spectral density of each frame.

  The power is that of `scipy.signal.spectrogram(x, fs=sampling_rate,
  window=('tukey', 0.25), nperseg=window_samples, noverlap=window_samples -
  hop_samples)`: mean of the frame removed, density scaling. The transform is a
  matrix product, which accelerators and vmap like better than short FFTs.

  Args:
    signal_BxN: Float32 counts; what lies behind a length is not read.
    lengths: Int32 [B], valid samples.
    spectrogram: Window, hop, floor and sampling rate.

  Returns:
    log(max(power, floor)), float32 [B, T, F], zero in frames that are not
    wholly inside the recording, and the number of valid frames, int32 [B].
    T is at least 1, so that a batch of recordings shorter than one window has
    a shape too.
  """
  size, hop = spectrogram.window_samples, spectrogram.hop_samples
  frames = max(1, num_frames(signal_BxN.shape[1], spectrogram))
  padding = max(0, size - signal_BxN.shape[1])
  signal_BxN = jnp.pad(signal_BxN, ((0, 0), (0, padding)))
  starts = jnp.arange(frames) * hop
  frame_BxTxW = signal_BxN[:, starts[:, None] + np.arange(size)]
  frame_BxTxW -= frame_BxTxW.mean(axis=-1, keepdims=True)

  window = tukey_window(size)
  scale = 1 / (spectrogram.sampling_rate * np.sum(window**2))
  # One side stands for both, except at zero and at the Nyquist frequency.
  sides = np.full(size // 2 + 1, 2.0)
  sides[0] = 1
  if size % 2 == 0:
    sides[-1] = 1
  transform = np.fft.rfft(np.eye(size), axis=1) * window[:, None]
  transform *= np.sqrt(scale * sides)
  transform = transform[:, : spectrogram.bins]

  def product(matrix):
    # Without the precision an accelerator multiplies in a reduced one.
    return jnp.matmul(
      frame_BxTxW,
      matrix.astype(np.float32),
      precision=jax.lax.Precision.HIGHEST,
    )

  power = product(transform.real) ** 2 + product(transform.imag) ** 2
  log_power = jnp.log(jnp.maximum(power, spectrogram.power_floor))
  frame_lengths = num_frames(lengths, spectrogram)
  mask = valid(frame_lengths, frames)
  return jnp.where(mask[:, :, None], log_power, 0.0), frame_lengths

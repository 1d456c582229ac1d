"""Features of the signal apart from its beats: noise, spectra, f waves.

N: samples, S: blocks.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.beats import sliding
from ecg_jax.beats import statistics as stats
from ecg_jax.beats.statistics import Features

_FRAME_SECONDS = 0.2133
_BINS = (0, 1, 2, 3, 5, 7, 10, 14, 19)  # Of a frame's spectrum, 4.7 Hz each.
_ATRIAL = np.arange(3.0, 15.1, 0.5)  # Hz.
_AFTER, _BEFORE = 0.35, 0.1  # Seconds that a beat takes around its R peak.


def _whole(blocks_SxN: jax.Array, length: jax.Array) -> jax.Array:
  """Which blocks lie within the recording, [S]."""
  count, size = blocks_SxN.shape
  return (jnp.arange(count) + 1) * size <= length


def features(
  bands: dict[str, jax.Array], length: jax.Array, sampling_rate: int
) -> Features:
  """Levels of the parts of a signal by half seconds.

  Args:
    bands: 'slow', 'ecg', 'qrs' and 'fast' parts, float32 [N], 0 behind the end.
    length: int32, valid samples.
    sampling_rate: Hz.
  """
  half = {k: sliding.blocks(x, sampling_rate // 2) for k, x in bands.items()}
  whole_S = _whole(half['ecg'], length)
  power = {k: jnp.mean(x**2, axis=1) for k, x in half.items()}
  level = {k: jnp.sqrt(stats.mean(x, whole_S)) for k, x in power.items()}
  ecg = level['ecg'] + 1e-6
  levels_S = jnp.sqrt(power['ecg'])
  middle = stats.median(levels_S, whole_S) + 1e-6
  fast_10, fast_90 = stats.percentiles(jnp.sqrt(power['fast']), whole_S, 10, 90)
  [loud] = stats.percentiles(levels_S, whole_S, 90)
  third, fourth = (
    stats.mean(jnp.mean((half['ecg'] / ecg) ** order, axis=1), whole_S)
    for order in (3, 4)
  )
  second = sliding.blocks(bands['qrs'], sampling_rate)
  seconds = _whole(second, length)
  up = stats.median(jnp.max(second, axis=1), seconds)
  down = stats.median(jnp.max(-second, axis=1), seconds)
  return {
    'seconds': length.astype(jnp.float32) / sampling_rate,
    'level': jnp.log(ecg + 1),
    'level_least': _log(stats.minimum(levels_S, whole_S) / middle),
    'level_most': _log(stats.maximum(levels_S, whole_S) / middle),
    'level_90%': _log(loud / middle),
    'loud_share': stats.share(levels_S > 2.5 * middle, whole_S),
    'quiet_share': stats.share(levels_S < 0.3 * middle, whole_S),
    'fast': _log(level['fast'] / ecg),
    'fast_10%': _log(fast_10 / ecg),
    'fast_90%': _log(fast_90 / ecg),
    'slow': _log(level['slow'] / ecg),
    'skewness': third,
    'kurtosis': fourth,
    'upward': jnp.log((up + 1e-3) / (down + 1e-3)),
    **_spectrum(bands['ecg'] / ecg, length, sampling_rate),
  }


def _log(ratio: jax.Array) -> jax.Array:
  return jnp.log(ratio + 1e-4)


def _spectrum(
  x_N: jax.Array, length: jax.Array, sampling_rate: int
) -> Features:
  """Mean and spread over time of the log power at some frequencies."""
  size = round(_FRAME_SECONDS * sampling_rate)
  frames_SxN = sliding.blocks(x_N, size)
  whole_S = _whole(frames_SxN, length)
  frames_SxN -= jnp.mean(frames_SxN, axis=1, keepdims=True)
  waves = np.fft.rfft(np.eye(size) * np.hanning(size), axis=1)[:, _BINS]
  log_power = jnp.log(_power(frames_SxN, waves) + 1e-3)
  found = {}
  for column, place in enumerate(_BINS):
    name, values_S = f'power_{place}', log_power[:, column]
    found[f'{name}_mean'] = stats.mean(values_S, whole_S)
    if place in (1, 3, 7, 14):
      found[f'{name}_deviation'] = stats.deviation(values_S, whole_S)
      [found[f'{name}_90%']] = stats.percentiles(values_S, whole_S, 90)
  return found


def _power(x_SxN: jax.Array, waves_NxF: np.ndarray) -> jax.Array:
  """Squared magnitude of products with complex waves, [S, F]."""
  parts = (waves_NxF.real, waves_NxF.imag)
  # By default accelerators multiply in reduced precision.
  real, imaginary = (
    jnp.matmul(x_SxN, part.astype(np.float32), precision='highest')
    for part in parts
  )
  return real**2 + imaginary**2


def atrial_features(
  ecg_N: jax.Array,
  length: jax.Array,
  positions_K: jax.Array,
  height: jax.Array,
  sampling_rate: int,
) -> Features:
  """Activity between the T waves and the next beats, where f waves show.

  Args:
    ecg_N: float32.
    length: int32, valid samples.
    positions_K: R peaks, N behind the last.
    height: Of the typical QRS complex.
    sampling_rate: Hz.
  """
  size = ecg_N.shape[0]
  index = jnp.arange(size)
  beat_N = jnp.zeros(size, jnp.int32).at[positions_K].set(1, mode='drop')
  before_N = jnp.cumsum(beat_N)  # Beats up to each sample.
  begin = positions_K[before_N - 1] + round(_AFTER * sampling_rate)
  following = positions_K[jnp.minimum(before_N, positions_K.shape[0] - 1)]
  end = following - round(_BEFORE * sampling_rate)
  quiet_N = (before_N > 0) & (following < size)
  quiet_N &= (begin < index) & (index < end)
  quiet_SxN = sliding.blocks(quiet_N.astype(jnp.float32), sampling_rate)
  ecg_SxN = sliding.blocks(ecg_N, sampling_rate) * quiet_SxN
  number = jnp.sum(jnp.sum(quiet_SxN, axis=1))
  mean = jnp.sum(jnp.sum(ecg_SxN, axis=1)) / jnp.maximum(number, 1)
  centered_SxN = ecg_SxN - quiet_SxN * mean
  variance = jnp.sum(jnp.sum(centered_SxN**2, axis=1)) / jnp.maximum(number, 1)
  time = np.arange(sampling_rate)[:, None] / sampling_rate
  waves = np.exp(2j * np.pi * time * _ATRIAL)
  power_F = jnp.sum(_power(centered_SxN, waves), axis=0)
  found = {
    'tq_level': _log(jnp.sqrt(variance) / height),
    'tq_frequency': jnp.asarray(_ATRIAL, jnp.float32)[jnp.argmax(power_F)],
    'tq_concentration': jnp.max(power_F) / (jnp.sum(power_F) + 1e-6),
  }
  enough = number > sampling_rate
  return stats.known(enough, found)

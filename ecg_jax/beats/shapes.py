"""Features of the beats' shapes: the typical beat, P waves, other beats.

Beats are cut from 0.3 s before to 0.5 s after the R peak, at 150 Hz.

K: beats, W: samples of a beat.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.beats import r_peaks, rhythm
from ecg_jax.beats import statistics as stats
from ecg_jax.beats.statistics import Features

_RATE = 150
_R = 45  # Samples before the R peak.
_WIDTH = 120  # W.
_QRS = slice(_R - 10, _R + 13)
_WIDE_QRS = slice(_R - 22, _R + 30)
_P = slice(_R - 37, _R - 10)
_T = slice(_R + 17, _R + 65)

_ALIKE = 0.85  # Correlation of beats of one shape.


def cut(
  ecg_N: jax.Array,
  length: jax.Array,
  beats: r_peaks.Beats,
  sampling_rate: int,
) -> tuple[jax.Array, jax.Array]:
  """Cuts beats out of a recording.

  Returns:
    Beats, float32 [K, W], each of mean 0; and which of them lie within the
    recording, bool [K].
  """
  offsets = np.arange(-_R, _WIDTH - _R) * (sampling_rate / _RATE)
  index = beats.positions[:, None] + np.round(offsets).astype(np.int32)[None, :]
  whole_K = (index[:, 0] >= 0) & (index[:, -1] < length)
  beats_KxW = ecg_N.at[index].get(mode='fill', fill_value=0)
  beats_KxW = jnp.where(whole_K[:, None], beats_KxW, 0.0)
  return beats_KxW - jnp.mean(beats_KxW, axis=1, keepdims=True), whole_K


def typical(beats_KxW: jax.Array, mask_K: jax.Array) -> jax.Array:
  """Mean of that half of the beats that are most like the mean, [W]."""
  alike_K = stats.correlation(beats_KxW, _mean(beats_KxW, mask_K))
  return _mean(beats_KxW, mask_K & (alike_K >= stats.median(alike_K, mask_K)))


def height(beat_W: jax.Array) -> jax.Array:
  """From the lowest to the highest sample of the QRS complex."""
  return _span(beat_W[_QRS]) + 1e-6


def features(
  beats_KxW: jax.Array,
  whole_K: jax.Array,
  before_K: jax.Array,
  after_K: jax.Array,
) -> Features:
  """Features of three beats or more.

  Args:
    beats_KxW: From `cut`.
    whole_K: Which of them count.
    before_K: Interval before each beat / median of five around it, or NaN.
    after_K: The same of the interval after it.
  """
  typical_W = typical(beats_KxW, whole_K)
  found = {
    **_likeness(beats_KxW, whole_K, typical_W),
    **_waves(typical_W),
    **_p_waves(beats_KxW, whole_K, typical_W),
    **_others(beats_KxW, whole_K, before_K, after_K, typical_W),
  }
  enough = stats.count(whole_K) >= 3
  return stats.known(enough, found)


def _mean(x_KxW: jax.Array, mask_K: jax.Array) -> jax.Array:
  total = jnp.sum(jnp.where(mask_K[:, None], x_KxW, 0.0), axis=0)
  return stats.divide(total, jnp.maximum(stats.count(mask_K), 1.0))


def _span(x: jax.Array) -> jax.Array:
  return jnp.max(x, axis=-1) - jnp.min(x, axis=-1)


def _level(x_W: jax.Array) -> jax.Array:
  """Subtracts the line from the first to the last sample."""
  return x_W - jnp.linspace(x_W[0], x_W[-1], x_W.shape[0])


def _likeness(
  beats_KxW: jax.Array, whole_K: jax.Array, typical_W: jax.Array
) -> Features:
  """How far the beats are from the typical one."""
  alike = stats.correlation(beats_KxW, typical_W)
  qrs_alike = stats.correlation(beats_KxW[:, _QRS], typical_W[_QRS])
  t_alike = stats.correlation(beats_KxW[:, _T], typical_W[_T])
  heights = _span(beats_KxW[:, _QRS])
  middle = stats.median(heights, whole_K) + 1e-6
  noise_W = jnp.sqrt(_mean((beats_KxW - typical_W[None, :]) ** 2, whole_K))
  signal = jnp.std(typical_W) / (jnp.mean(noise_W) + 1e-6)
  return {
    **stats.summary('beat_likeness', alike, whole_K, 5, 25, 50),
    **stats.summary('qrs_likeness', qrs_alike, whole_K, 5, 25),
    't_likeness': stats.median(t_alike, whole_K),
    'beats_below_0.8': stats.count((alike < 0.8) & whole_K),
    'beats_below_0.9': stats.count((alike < 0.9) & whole_K),
    'qrs_below_0.8': stats.count((qrs_alike < 0.8) & whole_K),
    'height_deviation': stats.deviation(heights, whole_K) / middle,
    'height_most': stats.maximum(heights, whole_K) / middle,
    'height_least': stats.minimum(heights, whole_K) / middle,
    'signal_to_noise': jnp.log(signal + 1e-3),
  }


def _waves(typical_W: jax.Array) -> Features:
  """Heights, widths and places of the waves of the typical beat."""
  unit_W = stats.divide(typical_W, height(typical_W))
  p = unit_W[_P] - jnp.median(unit_W[_P])
  t = unit_W[_T] - jnp.median(unit_W[_T])
  wide = jnp.abs(unit_W[_WIDE_QRS])
  slope = jnp.abs(jnp.diff(unit_W[_R - 20 : _R + 25]))
  step = jnp.diff(unit_W[_R - 12 : _R + 18])
  is_large = jnp.abs(unit_W[_R - 11 : _R + 17]) > 0.12
  found = {
    'r_height': unit_W[_R],
    'p_peak': jnp.max(p),
    'p_trough': -jnp.min(p),
    'p_peak_place': jnp.argmax(p),
    'p_deviation': jnp.std(p),
    't_peak': jnp.max(t),
    't_trough': -jnp.min(t),
    't_place': jnp.argmax(jnp.abs(t)),
    't_area': jnp.sum(jnp.abs(t)),
    'qrs_width': jnp.sum(wide > 0.25 * jnp.max(wide)),
    'qrs_area': jnp.sum(wide),
    'qrs_balance': jnp.max(unit_W[_QRS]) + jnp.min(unit_W[_QRS]),
    'qrs_turns': jnp.sum((step[1:] * step[:-1] < 0) & is_large),
    'qrs_slope': jnp.max(slope),
    'qrs_slope_width': jnp.sum(slope > 0.2 * jnp.max(slope)),
  }
  for milliseconds in (-200, -147, -113, -33, 33, 67, 133, 180, 233, 313):
    place = _R + round(milliseconds * _RATE / 1000)
    found[f'typical_{milliseconds}_ms'] = unit_W[place]
  return found


def _p_waves(
  beats_KxW: jax.Array, whole_K: jax.Array, typical_W: jax.Array
) -> Features:
  """Whether the beats have the P wave of the typical one, at its place."""
  typical_P = _level(typical_W[_P])
  p_KxP = jax.vmap(_level)(beats_KxW[:, _P])
  place = jnp.argmax(jnp.abs(typical_P))
  peak = typical_P[place]
  alike = stats.correlation(p_KxP, typical_P)
  low, middle, high = stats.percentiles(alike, whole_K, 25, 50, 75)
  noise_P = jnp.sqrt(_mean((p_KxP - typical_P[None, :]) ** 2, whole_K))
  noise = jnp.mean(noise_P) + 1e-6
  places = jnp.argmax(p_KxP * jnp.sign(peak), axis=1).astype(jnp.float32)
  first, last = stats.percentiles(places, whole_K, 25, 75)
  bins = stats.histogram(places, whole_K, low=-0.5, high=26.5, bins=9)
  return {
    'p_height': jnp.abs(peak) / height(typical_W),
    'p_signed_height': peak / height(typical_W),
    'p_place': place,
    'p_peak_to_noise': jnp.abs(peak) / noise,
    'p_to_noise': jnp.std(typical_P) / noise,
    'p_likeness_25%': low,
    'p_likeness_50%': middle,
    'p_likeness_75%': high,
    'p_alike': stats.share(alike > 0.7, whole_K),
    'p_unlike': stats.share(alike < 0.2, whole_K),
    'p_place_interquartile': last - first,
    'p_place_mode': jnp.max(bins),
  }


def _others(
  beats_KxW: jax.Array,
  whole_K: jax.Array,
  before_K: jax.Array,
  after_K: jax.Array,
  typical_W: jax.Array,
) -> Features:
  """Early and wide beats, and beats of other shapes."""
  qrs_alike = stats.correlation(beats_KxW[:, _QRS], typical_W[_QRS])
  wide_KxQ = jnp.abs(beats_KxW[:, _WIDE_QRS])
  is_wide = wide_KxQ > 0.3 * jnp.max(wide_KxQ, axis=1, keepdims=True)
  widths = jnp.sum(is_wide, axis=1).astype(jnp.float32)
  width = stats.median(widths, whole_K)
  early = (before_K < rhythm.EARLY) & whole_K
  late_next = after_K > rhythm.LATE

  shapes_KxQ = beats_KxW[:, _R - 15 : _R + 30]
  left_K, sizes, groups = whole_K, [], []
  for _ in range(4):
    shape_Q = typical(shapes_KxQ, left_K)
    groups.append(left_K & (stats.correlation(shapes_KxQ, shape_Q) > _ALIKE))
    sizes.append(stats.share(groups[-1], whole_K))
    left_K &= ~groups[-1]
  main_K, others_K = groups[0], whole_K & ~groups[0]
  return {
    'width_mean': stats.mean(widths, whole_K),
    'width_deviation': stats.deviation(widths, whole_K),
    'width_most': stats.maximum(widths, whole_K) - width,
    'wide_beats': stats.count((widths > 1.4 * width) & whole_K),
    'shape_1': sizes[0],
    'shape_2': sizes[1],
    'shape_3': sizes[2],
    'shapeless': stats.count(left_K),
    'others': stats.count(others_K),
    'others_before': stats.minimum(before_K, others_K & (before_K > 0)),
    'others_after': stats.maximum(after_K, others_K & (after_K > 0)),
    'others_early': stats.count(early & others_K),
    'main_early': stats.count(early & main_K),
    'main_early_then_late': stats.count(early & late_next & main_K),
    'early_beats': stats.count(early),
    'early_likeness': stats.minimum(qrs_alike, early),
    'early_width': stats.maximum(widths / width, early),
  }

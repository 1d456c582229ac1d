"""Features of the times between beats (RR intervals).

Spread, ectopy and order are those that the literature on atrial fibrillation
uses: RMSSD and pNN50, Poincare's SD1 and SD2, sample entropy (Richman and
Moorman, 2000), turning points and the origin of the Lorenz plot (Sarkar et al.,
2008).

Limits, like 50 ms, are a part of a sample of 300 Hz beside what they are named
after: on a multiple of a sample the rounding of an interval would decide.

K: intervals.
"""

import jax
import jax.numpy as jnp

from ecg_jax.beats import statistics as stats
from ecg_jax.beats.statistics import Features

EARLY, LATE = 0.87, 1.05
"""Interval / median of five around it, of early and of late beats."""

_HALF_SAMPLE, _BESIDE = 0.5 / 300, 0.013 / 300  # Seconds.
_WINDOW, _STRIDE = 12, 4  # Intervals; a window is about ten seconds.


def features(rr_K: jax.Array, number: jax.Array) -> Features:
  """Features of the first `number` intervals, in seconds; three at least."""
  mask_K = jnp.arange(rr_K.shape[0]) < number
  found = {
    **stats.summary('rr', rr_K, mask_K, 5, 25, 50, 75, 95),
    **_spread(rr_K, mask_K),
    **_ectopy(rr_K, mask_K, number),
    **_successive(rr_K, mask_K),
    **_distribution(rr_K, mask_K),
    **_rate(rr_K, mask_K),
  }
  enough = number >= 3
  return stats.known(enough, found) | _windows(rr_K, number)


def _spread(rr_K: jax.Array, mask_K: jax.Array) -> Features:
  """Measures of irregularity, of a recording or of a window."""
  change = jnp.diff(rr_K)
  pairs = mask_K[1:]
  small = jnp.abs(change) < 0.0383
  close_KxK = jnp.abs(rr_K[:, None] - rr_K[None, :]) < 0.0583
  valid_KxK = mask_K[1:, None] & mask_K[None, 1:]
  alike_KxK = close_KxK[:-1, :-1] & valid_KxK
  itself = stats.count(pairs)
  candidates = stats.count(alike_KxK) - itself
  matches = stats.count(alike_KxK & close_KxK[1:, 1:]) - itself
  rmssd = jnp.sqrt(stats.mean(change**2, pairs))
  return {
    'rr_variation': stats.deviation(rr_K, mask_K) / stats.mean(rr_K, mask_K),
    'rr_rmssd': rmssd / stats.median(rr_K, mask_K),
    'rr_sample_entropy': jnp.log((candidates + 1.0) / (matches + 1.0)),
    'rr_steady': stats.share(small[1:] & small[:-1], mask_K[2:]),
  }


def _ectopy(rr_K: jax.Array, mask_K: jax.Array, number: jax.Array) -> Features:
  """Early beats, pauses, and what is left without them."""
  local_K = stats.running_median(rr_K, number)
  ratio_K = rr_K / local_K
  median = stats.median(rr_K, mask_K)
  early = ratio_K < EARLY
  late_next = ratio_K[1:] > LATE
  residual_K = rr_K - local_K
  size_K = jnp.abs(residual_K) / median
  most, second, third = jnp.sort(jnp.where(mask_K, -size_K, 0.0))[:3]
  most_75, most_90 = stats.percentiles(size_K, mask_K, 75, 90)
  clean_K = (jnp.abs(ratio_K - 1) < 0.13) & mask_K
  clean_mean = stats.mean(rr_K, clean_K)
  clean_change = stats.mean(jnp.diff(rr_K) ** 2, clean_K[1:] & clean_K[:-1])
  return {
    'early': stats.count(early & mask_K),
    'early_share': stats.share(early, mask_K),
    'early_then_late': stats.count(early[:-1] & late_next & mask_K[1:]),
    'residual_deviation': stats.deviation(residual_K, mask_K) / median,
    'residual_75%': most_75,
    'residual_90%': most_90,
    'residual_most': -most,
    'residual_second': -second,
    'residual_third': -third,
    'trend_deviation': stats.deviation(local_K, mask_K) / median,
    'pauses': stats.count((rr_K > 1.6017) & mask_K),
    'relative_pauses': stats.count((ratio_K > 1.5) & mask_K),
    'clean_variation': stats.deviation(rr_K, clean_K) / clean_mean,
    'clean_rmssd': jnp.sqrt(clean_change) / clean_mean,
  }


def _successive(rr_K: jax.Array, mask_K: jax.Array) -> Features:
  """How an interval follows from those before."""
  median = stats.median(rr_K, mask_K)
  change, pairs = jnp.diff(rr_K), mask_K[1:]
  size = jnp.abs(change)
  large = size > 0.0817
  turns = change[1:] * change[:-1] < -(_HALF_SAMPLE**2)
  regular = (size < 0.06 * median + _BESIDE) & pairs
  sd1 = stats.deviation(change, pairs) / jnp.sqrt(2.0)
  variance = 2 * stats.deviation(rr_K, mask_K) ** 2 - sd1**2
  sd2 = jnp.sqrt(jnp.maximum(variance, 1e-9))
  alternates = jnp.abs(rr_K[2:] - rr_K[:-2]) < 0.0383
  bins = stats.histogram(
    change / median, pairs, low=-0.523, high=0.527, bins=21
  )
  found = {
    'rr_nn50': stats.share(size > 0.0517, pairs),
    'rr_nn10%': stats.share(size > 0.1 * median + _BESIDE, pairs),
    'rr_sd1': sd1 / median,
    'rr_sd2': sd2 / median,
    'rr_sd_ratio': sd1 / sd2,
    'rr_turns': stats.share(turns, mask_K[2:]),
    'rr_unsteady': stats.share(large[1:] & large[:-1], mask_K[2:]),
    'rr_alternates': stats.share(alternates, mask_K[2:]),
    'rr_change_entropy': stats.entropy(bins),
    'regular_share': stats.share(regular, pairs),
    'regular_run': stats.longest_run(regular)
    / jnp.maximum(stats.count(pairs), 1.0),
  }
  centered_K = jnp.where(mask_K, rr_K - stats.mean(rr_K, mask_K), 0.0)
  power = jnp.sum(centered_K**2) + 1e-9
  for lag in (1, 2, 3, 4):
    product = jnp.sum(centered_K[lag:] * centered_K[:-lag])
    found[f'rr_correlation_{lag}'] = product / power
  return found


def _distribution(rr_K: jax.Array, mask_K: jax.Array) -> Features:
  """Intervals beside their median, whatever the order."""
  relative_K = stats.divide(rr_K, stats.median(rr_K, mask_K))
  low, high = stats.percentiles(relative_K, mask_K, 25, 75)
  short = stats.share(relative_K < 0.93, mask_K)
  long = stats.share(relative_K > 1.07, mask_K)
  bins = stats.histogram(relative_K, mask_K, low=0.352, high=1.752, bins=14)
  return {
    'rr_longest': stats.maximum(relative_K, mask_K),
    'rr_shortest': stats.minimum(relative_K, mask_K),
    'rr_interquartile': high - low,
    'rr_absolute_deviation': stats.median(jnp.abs(relative_K - 1), mask_K),
    'rr_two_lengths': jnp.minimum(short, long),
    'rr_entropy': stats.entropy(bins),
    'rr_mode': jnp.max(bins),
  }


def _rate(rr_K: jax.Array, mask_K: jax.Array) -> Features:
  """Heart rate, beats per minute, over five intervals; fast and slow beats."""
  last = rr_K.shape[0] - 4
  five = jnp.stack([rr_K[k : last + k] for k in range(5)]).mean(axis=0)
  longest = stats.maximum(five, mask_K[4:])
  shortest = stats.minimum(five, mask_K[4:])
  return {
    'rate_most': 60 / shortest,
    'rate_least': 60 / longest,
    'rate_ratio': longest / shortest,
    'fast_share': stats.share(rr_K < 0.5983, mask_K),
    'slow_share': stats.share(rr_K > 1.0517, mask_K),
  }


def _windows(rr_K: jax.Array, number: jax.Array) -> Features:
  """Extremes over windows of the measures of `_spread`."""
  starts = jnp.arange(0, rr_K.shape[0] - _WINDOW + 1, _STRIDE)
  windows = rr_K[starts[:, None] + jnp.arange(_WINDOW)[None, :]]
  whole = jnp.ones(_WINDOW, bool)
  measures = jax.vmap(_spread, (0, None))(windows, whole)
  inside = starts + _WINDOW <= number
  found = {}
  for name, values in measures.items():
    found[f'window_{name}_most'] = stats.maximum(values, inside)
    found[f'window_{name}_least'] = stats.minimum(values, inside)
  return found

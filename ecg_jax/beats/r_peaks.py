"""Finds the R peaks of a recording.

Band-pass, envelope, threshold relative to the envelope around, refractory time,
as Pan and Tompkins (1985) do it beat by beat, here on all samples at once. It
computes with integers, so peaks do not depend on platform, padding or batch.

N: samples, K: most beats.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ecg_jax.beats import sliding
from ecg_jax.beats import statistics as stats

REFRACTORY_SECONDS = 0.24
"""Beats are further apart."""

QRS_SECONDS = (0.023, 0.1)
"""Moving averages over these; QRS complexes pass their difference."""

# In seconds; chosen on the records of the challenge and of MIT-BIH.
_ENVELOPE = 0.1
_BLOCK = 0.25
_T_WAVE = 0.36  # Until then what is half as steep as the beat is its T wave.
_REACH = 0.067  # The R peak is this close to the envelope's maximum.

_BLOCKS_AROUND = 4  # Before, and after.
_THRESHOLD = (3, 8)  # A fraction of the maximum of these blocks.


class Beats(NamedTuple):
  """The R peaks of a recording."""

  positions: jax.Array
  """int32 [K], samples, ascending; N behind the last."""
  number: jax.Array
  """int32, how many there are."""
  evenness: jax.Array
  """float32, median over time of the least / the largest envelope of two
  seconds: small where QRS complexes stand out, 1 for a sine; 0 if shorter."""


def find(x_N: jax.Array, length: jax.Array, *, sampling_rate: int) -> Beats:
  """Finds the R peaks of one recording.

  Args:
    x_N: Integers of 16 bits, counts; not read behind the length.
    length: int32, valid samples.
    sampling_rate: Hz.
  """
  x_N = x_N.astype(jnp.int32)
  valid_N = jnp.arange(x_N.shape[0]) < length
  fast, slow, smooth, refractory = (
    round(seconds * sampling_rate)
    for seconds in (*QRS_SECONDS, _ENVELOPE, REFRACTORY_SECONDS)
  )
  x_N = jnp.where(valid_N, x_N, 0)
  for smoothed in (fast, 1):
    x_N = _band_pass(x_N, length, smoothed, slow)
  strength_N = jnp.abs(x_N)
  [envelope_N] = sliding.window_sums(strength_N, smooth)
  envelope_N >>= 5  # So that float32 holds it exactly.
  numerator, denominator = _THRESHOLD
  level_N = _largest_around(envelope_N, valid_N, sampling_rate)
  is_high = envelope_N * denominator > level_N * numerator
  candidates = jnp.where(is_high & valid_N, envelope_N, 0)
  peaks_N = _maxima(candidates, refractory)
  positions = _positions(peaks_N, strength_N, sampling_rate)
  return Beats(
    positions,
    jnp.sum(positions < x_N.shape[0]),
    _evenness(envelope_N, length, 2 * sampling_rate),
  )


def _band_pass(
  x_N: jax.Array, length: jax.Array, fast: int, slow: int
) -> jax.Array:
  """Difference of two moving averages; in units of 1/16 to 1/32 if `fast` > 1.

  Beside an end the averages are of the samples that are there. Zero behind it.
  """
  samples = x_N.shape[0]
  fast_sum, slow_sum = sliding.window_sums(x_N, fast, slow)
  fast_count, slow_count = sliding.window_counts(samples, length, fast, slow)
  difference = fast_sum * slow_count - slow_sum * fast_count
  # So that what follows does not overflow.
  difference >>= max(0, (fast * slow).bit_length() - 5)
  return jnp.where(jnp.arange(samples) < length, difference, 0)


def _largest_around(
  envelope_N: jax.Array, valid_N: jax.Array, sampling_rate: int
) -> jax.Array:
  """The envelope's maximum in the blocks around; artifacts count as less."""
  block = round(_BLOCK * sampling_rate)
  blocked = sliding.blocks(envelope_N, block)
  count = jnp.sum(sliding.blocks(valid_N, block).any(axis=1))
  largest = jnp.max(blocked, axis=1)
  before, after = sliding.neighbor_maxima(largest, _BLOCKS_AROUND)
  local = jnp.maximum(largest, jnp.maximum(before, after))
  index = jnp.arange(local.shape[0])
  last = jnp.maximum(count - 1, 0)
  beyond = jnp.iinfo(jnp.int32).max
  median = jnp.sort(jnp.where(index <= last, local, beyond))[last >> 1]
  # Not less than half of the median, or P waves would be beats in a pause.
  local = jnp.clip(local, median >> 1, 2 * median)
  level = stats.running_median(local, count)
  return jnp.repeat(level, block)[: envelope_N.shape[0]]


def _maxima(x_N: jax.Array, reach: int) -> jax.Array:
  """Where x is positive and the maximum of its neighbors, the first of equals.

  No two are as close as `reach`, which is how far neighbors are away.
  """
  before, after = sliding.neighbor_maxima(x_N, reach)
  return (x_N > before) & (x_N >= after)


def _positions(
  peaks_N: jax.Array, strength_N: jax.Array, sampling_rate: int
) -> jax.Array:
  """Positions of peaks, int32 [K], moved to the strongest sample nearby."""
  size = peaks_N.shape[0]
  block = round(REFRACTORY_SECONDS * sampling_rate)  # Has one peak at most.
  marks = sliding.blocks(jnp.where(peaks_N, jnp.arange(size) - size, 0), block)
  found = jnp.sort(jnp.min(marks, axis=1)) + size
  reach = round(_REACH * sampling_rate)
  around = found[:, None] + jnp.arange(-reach, reach + 1)[None, :]
  around = jnp.where(around < 0, size, around)  # Or it would be the last.
  strength = strength_N.at[around].get(mode='fill', fill_value=0)
  strongest = found - reach + jnp.argmax(strength, axis=1).astype(jnp.int32)
  positions = jnp.where(found < size, strongest, size)
  height = jnp.max(strength, axis=1)
  soon = jnp.diff(positions) < round(_T_WAVE * sampling_rate)
  is_t_wave = soon & (2 * height[1:] < height[:-1])
  beats = jnp.where(is_t_wave, size, positions[1:])
  return jnp.sort(positions.at[1:].set(beats))


def _evenness(
  envelope_N: jax.Array, length: jax.Array, block: int
) -> jax.Array:
  """See `Beats.evenness`."""
  blocked = sliding.blocks(envelope_N, block)
  least = jnp.min(blocked, axis=1).astype(jnp.float32)
  most = jnp.max(blocked, axis=1).astype(jnp.float32)
  whole = (jnp.arange(blocked.shape[0]) + 1) * block <= length
  count = jnp.sum(whole)
  ratio = jnp.where(whole, least / jnp.maximum(most, 1), 2.0)
  median = jnp.sort(ratio)[jnp.maximum(count - 1, 0) >> 1]
  return jnp.where(count > 0, median, 0.0)

"""The features of recordings: a row of numbers that tells of their beats.

B: batch, N: samples, F: features.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ecg_jax.beats import quality, r_peaks, rhythm, shapes, sliding
from ecg_jax.beats import statistics as stats
from ecg_jax.runtime import platforms

_COUNTS_PER_MILLIVOLT = 1000
_LEAST_SECONDS = 64

# Seconds that averages go over, whose differences are parts of the signal.
_SMOOTH, _BASELINE = 0.017, 1.5


@functools.cache
def names() -> tuple[str, ...]:
  """Names of the features, in the order of `compute`."""
  rate = 300
  # A row as `compute` has it: so it is traced once for both.
  shapes = (1, _LEAST_SECONDS * rate), (1,)
  rows = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)
  found = jax.eval_shape(
    lambda x, length: _of_recording(x[0], length[0], sampling_rate=rate), *rows
  )
  return tuple(sorted(found))


def compute(
  signal_BxN: jax.Array,
  lengths: jax.Array,
  *,
  sampling_rate: int,
  counts_per_millivolt: float,
) -> jax.Array:
  """Computes the features of recordings.

  On a CPU a row depends on its own valid samples only, bit for bit.

  Args:
    signal_BxN: Counts, int16 or float32; not read behind a length.
    lengths: int32 [B], valid samples.
    sampling_rate: Hz.
    counts_per_millivolt: Unit of the signal.

  Returns:
    float32 [B, F]; NaN where a recording has too few beats for a feature.
  """
  unit = _COUNTS_PER_MILLIVOLT / counts_per_millivolt
  if unit != 1 or not jnp.issubdtype(signal_BxN.dtype, jnp.integer):
    signal_BxN = jnp.round(signal_BxN.astype(jnp.float32) * unit)
  batch, samples = signal_BxN.shape
  # All recordings of up to a minute have arrays of one size, or padding would
  # change the order of sums; so would a program for a single row.
  rows = 0 if jax.export.is_symbolic_dim(batch) or batch > 1 else 2 - batch
  least = _LEAST_SECONDS * sampling_rate
  more = jax.core.max_dim(samples, least) - samples
  padded = jnp.pad(signal_BxN.astype(jnp.int32), ((0, rows), (0, more)))
  lengths = jnp.pad(lengths, (0, rows))
  of_one = functools.partial(_row, sampling_rate=sampling_rate)
  found = platforms.choose(
    padded,
    lengths,
    cpu=functools.partial(one_by_one, of_one),
    default=jax.vmap(of_one),
  )
  return found[:batch]


def one_by_one(
  function: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
  """Calls a function for each row of arrays, one after the other."""
  return jax.lax.map(lambda row: function(*row), arrays)


def _row(x_N: jax.Array, length: jax.Array, *, sampling_rate: int) -> jax.Array:
  """The features of a recording, float32 [F], in the order of `names`."""
  found = _of_recording(x_N, length, sampling_rate=sampling_rate)
  # One array: an operation for each of the names would take long to compile.
  return jnp.stack([found[name] for name in sorted(found)])


@functools.partial(jax.jit, static_argnames='sampling_rate')
def _of_recording(
  x_N: jax.Array, length: jax.Array, *, sampling_rate: int
) -> stats.Features:
  valid_N = jnp.arange(x_N.shape[0]) < length
  x_N = jnp.where(valid_N, x_N, 0)
  beats = r_peaks.find(x_N, length, sampling_rate=sampling_rate)
  rr_K = jnp.diff(beats.positions).astype(jnp.float32) / sampling_rate
  number = jnp.maximum(beats.number - 1, 0)
  relative_K = rr_K / stats.running_median(rr_K, number)
  is_interval = jnp.arange(rr_K.shape[0]) < number
  relative_K = jnp.where(is_interval, relative_K, jnp.nan)
  unknown = jnp.full(1, jnp.nan)
  bands = _bands(x_N, length, sampling_rate)
  cut = shapes.cut(bands['ecg'], length, beats, sampling_rate)
  minutes = length.astype(jnp.float32) / (60 * sampling_rate)
  return {
    'rate': beats.number.astype(jnp.float32) / minutes,
    'evenness': beats.evenness,
    **rhythm.features(rr_K, number),
    **shapes.features(
      *cut,
      before_K=jnp.concatenate([unknown, relative_K]),
      after_K=jnp.concatenate([relative_K, unknown]),
    ),
    **quality.features(bands, length, sampling_rate),
    **quality.atrial_features(
      bands['ecg'],
      length,
      beats.positions,
      shapes.height(shapes.typical(*cut)),
      sampling_rate,
    ),
  }


def _bands(
  x_N: jax.Array, length: jax.Array, sampling_rate: int
) -> dict[str, jax.Array]:
  """Parts of a signal by frequency, float32 counts; x is 0 behind the end."""
  samples = x_N.shape[0]
  seconds = (_SMOOTH, _BASELINE, *r_peaks.QRS_SECONDS)
  sizes = [round(each * sampling_rate) for each in seconds]
  sums = sliding.window_sums(x_N, *sizes)
  counts = sliding.window_counts(samples, length, *sizes)
  smooth_N, baseline_N, fast_N, slow_N = (
    total.astype(jnp.float32) / jnp.maximum(count, 1).astype(jnp.float32)
    for total, count in zip(sums, counts, strict=True)
  )
  parts = {
    'slow': baseline_N - baseline_N[0],
    'ecg': smooth_N - baseline_N,
    'qrs': fast_N - slow_N,
    'fast': x_N.astype(jnp.float32) - smooth_N,
  }
  valid_N = jnp.arange(samples) < length
  return {name: jnp.where(valid_N, part, 0.0) for name, part in parts.items()}

"""Features of the beats of a recording: a stand-in of three simple ones.

B: batch, N: samples, F: features.
"""

import jax
import jax.numpy as jnp

from ecg_jax.models import preprocessing

NAMES = ('seconds', 'deviation', 'mean_difference')
"""Of the features: s, mV and mV."""


def compute(
  signal: jax.Array,
  lengths: jax.Array,
  *,
  sampling_rate: int,
  counts_per_millivolt: float,
) -> jax.Array:
  """Computes the features of recordings.

  Args:
    signal: int16 or float32 [B, N], not read behind a length.
    lengths: Valid samples, int32 [B].
    sampling_rate: Hz.
    counts_per_millivolt: Unit of the signal.

  Returns:
    float32 [B, F], NaN where a feature cannot be computed.
  """
  mask = preprocessing.valid(lengths, signal.shape[1])
  scaled = signal.astype(jnp.float32) / counts_per_millivolt
  millivolts = jnp.where(mask, scaled, 0.0)
  count = lengths.astype(jnp.float32)
  mean = millivolts.sum(axis=1) / count
  square = jnp.where(mask, jnp.square(millivolts - mean[:, None]), 0.0)
  difference = jnp.abs(jnp.diff(millivolts, axis=1))
  difference = jnp.where(mask[:, 1:], difference, 0.0).sum(axis=1)
  return jnp.stack(
    [
      count / sampling_rate,
      jnp.sqrt(square.sum(axis=1) / count),
      difference / (count - 1),
    ],
    axis=1,
  )

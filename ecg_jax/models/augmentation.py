"""Random resampling and dropout bursts (paper, section 2.2).

Pure functions of arrays and an explicit key, on valid samples only. What a
recording is given depends on its own key, not on its padding or batch mates.
B: batch, N: samples.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ecg_jax.models import preprocessing


@dataclasses.dataclass(frozen=True)
class Bursts:
  """Stretches of samples set to zero, like a loose electrode."""

  span_samples: int
  """Samples zeroed round each random instant."""
  share: float
  """Expected share of a recording's samples covered, 0 (off) to below 1."""


def resample(
  signal_BxN: jax.Array,
  signal_lengths: jax.Array,
  lengths: jax.Array,
  size: int,
) -> jax.Array:
  """Stretches or squeezes each recording by linear interpolation.

  Sample j of the result stands at j * (n - 1) / (m - 1) of the n given
  samples, m being the new length: first and last sample stay. Positions are
  exact integers and remainders (float32 would be off by up to 1/500 sample at
  one minute), which holds while n * m < 2**32.

  Args:
    signal_BxN: Int16 or float32.
    signal_lengths: Int32 [B], valid samples n given.
    lengths: Int32 [B], valid samples m wanted.
    size: Samples of the result.

  Returns:
    Float32 [B, size], zero behind each length.
  """
  steps = jnp.maximum(lengths - 1, 1).astype(jnp.uint32)[:, None]
  last = jnp.maximum(signal_lengths - 1, 0).astype(jnp.uint32)[:, None]
  product = jnp.arange(size, dtype=jnp.uint32) * last
  left = jnp.minimum(product // steps, last)
  right = jnp.minimum(left + 1, last)
  share = (product % steps).astype(jnp.float32) / steps.astype(jnp.float32)

  def take(index):
    return jnp.take_along_axis(
      signal_BxN, index.astype(jnp.int32), axis=1, mode='clip'
    ).astype(jnp.float32)

  result = take(left) * (1 - share) + take(right) * share
  return jnp.where(preprocessing.valid(lengths, size), result, 0.0)


def drop_bursts(
  signal_BxN: jax.Array, keys: jax.Array, bursts: Bursts
) -> jax.Array:
  """Sets the samples round random instants to zero.

  Instants fall independently on each sample, also just outside the recording,
  with the probability at which a sample is covered by at least one of the
  `span_samples` instants round it with probability `share`.

  Args:
    signal_BxN: Float32.
    keys: Random keys [B], one a recording.
    bursts: Span and share.

  Returns:
    The signal with its bursts, float32 [B, N].
  """
  span = bursts.span_samples
  probability = 1 - (1 - bursts.share) ** (1 / span)
  size = signal_BxN.shape[1]
  instants = jax.vmap(
    lambda key: jax.random.bernoulli(key, probability, (size + span,))
  )(keys)
  count = jnp.cumsum(instants, axis=1, dtype=jnp.int32)
  covered = count[:, span:] > count[:, :-span]
  return jnp.where(covered, 0.0, signal_BxN)

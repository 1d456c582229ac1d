"""Random resampling and dropout bursts (paper, section 2.2).

Pure functions on arrays with explicit keys, on valid samples only. The changes
to a recording depend on its own key, not on its padding or the rest of the
batch. To add one, write its function, call it in `augment`, and add its fields
to `Augmentation` and, under the same names, to `config.augmentation`.

B: batch, N: samples.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ecg_jax.models import preprocessing


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Fields of `config.augmentation` that concern the resampled signal.

  The sampler uses the others.
  """

  bursts: bool = False
  """Whether to drop bursts: set segments to zero, like a loose electrode."""
  burst_span_samples: int = 15
  """Samples zeroed around each random instant."""
  burst_share: float = 0.2
  """Expected fraction of a recording's samples covered, 0 (off) to below 1."""


def augment(
  signal_BxN: jax.Array, keys: jax.Array, augmentation: Augmentation
) -> jax.Array:
  """Applies the random changes to resampled signals.

  Args:
    signal_BxN: Float32.
    keys: Random keys [B], one per recording. Bursts use them directly; another
      augmentation must derive its own by `jax.random.fold_in`.
    augmentation: What to apply.

  Returns:
    Float32 [B, N].
  """
  if augmentation.bursts and augmentation.burst_share > 0:
    signal_BxN = drop_bursts(
      signal_BxN,
      keys,
      augmentation.burst_span_samples,
      augmentation.burst_share,
    )
  return signal_BxN


def resample(
  signal_BxN: jax.Array,
  signal_lengths: jax.Array,
  lengths: jax.Array,
  size: int,
) -> jax.Array:
  """Resamples each recording to a new length by linear interpolation.

  Sample j of the result is at position j * (n - 1) / (m - 1) of the n original
  samples, m being the new length: first and last sample are preserved.
  Positions are exact integers and remainders (float32 would be off by up to
  1/500 sample at one minute), which holds while n * m < 2**32.

  Args:
    signal_BxN: Int16 or float32.
    signal_lengths: Int32 [B], valid samples n.
    lengths: Int32 [B], valid samples m of the result.
    size: Samples of the result.

  Returns:
    Float32 [B, size], zero beyond each length.
  """
  steps = jnp.maximum(lengths - 1, 1).astype(jnp.uint32)[:, None]
  last = jnp.maximum(signal_lengths - 1, 0).astype(jnp.uint32)[:, None]
  product = jnp.arange(size, dtype=jnp.uint32)[None, :] * last
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
  signal_BxN: jax.Array, keys: jax.Array, span: int, share: float
) -> jax.Array:
  """Sets the samples around random instants to zero.

  Instants occur independently at each sample, also just outside the recording,
  with the probability that makes a sample have at least one of the `span`
  instants around it with probability `share`.

  Args:
    signal_BxN: Float32.
    keys: Random keys [B], one per recording.
    span: Samples zeroed around each instant.
    share: Expected fraction of samples zeroed, 0 to below 1.

  Returns:
    The signal with its bursts, float32 [B, N].
  """
  probability = 1 - (1 - share) ** (1 / span)
  size = signal_BxN.shape[1]
  instants = jax.vmap(
    lambda key: jax.random.bernoulli(key, probability, (size + span,))
  )(keys)
  count = jnp.cumsum(instants, axis=1, dtype=jnp.int32)
  covered = count[:, span:] > count[:, :-span]
  return jnp.where(covered, 0.0, signal_BxN)

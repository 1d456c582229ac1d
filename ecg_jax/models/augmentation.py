"""Random resampling and dropout bursts (paper, section 2.2).

Pure functions on arrays with explicit keys, on valid samples only. The changes
to a recording depend on its own key, not on its padding or the rest of the
batch.

B: batch, N: samples.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ecg_jax.models import preprocessing


class Augmentation(Protocol):
  """A random change of the signals of a batch; a pure function.

  What it does to a recording depends on that recording and its key alone. An
  option is a further keyword, with the value of the field of its name in
  `config.augmentation`.
  """

  def __call__(
    self,
    signal_BxN: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    /,
    **options: Any,
  ) -> jax.Array:
    """Returns the changed signals.

    Args:
      signal_BxN: Float32 counts, zero beyond each length.
      lengths: Int32 [B], valid samples.
      keys: Random keys [B], one per recording.
      **options: Its own.
    """


def augment(
  signal_BxN: jax.Array,
  lengths: jax.Array,
  keys: jax.Array,
  augmentations: Sequence[Augmentation],
) -> jax.Array:
  """Applies augmentations to resampled signals, in order.

  Args:
    signal_BxN: Float32, zero beyond each length.
    lengths: Int32 [B], valid samples.
    keys: Random keys [B], one per recording. The first augmentation uses them
      directly, the others keys folded from them.
    augmentations: What to apply.

  Returns:
    Float32 [B, N], zero beyond each length.
  """
  for index, function in enumerate(augmentations):
    own = keys
    if index:
      own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
    signal_BxN = function(signal_BxN, lengths, own)
    mask = preprocessing.valid(lengths, signal_BxN.shape[1])
    signal_BxN = jnp.where(mask, signal_BxN, 0.0)
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
  signal_BxN: jax.Array,
  lengths: jax.Array,
  keys: jax.Array,
  *,
  burst_span_samples: int,
  burst_share: float,
) -> jax.Array:
  """Sets the samples around random instants to zero.

  Instants occur independently at each sample, also just outside the recording,
  with the probability that makes a sample have at least one of the instants in
  the span around it with probability `burst_share`.

  Args:
    signal_BxN: Float32.
    lengths: Not used: what is behind a length is zero.
    keys: Random keys [B], one per recording.
    burst_span_samples: Samples zeroed around each instant.
    burst_share: Expected fraction of samples zeroed, 0 to below 1.

  Returns:
    The signal with its bursts, float32 [B, N].
  """
  del lengths
  span = burst_span_samples
  probability = 1 - (1 - burst_share) ** (1 / span)
  size = signal_BxN.shape[1]
  instants = jax.vmap(
    lambda key: jax.random.bernoulli(key, probability, (size + span,))
  )(keys)
  count = jnp.cumsum(instants, axis=1, dtype=jnp.int32)
  covered = count[:, span:] > count[:, :-span]
  return jnp.where(covered, 0.0, signal_BxN)

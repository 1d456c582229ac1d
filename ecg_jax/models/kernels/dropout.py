"""Dropout whose mask is a cheap hash of each element's position.

JAX's own random bits (threefry) take about a hundred integer operations per
element: the mask of one layer of the paper's CRNN, 20 x 281 x 33 x 32 elements,
takes a CPU 126 ms, this one 1 ms. Dropout needs no more than two rounds of
multiply and shift over the element's index and a random 64-bit key. The index
is that in the global batch, so the mask does not depend on how the batch is
divided over devices. Used on every platform.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.runtime import collectives


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
  """Draws which elements to keep, each with probability 1 - rate.

  Args:
    key: Random key.
    rate: Probability of dropping an element, 0 to below 1.
    shape: Shape of this device's rows, batch first. Up to 2**32 elements of a
      row are drawn independently.

  Returns:
    Bool array of that shape.
  """
  first, second = jax.random.bits(key, (2,))
  rows = collectives.own_rows(
    jax.random.bits(
      jax.random.fold_in(key, 1), (collectives.size() * shape[0],)
    )
  )
  index = jnp.zeros(shape[1:], jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape) - 1)):
    position = jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis)
    index += position * jnp.uint32(stride & 0xFFFFFFFF)
    stride *= shape[1 + axis]
  bits = index + first
  bits = _scramble(bits)[None] ^ rows.reshape(-1, *[1] * (len(shape) - 1))
  bits = _scramble(bits + second)
  return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _scramble(bits: jax.Array) -> jax.Array:
  """Bijection of 32-bit words whose output bits depend on all input bits.

  Multipliers and shifts are those of `lowbias32`, the result of C. Wellons's
  search for the least bias among two-round multiply-xorshift hashes (2018).
  """
  bits ^= bits >> 16
  bits *= jnp.uint32(0x7FEB352D)
  bits ^= bits >> 15
  bits *= jnp.uint32(0x846CA68B)
  return bits ^ (bits >> 16)


class Dropout(nn.Module):
  """Sets elements to zero with probability `rate` and scales up the others."""

  rate: float
  """Probability of dropping an element, 0 to below 1."""
  whole_channels: bool = False
  """Whether to drop a channel in all frames of a recording or in none."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns x with dropout, or x itself if not `train`."""
    if not train or self.rate == 0:
      return x
    shape = x.shape
    if self.whole_channels:
      shape = (shape[0], *[1] * (x.ndim - 2), shape[-1])
    keep = keep_mask(self.make_rng('dropout'), self.rate, shape)
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))

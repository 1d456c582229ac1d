"""Dropout whose mask is a cheap hash of each element's position.

JAX's own random bits (threefry) take about a hundred integer operations per
element: the mask of one layer of the paper's CRNN, 20 x 281 x 33 x 32 elements,
takes a CPU 126 ms, this one 1 ms. Dropout needs no more than two rounds of
multiply and shift over the element's index and a random 64-bit key. The index
is that in the global batch, so the mask does not depend on how the batch is
divided over devices. Used on every platform.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.random import threefry2x32_p

from ecg_jax.runtime import collectives


def draw_noise(key: jax.Array, rows: int) -> jax.Array:
  """Draws the random words that make a dropout mask from a threefry key.

  They are `jax.random.bits(key, (2,))` and, for the rows of the global batch,
  the bits of `jax.random.fold_in(key, 1)`. Written as one elementwise operation
  they are one kernel on a GPU, where JAX's functions are several each.

  Args:
    key: Random key.
    rows: B, rows of this device.

  Returns:
    uint32 [2 + B], two for all rows and one for each of this device's.
  """
  index = jax.lax.iota(jnp.uint32, 2 + rows)
  is_word = index < 2
  number = index - 2 + jnp.uint32(rows) * jnp.uint32(collectives.position())

  def cipher(first, second, counter):
    zeros = jnp.zeros_like(counter)
    words = (zeros + first, zeros + second, zeros, counter)
    return threefry2x32_p.bind(*words)

  first, second = jax.random.key_data(key)[:2]
  folded = cipher(first, second, jnp.ones_like(index))
  bits = cipher(
    jnp.where(is_word, first, folded[0]),
    jnp.where(is_word, second, folded[1]),
    jnp.where(is_word, index, number),
  )
  return bits[0] ^ bits[1]


def keep_mask(noise: jax.Array, rate: float, index: jax.Array) -> jax.Array:
  """Draws which elements to keep, each with probability 1 - rate.

  Args:
    noise: From `draw_noise`.
    rate: Probability of dropping an element, 0 to below 1.
    index: uint32, each element's place in its row; up to 2**32 are drawn
      independently.

  Returns:
    Bool [B, ...] for every row and element.
  """
  first, second = noise[0], noise[1]
  rows = noise[2:].reshape(-1, *[1] * index.ndim)
  bits = _scramble(index + first)[None] ^ rows
  bits = _scramble(bits + second)
  return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def row_index(shape: Sequence[int]) -> jax.Array:
  """Numbers the elements of a row of this shape in order, uint32."""
  index = jnp.zeros(shape, jnp.uint32)
  for axis in range(len(shape)):
    stride = math.prod(shape[axis + 1 :]) & 0xFFFFFFFF
    position = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    index += position * jnp.uint32(stride)
  return index


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

  def noise(self, rows: int, *, train: bool) -> jax.Array | None:
    """Draws the words of this layer's mask, or None if it keeps all."""
    if not train or self.rate == 0:
      return None
    return draw_noise(self.make_rng('dropout'), rows)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns x with dropout, or x itself if not `train`."""
    noise = self.noise(x.shape[0], train=train)
    return drop(x, noise, self.rate, whole_channels=self.whole_channels)


def drop(
  x: jax.Array,
  noise: jax.Array | None,
  rate: float,
  *,
  whole_channels: bool = False,
) -> jax.Array:
  """Applies dropout as `Dropout` does; returns x itself without noise."""
  if noise is None:
    return x
  shape = x.shape[1:]
  if whole_channels:
    shape = (*[1] * (x.ndim - 2), x.shape[-1])
  keep = keep_mask(noise, rate, row_index(shape))
  return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))

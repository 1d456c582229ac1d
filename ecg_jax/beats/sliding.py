"""Blocks of a signal; sums and maxima over sliding windows of integers.

These are exact: the same on every platform and with any padding and batch.

N: samples.
"""

import jax
import jax.numpy as jnp


def blocks(x_N: jax.Array, size: int) -> jax.Array:
  """Consecutive blocks, [ceil(N / size), size], zeros behind the last."""
  count = -(-x_N.shape[0] // size)
  return jnp.pad(x_N, (0, count * size - x_N.shape[0])).reshape(count, size)


def window_sums(x_N: jax.Array, *sizes: int) -> list[jax.Array]:
  """Sums of as many samples around each; outside of x are zeros."""
  first, more = max(sizes) // 2 + 1, max(sizes)
  # Where running sums overflow, their differences are right all the same.
  running = jnp.cumsum(jnp.pad(x_N, (first, more)))

  def of_size(size):
    begin = first - size // 2 - 1  # Before the window of the first sample.
    end = begin + size
    samples = x_N.shape[0]
    return running[end : end + samples] - running[begin : begin + samples]

  return [of_size(size) for size in sizes]


def window_counts(
  samples: int, length: jax.Array, *sizes: int
) -> list[jax.Array]:
  """How many of these samples are there, int32 [N], of a recording's length."""

  def of_size(size):
    begin = jnp.arange(samples) - size // 2
    there = jnp.minimum(begin + size, length) - jnp.maximum(begin, 0)
    return jnp.maximum(there, 0)

  return [of_size(size) for size in sizes]


def neighbor_maxima(x_N: jax.Array, reach: int) -> tuple[jax.Array, jax.Array]:
  """Maxima of the samples before, and after, each.

  Args:
    x_N: int32, from 0 to 2**24.
    reach: How many samples count.
  """
  samples = x_N.shape[0]
  # A window of a block's size is the end of one and the beginning of the next.
  count = -(-samples // reach) + 2
  padding = (reach, (count - 1) * reach - samples)
  # ONNX Runtime has no maxima of integers.
  blocks = jnp.pad(x_N, padding).reshape(count, reach).astype(jnp.float32)
  end = jax.lax.cummax(blocks, axis=1, reverse=True).reshape(-1)
  beginning = jax.lax.cummax(blocks, axis=1).reshape(-1)

  def window(begin):
    last = begin + reach - 1
    largest = jnp.maximum(
      end[begin : begin + samples], beginning[last : last + samples]
    )
    return largest.astype(jnp.int32)

  return window(0), window(reach + 1)

"""5x5 convolutions as 3x3 convolutions of 2x2 frames and bins at once.

With 32 channels a 5x5 convolution reads every input 25 times for 32 results,
and an NVIDIA H100 waits for its L2 cache. Of blocks with four times the
channels each input is read 9 times for 128 results, which is 0.37 of that, for
1.48 times the operations; the results are the same. Activations stay in blocks
from layer to layer: [B, T / 2, F / 2, 4, C], the corners of a block frame by
frame, zero where the recording has no frame or bin.

B: batch, T: frames, F: frequency bins, I: channels in, O: channels out.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ecg_jax.models.kernels import convolution

_MOST_CHANNELS = {'float32': 32, 'bfloat16': 32}
"""Dtype -> channels up to which blocks pay, by the arithmetic above: with 64
channels the operations that blocks add take as long as the reads they save."""


def pay(channels: int, dtype: DTypeLike) -> bool:
  """Whether layers of so many channels are to compute in blocks."""
  return channels <= _MOST_CHANNELS.get(jnp.dtype(dtype).name, 0)


def to_blocks(x_BxTxFxC: jax.Array) -> jax.Array:
  """Puts frames and bins together in blocks; an odd one gets zeros beside it.

  Returns:
    [B, ceil(T / 2), ceil(F / 2), 4, C].
  """
  x = x_BxTxFxC
  _, frames, bins, channels = x.shape
  x = jnp.pad(x, ((0, 0), (0, frames % 2), (0, bins % 2), (0, 0)))
  x = x.reshape(len(x), -(-frames // 2), 2, -(-bins // 2), 2, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
    len(x), -(-frames // 2), -(-bins // 2), 4, channels
  )


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Computes `convolution.convolve` of an activation in blocks.

  Args:
    x: In blocks, [B, T / 2, F / 2, 4, I].
    kernel: [5, 5, I, O], float32.
    stride: 1 or 2.

  Returns:
    In blocks, [B, T / 2, F / 2, 4, O]; with stride 2, of which each block has
    one, not in blocks, [B, T / 2, F / 2, O].
  """
  channels_out = kernel.shape[-1]
  # Rounded behind the sums that its gradient has over the corners.
  kernel = block_kernel(kernel, corners=1 if stride == 2 else 4)
  x = x.reshape(*x.shape[:3], -1)
  y = convolution.library(x, kernel.astype(x.dtype), 1)
  if stride == 2:
    return y
  return y.reshape(*y.shape[:3], 4, channels_out)


@functools.partial(jax.jit, static_argnames='corners')
def block_kernel(kernel: jax.Array, *, corners: int) -> jax.Array:
  """The kernel of a convolution of blocks.

  Args:
    kernel: [5, 5, I, O].
    corners: Results of each block that it computes: all 4, or the first.

  Returns:
    [3, 3, 4 I, corners O].
  """
  _, _, channels_in, channels_out = kernel.shape
  # The kernel for a corner is shifted by it.
  shifted = [
    jnp.pad(kernel, ((row, 1 - row), (bin_, 1 - bin_), (0, 0), (0, 0)))
    for row in (0, 1)
    for bin_ in (0, 1)
  ][:corners]
  kernel = jnp.stack(shifted, axis=-2)
  kernel = kernel.reshape(3, 2, 3, 2, channels_in, -1)
  return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(
    3, 3, 4 * channels_in, corners * channels_out
  )


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
  """Computes `max_pool.max_pool` of an activation in blocks.

  Args:
    x: In blocks, not negative, [B, T / 2, F / 2, 4, C].

  Returns:
    [B, T / 2, F / 2, C].
  """
  return jnp.max(x, axis=3)


def _forward(x):
  largest = max_pool(x)
  return largest, (x, largest)


def _backward(residuals, gradient):
  x, largest = residuals
  # As of `max_pool.max_pool`, to the first of several.
  equal = x == largest[..., None, :]
  corners = [equal[..., corner, :] for corner in range(4)]
  taken = jnp.zeros_like(corners[0])
  shares = []
  for corner in corners:
    shares.append(jnp.where(corner & ~taken, gradient, 0))
    taken |= corner
  return (jnp.stack(shares, axis=3),)


max_pool.defvjp(_forward, _backward)

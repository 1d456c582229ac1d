"""Max-pooling whose gradient costs no more than its value.

That of XLA's own looks for the maximum of every window one by one on a CPU, and
scatters on a GPU.
"""

import functools

import jax
import jax.numpy as jnp


@jax.custom_vjp
def max_pool(x_BxTxFxC: jax.Array) -> jax.Array:
  """The maximum of each 2x2 frames and bins, of x that is nowhere below 0.

  Where several are the largest the gradient goes to the first, frame by frame.

  Args:
    x_BxTxFxC: Any numbers of frames and bins; where one is odd, the last
      window has one frame or bin.

  Returns:
    [B, ceil(T / 2), ceil(F / 2), C].
  """
  return functools.reduce(jnp.maximum, _corners(x_BxTxFxC))


def _corners(x):
  """Of each window the first, second, third and fourth element."""
  x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
  return [x[:, frame::2, bin_::2] for frame in (0, 1) for bin_ in (0, 1)]


def _forward(x):
  return max_pool(x), x


def _backward(x, gradient):
  corners = _corners(x)
  largest = functools.reduce(jnp.maximum, corners)
  open_ = jnp.ones(largest.shape, bool)
  shares = []
  for corner in corners:
    first = open_ & (corner == largest)
    open_ &= ~first
    shares.append(jnp.where(first, gradient, 0))
  # Side by side again, faster than each spread out over zeros.
  rows = [jnp.stack(shares[k : k + 2], axis=3) for k in (0, 2)]
  windows = jnp.stack(rows, axis=2)
  batch, frames, _, bins, _, channels = windows.shape
  whole = windows.reshape(batch, 2 * frames, 2 * bins, channels)
  return (whole[:, : x.shape[1], : x.shape[2]],)


max_pool.defvjp(_forward, _backward)

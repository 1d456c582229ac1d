"""The 2-D convolution, with gradients that are fast on every platform.

On a GPU all of it is XLA's (cuDNN's). On a CPU, XLA brings neither gradient
convolution into its fast layout inside a loop, so both are written as what it
is fast at: the gradient by the input as a plain forward convolution, the
gradient by the kernel as matrix products row by row. The choice is made when
the program is lowered for a platform.

B: batch, T: frames, F: frequency bins, I: channels in, O: channels out.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def _plain(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x_BxTxFxI: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves with zeros around: output t is centred on input t * stride.

  The padding is the same for every length, unlike 'SAME', so that valid frames
  do not depend on how much padding follows them.

  Args:
    x_BxTxFxI: Input.
    kernel: [5, 5, I, O].
    stride: 1 or 2, of both time and frequency.

  Returns:
    [B, ceil(T / stride), ceil(F / stride), O].
  """
  half = kernel.shape[0] // 2
  return _plain(x_BxTxFxI, kernel, stride, ((half, half), (half, half)))


def _forward(x, kernel, stride):
  return convolve(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
  x, kernel = residuals
  return lax.platform_dependent(
    x,
    kernel,
    gradient,
    cpu=lambda x, kernel, gradient: (
      _input_gradient(x, kernel, gradient, stride),
      _kernel_gradient(x, kernel, gradient, stride),
    ),
    default=lambda x, kernel, gradient: jax.vjp(
      lambda x, kernel: convolve.fun(x, kernel, stride), x, kernel
    )[1](gradient),
  )


convolve.defvjp(_forward, _backward)


def _input_gradient(x, kernel, gradient, stride):
  """The gradient by the input as one convolution without dilation."""
  size, _, channels_in, channels_out = kernel.shape
  half = size // 2
  if stride == 1:
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return _plain(gradient, flipped, 1, ((half, half), (half, half)))
  # Input 2 u + q is reached from output u + j through tap half + q - 2 j, so
  # each parity q of the input is a convolution of its own with every second
  # tap. All four (time, frequency) go side by side as channels of one.
  assert size == 5, size
  assert stride == 2, stride
  taps = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  taps = taps.reshape(3, 2, 3, 2, channels_in, channels_out)[::-1, :, ::-1]
  taps = taps.transpose(0, 2, 5, 1, 3, 4)
  taps = taps.reshape(3, 3, channels_out, 4 * channels_in)
  parts = _plain(gradient, taps, 1, ((1, 1), (1, 1)))
  batch, frames, bins, _ = gradient.shape
  parts = parts.reshape(batch, frames, bins, 2, 2, channels_in)
  parts = parts.transpose(0, 1, 3, 2, 4, 5)
  whole = parts.reshape(batch, 2 * frames, 2 * bins, channels_in)
  return whole[:, : x.shape[1], : x.shape[2]]


def _kernel_gradient(x, kernel, gradient, stride):
  """The gradient by the kernel as one matrix product a recording.

  Its rows are frames and bins. Taps in frequency, and the parities of a stride
  in time, stand side by side as columns of the left factor; taps in time as
  columns of the right one, which is the output's gradient moved by whole
  frames. So both factors are wide, which matrix products are fast at.
  """
  size, _, channels_in, channels_out = kernel.shape
  half = size // 2
  frames, bins = gradient.shape[1:3]
  moves = -(-size // stride)
  rows = frames + moves - 1
  padding = (half, max(0, stride * rows - x.shape[1] - half))
  padded = jnp.pad(x, ((0, 0), padding, (half, half), (0, 0)))

  def add(total, recording):
    x_TxFxI, gradient_TxFxO = recording
    left = [
      x_TxFxI[
        parity : parity + stride * (rows - 1) + 1 : stride,
        tap : tap + stride * (bins - 1) + 1 : stride,
      ]
      for parity in range(stride)
      for tap in range(size)
    ]
    right = [
      jnp.pad(gradient_TxFxO, ((move, moves - 1 - move), (0, 0), (0, 0)))
      for move in range(moves)
    ]
    product = jax.lax.dot_general(
      jnp.concatenate(left, axis=-1).reshape(rows * bins, -1),
      jnp.concatenate(right, axis=-1).reshape(rows * bins, -1),
      (((0,), (0,)), ((), ())),
      preferred_element_type=jnp.float32,
    )
    return total + product, None

  shape = (stride, size, channels_in, moves, channels_out)
  zeros = jnp.zeros(
    (stride * size * channels_in, moves * channels_out), jnp.float32
  )
  total, _ = lax.scan(add, zeros, (padded, gradient))
  # Tap stride * move + parity in time; the last may be one beyond the kernel.
  total = total.reshape(shape).transpose(3, 0, 1, 2, 4)
  total = total.reshape(moves * stride, size, channels_in, channels_out)
  return total[:size].astype(kernel.dtype)

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
    kernel: [size, size, I, O], size odd.
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
  """The gradient by the kernel: for each row of it, one product a recording."""
  size, _, channels_in, channels_out = kernel.shape
  half = size // 2
  frames, bins = gradient.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))

  def add(total, recording):
    x_TxFxI, gradient_TxFxO = recording
    columns = [
      x_TxFxI[:, f : f + stride * (bins - 1) + 1 : stride] for f in range(size)
    ]
    patches = jnp.concatenate(columns, axis=-1)
    gradient_RxO = gradient_TxFxO.reshape(frames * bins, channels_out)
    rows = [
      patches[t : t + stride * (frames - 1) + 1 : stride].reshape(
        frames * bins, size * channels_in
      )
      for t in range(size)
    ]
    products = [
      jnp.matmul(row.T, gradient_RxO, preferred_element_type=jnp.float32)
      for row in rows
    ]
    return total + jnp.stack(products), None

  zeros = jnp.zeros((size, size * channels_in, channels_out), jnp.float32)
  total, _ = lax.scan(add, zeros, (padded, gradient))
  return total.reshape(kernel.shape).astype(kernel.dtype)

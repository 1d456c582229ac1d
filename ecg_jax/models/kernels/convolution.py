"""Convolutions by the fastest exact algorithm of each platform.

On a CPU, XLA's convolutions reach half the throughput of its matrix products
(84 against 120 to 180 GFLOP/s for 5x5, 64 -> 64 channels), and inside a
`lax.scan` neither gradient convolution gets the fast layout: for 281x33 frames
and bins, 32 -> 32 channels, the input's fell from 70 to 7 GFLOP/s and the
kernel's from 16 to 1. So there a convolution consists of matrix products (see
`winograd` for two dimensions). On all other platforms it is XLA's own (cuDNN's
on a GPU). `platforms.choose` says which.

B: batch, T: frames, F: frequency bins, I: channels in, O: channels out.
"""

import functools

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from ecg_jax.models.kernels import winograd
from ecg_jax.runtime import platforms

_LAYOUTS = {3: ('NWC', 'WIO', 'NWC'), 4: ('NHWC', 'HWIO', 'NHWC')}
"""Number of dimensions of the kernel -> layouts."""


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves over time and frequency, or over time only, with zero padding.

  Output t is centered on input t * stride: unlike 'SAME', the padding is equal
  for every length, so valid frames do not depend on how much padding follows.

  Args:
    x: [B, T, F, I], or [B, T, I].
    kernel: [5, 5, I, O], or [K, I, O] with K odd.
    stride: 1 or 2, of time and frequency; any if over time only.

  Returns:
    [B, ceil(T / stride), ceil(F / stride), O], or [B, ceil(T / stride), O].
  """
  if jax.export.is_symbolic_dim(x.shape[1]):
    # Exported for any length, which the tiles of the products depend on.
    return plain(x, kernel, stride=stride)
  return platforms.choose(
    x,
    kernel,
    cpu=lambda x, kernel: _by_products(x, kernel, stride),
    default=lambda x, kernel: library(x, kernel, stride),
  )


def plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Computes `convolve` by XLA's own convolution on every platform."""
  half, dimensions = kernel.shape[0] // 2, kernel.ndim - 2
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride,) * dimensions,
    ((half, half),) * dimensions,
    dimension_numbers=_LAYOUTS[kernel.ndim],
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=2)
def library(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Computes `convolve` as it is on a GPU: by cuDNN, forward and backward."""
  return plain(x, kernel, stride)


def _library_forward(x, kernel, stride):
  return library(x, kernel, stride), (x, kernel)


@functools.partial(jax.jit, static_argnums=0)
def _library_backward(stride, residuals, gradient):
  """Gradients by cuDNN's own functions.

  XLA takes the gradient by the kernel for a convolution whose window is the
  gradient of the output, and finds back to cuDNN's function only where the
  output is larger than the kernel in every dimension. So where it is not, as in
  the paper's last block, whose bins are five, it is padded by zeros. The
  barrier keeps XLA from folding them into the convolution again.
  """
  x, kernel = residuals
  [by_x] = jax.linear_transpose(lambda x: plain(x, kernel, stride), x)(gradient)
  sizes = zip(gradient.shape[1:-1], kernel.shape, strict=False)
  missing = [max(0, size + 1 - number) for number, size in sizes]
  if any(missing):
    x, gradient = lax.optimization_barrier(
      (
        _pad_end(x, [stride * number for number in missing]),
        _pad_end(gradient, missing),
      )
    )
  [by_kernel] = jax.linear_transpose(
    lambda kernel: plain(x, kernel, stride), kernel
  )(gradient)
  return by_x, by_kernel


library.defvjp(_library_forward, _library_backward)


def _pad_end(x, numbers):
  """Appends zeros to the dimensions between the first and the last."""
  return jnp.pad(x, ((0, 0), *((0, number) for number in numbers), (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_products(x, kernel, stride):
  """Computes `convolve` as it is on a CPU."""
  if kernel.ndim == 3:
    return _frames_by_product(x, kernel, stride=stride)
  if _is_first(kernel, stride):
    return plain(x, kernel, stride=1)
  return winograd.convolve(*_without_stride(x, kernel, stride=stride))


def _by_products_forward(x, kernel, stride):
  return _by_products(x, kernel, stride), (x, kernel)


def _by_products_backward(stride, residuals, gradient):
  x, kernel = residuals
  if kernel.ndim == 3:
    _, pull = jax.vjp(
      functools.partial(_frames_by_product, stride=stride), x, kernel
    )
    return pull(gradient)
  if _is_first(kernel, stride):
    # The gradient of the spectrogram is unused, so XLA removes it.
    by_x = jax.linear_transpose(lambda x: plain(x, kernel, stride=1), x)
    return *by_x(gradient), _kernel_gradient_of_one_channel(x, kernel, gradient)
  (x, kernel), pull = jax.vjp(
    functools.partial(_without_stride, stride=stride), x, kernel
  )
  return pull(winograd.gradients(x, kernel, gradient))


_by_products.defvjp(_by_products_forward, _by_products_backward)


def _is_first(kernel, stride):
  """Whether this is a model's first layer, too narrow for matrix products."""
  return kernel.shape[2] == 1 and stride == 1


def _without_stride(x, kernel, *, stride):
  """Rewrites the convolution as one of stride 1.

  Two by two frames and bins become the channels of one, and likewise the
  kernel's taps, of which three by three remain.
  """
  if stride == 1:
    return x, kernel
  assert stride == 2, stride
  batch, frames, bins, channels_in = x.shape
  x = jnp.pad(x, ((0, 0), (0, frames % 2), (0, bins % 2), (0, 0)))
  x = x.reshape(batch, -(-frames // 2), 2, -(-bins // 2), 2, channels_in)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(*x.shape[:3], 4 * channels_in)
  kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  kernel = kernel.reshape(3, 2, 3, 2, channels_in, -1)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  return x, kernel.reshape(3, 3, 4 * channels_in, -1)


def _kernel_gradient_of_one_channel(x, kernel, gradient):
  """Gradient of a [5, 5, 1, O] kernel by one matrix product per recording.

  The columns of its left factor are the inputs at each tap.
  """
  size, _, _, channels_out = kernel.shape
  half = size // 2
  frames, bins = x.shape[1:3]
  padded = jnp.pad(x[..., 0], ((0, 0), (half, half), (half, half)))

  def add(total, recording):
    x_TxF, gradient_TxFxO = recording
    seen = [
      x_TxF[frame : frame + frames, tap : tap + bins].reshape(-1)
      for frame in range(size)
      for tap in range(size)
    ]
    product = lax.dot_general(
      jnp.stack(seen, axis=-1),
      gradient_TxFxO.reshape(-1, channels_out),
      (((0,), (0,)), ((), ())),
      preferred_element_type=jnp.float32,
    )
    return total + product, None

  zeros = jnp.zeros((size * size, channels_out), jnp.float32)
  total, _ = lax.scan(add, zeros, (padded, gradient))
  return total.reshape(kernel.shape).astype(kernel.dtype)


def _frames_by_product(x, kernel, *, stride):
  """One product of the concatenated taps of each frame and the kernel."""
  size, channels_in, channels_out = kernel.shape
  batch, frames, _ = x.shape
  last = size + (-(-frames // stride) - 1) * stride
  x = jnp.pad(x, ((0, 0), (size // 2, max(0, last - frames)), (0, 0)))
  taps = [x[:, tap : last - size + tap + 1 : stride] for tap in range(size)]
  product = lax.dot_general(
    jnp.concatenate(taps, axis=-1).reshape(-1, size * channels_in),
    kernel.reshape(-1, channels_out),
    (((1,), (0,)), ((), ())),
  )
  return product.reshape(batch, -1, channels_out)

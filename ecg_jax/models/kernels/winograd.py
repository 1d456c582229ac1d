"""Convolution with fewer multiplications: Winograd's algorithm, along time.

Used on CPUs only (see `convolution`), where XLA's convolutions reach half the
throughput of its matrix products. A training step of the authors' CRNN on 9,000
samples went from 4.0 to 1.9 s, evaluation from 11.4 to 24.9 records/s;
compiling a training program went from 13 to 21 s.

A tile of m outputs of a filter with r taps is a product of polynomials, which
is determined by its values at m + r - 1 points: 8 multiplications instead of
4 * 5 for five taps, or of 6 * 3 for three. The factors at a point are the same
for all tiles, so each point is one matrix product over tiles, frequency bins,
taps in frequency and channels (S. Winograd 1980, "Arithmetic complexity of
computations"; A. Lavin and S. Gray 2016, "Fast algorithms for convolutional
neural networks", section 4). Exact in exact arithmetic; rounding errors are a
few times those of the direct sum. 4x4 tiles over time and frequency had three
times these errors and were slower at 128 channels.

Recordings are processed one at a time, so that intermediate results stay in
the cache: all in one product took two to three times as long.

T: frames, F: frequency bins, I: channels in, O: channels out, P: points,
M: tiles.
"""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Values of polynomials at these are sums of few, exact multiples. The eighth
# point is infinity, where the value is the leading coefficient.
_POINTS = np.array([0, 1, -1, 2, -2, 0.5, -0.5])
_NUM_POINTS = len(_POINTS) + 1


def convolve(x_BxTxFxI: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with stride 1 and zero padding, in float32 or wider.

  Args:
    x_BxTxFxI: Input.
    kernel: [r, r, I, O], r 3 or 5.

  Returns:
    [B, T, F, O] of the input's dtype.
  """
  taps, _, channels_in, channels_out = kernel.shape
  frames, bins = x_BxTxFxI.shape[1:3]
  inputs_of, filter_of, outputs_of = _transforms(taps)
  tiles = -(-frames // len(outputs_of[0]))
  kernel = _at_points(filter_of, kernel).reshape(
    _NUM_POINTS, taps * channels_in, channels_out
  )

  def one(x_TxFxI):
    around = taps // 2
    x_TxFxI = jnp.pad(x_TxFxI, ((0, 0), (around, around), (0, 0)))
    x_PxMxFxI = _combine(inputs_of, _input_tiles(x_TxFxI, taps, tiles))
    x = _frequency_taps(x_PxMxFxI, range(taps), bins)
    products = _matmul(x, kernel, ((2,), (1,)))
    products = products.reshape(_NUM_POINTS, tiles, bins, channels_out)
    y = _combine(outputs_of.T, list(products), axis=1)
    return y.reshape(-1, bins, channels_out)[:frames].astype(x_BxTxFxI.dtype)

  return lax.map(one, x_BxTxFxI)


def gradients(
  x_BxTxFxI: jax.Array, kernel: jax.Array, gradient_BxTxFxO: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients of `convolve` with respect to its input and its kernel.

  Args:
    x_BxTxFxI: Input.
    kernel: [r, r, I, O].
    gradient_BxTxFxO: Gradient with respect to the output.

  Returns:
    [B, T, F, I] and [r, r, I, O], with the dtypes of x and kernel.
  """
  taps, _, channels_in, channels_out = kernel.shape
  frames, bins = x_BxTxFxI.shape[1:3]
  around = taps // 2
  inputs_of, filter_of, outputs_of = _transforms(taps)
  outputs = len(outputs_of[0])
  tiles = -(-frames // outputs)
  transposed = _at_points(filter_of, kernel).swapaxes(2, 3)
  transposed = transposed.reshape(_NUM_POINTS, taps * channels_out, channels_in)

  # Each transform of `convolve`, transposed. Both gradients use the transformed
  # output gradient at every tap in frequency. The barriers prevent XLA from
  # recomputing a transform for each of its uses.
  def one(total, recording):
    x_TxFxI, y_TxFxO = recording
    x_PxMxFxI = lax.optimization_barrier(
      _combine(inputs_of, _input_tiles(x_TxFxI, taps, tiles))
    )
    y_TxFxO = _widened(y_TxFxO)
    padding = (0, tiles * outputs - frames), (around, around), (0, 0)
    y = jnp.pad(y_TxFxO, padding)
    y = y.reshape(tiles, outputs, *y.shape[1:])
    y_PxMxFxO = lax.optimization_barrier(
      _combine(outputs_of, [y[:, index] for index in range(outputs)])
    )
    y = lax.optimization_barrier(
      _frequency_taps(y_PxMxFxO, reversed(range(taps)), bins)
    )
    total += _matmul(x_PxMxFxI.reshape(*y.shape[:2], -1), y, ((1,), (1,)))
    products = _matmul(y, transposed, ((2,), (1,)))
    products = products.reshape(_NUM_POINTS, tiles, bins, channels_in)
    tile = _combine(inputs_of.T, list(products), axis=1)
    # Neighbouring tiles of inputs overlap by all but the first `outputs`.
    over = ((1, 0), (0, 2 * outputs - _NUM_POINTS), (0, 0), (0, 0))
    x = jnp.pad(tile[:, :outputs], ((0, 1), (0, 0), (0, 0), (0, 0)))
    x += jnp.pad(tile[:, outputs:], over)
    x = x.reshape(-1, bins, channels_in)[around : around + frames]
    return total, x.astype(x_BxTxFxI.dtype)

  dtype = transposed.dtype
  zeros = jnp.zeros((_NUM_POINTS, channels_in, taps * channels_out), dtype)
  total, by_x = lax.scan(one, zeros, (x_BxTxFxI, gradient_BxTxFxO))
  total = total.reshape(_NUM_POINTS, channels_in, taps, channels_out)
  by_kernel = jnp.einsum('pi,pcjo->ijco', filter_of.astype(dtype), total)
  return by_x, by_kernel.astype(kernel.dtype)


@functools.cache
def _transforms(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Matrices of Toom-Cook multiplication, from coefficients to values.

  Returns:
    inputs_of [P, P], filter_of [P, r] and outputs_of [P, P - r + 1], float64:
    outputs = outputs_of.T @ ((filter_of @ filter) * (inputs_of @ inputs)).
  """
  # Lagrange polynomials without their denominators, which the filter takes: so
  # the many inputs are multiplied by sums of powers of two, exactly.
  others = [np.delete(_POINTS, index) for index in range(len(_POINTS))]
  inputs = [np.append(np.poly(roots)[::-1], 0) for roots in others]
  inputs.append(np.poly(_POINTS)[::-1])
  denominators = [
    np.prod(point - roots) for point, roots in zip(_POINTS, others, strict=True)
  ]

  def values(size):
    return np.vstack([_POINTS[:, None] ** np.arange(size), np.eye(size)[-1]])

  return (
    np.array(inputs),
    values(taps) / np.array([*denominators, 1])[:, None],
    values(_NUM_POINTS - taps + 1),
  )


def _at_points(filter_of: np.ndarray, kernel: jax.Array) -> jax.Array:
  """[P, taps in frequency, I, O] of a kernel."""
  kernel = _widened(kernel)
  return jnp.einsum('pi,ijco->pjco', filter_of.astype(kernel.dtype), kernel)


def _widened(x: jax.Array) -> jax.Array:
  """Casts to float32, which the transforms need, unless wider already."""
  return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)


def _input_tiles(x_TxFxI: jax.Array, taps: int, tiles: int) -> list[jax.Array]:
  """The first input frame of every tile, [M, F, I], the second and so on."""
  outputs = _NUM_POINTS - taps + 1
  around = taps // 2
  behind = (tiles + 1) * outputs - around - len(x_TxFxI)
  x = jnp.pad(_widened(x_TxFxI), ((around, behind), (0, 0), (0, 0)))
  x = x.reshape(tiles + 1, outputs, *x.shape[1:])
  inside = [x[:-1, index] for index in range(outputs)]
  return inside + [x[1:, index] for index in range(taps - 1)]


def _combine(
  matrix: np.ndarray, parts: Sequence[jax.Array], axis: int = 0
) -> jax.Array:
  """Product of the matrix and the parts, along a new axis, as explicit sums."""
  rows = []
  for row in matrix:
    terms = [
      part if factor == 1 else part * factor
      for factor, part in zip(row.tolist(), parts, strict=True)
      if factor
    ]
    rows.append(functools.reduce(jnp.add, terms))
  return jnp.stack(rows, axis)


def _frequency_taps(
  x_PxMxFxC: jax.Array, starts: Iterable[int], bins: int
) -> jax.Array:
  """Concatenates the inputs of each bin as columns: [P, M bins, taps C]."""
  seen = [x_PxMxFxC[:, :, start : start + bins] for start in starts]
  points, tiles = x_PxMxFxC.shape[:2]
  return jnp.concatenate(seen, axis=-1).reshape(points, tiles * bins, -1)


def _matmul(
  left: jax.Array,
  right: jax.Array,
  contracted: tuple[tuple[int], tuple[int]],
) -> jax.Array:
  """A matrix product for each point."""
  return lax.dot_general(left, right, (contracted, ((0,), (0,))))

"""The convolutions and their own gradients against the plain ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ecg_jax.models.kernels import convolution

SHAPES = [
  # frames, bins, channels in, channels out, stride
  (9, 7, 3, 4, 1),
  (8, 6, 1, 5, 1),
  (9, 7, 3, 4, 2),
  (8, 6, 4, 3, 2),
  (9, 6, 2, 5, 2),
  (8, 7, 1, 2, 2),
  (1, 33, 2, 3, 1),
  (1, 1, 2, 3, 2),
  (2, 1, 3, 2, 2),
]


def _plain(x, kernel, stride):
  half, dimensions = len(kernel) // 2, x.ndim - 2
  layout = 'HW'[-dimensions:]
  return lax.conv_general_dilated(
    x,
    kernel,
    [stride] * dimensions,
    [(half, half)] * dimensions,
    dimension_numbers=(f'N{layout}C', f'{layout}IO', f'N{layout}C'),
  )


def _gradients(convolve, x, kernel, gradient, stride):
  _, pull = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
  return pull(gradient)


def _arrays(shape, *, batch=2, dtype=np.float32, seed=0):
  frames, bins, channels_in, channels_out, stride = shape
  rng = np.random.default_rng(seed)
  reduced = batch, -(-frames // stride), -(-bins // stride), channels_out
  return tuple(
    jnp.asarray(rng.normal(size=size), dtype)
    for size in (
      (batch, frames, bins, channels_in),
      (5, 5, channels_in, channels_out),
      reduced,
    )
  )


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_value_and_both_gradients_equal_the_plain_convolution(shape):
  stride = shape[-1]
  with jax.enable_x64(True):
    arguments = _arrays(shape, dtype=np.float64)
    value = convolution.convolve(*arguments[:2], stride)
    np.testing.assert_allclose(
      value, _plain(*arguments[:2], stride), atol=1e-12
    )
    assert value.shape == arguments[2].shape
  arguments = _arrays(shape)
  run = jax.jit(_gradients, static_argnums=(0, 4))
  found = run(convolution.convolve, *arguments, stride)
  expected = run(_plain, *arguments, stride)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    assert one.dtype == other.dtype


@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_equal_finite_differences(stride):
  """The convolution is linear in each argument: differences are exact."""
  x, kernel, gradient = _arrays((7, 6, 2, 3, stride))
  by_x, by_kernel = _gradients(
    convolution.convolve, x, kernel, gradient, stride
  )
  rng = np.random.default_rng(1)
  direction, tap = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
  with jax.enable_x64(True):
    value = lambda x, kernel: np.vdot(  # noqa: E731
      convolution.convolve(x.astype(float), kernel.astype(float), stride),
      gradient,
    )
    x, kernel = np.asarray(x), np.asarray(kernel)
    along_x = (value(x + direction, kernel) - value(x - direction, kernel)) / 2
    along_kernel = (value(x, kernel + tap) - value(x, kernel - tap)) / 2
  assert np.vdot(by_x, direction) == pytest.approx(along_x, rel=1e-5, abs=1e-4)
  assert np.vdot(by_kernel, tap) == pytest.approx(
    along_kernel, rel=1e-5, abs=1e-4
  )


@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_under_vmap_scan_and_fori_loop(stride):
  batches = [_arrays((9, 7, 2, 3, stride), seed=seed) for seed in range(3)]
  stacked = tuple(map(jnp.stack, zip(*batches, strict=True)))
  run = lambda arguments: _gradients(  # noqa: E731
    convolution.convolve, *arguments, stride
  )
  expected = [_gradients(_plain, *batch, stride) for batch in batches]
  expected = [np.stack(arrays) for arrays in zip(*expected, strict=True)]

  def looped(stacked):
    _, scanned = lax.scan(lambda _, batch: (None, run(batch)), None, stacked)
    totals = lax.fori_loop(
      0,
      3,
      lambda i, total: jax.tree.map(
        jnp.add, total, run(tuple(array[i] for array in stacked))
      ),
      tuple(jnp.zeros_like(array[0]) for array in stacked[:2]),
    )
    return jax.vmap(run)(stacked), scanned, totals

  mapped, scanned, totals = jax.jit(looped)(stacked)
  for index, array in enumerate(expected):
    np.testing.assert_allclose(mapped[index], array, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(scanned[index], array, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
      totals[index], array.sum(axis=0), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize('stride', [1, 2])
def test_bfloat16_gradients_are_those_of_float32_rounded(stride):
  arguments = _arrays((9, 7, 4, 3, stride), dtype=jnp.bfloat16)
  found = _gradients(convolution.convolve, *arguments, stride)
  arguments = [argument.astype(np.float32) for argument in arguments]
  expected = _gradients(_plain, *arguments, stride)
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == jnp.bfloat16
    scale = np.abs(other).max()
    np.testing.assert_allclose(
      one.astype(np.float32) / scale, other / scale, atol=0.02
    )


def _loop(channels_in, stride):
  """Three steps of descent on a layer, with the gradients that training needs.

  The first layer, of one channel, has no gradient by its input.
  """
  shape = (16, 9, channels_in, 16, stride)
  x, kernel, target = _arrays(shape, batch=4)

  def step(_, carry):
    def loss(changing):
      arguments = {'x': x, **changing}
      value = convolution.convolve(arguments['x'], arguments['kernel'], stride)
      return jnp.sum((value - target) ** 2)

    gradients = jax.grad(loss)(carry)
    return jax.tree.map(lambda a, b: a - 0.01 * b, carry, gradients)

  changing = (
    {'kernel': kernel} if channels_in == 1 else {'x': x, 'kernel': kernel}
  )
  return jax.jit(lambda carry: lax.fori_loop(0, 3, step, carry)), changing


LAYERS = [(1, 1), (8, 1), (8, 2)]


@pytest.mark.parametrize(('channels_in', 'stride'), LAYERS)
def test_compiled_cpu_loop_has_no_convolution_in_a_slow_layout(
  channels_in, stride
):
  if jax.default_backend() != 'cpu':
    pytest.skip('reads the program compiled for a CPU')
  run, changing = _loop(channels_in, stride)
  program = run.lower(changing).compile().as_text()
  layouts = re.findall(r'dim_labels=([\w>-]+)', program)
  # All but the first layer's forward pass are matrix products.
  assert layouts == (['b01f_01io->b01f'] if channels_in == 1 else [])


@pytest.mark.parametrize(('channels_in', 'stride'), LAYERS)
def test_each_platform_has_its_own_way(channels_in, stride):
  run, changing = _loop(channels_in, stride)

  def count(platform):
    lowered = run.trace(changing).lower(lowering_platforms=(platform,))
    operations = 'convolution', 'while', 'dot_general'
    text = lowered.as_text()
    return tuple(text.count(f'stablehlo.{name}') for name in operations)

  # Forward and the gradients, and no loop but the three steps.
  assert count('cuda') == (1 + len(changing), 1, 0)
  convolutions, loops, products = count('cpu')
  # The forward pass, one loop over the recordings, has another for gradients.
  assert convolutions == (channels_in == 1)
  assert loops == (2 if channels_in == 1 else 3)
  assert products > 0


# Over time alone.


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize(('frames', 'size'), [(9, 7), (8, 5), (1, 7), (6, 1)])
def test_convolution_of_frames_and_its_gradients(frames, size, stride):
  rng = np.random.default_rng(0)
  reduced = -(-frames // stride)
  with jax.enable_x64(True):
    x, kernel, gradient = (
      jnp.asarray(rng.normal(size=shape))
      for shape in ((2, frames, 3), (size, 3, 4), (2, reduced, 4))
    )
    run = jax.jit(_gradients, static_argnums=(0, 4))
    ways = convolution.convolve, _plain
    values = [way(x, kernel, stride) for way in ways]
    assert values[0].shape == gradient.shape
    np.testing.assert_allclose(*values, atol=1e-12)
    pairs = [run(way, x, kernel, gradient, stride) for way in ways]
    for one, other in zip(*pairs, strict=True):
      np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize('platform', ['cpu', 'cuda'])
def test_frames_are_convolved_by_products_on_a_cpu_alone(platform):
  def total(x, kernel):
    return jnp.sum(convolution.convolve(x, kernel, 2) ** 2)

  step = jax.jit(jax.grad(total, argnums=(0, 1)))
  traced = step.trace(jnp.ones((2, 9, 3)), jnp.ones((7, 3, 4)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.convolution') == (3 if platform == 'cuda' else 0)

"""The convolutions and their own gradients against the plain ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ecg_jax.models.kernels import convolution

# Frames and bins, channels in and out, stride; frames alone: kernel size first.
SHAPES = [
  ((9, 7), 3, 4, 1),
  ((8, 6), 1, 5, 1),
  ((9, 7), 3, 4, 2),
  ((8, 6), 4, 3, 2),
  ((9, 6), 2, 5, 2),
  ((8, 7), 1, 2, 2),
  ((1, 33), 2, 3, 1),
  ((1, 1), 2, 3, 2),
  ((2, 1), 3, 2, 2),
]
FRAMES = [
  (size, (frames,), 3, 4, stride)
  for frames, size in ((9, 7), (8, 5), (1, 7), (6, 1))
  for stride in (1, 2, 3)
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


def _arrays(
  sizes, channels_in, channels_out, stride, *, kernel=5, batch=2, seed=0
):
  """Input, kernel and a gradient of the output, float64."""
  rng = np.random.default_rng(seed)
  reduced = [-(-size // stride) for size in sizes]
  return (
    rng.normal(size=(batch, *sizes, channels_in)),
    rng.normal(size=(*[kernel] * len(sizes), channels_in, channels_out)),
    rng.normal(size=(batch, *reduced, channels_out)),
  )


def _cast(arrays, dtype=np.float32):
  return tuple(jnp.asarray(array, dtype) for array in arrays)


@pytest.mark.parametrize(
  'shape', [*((5, *shape) for shape in SHAPES), *FRAMES], ids=str
)
def test_value_and_both_gradients_equal_the_plain_convolution(shape):
  kernel, *shape, stride = shape
  arrays = _arrays(*shape, stride, kernel=kernel)
  run = jax.jit(_gradients, static_argnums=(0, 4))
  for dtype in np.float64, np.float32:
    with jax.enable_x64(dtype == np.float64):
      x, kernel, gradient = _cast(arrays, dtype)
      assert _plain(x, kernel, stride).shape == gradient.shape
      found, expected = (
        (
          convolve(x, kernel, stride),
          *run(convolve, x, kernel, gradient, stride),
        )
        for convolve in (convolution.convolve, _plain)
      )
    # The kernel's gradient of one channel is summed in float32.
    exact = dtype == np.float64 and x.shape[-1] > 1
    for one, other in zip(found, expected, strict=True):
      assert one.dtype == other.dtype == dtype
      np.testing.assert_allclose(one, other, atol=1e-11 if exact else 1e-4)


@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_under_vmap_scan_and_fori_loop(stride):
  batches = [
    _cast(_arrays((9, 7), 2, 3, stride, seed=seed)) for seed in range(3)
  ]
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
  arguments = _cast(_arrays((9, 7), 4, 3, stride), jnp.bfloat16)
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
  arrays = _arrays((16, 9), channels_in, 16, stride, batch=4)
  x, kernel, target = _cast(arrays)

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


@pytest.mark.parametrize('platform', ['cpu', 'cuda'])
def test_frames_are_convolved_by_products_on_a_cpu_alone(platform):
  def total(x, kernel):
    return jnp.sum(convolution.convolve(x, kernel, 2) ** 2)

  step = jax.jit(jax.grad(total, argnums=(0, 1)))
  traced = step.trace(jnp.ones((2, 9, 3)), jnp.ones((7, 3, 4)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.convolution') == (3 if platform == 'cuda' else 0)

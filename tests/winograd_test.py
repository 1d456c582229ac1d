"""Winograd's convolution against the direct sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from ecg_jax.models.kernels import winograd
from tests import helpers


def _direct(x, kernel):
  half = kernel.shape[0] // 2
  return lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    ((half, half), (half, half)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@jax.jit
def _direct_results(x, kernel, gradient):
  """Value and both gradients."""
  value, pull = jax.vjp(_direct, x, kernel)
  return value, *pull(gradient)


@jax.jit
def _results(x, kernel, gradient):
  value = winograd.convolve(x, kernel)
  return value, *winograd.gradients(x, kernel, gradient)


def _draw(taps, frames, bins, channels_in, channels_out, *, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  return (
    rng.normal(size=(batch, frames, bins, channels_in)),
    rng.normal(size=(taps, taps, channels_in, channels_out)),
    rng.normal(size=(batch, frames, bins, channels_out)),
  )


@given(
  taps=st.sampled_from([3, 5]),
  frames=st.integers(1, 20),
  bins=st.integers(1, 7),
  channels_in=st.integers(1, 4),
  channels_out=st.integers(1, 4),
)
@settings(max_examples=20 if helpers.FULL else 6, deadline=None)
def test_exact_in_float64(taps, frames, bins, channels_in, channels_out):
  """The algebra is right: tiles that are full, partial, or only one."""
  with jax.enable_x64(True):
    arrays = _draw(taps, frames, bins, channels_in, channels_out)
    found, expected = _results(*arrays), _direct_results(*arrays)
    for one, other in zip(found, expected, strict=True):
      assert one.dtype == other.dtype == jnp.float64
      np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize('taps', [3, 5])
def test_rounding_is_within_a_few_times_that_of_the_direct_sum(taps):
  arrays = _draw(taps, 64, 9, 32, 32, batch=4)
  with jax.enable_x64(True):
    exact = [np.asarray(array) for array in _direct_results(*arrays)]
  narrow = [array.astype(np.float32) for array in arrays]
  direct, found = _direct_results(*narrow), _results(*narrow)
  for true, sums, own in zip(exact, direct, found, strict=True):
    rounding = lambda array: np.sqrt(np.mean((array - true) ** 2))  # noqa: B023, E731
    assert own.dtype == jnp.float32
    assert rounding(own) < 1e-5 * true.std()
    assert rounding(own) < 10 * rounding(sums)


@pytest.mark.parametrize('taps', [3, 5])
def test_zeros_behind_change_no_bit_of_what_is_before(taps):
  frames = 18
  x, kernel, gradient = (
    array.astype(np.float32) for array in _draw(taps, frames, 6, 8, 8)
  )
  value, by_x, _ = _results(x, kernel, gradient)
  for more in (1, 5, 30):
    longer, gradient_longer = (
      np.pad(array, ((0, 0), (0, more), (0, 0), (0, 0)))
      for array in (x, gradient)
    )
    found, found_by_x, _ = _results(longer, kernel, gradient_longer)
    np.testing.assert_array_equal(found[:, :frames], value)
    np.testing.assert_array_equal(found_by_x[:, :frames], by_x)

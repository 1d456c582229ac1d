"""Max-pooling against Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ecg_jax.models.kernels import max_pool


def _flax(x):
  rest = [(0, size % 2) for size in x.shape[1:3]]
  return nn.max_pool(x, (2, 2), (2, 2), rest)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
  ('frames', 'bins'), [(8, 6), (7, 6), (8, 5), (9, 7), (1, 1), (2, 1)]
)
def test_value_and_gradient_are_those_of_flax(frames, bins, dtype):
  rng = np.random.default_rng(0)
  # Few values, so that many windows have several that are the largest.
  x = rng.integers(0, 3, (2, frames, bins, 16))
  x = jnp.asarray(x, dtype)
  expected, pull_expected = jax.vjp(_flax, x)
  found, pull = jax.vjp(max_pool.max_pool, x)
  np.testing.assert_array_equal(found, expected)
  gradient = jnp.asarray(rng.normal(size=found.shape), dtype)
  np.testing.assert_array_equal(pull(gradient)[0], pull_expected(gradient)[0])


def test_no_program_looks_for_a_maximum_or_scatters():
  x = jnp.ones((2, 7, 5, 3))
  lowered = jax.jit(jax.grad(lambda x: jnp.sum(max_pool.max_pool(x)))).lower(x)
  assert 'scatter' not in lowered.as_text()

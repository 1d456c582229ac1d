"""What a GPU runs in place of a CPU's operations, here run on a CPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_jax.models import layers
from ecg_jax.models.kernels import (
  activation,
  blocks,
  convolution,
  dropout,
  lstm,
  max_pool,
)
from ecg_jax.runtime import platforms
from ecg_jax.training import train_step
from tests import tiny_models, training_helpers
from tests.training_helpers import make_group, put_data
from tools import benchmark

BINS = 7


@pytest.fixture
def run_as(monkeypatch):
  """Runs a function as it is traced for a platform."""

  def run(platform, function, *arguments):
    monkeypatch.setattr(platforms, 'platform', lambda: platform)
    # Another function each time: what is traced is kept for one.
    return jax.jit(lambda *x: function(*x))(*arguments)

  return run


def _norm_difference(found, expected):
  """Norm of the difference of two trees, in norms of the second."""
  flat = [
    np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)])
    for t in (found, expected)
  ]
  return np.linalg.norm(flat[0] - flat[1]) / max(np.linalg.norm(flat[1]), 1e-9)


def _draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('lengths', [(6, 6), (6, 2, 0), (1,)])
def test_unrolled_lstm_equals_the_scan(lengths, dtype):
  frames, units = 6, 5
  projected = jnp.asarray(_draw(0, frames, 2, len(lengths), 4 * units), dtype)
  kernel = jnp.asarray(_draw(1, 2, units, 4 * units), dtype)
  valid = np.arange(frames)[:, None] < np.array(lengths)
  valid[2, 0] = False  # Not only behind the end.
  valid = jnp.asarray(np.stack([valid, valid[::-1]], axis=1)[..., None])
  weights = _draw(2, frames, 2, len(lengths), units)

  def gradients(run, projected, kernel):
    def loss(projected, kernel):
      outputs, last = run(projected, valid, kernel)
      total = jnp.sum(outputs.astype(jnp.float32) * weights)
      return total + jnp.sum(last.astype(jnp.float32) ** 2), (outputs, last)

    both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, results), found = jax.jit(both)(projected, kernel)
    return results, found

  results, found = gradients(lstm.unrolled, projected, kernel)
  expected, by_scan = gradients(lstm.by_scan, projected, kernel)
  bound = (1e-6, 1e-5) if dtype == 'float32' else (0.01, 0.03)
  assert _norm_difference(results, expected) < bound[0]
  for one, other in zip(found, by_scan, strict=True):
    assert one.dtype == jnp.dtype(dtype)
    assert _norm_difference(one, other) < bound[1]


@settings(max_examples=8)
@given(st.integers(1, 12), st.integers(1, 9), st.sampled_from([1, 2]))
def test_convolution_of_blocks_is_that_of_frames_and_bins(frames, bins, stride):
  x, kernel = _draw(0, 2, frames, bins, 3), _draw(1, 5, 5, 3, 4)

  def by_frame(x, kernel):
    return convolution.plain(x, kernel, stride)

  def by_block(x, kernel):
    y = blocks.convolve(blocks.to_blocks(x), kernel, stride)
    if stride == 1:
      y = _from_blocks(y, frames, bins)
    return y

  expected, pull = jax.vjp(by_frame, x, kernel)
  found, pull_blocks = jax.vjp(by_block, x, kernel)
  assert found.shape == expected.shape
  gradient = _draw(2, *expected.shape)
  assert _norm_difference(found, expected) < 1e-6
  assert _norm_difference(pull_blocks(gradient), pull(gradient)) < 1e-5


def _from_blocks(x, frames, bins):
  x = x.reshape(*x.shape[:3], 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(len(x), x.shape[1] * 2, x.shape[3] * 2, -1)
  return x[:, :frames, :bins]


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('sizes', [(9,), (3,), (9, 8), (9, 5), (2, 1)])
def test_gradients_of_the_library_are_those_of_the_convolution(sizes, stride):
  x, kernel = _draw(0, 2, *sizes, 3), _draw(1, *[5] * len(sizes), 3, 4)
  plain = functools.partial(convolution.plain, stride=stride)
  expected, pull = jax.vjp(plain, x, kernel)
  found, pull_library = jax.vjp(
    lambda x, kernel: convolution.library(x, kernel, stride), x, kernel
  )
  gradient = _draw(2, *expected.shape)
  np.testing.assert_array_equal(found, expected)
  assert _norm_difference(pull_library(gradient), pull(gradient)) < 1e-5


def test_max_pool_of_blocks_sends_gradients_where_the_other_does():
  x = np.random.default_rng(0).integers(0, 3, (3, 7, 5, 4)).astype(np.float32)
  expected, pull = jax.vjp(max_pool.max_pool, x)
  found, pull_blocks = jax.vjp(
    lambda x: blocks.max_pool(blocks.to_blocks(x)), x
  )
  np.testing.assert_array_equal(found, expected)
  gradient = _draw(1, *expected.shape)
  np.testing.assert_array_equal(pull_blocks(gradient)[0], pull(gradient)[0])


@pytest.mark.parametrize('is_blocked', [False, True])
@pytest.mark.parametrize('rate', [0.0, 0.3])
@pytest.mark.parametrize('train', [False, True])
def test_activation_equals_its_operations(train, rate, is_blocked):
  frames, channels = 9, 4
  lengths = jnp.array([9, 4, 1, 0])
  x, weights = _draw(0, 2, 4, frames, BINS, channels)
  draw = np.random.default_rng(1).uniform(0.5, 2, (4, channels)).astype('f4')
  norm = activation.Normalizer(*draw)
  noise = dropout.draw_noise(jax.random.key(0), 4) if rate else None

  def by_operation(x, scale, bias):
    mask = jnp.arange(frames)[None] < lengths[:, None]
    arrays = norm._replace(scale=scale, bias=bias)
    x, *statistics = layers.normalize(x, mask, arrays, 1e-3, train=train)
    x = layers.masked(jax.nn.relu(x), mask)
    return dropout.drop(x, noise, rate), statistics

  def in_one(x, scale, bias):
    arrays = norm._replace(scale=scale, bias=bias)
    activate = activation.Activation(BINS, 1e-3, train, rate)
    if not is_blocked:
      x, *statistics = activate(x, lengths, arrays, noise)
      return x, statistics
    x, *statistics = activate(blocks.to_blocks(x), lengths, arrays, noise)
    return _from_blocks(x, frames, BINS), statistics

  def gradients(run):
    def loss(*arrays):
      x, statistics = run(*arrays)
      return jnp.sum(x * weights), (x, statistics)

    both = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (_, results), found = jax.jit(both)(x, norm.scale, norm.bias)
    return results, found

  results, found = gradients(in_one)
  expected, plain = gradients(by_operation)
  assert _norm_difference(results[0], expected[0]) < 1e-6
  assert _norm_difference(results[1], expected[1]) < 1e-6
  for one, other in zip(found, plain, strict=True):
    assert _norm_difference(one, other) < 1e-5


def test_words_of_dropout_are_those_of_jax():
  key = jax.random.fold_in(jax.random.key(1), 5)
  words = dropout.draw_noise(key, 20)
  np.testing.assert_array_equal(words[:2], jax.random.bits(key, (2,)))
  rows = jax.random.bits(jax.random.fold_in(key, 1), (20,))
  np.testing.assert_array_equal(words[2:], rows)


ROUNDING = 5e-5
"""Of a whole model: its layers amplify that of each."""

MODELS = {
  'crnn': {},
  'crnn by the authors, without blocks': {'reduction': 'stride', 'width': 40},
  'residual_crnn': {},
}


@pytest.mark.parametrize('name', MODELS)
def test_whole_models_are_the_same(run_as, name):
  model = tiny_models.create(name.split()[0], dropout=0.2, **MODELS[name])
  lengths = np.array([37, 20, 1, 0], np.int32)
  x = _draw(0, 4, 37, 33) * (np.arange(37)[:, None] < lengths[:, None, None])
  variables = tiny_models.random_variables(model, 33)

  def train(params):
    logits, changed = model.apply(
      {**variables, 'params': params},
      x,
      lengths,
      train=True,
      kind='all',
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(3)},
    )
    return jnp.sum(logits**2), (logits, changed)

  def evaluate(x):
    return model.apply(variables, x, lengths, train=False, kind='all')

  both = jax.value_and_grad(train, has_aux=True)
  expected = run_as('cpu', both, variables['params'])
  found = run_as('gpu', both, variables['params'])
  assert _norm_difference(found[0], expected[0]) < ROUNDING
  assert _norm_difference(found[1], expected[1]) < ROUNDING
  expected, found = run_as('cpu', evaluate, x), run_as('gpu', evaluate, x)
  assert _norm_difference(found, expected) < ROUNDING
  longer = np.pad(x, ((0, 2), (0, 13), (0, 0)), constant_values=7.0)
  longer *= np.arange(50)[:, None] < np.pad(lengths, (0, 2))[:, None, None]
  padded = run_as(
    'gpu',
    lambda x: model.apply(
      variables, x, np.pad(lengths, (0, 2)), train=False, kind='all'
    ),
    longer,
  )
  assert _norm_difference(padded[:4], found) < ROUNDING


@pytest.mark.parametrize('position', range(5))
def test_a_gradient_that_is_not_finite_is_seen_wherever_it_is(position):
  shapes = [(3,), (2, 3), (2, 3), (3,), (4, 1)]
  gradients = [_draw(0, *shape) for shape in shapes]
  assert np.isfinite(train_step.sum_by_shape(gradients))
  for value in (np.nan, np.inf, -np.inf):
    gradients[position].flat[-1] = value
    # The opposite in one of the same shape does not hide it.
    others = [-g for g in gradients]
    assert not np.isfinite(train_step.sum_by_shape(gradients))
    assert not np.isfinite(train_step.sum_by_shape([*gradients, *others]))


@pytest.fixture
def train_steps(small_job, tmp_path, monkeypatch):
  """Parameters after three steps on a platform and so many devices."""

  def run(platform, devices, **fields):
    monkeypatch.setattr(platforms, 'platform', lambda: platform)
    train_step.train_chunk.clear_cache()
    job = small_job(tmp_path, batch_size=4, chunk_steps=3)
    job = training_helpers.with_fields(
      job, loop=dataclasses.replace(job.loop, **fields)
    )
    mesh = make_group(0, devices).mesh
    training = benchmark.Training(job, put_data(job, mesh), mesh)
    before = jax.device_get(training.fold.state.params)
    chunks = job.sampler.training_chunks(0, 1)
    chunk = next(chunk for chunk in chunks if chunk.num_steps == 3)
    training.loop([chunk])
    training.close()
    after = jax.device_get(training.fold.state.params)
    return jax.tree.map(np.subtract, after, before)

  yield run
  train_step.train_chunk.clear_cache()


def test_three_steps_are_the_same_on_one_device_and_on_four(train_steps):
  expected = train_steps('cpu', 1)
  for devices in (1, 4):
    found = train_steps('gpu', devices)
    assert _norm_difference(found, expected) < 1e-4


def test_options_of_graphs_change_nothing_on_a_cpu(train_steps):
  expected = train_steps('cpu', 1)
  in_graph = train_step.train_chunk_in_graph
  in_graph.clear_cache()
  found = train_steps('cpu', 1, cuda_graphs=True)
  assert in_graph._cache_size() == 1  # It is what ran.
  jax.tree.map(np.testing.assert_array_equal, found, expected)

"""Each layer against NumPy over the valid frames only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_jax.models import crnn, layers
from ecg_jax.models.kernels.dropout import Dropout
from tests import tiny_models

FRAMES = 9


def _mask(lengths, frames=FRAMES):
  return np.arange(frames) < np.asarray(lengths)[:, None]


def _pad(x, *, frames, rows, behind):
  """The same array in a larger buffer full of garbage."""
  result = np.full((rows, frames, *x.shape[2:]), behind, x.dtype)
  result[: x.shape[0], : x.shape[1]] = x
  return result


BATCH_NORM = layers.BatchNorm(momentum=0.75)


def _batch_norm_variables():
  rng = np.random.default_rng(1)
  draw = lambda: rng.uniform(0.5, 2, 4).astype(np.float32)  # noqa: E731
  return {
    'params': {'scale': draw(), 'bias': draw()},
    'batch_stats': {'mean': draw(), 'variance': draw()},
  }


@jax.jit
def _train_batch_norm(variables, x, mask):
  return BATCH_NORM.apply(
    variables, x, mask, train=True, mutable=['batch_stats']
  )


def _batch_norm_input(lengths):
  rng = np.random.default_rng(0)
  x = rng.normal(3, 2, (len(lengths), FRAMES, 5, 4)).astype(np.float32)
  return x, _mask(lengths)


@settings(max_examples=20, deadline=None)
@given(
  st.lists(st.integers(0, FRAMES), min_size=3, max_size=3).filter(
    lambda lengths: max(lengths) > 0
  )
)
def test_batch_norm_statistics_are_those_of_the_valid_frames(lengths):
  variables = _batch_norm_variables()
  x, mask = _batch_norm_input(lengths)
  found, changed = _train_batch_norm(variables, x, mask)
  valid = x[mask].reshape(-1, 4).astype(np.float64)
  mean, variance = valid.mean(axis=0), valid.var(axis=0)
  params, before = variables['params'], variables['batch_stats']
  expected = (x - mean) / np.sqrt(variance + 1e-3)
  expected = expected * params['scale'] + params['bias']
  np.testing.assert_allclose(
    np.asarray(found)[mask], expected[mask], rtol=1e-4, atol=1e-4
  )
  after = changed['batch_stats']
  np.testing.assert_allclose(
    after['mean'], 0.75 * before['mean'] + 0.25 * mean, rtol=1e-5
  )
  np.testing.assert_allclose(
    after['variance'], 0.75 * before['variance'] + 0.25 * variance, rtol=1e-4
  )


def test_padding_and_masked_rows_do_not_change_batch_norm():
  variables = _batch_norm_variables()
  x, mask = _batch_norm_input([FRAMES, 4, 1])
  weight = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)

  @jax.jit
  def run(variables, x, mask, weight):
    def loss(params, x):
      found, changed = BATCH_NORM.apply(
        {**variables, 'params': params},
        x,
        mask,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.sum(layers.masked(found, mask) * weight), (found, changed)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables['params'], x)

  (by_params, by_x), (found, changed) = run(variables, x, mask, weight)
  padded = _pad(x, frames=14, rows=5, behind=1e4)
  (by_params_padded, by_x_padded), (found_padded, changed_padded) = run(
    variables,
    padded,
    _pad(mask, frames=14, rows=5, behind=False),
    _pad(weight, frames=14, rows=5, behind=7.0),
  )
  close = lambda one, other: jax.tree.map(  # noqa: E731
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    one,
    other,
  )
  close(np.asarray(found)[mask], np.asarray(found_padded)[:3, :FRAMES][mask])
  close(changed, changed_padded)
  close(by_params, by_params_padded)
  close(by_x, by_x_padded[:3, :FRAMES])
  assert not np.any(np.asarray(by_x)[~mask])
  assert not np.any(by_x_padded[3:])
  assert not np.any(by_x_padded[:, FRAMES:])


def test_batch_norm_evaluates_with_the_running_statistics():
  variables = _batch_norm_variables()
  x, mask = _batch_norm_input([FRAMES, 4])
  found = BATCH_NORM.apply(variables, x, mask, train=False)
  params, running = variables['params'], variables['batch_stats']
  expected = (x - running['mean']) / np.sqrt(running['variance'] + 1e-3)
  expected = expected * params['scale'] + params['bias']
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_keeps_bfloat16_and_float32_statistics():
  x, mask = _batch_norm_input([FRAMES, 4])
  found, changed = _train_batch_norm(
    _batch_norm_variables(), jnp.asarray(x, jnp.bfloat16), mask
  )
  assert found.dtype == jnp.bfloat16
  for array in jax.tree.leaves(changed):
    assert array.dtype == np.float32


UNITS, FEATURES = 5, 3


def _stack(summary, dropout=0.0):
  model = tiny_models.create(
    'crnn', lstm_units=UNITS, lstm_layers=3, summary=summary, dropout=dropout
  )
  return crnn.LSTMStack(model.config)


def _lstm_params(depth=3):
  rng = np.random.default_rng(3)
  draw = lambda *shape: rng.normal(0, 0.4, shape).astype('f4')  # noqa: E731
  return {
    f'layer_{index}': {
      'kernel': draw(2, 2 * UNITS if index else FEATURES, 4 * UNITS),
      'recurrent_kernel': draw(2, UNITS, 4 * UNITS),
      'bias': draw(2, 4 * UNITS),
    }
    for index in range(depth)
  }


@functools.partial(jax.jit, static_argnums=0)
def _compiled_stack(stack, params, x, mask):
  return stack.apply({'params': params}, x, mask, train=False)


def _evaluate_stack(stack, params, x, mask):
  return np.asarray(_compiled_stack(stack, params, x, mask))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, FRAMES), min_size=4, max_size=4), st.integers(0))
def test_lstm_equals_a_float64_reference_on_ragged_lengths(lengths, seed):
  """Layer-wise bidirectional, three layers with weights of their own."""
  params = _lstm_params()
  x = np.random.default_rng(seed).normal(size=(4, FRAMES, FEATURES))
  x = x.astype(np.float32)
  references = [
    tiny_models.reference_lstm(params, row[:length])
    for row, length in zip(x, lengths, strict=True)
  ]
  mask = _mask(lengths)
  # What is behind the mask must not be read.
  x[~mask] = 1e6
  last = _evaluate_stack(_stack('last'), params, x, mask)
  mean = _evaluate_stack(_stack('mean'), params, x, mask)
  for row, (outputs, state) in enumerate(references):
    np.testing.assert_allclose(last[row], state, atol=1e-5, rtol=0)
    np.testing.assert_allclose(mean[row], outputs.mean(0), atol=1e-5, rtol=0)


def test_lstm_outputs_are_those_of_the_reference_and_zero_in_padding():
  params = _lstm_params(depth=1)
  x = np.random.default_rng(0).normal(size=(2, FRAMES, FEATURES)).astype('f4')
  outputs, _ = layers.BidirectionalLSTM(UNITS, jnp.float32).apply(
    {'params': params['layer_0']}, x, _mask([FRAMES, 4])
  )
  outputs = np.asarray(outputs)
  for row, length in enumerate([FRAMES, 4]):
    expected, _ = tiny_models.reference_lstm(params, x[row, :length])
    np.testing.assert_allclose(outputs[row, :length], expected, atol=1e-5)
    assert not np.any(outputs[row, length:])


@pytest.mark.parametrize('summary', ['last', 'mean'])
def test_garbage_behind_the_mask_changes_neither_lstm_nor_gradients(summary):
  params = _lstm_params()
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, FRAMES, FEATURES)).astype(np.float32)
  mask = _mask([FRAMES, 5, 0])

  @jax.jit
  def run(params, x):
    def loss(params, x):
      found = _stack(summary).apply({'params': params}, x, mask, train=False)
      return jnp.sum(found**2), found

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

  (by_params, by_x), found = run(params, x)
  x[~mask] = rng.normal(0, 1e5, x[~mask].shape)
  (by_params_garbage, by_x_garbage), found_garbage = run(params, x)
  np.testing.assert_array_equal(found, found_garbage)
  jax.tree.map(np.testing.assert_array_equal, by_params, by_params_garbage)
  np.testing.assert_array_equal(by_x, by_x_garbage)
  assert not np.any(np.asarray(by_x)[~mask])
  assert np.all(np.any(np.asarray(by_x)[mask], axis=1))
  # A row without a frame has the summary zero.
  assert not np.any(found[2])


@pytest.mark.parametrize('summary', ['last', 'mean'])
def test_lstm_dropout_is_in_training_only(summary):
  params = _lstm_params()
  x = np.random.default_rng(0).normal(size=(2, FRAMES, FEATURES)).astype('f4')
  mask = _mask([FRAMES, 5])
  stack = _stack(summary, dropout=0.5)

  @jax.jit
  def train(key):
    return stack.apply(
      {'params': params}, x, mask, train=True, rngs={'dropout': key}
    )

  plain = _evaluate_stack(_stack(summary), params, x, mask)
  np.testing.assert_array_equal(_evaluate_stack(stack, params, x, mask), plain)
  one, other, again = (np.asarray(train(jax.random.key(i))) for i in (0, 1, 0))
  assert np.mean(one != other) > 0.5
  assert np.mean(one != plain) > 0.5
  np.testing.assert_array_equal(one, again)


def _drop(x, rate, seed=0):
  key = jax.random.key(seed)
  return np.asarray(
    Dropout(rate).apply({}, x, train=True, rngs={'dropout': key})
  )


@pytest.mark.parametrize('rate', [0.05, 0.15, 0.6])
def test_dropout_drops_its_share_and_scales_up_the_rest(rate):
  found = _drop(jnp.full((8, 50, 6, 40), 3.0), rate)
  dropped = found == 0
  np.testing.assert_allclose(found[~dropped], 3 / (1 - rate), rtol=1e-6)
  deviation = np.sqrt(rate * (1 - rate) / dropped.size)
  assert abs(dropped.mean() - rate) < 5 * deviation
  # Nowhere more than elsewhere: in no row, frame, bin or channel.
  for axis in range(4):
    shares = np.moveaxis(dropped, axis, 0).reshape(found.shape[axis], -1)
    deviation = np.sqrt(rate * (1 - rate) / shares.shape[1])
    assert np.abs(shares.mean(axis=1) - rate).max() < 5 * deviation


def test_dropout_of_whole_channels_is_one_draw_a_recording_and_channel():
  layer = Dropout(0.3, whole_channels=True)
  x = jnp.ones((40, 9, 50))
  found = np.asarray(
    layer.apply({}, x, train=True, rngs={'dropout': jax.random.key(0)})
  )
  np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1], x.shape))
  kept = found[:, 0] > 0
  np.testing.assert_allclose(found[:, 0][kept], 1 / 0.7, rtol=1e-6)
  assert np.mean(kept) == pytest.approx(0.7, abs=0.05)
  assert len(np.unique(kept, axis=0)) == 40


def test_dropout_of_neighbours_and_of_keys_is_independent():
  rate = 0.5
  dropped = _drop(jnp.ones((8, 50, 6, 40)), rate) == 0
  pairs = [(dropped, _drop(jnp.ones(dropped.shape), rate, seed=1) == 0)]
  for axis in range(4):
    frame = np.moveaxis(dropped, axis, 0)
    pairs.append((frame[1:], frame[:-1]))
  for one, other in pairs:
    deviation = np.sqrt(rate**2 * (1 - rate**2) / one.size)
    assert abs(np.mean(one & other) - rate**2) < 5 * deviation


def test_dropout_of_an_element_does_not_depend_on_padding():
  small = _drop(jnp.ones((3, 9, 5, 4)), 0.4)
  large = _drop(jnp.ones((5, 14, 5, 4)), 0.4)
  np.testing.assert_array_equal(large[:3, :9], small)


def test_masked_mean_is_that_of_the_valid_frames():
  x = np.random.default_rng(0).normal(size=(3, FRAMES, 2)).astype(np.float32)
  mask = _mask([FRAMES, 4, 0])
  found = layers.masked_mean(x, mask)
  np.testing.assert_allclose(found[0], x[0].mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found[1], x[1, :4].mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(found[2], 0)


def test_recurrent_kernels_start_as_glorot_says_and_forget_starts_open():
  layer = layers.BidirectionalLSTM(UNITS, jnp.float32).init(
    jax.random.key(0), jnp.zeros((1, 2, FEATURES)), jnp.ones((1, 2), bool)
  )['params']
  recurrent = np.asarray(layer['recurrent_kernel'])
  limit = np.sqrt(6 / (UNITS + 4 * UNITS))
  assert 0.8 * limit < np.abs(recurrent).max() <= limit
  assert np.all(recurrent[0] != recurrent[1])
  forget = np.arange(4 * UNITS) // UNITS == 1
  np.testing.assert_array_equal(layer['bias'], np.stack([forget, forget]))

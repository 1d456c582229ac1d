"""Sizes, masks and gradients of the models."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_jax import models
from ecg_jax.models import cnn, crnn, layers, residual_crnn
from ecg_jax.models.kernels import convolution
from ecg_jax.models.kernels.dropout import Dropout
from ecg_jax.models.loss import weighted_cross_entropy

BINS = 7

TINY = {'width': 4, 'growth': 2, 'blocks': 2, 'layers_per_block': 2}
TINY_CRNN = {'lstm_units': 5, 'lstm_layers': 1}
TINY_RESIDUAL = {
  'widths': (4, 6),
  'blocks_per_stage': 2,
  'kernel_frames': 5,
  'lstm_units': 3,
  'dropout_output': 0.0,
}

# Model, kind of phase: every kind, both reductions, both summaries.
VARIANTS = {
  'cnn, stride': ('cnn', 'all', {'reduction': 'stride', 'blocks': 3}),
  'cnn, max_pool': ('cnn', 'all', {'reduction': 'max_pool', 'blocks': 3}),
  'crnn, max_pool, last': (
    'crnn',
    'all',
    {'reduction': 'max_pool', 'summary': 'last', 'lstm_layers': 2},
  ),
  'crnn, stride, mean': (
    'crnn',
    'lstm',
    {'reduction': 'stride', 'summary': 'mean'},
  ),
  'crnn, auxiliary': ('crnn', 'auxiliary', {'reduction': 'stride'}),
  'residual_crnn': ('residual_crnn', 'all', {}),
}


def _create(name, *, dropout=0.0, **fields):
  tiny = TINY_RESIDUAL if name == 'residual_crnn' else TINY
  fields = tiny | {'dropout_convolution': dropout} | fields
  if name == 'crnn':
    fields = TINY_CRNN | {'dropout_lstm': 0.0} | fields
  return models.create_model(name, **fields)


@functools.cache
def _variables(model, bins=BINS):
  """Random ones of the right shapes, running statistics included."""
  shapes = jax.eval_shape(
    lambda key: models.initialise(model, key, bins), jax.random.key(0)
  )
  rng = np.random.default_rng(0)

  def draw(path, array):
    if path[-1].key in ('scale', 'variance'):
      value = rng.uniform(0.5, 2, array.shape)
    elif array.ndim > 1:
      value = rng.normal(0, array.shape[-1] ** -0.5, array.shape) / 2
    else:
      value = rng.normal(0, 0.3, array.shape)
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _spectrograms(lengths, *, frames, seed=0):
  """Log-spectrograms, zero behind each length, as the models are given them."""
  x = np.zeros((len(lengths), frames, BINS), np.float32)
  for row, length in enumerate(lengths):
    rng = np.random.default_rng((seed, row))
    x[row, :length] = rng.normal(2, 3, (length, BINS))
  return x


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled_evaluation(model, kind, variables, x, lengths):
  return model.apply(variables, x, lengths, train=False, kind=kind)


def _evaluate(model, kind, x, lengths):
  return np.asarray(
    _compiled_evaluation(
      model, kind, _variables(model), x, np.asarray(lengths, np.int32)
    )
  )


@pytest.mark.parametrize(
  ('name', 'fields', 'parameters'),
  [
    ('cnn', {}, 9_837_860),
    ('cnn', {'reduction': 'stride'}, 9_837_860),
    ('crnn', {'lstm_units': 200}, 7_857_700),
    ('crnn', {'lstm_units': 100, 'summary': 'mean'}, 5_790_500),
  ],
)
def test_full_models_have_the_published_size_and_24_layers(
  name, fields, parameters
):
  if name == 'crnn':
    fields = {'dropout_lstm': 0.15, **fields}
  model = models.create_model(name, dropout_convolution=0.15, **fields)
  shapes = jax.eval_shape(
    lambda key: models.initialise(model, key, 33), jax.random.key(0)
  )
  params = shapes['params']
  assert models.count_parameters(params) == parameters
  kernels = [
    array.shape
    for block in params['convolutions'].values()
    for key, array in block.items()
    if key.startswith('kernel_')
  ]
  assert len(kernels) == 24
  assert {shape[:2] for shape in kernels} == {(5, 5)}
  statistics = jax.tree.leaves(shapes['batch_stats'])
  assert len(statistics) == 2 * 24
  assert set(params) == set().union(*model.trained.values())


def test_kinds_of_phase_share_their_initial_parameters():
  model = _create('crnn', blocks=1, layers_per_block=1)
  x, lengths = jnp.zeros((2, 8, BINS)), jnp.array([8, 3])

  @jax.jit
  def run(key):
    alone = model.init(key, x, lengths, train=False, kind='auxiliary')
    return models.initialise(model, key, BINS), alone

  together, alone = run(jax.random.key(0))
  for name in 'convolutions', 'auxiliary', 'output':
    jax.tree.map(
      np.testing.assert_array_equal,
      together['params'][name],
      alone['params'][name],
    )


@pytest.mark.parametrize('variant', VARIANTS.values(), ids=VARIANTS)
@settings(max_examples=12, deadline=None)
@given(
  lengths=st.lists(st.integers(1, 30), min_size=4, max_size=4),
  garbage=st.sampled_from([0.0, -7.0, 1e6]),
)
def test_logits_do_not_depend_on_padding_or_batch(variant, lengths, garbage):
  name, kind, fields = variant
  model = _create(name, **fields)
  narrow = _spectrograms(lengths, frames=30)
  wide = _spectrograms([*lengths[::-1], 1, 0], frames=43)
  wide[:4] = _spectrograms(lengths, frames=43)[::-1]
  # The mates of a record, in a batch of another size; the spectrogram's mask
  # leaves zeros, but no layer relies on it but the first.
  together = _evaluate(model, kind, wide, [*lengths[::-1], 1, 0])
  for row, length in enumerate(lengths):
    alone = _evaluate(model, kind, narrow[row : row + 1], [length])
    # These logits go up to 20, of which 1e-6 is a rounding or two.
    np.testing.assert_allclose(
      together[3 - row], alone[0], atol=1e-5, rtol=1e-6
    )
  wide[4] = garbage
  again = _evaluate(model, kind, wide, [*lengths[::-1], 1, 0])
  np.testing.assert_allclose(again[:4], together[:4], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('crnn', {'reduction': 'stride', 'layers_per_block': 1}),
    ('residual_crnn', {}),
  ],
)
def test_training_does_not_depend_on_padding_or_masked_rows(name, fields):
  lengths = [21, 1, 8]
  model = _create(name, **fields)

  @jax.jit
  def run(x, lengths, weight):
    variables = _variables(model)

    def loss(params):
      logits, changed = model.apply(
        {**variables, 'params': params},
        x,
        lengths,
        train=True,
        kind='all',
        mutable=['batch_stats'],
      )
      return jnp.sum(logits * weight), (logits, changed)

    return jax.grad(loss, has_aux=True)(variables['params'])

  weight = np.random.default_rng(0).normal(size=(3, 4))
  gradients, (logits, changed) = run(
    _spectrograms(lengths, frames=21), np.array(lengths), weight
  )
  padded_gradients, (padded_logits, padded_changed) = run(
    _spectrograms([*lengths, 0, 0], frames=34),
    np.array([*lengths, 0, 0]),
    np.pad(weight, ((0, 2), (0, 0))),
  )
  np.testing.assert_allclose(padded_logits[:3], logits, atol=2e-5, rtol=0)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, padded_changed, changed)

  def close_to_scale(one, other):
    scale = np.abs(other).max() + 1e-3
    np.testing.assert_allclose(one / scale, other / scale, atol=1e-4)

  jax.tree.map(close_to_scale, padded_gradients, gradients)


def test_frozen_convolutions_are_in_evaluation_mode():
  model = _create('crnn', dropout=0.5)
  variables = _variables(model)
  lengths = [20, 3, 9]
  x = _spectrograms(lengths, frames=21)
  train = functools.partial(
    model.apply, train=True, kind='lstm', mutable=['batch_stats']
  )
  logits, changed = jax.jit(train)(
    variables, x, np.array(lengths), rngs={'dropout': jax.random.key(0)}
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    changed['batch_stats'],
    variables['batch_stats'],
  )
  np.testing.assert_allclose(
    logits, _evaluate(model, 'all', x, lengths), atol=1e-5, rtol=0
  )


@pytest.mark.parametrize(
  ('name', 'kind'), [('cnn', 'all'), ('crnn', 'auxiliary')]
)
def test_convolution_dropout_is_in_training_only(name, kind):
  create = functools.partial(_create, name, layers_per_block=1)
  model = create(dropout=0.5)
  lengths = np.array([20, 3, 9])
  x = _spectrograms(lengths, frames=21)

  @jax.jit
  def train(key):
    return model.apply(
      _variables(model),
      x,
      lengths,
      train=True,
      kind=kind,
      mutable=['batch_stats'],
      rngs={'dropout': key},
    )[0]

  one, other, again = (np.asarray(train(jax.random.key(i))) for i in (0, 1, 0))
  assert (one != other).any(axis=1).all()
  np.testing.assert_array_equal(one, again)
  np.testing.assert_array_equal(
    _evaluate(model, kind, x, lengths),
    _evaluate(create(), kind, x, lengths),
  )


@pytest.mark.parametrize(
  ('name', 'kind', 'convolutions', 'others'),
  [
    ('cnn', 'all', [True] * 6, []),
    ('crnn', 'auxiliary', [True] * 6, []),
    # One more is that of the summary.
    ('crnn', 'all', [True] * 6, [True] * 4),
    ('crnn', 'lstm', [False] * 6, [True] * 4),
    # One a block and one before the LSTM; one of the summary.
    ('residual_crnn', 'all', [True] * 5, [True]),
  ],
)
def test_every_layer_has_dropout_in_training(name, kind, convolutions, others):
  fields = {
    'cnn': {'layers_per_block': 3},
    'crnn': {'layers_per_block': 3, 'lstm_layers': 3, 'dropout_lstm': 0.2},
    'residual_crnn': {'dropout_output': 0.2},
  }
  model = _create(name, dropout=0.1, **fields[name])
  variables = _variables(model)
  seen = {0.1: [], 0.2: []}

  def record(call, args, kwargs, context):
    if isinstance(context.module, Dropout):
      seen[context.module.rate].append(kwargs['train'])
    return call(*args, **kwargs)

  for train in True, False:
    seen[0.1].clear()
    seen[0.2].clear()
    with nn.intercept_methods(record):
      jax.eval_shape(
        lambda train=train: model.apply(
          variables,
          np.zeros((1, 9, BINS), np.float32),
          np.array([9]),
          train=train,
          kind=kind,
          mutable=['batch_stats'],
          rngs={'dropout': jax.random.key(0)},
        )
      )
    off = [False] * len(convolutions)
    assert seen[0.1] == (convolutions if train else off)
    assert seen[0.2] == (others if train else [False] * len(others))


def _reference_convolutions(model, variables, x):
  """All blocks on one recording [T, F] without padding, in float64."""
  x = np.asarray(x, np.float64)[..., None]
  for block in range(model.blocks):
    params, statistics = (
      variables[name]['convolutions'][f'block_{block}']
      for name in ('params', 'batch_stats')
    )
    for index in range(model.layers_per_block):
      around = np.pad(x, ((2, 2), (2, 2), (0, 0)))
      windows = np.lib.stride_tricks.sliding_window_view(
        around, (5, 5), axis=(0, 1)
      )
      x = np.einsum('tfiab,abio->tfo', windows, params[f'kernel_{index}'])
      last = index == model.layers_per_block - 1
      if last and model.reduction == 'stride':
        x = x[::2, ::2]
      norm = params[f'batch_norm_{index}']
      running = statistics[f'batch_norm_{index}']
      x = (x - running['mean']) / np.sqrt(running['variance'] + 1e-3)
      x = np.maximum(x * norm['scale'] + norm['bias'], 0)
    if model.reduction == 'max_pool':
      odd = x.shape[0] % 2, x.shape[1] % 2
      x = np.pad(x, ((0, odd[0]), (0, odd[1]), (0, 0)))
      frames, bins, channels = x.shape
      x = x.reshape(frames // 2, 2, bins // 2, 2, channels).max(axis=(1, 3))
  return x


@pytest.mark.parametrize('reduction', ['max_pool', 'stride'])
@pytest.mark.parametrize('name', ['cnn', 'crnn'])
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=4, max_size=4))
def test_logits_equal_a_float64_reference_to_the_last_frame(
  name, reduction, lengths
):
  """The CNN, and the CRNN with its auxiliary layer in place of the LSTM."""
  model = _create(name, reduction=reduction)
  variables, params = _variables(model), _variables(model)['params']
  x = _spectrograms(lengths, frames=31)
  kind = 'all' if name == 'cnn' else 'auxiliary'
  dense = lambda x, layer: x @ layer['kernel'] + layer['bias']  # noqa: E731
  found = _evaluate(model, kind, x, lengths)
  for row, length in enumerate(lengths):
    features = _reference_convolutions(model, variables, x[row, :length])
    if name == 'cnn':
      summary = features.mean(axis=(0, 1))
    else:
      summary = features.reshape(len(features), -1).mean(axis=0)
      summary = np.maximum(dense(summary, params['auxiliary']), 0)
      assert np.any(summary == 0)
    expected = dense(summary, params['output'])
    np.testing.assert_allclose(found[row], expected, atol=2e-5, rtol=2e-5)


def test_convolutions_start_as_glorot_says():
  model = _create('cnn', width=16, growth=16)
  params = models.initialise(model, jax.random.key(0), BINS)['params']
  for block in params['convolutions'].values():
    for name, array in block.items():
      if name.startswith('kernel_'):
        limit = np.sqrt(6 / (25 * (array.shape[2] + array.shape[3])))
        assert 0.95 * limit < np.abs(array).max() <= limit
        assert abs(np.mean(array)) < 0.1 * limit


def test_residual_convolutions_start_as_he_says_the_last_of_a_block_small():
  model = _create('residual_crnn', widths=(40, 40), kernel_frames=7)
  params = models.initialise(model, jax.random.key(0), 40)['params']
  found = jax.tree_util.tree_leaves_with_path(params['convolutions'])
  kernels = {path: array for path, array in found if path[-1].key == 'kernel'}
  assert len(kernels) == 9
  for path, array in kernels.items():
    gain = 0.2 if path[-2].key == 'layer_1' else 1
    deviation = gain * np.sqrt(2 / (array.shape[0] * array.shape[1]))
    assert np.std(array) == pytest.approx(deviation, rel=0.05)
    assert abs(np.mean(array)) < 0.05 * deviation


def test_summaries_and_reductions_make_different_models():
  x, lengths = _spectrograms([20, 9], frames=21), [20, 9]
  fields = {}, {'reduction': 'stride'}, {'summary': 'mean'}
  found = [_evaluate(_create('crnn', **f), 'all', x, lengths) for f in fields]
  for index, one in enumerate(found):
    for other in found[:index]:
      assert np.abs(one - other).max() > 1e-3


def _reference_residual(model, variables, x):
  """The residual CRNN's summaries but the LSTM's, of one recording, float64."""
  params, statistics = (
    variables[name]['convolutions'] for name in ('params', 'batch_stats')
  )

  def norm(x, group, name):
    group = [tree[group] if group else tree for tree in (params, statistics)]
    layer, running = (tree[name] for tree in group)
    x = (x - running['mean']) / np.sqrt(running['variance'] + 1e-3)
    return x * layer['scale'] + layer['bias']

  def convolve(x, layer, stride=1):
    kernel = layer['kernel']
    half = len(kernel) // 2
    around = np.pad(x, ((half, half), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
      around, len(kernel), axis=0
    )
    return np.einsum('tik,kio->to', windows[::stride], kernel)

  x = norm(np.asarray(x, np.float64), None, 'input_norm')
  x = convolve(x, params['input'])
  for stage, width in enumerate(model.widths):
    for index in range(model.blocks_per_stage):
      name = f'stage_{stage}_block_{index}'
      stride = 2 if index == 0 else 1
      h = np.maximum(norm(x, name, 'norm_0'), 0)
      h = convolve(h, params[name]['layer_0'], stride)
      h = np.maximum(norm(h, name, 'norm_1'), 0)
      h = convolve(h, params[name]['layer_1'])
      if stride == 2:
        x = np.pad(x, ((0, len(x) % 2), (0, 0)))
        x = (x[::2] + x[1::2]) / 2
      if x.shape[1] != width:
        x = convolve(x, params[name]['shortcut'])
      x = x + h
  x = np.maximum(norm(x, None, 'output_norm'), 0)
  return np.concatenate([x.mean(axis=0), x.max(axis=0)])


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=4, max_size=4))
def test_residual_logits_equal_a_float64_reference_to_the_last_frame(lengths):
  model = _create('residual_crnn')
  variables = _variables(model)
  # What the LSTM says is tested with the layer; here it is not listened to.
  output = variables['params']['output']
  kernel = np.array(output['kernel'])
  kernel[2 * model.widths[-1] :] = 0
  output = {**output, 'kernel': kernel}
  variables = {**variables, 'params': {**variables['params'], 'output': output}}
  x = _spectrograms(lengths, frames=31)
  found = _compiled_evaluation(model, 'all', variables, x, np.array(lengths))
  for row, length in enumerate(lengths):
    summary = _reference_residual(model, variables, x[row, :length])
    expected = summary @ kernel[: len(summary)] + output['bias']
    np.testing.assert_allclose(found[row], expected, atol=2e-5, rtol=2e-5)


def test_residual_crnn_listens_to_its_lstm_and_to_the_order_of_frames():
  model = _create('residual_crnn')
  lengths = [30]
  x = _spectrograms(lengths, frames=30)
  variables = _variables(model)
  silent = jax.tree.map(np.zeros_like, variables['params']['lstm'])
  deaf = {**variables, 'params': {**variables['params'], 'lstm': silent}}
  found = [
    np.asarray(_compiled_evaluation(model, 'all', given, x, np.array(lengths)))
    for given in (variables, deaf)
  ]
  assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize('name', ['cnn', 'crnn', 'residual_crnn'])
def test_bfloat16_logits_are_float32_and_near(name):
  x, lengths = _spectrograms([20, 9], frames=21), [20, 9]
  full = _evaluate(_create(name), 'all', x, lengths)
  half = _evaluate(_create(name, dtype=jnp.bfloat16), 'all', x, lengths)
  assert half.dtype == np.float32
  assert np.any(half != full)
  np.testing.assert_allclose(half, full, atol=0.05 * np.abs(full).max())


class _Float64(types.ModuleType):
  """jax.numpy with float64 in place of float32."""

  float32 = jnp.float64

  def __getattr__(self, name):
    return getattr(jnp, name)


@pytest.mark.parametrize('variant', list(VARIANTS)[1:])
def test_gradients_equal_finite_differences_in_float64(variant, monkeypatch):
  name, kind, fields = VARIANTS[variant]
  kind = 'all' if kind == 'lstm' else kind
  for module in cnn, convolution, crnn, layers, residual_crnn:
    monkeypatch.setattr(module, 'jnp', _Float64('float64'))
  with jax.enable_x64(True):
    narrow = {'width': 2, 'growth': 1, 'blocks': 2}
    if name == 'residual_crnn':
      narrow = {'widths': (2, 3)}
    model = _create(name, **fields | narrow, dtype=jnp.float64)
    double = functools.partial(np.asarray, dtype=np.float64)
    variables = jax.tree.map(double, _variables(model))
    lengths = [9, 4]
    x = double(_spectrograms(lengths, frames=10))
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 4))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def run(params, x):
      logits, _ = model.apply(
        {**variables, 'params': params},
        x,
        np.array(lengths),
        train=True,
        kind=kind,
        mutable=['batch_stats'],
      )
      assert logits.dtype == np.float64
      return jnp.sum(jnp.tanh(logits) * weight)

    at = variables['params'], x
    _, gradients = run(*at)
    step = 1e-6
    for _ in range(3):
      direction = jax.tree.map(lambda a: rng.normal(size=a.shape), at)
      above = jax.tree.map(lambda a, b: a + step * b, at, direction)
      below = jax.tree.map(lambda a, b: a - step * b, at, direction)
      slope = (run(*above)[0] - run(*below)[0]) / (2 * step)
      products = jax.tree.map(np.vdot, gradients, direction)
      found = sum(jax.tree.leaves(products))
      assert found == pytest.approx(float(slope), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize('variant', VARIANTS)
def test_no_gradient_adds_in_any_order(variant):
  """A GPU's scatter does, unless each place is written once."""
  name, kind, fields = VARIANTS[variant]
  model = _create(name, **fields)
  variables = _variables(model)
  lengths = jnp.array([30, 17])
  x = jnp.asarray(_spectrograms(lengths, frames=30))

  def loss(params):
    logits, _ = model.apply(
      {**variables, 'params': params},
      x,
      lengths,
      train=True,
      kind=kind,
      mutable=['batch_stats'],
    )
    return jnp.sum(
      weighted_cross_entropy(logits, jnp.array([3, 0]), jnp.ones(4))
    )

  traced = jax.jit(jax.grad(loss)).trace(variables['params'])
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  assert 'select_and_scatter' not in text
  assert 'unique_indices = false' not in text


@pytest.mark.parametrize('variant', ['crnn, max_pool, last', 'residual_crnn'])
def test_remat_keeps_less_for_the_same_gradients(variant):
  name, kind, fields = VARIANTS[variant]
  fields = fields | {'dropout': 0.3}
  if name != 'residual_crnn':
    fields |= {'blocks': 2, 'layers_per_block': 3}
  lengths = jnp.array([30, 17, 1])
  x = jnp.asarray(_spectrograms(lengths, frames=30))
  variables = _variables(_create(name, **fields))
  found = []
  for remat in (False, True):
    model = _create(name, remat=remat, **fields)

    def total(params, model=model):
      logits, changed = model.apply(
        {**variables, 'params': params},
        x,
        lengths,
        train=True,
        kind=kind,
        rngs={'dropout': jax.random.key(3)},
        mutable=['batch_stats'],
      )
      return jnp.sum(logits**2), changed

    pull = jax.eval_shape(
      lambda params, total=total: jax.vjp(total, params, has_aux=True)[1],
      variables['params'],
    )
    kept = sum(array.size for array in jax.tree.leaves(pull))
    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    found.append((kept, step(variables['params'])))
  (kept, full), (kept_by_remat, rematerialised) = found
  assert kept_by_remat < 0.7 * kept
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    rematerialised,
    full,
  )

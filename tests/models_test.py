"""Sizes, logits and gradients of the models."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import cnn as cnn_config
from configs import crnn as crnn_config
from ecg_jax import experiment
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.models import cnn, crnn, layers, residual_crnn
from ecg_jax.models.kernels import activation, convolution, lstm
from ecg_jax.models.kernels.dropout import Dropout
from ecg_jax.models.loss import weighted_cross_entropy
from ecg_jax.models.variables import count_parameters, initialise
from ecg_jax.runtime import platforms
from tests import helpers, tiny_models

BINS = 7

# Model, kind of phase: every kind, both reductions, both summaries, some
# numbers of classes.
VARIANTS = {
  'cnn, max_pool': (
    'cnn',
    'all',
    {'reduction': 'max_pool', 'blocks': 3, 'num_classes': 2},
  ),
  'crnn, stride, mean': (
    'crnn',
    'lstm',
    {'reduction': 'stride', 'summary': 'mean', 'num_classes': 9},
  ),
  'residual_crnn': ('residual_crnn', 'all', {'num_classes': 3}),
  'cnn, stride': ('cnn', 'all', {'reduction': 'stride', 'blocks': 3}),
  'crnn, auxiliary': ('crnn', 'auxiliary', {'reduction': 'stride'}),
  'crnn, max_pool, last': ('crnn', 'all', {'lstm_layers': 2}),
}
# Each model, reduction and gradient of a layer once.
FEW = list(VARIANTS)[: None if helpers.FULL else 3]

_variables = functools.partial(tiny_models.random_variables, bins=BINS)


def _spectrograms(lengths, *, frames):
  """Log-spectrograms, zero beyond each length, as the models receive them."""
  x = np.zeros((len(lengths), frames, BINS), np.float32)
  for row, length in enumerate(lengths):
    rng = np.random.default_rng(row)
    x[row, :length] = rng.normal(2, 3, (length, BINS))
  return x


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled_evaluation(model, kind, variables, x, lengths):
  return model.apply(variables, x, lengths, train=False, kind=kind)


def _evaluate(model, kind, x, lengths):
  lengths = np.asarray(lengths, np.int32)
  found = _compiled_evaluation(model, kind, _variables(model), x, lengths)
  return np.asarray(found)


def _train(model, kind, params, x, lengths, **rngs):
  """Logits and new statistics in training."""
  variables = {**_variables(model), 'params': params}
  return model.apply(
    variables,
    x,
    jnp.asarray(lengths, jnp.int32),
    train=True,
    kind=kind,
    mutable=['batch_stats'],
    rngs=rngs,
  )


@pytest.mark.parametrize(
  ('module', 'preset', 'parameters'),
  [
    (cnn_config, 'paper', 9_837_860),
    (cnn_config, 'authors', 9_837_860),
    (crnn_config, 'paper', 7_857_700),
    (crnn_config, 'authors', 5_790_500),
  ],
)
def test_full_models_have_the_published_size_and_24_layers(
  module, preset, parameters
):
  model = experiment.make_network(module.get_config(preset), CHALLENGE).model
  shapes = tiny_models.variable_shapes(model, 33)
  params = shapes['params']
  assert count_parameters(params) == parameters
  kernels = [
    array.shape
    for block in params['convolutions'].values()
    for key, array in block.items()
    if key.startswith('kernel_')
  ]
  assert len(kernels) == 24
  assert {shape[:2] for shape in kernels} == {(5, 5)}
  assert len(jax.tree.leaves(shapes['batch_stats'])) == 2 * 24
  assert set(params) == set().union(*model.trained.values())


def test_kinds_of_phase_share_their_initial_parameters():
  model = tiny_models.create('crnn', blocks=1, layers_per_block=1)
  x, lengths = jnp.zeros((2, 8, BINS)), jnp.array([8, 3])

  @jax.jit
  def run(key):
    alone = model.init(key, x, lengths, train=False, kind='auxiliary')
    return initialise(model, key, BINS), alone

  together, alone = run(jax.random.key(0))
  for name in 'convolutions', 'auxiliary', 'output':
    jax.tree.map(
      np.testing.assert_array_equal,
      together['params'][name],
      alone['params'][name],
    )


@pytest.mark.parametrize('variant', VARIANTS)
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=4, max_size=4))
def test_logits_equal_a_float64_reference_to_the_last_frame(variant, lengths):
  """However much padding follows, and whatever else is in the batch."""
  name, kind, fields = VARIANTS[variant]
  model = tiny_models.create(name, **fields)
  x = _spectrograms([*lengths, 33], frames=33)
  # A row without valid frames; zeros in the others, as the spectrogram's mask
  # leaves them, which only the first layer relies on.
  x[4] = 1e6
  found = _evaluate(model, kind, x, [*lengths, 0])
  assert found.shape == (5, model.config.num_classes)
  for row, length in enumerate(lengths):
    expected = tiny_models.reference_logits(
      model, kind, _variables(model), x[row, :length]
    )
    # Rounding is of the size of the largest logit, not of each.
    atol = 2e-5 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found[row], expected, atol=atol, rtol=0)


def test_frozen_convolutions_are_in_evaluation_mode():
  model = tiny_models.create('crnn', dropout_convolution=0.5)
  variables = _variables(model)
  lengths = [20, 3, 9]
  x = _spectrograms(lengths, frames=21)
  logits, changed = jax.jit(functools.partial(_train, model, 'lstm'))(
    variables['params'], x, lengths, dropout=jax.random.key(0)
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
  ('name', 'kind', 'convolutions', 'others'),
  [
    ('cnn', 'all', [True] * 6, []),
    ('crnn', 'auxiliary', [True] * 6, []),
    # One more is that of the summary.
    ('crnn', 'all', [True] * 6, [True] * 4),
    ('crnn', 'lstm', [False] * 6, [True] * 4),
    # One per block and one before the LSTM; one of the summary.
    ('residual_crnn', 'all', [True] * 5, [True]),
  ],
)
def test_every_layer_has_dropout_in_training(name, kind, convolutions, others):
  fields = {
    'cnn': {'layers_per_block': 3},
    'crnn': {'layers_per_block': 3, 'lstm_layers': 3},
    'residual_crnn': {},
  }
  model = tiny_models.create(
    name, dropout=0.2, dropout_convolution=0.1, **fields[name]
  )
  variables = _variables(model)
  seen = {0.1: [], 0.2: []}

  def record(call, args, kwargs, context):
    if isinstance(context.module, Dropout) and context.method_name == 'noise':
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
          np.array([9], np.int32),
          train=train,
          kind=kind,
          mutable=['batch_stats'],
          rngs={'dropout': jax.random.key(0)},
        )
      )
    off = [False] * len(convolutions)
    assert seen[0.1] == (convolutions if train else off)
    assert seen[0.2] == (others if train else [False] * len(others))


@pytest.mark.parametrize(
  ('name', 'kind', 'rate'),
  [
    ('cnn', 'all', 'dropout_convolution'),
    ('crnn', 'auxiliary', 'dropout_convolution'),
    ('crnn', 'all', 'dropout_lstm'),
    ('residual_crnn', 'all', 'dropout_convolution'),
    ('residual_crnn', 'all', 'dropout_output'),
  ],
)
def test_each_dropout_acts_in_training_only(name, kind, rate):
  model = tiny_models.create(name, **{rate: 0.5})
  lengths = np.array([20, 3, 9], np.int32)
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
    _evaluate(tiny_models.create(name), kind, x, lengths),
  )


def test_convolutions_start_as_glorot_says():
  model = tiny_models.create('cnn', width=16, growth=16)
  params = initialise(model, jax.random.key(0), BINS)['params']
  for block in params['convolutions'].values():
    for name, array in block.items():
      if name.startswith('kernel_'):
        limit = np.sqrt(6 / (25 * (array.shape[2] + array.shape[3])))
        assert 0.95 * limit < np.abs(array).max() <= limit
        assert abs(np.mean(array)) < 0.1 * limit


def test_residual_convolutions_start_as_he_says_the_last_of_a_block_small():
  model = tiny_models.create('residual_crnn', widths=(40, 40), kernel_frames=7)
  params = initialise(model, jax.random.key(0), 40)['params']
  found = jax.tree_util.tree_leaves_with_path(params['convolutions'])
  kernels = {path: array for path, array in found if path[-1].key == 'kernel'}
  assert len(kernels) == 9
  for path, array in kernels.items():
    gain = 0.2 if path[-2].key == 'layer_1' else 1
    deviation = gain * np.sqrt(2 / (array.shape[0] * array.shape[1]))
    assert np.std(array) == pytest.approx(deviation, rel=0.05)
    assert abs(np.mean(array)) < 0.05 * deviation


@pytest.mark.parametrize('name', tiny_models.MODELS)
def test_bfloat16_logits_are_float32_and_near(name):
  x, lengths = _spectrograms([20, 9], frames=21), [20, 9]
  full = _evaluate(tiny_models.create(name), 'all', x, lengths)
  half = tiny_models.create(name, dtype=jnp.bfloat16)
  half = _evaluate(half, 'all', x, lengths)
  assert half.dtype == np.float32
  assert np.any(half != full)
  np.testing.assert_allclose(half, full, atol=0.05 * np.abs(full).max())


class _Float64(types.ModuleType):
  """jax.numpy with float64 in place of float32."""

  float32 = jnp.float64

  def __getattr__(self, name):
    return getattr(jnp, name)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('variant', FEW)
def test_gradients_equal_finite_differences_in_float64(
  variant, platform, monkeypatch
):
  monkeypatch.setattr(platforms, 'platform', lambda: platform)
  name, kind, fields = VARIANTS[variant]
  kind = 'all' if kind == 'lstm' else kind
  narrow = {'width': 2, 'growth': 1, 'blocks': 2}
  if name == 'residual_crnn':
    narrow = {'widths': (2, 3)}
  create = functools.partial(tiny_models.create, name, **fields | narrow)
  double = functools.partial(np.asarray, dtype=np.float64)
  # Flax initializes float32 parameters only.
  narrow_variables = _variables(create())
  shared = activation, convolution, layers, lstm
  for module in cnn, crnn, residual_crnn, *shared:
    monkeypatch.setattr(module, 'jnp', _Float64('float64'))
  with jax.enable_x64(True):
    model = create(dtype=jnp.float64)
    variables = jax.tree.map(double, narrow_variables)
    lengths = [9, 4]
    x = double(_spectrograms(lengths, frames=10))
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, model.config.num_classes))

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


@pytest.mark.parametrize('variant', FEW)
def test_no_gradient_adds_in_any_order(variant):
  """A GPU's scatter does, unless each place is written once."""
  name, kind, fields = VARIANTS[variant]
  model = tiny_models.create(name, **fields)

  def loss(params):
    x = jnp.asarray(_spectrograms([30, 17], frames=30))
    logits, _ = _train(model, kind, params, x, [30, 17])
    return jnp.sum(
      weighted_cross_entropy(logits, jnp.array([1, 0]), jnp.ones(2))
    )

  traced = jax.jit(jax.grad(loss)).trace(_variables(model)['params'])
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  assert 'select_and_scatter' not in text
  assert 'unique_indices = false' not in text


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('cnn', {'blocks': 1, 'layers_per_block': 2}),
    ('residual_crnn', {'blocks_per_stage': 1}),
  ],
)
def test_remat_keeps_less_for_the_same_gradients(name, fields):
  lengths = [30, 17, 1]
  x = jnp.asarray(_spectrograms(lengths, frames=30))
  found = []
  for remat in (False, True):
    model = tiny_models.create(name, dropout=0.3, remat=remat, **fields)

    def total(params, model=model):
      logits, changed = _train(
        model, 'all', params, x, lengths, dropout=jax.random.key(3)
      )
      return jnp.sum(logits**2), changed

    params = _variables(model)['params']
    pull = jax.eval_shape(
      lambda params, total=total: jax.vjp(total, params, has_aux=True)[1],
      params,
    )
    kept = sum(array.size for array in jax.tree.leaves(pull))
    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    found.append((kept, step(params)))
  (kept, full), (kept_by_remat, rematerialised) = found
  assert kept_by_remat < 0.7 * kept
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    rematerialised,
    full,
  )

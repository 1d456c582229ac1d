"""AdamW against Optax's; what a phase trains, how long, at what rate."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_jax.errors import InputError
from ecg_jax.fields.training import PhaseFields
from ecg_jax.models.crnn import CRNN
from ecg_jax.training import learning_rate, optimizer, train_state
from ecg_jax.training.phases import Phase, make_phases


def _tree(seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  return {'a': {'kernel': draw(3, 4), 'bias': draw(4)}, 'b': draw(5)}


def _kernels(tree):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == 'kernel', tree
  )


@pytest.mark.parametrize(
  ('learning_rate', 'weight_decay'), [(1e-3, 0.0), (1e-5, 0.0), (1e-3, 0.5)]
)
def test_update_is_optax_adamw_that_decays_kernels(learning_rate, weight_decay):
  adam = optax.adamw(learning_rate, weight_decay=weight_decay, mask=_kernels)
  params = expected = jax.tree.map(jnp.asarray, _tree(0))
  moments, state = optimizer.fresh_moments(params), adam.init(params)
  update = jax.jit(optimizer.Optimizer(weight_decay=weight_decay).update)
  for step in range(1, 6):
    gradients = _tree(step)
    params, moments = update(params, gradients, moments, learning_rate)
    with jax.numpy_dtype_promotion('standard'):  # as in Optimizer.update
      updates, state = adam.update(gradients, state, expected)
    expected = optax.apply_updates(expected, updates)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(check, params, expected)
  # Steps of about the learning rate, so that the comparison says something.
  moved = np.abs(params['b'] - _tree(0)['b']).max()
  assert learning_rate < moved < 6 * learning_rate


def test_split_divides_the_top_level_and_loses_nothing():
  params = {'convolutions': {'x': 1}, 'lstm': {'y': 2}, 'output': 3}
  trained, frozen = optimizer.split(params, ('lstm', 'output'))
  assert trained == {'lstm': {'y': 2}, 'output': 3}
  assert frozen == {'convolutions': {'x': 1}}
  with pytest.raises(KeyError):
    optimizer.split(params, ('attention',))


PHASES = PhaseFields(
  kinds=('auxiliary', 'lstm', 'all', 'all', 'all'),
  epochs=(500, 100, 200, 200, 200),
  learning_rates=(1e-3, 1e-3, 1e-3, 1e-4, 1e-5),
)


@pytest.mark.parametrize('max_epochs', [None, 1, 150, 1000])
def test_max_epochs_caps_each_phase(max_epochs):
  phases = make_phases(PHASES, max_epochs)
  assert phases == tuple(
    Phase(kind, min(epochs, max_epochs or epochs), rate)
    for kind, epochs, rate in zip(
      PHASES.kinds, PHASES.epochs, PHASES.learning_rates, strict=True
    )
  )
  # Only the auxiliary phase is evaluated without the LSTM.
  assert [phase.evaluated_as for phase in phases] == ['auxiliary'] + 4 * ['all']


@given(
  st.integers(1, 50), st.floats(0, 60), st.sampled_from(['constant', 'cosine'])
)
@settings(max_examples=50, deadline=None)
def test_rate_rises_to_its_highest_and_falls_with_the_schedule_alone(
  epochs, warmup_epochs, schedule
):
  phase = Phase('all', epochs, 2e-3, schedule, warmup_epochs)
  times = np.linspace(0, epochs, 201)
  rates = np.array([learning_rate.rate_at(phase, time) for time in times])
  rising, after = rates[times < warmup_epochs], rates[times >= warmup_epochs]
  np.testing.assert_allclose(
    rising, 2e-3 * times[times < warmup_epochs] / max(warmup_epochs, 1e-9)
  )
  assert (rates >= 0).all()
  assert (rates <= 2e-3).all()
  if schedule == 'constant':
    assert (after == 2e-3).all()
  elif len(after) > 1:
    assert (np.diff(after) < 0).all()
    assert after[-1] == pytest.approx(0, abs=1e-9)
    # Half of the way in time is half of the way down.
    middle = learning_rate.rate_at(phase, (warmup_epochs + epochs) / 2)
    assert middle == pytest.approx(1e-3)


def test_average_forgets_the_start_and_then_at_its_own_decay():
  seven = {'params': {'a': jnp.full(3, 7.0)}, 'batch_stats': {}}
  zero = jax.tree.map(jnp.zeros_like, seven)

  def after(average, step):
    averaging = optimizer.Optimizer(average_decay=0.9)
    tree = averaging.update_average(average, seven, ('a',), step)
    return np.asarray(tree['params']['a'])

  np.testing.assert_allclose(after(zero, 0), 0.9 * 7)
  np.testing.assert_allclose(after(zero, 8), 0.5 * 7)
  # From where the warm-up reaches the decay, the decay.
  for step in (80, 1000):
    np.testing.assert_allclose(after(zero, step), 0.1 * 7, rtol=1e-5)
  np.testing.assert_allclose(after(seven, 3), 7, rtol=1e-6)


def test_average_of_what_is_not_trained_keeps_its_bits():
  x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
  tree = {'params': {'a': x, 'b': {'c': x}}, 'batch_stats': {'b': x}}
  averaging = optimizer.Optimizer(average_decay=0.99)
  found = averaging.update_average(tree, tree, ('a',), jnp.int32(3))
  assert jax.tree.structure(found) == jax.tree.structure(tree)
  for kept in (found['params']['b']['c'], found['batch_stats']['b']):
    np.testing.assert_array_equal(kept, x)
  # The mean itself would not keep them.
  assert (np.asarray(found['params']['a']) != np.asarray(x)).any()


def test_phases_of_unequal_number_are_refused():
  with pytest.raises(InputError, match=r'epochs is \(1, 2\): set one for each'):
    dataclasses.replace(PHASES, epochs=(1, 2))


def test_a_phase_begins_with_zero_moments_of_what_it_trains():
  tree = lambda: {'kernel': jnp.ones((2, 3))}  # noqa: E731
  names = set().union(*CRNN.trained.values())
  variables = {
    'params': {name: tree() for name in names},
    'batch_stats': {'convolutions': tree()},
  }
  key = jax.random.key(0)
  for trained in CRNN.trained.values():
    state = train_state.begin_phase(variables, 17, key, trained, averaged=True)
    assert state.step == 17
    assert state.variables == variables
    jax.tree.map(np.testing.assert_array_equal, state.evaluated, variables)
    plain = train_state.begin_phase(variables, 17, key, trained, averaged=False)
    assert plain.evaluated == variables
    assert state.optimizer_state.count == 0
    for moments in state.optimizer_state.mu, state.optimizer_state.nu:
      assert set(moments) == set(trained)
      for array in jax.tree.leaves(moments):
        assert array.shape == (2, 3)
        assert not np.any(array)

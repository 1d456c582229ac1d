"""Adam against Optax's; what a phase trains and for how long."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ecg_jax import models, optimizer, train_state


def _tree(seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  return {'a': {'kernel': draw(3, 4), 'bias': draw(4)}, 'b': draw(5)}


@pytest.mark.parametrize('learning_rate', [1e-3, 1e-5])
def test_update_is_optax_adam(learning_rate):
  adam = optax.adam(learning_rate)
  params = expected = jax.tree.map(jnp.asarray, _tree(0))
  moments, state = optimizer.fresh_moments(params), adam.init(params)
  update = jax.jit(optimizer.update)
  for step in range(1, 6):
    gradients = _tree(step)
    params, moments = update(params, gradients, moments, learning_rate)
    updates, state = adam.update(gradients, state)
    expected = optax.apply_updates(expected, updates)
    jax.tree.map(
      lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6),
      params,
      expected,
    )
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


PHASES = {
  'kinds': ('auxiliary', 'lstm', 'all', 'all', 'all'),
  'epochs': (500, 100, 200, 200, 200),
  'learning_rates': (1e-3, 1e-3, 1e-3, 1e-4, 1e-5),
}


@pytest.mark.parametrize('max_epochs', [None, 1, 150, 1000])
def test_max_epochs_caps_each_phase(max_epochs):
  phases = optimizer.phases(**PHASES, max_epochs=max_epochs)
  assert tuple(phase.kind for phase in phases) == PHASES['kinds']
  rates = tuple(phase.learning_rate for phase in phases)
  assert rates == PHASES['learning_rates']
  for phase, epochs in zip(phases, PHASES['epochs'], strict=True):
    assert phase.epochs == min(epochs, max_epochs or epochs)


def test_phases_of_unequal_number_are_refused():
  with pytest.raises(ValueError, match='zip'):
    optimizer.phases(**{**PHASES, 'epochs': (1, 2)}, max_epochs=None)


def test_only_the_auxiliary_phase_is_evaluated_without_the_lstm():
  phases = optimizer.phases(**PHASES, max_epochs=None)
  assert [phase.evaluated_as for phase in phases] == ['auxiliary'] + 4 * ['all']


def test_a_phase_begins_with_zero_moments_of_what_it_trains():
  tree = lambda: {'kernel': jnp.ones((2, 3))}  # noqa: E731
  crnn = models.MODELS['crnn']
  names = set().union(*crnn.trained.values())
  variables = {
    'params': {name: tree() for name in names},
    'batch_stats': {'convolutions': tree()},
  }
  for trained in crnn.trained.values():
    state = train_state.begin_phase(variables, 17, trained)
    assert state.step == 17
    assert state.variables == variables
    assert state.optimizer_state.count == 0
    for moments in state.optimizer_state.mu, state.optimizer_state.nu:
      assert set(moments) == set(trained)
      for array in jax.tree.leaves(moments):
        assert array.shape == (2, 3)
        assert not np.any(array)

"""Checkpoints: kept, restored, and left usable by an interrupted save."""

import math
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecg_jax import checkpoint, optimizer, train_state

FOLDER = 'checkpoints'


def _variables(value):
  return {
    'params': {'a': {'kernel': jnp.full((3, 2), value)}, 'b': jnp.ones(4)},
    'batch_stats': {'mean': jnp.full(2, -value)},
  }


def _state(value, trained=('a', 'b')):
  state = train_state.begin_phase(_variables(value), int(value), trained)
  moments = jax.tree.map(lambda x: x + 1, state.optimizer_state)
  return state.replace(optimizer_state=moments)


def _assert_same(restored, expected):
  assert jax.tree.structure(restored) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (restored, expected)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def _save(folder, *values):
  with checkpoint.Checkpoints(folder) as checkpoints:
    for value in values:
      checkpoints.save(
        _state(value), _variables(-value), {'epoch': value, 'loss': value / 3}
      )


def _assert_holds(folder, value):
  with checkpoint.Checkpoints(folder) as checkpoints:
    assert checkpoints.progress() == {'epoch': value, 'loss': value / 3}
    _assert_same(checkpoints.restore_state(_state(0.0)), _state(value))
    _assert_same(checkpoints.restore_best(_variables(0.0)), _variables(-value))


def test_empty_folder_has_no_progress(tmp_path):
  with checkpoint.Checkpoints(tmp_path / FOLDER) as checkpoints:
    assert checkpoints.progress() is None


def test_latest_is_restored_bit_for_bit(tmp_path):
  _save(tmp_path / FOLDER, 1.0)
  _assert_holds(tmp_path / FOLDER, 1.0)
  _save(tmp_path / FOLDER, 2.0, 3.0, 0.1)
  _assert_holds(tmp_path / FOLDER, 0.1)


def test_two_latest_are_kept(tmp_path):
  _save(tmp_path / FOLDER, 1.0, 2.0, 3.0)
  _save(tmp_path / FOLDER, 4.0)
  kept = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
  assert kept == ['2', '3']


def test_progress_keeps_what_json_text_would_lose(tmp_path):
  progress = {'best': -math.inf, 'none': None, 'loss': 0.1 + 0.2, 'begun': True}
  with checkpoint.Checkpoints(tmp_path / FOLDER) as checkpoints:
    checkpoints.save(_state(1.0), _variables(1.0), progress)
  with checkpoint.Checkpoints(tmp_path / FOLDER) as checkpoints:
    assert checkpoints.progress() == progress


def test_moments_of_frozen_parameters_are_not_saved(tmp_path):
  state = _state(1.0, trained=('b',))
  with checkpoint.Checkpoints(tmp_path / FOLDER) as checkpoints:
    checkpoints.save(state, _variables(1.0), {})
    restored = checkpoints.restore_state(_state(0.0, trained=('b',)))
  _assert_same(restored, state)
  assert set(restored.optimizer_state.mu) == {'b'}
  assert optimizer.split(restored.params, ('b',))[1].keys() == {'a'}


def test_what_was_given_may_be_overwritten_once_save_returns(tmp_path):
  overwrite = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0
  )
  with checkpoint.Checkpoints(tmp_path / FOLDER) as checkpoints:
    state, best = _state(5.0), _variables(-5.0)
    checkpoints.save(state, best, {'epoch': 5.0, 'loss': 5.0 / 3})
    overwrite((state, best))
  _assert_holds(tmp_path / FOLDER, 5.0)


@pytest.mark.parametrize('lost', ['state', 'progress', '_CHECKPOINT_METADATA'])
def test_leftover_of_an_interrupted_save_is_no_checkpoint(tmp_path, lost):
  folder = tmp_path / FOLDER
  _save(folder, 1.0)
  leftover = folder / '1.orbax-checkpoint-tmp'
  shutil.copytree(folder / '0', leftover)
  if (leftover / lost).is_dir():
    shutil.rmtree(leftover / lost)
  else:
    (leftover / lost).unlink()
  _assert_holds(folder, 1.0)
  _save(folder, 2.0)
  _assert_holds(folder, 2.0)


_KILLED = """
import os, pathlib, sys
import jax.numpy as jnp
from ecg_jax import checkpoint, train_state

big = {'params': {'a': jnp.ones((8, 2**20))}, 'batch_stats': {}}
checkpoints = checkpoint.Checkpoints(pathlib.Path(sys.argv[1]))
for epoch in range(2):
  checkpoints.save(train_state.begin_phase(big, epoch, ()), big, {'e': epoch})
os._exit(9)
"""


def test_process_killed_during_a_save_leaves_the_one_before(tmp_path):
  folder = tmp_path / FOLDER
  done = subprocess.run([sys.executable, '-c', _KILLED, str(folder)])
  assert done.returncode == 9
  # The second was only begun.
  assert any('tmp' in path.name for path in folder.iterdir())
  with checkpoint.Checkpoints(folder) as checkpoints:
    assert checkpoints.progress() == {'e': 0}
  _assert_saved_on(folder)


def _assert_saved_on(folder):
  _save(folder, 2.0)
  _assert_holds(folder, 2.0)

"""Checkpoints: saved, restored, and usable after an interrupted save."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ecg_jax import stored_config
from ecg_jax.errors import InputError
from ecg_jax.runs import checkpoint
from ecg_jax.training import optimizer, train_state
from tests import helpers

CORRUPTIONS = 60 if helpers.FULL else 5
"""Of each kind."""

FOLDER = 'checkpoints'
SETTINGS = {'fold': 0, 'model.width': 4, 'phases.epochs': [1, 2]}


def _open(folder, **options):
  return checkpoint.Checkpoints(folder, SETTINGS, **options)


def _variables(value):
  return {
    'params': {'a': {'kernel': jnp.full((3, 2), value)}, 'b': jnp.ones(4)},
    'batch_stats': {'mean': jnp.full(2, -value)},
  }


def _state(value, trained=('a', 'b')):
  state = train_state.begin_phase(
    _variables(value), int(value), jax.random.key(0), trained, averaged=True
  )
  moments = jax.tree.map(lambda x: x + 1, state.optimizer_state)
  return state.replace(optimizer_state=moments).saved()


def _assert_same(restored, expected):
  assert jax.tree.structure(restored) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (restored, expected)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def _save(folder, *values):
  with _open(folder) as checkpoints:
    for value in values:
      checkpoints.save(
        _state(value), _variables(-value), {'epoch': value, 'loss': value / 3}
      )


def _assert_holds(folder, value):
  with _open(folder) as checkpoints:
    assert checkpoints.progress() == {'epoch': value, 'loss': value / 3}
    _assert_same(checkpoints.restore('state', _state(0.0)), _state(value))
    _assert_same(
      checkpoints.restore('best', _variables(0.0)), _variables(-value)
    )


def test_latest_is_restored_bit_for_bit_and_two_are_preserved(tmp_path):
  folder = tmp_path / FOLDER
  with _open(folder) as checkpoints:
    assert checkpoints.progress() is None
  _save(folder, 1.0)
  _assert_holds(folder, 1.0)
  _save(folder, 2.0, 3.0)
  _save(folder, 0.1)
  _assert_holds(folder, 0.1)
  assert sorted(path.name for path in folder.iterdir()) == ['2', '3']


def test_moments_of_frozen_parameters_are_not_saved(tmp_path):
  """And progress is, with what JSON text would lose."""
  progress = {'best': -math.inf, 'none': None, 'loss': 0.1 + 0.2, 'begun': True}
  state = _state(1.0, trained=('b',))
  with _open(tmp_path / FOLDER) as checkpoints:
    checkpoints.save(state, _variables(1.0), progress)
  with _open(tmp_path / FOLDER) as checkpoints:
    assert checkpoints.progress() == progress
    restored = checkpoints.restore('state', _state(0.0, trained=('b',)))
  _assert_same(restored, state)
  assert set(restored.optimizer_state.mu) == {'b'}
  assert optimizer.split(restored.params, ('b',))[1].keys() == {'a'}


def test_arguments_may_be_overwritten_once_save_returns(tmp_path):
  overwrite = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0
  )
  with _open(tmp_path / FOLDER) as checkpoints:
    state, best = _state(5.0), _variables(-5.0)
    checkpoints.save(state, best, {'epoch': 5.0, 'loss': 5.0 / 3})
    overwrite((state, best))
  _assert_holds(tmp_path / FOLDER, 5.0)


def test_leftover_of_an_interrupted_save_is_no_checkpoint(tmp_path):
  folder = tmp_path / FOLDER
  _save(folder, 1.0)
  leftover = folder / '1.orbax-checkpoint-tmp'
  shutil.copytree(folder / '0', leftover)
  shutil.rmtree(leftover / 'state')
  _assert_holds(folder, 1.0)
  _save(folder, 2.0)
  _assert_holds(folder, 2.0)


_KILLED = """
import os, pathlib, sys
import jax.numpy as jnp
from ecg_jax.runs import checkpoint
from ecg_jax.training import train_state

big = {'params': {'a': jnp.ones((8, 2**20))}, 'batch_stats': {}}
checkpoints = checkpoint.Checkpoints(
  pathlib.Path(sys.argv[1]),
  {'fold': 0, 'model.width': 4, 'phases.epochs': [1, 2]},
)
for epoch in range(2):
  state = train_state.begin_phase(big, epoch, None, (), averaged=False)
  checkpoints.save(state.saved(), big, {'e': epoch})
os._exit(9)
"""


def test_process_killed_during_a_save_leaves_the_one_before(tmp_path):
  folder = tmp_path / FOLDER
  helpers.run_python(_KILLED, folder, code=9)
  # The second was only begun.
  assert any('tmp' in path.name for path in folder.iterdir())
  with _open(folder) as checkpoints:
    assert checkpoints.progress() == {'e': 0}
  _assert_saved_on(folder)


def _assert_saved_on(folder):
  _save(folder, 2.0)
  _assert_holds(folder, 2.0)


# Damaged checkpoints.


def _files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def _flip(path, rng):
  content = bytearray(path.read_bytes())
  content[rng.integers(len(content))] ^= 1 << rng.integers(8)
  path.write_bytes(content)


def _truncate(path, rng):
  content = path.read_bytes()
  path.write_bytes(content[: rng.integers(len(content))])


DAMAGES = {
  'flip': _flip,
  'truncate': _truncate,
  'remove': lambda path, rng: path.unlink(),
  'grow': lambda path, rng: path.write_bytes(path.read_bytes() + rng.bytes(3)),
}


@pytest.fixture(scope='module')
def three(tmp_path_factory):
  """A folder in which two of three checkpoints are left."""
  folder = tmp_path_factory.mktemp('three') / FOLDER
  _save(folder, 1.0, 2.0, 3.0)
  return folder


@pytest.fixture
def copied(three, tmp_path):
  """A copy of that folder, to be damaged."""
  folder = tmp_path / FOLDER
  shutil.copytree(three, folder)
  return folder


@pytest.mark.parametrize('name', DAMAGES)
def test_damaged_checkpoint_gives_way_to_the_one_before(
  three, tmp_path, name, caplog
):
  rng = np.random.default_rng(0)
  files = [path for path in _files(three / '2') if path.stat().st_size]
  for number in range(CORRUPTIONS):
    folder = tmp_path / str(number) / FOLDER
    shutil.copytree(three, folder)
    original = files[rng.integers(len(files))]
    DAMAGES[name](folder / original.relative_to(three), rng)
    caplog.clear()
    _assert_holds(folder, 2.0)
    assert f'going on from {folder / "1"}' in caplog.text
    assert original.relative_to(three / '2').as_posix() in caplog.text
    # Nothing is removed by who only reads.
    assert (folder / '2').exists()
    with pytest.raises(InputError, match='no checkpoint that can be used'):
      _open(folder, only_latest=True)
    shutil.rmtree(folder)
  print(f'{name}: {CORRUPTIONS} tried and caught')


def test_damaged_checkpoint_goes_with_the_next_save(copied):
  (copied / '2' / 'manifest.json').unlink()
  _save(copied, 4.0)
  _assert_holds(copied, 4.0)
  assert sorted(path.name for path in copied.iterdir()) == ['1', '2']


def _add_to_manifest(folder):
  path = folder / '2' / 'manifest.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'more': 1}))


def _nest_manifest(folder):
  (folder / '2' / 'manifest.json').write_text('[' * 100_000)


def _add_file(folder):
  (folder / '2' / 'state' / 'more').write_bytes(b'x')


def _add_folder(folder):
  (folder / '3').mkdir()
  # Neither of these is a checkpoint.
  (folder / '4').write_text('')
  (folder / '5').symlink_to('2')


@pytest.mark.parametrize(
  ('damage', 'value', 'reason'),
  [
    (_add_to_manifest, 2.0, 'manifest.json has been changed'),
    (_nest_manifest, 2.0, 'manifest.json has been changed'),
    (_add_file, 2.0, 'state/more does not belong to it'),
    (_add_folder, 3.0, 'incomplete, it has no manifest.json'),
  ],
)
def test_what_a_checkpoint_does_not_have_is_damage(
  copied, caplog, damage, value, reason
):
  damage(copied)
  _assert_holds(copied, value)
  assert reason in caplog.text
  with pytest.raises(InputError, match=reason):
    _open(copied, only_latest=True)


def test_without_an_intact_checkpoint_nothing_is_restored(copied):
  for step in ('1', '2'):
    shutil.rmtree(copied / step / 'best')
  with pytest.raises(InputError, match=r'2: best/.* is missing; 1: best/'):
    _open(copied)
  for path in copied.glob('*/manifest.json'):
    path.unlink()
  with pytest.raises(InputError, match=r'2: incomplete.*; 1: incomplete'):
    _open(copied)
  assert {path.name for path in copied.iterdir()} == {'1', '2'}


# Checkpoints of something else.


def test_checkpoint_of_something_else_is_refused_with_the_differences(
  three, monkeypatch
):
  settings = {**SETTINGS, 'model.width': 8, 'more': None}
  message = r'another run \(model.width: 8 here, 4 there\)'
  with pytest.raises(InputError, match=message):
    checkpoint.Checkpoints(three, settings)
  like = _variables(1.0)
  like['params']['b'] = jnp.ones(5)
  message = r"'b'.*'float32\[5\]' here, 'float32\[4\]' there"
  with _open(three) as opened, pytest.raises(InputError, match=message):
    opened.restore('best', like)
  monkeypatch.setattr(checkpoint, '_FORMAT', 2)
  with pytest.raises(InputError, match='of format 1, this version reads'):
    _open(three)


@pytest.mark.parametrize(
  ('owner', 'method'),
  [
    (checkpoint.Checkpoints, '_add_manifest'),
    (ocp.CheckpointManager, '_finalize'),
    (ocp.CheckpointManager, 'save'),
  ],
)
def test_save_that_fails_is_reported_in_one_sentence(
  tmp_path, monkeypatch, caplog, owner, method
):
  folder = tmp_path / FOLDER
  _save(folder, 1.0)

  def fail(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(owner, method, fail)
    message = r'^No checkpoint .*\(.*No space left on device\): free'
    with pytest.raises(InputError, match=message):
      _save(folder, 2.0)
  # Orbax reports nothing of its own.
  assert not caplog.records
  _assert_holds(folder, 1.0)
  if method != '_finalize':  # Its writes go on behind this process's back.
    _assert_saved_on(folder)


RAISED_WHERE_NOBODY_CATCHES = """
import asyncio
from ecg_jax.runs import checkpoint

checkpoint.report_failed_saves_once()

class Late:
  def __init__(self, message):
    self.message = message
  def __del__(self):
    raise RuntimeError(self.message)

Late('Event loop is closed')
Late('something else')

async def write():
  raise OSError('No space left on device')

async def save():
  asyncio.create_task(write())
  await asyncio.sleep(0)

asyncio.run(save())
"""


def test_only_writes_that_outlive_their_save_are_not_reported():
  """In a process of its own: pytest catches such errors."""
  done = helpers.run_python(RAISED_WHERE_NOBODY_CATCHES)
  assert done.stderr.count('Traceback') == 1
  assert 'RuntimeError: something else' in done.stderr


def test_save_without_room_is_not_begun(tmp_path, monkeypatch):
  folder = tmp_path / FOLDER
  _save(folder, 1.0)
  with monkeypatch.context() as patch:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    patch.setattr(shutil, 'disk_usage', lambda folder: usage)
    with pytest.raises(InputError, match=r'takes 1\.0 MB and .* has 1\.0 MB'):
      _save(folder, 2.0)
  assert [path.name for path in folder.iterdir()] == ['0']
  _assert_saved_on(folder)


def test_only_checkpoint_that_is_incomplete_is_as_none(tmp_path, caplog):
  folder = tmp_path / FOLDER
  _save(folder, 1.0)
  (folder / '0' / 'manifest.json').unlink()
  with _open(folder) as checkpoints:
    assert checkpoints.progress() is None
  assert 'starting from scratch' in caplog.text
  _assert_saved_on(folder)


def test_a_checkpoint_from_before_a_field_was_added_is_restored(tmp_path):
  """The field was in effect at its default."""
  _save(tmp_path / FOLDER, 1.0)
  defaults = stored_config.defaults('cnn')
  added = {name: defaults[name] for name in ('augmentation.bursts', 'seed')}
  with checkpoint.Checkpoints(
    tmp_path / FOLDER, SETTINGS | added
  ) as checkpoints:
    assert checkpoints.progress()['epoch'] == 1.0
  with pytest.raises(InputError, match='another run'):
    checkpoint.Checkpoints(tmp_path / FOLDER, SETTINGS | {'seed': 7})

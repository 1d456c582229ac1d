"""Saves and restores a fold's latest state and best weights, with Orbax.

One checkpoint holds all that the loop needs: the state, the best weights so
far, and the progress. The two latest are preserved; an interrupted save is not
a checkpoint, so the one before it is the latest.

Orbax restores most damaged files without an error. So a manifest is added to
each checkpoint once Orbax has committed it: size and SHA-256 of every file,
the settings of the run, shapes and dtypes of its arrays. Without it a
checkpoint is incomplete. Only a checkpoint that its manifest confirms is used;
later ones are logged and, by the next save, removed.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers

from ecg_jax import stored_config
from ecg_jax.errors import InputError
from ecg_jax.runtime import files as files_lib
from ecg_jax.runtime import sharding

_MANIFEST = 'manifest.json'

_FORMAT = 1  # Incremented when older checkpoints cannot be read any more.

_NUM_PRESERVED = 2


def report_failed_saves_once() -> None:
  """Has a save that fails reported by our one sentence alone.

  Orbax logs it too, at length; of several writes that fail asyncio logs all but
  the one that was waited for; and TensorStore's writes that outlive it report
  to the event loop of the save, which is closed by then. This changes logging
  and `sys.unraisablehook` of the whole process, so a command calls it.
  """
  orbax = str(pathlib.Path(ocp.__file__).parent)
  absl_logging.get_absl_logger().addFilter(
    lambda record: not record.pathname.startswith(orbax)
  )
  logging.getLogger('asyncio').addFilter(
    lambda record: 'never retrieved' not in record.getMessage()
  )
  report = sys.unraisablehook

  def report_others(unraisable: 'sys.UnraisableHookArgs') -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      report(unraisable)

  sys.unraisablehook = report_others


_MAKE_ROOM = (
  'free some space or make it writable, and start again with the same command;'
  ' the checkpoint before it is intact.'
)


class Checkpoints:
  """The checkpoints in a fold's folder; a context manager."""

  def __init__(
    self,
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    *,
    only_latest: bool = False,
    read_only: bool = False,
  ):
    """Opens the folder and finds the latest intact checkpoint.

    Args:
      folder: Created if it does not exist.
      settings: Name -> JSON value of everything that the state depends on; a
        checkpoint of other settings is refused.
      only_latest: Whether to refuse a damaged latest checkpoint rather than use
        the one before it.
      read_only: Whether another process writes them, and `save` does nothing.

    Raises:
      InputError: There are checkpoints and none can be used, or it is of other
        settings.
    """
    self._folder = folder.resolve()
    self._settings = dict(settings)
    self._read_only = read_only
    found = _find_intact(self._folder, only_latest)
    self._step, self._manifest, self._unusable = found
    self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._commit: concurrent.futures.Future[None] | None = None
    _check_made_for(self._folder, self._manifest, self._settings)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(_NUM_PRESERVED),
        create=False,
        # Otherwise its threads signal by keys that all processes share.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        read_only=read_only,
        # Each process reads and writes alone, arrays that it has entirely.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=jax.process_index(),
          active_processes={jax.process_index()},
          barrier_sync_key_prefix=str(jax.process_index()),
        ),
      ),
      item_names=('state', 'best', 'progress'),
    )

  def save(
    self, state: Any, best: Mapping[str, Any], progress: Mapping[str, Any]
  ) -> None:
    """Starts a save; the arguments may be overwritten once this returns.

    Args:
      state: The latest state.
      best: `params` and `batch_stats` of the best validation score.
      progress: The position of the loop, as JSON can represent it.

    Raises:
      InputError: This or the previous save cannot be written.
    """
    if self._read_only:
      return
    self.wait()
    state, best = sharding.own_copy((state, dict(best)))
    step = 0 if self._step is None else self._step + 1
    manifest = {
      'format': _FORMAT,
      'settings': self._settings,
      'arrays': {'state': describe(state), 'best': describe(best)},
    }
    with self._explained():
      for path in self._unusable:
        shutil.rmtree(path)
      if self._unusable:
        self._unusable = []
        self._manager.reload()
      _check_room(self._folder, (state, best))
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          best=ocp.args.StandardSave(best),
          progress=ocp.args.JsonSave(dict(progress)),
        ),
      )
    self._commit = self._executor.submit(self._add_manifest, step, manifest)
    self._step, self._manifest = step, manifest

  def wait(self) -> None:
    """Waits until the save in progress is complete.

    Raises:
      InputError: It cannot be written.
    """
    commit, self._commit = self._commit, None
    if commit is not None:
      with self._explained():
        commit.result()

  def progress(self) -> dict[str, Any] | None:
    """The loop's position in the latest checkpoint; None without one."""
    if self._step is None:
      return None
    restored = self._manager.restore(
      self._step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
    )
    return restored['progress']

  def restore(self, item: str, like: Any) -> Any:
    """Restores arrays of the latest checkpoint.

    Args:
      item: 'state', the latest state, or 'best', the best weights.
      like: Arrays, or shapes, of the same structure and where they are to be.

    Raises:
      InputError: It has arrays of other names, shapes or dtypes.
    """
    saved = self._manifest['arrays'][item]
    if differing := _differences(describe(like), saved):
      raise InputError(
        f'{self._folder} holds a checkpoint of another model ({item}:'
        f' {differing}): name another folder with --workdir.'
      )
    # As NumPy arrays, which each process reads alone.
    abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    restored = self._manager.restore(
      self._step,
      args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)}),
    )
    return sharding.place_like(restored[item], like)

  def _add_manifest(self, step: int, content: dict[str, Any]) -> None:
    """Waits until Orbax has committed a step, and adds its manifest."""
    self._manager.wait_until_finished()
    folder = self._folder / str(step)
    content = {**content, 'files': _inventory(folder)}
    files_lib.write_json(
      folder / _MANIFEST,
      {'content': content, 'digest': files_lib.digest(content)},
    )

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns errors of a save into InputError."""
    try:
      yield
    except InputError:
      raise
    except Exception as error:  # Orbax and TensorStore raise many kinds.
      # The message of TensorStore ends with the reason of the system.
      match = re.search(r"([^:]*) \[os_error_code='\d+'\]", str(error))
      reason = match[1].strip() if match else str(error) or type(error).__name__
      raise InputError(
        f'No checkpoint could be written to {self._folder}'
        f' ({reason.splitlines()[0]}): {_MAKE_ROOM}'
      ) from error

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    """Waits for the save in progress and releases the folder."""
    try:
      self.wait()
    except InputError:
      if kind is None:  # Otherwise the error that ended the context says more.
        raise
    finally:
      self._executor.shutdown()
      with contextlib.suppress(Exception):  # The save's, reported already.
        self._manager.close()


def _check_room(folder: pathlib.Path, tree: Any) -> None:
  """Refuses to start a save that the disk has no room for."""
  needed = sum(array.nbytes for array in jax.tree.leaves(tree)) + 2**20
  total, _, free = shutil.disk_usage(folder)
  if total and free < needed:  # Some file systems report 0 for both.
    raise InputError(
      f'A checkpoint takes {needed / 1e6:,.1f} MB and {folder} has'
      f' {free / 1e6:,.1f} MB left: {_MAKE_ROOM}'
    )


def _find_intact(
  folder: pathlib.Path, only_latest: bool
) -> tuple[int | None, dict[str, Any], list[pathlib.Path]]:
  """Finds the latest intact checkpoint.

  Returns:
    Its number, None if there is none; the content of its manifest; the folders
    of incomplete and damaged ones after it.

  Raises:
    InputError: There are complete checkpoints and none can be used.
  """
  paths = folder.iterdir() if folder.is_dir() else ()
  steps = {
    int(path.name): path
    for path in paths
    if path.name.isdecimal() and path.is_dir() and not path.is_symlink()
  }
  unusable: dict[pathlib.Path, str] = {}
  complete = only_latest
  for step in sorted(steps, reverse=True)[: 1 if only_latest else None]:
    path = steps[step]
    manifest, damage = _read_manifest(path)
    damage = damage or _damage(path, manifest['files'])
    if damage is None:
      for other, reason in unusable.items():
        absl_logging.warning('%s: %s; going on from %s.', other, reason, path)
      return step, manifest, list(unusable)
    unusable[path] = damage
    # Only the very first save can be interrupted and leave nothing before it.
    complete = complete or step > 0 or (path / _MANIFEST).exists()
  reasons = '; '.join(f'{path.name}: {why}' for path, why in unusable.items())
  if unusable and complete:
    raise InputError(
      f'{folder} holds no checkpoint that can be used ({reasons}): restore a'
      ' copy of one, or delete the folder of the fold to train it again.'
    )
  if unusable:
    absl_logging.warning('%s: %s; starting from scratch.', folder, reasons)
  return None, {}, list(unusable)


def _read_manifest(path: pathlib.Path) -> tuple[dict[str, Any], str | None]:
  """The content of a checkpoint's manifest, or what is wrong with it."""
  try:
    manifest = json.loads((path / _MANIFEST).read_bytes())
    content = manifest['content']
    if manifest == {'content': content, 'digest': files_lib.digest(content)}:
      return content, None
  except FileNotFoundError:
    return {}, f'incomplete, it has no {_MANIFEST}'
  except OSError as error:
    return {}, f'{_MANIFEST}: {error.strerror}'
  except (ValueError, LookupError, TypeError, RecursionError):
    pass
  return {}, f'{_MANIFEST} has been changed'


def _damage(folder: pathlib.Path, files: Mapping[str, Any]) -> str | None:
  """What is wrong with the files of a checkpoint, or None."""
  try:
    present = _inventory(folder)
  except OSError as error:
    return f'{error.filename}: {error.strerror}'
  if missing := files.keys() - present:
    return f'{min(missing)} is missing'
  if others := present.keys() - files:
    return f'{min(others)} does not belong to it'
  for name, (size, digest) in files.items():
    found, found_digest = present[name]
    if found != size:
      return f'{name} has {found} bytes instead of {size}'
    if found_digest != digest:
      return f'{name} has been changed'
  return None


def _check_made_for(
  folder: pathlib.Path, manifest: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
  if not manifest:
    return
  if manifest['format'] != _FORMAT:
    raise InputError(
      f'{folder} holds a checkpoint of format {manifest["format"]}, this'
      f' version reads format {_FORMAT}: use the version that wrote it, or name'
      ' another folder with --workdir.'
    )
  # An earlier version may have had fewer fields.
  defaults = stored_config.defaults(str(settings.get('model.name')))
  saved = {**defaults, **manifest['settings']}
  if differing := _differences({**defaults, **settings}, saved):
    raise InputError(
      f'{folder} holds a checkpoint of another run ({differing}): name another'
      ' folder with --workdir.'
    )


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
  """The first few names whose values differ, with both; '' if none does."""
  names = stored_config.compare(here, there)
  more = [f'and {len(names) - 3} more'] if len(names) > 3 else []
  return '; '.join(names[:3] + more)


def describe(tree: Any) -> dict[str, str]:
  """Path of each array -> its dtype and shape."""
  return {
    jax.tree_util.keystr(path): f'{array.dtype}{list(array.shape)}'
    for path, array in jax.tree_util.tree_leaves_with_path(tree)
  }


def _inventory(folder: pathlib.Path) -> dict[str, list[Any]]:
  """Path in a checkpoint -> size and SHA-256 of all its files but one."""
  found = {}
  for path in sorted(folder.rglob('*')):
    if not path.is_dir() and path != folder / _MANIFEST:
      with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
      name = path.relative_to(folder).as_posix()
      found[name] = [path.stat().st_size, digest]
  return found

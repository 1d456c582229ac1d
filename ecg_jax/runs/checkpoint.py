"""Keeps a job's latest state and best weights, with Orbax.

One checkpoint holds all that the loop needs: the state, the best weights so
far, and the progress. The two latest are kept; a save that was interrupted is
no checkpoint, so the one before it is the latest.

Orbax restores most damaged files without an error. So a manifest is added to
each checkpoint once Orbax has committed it: size and SHA-256 of every file,
what it was made for, shapes and dtypes of its arrays. Without it a checkpoint
is incomplete. Only a checkpoint that its manifest confirms is used; those after
it are told of and, with the next save, removed.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from ecg_jax import configuration
from ecg_jax.errors import InputError
from ecg_jax.runtime import files as files_lib
from ecg_jax.runtime import sharding

_MANIFEST = 'manifest.json'

_FORMAT = 1  # of a checkpoint: raised when older ones cannot be read

_KEPT = 2


# Of a save that fails Orbax reports much, with tracebacks; we, one sentence.
_ORBAX = str(pathlib.Path(ocp.__file__).parent)


logging.get_absl_logger().addFilter(
  lambda record: not record.pathname.startswith(_ORBAX)
)

_other_unraisable = sys.unraisablehook


def _tell_unraisable(unraisable: 'sys.UnraisableHookArgs') -> None:
  """Tells of all but TensorStore's writes that outlive a save that failed.

  Their threads report to the event loop of the save, which is closed by then.
  """
  if str(unraisable.exc_value) != 'Event loop is closed':
    _other_unraisable(unraisable)


sys.unraisablehook = _tell_unraisable

_MAKE_ROOM = (
  'free some space or make it writable, and start again with the same command;'
  ' the checkpoint before it stands.'
)


class Checkpoints:
  """The checkpoints of one fold's folder: a context that holds it open."""

  def __init__(
    self,
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    *,
    only_latest: bool = False,
    read_only: bool = False,
  ):
    """Opens the folder and finds the latest checkpoint that is whole.

    Args:
      folder: Made if it is not there.
      settings: Name -> value, as JSON keeps it, of all that the state depends
        on; a checkpoint of others is refused.
      only_latest: Whether to refuse the one before a damaged one too.
      read_only: Whether another process writes them, and `save` does nothing.

    Raises:
      InputError: There are checkpoints and none can be used, or it is of other
        settings.
    """
    self._folder = folder.resolve()
    self._settings = dict(settings)
    self._read_only = read_only
    self._step, self._manifest, self._unusable = _find_whole(
      self._folder, only_latest
    )
    self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._commit: concurrent.futures.Future[None] | None = None
    _check_made_for(self._folder, self._manifest, self._settings)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(_KEPT),
        create=False,
        # Else its threads signal by keys that all processes share.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        read_only=read_only,
        # Each process reads and writes by itself, arrays that it has whole.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=jax.process_index(),
          active_processes={jax.process_index()},
          barrier_sync_key_prefix=str(jax.process_index()),
        ),
      ),
      item_names=('state', 'best', 'progress'),
    )

  def save(
    self,
    state: Any,
    best: Mapping[str, Any],
    progress: Mapping[str, Any],
  ) -> None:
    """Starts a save; what was given may be overwritten once this returns.

    Args:
      state: The latest state.
      best: `params` and `batch_stats` of the best validation score.
      progress: Where the loop stands, as JSON can hold it.

    Raises:
      InputError: This or the save before it cannot be written.
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
    try:
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
    except InputError:
      raise
    except Exception as error:  # Orbax and TensorStore raise many kinds.
      raise self._not_written(error) from error
    self._commit = self._executor.submit(self._add_manifest, step, manifest)
    self._step, self._manifest = step, manifest

  def wait(self) -> None:
    """Waits until a save under way is complete.

    Raises:
      InputError: It cannot be written.
    """
    commit, self._commit = self._commit, None
    if commit is not None:
      try:
        commit.result()
      except Exception as error:  # As in `save`.
        raise self._not_written(error) from error

  def progress(self) -> dict[str, Any] | None:
    """Where the latest checkpoint stands; None if there is none."""
    if self._step is None:
      return None
    restored = self._manager.restore(
      self._step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
    )
    return restored['progress']

  def restore_state(self, like: Any) -> Any:
    """The latest state, with the shapes and shardings of `like`.

    Raises:
      InputError: It has arrays of other names, shapes or dtypes.
    """
    return self._restore('state', like)

  def restore_best(self, like: Mapping[str, Any]) -> dict[str, Any]:
    """The best weights; otherwise as `restore_state`."""
    return self._restore('best', dict(like))

  def _restore(self, item, like):
    kept, wanted = self._manifest['arrays'][item], describe(like)
    differing = _differences(wanted, kept)
    if differing:
      raise InputError(
        f'{self._folder} holds a checkpoint of another model ({item}:'
        f' {differing}): name another folder with --workdir.'
      )
    # As NumPy's, each process reads them by itself.
    abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    restored = self._manager.restore(
      self._step,
      args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)}),
    )
    return sharding.place_like(restored[item], like)

  def _add_manifest(self, step: int, content: dict[str, Any]) -> None:
    """Waits until Orbax has committed a step, and completes it."""
    self._manager.wait_until_finished()
    folder = self._folder / str(step)
    files = {
      name: [path.stat().st_size, _digest(path)]
      for name, path in _files(folder)
    }
    content = {**content, 'files': files}
    whole = {'content': content, 'digest': files_lib.digest(content)}
    files_lib.write_json(folder / _MANIFEST, whole)

  def _not_written(self, error: Exception) -> InputError:
    # TensorStore ends with what the system said.
    said = re.search(r"([^:]*) \[os_error_code='\d+'\]", str(error))
    reason = said[1].strip() if said else str(error) or type(error).__name__
    return InputError(
      f'No checkpoint could be written to {self._folder}'
      f' ({reason.splitlines()[0]}): {_MAKE_ROOM}'
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    """Waits for a save under way and releases the folder."""
    try:
      self.wait()
    except InputError:
      if kind is None:  # What ended the context tells more.
        raise
    finally:
      self._executor.shutdown()
      with contextlib.suppress(Exception):  # The save's, told already.
        self._manager.close()


def _check_room(folder: pathlib.Path, tree: Any) -> None:
  """Refuses to begin a save that the disk has no room for."""
  needed = sum(array.nbytes for array in jax.tree.leaves(tree)) + 2**20
  total, _, free = shutil.disk_usage(folder)
  if total and free < needed:  # Some file systems do not tell.
    raise InputError(
      f'A checkpoint takes {needed / 1e6:,.1f} MB and {folder} has'
      f' {free / 1e6:,.1f} MB left: {_MAKE_ROOM}'
    )


def _find_whole(
  folder: pathlib.Path, only_latest: bool
) -> tuple[int | None, dict[str, Any], list[pathlib.Path]]:
  """Finds the latest checkpoint that is whole.

  Returns:
    Its number, None if there is none; what its manifest holds; the folders of
    incomplete and damaged ones after it.

  Raises:
    InputError: There are complete checkpoints and none can be used.
  """
  found = folder.iterdir() if folder.is_dir() else ()
  steps = {
    int(path.name): path
    for path in found
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
        logging.warning('%s: %s; going on from %s.', other, reason, path)
      return step, manifest, list(unusable)
    unusable[path] = damage
    # Only the very first save can be interrupted and leave nothing before it.
    complete = complete or step > 0 or (path / _MANIFEST).exists()
  told = '; '.join(f'{path.name}: {why}' for path, why in unusable.items())
  if unusable and complete:
    raise InputError(
      f'{folder} holds no checkpoint that can be used ({told}): put back a copy'
      ' of one, or delete the folder of the fold to train it again.'
    )
  if unusable:
    logging.warning('%s: %s; beginning anew.', folder, told)
  return None, {}, list(unusable)


def _read_manifest(path: pathlib.Path) -> tuple[dict[str, Any], str | None]:
  """The content of a checkpoint's manifest, or what is wrong with it."""
  try:
    whole = json.loads((path / _MANIFEST).read_bytes())
    content = whole['content']
    if whole == {'content': content, 'digest': files_lib.digest(content)}:
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
  there = dict(_files(folder))
  missing, others = files.keys() - there, there.keys() - files - {_MANIFEST}
  if missing:
    return f'{min(missing)} is missing'
  if others:
    return f'{min(others)} does not belong to it'
  for name, (size, digest) in files.items():
    try:
      found = there[name].stat().st_size
      if found != size:
        return f'{name} has {found} bytes instead of {size}'
      if _digest(there[name]) != digest:
        return f'{name} has been changed'
    except OSError as error:
      return f'{name}: {error.strerror}'
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
  # A version before this one may have known fewer fields.
  kept = {**configuration.defaults(settings), **manifest['settings']}
  differing = _differences(settings, kept)
  if differing:
    raise InputError(
      f'{folder} holds a checkpoint of another run ({differing}): name another'
      ' folder with --workdir.'
    )


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
  """The first few names whose values differ, with both; '' if none does."""
  told = configuration.compare(here, there)
  more = [f'and {len(told) - 3} more'] if len(told) > 3 else []
  return '; '.join(told[:3] + more)


def describe(tree: Any) -> dict[str, str]:
  """Path of each array -> its dtype and shape."""
  return {
    jax.tree_util.keystr(path): f'{array.dtype}{list(array.shape)}'
    for path, array in jax.tree_util.tree_leaves_with_path(tree)
  }


def _files(folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
  """All files below a folder, by their path in it."""
  for path in sorted(folder.rglob('*')):
    if not path.is_dir():
      yield path.relative_to(folder).as_posix(), path


def _digest(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()

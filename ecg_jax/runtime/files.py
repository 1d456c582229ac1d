"""Files that are whole or absent, and the lock of a folder."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

from ecg_jax.errors import InputError


def digest(value: Any) -> str:
  """SHA-256 of a value's canonical JSON."""
  text = json.dumps(value, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def locked(folder: pathlib.Path, *, wait: bool) -> Iterator[None]:
  """Holds a folder's lock, which ends with the process that holds it.

  What killed processes left half written in the folder is removed.

  Args:
    folder: Made if it is not there.
    wait: Whether to wait for another process that holds it.

  Raises:
    InputError: Another process holds it, or the folder cannot be written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / '.lock').open('a+')
  except OSError as error:
    raise _not_writable(folder, error) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
      file.seek(0)
      raise InputError(
        f'{folder} is in use by {file.read().strip() or "another process"}:'
        ' wait for it or name another folder with --workdir.'
      ) from error
    file.seek(0)
    file.truncate()
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    remove_leftovers(folder)
    yield


def check_writable(folder: pathlib.Path, option: str = '--workdir') -> None:
  """Tries to write to a folder, or to the one that it is to be made in.

  It makes none, not even for a moment: another process may be making it.

  Args:
    folder: The folder, which need not be there.
    option: What it was given by.

  Raises:
    InputError: It cannot be written to.
  """
  try:
    for there in (folder, *folder.parents):
      try:
        there.lstat()
      except FileNotFoundError:
        continue
      tempfile.TemporaryFile(dir=there).close()
      return
  except OSError as error:
    raise _not_writable(folder, error, option) from error


def _not_writable(
  folder: pathlib.Path, error: OSError, option: str = '--workdir'
) -> InputError:
  return InputError(
    f'{folder} cannot be written to ({error.strerror}): name another folder'
    f' with {option}.'
  )


_HOST = socket.gethostname()


def read_text(path: pathlib.Path) -> str:
  """Text of a UTF-8 file; raises InputError where it cannot be read."""
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      f'{path} cannot be read ({error}); give a complete run folder.'
    ) from error


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step; raises InputError where it cannot."""
  temporary = path.with_name(f'.{path.name}.{_HOST}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise InputError(
      f'{path} cannot be written ({error.strerror}); '
      'make its folder writable or free some space.'
    ) from error


def remove_leftovers(folder: pathlib.Path) -> None:
  """Removes what processes that were killed left of `write_atomically`."""
  for path in folder.glob(f'.*.{_HOST}.*.tmp'):
    process = path.name.split('.')[-2]
    try:
      os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
      path.unlink(missing_ok=True)
    except (ValueError, PermissionError):
      pass

"""Files that are whole or absent, and the lock of a folder."""

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from ecg_jax.errors import InputError

_HOST = socket.gethostname()

_Row = TypeVar('_Row')


def digest(value: Any) -> str:
  """SHA-256 of a value's canonical JSON."""
  text = json.dumps(value, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


# filelock takes the same flock, but does not report which process holds it: it
# would save four lines here, for a dependency and 0.14 s of import.
@contextlib.contextmanager
def locked(
  folder: pathlib.Path, *, wait: bool, flag: str = '--workdir'
) -> Iterator[None]:
  """Holds a folder's lock, which ends with the process that holds it.

  Removes what killed processes left half written in the folder.

  Args:
    folder: Created if it does not exist.
    wait: Whether to wait for another process that holds the lock.
    flag: The command-line flag that names the folder.

  Raises:
    InputError: Another process holds it, or the folder is not writable.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / '.lock').open('a+')
  except OSError as error:
    raise _not_writable(folder, error, flag) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
      file.seek(0)
      raise InputError(
        f'{folder} is in use by {file.read().strip() or "another process"}:'
        f' wait for it or name another folder with {flag}.'
      ) from error
    file.truncate(0)
    with contextlib.suppress(OSError):  # The disk may be full.
      os.write(file.fileno(), f'process {os.getpid()} on {_HOST}\n'.encode())
    try:
      remove_leftovers(folder)
      yield
    finally:
      file.truncate(0)


def check_writable(folder: pathlib.Path, flag: str = '--workdir') -> None:
  """Tries to write to a folder, or to the one it would be created in.

  It creates no folder, not even for a moment: another process may be doing so.

  Args:
    folder: The folder, which need not exist.
    flag: The command-line flag that names it.

  Raises:
    InputError: The folder is not writable.
  """
  try:
    for existing in (folder, *folder.parents):
      try:
        existing.lstat()
      except FileNotFoundError:
        continue
      tempfile.TemporaryFile(dir=existing).close()
      return
  except OSError as error:
    raise _not_writable(folder, error, flag) from error


def _not_writable(
  folder: pathlib.Path, error: OSError, flag: str
) -> InputError:
  return InputError(
    f'{folder} cannot be written to ({error.strerror}): name another folder'
    f' with {flag}.'
  )


def read_text(
  path: Traversable, advice: str = 'use a complete run folder'
) -> str:
  """Reads a UTF-8 file; raises InputError with the advice if that fails."""
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'not UTF-8 text'
    raise InputError(f'{path} cannot be read ({reason}): {advice}.') from error


def read_csv(
  path: Traversable,
  columns: Sequence[str],
  parse: Callable[[dict[str, str]], _Row],
  *,
  kind: str,
  advice: str,
) -> list[_Row]:
  """Reads a table that has these columns, and possibly others.

  Args:
    path: A CSV file with a header.
    columns: The columns that the caller needs.
    parse: Column -> cell of a row, to what the caller makes of it; raises
      ValueError where a cell is not what it should be.
    kind: What a row is, for the message about one that is not.
    advice: What to do about a damaged file.

  Raises:
    InputError: The file cannot be read, lacks a column or has a bad row.
  """
  lines = csv.reader(read_text(path).splitlines(), strict=True)
  try:
    header = next(lines, [])
    # A doubled column would hide the first of the two.
    if [name for name in header if name in columns] != list(columns):
      raise InputError(
        f'{path} has the columns {",".join(header)!r} instead of'
        f' {",".join(columns)!r}; {advice}.'
      )
    return [parse(dict(zip(header, row, strict=True))) for row in lines]
  except (ValueError, csv.Error) as error:
    raise InputError(
      f'Line {lines.line_num} of {path} is not {kind}; {advice}.'
    ) from error


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step; raises InputError if that fails."""
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


def write_json(path: pathlib.Path, content: Any, *, indent: int = 1) -> None:
  """Replaces a JSON file in one step; raises InputError if that fails."""
  write_atomically(path, f'{json.dumps(content, indent=indent)}\n'.encode())


def remove_leftovers(folder: pathlib.Path) -> None:
  """Removes temporary files that killed processes left in a folder."""
  for path in folder.glob(f'.*.{_HOST}.*.tmp'):
    process = path.name.split('.')[-2]
    try:
      os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
      path.unlink(missing_ok=True)
    except (ValueError, PermissionError):
      pass

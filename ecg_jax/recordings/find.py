"""Finds the recordings among files and in folders."""

import os
import pathlib

from ecg_jax.errors import InputError
from ecg_jax.recordings import formats, wfdb_files

ARRAY_SUFFIXES = ('.csv', '.txt', '.npy')
"""Formats that state neither a sampling rate nor units."""


def find(paths: list[pathlib.Path], *, with_arrays: bool) -> list[pathlib.Path]:
  """Finds the recordings among files and in folders.

  A `.dat` or `.mat` with a `.hea` beside it is one recording, that of the
  header. Segments of a recording do not count as recordings, and subfolders are
  not searched.

  Args:
    paths: Files and folders.
    with_arrays: Whether CSV, TXT and NumPy files in folders count too. As
      elements of `paths` they always do.

  Returns:
    Files, each once even if `paths` names it several times, in the order of
    `paths`, those of a folder by name.

  Raises:
    InputError: A path does not exist, or a folder has no recording.
  """
  found: dict[str, pathlib.Path] = {}
  for path in paths:
    try:
      files = _find_at(path, with_arrays)
    except OSError as error:
      raise InputError(
        f'{str(path)[:200]} cannot be searched ({error.strerror}): name a'
        ' file or a folder that is readable.'
      ) from error
    for file in files:
      found.setdefault(os.path.realpath(file), file)
  return list(found.values())


def _find_at(path: pathlib.Path, with_arrays: bool) -> list[pathlib.Path]:
  if path.is_dir() and path.suffix.lower() not in formats.READERS:
    inside = _find_inside(path, with_arrays)
    if not inside:
      raise InputError(
        f'The folder {path} has no recordings (.hea, .edf, .mat; with'
        ' --sampling_rate and --units .csv, .txt and .npy too): name one'
        ' that does.'
      )
    return inside
  if path.exists():
    return [wfdb_files.header_beside(path)]
  header = path.with_name(f'{path.name}.hea')
  if header.exists():  # WFDB names records without an ending.
    return [header]
  raise InputError(f'{path} does not exist: name a file or a folder.')


def _find_inside(folder: pathlib.Path, with_arrays: bool) -> list[pathlib.Path]:
  files = sorted(path for path in folder.iterdir() if path.is_file())
  wanted = {'.hea', '.edf', '.mat', *(ARRAY_SUFFIXES if with_arrays else ())}
  segments = {
    folder / f'{name}.hea'
    for path in files
    if path.suffix == '.hea'
    for name in wfdb_files.segment_names(path)
  }
  return [
    path
    for path in files
    if path.suffix.lower() in wanted
    and path not in segments
    and wfdb_files.header_beside(path) == path
  ]

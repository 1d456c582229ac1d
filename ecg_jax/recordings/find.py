"""Finds the recordings among files and in folders."""

import contextlib
import os
import pathlib
from collections.abc import Sequence

from ecg_jax.errors import InputError
from ecg_jax.recordings import formats, lead, units, wfdb_header

ARRAY_SUFFIXES = (
  *('.csv', '.tsv', '.txt', '.lvm'),
  *('.npy', '.npz', '.h5', '.hdf5'),
)
"""Formats that may state neither a sampling rate nor units."""

DEVICE_SUFFIXES = (
  *('.hea', '.edf', '.bdf', '.mat'),
  *('.ecg', '.atc', '.vhdr', '.dcm'),
)
"""Formats of recordings; what else has these endings is reported as such."""


def find(paths: list[pathlib.Path], *, with_arrays: bool) -> list[pathlib.Path]:
  """Finds the recordings among files and in folders.

  A `.dat` or `.mat` with a `.hea` beside it is one recording, that of the
  header. Segments of a recording do not count as recordings, and subfolders are
  not searched.

  Args:
    paths: Files and folders.
    with_arrays: Whether files of ARRAY_SUFFIXES in folders count too that do
      not state both their rate and unit. As elements of `paths` they always do.

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
  if path.is_dir() and path.suffix.lower() not in formats.SUFFIXES:
    inside = find_inside(path, with_arrays=with_arrays)
    if not inside:
      raise InputError(
        f'The folder {path} has no recordings ({", ".join(DEVICE_SUFFIXES)};'
        f' {", ".join(ARRAY_SUFFIXES)} that state their rate and unit, or'
        ' with --sampling_rate): name one that does.'
      )
    return inside
  if os.path.lexists(path):  # A dangling link is reported when it is opened.
    return [wfdb_header.header_beside(path)]
  header = path.with_name(f'{path.name}.hea')
  if header.exists():  # WFDB names records without an ending.
    return [header]
  raise InputError(f'{path} does not exist: name a file or a folder.')


def subfolders(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Folders in the folders among paths, not named, with DEVICE_SUFFIXES."""
  named = {os.path.realpath(path) for path in paths}
  found: dict[str, pathlib.Path] = {}
  for path in paths:
    with contextlib.suppress(OSError):  # It has vanished or is unreadable.
      for inside in sorted(path.iterdir() if path.is_dir() else ()):
        place = os.path.realpath(inside)
        if place not in named and any(map(_is_device_file, inside.glob('*'))):
          found.setdefault(place, inside)
  return list(found.values())


def _is_device_file(path: pathlib.Path) -> bool:
  """Whether a file is a recording by its name."""
  ending = path.suffix.lower() in DEVICE_SUFFIXES
  return ending and not path.name.startswith(formats.APPLE_DOUBLE)


def find_inside(
  folder: pathlib.Path, *, with_arrays: bool
) -> list[pathlib.Path]:
  """The recordings in a folder, possibly none, by name; as in `find`."""
  files = sorted(
    path
    for path in folder.iterdir()
    if (path.is_file() or (path.is_symlink() and not path.exists()))
    and not path.name.startswith(formats.APPLE_DOUBLE)
  )
  segments = {
    folder / f'{name}{path.suffix}'
    for path in files
    if path.suffix.lower() == '.hea'
    for name in wfdb_header.segment_names(path)
  }
  return [
    path
    for path in files
    if path not in segments
    and _is_recording(path, with_arrays)
    and wfdb_header.header_beside(path) == path
  ]


def _is_recording(path: pathlib.Path, with_arrays: bool) -> bool:
  """Whether a file of a folder is meant; tables of other things are not."""
  suffix = path.suffix.lower()
  if suffix not in ARRAY_SUFFIXES or with_arrays:
    return suffix in (*DEVICE_SUFFIXES, *ARRAY_SUFFIXES)
  try:
    channels = formats.read_channels(path).channels
  except InputError:
    return False
  return any(
    lead.SLOWEST <= (channel.rate or 0) <= lead.FASTEST
    and units.to_millivolt(channel.unit) is not None
    for channel in channels
  )

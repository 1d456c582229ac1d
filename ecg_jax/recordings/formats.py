"""Chooses the reader of a file by its suffix."""

import pathlib

from ecg_jax.errors import InputError
from ecg_jax.recordings import (
  arrays,
  atc_files,
  brainvision_files,
  dicom_files,
  edf_files,
  hdf5_files,
  ishne_files,
  text_files,
  wfdb_files,
)
from ecg_jax.recordings.channels import Channels, explained

APPLE_DOUBLE = '._'
"""Begin of the names of files in which macOS stores what its own disks store
with a file."""


def read_channels(path: pathlib.Path, variable: str | None = None) -> Channels:
  """Opens a file, without reading its samples.

  Args:
    path: The file.
    variable: Name of the variable to read, in formats that have several.

  Raises:
    InputError: The file has an unknown format, or is damaged.
  """
  suffix = path.suffix.lower()
  if path.name.startswith(APPLE_DOUBLE):
    raise InputError(
      f'{path} is what macOS stores beside a file on other disks, not a'
      f' recording: name {path.name.removeprefix(APPLE_DOUBLE)}.'
    )
  if suffix not in SUFFIXES:
    raise InputError(
      f'{path} is not a recording of a known format: give .hea (with .dat or'
      ' .mat beside it), '
      + ', '.join(suffix for suffix in SUFFIXES[1:-1])
      + f' or {SUFFIXES[-1]}.'
    )
  with explained(path):
    if not path.is_file():
      if path.is_symlink() and not path.exists():
        raise InputError(
          f'{path} is a link to {path.readlink()}, which does not exist: name a'
          ' file.'
        )
      raise InputError(f'{path} is not a file: name one.')
    if not path.stat().st_size:
      raise InputError(f'{path} is empty: export it again.')
    if suffix in VARIABLE_READERS:
      channels = VARIABLE_READERS[suffix](path, variable)
    else:
      channels = READERS[suffix](path)
    if not channels.channels:
      raise InputError(f'{path} has no signal: give one with an ECG.')
    return channels


READERS = {
  '.hea': wfdb_files.read_wfdb,
  '.edf': edf_files.read_edf,
  '.bdf': edf_files.read_edf,
  '.ecg': ishne_files.read_ishne,
  '.atc': atc_files.read_atc,
  '.vhdr': brainvision_files.read_brainvision,
  '.dcm': dicom_files.read_dicom,
  '.npy': arrays.read_npy,
  '.csv': text_files.read_text,
  '.txt': text_files.read_text,
  '.tsv': text_files.read_text,
  '.lvm': text_files.read_text,
}
"""Suffix -> reader of a file with one table of channels."""

VARIABLE_READERS = {
  '.mat': arrays.read_mat,
  '.npz': arrays.read_npz,
  '.h5': hdf5_files.read_hdf5,
  '.hdf5': hdf5_files.read_hdf5,
}
"""Suffix -> reader of a file with variables, and the name of one or None."""

SUFFIXES = (*READERS, *VARIABLE_READERS)

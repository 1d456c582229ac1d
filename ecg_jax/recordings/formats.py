"""Chooses the reader of a file by its suffix."""

import pathlib

from ecg_jax.errors import InputError
from ecg_jax.recordings import arrays, edf_files, text_files, wfdb_files
from ecg_jax.recordings.channels import Channels, explained


def read_channels(path: pathlib.Path) -> Channels:
  """Opens a file, without reading its samples.

  Raises:
    InputError: The file has an unknown format, or is damaged.
  """
  suffix = path.suffix.lower()
  if suffix not in READERS:
    raise InputError(
      f'{path} is not a recording of a known format: give .hea (with .dat or'
      ' .mat beside it), .edf, .mat, .csv, .txt or .npy.'
    )
  with explained(path):
    if not path.is_file():
      raise InputError(f'{path} is not a file: name one.')
    if not path.stat().st_size:
      raise InputError(f'{path} is empty: export it again.')
    channels = READERS[suffix](path)
    if not channels.names:
      raise InputError(f'{path} has no signal: give one with an ECG.')
    return channels


READERS = {
  '.hea': wfdb_files.read_wfdb,
  '.edf': edf_files.read_edf,
  '.mat': arrays.read_mat,
  '.npy': arrays.read_npy,
  '.csv': text_files.read_text,
  '.txt': text_files.read_text,
}

"""Reads MATLAB and NumPy files, and arrays in memory."""

import io
import pathlib
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import Channels, Samples

_LONGEST_HEADER = 2**20
"""Bytes, of a .npy file."""


def read_mat(path: pathlib.Path) -> Channels:
  """Opens a MATLAB file with one matrix `val`."""
  import scipy.io

  content = io.BytesIO(path.read_bytes())  # Reads no more than there is.
  try:
    found = scipy.io.loadmat(content, variable_names=['val'])
  except NotImplementedError as error:
    raise InputError(
      f'{path} is of MATLAB version 7.3 (HDF5), which is not read: save it with'
      " -v7, or give the record's .hea too."
    ) from error
  if 'val' not in found:
    raise InputError(
      f"{path} has no variable 'val': name the signal so, one row a lead."
    )
  return array_channels(path, found['val'])


def read_npy(path: pathlib.Path) -> Channels:
  """Opens a NumPy file, whose samples stay on the disk."""
  with path.open('rb') as file:
    start = file.read(12)
  # NumPy would make room for as long a header as the file claims to have.
  long = start[6:7] > b'\1' and int.from_bytes(start[8:], 'little') > (
    _LONGEST_HEADER
  )
  if start[:6] != b'\x93NUMPY' or long:
    raise InputError(f'{path} is no .npy file: save it with numpy.save.')
  return array_channels(path, np.load(path, mmap_mode='r'))


def array_channels(name: Any, array: np.ndarray) -> Channels:
  """The channels of an array of samples.

  Args:
    name: What to call it in an error.
    array: Real numbers, one axis, or two of which the longer is time.

  Raises:
    InputError: It is of another kind.
  """
  array = np.atleast_1d(array) if isinstance(array, np.ndarray) else array
  if not isinstance(array, np.ndarray) or array.dtype.kind not in 'iuf':
    kind = type(array).__name__  # SciPy's sparse matrices have a dtype, too.
    kind = str(array.dtype) if isinstance(array, np.ndarray) else kind
    raise InputError(
      f'{name} holds {kind}, not an array of real numbers: convert it.'
    )
  if array.ndim > 2 or not array.size:
    raise InputError(
      f'{name} holds an array of shape {array.shape}: give samples, or leads'
      ' and samples.'
    )
  rows = array[None] if array.ndim == 1 else array
  rows = rows if rows.shape[0] <= rows.shape[1] else rows.T

  def open_channel(channel: int) -> Samples:
    def read(start: int, stop: int) -> np.ndarray:
      return np.asarray(rows[channel, start:stop], np.float64)

    return Samples(rows.shape[1], read)

  count = len(rows)
  return Channels(('',) * count, (None,) * count, (None,) * count, open_channel)

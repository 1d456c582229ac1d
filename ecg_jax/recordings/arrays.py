"""Reads MATLAB and NumPy files, and arrays in memory."""

import io
import pathlib
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import Channels, Samples

_LONGEST_HEADER = 2**20
"""Bytes of the header of a .npy file, at most."""


def read_mat(path: pathlib.Path) -> Channels:
  """Opens a MATLAB file with one matrix `val`."""
  import scipy.io

  # From memory SciPy reads no more than there is, whatever a header claims.
  content = io.BytesIO(path.read_bytes())
  try:
    variables = scipy.io.loadmat(content, variable_names=['val'])
  except NotImplementedError as error:
    raise InputError(
      f'{path} is of MATLAB version 7.3 (HDF5), which is not read: save it with'
      " -v7, or give the record's .hea too."
    ) from error
  if 'val' not in variables:
    raise InputError(
      f"{path} has no variable 'val': give the signal that name, one row per"
      ' lead.'
    )
  return array_channels(path, variables['val'])


def read_npy(path: pathlib.Path) -> Channels:
  """Opens a NumPy file; its samples stay on disk until they are read."""
  with path.open('rb') as file:
    start = file.read(12)
  # NumPy would reserve memory for any length of header that a file claims.
  long = start[6:7] > b'\1' and int.from_bytes(start[8:], 'little') > (
    _LONGEST_HEADER
  )
  if start[:6] != b'\x93NUMPY' or long:
    raise InputError(f'{path} is not a .npy file: save it with numpy.save.')
  return array_channels(path, np.load(path, mmap_mode='r'))


def array_channels(name: Any, array: np.ndarray) -> Channels:
  """The channels of an array of samples.

  Args:
    name: Name of the array in an error.
    array: Real numbers with one axis, or with two, the longer of which is time.

  Raises:
    InputError: The array has another dtype or shape.
  """
  array = np.atleast_1d(array) if isinstance(array, np.ndarray) else array
  if not isinstance(array, np.ndarray) or array.dtype.kind not in 'iuf':
    kind = type(array).__name__  # SciPy's sparse matrices have a dtype, too.
    kind = str(array.dtype) if isinstance(array, np.ndarray) else kind
    raise InputError(
      f'{name} has {kind}, not an array of real numbers: convert it.'
    )
  if array.ndim > 2 or not array.size:
    raise InputError(
      f'{name} has an array of shape {array.shape}: give samples, or leads'
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

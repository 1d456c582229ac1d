"""Reads MATLAB and NumPy files, and arrays in memory."""

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import hdf5_files, labchart_files, variables
from ecg_jax.recordings.channels import ArraySamples, Channel, Channels

_LONGEST_HEADER = 2**20
"""Bytes of the header of a .npy file, at most."""

_MOST_UNPACKED = 2**30
"""Bytes of the members of a .npz file, at most."""


_MATRIX, _COMPRESSED = 14, 15
"""Types of elements of a MATLAB file that have others in them."""

_TYPES = {*range(1, 8), 9, 12, 13, _MATRIX, _COMPRESSED, 16, 17, 18}
"""All types of elements."""


@dataclasses.dataclass(frozen=True)
class Array(Channels):
  """An array of leads."""

  rows: np.ndarray
  """Real numbers [leads, samples]."""

  def open(self, number: int) -> ArraySamples:
    """Opens a lead; its samples stay where they are."""
    return ArraySamples(self.rows[number])


def read_mat(path: pathlib.Path, variable: str | None = None) -> Channels:
  """Opens a MATLAB file.

  Args:
    path: The file.
    variable: Name of the variable with the signal, with dots for a field of a
      structure; None for `val`, else the only one that may be a signal.

  Raises:
    InputError: No or several variables may be the signal, or it has no real
      numbers.
  """
  import scipy.io

  # From memory SciPy reads no more than there is, whatever a header claims.
  content = path.read_bytes()
  if 0 not in content[:4] and content[124:128] in (b'\0\1IM', b'\1\0MI'):
    _check_types(path, content, 128, len(content))
  try:
    names = [name for name, _, _ in scipy.io.whosmat(io.BytesIO(content))]
  except NotImplementedError:  # Version 7.3 is HDF5.
    return hdf5_files.read_hdf5(path, variable)
  plain = names == [variables.CHALLENGE]
  found = scipy.io.loadmat(io.BytesIO(content), simplify_cells=not plain)
  known = {k: v for k, v in found.items() if not k.startswith('__')}
  if labchart_files.is_labchart(known) and variable in (None, 'data'):
    return labchart_files.labchart_channels(path, known)
  return _chosen(path, 'MATLAB', known, variable)


def _check_types(
  path: pathlib.Path, content: bytes, start: int, stop: int
) -> None:
  """Raises InputError for an unknown type, which SciPy takes for an address.

  Args:
    path: The file.
    content: Of all of a file of version 5.
    start: First byte of some elements.
    stop: One past their last byte.
  """
  order: Literal['little', 'big'] = (
    'little' if content[126:128] == b'IM' else 'big'
  )
  while start + 8 <= stop:
    kind = int.from_bytes(content[start : start + 4], order)
    size = int.from_bytes(content[start + 4 : start + 8], order)
    if kind >> 16:  # A short element, with its size beside its type.
      kind, size = kind & 0xFFFF, 0
    if kind not in _TYPES:
      raise InputError(
        f'{path} has data of type {kind} at byte {start}, which is unknown: it'
        ' is damaged, so save it again.'
      )
    if kind == _MATRIX:
      _check_types(path, content, start + 8, min(stop, start + 8 + size))
    start += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)


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


def read_npz(path: pathlib.Path, variable: str | None = None) -> Channels:
  """Opens a NumPy archive, and reads its arrays.

  Args:
    path: The file.
    variable: Name of the array with the signal; None for `val`, else the only
      one that may be a signal.

  Raises:
    InputError: No or several arrays may be the signal, or it has no real
      numbers.
  """
  with zipfile.ZipFile(path) as archive:
    if sum(info.file_size for info in archive.infolist()) > _MOST_UNPACKED:
      raise InputError(
        f'{path} has more than 1 GiB of arrays: save the signal as .npy, which'
        ' is read in pieces.'
      )
    names = [name for name in archive.namelist() if name.endswith('.npy')]
    known = {}
    for name in names:
      with archive.open(name) as member:
        content = io.BytesIO(member.read())
      try:
        known[name.removesuffix('.npy')] = np.lib.format.read_array(
          content, max_header_size=_LONGEST_HEADER
        )
      except ValueError:  # Of objects; others are damaged as well.
        continue
  return _chosen(path, 'NumPy archive', known, variable)


def _chosen(
  path: pathlib.Path, form: str, known: Mapping[str, Any], wanted: str | None
) -> Channels:
  """The channels of one of the variables of a file."""
  fields = variables.flat(known)
  only = next(iter(fields)) if len(fields) == 1 else None
  arrays = {k: v.shape for k, v in fields.items() if variables.is_numbers(v)}
  if not arrays and wanted is None and only is not None:
    return array_channels(path, fields[only])  # Which says what it is.
  if wanted is None and variables.CHALLENGE in fields:
    name = variables.CHALLENGE
  else:
    name = variables.choose(path, arrays, wanted)
  others = {
    k: v for k, v in fields.items()
    if k != name and k.rpartition('.')[0] == name.rpartition('.')[0]
  }  # fmt: skip
  found = array_channels(path, fields[name])
  channels = variables.described_channels(others, len(found.channels))
  facts = {'format': form, 'variable': name, **found.facts}
  return Array(channels, facts | {'format': form}, found.rows)


def array_channels(name: Any, array: np.ndarray) -> Array:
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
  shape = ' x '.join(map(str, array.shape))
  facts = {'format': 'array', 'shape': f'{shape} of {array.dtype}'}
  return Array((Channel(),) * len(rows), facts, rows)

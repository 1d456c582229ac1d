"""Reads HDF5 files, of which MATLAB files of version 7.3 are some."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import labchart_files, variables
from ecg_jax.recordings.channels import Channels, Samples

_MOST_LOADED = 2**32
"""Bytes of variables that are read at once, at most."""


@dataclasses.dataclass(frozen=True)
class Hdf5File(Channels):
  """A dataset of an HDF5 file."""

  dataset: Any
  """Real numbers, with one axis or with two, the longer of which is time."""

  def open(self, number: int) -> 'Hdf5Samples':
    """Opens a lead."""
    return Hdf5Samples(self.dataset, number)


class Hdf5Samples(Samples):
  """A lead of a dataset, read in pieces."""

  def __init__(self, dataset: Any, number: int):
    """Takes a dataset and the number of the lead."""
    self.dataset, self.number = dataset, number
    self.num_samples = max(dataset.shape)

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start]."""
    if self.dataset.ndim == 1:
      return np.asarray(self.dataset[start:stop], np.float64)
    if self.dataset.shape[0] <= self.dataset.shape[1]:
      values = self.dataset[self.number, start:stop]
    else:
      values = self.dataset[start:stop, self.number]
    return np.asarray(values, np.float64)


def read_hdf5(path: pathlib.Path, variable: str | None = None) -> Channels:
  """Opens an HDF5 file; its samples stay on disk until they are read.

  Args:
    path: The file.
    variable: Name of the dataset with the signal, with dots or slashes for
      groups; None for `val`, else the only one that may be a signal.

  Raises:
    InputError: No or several datasets may be the signal, or h5py is missing.
  """
  try:
    import h5py
  except ImportError as error:
    raise InputError(
      f'{path} is HDF5, as MATLAB saves it with -v7.3: install ecg_jax[devices]'
      ' to read it, or save it with -v7.'
    ) from error
  file = h5py.File(path, 'r')
  known: dict[str, Any] = {}

  def add(name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset) and not name.startswith('#'):
      known[name.replace('/', '.')] = item

  file.visititems(add)
  if labchart_files.is_labchart(known) and variable in (None, 'data'):
    if sum(item.nbytes for item in known.values()) > _MOST_LOADED:
      raise InputError(
        f'{path} of LabChart has more than 4 GiB: export one of its channels.'
      )
    stored = {k: x for k, x in known.items() if 'MATLAB_empty' not in x.attrs}
    return labchart_files.labchart_channels(
      path, {name: _matlab(item) for name, item in stored.items()}
    )
  arrays = {
    name: item.shape for name, item in known.items() if _is_numbers(item)
  }
  wanted = None if variable is None else variable.strip('/').replace('/', '.')
  name = variables.choose(path, arrays, wanted)
  dataset = known[name]
  if dataset.ndim not in (1, 2) or not dataset.size:
    raise InputError(
      f'{path} has an array of shape {dataset.shape}: give samples, or leads'
      ' and samples.'
    )
  group = name.rpartition('.')[0]
  others = {
    k: _value(item) for k, item in known.items()
    if k != name and k.rpartition('.')[0] == group and item.size <= 1000
  }  # fmt: skip
  for owner in (file, dataset.parent, dataset):
    others |= {key: _plain(value) for key, value in owner.attrs.items()}
  count = 1 if dataset.ndim == 1 else min(dataset.shape)
  channels = variables.described_channels(others, count)
  shape = ' x '.join(map(str, dataset.shape))
  facts = {
    'format': 'HDF5',
    'variable': name,
    'shape': f'{shape} of {dataset.dtype}',
  }
  return Hdf5File(channels, facts, dataset)


def _is_numbers(dataset: Any) -> bool:
  """Whether a dataset has real numbers; MATLAB stores texts as such."""
  text = _plain(dataset.attrs.get('MATLAB_class', '')) in ('char', 'cell')
  empty = 'MATLAB_empty' in dataset.attrs
  return dataset.dtype.kind in 'iuf' and bool(dataset.shape) and not (
    text or empty
  )  # fmt: skip


def _value(dataset: Any) -> Any:
  """A small dataset, a text of MATLAB as such."""
  value = _plain(dataset[()])
  if _plain(dataset.attrs.get('MATLAB_class', '')) == 'char':
    return ''.join(map(chr, np.asarray(value).ravel()))
  return value


def _matlab(dataset: Any) -> np.ndarray:
  """A variable as MATLAB has it, rows of characters as texts."""
  value = np.asarray(dataset[()]).T
  if _plain(dataset.attrs.get('MATLAB_class', '')) != 'char':
    return value
  return np.array([''.join(map(chr, row)) for row in np.atleast_2d(value)])


def _plain(value: Any) -> Any:
  """A value with its texts decoded."""
  if isinstance(value, np.ndarray) and value.dtype == object:
    return [_plain(x) for x in value.ravel()]
  return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value

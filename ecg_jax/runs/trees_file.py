"""The trees of a fold in a file, which its SHA-256 in scores.json confirms."""

import hashlib
import io
import pathlib
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np

from ecg_jax.beats import features as beat_features
from ecg_jax.errors import InputError
from ecg_jax.models.trees import Splits, Trees
from ecg_jax.runtime import files

FILE = 'trees.npz'
"""In the folder of the fold."""


def write(path: pathlib.Path, trees: Trees) -> str:
  """Writes the file, whole or not at all.

  Args:
    path: The file, replaced if it exists.
    trees: Of NumPy arrays.

  Returns:
    Its SHA-256.

  Raises:
    InputError: It cannot be written.
  """
  arrays = trees._asdict() | trees.splits._asdict()
  del arrays['splits']
  archive = io.BytesIO()
  np.savez(archive, beat_features=beat_features.names(), **arrays)
  content = archive.getvalue()
  files.write_atomically(path, content)
  return hashlib.sha256(content).hexdigest()


def read(path: Traversable, digest: str | None) -> Trees:
  """Reads the trees, as NumPy arrays.

  Args:
    path: The file.
    digest: Its SHA-256.

  Raises:
    InputError: It cannot be read, is not what was written, or needs features
      that this version does not compute.
  """
  advice = 'restore it, or delete the folder of the fold and train it again'
  try:
    content = path.read_bytes()
  except OSError as error:
    raise InputError(
      f'{path}, which holds the trees, cannot be read ({error.strerror}):'
      f' {advice}.'
    ) from error
  if hashlib.sha256(content).hexdigest() != digest:
    raise InputError(f'{path} has been changed since it was written: {advice}.')
  with np.load(io.BytesIO(content)) as archive:
    arrays: dict[str, Any] = dict(archive)
  if tuple(arrays.pop('beat_features')) != beat_features.names():
    raise InputError(
      f'{path} has trees on other beat features than this version computes:'
      ' use the version that wrote it.'
    )
  splits = Splits(**{name: arrays.pop(name) for name in Splits._fields})
  return Trees(splits=splits, **arrays)

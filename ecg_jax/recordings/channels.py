"""The result of a reader: channels, opened one by one."""

import contextlib
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ecg_jax.errors import InputError


class Samples(NamedTuple):
  """An open channel."""

  num_samples: int
  read: Callable[[int, int], np.ndarray]
  """start, stop -> float [stop - start], in the channel's units; NaN for a
  missing sample."""
  notes: tuple[str, ...] = ()
  """Assumptions about the file."""


class Channels(NamedTuple):
  """The channels of a file; a name is '', a unit or rate None if not stated."""

  names: tuple[str, ...]
  units: tuple[str | None, ...]
  rates: tuple[float | None, ...]
  """Hz."""
  open: Callable[[int], Samples]
  """Number of a channel -> the channel, open."""


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
  """Turns any exception that a library raises for a file into InputError."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  except InputError:
    raise
  except Exception as error:  # Each library raises its own.
    if isinstance(error, OSError) and error.strerror:  # The system's.
      raise InputError(
        f'{path} cannot be read ({error.filename or path}: {error.strerror}):'
        ' give a readable file with all the files it names beside it.'
      ) from error
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise InputError(
      f'{path} is damaged or not what its name says ({reason}): export it'
      ' again.'
    ) from error


def to_float32(samples: np.ndarray) -> np.ndarray:
  """Converts samples of any dtype to float32, clipped to +-1e30.

  An infinite sample is missing, so NaN; a finite one never becomes infinite.
  """
  return np.where(
    np.isfinite(samples), np.clip(samples, -1e30, 1e30), np.nan
  ).astype(np.float32)

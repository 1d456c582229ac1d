"""What a reader of a format gives: channels, opened one by one."""

import contextlib
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ecg_jax.errors import InputError


class Samples(NamedTuple):
  """One channel, opened."""

  num_samples: int
  read: Callable[[int, int], np.ndarray]
  """start, stop -> float [stop - start], in the channel's units; NaN where a
  sample is missing."""
  notes: tuple[str, ...] = ()
  """What was assumed."""


class Channels(NamedTuple):
  """What a file holds. A name is '', a unit or rate None where not stated."""

  names: tuple[str, ...]
  units: tuple[str | None, ...]
  rates: tuple[float | None, ...]
  """Hz."""
  open: Callable[[int], Samples]
  """Opens a channel, by its number."""


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
  """Makes an InputError of whatever a library raises of a file."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  except InputError:
    raise
  except Exception as error:  # Each library has its own.
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
  """Samples of any dtype as float32, those that are large within +-1e30.

  What is infinite is missing, so that it stays so; a number does not become it.
  """
  return np.where(
    np.isfinite(samples), np.clip(samples, -1e30, 1e30), np.nan
  ).astype(np.float32)

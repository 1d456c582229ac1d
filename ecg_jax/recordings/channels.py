"""The result of a reader: channels, opened one by one."""

import abc
import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Iterator, Mapping

import numpy as np

from ecg_jax.errors import InputError


class Samples(abc.ABC):
  """An open channel."""

  num_samples: int
  notes: tuple[str, ...] = ()
  """Assumptions about the file."""

  @abc.abstractmethod
  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float [stop - start], in the channel's unit; NaN where missing."""


class ArraySamples(Samples):
  """Samples in memory, or mapped into it."""

  def __init__(self, values: np.ndarray, notes: tuple[str, ...] = ()):
    """Takes real numbers [samples], NaN where missing."""
    self.values = values
    self.num_samples = len(values)
    self.notes = notes

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start]."""
    return np.asarray(self.values[start:stop], np.float64)


@dataclasses.dataclass(frozen=True)
class Channel:
  """What a file states of one of its channels."""

  name: str = ''
  unit: str | None = None
  """As the file spells it; None if not stated."""
  rate: float | None = None
  """Hz; None if not stated."""
  role: str = ''
  """What it was taken for if it is no ECG, in words, such as 'time', 'row
  number', 'constant' or 'heart rate'; '' for what may be an ECG."""
  unit_from: str = ''
  """Where the unit is stated, in words, such as 'header line 7'."""
  rate_from: str = ''
  """Where the rate is stated, in words, such as 'time column'."""


@dataclasses.dataclass(frozen=True)
class Channels(abc.ABC):
  """A file whose samples are not read yet. Each format derives from it."""

  channels: tuple[Channel, ...]
  facts: Mapping[str, str]
  """What was understood of the file, in the order to show it, such as 'format'
  and 'decimal mark'. Never a person's name or birth date, nor other text of a
  header."""

  @abc.abstractmethod
  def open(self, number: int) -> Samples:
    """Opens a channel, by its position in `channels`."""


@contextlib.contextmanager
def explained(path: pathlib.Path | str) -> Iterator[None]:
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

"""Samples of WFDB signal files, in each of the format's encodings.

A file has frames: a few samples of its first signal, then of its second, and
so on.
"""

import abc
import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.wfdb_header import Signal

_DTYPES: dict[str, np.dtype] = {
  '8': np.dtype('i1'), '16': np.dtype('<i2'), '32': np.dtype('<i4'),
  '61': np.dtype('>i2'), '80': np.dtype('u1'), '160': np.dtype('<u2'),
}  # fmt: skip
"""Format -> dtype, where samples take whole bytes."""

_PACKED = {'24': (1, 3), '212': (2, 3), '310': (3, 4), '311': (3, 4)}
"""Format -> samples, and bytes that they take, of others."""

_ZERO = {'80': 2**7, '160': 2**15}
"""Format -> value of a count of 0, where it is not 0."""

_MISSING = {'80': -(2**7), '508': -(2**7), '310': -(2**9), '311': -(2**9),
            '212': -(2**11), '16': -(2**15), '61': -(2**15), '160': -(2**15),
            '516': -(2**15), '24': -(2**23), '524': -(2**23),
            '32': -(2**31)}  # fmt: skip
"""Format -> count that marks a missing sample."""

_FLAC = ('508', '516', '524')

FORMATS = (*_DTYPES, *_PACKED, *_FLAC)

_MOST_PACKED = 1000
"""Maximum samples per byte of FLAC."""


class SignalFile(abc.ABC):
  """A signal file."""

  num_frames: int
  """Whole frames that it holds."""

  @abc.abstractmethod
  def read(self, start: int, stop: int, member: int) -> np.ndarray:
    """Reads counts of one of its signals from its frames.

    Args:
      start: First frame.
      stop: One past the last frame.
      member: Number of the signal within the file.

    Returns:
      Integers [frames * samples of a frame]; fewer where the file ends.
    """


class PlainFile(SignalFile):
  """A file without compression."""

  def __init__(self, path: pathlib.Path, members: Sequence[Signal]):
    """Takes the signals of the file, in their order."""
    self.path, self.format = path, members[0].format
    self.offset = members[0].offset
    self.frames = [member.frame for member in members]
    self.ends = [*itertools.accumulate(self.frames)]
    size = max(0, path.stat().st_size - self.offset)
    self.num_frames = _num_samples(self.format, size) // self.ends[-1]

  def read(self, start: int, stop: int, member: int) -> np.ndarray:
    """Reads counts."""
    width = self.ends[-1]
    counts = self._read_all(start * width, stop * width)
    if width == 1:
      return counts
    end = self.ends[member]
    frames = counts[: len(counts) // width * width].reshape(-1, width)
    return frames[:, end - self.frames[member] : end].ravel()

  def _read_all(self, start: int, stop: int) -> np.ndarray:
    """Counts of all signals, by their position in the file."""
    if self.format in _DTYPES:
      dtype = _DTYPES[self.format]
      at = self.offset + start * dtype.itemsize
      counts = np.fromfile(self.path, dtype, stop - start, offset=at)
      if self.format in _ZERO:
        return counts.astype(np.int32) - _ZERO[self.format]
      return counts
    samples, size = _PACKED[self.format]
    first, last = start // samples, -(-stop // samples)
    content = np.fromfile(
      self.path,
      np.uint8,
      (last - first) * size,
      offset=self.offset + first * size,
    )
    held = _num_samples(self.format, len(content))
    padded = np.zeros(-(-len(content) // size) * size, np.int32)
    padded[: len(content)] = content
    counts = _unpack(self.format, padded.reshape(-1, size).T)[:held]
    return counts[start - first * samples : stop - first * samples]


class DifferencesFile(PlainFile):
  """A file of format 8, whose counts are sums from its start on."""

  def __init__(self, path: pathlib.Path, members: Sequence[Signal]):
    """Takes the signals of the file, in their order."""
    super().__init__(path, members)
    self.initial = [member.initial for member in members]
    self.held = -1
    self.counts = np.zeros(0, np.int32)

  def read(self, start: int, stop: int, member: int) -> np.ndarray:
    """Reads counts; the signal is held in memory from then on."""
    if self.held != member:
      differences = super().read(0, self.num_frames, member)
      sums = np.cumsum(differences, dtype=np.int32)
      self.held, self.counts = member, sums + np.int32(self.initial[member])
    each = self.frames[member]
    return self.counts[start * each : stop * each]


class FlacFile(SignalFile):
  """A file of FLAC, with a channel for each signal."""

  def __init__(self, path: pathlib.Path, members: Sequence[Signal]):
    """Takes the signals of the file; raises InputError if they do not match."""
    import soundfile

    self.path, self.each = path, members[0].frame
    self.offset = members[0].offset
    self.bits = int(members[0].format) - 500
    with soundfile.SoundFile(path) as file:
      length, channels = file.frames - self.offset, file.channels
      most = path.stat().st_size * _MOST_PACKED
      if (
        channels != len(members)
        or file.format != 'FLAC'
        or file.frames * channels > most
      ):
        raise InputError(
          f'{path} has {channels} channels of {file.frames} samples as'
          f' {file.format}, which its header of {len(members)} does not fit:'
          ' export it again.'
        )
      known = {'PCM_S8': 8, 'PCM_16': 16, 'PCM_24': 24}
      stored = known.get(file.subtype, 99)
      if stored > self.bits or any(x.frame != self.each for x in members):
        raise InputError(
          f'{path} has samples of {file.subtype}, which its header does not'
          ' fit: export it again.'
        )
      self.shift = 32 - stored
    self.num_frames = max(0, length) // self.each

  def read(self, start: int, stop: int, member: int) -> np.ndarray:
    """Reads counts."""
    import soundfile

    with soundfile.SoundFile(self.path) as file:
      file.seek(start * self.each + self.offset)
      count = (stop - start) * self.each
      counts = file.read(count, dtype='int32', always_2d=True)
    return counts[:, member] >> self.shift


def open_file(path: pathlib.Path, members: Sequence[Signal]) -> SignalFile:
  """Opens a signal file.

  Args:
    path: The file.
    members: The signals that it holds, in their order.

  Raises:
    InputError: Its format is unknown, or it is damaged.
  """
  encoding = members[0].format
  if encoding not in FORMATS or any(x.format != encoding for x in members):
    formats = ' and '.join(sorted({member.format for member in members}))
    raise InputError(
      f'{path} is in WFDB format {formats}, which is unknown: convert it to'
      ' format 16.'
    )
  if encoding in _FLAC:
    return FlacFile(path, members)
  if encoding == '8':
    return DifferencesFile(path, members)
  return PlainFile(path, members)


def to_float(counts: np.ndarray, signal: Signal, gain: float) -> np.ndarray:
  """Samples in the signal's unit, float64; NaN where one is missing."""
  baseline = float(signal.baseline)
  values = (counts - baseline if baseline else counts) / gain
  missing = _MISSING.get(signal.format)
  return (
    values if missing is None else np.where(counts == missing, np.nan, values)
  )


def _num_samples(encoding: str, size: int) -> int:
  """Samples that a number of bytes holds."""
  if encoding in _DTYPES:
    return size // _DTYPES[encoding].itemsize
  samples, width = _PACKED[encoding]
  # The last group may have fewer bytes.
  return size // width * samples + {
    '212': (0, 0, 1), '310': (0, 0, 1, 1), '311': (0, 0, 1, 2), '24': (0, 0, 0)
  }[encoding][size % width]  # fmt: skip


def _unpack(encoding: str, content: np.ndarray) -> np.ndarray:
  """Counts of packed samples.

  Args:
    encoding: Number of the format.
    content: Bytes, int32 [bytes of a group, groups].

  Returns:
    int32 [samples].
  """
  if encoding == '24':
    low, middle, high = content
    counts = [low + (middle << 8) + (high << 16)]
  elif encoding == '212':
    low, shared, high = content
    counts = [low + ((shared & 0x0F) << 8), high + ((shared & 0xF0) << 4)]
  else:
    first, second = (
      content[0] + (content[1] << 8),
      content[2] + (content[3] << 8),
    )
    if encoding == '310':
      counts = [(first >> 1) & 0x3FF, (second >> 1) & 0x3FF,
                (first >> 11) + ((second >> 11) << 5)]  # fmt: skip
    else:
      word = first + (second << 16)
      counts = [(word >> shift) & 0x3FF for shift in (0, 10, 20)]
  bits = {'24': 24, '212': 12, '310': 10, '311': 10}[encoding]
  together = np.stack(counts, axis=1).ravel()
  return together - ((together >> (bits - 1)) << bits)

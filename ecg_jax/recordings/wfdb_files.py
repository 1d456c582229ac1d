"""Reads WFDB records, of one segment or of several."""

import dataclasses
import functools
import pathlib

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import header_text, wfdb_signals
from ecg_jax.recordings.channels import Channel, Channels, Samples
from ecg_jax.recordings.wfdb_header import Header, read_header

_MOST_SAMPLES_PER_SECOND = 1e7
"""Of all channels; a header with more is damaged."""

_MOST_VERIFIED = 2**20
"""Frames of a record whose checksums are verified; longer ones take time."""

_DEFAULT_GAIN = 200.0
"""Counts per unit where none are stated, by the definition of the format."""


class SignalSamples(Samples):
  """A signal of a record without segments."""

  def __init__(self, header: Header, number: int):
    """Opens the signal's file; raises InputError if that was cut off."""
    self.signal = header.signals[number]
    name = self.signal.file
    numbers = [k for k, x in enumerate(header.signals) if x.file == name]
    self.member = numbers.index(number)
    self.file = wfdb_signals.open_file(
      header_text.beside(header.path, name),
      [header.signals[k] for k in numbers],
    )
    held, claimed = self.file.num_frames, header.length
    if claimed is not None and claimed > held:
      raise InputError(
        f'{header.path} claims {claimed} samples of {name}, which has {held}:'
        ' it was cut off, so export it again.'
      )
    self.num_samples = (claimed or held) * self.signal.frame
    if self.signal.gain is None:
      unit = self.signal.unit
      self.notes += (f'no gain stated: taken to be 200 a {unit}',)
    if claimed is not None and held > claimed:
      self.notes += (
        f'{name} has {held} samples, of which the header states {claimed}: the'
        ' rest is not read',
      )

  def verify(self) -> None:
    """Notes a checksum that the samples do not have."""
    frames = self.num_samples // self.signal.frame
    if not self.signal.checksum or frames > _MOST_VERIFIED:
      return
    total = self.file.read(0, frames, self.member).sum(dtype=np.int64)
    if (int(total) - self.signal.checksum) % 2**16:
      name = self.signal.name or self.signal.file
      self.notes += (
        f'the checksum of lead {name} is wrong: it may be damaged',
      )

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start], in the signal's unit."""
    each = self.signal.frame
    counts = self.file.read(start // each, -(-stop // each), self.member)
    gain = self.signal.gain or _DEFAULT_GAIN
    samples = wfdb_signals.to_float(counts, self.signal, gain)
    return samples[start % each :][: stop - start]


class SegmentedSamples(Samples):
  """A signal of a record with segments, of which some may not have it."""

  def __init__(self, header: Header, first: Header, number: int):
    """Takes a signal.

    Args:
      header: The record's.
      first: That of the first segment, which has all channels.
      number: Number of the signal.
    """
    self.header, self.first, self.number = header, first, number
    self.signal = first.signals[number]
    self.segments = header.segments
    counts = [count * self.signal.frame for _, count in self.segments]
    self.ends = np.cumsum(counts).tolist()
    self.num_samples = self.ends[-1]
    self._open_segment = functools.lru_cache(maxsize=64)(self._open)
    for name, count in self.segments:
      # A gap and a layout have no samples of their own.
      if name != '~' and count and (samples := self._open_segment(name)):
        self.notes = samples.notes
        break

  def _open(self, name: str) -> SignalSamples | None:
    """Opens a segment's signal; None if it does not have this one.

    Raises:
      InputError: The segment is damaged, or of another unit or rate.
    """
    own = _segment_header(self.header.path, name)
    if own.segments:
      raise InputError(f'{own.path} is a segment and has some: give those.')
    wanted = self.signal.name
    names = [signal.name for signal in own.signals]
    if names == [signal.name for signal in self.first.signals]:
      number = self.number  # Two channels may have one name.
    elif wanted in names:
      number = names.index(wanted)
    else:
      return None
    found, path = own.signals[number], self.header.path
    if found.unit != self.signal.unit:
      raise InputError(
        f'{path} has segments in other units than {self.signal.unit}: convert'
        ' them to one.'
      )
    rates = own.rate or self.header.rate, own.signals[number].frame
    if rates != (self.header.rate, self.signal.frame):
      raise InputError(
        f'{path} has segments at other sampling rates, such as {name}: convert'
        ' them to one.'
      )
    return SignalSamples(own, number)

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start], in the signal's unit; NaN in gaps."""
    values = np.full(stop - start, np.nan)
    for (name, count), end in zip(self.segments, self.ends, strict=True):
      begin = end - count * self.signal.frame
      low, high = max(start, begin), min(stop, end)
      if low < high and name != '~':
        samples = self._open_segment(name)
        if samples is not None:
          if samples.num_samples < high - begin:
            raise InputError(
              f'{self.header.path} claims {count} samples of segment {name},'
              f' which has {samples.num_samples}: restore it.'
            )
          part = samples.read(low - begin, high - begin)
          values[low - start : high - start] = part
    return values


@dataclasses.dataclass(frozen=True)
class WfdbRecord(Channels):
  """A WFDB record."""

  header: Header
  first: Header
  """That of the first segment, or of the record if it has none."""

  def open(self, number: int) -> Samples:
    """Opens a signal; raises InputError if its file was cut off."""
    if self.header.segments:
      return SegmentedSamples(self.header, self.first, number)
    samples = SignalSamples(self.header, number)
    samples.verify()
    return samples


def _segment_header(path: pathlib.Path, name: str) -> Header:
  """Reads the header of a segment of a record."""
  return read_header(header_text.beside(path, f'{name}.hea'))


def read_wfdb(path: pathlib.Path) -> Channels:
  """Opens a WFDB record, by its header.

  Raises:
    InputError: The header is damaged.
  """
  header = first = read_header(path)
  if header.segments:
    names = [name for name, _ in header.segments if name != '~']
    if not names:
      raise InputError(f'{path} has gaps only: give one with an ECG.')
    first = _segment_header(path, names[0])
    if first.segments:
      raise InputError(f'{path} has segments of segments: give those.')
  rate = header.rate
  claimed = sum(signal.frame for signal in first.signals) * (rate or 0)
  if claimed > _MOST_SAMPLES_PER_SECOND:
    raise InputError(f'{path} claims {claimed:g} samples a second: restore it.')
  channels = [
    Channel(
      signal.name,
      signal.unit,
      None if rate is None else rate * signal.frame,
      unit_from='header',
      rate_from='' if rate is None else 'header',
    )
    for signal in first.signals
  ]
  facts = {'format': 'WFDB'}
  if header.segments:
    gaps = [name for name, _ in header.segments].count('~')
    facts['segments'] = f'{len(header.segments)}, of which {gaps} are gaps'
  return WfdbRecord(tuple(channels), facts, header, first)

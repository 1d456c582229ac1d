"""Reads EDF and BDF files, continuous or not.

Both have records of equal duration, which hold a few samples of each signal
after another: of 16 bits in EDF, of 24 in BDF.
"""

import dataclasses
import pathlib
from typing import BinaryIO

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import header_text
from ecg_jax.recordings.channels import Channel, Channels, Samples

_FIELDS = {
  'label': 16,
  'transducer': 80,
  'unit': 8,
  'physical minimum': 8,
  'physical maximum': 8,
  'digital minimum': 8,
  'digital maximum': 8,
  'filter': 80,
  'samples': 8,
  'reserved': 32,
}
"""Name -> bytes of a signal's fields; each is stored for all signals."""

_LONGEST_GAP = 7 * 86_400.0
"""Seconds without data, at most; more is a damaged time."""

_TIME_BYTES = 32
"""Bytes within which the time of a data record ends."""


@dataclasses.dataclass(frozen=True)
class Signal:
  """A signal as the header states it."""

  label: str
  unit: str
  ranges: tuple[str, str, str, str]
  """Physical minimum and maximum, digital minimum and maximum."""
  samples: int
  """Samples in a data record."""
  offset: int
  """Bytes of a data record before this signal's."""

  @property
  def is_annotations(self) -> bool:
    """Whether these are times and texts, not samples."""
    return self.label in ('EDF Annotations', 'BDF Annotations')


@dataclasses.dataclass(frozen=True)
class EdfFile(Channels):
  """An EDF or BDF file."""

  path: pathlib.Path
  width: int
  """Bytes of a sample."""
  start: int
  """Bytes of the header."""
  record_bytes: int
  num_records: int
  duration: float
  """Seconds of a data record."""
  signals: tuple[Signal, ...]
  """Those with samples."""
  times: np.ndarray | None
  """Seconds at which data records begin, float64; None if they follow each
  other."""
  notes: tuple[str, ...]

  def open(self, number: int) -> 'EdfSamples':
    """Opens a signal; raises InputError if its samples cannot be scaled."""
    return EdfSamples(self, self.signals[number])


class EdfSamples(Samples):
  """A signal of an EDF or BDF file, read in pieces."""

  def __init__(self, file: EdfFile, signal: Signal):
    """Takes an open file; raises InputError if it does not scale the signal."""
    low, high, digital_low, digital_high = _ranges(file.path, signal)
    self.file, self.signal, self.notes = file, signal, file.notes
    self.gain = (high - low) / (digital_high - digital_low)
    self.offset = high / self.gain - digital_high
    self.starts = np.arange(file.num_records, dtype=np.int64) * signal.samples
    if file.times is not None:
      self.starts = _starts(file, signal)
    end = self.starts[-1:].sum() + signal.samples * (file.num_records > 0)
    self.num_samples = int(end)

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start], in the signal's unit; NaN in gaps."""
    values = np.full(stop - start, np.nan)
    count = self.signal.samples
    first = max(0, int(np.searchsorted(self.starts, start, 'right')) - 1)
    last = int(np.searchsorted(self.starts, stop, 'left'))
    with self.file.path.open('rb') as content:
      for record in range(first, last):
        begin = int(self.starts[record])
        low, high = max(start, begin), min(stop, begin + count)
        if low < high:
          digital = self._read_record(content, record, low - begin, high - low)
          values[low - start : high - start] = digital
    return (values + self.offset) * self.gain

  def _read_record(
    self, content: BinaryIO, record: int, first: int, count: int
  ) -> np.ndarray:
    """Reads samples of one data record, int [count]."""
    file, width = self.file, self.file.width
    within = self.signal.offset + first * width
    content.seek(file.start + record * file.record_bytes + within)
    found = content.read(count * width)
    if len(found) < count * width:
      raise InputError(
        f'{file.path} ends within its data record {record}: it was cut off, so'
        ' export it again.'
      )
    if width == 2:
      return np.frombuffer(found, '<i2')
    padded = np.zeros((count, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(found, np.uint8).reshape(count, 3)
    return padded.view('<i4')[:, 0] >> 8


def read_edf(path: pathlib.Path) -> Channels:
  """Opens an EDF or BDF file, of any of the variants (+C, +D).

  Raises:
    InputError: The file is damaged or cut off, or its times are.
  """
  with path.open('rb') as file:
    header = file.read(256)
    version = header[:8].rstrip(b' \0')
    if len(header) < 256 or version not in (b'0', b'\xffBIOSEMI'):
      raise InputError(
        f'{path} does not begin as an EDF or BDF file: export it again.'
      )
    num_signals = _whole(path, header[252:256], 'number of signals')
    start = 256 * (1 + num_signals)
    content = file.read(256 * num_signals)
  if len(content) < 256 * num_signals:
    raise InputError(
      f'{path} ends within its header of {num_signals} signals: it was cut'
      ' off, so export it again.'
    )
  stated = _whole(path, header[184:192], 'length of the header')
  if stated != start:
    raise InputError(
      f'{path} states a header of {stated} bytes, where {num_signals} signals'
      f' take {start}: export it again.'
    )
  duration = header_text.number(header_text.field(header[244:252]))
  if duration is None or duration < 0:
    raise InputError(
      f'{path} does not state how long a data record lasts: export it again.'
    )
  bdf = version != b'0'
  width = 3 if bdf else 2
  signals, record_bytes = _signals(path, content, num_signals, width)
  variant = header_text.field(header[192:236])
  claimed = header_text.number(header_text.field(header[236:244]))
  held = (path.stat().st_size - start) // max(1, record_bytes)
  num_records, notes = _num_records(path, claimed, held, record_bytes, start)
  times = None
  if variant[3:5] == '+D':
    clock = next((x for x in signals if x.is_annotations), None)
    times = _times(path, clock, start, record_bytes, num_records, width)
  kept = tuple(signal for signal in signals if not signal.is_annotations)
  if kept and not duration:
    raise InputError(
      f'{path} states data records of 0 s, so its sampling rate is unknown:'
      ' export it again.'
    )
  name = 'BDF' if bdf else 'EDF'
  facts = {
    'format': name + (variant[3:5] if variant[3:4] == '+' else ''),
    'data records': f'{num_records} of {duration:g} s',
  }
  if times is not None and kept:
    fastest = max(kept, key=lambda signal: signal.samples)
    gaps = _apart(times, duration, fastest).sum()
    facts['gaps between data records'] = str(gaps)
  return EdfFile(
    tuple(_channel(signal, duration) for signal in kept),
    facts,
    path,
    width,
    start,
    record_bytes,
    num_records,
    duration,
    kept,
    times,
    notes,
  )


def _whole(path: pathlib.Path, content: bytes, what: str) -> int:
  """The whole number of a field; raises InputError if it has another text."""
  value = header_text.number(header_text.field(content))
  if value is None or value < 0 or value != int(value):
    raise InputError(f'{path} does not state the {what}: export it again.')
  return int(value)


def _signals(
  path: pathlib.Path, content: bytes, count: int, width: int
) -> tuple[list[Signal], int]:
  """All signals of a header, and the bytes of a data record."""
  columns, at = {}, 0
  for name, size in _FIELDS.items():
    end = at + size * count
    fields = [content[k : k + size] for k in range(at, end, size)]
    columns[name], at = fields, end
  signals, offset = [], 0
  for number in range(count):
    texts = {name: header_text.field(x[number]) for name, x in columns.items()}
    what = f'samples of signal {number} in a data record'
    samples = _whole(path, columns['samples'][number], what)
    low, high, digital_low, digital_high = list(texts.values())[3:7]
    ranges = (low, high, digital_low, digital_high)
    signals.append(
      Signal(texts['label'], texts['unit'], ranges, samples, offset)
    )
    offset += samples * width
  return signals, offset


def _num_records(
  path: pathlib.Path,
  claimed: float | None,
  held: int,
  record_bytes: int,
  start: int,
) -> tuple[int, tuple[str, ...]]:
  """Number of data records to read, and notes about it."""
  if not record_bytes:
    return 0, ()
  rest = path.stat().st_size - start - held * record_bytes
  # A device that was switched off while recording leaves -1, some leave 0.
  if claimed in (-1, 0):
    cut = 'ends within a data record: that one is not read'
    return held, (cut,) if rest else ()
  if claimed is None or claimed < 0 or claimed != int(claimed):
    raise InputError(
      f'{path} does not state its number of data records: export it again.'
    )
  if claimed > held:
    raise InputError(
      f'{path} claims {claimed:g} data records and holds {held}: it was cut'
      ' off, so export it again.'
    )
  more = rest + (held - int(claimed)) * record_bytes
  note = f'holds {more} bytes more than its {claimed:g} data records: not read'
  return int(claimed), (note,) if more else ()


def _channel(signal: Signal, duration: float) -> Channel:
  return Channel(
    signal.label,
    signal.unit or None,
    signal.samples / duration,
    role='triggers' if signal.label == 'Status' else '',
    unit_from='header' if signal.unit else '',
    rate_from='header',
  )


def _ranges(path: pathlib.Path, signal: Signal) -> list[float]:
  """The numbers of `signal.ranges`; raises InputError if they do not scale."""
  values = [header_text.number(text) for text in signal.ranges]
  for kind, (low, high) in (('physical', values[:2]), ('digital', values[2:])):
    wrong = 'not two numbers'
    if low is not None and high is not None:
      wrong = f'both {low:g}' if low == high else ''
    if wrong:
      raise InputError(
        f'{path} has a {kind} minimum and maximum of lead {signal.label} that'
        f' are {wrong}, so its units are unknown: export it again.'
      )
  return [value for value in values if value is not None]


def _times(
  path: pathlib.Path,
  clock: Signal | None,
  start: int,
  record_bytes: int,
  num_records: int,
  width: int,
) -> np.ndarray:
  """Reads when each data record begins, float64 [num_records], seconds."""
  times = np.empty(num_records)
  size = 0 if clock is None else min(_TIME_BYTES, clock.samples * width)
  with path.open('rb') as file:
    for record in range(num_records):
      offset = 0 if clock is None else clock.offset
      file.seek(start + record * record_bytes + offset)
      stated = file.read(size).partition(b'\x14')[0].partition(b'\x15')[0]
      time = header_text.number(stated.decode('latin-1'))
      if time is None:
        raise InputError(
          f'{path} is discontinuous and does not state when its data record'
          f' {record} begins: export it as continuous.'
        )
      times[record] = time
  return times


def _apart(times: np.ndarray, duration: float, signal: Signal) -> np.ndarray:
  """Whether each data record but the last does not end where the next begins.

  Times are rounded, so within one and a half samples they do.
  """
  rounded = min(1.5 * duration / max(1, signal.samples), duration / 2)
  return abs(np.diff(times) - duration) >= rounded


def _starts(file: EdfFile, signal: Signal) -> np.ndarray:
  """Number of the first sample of each data record, int64, with gaps."""
  assert file.times is not None
  seconds = np.diff(file.times)
  steps = np.rint(seconds * (signal.samples / file.duration))
  steps[~_apart(file.times, file.duration, signal)] = signal.samples
  wrong = (steps < signal.samples) | (seconds > _LONGEST_GAP)
  if wrong.any():
    record = int(np.argmax(wrong))
    raise InputError(
      f'{file.path} has data record {record} at {file.times[record]:g} s and'
      f' the next at {file.times[record + 1]:g} s, where each lasts'
      f' {file.duration:g} s: export it as continuous.'
    )
  return np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)

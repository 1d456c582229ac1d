"""Reads WFDB records."""

import functools
import pathlib
import re
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import Channels, Samples

_PLAIN_RECORD = re.compile(r'[^\s/]+ 1 (\d+(?:\.\d+)?) (\d+)(?: .*)?')
"""Name, one signal, Hz, samples."""

_PLAIN_SIGNAL = re.compile(
  r'([^\s/:]+) 16(?:\+(\d+))? (\d+(?:\.\d+)?)(?:\(0\))?/(\S+) \d+ 0'
  r' -?\d+ -?\d+ 0 (.+)'
)
"""File, 16 bits from a byte on, counts a unit, unit, zero at 0, name."""

_PACKED_FORMATS = ('508', '516', '524')
"""WFDB's that hold FLAC."""

_MOST_PACKED = 1000
"""Samples that a byte of FLAC may stand for."""


def header_beside(path: pathlib.Path) -> pathlib.Path:
  """The WFDB header beside a signal file, or the file itself."""
  header = path.with_suffix('.hea')
  with_header = path.suffix.lower() in ('.dat', '.mat')
  return header if with_header and header.exists() else path


def _header_lines(path: pathlib.Path) -> list[str]:
  """Lines of a WFDB header but for its comments."""
  with path.open(encoding='utf-8', errors='replace') as file:
    text = file.read(2**22)
  lines = (line.partition('#')[0].strip() for line in text.splitlines())
  return [line for line in lines if line]


def segment_names(path: pathlib.Path) -> list[str]:
  """Names of the segments of a WFDB record; none if it is whole."""
  try:
    lines = _header_lines(path)
  except OSError:  # It is told of when the recording is opened.
    return []
  if not lines or '/' not in lines[0].split()[0]:
    return []
  return [line.split()[0] for line in lines[1:]]


def _read_plain_wfdb(path: pathlib.Path) -> Channels | None:
  """What `_read_wfdb` gives of the commonest records, ten times as fast.

  These are of one signal of 16 bits, as all of the challenge are; None of any
  other, and of damaged ones.
  """
  lines = _header_lines(path)
  if len(lines) != 2:
    return None
  record = _PLAIN_RECORD.fullmatch(lines[0])
  signal = _PLAIN_SIGNAL.fullmatch(lines[1])
  if record is None or signal is None:
    return None
  rate, count = float(record[1]), int(record[2])
  file, first, gain = path.with_name(signal[1]), int(signal[2] or 0), signal[3]
  if not (
    file.is_file()
    and file.stat().st_size == first + 2 * count
    and count
    and float(gain)
  ):
    return None

  def read(start: int, stop: int) -> np.ndarray:
    counts = np.fromfile(file, '<i2', stop - start, offset=first + 2 * start)
    # The lowest count stands for a missing sample.
    return np.where(counts == -(2**15), np.nan, counts / float(gain))

  return Channels(
    (signal[5],), (signal[4],), (rate,), lambda channel: Samples(count, read)
  )


def read_wfdb(path: pathlib.Path) -> Channels:
  """Opens a WFDB record, by its header."""
  plain = _read_plain_wfdb(path)
  if plain is not None:
    return plain
  import wfdb  # Brings pandas along: only where it is needed.

  @functools.lru_cache(maxsize=64)
  def header_of(name: str) -> Any:
    file = path.with_name(f'{name}.hea')
    lines = _header_lines(file)
    for line in lines:
      # wfdb would take such a name for an address, or for one in an archive.
      if '://' in line or '::' in line:
        raise InputError(
          f'{file} names a file that is not beside it ({line[:80]}): give a'
          ' copy with all its files in one folder.'
        )
    header = wfdb.rdheader(str(file.with_suffix('')))
    stated = lines[0].split()[2:4]
    # wfdb takes as much of the rate and the length as it can read.
    if stated and float(stated[0].partition('/')[0].partition('(')[0]) != (
      header.fs
    ):
      raise InputError(
        f'{file} has the sampling rate {stated[0]}: correct its first line.'
      )
    if stated[1:] and header.sig_len is None:
      raise InputError(
        f'{file} has the length {stated[1]}: correct its first line.'
      )
    for signal in set(getattr(header, 'file_name', None) or ()) - {'~'}:
      members = [
        k for k, other in enumerate(header.file_name) if other == signal
      ]
      claimed = (header.sig_len or 0) * sum(
        header.samps_per_frame[k] or 1 for k in members
      )
      packed = header.fmt[members[0]] in _PACKED_FORMATS
      size = file.with_name(signal).stat().st_size
      # The others have a byte a sample at least.
      if claimed > size * (_MOST_PACKED if packed else 1):
        raise InputError(
          f'{file} claims {claimed} samples of {signal}, which has {size}'
          ' bytes: it was cut off, so export it again.'
        )
    return header

  header = header_of(path.stem)
  states_rate = len(_header_lines(path)[0].split()) > 2
  if isinstance(header, wfdb.MultiRecord):
    segments = list(zip(header.seg_name, header.seg_len, strict=True))
    named = next((name for name, _ in segments if name != '~'), None)
    if named is None:
      raise InputError(f'{path} has gaps only: give one with an ECG.')
    first = header_of(named)
    if isinstance(first, wfdb.MultiRecord):
      raise InputError(f'{path} has segments of segments: give those.')
  else:
    first = header
    length = header.sig_len
    if length is None and header.n_sig:  # Told by the size of the file only.
      length = wfdb.rdrecord(str(path.with_suffix('')), channels=[0]).sig_len
    segments = [(path.stem, length or 0)]
  names = tuple(first.sig_name or ())
  frames = [count or 1 for count in first.samps_per_frame or ()]
  rate = float(header.fs)
  if sum(frames) * rate > 1e7:
    raise InputError(
      f'{path} claims {sum(frames) * rate:g} samples a second: restore it.'
    )

  @functools.lru_cache(maxsize=1)
  def whole(name: str, number: int, unit: str) -> np.ndarray:
    """A signal whose end wfdb finds only where it reads to it."""
    return read_signal(name, number, unit, 0, None).astype(np.float32)

  def read_signal(
    name: str, number: int, unit: str, start: int, stop: int | None
  ) -> np.ndarray:
    record = wfdb.rdrecord(
      str(path.with_name(name)),
      sampfrom=start,
      sampto=stop,
      channels=[number],
      smooth_frames=False,
      ignore_skew=True,
    )
    if record.units != [unit]:
      raise InputError(
        f'{path} has segments in other units than {unit}: convert them to one.'
      )
    return record.e_p_signal[0]

  def open_channel(channel: int) -> Samples:
    each = frames[channel]
    ends = np.cumsum([count * each for _, count in segments])

    def number_in(own: Any) -> int:
      if own.sig_name == [*names]:  # Two may have one name.
        return channel
      return own.sig_name.index(names[channel])

    def read_segment(name: str, start: int, stop: int) -> np.ndarray:
      own = header_of(name)
      if names[channel] not in (own.sig_name or ()):
        return np.full(stop - start, np.nan)
      number, unit = number_in(own), first.units[channel]
      if own.sig_len is None:
        return whole(name, number, unit)[start:stop]
      read = read_signal(name, number, unit, start // each, -(-stop // each))
      return read[start % each :][: stop - start]

    def read(start: int, stop: int) -> np.ndarray:
      samples = np.full(stop - start, np.nan)
      for (name, count), end in zip(segments, ends, strict=True):
        begin = int(end) - count * each
        low, high = max(start, begin), min(stop, int(end))
        if low < high and name != '~':
          samples[low - start : high - start] = read_segment(
            name, low - begin, high - begin
          )
      return samples

    def states_gain() -> bool:
      """Whether the first segment that has the lead does."""
      for name, count in segments:
        if name == '~' or not count:  # A gap, or a layout.
          continue
        own = header_of(name)
        if names[channel] in (own.sig_name or ()):
          lines = _header_lines(path.with_name(f'{name}.hea'))
          signal = wfdb.io.header.rx_signal.match(lines[1 + number_in(own)])
          return bool(float(signal['adc_gain'] or 0))
      return True

    # The format's default, which wfdb takes.
    assumed = f'no gain stated: taken to be 200 a {first.units[channel]}'
    notes = () if states_gain() else (assumed,)
    return Samples(int(ends[-1]), read, notes)

  return Channels(
    names,
    tuple(first.units or ()),
    # Where none is stated wfdb takes it to be 250 Hz.
    tuple(rate * count if states_rate else None for count in frames),
    open_channel,
  )

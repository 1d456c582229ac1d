"""Reads WFDB records."""

import functools
import pathlib
import re
from collections.abc import Callable
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
"""File, 16 bits from a byte offset, counts per unit, unit, zero at 0, name."""

_PACKED_FORMATS = ('508', '516', '524')
"""WFDB formats that contain FLAC."""

_MOST_PACKED = 1000
"""Maximum samples per byte of FLAC."""

_MOST_SAMPLES_PER_SECOND = 1e7
"""Of all channels; a header with more is damaged."""


def header_beside(path: pathlib.Path) -> pathlib.Path:
  """The WFDB header of a signal file if there is one, else the file itself."""
  header = path.with_suffix('.hea')
  with_header = path.suffix.lower() in ('.dat', '.mat')
  return header if with_header and header.exists() else path


def _header_lines(path: pathlib.Path) -> list[str]:
  """Lines of a WFDB header without comments."""
  with path.open(encoding='utf-8', errors='replace') as file:
    text = file.read(2**22)
  lines = (line.partition('#')[0].strip() for line in text.splitlines())
  return [line for line in lines if line]


def segment_names(path: pathlib.Path) -> list[str]:
  """Names of the segments of a WFDB record; none if it is not segmented."""
  try:
    lines = _header_lines(path)
  except OSError:  # Reported when the recording is opened.
    return []
  if not lines or '/' not in lines[0].split()[0]:
    return []
  return [line.split()[0] for line in lines[1:]]


def _read_plain_wfdb(path: pathlib.Path) -> Channels | None:
  """The result of `read_wfdb` for the most common records, ten times as fast.

  These have one signal of 16 bits, as all of the challenge do. The result is
  None for others, and for damaged ones.
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
  size = file.stat().st_size if file.is_file() else None
  if size != first + 2 * count or not count or not float(gain):
    return None

  def read(start: int, stop: int) -> np.ndarray:
    counts = np.fromfile(file, '<i2', stop - start, offset=first + 2 * start)
    # The lowest count marks a missing sample.
    return np.where(counts == -(2**15), np.nan, counts / float(gain))

  return Channels(
    (signal[5],), (signal[4],), (rate,), lambda channel: Samples(count, read)
  )


def read_wfdb(path: pathlib.Path) -> Channels:
  """Opens a WFDB record, by its header."""
  plain = _read_plain_wfdb(path)
  if plain is not None:
    return plain
  import wfdb  # Imports pandas: only where it is needed.

  header_of = functools.lru_cache(maxsize=64)(
    lambda name: _read_header(path.with_name(f'{name}.hea'))
  )
  header = header_of(path.stem)
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
    if length is None and header.n_sig:  # Only the size of the file says it.
      length = wfdb.rdrecord(str(path.with_suffix('')), channels=[0]).sig_len
    segments = [(path.stem, length or 0)]
  frames = [count or 1 for count in first.samps_per_frame or ()]
  rate = float(header.fs)
  if sum(frames) * rate > _MOST_SAMPLES_PER_SECOND:
    raise InputError(
      f'{path} claims {sum(frames) * rate:g} samples a second: restore it.'
    )
  states_rate = len(_header_lines(path)[0].split()) > 2
  return Channels(
    tuple(first.sig_name or ()),
    tuple(first.units or ()),
    # Where none is stated wfdb assumes 250 Hz.
    tuple(rate * count if states_rate else None for count in frames),
    lambda channel: _open_channel(
      path, channel, first, frames[channel], segments, header_of
    ),
  )


def _read_header(file: pathlib.Path) -> Any:
  """The header as wfdb reads it, checked beyond what wfdb does."""
  import wfdb

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
  # wfdb parses as much of the rate and the length as it understands.
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
    members = [k for k, name in enumerate(header.file_name) if name == signal]
    frame = sum(header.samps_per_frame[k] or 1 for k in members)
    claimed = (header.sig_len or 0) * frame
    packed = header.fmt[members[0]] in _PACKED_FORMATS
    size = file.with_name(signal).stat().st_size
    # In the other formats a sample takes a byte at least.
    if claimed > size * (_MOST_PACKED if packed else 1):
      raise InputError(
        f'{file} claims {claimed} samples of {signal}, which has {size}'
        ' bytes: it was cut off, so export it again.'
      )
  return header


def _open_channel(
  path: pathlib.Path,
  channel: int,
  first: Any,
  each: int,
  segments: list[tuple[str, int]],
  header_of: Callable[[str], Any],
) -> Samples:
  """Opens a channel of a record.

  Args:
    path: The record's header.
    channel: Number of the channel.
    first: Header of the first segment, which has all channels.
    each: Samples of the channel per frame.
    segments: Name and frames of each segment; '~' is a gap.
    header_of: Segment name -> header.
  """
  import wfdb

  lead, unit = first.sig_name[channel], first.units[channel]
  ends = np.cumsum([count * each for _, count in segments])

  def number_in(own: Any) -> int | None:
    if own.sig_name == first.sig_name:  # Two channels may have one name.
      return channel
    names = own.sig_name or ()
    return names.index(lead) if lead in names else None

  def read_signal(
    name: str, number: int, start: int, stop: int | None
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

  @functools.lru_cache(maxsize=1)
  def whole(name: str, number: int) -> np.ndarray:
    """A signal whose end wfdb finds only by reading to it."""
    return read_signal(name, number, 0, None).astype(np.float32)

  def read_segment(name: str, start: int, stop: int) -> np.ndarray:
    own = header_of(name)
    number = number_in(own)
    if number is None:
      return np.full(stop - start, np.nan)
    if own.sig_len is None:
      return whole(name, number)[start:stop]
    samples = read_signal(name, number, start // each, -(-stop // each))
    return samples[start % each :][: stop - start]

  def read(start: int, stop: int) -> np.ndarray:
    samples = np.full(stop - start, np.nan)
    for (name, count), end in zip(segments, ends, strict=True):
      begin = int(end) - count * each
      low, high = max(start, begin), min(stop, int(end))
      if low < high and name != '~':
        part = read_segment(name, low - begin, high - begin)
        samples[low - start : high - start] = part
    return samples

  def states_gain() -> bool:
    """Whether the first segment with the lead states its gain."""
    for name, count in segments:
      if name == '~' or not count:  # A gap, or a layout.
        continue
      number = number_in(header_of(name))
      if number is not None:
        line = _header_lines(path.with_name(f'{name}.hea'))[1 + number]
        signal = wfdb.io.header.rx_signal.match(line)
        return bool(float(signal['adc_gain'] or 0))
    return True

  # The default of the format, which wfdb applies.
  assumed = f'no gain stated: taken to be 200 a {unit}'
  return Samples(int(ends[-1]), read, () if states_gain() else (assumed,))

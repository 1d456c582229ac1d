"""Headers of WFDB records, whatever their number of signals and segments."""

import dataclasses
import math
import pathlib
import re

from ecg_jax.errors import InputError
from ecg_jax.recordings import header_text

_MOST_BYTES = 2**22
"""Bytes of a header that are read, at most."""

_SIGNAL = re.compile(
  r'(?P<file>\S.*?)\s+(?P<format>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?'
  r'(?:\+(?P<offset>\d+))?(?:\s+(?P<rest>\S.*))?'
)
"""A signal's line: its file may have blanks in its name."""

_GAIN = re.compile(
  r'(?P<gain>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)'
  r'(?:\((?P<baseline>[-+]?\d+)\))?(?:/(?P<unit>\S+))?',
  re.IGNORECASE,
)
_WHOLE = re.compile(r'[-+]?\d{1,15}', re.ASCII)
_NUMERIC = re.compile(r'[-+.]?\d')


@dataclasses.dataclass(frozen=True)
class Signal:
  """A signal's line of a header."""

  file: str
  """Name of the file with its samples; '~' for a gap."""
  format: str
  frame: int
  """Samples per frame."""
  offset: int
  """Bytes of the file before the samples."""
  gain: float | None
  """Counts per unit; None if not stated."""
  baseline: int
  """Count of zero."""
  unit: str
  initial: int
  """First sample, which format 8 needs."""
  checksum: int
  """Sum of all samples, of which the last 16 bits count; 0 if not stated, as of
  the challenge's records."""
  name: str


@dataclasses.dataclass(frozen=True)
class Header:
  """A header."""

  path: pathlib.Path
  rate: float | None
  """Frames per second; None if not stated."""
  length: int | None
  """Frames; None if not stated."""
  signals: tuple[Signal, ...]
  segments: tuple[tuple[str, int], ...]
  """Name and frames of each segment, '~' for a gap; none if there are none."""


def header_beside(path: pathlib.Path) -> pathlib.Path:
  """The WFDB header of a signal file if there is one, else the file itself."""
  if path.suffix.lower() not in ('.dat', '.mat'):
    return path
  endings = ('.HEA', '.hea') if path.suffix.isupper() else ('.hea', '.HEA')
  headers = [path.with_suffix(ending) for ending in endings]
  return next((header for header in headers if header.exists()), path)


def _lines(path: pathlib.Path) -> list[str]:
  """Lines of a header without comments."""
  with path.open('rb') as file:
    content = file.read(2**14)
    if len(content) == 2**14:  # Memory for all that is asked for is reserved.
      content += file.read(_MOST_BYTES)
  text = header_text.decode(content).replace('\0', '')
  # `splitlines` would also end lines at characters of Latin-1 such as \x85.
  lines = text.replace('\r', '\n').split('\n')
  stripped = (line.strip() for line in lines)
  return [line for line in stripped if line and line[0] != '#']


def segment_names(path: pathlib.Path) -> list[str]:
  """Names of the segments of a WFDB record; none if it is not segmented."""
  try:
    lines = _lines(path)
  except OSError:  # Reported when the recording is opened.
    return []
  if not lines or '/' not in lines[0].split()[0]:
    return []
  return [line.split()[0] for line in lines[1:]]


def read_header(path: pathlib.Path) -> Header:
  """Reads a header.

  Raises:
    InputError: It is damaged.
  """
  lines = _lines(path)
  if not lines:
    raise InputError(f'{path} has no line of a WFDB header: restore it.')
  # The record's name may have blanks; it does not matter otherwise.
  after = lines[0].partition('#')[0].removeprefix(path.stem)
  fields = f'_{after}'.split()
  _, segmented, count = fields[0].partition('/')
  if not fields[1:] or not fields[1].isdecimal():
    raise InputError(
      f'{path} does not begin with a name and a number of signals'
      f' ({lines[0][:60]!r}): restore it.'
    )
  rate = _rate(path, fields[2]) if fields[2:] else None
  length = _count(path, 'length', fields[3]) if fields[3:] else 0
  kind, claimed = 'signals', _count(path, 'number of signals', fields[1])
  if segmented:
    kind, claimed = 'segments', _count(path, 'number of segments', count)
  if claimed != len(lines) - 1:
    raise InputError(
      f'{path} claims {claimed} {kind} and describes {len(lines) - 1}: restore'
      ' it.'
    )
  if segmented:
    return Header(path, rate, length or None, (), _segments(path, lines[1:]))
  signals = tuple(_signal(path, line) for line in lines[1:])
  return Header(path, rate, length or None, signals, ())


def _count(path: pathlib.Path, what: str, text: str) -> int:
  if not re.fullmatch(r'\d{1,15}', text, re.ASCII):
    raise InputError(f'{path} has the {what} {text}: correct its first line.')
  return int(text)


def _rate(path: pathlib.Path, text: str) -> float:
  stated = text.partition('/')[0].partition('(')[0]
  value = header_text.number(stated)
  if value is None or ',' in stated:
    raise InputError(
      f'{path} has the sampling rate {text}: correct its first line.'
    )
  return value


def _segments(
  path: pathlib.Path, lines: list[str]
) -> tuple[tuple[str, int], ...]:
  segments = []
  for line in lines:
    name, length = [*line.partition('#')[0].split(), ''][:2]
    if not re.fullmatch(r'\d{1,15}', length, re.ASCII):
      raise InputError(
        f'{path} does not state the length of its segment {name}: restore it.'
      )
    segments.append((name, int(length)))
  return tuple(segments)


def _signal(path: pathlib.Path, line: str) -> Signal:
  """Parses a signal's line; raises InputError if it is damaged."""
  found = _SIGNAL.fullmatch(line)
  if found is None:
    raise InputError(
      f'{path} has {line[:60]!r} where a signal is described: restore it.'
    )
  fields = (found['rest'] or '').split(maxsplit=6)
  # Some programs omit fields before the name.
  words = [k for k, text in enumerate(fields) if not _NUMERIC.match(text)]
  last = min([*words, len(fields), 6])
  name = ' '.join(fields[last:])
  gain = _GAIN.fullmatch(fields[0]) if last else None
  known = float(gain['gain']) if gain else math.nan
  named = name and not name.startswith('#')
  if ((last or named) and not math.isfinite(known)) or not all(
    map(_WHOLE.fullmatch, fields[1:last])
  ):
    raise InputError(
      f'{path} has {line[:60]!r} where a signal is described: restore it.'
    )
  # Resolution, zero, first sample, checksum.
  stated = [*map(int, fields[1:last]), 0, 0, 0, 0]
  baseline = gain and gain['baseline']
  return Signal(
    file=found['file'],
    format=found['format'],
    frame=int(found['frame'] or 1) or 1,
    offset=int(found['offset'] or 0),
    gain=known if gain and known else None,
    baseline=int(baseline) if baseline else stated[1],
    unit=(gain and gain['unit']) or 'mV',
    initial=stated[2],
    checksum=stated[3],
    name=name if named else '',
  )

"""Reads BrainVision recordings: a header .vhdr and the file that it names."""

import dataclasses
import pathlib
import re

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import header_text, units
from ecg_jax.recordings.channels import Channel, Channels, Samples

_DTYPES = {'INT_16': 'i2', 'UINT_16': 'u2', 'INT_32': 'i4',
           'IEEE_FLOAT_32': 'f4', 'IEEE_FLOAT_64': 'f8'}  # fmt: skip
"""Binary format -> dtype."""

_MOST_CHANNELS = 10_000


@dataclasses.dataclass(frozen=True)
class BrainVisionFile(Channels):
  """A BrainVision recording."""

  rows: np.ndarray
  """Numbers [channels, samples], mapped into memory if the file is binary."""
  resolutions: tuple[float, ...]
  """Of each channel, in its unit."""

  def open(self, number: int) -> 'BrainVisionSamples':
    """Opens a channel."""
    return BrainVisionSamples(self.rows[number], self.resolutions[number])


class BrainVisionSamples(Samples):
  """A channel of a BrainVision recording, read in pieces."""

  def __init__(self, row: np.ndarray, resolution: float):
    """Takes its numbers, and what one is in its unit."""
    self.row, self.resolution = row, resolution
    self.num_samples = len(row)

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start], in the channel's unit."""
    return self.row[start:stop].astype(np.float64) * self.resolution


def read_brainvision(path: pathlib.Path) -> Channels:
  """Opens a BrainVision recording, by its header.

  Raises:
    InputError: The header is damaged, its file is missing or cut off, or it
      has several segments.
  """
  header = _read_header(path)
  form = header.get('dataformat', 'BINARY').upper()
  order = header.get('dataorientation', 'MULTIPLEXED').upper()
  count = int(_number(path, header, 'numberofchannels', _MOST_CHANNELS))
  period = _number(path, header, 'samplinginterval', 1e6)
  channels, resolutions = [], []
  for k in range(count):
    value = header.get(f'ch{k + 1}', '').split(',')
    parts = [part.replace(r'\1', ',').strip() for part in [*value, *' ' * 3]]
    name, _, resolution, unit, *_ = parts
    rate = units.to_hertz(1e-6 * period)
    channels.append(
      Channel(name, unit or 'µV', rate, unit_from='header', rate_from='header')
    )
    resolutions.append(header_text.number(resolution) or 1.0)
  _check_segments(path, header)
  data = _file_of(path, header, 'datafile')
  if form == 'ASCII':
    rows = _read_ascii(data, header, order)
  else:
    rows = _map_binary(data, header, order, count)
  claimed = int(header_text.number(header.get('datapoints', '')) or 0)
  if len(rows) != count or not rows.shape[1] >= max(1, claimed):
    raise InputError(
      f'{path} claims {count} channels of {claimed} samples, and {data.name}'
      f' has {len(rows)} of {rows.shape[1]}: export it again.'
    )
  facts = {'format': 'BrainVision', 'samples': f'{form}, {order}'.lower()}
  return BrainVisionFile(tuple(channels), facts, rows, tuple(resolutions))


def _read_header(path: pathlib.Path) -> dict[str, str]:
  """Keys in lower case -> values, of all sections but free comments."""
  text = header_text.decode(path.read_bytes()[: 2**22])
  if not re.match(r'Brain ?Vision', text, re.IGNORECASE):
    raise InputError(
      f'{path} does not begin as a BrainVision header: export it again.'
    )
  text = re.split(r'^\[comment\]', text, flags=re.IGNORECASE | re.MULTILINE)[0]
  lines = [line for line in text.splitlines() if not line.startswith(';')]
  pairs = [line.split('=', 1) for line in lines if '=' in line]
  return {key.strip().lower(): value.strip() for key, value in pairs}


def _number(
  path: pathlib.Path, header: dict[str, str], key: str, most: float
) -> float:
  """A number above 0 that the header states."""
  value = header_text.number(header.get(key, ''))
  if value is None or not 0 < value <= most:
    raise InputError(
      f'{path} has {header.get(key, "")[:40]!r} as {key}, not a number up to'
      f' {most:g}: export it again.'
    )
  return value


def _file_of(
  path: pathlib.Path, header: dict[str, str], key: str
) -> pathlib.Path:
  name = header.get(key, '').replace('$b', path.stem)
  return header_text.beside(path, name or f'(no {key})')


def _check_segments(path: pathlib.Path, header: dict[str, str]) -> None:
  """Raises InputError if the markers say that recording was interrupted."""
  if header.get('datatype', 'TIMEDOMAIN').upper() != 'TIMEDOMAIN':
    raise InputError(f'{path} has spectra, no samples: export those in time.')
  markers = _file_of(path, header, 'markerfile')
  if not markers.is_file():
    return
  text = header_text.decode(markers.read_bytes()[: 2**24])
  starts = re.findall(r'^Mk\d+=New Segment,[^,]*,(\d+)', text, re.MULTILINE)
  if len({*starts}) > 1:
    raise InputError(
      f'{path} has {len({*starts})} segments, between which recording was'
      ' interrupted: export each as a file of its own.'
    )


def _map_binary(
  data: pathlib.Path, header: dict[str, str], order: str, count: int
) -> np.ndarray:
  """Numbers [channels, samples] of a binary file."""
  form = header.get('binaryformat', '').upper()
  if form not in _DTYPES:
    raise InputError(
      f'{data} has samples of format {form[:40]!r}, which is unknown: export it'
      ' as INT_16 or IEEE_FLOAT_32.'
    )
  big = header.get('usebigendianorder', 'NO').upper() == 'YES'
  dtype = np.dtype('<>'[big] + _DTYPES[form])
  held = data.stat().st_size // dtype.itemsize // count
  if not held:
    return np.empty((count, 0), dtype)
  shape = (count, held) if order == 'VECTORIZED' else (held, count)
  numbers = np.memmap(data, dtype, 'r', shape=shape)
  return numbers if order == 'VECTORIZED' else numbers.T


def _read_ascii(
  data: pathlib.Path, header: dict[str, str], order: str
) -> np.ndarray:
  """Numbers [channels, samples] of a text file."""
  mark = header.get('decimalsymbol', '.')
  skipped = [
    int(header_text.number(header.get(key, '')) or 0)
    for key in ('skiplines', 'skipcolumns')
  ]
  text = header_text.decode(data.read_bytes()).replace(mark, '.')
  lines = [line.split() for line in text.splitlines() if line.strip()]
  table = [line[skipped[1] :] for line in lines[skipped[0] :]]
  if len({*map(len, table)}) != 1:
    raise InputError(f'{data} has rows of different lengths: export it again.')
  numbers = np.array(table, np.float32)
  return numbers if order == 'VECTORIZED' else numbers.T

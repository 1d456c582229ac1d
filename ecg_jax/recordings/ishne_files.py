"""Reads ISHNE Holter files (.ecg), of 16-bit samples of up to 12 leads."""

import binascii
import dataclasses
import pathlib
import struct

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import Channel, Channels, Samples

_HEADER_BYTES = 522

_LONGEST_HEADER = 2**20
"""Bytes, of which the checksum is."""

_MISSING = -(2**15)

_LEADS = {
  2: 'ECG X', 3: 'ECG Y', 4: 'ECG Z', 5: 'I', 6: 'II', 7: 'III', 8: 'aVR',
  9: 'aVL', 10: 'aVF', 11: 'V1', 12: 'V2', 13: 'V3', 14: 'V4', 15: 'V5',
  16: 'V6', 17: 'ECG ES', 18: 'ECG AS', 19: 'ECG AI',
}  # fmt: skip
"""Number of a lead -> its name; all channels of this format are ECGs."""


@dataclasses.dataclass(frozen=True)
class IshneFile(Channels):
  """An ISHNE Holter file."""

  path: pathlib.Path
  start: int
  """First byte of the samples."""
  num_samples: int
  """Samples of each lead."""
  resolutions: tuple[int, ...]
  """nV per count, of each lead; 0 if not stated."""
  notes: tuple[str, ...]

  def open(self, number: int) -> 'IshneSamples':
    """Opens a lead."""
    return IshneSamples(self, number)


class IshneSamples(Samples):
  """A lead of an ISHNE Holter file, read in pieces."""

  def __init__(self, file: IshneFile, number: int):
    """Takes an open file and the number of the lead."""
    self.file, self.number, self.notes = file, number, file.notes
    self.num_samples = file.num_samples

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start], in nV, or counts of no stated unit."""
    leads = len(self.file.resolutions)
    offset = self.file.start + 2 * leads * start
    frames = np.fromfile(
      self.file.path, '<i2', (stop - start) * leads, offset=offset
    )
    counts = frames[self.number :: leads]
    scale = float(self.file.resolutions[self.number] or 1)
    return np.where(counts == _MISSING, np.nan, counts * scale)


def read_ishne(path: pathlib.Path) -> Channels:
  """Opens an ISHNE Holter file.

  Raises:
    InputError: The file is damaged or cut off, or has another format.
  """
  with path.open('rb') as file:
    header = file.read(_HEADER_BYTES)
  if header[:8] == b'ANN  1.0':
    raise InputError(
      f'{path} has the annotations of an ISHNE Holter recording: give the file'
      ' with its ECG.'
    )
  if header[:8] != b'ISHNE1.0':
    raise InputError(
      f'{path} does not begin as an ISHNE Holter file (ISHNE1.0), the only'
      ' kind of .ecg that is read: export it as ISHNE, EDF or CSV.'
    )
  if len(header) < _HEADER_BYTES:
    raise InputError(
      f'{path} ends within its header: it was cut off, so export it again.'
    )
  [claimed] = struct.unpack_from('<i', header, 14)
  [start] = struct.unpack_from('<i', header, 22)
  [leads] = struct.unpack_from('<h', header, 156)
  [rate] = struct.unpack_from('<h', header, 272)
  if not 1 <= leads <= 12 or start < _HEADER_BYTES:
    raise InputError(
      f'{path} states {leads} leads from byte {start} on: export it again.'
    )
  names = struct.unpack_from(f'<{leads}h', header, 158)
  resolutions = struct.unpack_from(f'<{leads}h', header, 206)
  held = max(0, path.stat().st_size - start) // (2 * leads)
  num_samples, notes = _length(path, claimed, held, leads)
  with path.open('rb') as file:
    whole = file.read(min(start, _LONGEST_HEADER))[10:]
  [checksum] = struct.unpack_from('<H', header, 8)
  # Of the header alone; some programs state none.
  if checksum not in (0, binascii.crc_hqx(whole, 2**16 - 1)):
    notes += ('the checksum of the header is wrong: it may be damaged',)
  channels = [
    Channel(
      _LEADS.get(name, f'ECG {number + 1}'),
      'nV' if resolution > 0 else None,
      float(rate) if rate > 0 else None,
      unit_from='header' if resolution > 0 else '',
      rate_from='header' if rate > 0 else '',
    )
    for number, (name, resolution) in enumerate(
      zip(names, resolutions, strict=True)
    )
  ]
  return IshneFile(
    tuple(channels),
    {'format': 'ISHNE Holter'},
    path,
    start,
    num_samples,
    tuple(max(0, resolution) for resolution in resolutions),
    notes,
  )


def _length(
  path: pathlib.Path, claimed: int, held: int, leads: int
) -> tuple[int, tuple[str, ...]]:
  """Samples of each lead, and notes about it.

  Some programs state the samples of one lead, some of all together; devices
  that were switched off none.
  """
  if claimed <= 0 or held in (claimed, claimed // leads):
    return held, ()
  if claimed > held:
    raise InputError(
      f'{path} claims {claimed} samples of each lead and holds {held}: it was'
      ' cut off, so export it again.'
    )
  more = f'holds {held} samples, of which the header states {claimed}'
  return claimed, (f'{more}: the rest is not read',)

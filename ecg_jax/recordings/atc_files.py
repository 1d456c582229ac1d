"""Reads ATC files of Kardia and AliveCor devices.

After a signature they have blocks of a name, a length, content and a checksum.
"""

import dataclasses
import pathlib
import struct
import zlib

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import (
  ArraySamples,
  Channel,
  Channels,
)

_SIGNATURE = b'ALIVE\0\0\0'

_LEADS = {
  b'ecg ': 'I', b'ecg2': 'II', b'ecg3': 'III', b'ecg4': 'aVR', b'ecg5': 'aVL',
  b'ecg6': 'aVF', b'ecg7': 'V1', b'ecg8': 'V2', b'ecg9': 'V3', b'ecga': 'V4',
  b'ecgb': 'V5', b'ecgc': 'V6',
}  # fmt: skip
"""Name of a block -> lead."""


@dataclasses.dataclass(frozen=True)
class AtcFile(Channels):
  """An ATC file."""

  path: pathlib.Path
  blocks: tuple[tuple[bytes, int, int], ...]
  """Name, first byte of the content and its bytes, of each lead."""
  resolution: int
  """nV per count."""

  def open(self, number: int) -> ArraySamples:
    """Reads a lead, which takes seconds or minutes; in nV."""
    name, start, size = self.blocks[number]
    with self.path.open('rb') as file:
      file.seek(start)
      content = file.read(size)
      [stated] = struct.unpack('<I', file.read(4))
    whole = name + struct.pack('<I', size) + content
    # The description says CRC-32, devices write the sum of the bytes.
    total = int(np.frombuffer(whole, np.uint8).sum(dtype=np.uint64))
    notes: tuple[str, ...] = ()
    if stated not in (total % 2**32, zlib.crc32(whole)):
      lead = _LEADS[name]
      notes = (f'the checksum of lead {lead} is wrong: it may be damaged',)
    counts = np.frombuffer(content, '<i2')
    return ArraySamples(counts * float(self.resolution), notes)


def read_atc(path: pathlib.Path) -> Channels:
  """Opens an ATC file.

  Raises:
    InputError: The file is damaged or cut off, or has an unknown format.
  """
  size = path.stat().st_size
  blocks, rate, resolution = [], 0, 0
  with path.open('rb') as file:
    if file.read(12)[:8] != _SIGNATURE:
      raise InputError(
        f'{path} does not begin as an ATC file (ALIVE): export it again.'
      )
    while len(head := file.read(8)) == 8:
      name, length = struct.unpack('<4sI', head)
      start = file.tell()
      if start + length + 4 > size:
        raise InputError(
          f'{path} ends within a block of {length} bytes: it was cut off, so'
          ' export it again.'
        )
      if name == b'fmt ':
        content = file.read(8).ljust(8, b'\0')
        encoding, rate, resolution = struct.unpack('<BHH', content[:5])
        if encoding != 1:
          raise InputError(
            f'{path} has samples of format {encoding}, which is unknown: export'
            ' it again.'
          )
      elif name in _LEADS:
        blocks.append((name, start, length // 2 * 2))
      file.seek(start + length + 4)
  if blocks and not (rate and resolution):
    raise InputError(
      f'{path} does not state its sampling rate and resolution: export it'
      ' again.'
    )
  channels = [
    Channel(
      _LEADS[name],
      'nV',
      float(rate),
      unit_from='format block',
      rate_from='format block',
    )
    for name, _, _ in blocks
  ]
  facts = {'format': 'ATC (Kardia)', 'resolution': f'{resolution} nV'}
  return AtcFile(tuple(channels), facts, path, tuple(blocks), resolution)

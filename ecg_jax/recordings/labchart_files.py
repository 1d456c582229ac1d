"""MATLAB files that LabChart exports.

One variable has all blocks of all channels after another, others say where each
begins and ends. A block is what was recorded without a pause.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import ArraySamples, Channel, Channels

_LONGEST_PAUSE = 7 * 86_400.0
"""Seconds between two blocks, at most; more is a damaged time."""


@dataclasses.dataclass(frozen=True)
class LabChartFile(Channels):
  """A MATLAB file of LabChart."""

  path: pathlib.Path
  data: np.ndarray
  """All samples, real numbers."""
  starts: np.ndarray
  """First sample of each block, counted from 0, int [channels, blocks]."""
  ends: np.ndarray
  """One past the last."""
  times: np.ndarray
  """Seconds at which each block begins, float64 [blocks]."""

  def open(self, number: int) -> ArraySamples:
    """Puts a channel's blocks together, with NaN for the pauses."""
    rate = self.channels[number].rate or 0
    blocks = [
      (round((time - self.times[0]) * rate), self.data[start:end])
      for time, start, end in zip(
        self.times, self.starts[number], self.ends[number], strict=True
      )
      if end > start
    ]
    if not blocks:
      return ArraySamples(np.zeros(0))
    first = blocks[0][0]
    values = [blocks[0][1].astype(np.float32)]
    length = len(values[0])
    for at, block in blocks[1:]:
      gap = at - first - length
      # Times of blocks are rounded.
      if not -rate <= gap <= _LONGEST_PAUSE * rate:
        raise InputError(
          f'{self.path} has blocks of channel {number} at the same time: export'
          ' one of them.'
        )
      values += [np.full(max(0, gap), np.nan, np.float32), block]
      length += max(0, gap) + len(block)
    return ArraySamples(np.concatenate(values))


def is_labchart(known: Mapping[str, Any]) -> bool:
  """Whether the variables of a MATLAB file are those of LabChart."""
  return {'data', 'datastart', 'dataend', 'samplerate'} <= {*known}


def labchart_channels(path: pathlib.Path, known: Mapping[str, Any]) -> Channels:
  """The channels of a MATLAB file of LabChart.

  Args:
    path: Name of the file in an error.
    known: Name -> value of each variable.

  Raises:
    InputError: The variables do not fit each other.
  """
  data = np.atleast_1d(np.asarray(known['data'])).ravel()
  titles = _texts(known.get('titles'))
  count = max(1, len(titles))

  def table(name: str) -> np.ndarray:
    values = np.asarray(known[name], np.float64)
    if not values.size or values.size % count:
      raise InputError(
        f'{path} has {count} titles and {values.size} values of {name}: export'
        ' it again.'
      )
    return values.reshape(count, -1)

  starts, ends = table('datastart'), table('dataend')
  rates = table('samplerate')
  # A channel that a block does not have is stated as -1.
  used = starts > 0
  inside = (starts <= ends) & (ends <= len(data)) & np.isfinite(starts)
  if data.dtype.kind not in 'iuf' or not inside[used].all():
    raise InputError(
      f'{path} has blocks beyond its {len(data)} samples: export it again.'
    )
  rows = [{*rate[use]} for rate, use in zip(rates, used, strict=True)]
  if any(len(row) > 1 for row in rows):
    raise InputError(
      f'{path} has blocks of several sampling rates: export one of them.'
    )
  blocks = starts.shape[1]
  days = np.asarray(known.get('blocktimes', 0), np.float64)
  times = 86_400 * days.ravel()
  if times.size != blocks or not np.isfinite(times).all():
    raise InputError(
      f'{path} does not state when its {blocks} blocks begin: export one of'
      ' them.'
    )
  spelled = _units(known, count, blocks)
  channels = [
    Channel(
      titles[number] if titles else '',
      spelled[number],
      float(next(iter(rows[number]))) if rows[number] else None,
      role='' if rows[number] else 'empty',
      unit_from='variable unittext' if spelled[number] else '',
      rate_from='variable samplerate',
    )
    for number in range(count)
  ]
  begin = np.where(used, starts - 1, 0).astype(int)
  end = np.where(used, ends, 0).astype(int)
  facts = {'format': 'MATLAB of LabChart', 'blocks': str(blocks)}
  return LabChartFile(tuple(channels), facts, path, data, begin, end, times)


def _texts(value: Any) -> list[str]:
  """Lines of a variable of texts."""
  lines = np.atleast_1d(np.asarray('' if value is None else value)).ravel()
  return [str(line).strip() for line in lines if str(line).strip()]


def _units(
  known: Mapping[str, Any], count: int, blocks: int
) -> list[str | None]:
  """Unit of each channel, None if not stated or not the same in all blocks."""
  texts = _texts(known.get('unittext'))
  places = np.asarray(known.get('unittextmap', -1), np.float64).ravel()
  if places.size != count * blocks:
    return [None] * count
  found: list[str | None] = []
  for row in places.reshape(count, blocks):
    numbers = {int(place) for place in row if 1 <= place <= len(texts)}
    found.append(texts[numbers.pop() - 1] if len(numbers) == 1 else None)
  return found

"""Windows of the records, and which group each is in by its annotations."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ecg_jax.datasets.mitdb import source
from ecg_jax.recordings import lead, resampling

GROUPS = {
  'AFIB': 'atrial fibrillation throughout',
  'NSR': 'normal sinus rhythm throughout, all beats normal',
  'ECTOPY': 'normal sinus rhythm throughout, with ectopic or other beats',
  'BBB': 'normal sinus rhythm throughout, with bundle-branch block',
  'OTHER': 'one other rhythm throughout, such as atrial flutter or paced',
  'MIXED': 'more than one rhythm',
}
"""Group -> what its windows have."""

_BUNDLE_BRANCH_BLOCK = {'L', 'R'}


class Window(NamedTuple):
  """A part of a record."""

  name: str
  """Such as '100@30-60': name of the record, start and end in seconds."""
  counts: np.ndarray
  """int16 [samples]."""
  group: str
  """Key of GROUPS."""


def cut(
  record: source.AnnotatedRecord, encoding: lead.Encoding, seconds: float
) -> Iterator[Window]:
  """Cuts a record into windows, as `ecg_jax.predict` does.

  Args:
    record: The record.
    encoding: Rate and unit of the windows.
    seconds: Length of a window; the last one is moved back to the end.
  """
  rate = source.SAMPLING_RATE
  recording = lead.from_array(
    record.millivolt,
    sampling_rate=rate,
    units='mV',
    counts_per_millivolt=encoding.counts_per_millivolt,
    name=record.name,
  )
  samples = resampling.num_counts(recording, encoding.sampling_rate)
  length = samples / encoding.sampling_rate
  for start, end in resampling.window_times(length, seconds, seconds):
    counts = resampling.window_counts(recording, encoding, start, end - start)
    group = group_of(record, round(start * rate), round(end * rate))
    name = f'{record.name}@{round(start, 2):g}-{round(end, 2):g}'
    yield Window(name, counts, group)


def group_of(record: source.AnnotatedRecord, start: int, stop: int) -> str:
  """The group of the samples from `start` to below `stop`."""
  before = [name for sample, name in record.rhythms if sample <= start]
  # The first rhythm is annotated at the first beat, after the start.
  first = before[-1] if before else record.rhythms[0][1]
  within = {name for sample, name in record.rhythms if start < sample < stop}
  match sorted({first} | within):
    case ['AFIB']:
      return 'AFIB'
    case ['N']:
      pass
    case [_]:
      return 'OTHER'
    case _:
      return 'MIXED'
  inside = (start <= record.beats) & (record.beats < stop)
  beats = set(record.symbols[inside].tolist())
  if beats & _BUNDLE_BRANCH_BLOCK:
    return 'BBB'
  return 'ECTOPY' if beats - {'N'} else 'NSR'

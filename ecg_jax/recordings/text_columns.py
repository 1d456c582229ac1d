"""What the columns of a text table are: channels, and clocks of others."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np

from ecg_jax.recordings import (
  column_names,
  content,
  text_clock,
  text_headers,
  text_layout,
  units,
)
from ecg_jax.recordings.channels import Channel
from ecg_jax.recordings.text_rates import Stated

_COUNTED = 1000
"""Rows from which numbers of rows show by their content."""


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table."""

  channel: Channel
  clock: text_clock.Clock | None
  """Column of its times, None if there is none."""
  notes: tuple[str, ...]
  is_key: bool
  """Whether its fields say to which recording a row belongs."""


def describe(
  layout: text_layout.Layout, header: text_headers.Header
) -> tuple[Column, ...]:
  """Describes the columns of a table by its header and its rows."""
  names = header.names
  stated = [
    Stated(own, f'fields of column {k}') if own else of_header
    for k, (own, of_header) in enumerate(
      zip(layout.units, header.units, strict=True)
    )
  ]
  blocks = [_blocks(layout, k) for k in range(len(names))]
  clocks = _find_clocks(layout, names, stated, blocks)
  columns = []
  for k, name in enumerate(names):
    clock = _clock_of(name, clocks, names)
    rate, place, notes = _rate(header.rates, clock, names)
    unit = _unit(stated[k], blocks[k])
    channel = Channel(
      name,
      unit.value if unit else None,
      rate,
      role(layout.kinds[k], name, blocks[k]),
      unit.place if unit else '',
      place,
    )
    if layout.note:
      notes = (layout.note, *notes)
    is_key = _is_key(layout, k, name)
    columns.append(Column(channel, clock, notes, is_key))
  return tuple(columns)


def _is_key(layout: text_layout.Layout, number: int, name: str) -> bool:
  """Whether a column has keys of recordings, not one of each row."""
  of_words = layout.kinds[number] == 'word'
  if not column_names.is_key(name, of_words=of_words):
    return False
  some = [row[number] for row in layout.blocks[0] if row[number]]
  if of_words:
    return len({*some}) <= 0.5 * len(some)
  # A signal may have such a name, too, but does not stay the same.
  changes = sum(a != b for a, b in itertools.pairwise(some))
  return changes <= 0.02 * len(some)


def _blocks(layout: text_layout.Layout, column: int) -> list[np.ndarray]:
  """Numbers or times of a column in each block."""
  if layout.kinds[column] == 'clock':
    return [
      text_clock.clock_seconds([row[column] for row in block])
      for block in layout.blocks
    ]
  return layout.values(column)


def role(kind: str, name: str, blocks: Sequence[np.ndarray]) -> str:
  """What a column is taken for, '' if it may be an ECG."""
  kinds = {'clock': 'time', 'word': 'text', 'missing': 'empty'}
  named = column_names.role(name)
  if named == 'row number' and sum(map(len, blocks)) >= _COUNTED:
    named = ''  # `Samples` that are not numbered are a signal.
  found = kinds.get(kind) or content.role(blocks)
  return found or (named and f'{named}, by its name')


def _unit(stated: Stated | None, blocks: Sequence[np.ndarray]) -> Stated | None:
  """The unit of a column; None if its samples show that it is another's."""
  if stated is None or stated.limit is None:
    return stated
  most = np.nanmax(np.abs([*np.concatenate(blocks), 0.0]))
  fits = 0.002 * stated.limit < most <= 1.1 * stated.limit
  return stated if fits else None


def _find_clocks(
  layout: text_layout.Layout,
  names: Sequence[str],
  stated: Sequence[Stated | None],
  blocks: Sequence[Sequence[np.ndarray]],
) -> list[text_clock.Clock]:
  """Clocks among the columns: those that tell a rate, else row numbers."""
  found = []
  for k, kind in enumerate(layout.kinds):
    named = column_names.role(names[k])
    judged = 'time' if kind == 'clock' else content.role(blocks[k])
    if kind not in ('number', 'clock') or judged not in ('time', 'row number'):
      continue
    unit = stated[k]
    seconds = units.to_seconds(unit.value) if unit else None
    if kind == 'clock':
      seconds = 1.0
    fractions = bool(np.mod(np.concatenate(blocks[k]), 1).any())
    clock = text_clock.find_clock(
      k,
      blocks[k],
      seconds,
      may_assume=(judged == 'time' and named == 'time')
      or (fractions and named in ('', 'time')),
      of_day=kind == 'clock',
      may_differ=kind == 'clock' or named == 'time' or seconds is not None,
    )
    fine = clock and clock.resolution <= clock.step
    # A heart rate may rise once a second.
    if clock and (fine or named in ('', 'time', 'row number')):
      found.append(clock)
  timed = [clock for clock in found if clock.rate is not None]
  return timed or found


def _clock_of(
  name: str, clocks: Sequence[text_clock.Clock], names: Sequence[str]
) -> text_clock.Clock | None:
  """The clock of a column: of those in disagreement, that of its name."""
  if not clocks:
    return None
  rates = [clock.rate or 0.0 for clock in clocks]
  if max(rates) <= 1.02 * min(rates):
    return min(clocks, key=lambda clock: clock.resolution / clock.step)
  stem = re.match(r'[A-Za-z]*', name)
  for clock in clocks:
    if stem and stem[0] and names[clock.column].startswith(stem[0]):
      return clock
  return None


def _rate(
  stated: Sequence[Stated],
  clock: text_clock.Clock | None,
  names: Sequence[str],
) -> tuple[float | None, str, tuple[str, ...]]:
  """Rate of a column, where it is from, and notes."""
  if clock is not None and clock.rate is not None:
    column = f'time column {names[clock.column] or clock.column}'
    near = [x for x in stated if abs(x.value / clock.rate - 1) < 0.01]
    if near:
      return near[0].value, near[0].place, ()
    notes = [
      f'{x.place} states {x.value:g} Hz, but {column} has {clock.rate:g} Hz'
      for x in stated
    ]
    if clock.unit not in ('', 's'):
      notes.append(f'{column} taken to be in {clock.unit}')
    if clock.irregular:
      rate = f'their mean, {clock.rate:.6g} Hz, is taken'
      notes.append(f'times of {column.removeprefix("time ")} differ: {rate}')
    if clock.unit:
      column += f', taken to be in {clock.unit}'
    return clock.rate, column, tuple(notes)
  if len(stated) > 1:
    several = ', '.join(f'{x.value:g} Hz in {x.place}' for x in stated[:4])
    return None, several, ()
  return (stated[0].value, stated[0].place, ()) if stated else (None, '', ())

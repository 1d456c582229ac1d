"""Reads tables of numbers: CSV and other text."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import (
  column_names,
  content,
  text_clock,
  text_headers,
  text_layout,
  text_lines,
  text_rates,
)
from ecg_jax.recordings.channels import (
  ArraySamples,
  Channel,
  Channels,
  Samples,
  to_float32,
)

_CHUNK = 2**18
"""Rows that are converted at a time."""

_LEAST_WIDTH = 100
"""Columns of a table whose rows are leads, at least."""

_NAMES = {'.': 'point', ',': 'comma'}


@dataclasses.dataclass(frozen=True)
class TextFile(Channels):
  """A table of numbers whose columns are channels."""

  path: pathlib.Path
  codec: str
  layout: text_layout.Layout
  clocks: tuple[text_clock.Clock | None, ...]
  """Of each column."""
  notes: tuple[tuple[str, ...], ...]
  """Of each column."""

  def open(self, number: int) -> Samples:
    """Reads a column; jumps of its clock are gaps in it.

    Raises:
      InputError: A row has something else than a number, or too many columns.
    """
    clock = self.clocks[number]
    gaps = text_clock.Gaps(clock, str(self.path)) if clock else None
    parts = []
    for values, times in self._parts(number):
      parts.append(to_float32(values))
      if gaps is not None:
        gaps.add(times)
    column = np.concatenate(parts)
    column = column[: len(column) - self._empty_lines_at_end()]
    notes = self.notes[number]
    if gaps is not None and gaps.restarts:
      notes += (f'rows are numbered anew {gaps.restarts} times',)
    if gaps is None or clock is None or not gaps.places:
      return ArraySamples(column, notes)
    lost = sum(gaps.lengths)
    name = self.channels[clock.column].name or clock.column
    jumps = f'{len(gaps.places)} jump{"s" * (len(gaps.places) > 1)}'
    notes += (f'{jumps} of column {name}: {lost} samples are missing',)
    return GappedSamples(column, gaps.places, gaps.lengths, notes)

  def _parts(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of a column and of its clock, in pieces of the file."""
    clock = self.clocks[number]
    layout = self.layout
    types: dict[int, Any] = {number: np.float64}
    of_text = clock is not None and layout.kinds[clock.column] != 'number'
    if clock is not None and of_text:
      types[clock.column] = str
    try:
      with text_lines.Rewritten(self.path, self.codec) as file:
        for _ in range(layout.start):
          file.readline()
        for part in self._frames(file, types):
          self._check(part, number)
          times = np.empty(0)
          if clock is not None and of_text:
            times = text_clock.clock_seconds(part[clock.column].to_numpy())
          elif clock is not None:
            times = _numbers(part[clock.column])
          yield part[number].to_numpy(), times
    except ValueError as error:
      self._explain(number, error)
      raise

  def _frames(self, file: Any, types: dict[int, Any]) -> Iterator[Any]:
    import pandas

    layout, width = self.layout, len(self.channels)
    signs = {' ': r'\s+', '': '\x1f'}
    yield from pandas.read_csv(
      file,
      sep=signs.get(layout.delimiter, layout.delimiter),
      header=None,
      names=range(width + 1),  # The last is for what is too much.
      index_col=False,
      dtype=types,
      decimal=layout.decimal,
      thousands=layout.thousands,
      na_values=[x for y in text_lines.MISSING if y.strip('-+') not in (
        'inf', 'infinity') for x in (y, y.upper(), y.capitalize())],
      skipinitialspace=True,
      skip_blank_lines=layout.blank_lines_end_rows,
      chunksize=_CHUNK,
    )  # fmt: skip

  def _check(self, part: Any, number: int) -> None:
    """Raises ValueError if a row has not the form of the table."""
    layout, width = self.layout, len(self.channels)
    more = part[width].dropna()
    if len(more) and not more.astype(str).str.startswith('#').all():
      raise ValueError('a row is too long')
    if layout.delimiter == ' ' and width > 1 and self._shorter(part):
      raise ValueError('a row is too short')
    # Rows without a sample may begin with a word that no others begin with.
    if number and layout.kinds[0] != 'word':
      first = part[0][part[number].isna()].dropna().astype(str)
      if any(map(self._is_word, first)):
        raise ValueError('a row is none of the table')

  def _is_word(self, field: str) -> bool:
    return text_lines.kind(field.strip(' \f\v"\'')) in ('word', 'date')

  def _shorter(self, part: Any) -> bool:
    """Whether a row has fewer columns, so that it is unknown which."""
    last = len(self.channels) - 1
    rows = [row[last] for block in self.layout.blocks for row in block]
    if not all(rows):
      return False
    return bool((part[last].isna() & part[0].notna()).any())

  def _explain(self, column: int, error: ValueError) -> None:
    """Raises InputError for the line that cannot be read, if it is found."""
    width, sign = len(self.channels), self.layout.delimiter
    worded = self.layout.kinds[0] == 'word'
    with text_lines.Rewritten(self.path, self.codec) as file:
      for number, line in enumerate(text_lines.lines(file, self.path), 1):
        fields = text_lines.split(line, sign)
        if number <= self.layout.start or not line.strip():
          continue
        shown = f'{line.strip()[:40]!r}'
        more = fields[width:]
        if (more and not more[0].startswith('#')) or (
          sign == ' ' and len(fields) < width
        ):
          raise InputError(
            f'Line {number} of {self.path} has {len(fields)} columns, not'
            f' {width} ({shown}): correct or remove it.'
          ) from error
        if line.count('"') % 2:
          raise InputError(
            f'Line {number} of {self.path} has a quotation mark without another'
            f' ({shown}): correct or remove it.'
          ) from error
        field = fields[column] if len(fields) > column else ''
        missing = field.lower() in text_lines.MISSING
        word = missing and not worded and self._is_word(fields[0])
        if word or (not missing and np.isnan(self.layout.value(field))):
          raise InputError(
            f'Line {number} of {self.path} has {shown} where a number belongs:'
            ' correct or remove it.'
          ) from error

  def _empty_lines_at_end(self) -> int:
    if self.layout.blank_lines_end_rows:
      return 0
    with self.path.open('rb') as file:
      file.seek(max(0, self.path.stat().st_size - 2**16) // 4 * 4)
      tail = file.read().decode(self.codec, 'replace')
    ends = re.split(r'\r\n|\r|\n', tail[len(tail.rstrip()) :])
    # The first ends the last non-empty line; behind the last there is none.
    return max(0, len(ends) - 1 - (not ends[-1]))


def _numbers(column: Any) -> np.ndarray:
  """A column as pandas reads it, as float64; NaN for what is no number."""
  import pandas

  if column.dtype.kind not in 'iuf':
    column = pandas.to_numeric(column, errors='coerce')
  return column.to_numpy(np.float64)


class GappedSamples(Samples):
  """Samples with gaps among them."""

  def __init__(
    self,
    values: np.ndarray,
    places: Sequence[int],
    lengths: Sequence[int],
    notes: tuple[str, ...],
  ):
    """Takes the samples, where the gaps are among them and how long."""
    ends = np.array([0, *places, len(values)])
    self.values, self.notes = values, notes
    self._first = ends[:-1]
    self._counts = np.diff(ends)
    self._starts = self._first + np.append(0, np.cumsum(lengths))
    self.num_samples = int(self._starts[-1] + self._counts[-1])

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads float64 [stop - start], NaN in a gap."""
    samples = np.full(stop - start, np.nan)
    low = max(0, int(np.searchsorted(self._starts, start, 'right')) - 1)
    high = int(np.searchsorted(self._starts, stop, 'left'))
    for part in range(low, high):
      begin, first = int(self._starts[part]), int(self._first[part])
      a, b = max(start, begin), min(stop, begin + int(self._counts[part]))
      if a < b:
        offset = first - begin
        samples[a - start : b - start] = self.values[a + offset : b + offset]
    return samples


@dataclasses.dataclass(frozen=True)
class TextRows(Channels):
  """A table of numbers whose rows are channels."""

  rows: np.ndarray
  """float32 [channels, samples]."""

  def open(self, number: int) -> ArraySamples:
    """Opens a row."""
    return ArraySamples(self.rows[number])


def read_text(path: pathlib.Path) -> Channels:
  """Opens a table of numbers, with or without header lines.

  Raises:
    InputError: There is no table, or its form cannot be known.
  """
  codec = text_lines.encoding_of(path)
  layout = text_layout.find_layout(path, codec)
  facts = {
    'format': 'text',
    'encoding': codec,
    'delimiter': text_lines.DELIMITERS[layout.delimiter],
    'decimal mark': _NAMES[layout.decimal],
    'numbers begin': f'line {layout.start + 1}',
  }
  if layout.thousands:
    facts['groups of thousands'] = repr(layout.thousands)
  if layout.blank_lines_end_rows:
    facts['empty lines'] = 'one after each row'
  width = len(layout.kinds)
  if layout.num_rows and width >= max(_LEAST_WIDTH, 5 * layout.num_rows):
    return _read_rows(path, codec, layout, facts)
  above = [
    line
    for line in layout.above
    if line.strip() or not layout.blank_lines_end_rows
  ]
  header = text_headers.read_header(above, layout.delimiter, width)
  return _columns(path, codec, layout, header, facts)


def _columns(
  path: pathlib.Path,
  codec: str,
  layout: text_layout.Layout,
  header: text_headers.Header,
  facts: dict[str, str],
) -> TextFile:
  width = len(layout.kinds)
  blocks = [_blocks(layout, k) for k in range(width)]
  clocks = _find_clocks(layout, header, blocks)
  channels, notes, chosen = [], [], []
  for k in range(width):
    clock = _clock_of(header.names[k], clocks, header.names)
    rate, place, note = _rate(header.rates, clock, header.names)
    unit = _unit(header.units[k], blocks[k])
    channels.append(
      Channel(
        header.names[k],
        unit.value if unit else None,
        rate,
        _role(layout.kinds[k], header.names[k], blocks[k]),
        unit.place if unit else '',
        place,
      )
    )
    notes.append((layout.note, *note) if layout.note else note)
    chosen.append(clock)
  return TextFile(
    tuple(channels), facts, path, codec, layout, tuple(chosen), tuple(notes)
  )


def _blocks(layout: text_layout.Layout, column: int) -> list[np.ndarray]:
  """Numbers or times of a column in each block."""
  if layout.kinds[column] == 'clock':
    return [
      text_clock.clock_seconds([row[column] for row in block])
      for block in layout.blocks
    ]
  return layout.values(column)


def _role(kind: str, name: str, blocks: Sequence[np.ndarray]) -> str:
  """What a column is taken for, '' if it may be an ECG."""
  kinds = {'clock': 'time', 'word': 'text', 'missing': 'empty'}
  named = column_names.role(name)
  found = kinds.get(kind) or content.role(blocks)
  return found or (named and f'{named}, by its name')


def _unit(
  stated: text_rates.Stated | None, blocks: Sequence[np.ndarray]
) -> text_rates.Stated | None:
  """The unit of a column; None if its samples show that it is another's."""
  if stated is None or stated.limit is None:
    return stated
  most = np.nanmax(np.abs([*np.concatenate(blocks), 0.0]))
  fits = 0.002 * stated.limit < most <= 1.1 * stated.limit
  return stated if fits else None


def _find_clocks(
  layout: text_layout.Layout,
  header: text_headers.Header,
  blocks: Sequence[Sequence[np.ndarray]],
) -> list[text_clock.Clock]:
  """Clocks among the columns: those that tell a rate, else row numbers."""
  found = []
  for k, kind in enumerate(layout.kinds):
    named = column_names.role(header.names[k])
    judged = 'time' if kind == 'clock' else content.role(blocks[k])
    if kind not in ('number', 'clock') or judged not in ('time', 'row number'):
      continue
    unit = header.units[k]
    seconds = text_rates.seconds_of(unit.value) if unit else None
    if kind == 'clock':
      seconds = 1.0
    fractions = bool(np.mod(np.concatenate(blocks[k]), 1).any())
    clock = text_clock.find_clock(
      k,
      blocks[k],
      seconds,
      may_assume=(judged == 'time' and named == 'time')
      or (fractions and named in ('', 'time')),
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
  stated: Sequence[text_rates.Stated],
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
    if clock.unit:
      column += f', taken to be in {clock.unit}'
    return clock.rate, column, tuple(notes)
  if len(stated) > 1:
    several = ', '.join(f'{x.value:g} Hz in {x.place}' for x in stated[:4])
    return None, several, ()
  return (stated[0].value, stated[0].place, ()) if stated else (None, '', ())


def _read_rows(
  path: pathlib.Path,
  codec: str,
  layout: text_layout.Layout,
  facts: dict[str, str],
) -> TextRows:
  """Reads a table whose rows are leads, perhaps with their names in front."""
  named = layout.kinds[0] == 'word'
  names, rows = [], []
  with text_lines.Rewritten(path, codec) as file:
    for number, line in enumerate(text_lines.lines(file, path)):
      if number < layout.start or not line.strip():
        continue
      fields = text_lines.split(line, layout.delimiter)
      wrong = [x for x in fields[named:] if text_lines.kind(x) == 'word']
      if wrong or (named and not re.fullmatch(r'[\w .()+-]{,40}', fields[0])):
        raise InputError(
          f'Line {number + 1} of {path} has {(wrong or fields)[0][:40]!r} where'
          ' a number belongs: correct or remove it.'
        )
      names.append(fields[0] if named else '')
      rows.append([layout.value(field) for field in fields[named:]])
  lengths = collections.Counter(map(len, rows))
  if len(lengths) > 1:
    raise InputError(
      f'{path} has {len(rows)} rows of different lengths: export it with one'
      ' row for each sample.'
    )
  values = to_float32(np.array(rows))
  channels = [
    Channel(name, role=_role('number', name, [row]))
    for name, row in zip(names, values, strict=True)
  ]
  facts = {**facts, 'rows': f'{len(rows)}, each a lead'}
  return TextRows(tuple(channels), facts, values)

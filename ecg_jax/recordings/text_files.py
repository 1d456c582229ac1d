"""Reads tables of numbers: CSV and other text."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import (
  text_clock,
  text_columns,
  text_headers,
  text_layout,
  text_lines,
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

_SAMPLE = re.compile(r'samples?[ _]?\d+', re.IGNORECASE)

_NAMES = {'.': 'point', ',': 'comma'}


@dataclasses.dataclass(frozen=True)
class TextFile(Channels):
  """A table of numbers whose columns are channels."""

  path: pathlib.Path
  codec: str
  layout: text_layout.Layout
  columns: tuple[text_columns.Column, ...]

  def open(self, number: int) -> Samples:
    """Reads a column; jumps of its clock are gaps in it.

    Raises:
      InputError: A row has something else than a number, or too many columns.
    """
    clock = self.columns[number].clock
    gaps = text_clock.Gaps(clock, str(self.path)) if clock else None
    parts = []
    for values, times in self._parts(number):
      parts.append(to_float32(values))
      if gaps is not None:
        gaps.add(times)
    column = np.concatenate(parts)
    column = column[: len(column) - self._empty_lines_at_end()]
    notes = self.columns[number].notes
    if gaps is None or clock is None or not gaps.places:
      return ArraySamples(column, notes)
    lost = sum(gaps.lengths)
    name = self.channels[clock.column].name or clock.column
    jumps = f'{len(gaps.places)} jump{"s" * (len(gaps.places) > 1)}'
    notes += (f'{jumps} of column {name}: {lost} samples are missing',)
    return GappedSamples(column, gaps.places, gaps.lengths, notes)

  def _parts(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of a column and of its clock, in pieces of the file."""
    clock = self.columns[number].clock
    layout = self.layout
    types: dict[int, Any] = {
      k: str for k, unit in enumerate(layout.units)
      if unit or layout.kinds[k] == 'clock'
    }  # fmt: skip
    types.setdefault(number, np.float64)
    keys: dict[int, Any] = {
      k: None for k, x in enumerate(self.columns) if x.is_key
    }
    types |= dict.fromkeys(keys, str)
    try:
      with text_lines.Rewritten(self.path, self.codec) as file:
        for _ in range(layout.start):
          file.readline()
        for part in self._frames(file, types):
          self._check(part, number)
          for k in keys:
            keys[k] = self._check_key(part[k], keys[k])
          times = np.empty(0)
          if clock is not None:
            times = self._numbers(part, clock.column, errors='coerce')
          yield self._numbers(part, number), times
    except (ValueError, OverflowError) as error:
      self._explain(number, error)

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

  def _check_key(self, fields: Any, key: str | None) -> str | None:
    """The only key of rows, None if none has one.

    Raises:
      InputError: There are several.
    """
    fields = fields.dropna()
    key = fields.iloc[0] if key is None and len(fields) else key
    if (others := fields[fields != key]).empty:
      return key
    name = self.channels[fields.name].name
    raise InputError(
      f'{self.path} has rows of several recordings, as column {name} says from'
      f' row {others.index[0] + 1} on: export each as a file of its own.'
    )

  def _numbers(
    self, part: Any, number: int, errors: Any = 'raise'
  ) -> np.ndarray:
    """A column as pandas reads it, as float64; NaN for what is missing."""
    import pandas

    column, layout = part[number], self.layout
    if layout.kinds[number] == 'clock':
      return text_clock.clock_seconds(column.to_numpy(object))
    if unit := layout.units[number]:
      column = column.str.strip(' "').str.removesuffix(unit)
      column = column.str.strip().str.replace(layout.decimal, '.')
    if column.dtype.kind not in 'iuf':
      column = pandas.to_numeric(column, errors=errors)
    return column.to_numpy(np.float64)

  def _check(self, part: Any, number: int) -> None:
    """Raises ValueError if a row has not the form of the table."""
    layout, width = self.layout, len(self.channels)
    more = part[width].dropna()
    if not all(map(text_lines.is_comment, more.astype(str))):
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

  def _explain(self, column: int, error: Exception) -> NoReturn:
    """Raises InputError for the line that cannot be read."""
    width, sign = len(self.channels), self.layout.delimiter
    worded = self.layout.kinds[0] == 'word'
    header = {x for x in self.layout.above if re.search('[^\\W\\d]', x)}
    with text_lines.Rewritten(self.path, self.codec) as file:
      for number, line in enumerate(text_lines.lines(file, self.path), 1):
        fields = text_lines.split(line, sign)
        if number <= self.layout.start or not line.strip():
          continue
        shown = f'{line.strip()[:40]!r}'
        if line in header:
          raise InputError(
            f'Line {number} of {self.path} is one of its header, as where'
            ' another recording begins: export each as a file of its own.'
          ) from error
        more = fields[width:]
        if (more and not text_lines.is_comment(more[0])) or (
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
        if word or (not missing and np.isnan(self.layout.value(field, column))):
          raise InputError(
            f'Line {number} of {self.path} has {shown} where a number belongs:'
            ' correct or remove it.'
          ) from error
    reason = ' '.join(str(error).split())[:100]
    raise InputError(
      f'{self.path} has a row that is not written as the others of its table'
      f' ({reason}): correct or remove it.'
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
  in_row = [x for x in header.names if _SAMPLE.fullmatch(x)]
  if len(in_row) > 1:
    raise InputError(
      f'{path} has {len(in_row)} samples in each row, {in_row[0]} to'
      f' {in_row[-1]}: export it with one row for each sample.'
    )
  columns = text_columns.describe(layout, header)
  channels = tuple(column.channel for column in columns)
  return TextFile(channels, facts, path, codec, layout, columns)


def _read_rows(
  path: pathlib.Path,
  codec: str,
  layout: text_layout.Layout,
  facts: dict[str, str],
) -> TextRows:
  """Reads a table whose rows are leads, perhaps with their names in front."""
  named, last = layout.kinds[0] == 'word', len(layout.kinds) - 1
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
      columns = (min(k, last) for k in range(len(fields)))
      rows.append([*map(layout.value, fields, columns)][named:])
  lengths = collections.Counter(map(len, rows))
  if len(lengths) > 1:
    raise InputError(
      f'{path} has {len(rows)} rows of different lengths: export it with one'
      ' row for each sample.'
    )
  values = to_float32(np.array(rows))
  channels = [
    Channel(name, role=text_columns.role('number', name, [row]))
    for name, row in zip(names, values, strict=True)
  ]
  facts = {**facts, 'rows': f'{len(rows)}, each a lead'}
  return TextRows(tuple(channels), facts, values)

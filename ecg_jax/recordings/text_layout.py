"""Where the numbers of a text file begin, and how its rows are written.

No decision is made from one line: the rows that follow each other in the same
form are the table, and what the decision needs is taken from its beginning and
from pieces of its whole length.
"""

import collections
import dataclasses
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import content, text_lines, text_marks, text_run

_PIECES, _PIECE_ROWS, _PIECE_BYTES = 12, 300, 2**15
"""Parts of the rest of the table that decisions are made from, too."""

_SUSPECTS = 3
"""First rows of a table that may belong to the header."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a table of numbers is written."""

  start: int
  """Lines before the first row."""
  delimiter: str
  """A key of `text_lines.DELIMITERS`."""
  decimal: str
  thousands: str | None
  """What separates groups of thousands, None if nothing does."""
  kinds: tuple[str, ...]
  """'number', 'clock', 'word' or 'missing' of each column."""
  units: tuple[str, ...]
  """Unit that the fields of each column have behind their numbers, or ''."""
  blank_lines_end_rows: bool
  """Whether every row is followed by an empty line, which then is no row."""
  num_rows: int | None
  """Rows of a table that was read to its end, None of a longer one."""
  above: tuple[str, ...]
  """The lines before the first row."""
  blocks: tuple[tuple[tuple[str, ...], ...], ...]
  """Fields of consecutive rows from several places; the first is the start.
  Numbers have no units."""
  note: str = ''
  """What was assumed, '' if nothing."""

  def values(self, column: int) -> list[np.ndarray]:
    """Numbers of a column in each block, float64, NaN where there is none."""
    return [
      np.array([self.value(row[column], column) for row in block])
      for block in self.blocks
    ]

  def value(self, field: str, column: int) -> float:
    """Number of a field of a column, NaN where there is none."""
    field = text_lines.without_unit(field, self.units[column])
    if self.thousands:
      field = field.replace(self.thousands, '')
    other = '.,'[self.decimal == '.']
    if other in field or not text_lines.NUMBER.fullmatch(field):
      return np.nan
    return float(field.replace(self.decimal, '.'))


def find_layout(path: pathlib.Path, codec: str) -> Layout:
  """Finds the table of a text file.

  Args:
    path: The file.
    codec: Its encoding.

  Raises:
    InputError: There is none, or its form cannot be known.
  """
  with text_lines.Rewritten(path, codec) as file:
    lines, run, whole = text_run.head_of(
      text_lines.lines(file, path), text_run.tail_of(path, codec)
    )
  if run is None:
    raise InputError(
      f'{path} has no row of numbers: export it as columns of numbers, with'
      ' header lines above them at most.'
    )
  body = lines[run.start :]
  rows = [line for line in body if line.strip()]
  pieces = [] if whole else _pieces(path, codec, lines)
  first = rows[_SUSPECTS:] if len(rows) > 20 else rows
  sign = text_marks.delimiter(
    path,
    [*first, *itertools.chain(*pieces)],
    ''.join(lines[max(0, run.start - 1) : run.start]),
    next(iter(run.forms)),
  )
  counts = collections.Counter(
    len(text_lines.split(row, sign)) for row in first[: text_run.RUN]
  )
  width = counts.most_common(1)[0][0]
  start = _upwards(path, lines, run.start, sign, width)
  body = lines[start:]
  rows = [line for line in body if line.strip()]

  def fields_of(line: str) -> list[str]:
    return _fitted(text_lines.split(line, sign), sign, width)

  fields = [
    [row for line in piece if len(row := fields_of(line)) == width]
    for piece in [rows, *pieces]
  ]
  some = text_marks.some_of([*itertools.chain(*fields)])
  kinds = [text_marks.majority(row[k] for row in some) for k in range(width)]
  units = _without_units(fields, some, kinds)
  above = text_lines.split(lines[start - 1], sign) if start else []
  is_names = all(text_lines.kind(x) == 'word' for x in above)
  names = None if all('"' in row for row in first) else above * is_names
  decimal, thousands = text_marks.marks(path, sign, kinds, some, names)
  layout = Layout(
    start,
    sign,
    decimal,
    thousands,
    tuple(kinds),
    tuple(units),
    _doubled(body),
    len(rows) if whole else None,
    tuple(lines[:start]),
    tuple(tuple(map(tuple, block)) for block in fields),
  )
  return _without_header_rows(layout, lines)


def _fitted(fields: list[str], sign: str, width: int) -> list[str]:
  """Fields of a row; the last may lack, or a comment be behind it."""
  if len(fields) == width + 1 and text_lines.is_comment(fields[-1]):
    return fields[:-1]
  missing = width - len(fields) if sign != ' ' else 0
  return fields + [''] * missing


def _without_units(
  blocks: Sequence[list[list[str]]], some: Sequence[Any], kinds: list[str]
) -> list[str]:
  """Leaves the numbers of quantities in rows; returns each column's unit."""
  units = [''] * len(kinds)
  for k, kind in enumerate(kinds):
    if kind != 'quantity':
      continue
    pairs = [*filter(None, (text_lines.quantity(row[k]) for row in some))]
    units[k] = collections.Counter(unit for _, unit in pairs).most_common(1)[0][
      0
    ]
    kinds[k] = 'number'
    for row in itertools.chain(*blocks):
      row[k] = text_lines.without_unit(row[k], units[k])
  return units


def _pieces(
  path: pathlib.Path, codec: str, lines: Sequence[str]
) -> list[list[str]]:
  """Rows from the rest of a file, whole lines only, none of them twice."""
  size = path.stat().st_size
  begin = min(size, len('\n'.join(lines).encode(codec, 'replace')))
  length = min(_PIECE_BYTES, (size - begin) // _PIECES // 4 * 4)
  pieces = []
  with path.open('rb') as file:
    for place in np.linspace(begin, size, _PIECES, endpoint=False):
      file.seek(int(place) // 4 * 4)
      text = file.read(length).decode(codec, 'replace')
      pieces.append(text_run.rows_of(text)[1:-1][:_PIECE_ROWS])
  return pieces


def _upwards(
  path: pathlib.Path, lines: Sequence[str], start: int, sign: str, width: int
) -> int:
  """The first line of the table, found from one of its lines upwards.

  Raises:
    InputError: Above a line that is no row there are rows.
  """

  def is_row(line: str, words: bool) -> bool:
    fields = text_lines.split(line, sign)
    if len(fields) not in (width, width + 1):
      return False
    kinds = [*map(text_lines.kind, _fitted(fields, sign, width))]
    return len(kinds) == width and bool(text_run.places_of(kinds, words))

  def numbers(line: str) -> set[int]:
    fields = _fitted(text_lines.split(line, sign), sign, width)
    kinds = map(text_lines.kind, fields)
    return {k for k, kind in enumerate(kinds) if kind in text_run.NUMBERS}

  rows = (line for line in lines[start:] if is_row(line, words=True))
  expected = numbers(next(rows, lines[start]))
  while start and width > 1 and is_row(lines[start - 1], words=True):
    if not expected <= numbers(lines[start - 1]):
      break
    start -= 1
  if start and sign != ' ' and _precedes(lines[start - 1 :], sign, width):
    start -= 1
  header = [bool(x.strip()) and is_row(x, words=False) for x in lines[:start]]
  for number in range(1, start):
    if header[number - 1] and header[number]:
      first = next(
        (k for k in range(number, start) if lines[k].strip() and not header[k]),
        start - 1,
      )
      raise InputError(
        f'Line {first + 1} of {path} has {lines[first].strip()[:40]!r} where a'
        ' number belongs: correct or remove it.'
      )
  stretch = 0
  for number, line in enumerate(lines[:start]):
    fields = text_lines.split(line, sign)
    if line.strip():
      kinds = map(text_lines.kind, fields)
      numeric = all(kind in ('number', 'missing') for kind in kinds)
      stretch = stretch + 1 if numeric else 0
    if stretch == text_run.RUN:
      raise InputError(
        f'Line {number + 1} of {path} has {len(fields)} columns, not {width}'
        f' ({line.strip()[:40]!r}): correct or remove it.'
      )
  return start


def _precedes(lines: Sequence[str], sign: str, width: int) -> bool:
  """Whether the first line is a row without its last fields, by its time."""
  rows = [text_lines.split(line, sign) for line in lines[:3]]
  numbers = [row[0] for row in rows if text_lines.NUMBER.fullmatch(row[0])]
  if not 1 < len(rows[0]) < width or len(numbers) < 3:
    return False
  first, second, third = (float(x.replace(',', '.')) for x in numbers)
  step = third - second
  return step > 0 and abs(second - first - step) < 0.6 * step


def _doubled(body: Sequence[str]) -> bool:
  """Whether each row is followed by one empty line."""
  blank = [not line.strip() for line in body]
  while blank and blank[-1]:
    blank.pop()
  return len(blank) > 40 and not any(blank[::2]) and all(blank[1::2])


def _without_header_rows(layout: Layout, lines: Sequence[str]) -> Layout:
  """The layout without first rows that have numbers but are no samples.

  These are numbers of columns, counts of samples, or a rate.
  """
  rows = layout.blocks[0]
  if len(rows) < 20:
    return layout
  columns = {
    k: layout.values(k)[0]
    for k, kind in enumerate(layout.kinds)
    if kind == 'number'
  }
  body = {k: values[_SUSPECTS:] for k, values in columns.items()}
  clocks = [
    k for k, x in body.items() if content.role([x]) in ('time', 'row number')
  ]
  places = [
    k for k in range(layout.start, len(lines)) if lines[k].strip()
  ]  # fmt: skip
  blank = np.diff(places) > 1
  for number in reversed(range(_SUSPECTS)):
    row = rows[number]
    separate = bool(blank[number]) and not blank[_SUSPECTS:].any()
    if separate or _is_header(row, number, layout, columns, body, clocks):
      return dataclasses.replace(
        layout,
        start=places[number + 1],
        num_rows=layout.num_rows and layout.num_rows - number - 1,
        above=tuple(lines[: places[number + 1]]),
        blocks=(rows[number + 1 :], *layout.blocks[1:]),
        note=f'line {places[number] + 1} taken for a header line',
      )
  return layout


def _is_odd(field: str, others: Sequence[str], layout: Layout) -> bool:
  """Whether a number has no decimals where others of its column all have.

  A signal may begin with a 0, which some programs write as such. They write no
  other zeros behind the decimal mark either, and no more than 15 digits.
  """
  mark = layout.decimal
  if mark in field or not all(mark in x for x in others if x):
    return False
  digits = [re.sub(r'e.*|^\D*0*', '', x.lower()) for x in others]
  return bool(field.strip('+-0')) or any(
    x.endswith('0') or len(x.replace(mark, '').lstrip('0')) > 15 for x in digits
  )


def _is_header(
  row: Sequence[str],
  number: int,
  layout: Layout,
  columns: dict[int, np.ndarray],
  body: dict[int, np.ndarray],
  clocks: Sequence[int],
) -> bool:
  """Whether a first row has numbers but is no sample."""
  goes_on = False
  for k in clocks:
    steps = np.diff(body[k])
    if not np.isfinite(columns[k][number]):
      return bool(np.isfinite(body[k]).all())
    usual = np.median(steps[np.isfinite(steps)])
    step = columns[k][number + 1] - columns[k][number]
    goes_on = goes_on or abs(step - usual) <= 0.6 * usual
  numbers = [x for x in row if x]
  in_order = number == 0 < len(numbers) - 1 and any(
    numbers == [str(k + first) for k in range(len(numbers))] for first in (0, 1)
  )
  signals = [k for k in columns if k not in clocks and row[k]]
  far = {
    k
    for k in signals
    if columns[k][number] > 2 * np.nanmax(body[k]) - np.nanmin(body[k])
    or columns[k][number] < 2 * np.nanmin(body[k]) - np.nanmax(body[k])
  }
  if goes_on or in_order:
    # Hardly ever a sample of two signals or more.
    is_new = bool(clocks) or row != layout.blocks[0][number + 1]
    may_be = not goes_on or bool(far) or len(signals) > 1
    return in_order and is_new and may_be
  odd = {
    k
    for k in signals
    if _is_odd(row[k], [x[k] for x in layout.blocks[0][_SUSPECTS:]], layout)
  }
  return far | odd == {*signals} > set()

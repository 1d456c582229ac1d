"""Reads labels.csv: which recordings, or segments of them, have which class."""

import collections
import csv
import dataclasses
import difflib
import io
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ecg_jax.datasets import schema
from ecg_jax.errors import InputError

NAME = 'labels.csv'
"""Name of the table in a folder of recordings."""

READING = ('lead', 'sampling_rate', 'units', 'gain', 'variable')
"""Columns that say how a file is read, like the options of predict."""

_NUMBERS = ('start_seconds', 'end_seconds', 'sampling_rate', 'gain')

_REQUIRED = ('record', 'label')

_COLUMNS = (*_REQUIRED, 'patient', 'start_seconds', 'end_seconds', *READING)


_LONGEST_CELL = 500
"""Characters, more than a path of files has."""


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of the table: a recording or a segment of it, and its class."""

  number: int
  """Of the line in the file, from 1."""
  recording: str
  """Path of a file in the folder, with or without its ending."""
  label: str
  patient: str
  """Who was recorded; the recording itself where no one is named."""
  start: float
  """Seconds."""
  end: float
  """Seconds; infinite for the end of the recording."""
  reading: Mapping[str, Any]
  """Arguments of `ecg_jax.recordings.lead.open_recording`."""

  @property
  def name(self) -> str:
    """Name of the record: 'a', or of a segment 'a@30-60'."""
    if (self.start, self.end) == (0, math.inf):
      return self.recording
    end = '' if self.end == math.inf else f'{self.end:.10g}'
    return f'{self.recording}@{self.start:.10g}-{end}'


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of labels."""

  lines: tuple[Line, ...]
  """By recording and start."""
  by_patient: bool
  """Whether folds keep some records together: those of a patient, or the
  segments of a recording."""

  def labels(self) -> dict[str, str]:
    """Name of each record -> class."""
    return {line.name: line.label for line in self.lines}

  def patients(self) -> dict[str, str]:
    """Name of each record -> patient."""
    return {line.name: line.patient for line in self.lines}


def read(path: pathlib.Path) -> Table:
  """Reads a table of labels.

  Its cells are separated by commas, semicolons or tabs; numbers may have a
  decimal comma.

  Args:
    path: The file, UTF-8 or UTF-16.

  Raises:
    InputError: The file cannot be read, or a line of it is not understood,
      stands twice or overlaps another.
  """
  rows = _read_rows(path)
  if not rows:
    _refuse(path, 1, 'is missing', f'write the columns {",".join(_REQUIRED)}')
  (first, header), *rows = rows
  columns = _check_header(path, first, header)
  lines = [_parse(path, number, columns, row) for number, row in rows]
  if not lines:
    raise InputError(f'{path} labels no recording: add a line for each.')
  lines.sort(key=lambda line: (line.recording, line.start, line.end))
  _check_overlaps(path, lines)
  recordings = collections.Counter(line.recording for line in lines)
  patients = collections.Counter(line.patient for line in lines)
  return Table(
    tuple(lines),
    by_patient=max(recordings.values()) > 1 or max(patients.values()) > 1,
  )


def classes(
  table: Table, given: Sequence[str], path: pathlib.Path
) -> tuple[str, ...]:
  """The classes of a table, in the order of `data.classes`, else sorted.

  Args:
    table: The table.
    given: `data.classes`, or nothing.
    path: The file, for messages.

  Raises:
    InputError: A label is not one of those given, one of those is no label, or
      the table has less than two.
  """
  found = {line.label: line.number for line in reversed(table.lines)}
  for label, number in found.items():
    if given and label not in given:
      near = difflib.get_close_matches(label, given, 1) or given
      _refuse(
        path,
        number,
        f'has the label {label!r}',
        f'use {" or ".join(map(repr, near))} of data.classes, or add it there',
      )
    if label == schema.UNDECIDED:
      _refuse(path, number, f'has the label {label!r}', 'rename the class')
  if len(found) < 2:
    raise InputError(
      f'All records of {path} have the label {min(found)!r}: label at least two'
      ' classes.'
    )
  if unused := [name for name in given if name not in found]:
    raise InputError(
      f'data.classes has {unused[0]!r}, which no line of {path} has: label some'
      ' records so, or leave it out.'
    )
  return tuple(given) or tuple(sorted(found))


def _refuse(
  path: pathlib.Path, number: int, problem: str, advice: str
) -> NoReturn:
  raise InputError(f'Line {number} of {path} {problem}: {advice}.')


def _read_rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
  """Number and cells of each line that is not blank."""
  try:
    content = path.read_bytes()
    wide = content[:2] in (b'\xff\xfe', b'\xfe\xff')
    text = content.decode('utf-16' if wide else 'utf-8-sig')
  except FileNotFoundError as error:
    raise InputError(
      f'There is no {path}: write that table of labels, with the columns'
      f' {",".join(_REQUIRED)} and a line for each recording.'
    ) from error
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'not UTF-8 text'
    raise InputError(
      f'{path} cannot be read ({reason}): save it as CSV in UTF-8.'
    ) from error
  header = text.lstrip().partition('\n')[0]
  delimiter = next((sign for sign in ';\t' if sign in header), ',')
  reader = csv.reader(
    io.StringIO(text, newline=''),
    delimiter=delimiter,
    skipinitialspace=True,
  )
  rows, number = [], 1
  try:
    for row in reader:
      cells = [cell.strip() for cell in row]
      if any('\n' in cell for cell in cells):
        _refuse(path, number, 'has a quote that is not closed', 'close it')
      if any(cells):
        rows.append((number, cells))
      number = reader.line_num + 1
  except csv.Error as error:
    _refuse(path, number, f'is not CSV ({error})', 'export it again')
  return rows


def _check_header(
  path: pathlib.Path, number: int, header: list[str]
) -> list[str]:
  """The names of the columns, of which the last may be blank."""
  columns = [name.lower() for name in header]
  if not {*_REQUIRED} & {*columns}:
    problem = f'is {",".join(header)[:80]!r}, no names of columns'
    _refuse(path, number, problem, f'write {",".join(_REQUIRED)} above it')
  for name in columns:
    if name and name not in _COLUMNS:
      near = difflib.get_close_matches(name, _COLUMNS, 1) or _COLUMNS
      advice = f'use {", ".join(near)}, or remove it'
      _refuse(path, number, f'has the unknown column {name[:40]!r}', advice)
    if name and columns.count(name) > 1:
      _refuse(path, number, f'has the column {name!r} twice', 'remove one')
  for name in _REQUIRED:
    if name not in columns:
      _refuse(path, number, f'has no column {name!r}', 'name the columns there')
  return columns


def _parse(
  path: pathlib.Path, number: int, columns: list[str], row: list[str]
) -> Line:
  """A line of the table."""
  if any(row[len(columns) :]):
    problem = f'has {len(row)} cells, not {len(columns)}'
    _refuse(path, number, problem, 'put quotes around a cell with a comma')
  cells: dict[str, Any] = {
    name: cell
    for name, cell in zip(columns, row, strict=False)
    if name and cell
  }
  for cell in cells.values():
    if len(cell) > _LONGEST_CELL or not cell.isprintable():
      problem = f'has the cell {cell[:40]!r}'
      _refuse(path, number, problem, 'write one that is short and printable')
  for name in _REQUIRED:
    if name not in cells:
      _refuse(path, number, f'has no {name}', 'write it, or remove the line')
  for name in _NUMBERS:
    if name in cells:
      try:
        value = float(cells[name].replace(',', '.'))
      except ValueError:
        value = math.nan
      least = 0 if name == 'start_seconds' else math.ulp(0)
      if not least <= value < math.inf:
        problem = f'has the {name} {cells[name]!r}'
        _refuse(path, number, problem, 'write a number that is not negative')
      cells[name] = value
  recording = cells['record'].replace('\\', '/').removeprefix('./')
  start, end = cells.get('start_seconds', 0.0), cells.get('end_seconds')
  if end is not None and end <= start:
    problem = f'ends at {end:g} s, and starts at {start:g} s'
    _refuse(path, number, problem, 'write an end behind the start')
  return Line(
    number,
    recording,
    cells['label'],
    cells.get('patient', recording),
    start,
    math.inf if end is None else end,
    {name: cells[name] for name in READING if name in cells},
  )


def _check_overlaps(path: pathlib.Path, lines: Sequence[Line]) -> None:
  """Refuses what is labeled twice; the lines are in order."""
  for line, other in itertools.pairwise(lines):
    if line.recording == other.recording and other.start < line.end:
      first, second = sorted((line, other), key=lambda line: line.number)
      part = '' if first.name == second.name else ' a part of'
      _refuse(
        path,
        second.number,
        f'labels{part} {second.name} again, after line {first.number}',
        'change or remove one of the two lines',
      )
  seen: dict[str, int] = {}
  for line in lines:
    if seen.setdefault(line.name, line.number) != line.number:
      problem = (
        f'names {line.name}, as the segment of line {seen[line.name]} is'
      )
      _refuse(path, line.number, problem, 'rename the file')

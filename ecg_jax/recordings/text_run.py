"""The rows of a text file: lines that follow each other in the same form."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence

from ecg_jax.recordings import text_lines

RUN = 50
"""Rows of one form that make a table, if the file has as many."""

_RUN_WITH_WORDS = 200
"""The same of rows in which some columns are words, if no others follow."""

_TAIL_BYTES, _TAIL_ROWS = 2**18, 40
"""The end of a file, in which the rows have the table's form."""

_FIRST_ROWS = 3000
"""Rows at the table's beginning that decisions are made from."""

_LONGEST_HEADER = 2**24
"""Characters before the table, at most."""

NUMBERS = ('number', 'quantity')
"""Kinds of fields that are numbers, without a unit and with one."""


@dataclasses.dataclass
class Run:
  """Lines that follow each other in the same form."""

  start: int = 0
  rows: int = 0
  forms: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  """Delimiter -> columns in which all rows may have numbers, and the number of
  columns last."""

  def extended(self, line: str, words: bool) -> bool:
    """Adds a line if it has one of the forms; says whether it had."""
    if not self.rows and not re.search(r'\d|nan', line, re.IGNORECASE):
      return False
    forms = forms_of(line, words)
    if self.rows:
      forms = {
        sign: (*common, columns)
        for sign, (*places, columns) in self.forms.items()
        if sign in forms and forms[sign][-1] == columns
        and (common := sorted({*places} & {*forms[sign][:-1]}))
      }  # fmt: skip
    if forms:
      self.forms, self.rows = forms, self.rows + 1
    return bool(forms)

  def goes_on(self, tail: Sequence[str]) -> bool:
    """Whether most of the last rows have numbers only where the run has."""
    agreeing = 0
    for line in tail:
      agreeing += any(
        width == len(kinds := text_lines.kinds(line, sign))
        and {k for k, x in enumerate(kinds) if x in NUMBERS} <= {*places}
        and {*NUMBERS} & {*kinds}
        for sign, (*places, width) in self.forms.items()
      )
    return 2 * agreeing > len(tail)


def forms_of(line: str, words: bool) -> dict[str, tuple[int, ...]]:
  """Delimiter -> columns of a line with numbers or nothing, and their number.

  Args:
    line: The line.
    words: Whether other columns may have words.
  """
  found = {}
  for sign in text_lines.DELIMITERS:
    if sign not in line or (sign == ' ' and len(line.split()) < 2):
      continue
    kinds = text_lines.kinds(line, sign)
    if places := places_of(kinds, words):
      found[sign] = (*places, len(kinds))
  return found


def places_of(kinds: Sequence[str], words: bool) -> list[int]:
  """Columns of a row with numbers or nothing; none if it is no row."""
  if 'word' in kinds and (not words or len(kinds) == 1):
    return []
  return [k for k, x in enumerate(kinds) if x in (*NUMBERS, 'missing')]


def tail_of(path: pathlib.Path, codec: str) -> list[str]:
  """The last rows of a file; none if it has a single line."""
  with path.open('rb') as file:
    file.seek(max(0, path.stat().st_size - _TAIL_BYTES) // 4 * 4)
    rows = rows_of(file.read().decode(codec, 'replace'))
  return rows[1:][-_TAIL_ROWS:]


def rows_of(text: str) -> list[str]:
  """Lines of a text that are not empty."""
  lines = re.split(r'\r\n|\r|\n', text_lines.ascii_of(text))
  return [line for line in lines if line.strip()]


def head_of(
  lines: Iterator[str], tail: Sequence[str]
) -> tuple[list[str], Run | None, bool]:
  """Reads lines up to some way into the table.

  Returns:
    The lines; the run of rows among them, None if there is none; whether these
    are all lines of the file.
  """
  read: list[str] = []
  best, runs, characters = [Run(), Run()], [Run(), Run()], 0
  for number, line in enumerate(lines):
    read.append(line)
    characters += len(line)
    for words in (False, True):
      run = runs[words]
      if not line.strip() and run.rows:
        continue
      if not run.extended(line, words):
        run = runs[words] = Run(number)
        if not run.extended(line, words):
          run.start = number + 1
      if run.rows > best[words].rows:
        best[words] = run
    for words, least in ((False, RUN), (True, _RUN_WITH_WORDS)):
      run = runs[words]
      # Header lines may have one form, too, but not that of the last rows.
      if run.rows == least and run.goes_on(tail):
        more = list(itertools.islice(lines, _FIRST_ROWS))
        return read + more, run, len(more) < _FIRST_ROWS
    if characters > _LONGEST_HEADER:
      return read, None, False
  with_words = 2 * best[0].rows < best[1].rows
  run = best[with_words]
  return read, run if run.rows else None, True

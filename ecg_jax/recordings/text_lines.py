"""Lines of a text file, in whatever encoding, and their fields."""

import codecs
import csv
import io
import pathlib
import re
from collections.abc import Iterator

from ecg_jax.errors import InputError
from ecg_jax.recordings import units

_SNIFFED = 2**20
"""Bytes from whose pattern the encoding is determined."""

_LONGEST_LINE = 2**26
"""Characters of a line, at most."""

_BYTE_ORDER_MARKS = {
  codecs.BOM_UTF32_LE: 'utf-32-le',  # Starts as UTF-16 does.
  codecs.BOM_UTF32_BE: 'utf-32-be',
  codecs.BOM_UTF16_LE: 'utf-16-le',
  codecs.BOM_UTF16_BE: 'utf-16-be',
  codecs.BOM_UTF8: 'utf-8',
}

_REWRITTEN = str.maketrans(
  {
    '\u2212': '-',
    '\u2010': '-',
    '\u2011': '-',
    '\u2013': '-',
    '\u066b': '.',
    '\u066c': None,  # Groups of thousands.
    '\u202f': None,
    '\xa0': None,
    '\u2009': None,
    '\u200e': None,  # Marks of the direction of writing.
    '\u200f': None,
    '\u061c': None,
    '\ufeff': None,
    '\0': None,
    "'": None,  # Around fields, or between thousands.
    '’': None,
  }
  | {0x660 + digit: str(digit) for digit in range(10)}
  | {0x6F0 + digit: str(digit) for digit in range(10)}
)
"""How numbers of other regions are written, in ASCII."""

NUMBER = re.compile(r'[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?', re.ASCII)
"""A number with either decimal mark."""

_GROUPED = re.compile(r'[+-]?\d{1,3}(?:[., ]\d{3})+(?:[.,]\d+)?', re.ASCII)
"""A number whose thousands are grouped, or one with three decimal places."""

_QUANTITY = re.compile(rf'({NUMBER.pattern}|nan) ?([^\W\d_]+)', re.IGNORECASE)

MISSING = ('', 'nan', 'na', 'n/a', '#n/a', '<na>', 'null', 'nil', 'none', '-',
           '--', '---', '?', '*', '**', '***', '.', '..', 'inf', '-inf', '+inf',
           'infinity', '-infinity', '#num!', '-nan')  # fmt: skip
"""Fields of missing samples, in lower case."""

_MONTH = r'(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{,6}\.?'

CLOCK = re.compile(
  r'\[?(?:(?:\d{1,4}[-./]\d{1,2}[-./]\d{2,4}|'
  rf'\d{{1,2}}[- ./]{_MONTH}[- ./]\d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{4}},?)'
  r'[ T_]+)?'
  r'\d{1,5}:\d{1,2}(?::\d{1,2})?(?:[.,:]\d{1,9})?'
  r'(?: ?[ap]\.?m\.?)?(?:Z| ?UTC| ?[+-]\d{2}:?\d{2})?'
  r'(?: +\d{1,2}[-./]\d{1,2}[-./]\d{2,4})?\]?',
  re.ASCII | re.IGNORECASE,
)
"""A time of day, or a time since the start, with a date or without."""

_DATE = re.compile(r'\d{1,4}[-./]\d{1,2}[-./]\d{2,4}', re.ASCII)

DELIMITERS = {
  '\t': 'tab',
  ';': 'semicolon',
  '|': 'vertical bar',
  ',': 'comma',
  ' ': 'white space',
  '': 'none: one column',
}
"""Delimiter -> its name, in the order in which they are preferred."""


def encoding_of(path: pathlib.Path) -> str:
  """Determines the encoding: a codec that does not fail at the body's digits.

  Args:
    path: The file.

  Raises:
    InputError: It is no text.
  """
  with path.open('rb') as file:
    start = file.read(_SNIFFED)
  for mark, codec in _BYTE_ORDER_MARKS.items():
    if start.startswith(mark):
      return codec
  zeros = start.count(0)
  if zeros > 0.2 * len(start):
    # Every second byte, or three of four, of text in ASCII characters.
    for codec, step, digits in (
      ('utf-32-le', 4, 0), ('utf-32-be', 4, 3),
      ('utf-16-le', 2, 0), ('utf-16-be', 2, 1),
    ):  # fmt: skip
      share = zeros / len(start)
      if (share > 0.6) == (step == 4) and (
        start[digits::step].count(0) < 0.02 * len(start)
      ):
        return codec
  controls = len(re.findall(rb'[\x01-\x08\x0e-\x1a\x1c-\x1f]', start))
  if max(zeros, controls) > 0.01 * len(start) + 8:
    raise InputError(
      f'{path} is not text, whatever its name ends in: give it the ending of'
      ' its format, or export it as text.'
    )
  try:
    codecs.getincrementaldecoder('utf-8')().decode(start)
  except UnicodeDecodeError:
    return 'latin-1'
  return 'utf-8'


class Rewritten(io.TextIOBase):
  """A text file whose numbers are rewritten as ASCII."""

  def __init__(self, path: pathlib.Path, codec: str):
    """Opens the file; each kind of line end is read as a line feed."""
    self._file = path.open(encoding=codec, errors='replace', newline=None)

  def read(self, size: int | None = -1, /) -> str:
    """Reads characters."""
    return ascii_of(self._file.read(size))

  def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
    """Reads a line, with its end."""
    return ascii_of(self._file.readline(size))

  def __iter__(self) -> Iterator[str]:  # type: ignore[override]
    """Iterates over the lines."""
    return map(ascii_of, self._file)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
    super().close()


def ascii_of(text: str) -> str:
  """Text with its numbers rewritten as ASCII."""
  plain = text.isascii() and '\0' not in text and "'" not in text
  return text if plain else text.translate(_REWRITTEN)


def lines(file: Rewritten, path: pathlib.Path) -> Iterator[str]:
  """The lines of a file, without their ends.

  Raises:
    InputError: One is too long to be a line.
  """
  while line := file.readline(_LONGEST_LINE):
    if len(line) == _LONGEST_LINE:
      raise InputError(
        f'{path} has a line of more than {_LONGEST_LINE} characters: export it'
        ' with one row for each sample.'
      )
    yield line.rstrip('\n')


def split(line: str, delimiter: str) -> list[str]:
  """Fields of a line, without the blanks and quotes around them.

  Args:
    line: The line.
    delimiter: One of DELIMITERS.
  """
  if delimiter == ' ':
    fields = line.split()
  elif not delimiter:
    fields = [line]
  elif '"' in line:
    try:
      fields = next(csv.reader([line], delimiter=delimiter,
                               skipinitialspace=True), [])  # fmt: skip
    except csv.Error:
      fields = line.split(delimiter)
  else:
    fields = line.split(delimiter)
  return [field.strip().strip('"').strip() for field in fields]


def kind(field: str) -> str:
  """'number', 'missing', 'quantity', 'clock', 'date' or 'word'."""
  if NUMBER.fullmatch(field) or _GROUPED.fullmatch(field):
    return 'number'
  if field.lower() in MISSING:
    return 'missing'
  if quantity(field):
    return 'quantity'
  if CLOCK.fullmatch(field):
    return 'clock'
  return 'date' if _DATE.fullmatch(field) else 'word'


def quantity(field: str) -> tuple[str, str] | None:
  """The number and the unit of time or voltage of `0.004 sec`, or None."""
  found = _QUANTITY.fullmatch(field)
  if found and (units.to_seconds(found[2]) or units.to_millivolt(found[2])):
    return found[1], found[2]
  return None


def without_unit(field: str, unit: str) -> str:
  """The number of a quantity in that unit; other fields as they are."""
  return field.removesuffix(unit).rstrip() if unit else field


def is_comment(field: str) -> bool:
  """Whether a field behind those of a row says something about it."""
  return field.startswith('#') or kind(field) == 'word'


def kinds(line: str, delimiter: str) -> list[str]:
  """Kinds of the fields of a line."""
  return [kind(field) for field in split(line, delimiter)]

"""Which characters delimit columns, decimals and groups of thousands."""

import collections
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import content, text_headers, text_lines

_DECIDING = 1000
"""Rows by which the characters are decided, about."""


_MIXED = re.compile(r'(?=.*\d).*[\t;| ]')
"""A field that has both a digit and a delimiter in it."""


_BROKEN = re.compile(
  r'[+-]?0\d+(e.*)?|\d{2,}e.*|\de[+-]?0*[0-4]', re.IGNORECASE
)
"""A number of which the part before its decimal mark is missing."""


def some_of(rows: Sequence[Any]) -> Sequence[Any]:
  """The first rows, and others from all over."""
  step = max(1, len(rows) // _DECIDING)
  return [*rows[: _DECIDING // 2], *rows[_DECIDING // 2 :: step]]


def delimiter(
  path: pathlib.Path, rows: Sequence[str], above: str, default: str
) -> str:
  """Chooses the delimiter of rows.

  Args:
    path: The file.
    rows: Some of them.
    above: The line above the first.
    default: The result where no delimiter gives a table.

  Raises:
    InputError: It cannot be known.
  """
  rows = some_of(rows)
  fits = {}
  for sign in text_lines.DELIMITERS:
    if sum(sign in row for row in rows) < 0.9 * len(rows):
      continue
    table = [text_lines.split(row, sign) for row in rows]
    width, times = collections.Counter(map(len, table)).most_common(1)[0]
    if times < 0.9 * len(table) or (sign and width < 2):
      continue
    columns = [
      [row[k] for row in table if len(row) == width] for k in range(width)
    ]
    kinds = [*map(majority, columns)]
    others = sum(text_lines.kind(row[-1]) == 'word' for row in table)
    if {'number', 'quantity'} & {*kinds} and (
      sign or others <= 0.1 * len(table)
    ):
      # Where the delimiter is another, it is within fields.
      mixed = sum(
        any(map(_MIXED.match, column))
        for column, kind in zip(columns, kinds, strict=True)
        if kind not in ('clock', 'quantity')
      )
      fits[sign] = (kinds.count('word'), mixed), times < len(table)
  if not fits:
    return default  # The row that differs will be reported.
  least = min(words for words, _ in fits.values())
  signs = [sign for sign in fits if fits[sign][0] == least]
  if signs[0] == ',' and '' in signs:
    if fits[','][1] and not fits[''][1]:
      return ''  # Some rows are whole numbers.
    plain = [x for x in rows if text_lines.NUMBER.fullmatch(x.strip(' "'))]
    return _comma(path, plain, above) if len(plain) > 0.99 * len(rows) else ','
  return signs[0]


def _comma(path: pathlib.Path, rows: Sequence[str], above: str) -> str:
  """Whether the only comma of each row delimits columns ('') or decimals (',').

  Raises:
    InputError: It cannot be known.
  """
  both = [row.replace('"', '').split(',') for row in rows]
  left = [a.strip() for a, *_ in both]
  right = [x.strip() for _, *b in both for x in b]
  if any('.' in row or ', ' in row for row in rows):
    return ','
  if any(b[:1] in ('', '-', '+') for b in right) or not all(left):
    return ','
  if len({*right}) > 2 and (
    any(re.match(r'[-+]0+$', a) for a in left)
    or any(re.match(r'0\d|\d*e', b, re.IGNORECASE) for b in right)
  ):
    return ''
  if all('"' in row for row in rows):
    return '' if all(row.count('"') == 2 for row in rows) else ','
  numbers = np.array(
    [[float(re.sub('[eE].*', '', x) or 0) for x in pair] for pair in both]
  ).T
  first = numbers[:, : _DECIDING // 2]  # The others are from all over.
  if any(content.role([x]) in ('time', 'row number') for x in first):
    return ','
  if {*right} >= {*'0123456789'} and {*map(len, right)} == {1}:
    return ''  # One decimal place.
  names = text_lines.split(above, ',')
  words = all(text_lines.kind(name) == 'word' for name in names)
  if words and len(names) <= 2 and not text_headers.is_keyed(above):
    return ',' if len(names) == 2 else ''
  # One in ten decimals begins with a zero, and all may have the same length.
  lengths = {*map(len, right)}
  if (len(rows) >= 200 and len(lengths) > 1 and 1 not in lengths) or (
    len(rows) < 20
  ):
    return ','
  raise InputError(
    f'{path} has a comma in each row that may be a decimal mark or delimit two'
    ' columns: export it with a semicolon or a tab between columns.'
  )


def majority(fields: Iterable[str]) -> str:
  """Kind of a column: 'number', 'quantity', 'clock', 'word' or 'missing'."""
  counts = collections.Counter(map(text_lines.kind, fields))
  counts['word'] += counts.pop('date', 0)
  if counts['word'] > 0.5 * (counts.total() - counts['missing']):
    return 'word'
  order = ('missing', 'number', 'quantity', 'clock')
  return max(order, key=lambda x: (counts[x] > 0 and x != 'missing', counts[x]))


def marks(
  path: pathlib.Path,
  sign: str,
  kinds: Sequence[str],
  rows: Sequence[Sequence[str]],
  names: Sequence[str] | None,
) -> tuple[str, str | None]:
  """Chooses the decimal mark, and what separates groups of thousands.

  Args:
    path: The file.
    sign: The delimiter.
    kinds: Of each column.
    rows: Fields of some rows.
    names: Of columns, by the line above; empty if there are none, None where
      quotes show the columns.

  Returns:
    The mark, and the separator or None.

  Raises:
    InputError: It cannot be known.
  """
  columns = [
    [row[k] for row in rows] for k, kind in enumerate(kinds) if kind == 'number'
  ]
  fields = [field for column in columns for field in column]
  ends = collections.Counter(
    re.sub(r"[\d+-]|[eE].*", '', field) for field in fields
    if text_lines.kind(field) == 'number'
  )  # fmt: skip
  ends.pop('', None)
  groups = {x[0] for x in ends if len(x) > 1} | ({*ends} & {' '})
  marks = {x[-1] for x in ends if len({*x}) > 1} or (
    {*'.,'} & {x for x in ends if len(x) == 1 and x not in groups}
  )
  example = next((x for x in fields if '.' in x or ',' in x), '')
  if len(groups) > 1 or len(marks) > 1 or groups & marks or ' ' in marks:
    raise InputError(
      f'{path} has numbers with different decimal marks, such as {example!r}:'
      ' export it with one decimal mark and without groups of thousands.'
    )
  decimal = next(iter(marks), ',' if groups == {'.'} else '.')
  for column in columns:
    whole = [x for x in column if re.fullmatch(r'[+-]?\d+', x)]
    broken = [x for x in column if decimal in x]
    if (
      whole
      and broken
      and not groups
      and max(len(x.lstrip('+-')) for x in whole) <= 3
      and all(
        re.fullmatch(rf'[+-]?[1-9]\d{{0,2}}\{decimal}\d{{3}}', x)
        for x in broken
      )
    ):
      raise InputError(
        f'{path} has numbers such as {broken[0]!r}, which may be one with'
        ' decimals or thousands: export it without groups of thousands.'
      )
    if decimal == ',' and not groups and _may_be_thousands(column):
      raise InputError(
        f'{path} has numbers such as {column[0]!r}, which may be thousands or'
        ' have a decimal comma: export it without groups of thousands.'
      )
  if sign == ',' and not marks:
    _check_commas(path, columns, names)
  return decimal, next(iter(groups), None)


def _check_commas(
  path: pathlib.Path,
  columns: Sequence[Sequence[str]],
  names: Sequence[str] | None,
) -> None:
  """Raises InputError if commas between whole numbers may be decimal marks.

  Args:
    path: The file.
    columns: Those of numbers.
    names: Of all columns, None where each of them is known to be one.
  """
  shares = [
    sum(bool(_BROKEN.fullmatch(field)) for field in column) / len(column)
    for column in columns
  ]
  few = names is not None and 1 < len(names) < len(columns)
  if len(columns) > 1 and (few or max(shares) > 0.01):
    raise InputError(
      f'{path} has a comma both as decimal mark and between columns: export it'
      ' with a semicolon or a tab between columns.'
    )
  if names is None or len(names) >= len(columns):
    return
  for whole, part in itertools.pairwise(columns):
    digits = {*part} - {''}
    if len(digits) < 3 or not all(map(str.isdecimal, digits)):
      continue
    below_ten = all(re.fullmatch(r'[+-]?\d?', field) for field in whole)
    if below_ten or '-0' in whole or {*map(len, digits)} == {1}:
      raise InputError(
        f'{path} has commas that may be decimal marks or delimit columns, and'
        ' no names: export it with a semicolon or a tab between columns.'
      )


def _may_be_thousands(column: Sequence[str]) -> bool:
  """Whether all numbers of a column have three digits behind a comma.

  Of a signal with decimals some would be below one, or of both signs.
  """
  signs = {field[:1] == '-' for field in column}
  return len(signs) == 1 and all(
    re.fullmatch(r'-?[1-9]\d{0,2},\d{3}', field) for field in column if field
  )

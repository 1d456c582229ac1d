"""Reads tables of numbers: CSV and other text."""

import io
import pathlib
import re

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import Channels, Samples, to_float32

_SNIFFED = 2**16
"""Characters of a text file within which its numbers must begin."""


def read_text(path: pathlib.Path) -> Channels:
  """Opens a table of numbers, with or without a header line."""
  with _text(path) as file:
    # Lines as in reading a file; `splitlines` also ends them at a form feed.
    lines = list(io.StringIO(file.read(_SNIFFED)))
  start, split = next(
    (
      (index, sign)
      for index, line in enumerate(lines)
      for sign in ('\t', ';', ',', None)
      if (sign or '') in line and _is_data(_fields(line, sign))
    ),
    (None, None),
  )
  if start is None:
    raise InputError(
      f'{path} has no row of numbers near its start: export it as columns of'
      ' numbers, with one header line at most.'
    )
  fields = _fields(lines[start], split)
  above = (_fields(line, split) for line in reversed(lines[:start]))
  names = next(
    (row for row in above if len(row) == len(fields) and not _has_unit(row)),
    [''] * len(fields),
  )
  # The first rows may have only whole numbers.
  signed = next((x for x in lines[start:] if ',' in x or '.' in x), '')
  decimal = ',' if split != ',' and ',' in signed else '.'

  def open_channel(channel: int) -> Samples:
    values = _read_column(path, start, split, decimal, channel, len(fields))
    return Samples(len(values), lambda start, stop: values[start:stop])

  count = len(fields)
  return Channels(tuple(names), (None,) * count, (None,) * count, open_channel)


def _text(path: pathlib.Path) -> io.TextIOWrapper:
  return path.open(encoding='utf-8-sig', errors='replace', newline=None)


def _fields(line: str, delimiter: str | None) -> list[str]:
  """Fields of a line; the delimiter None is any white space."""
  return [field.strip().strip('"\'') for field in line.split(delimiter)]


def _is_number(field: str, decimal: str = '.') -> bool:
  """Whether a field is a number, or empty, which is a missing sample."""
  try:
    float(field.replace(decimal, '.') or 'nan')
  except ValueError:
    return False
  return True


def _has_unit(row: list[str]) -> bool:
  """Whether a row above the numbers has their units, not their names."""
  return any(re.fullmatch(r'\W?[munµμ]v\W?', x, re.IGNORECASE) for x in row)


def _is_data(fields: list[str]) -> bool:
  """Whether a row has numbers only, or a time of day and numbers."""
  if not any(fields):
    return False
  timed = len(fields) > 1 and ':' in fields[0]
  return all(_is_number(field, ',') for field in fields[timed:])


def _read_column(
  path: pathlib.Path,
  start: int,
  delimiter: str | None,
  decimal: str,
  column: int,
  count: int,
) -> np.ndarray:
  """Reads one of `count` columns, float32, from line `start` on.

  An empty line is a missing sample if numbers follow.
  """
  import pandas

  try:
    with _text(path) as file:
      for _ in range(start):
        next(file)
      parts = [
        to_float32(part[column].to_numpy())
        for part in pandas.read_csv(
          file,
          sep=delimiter or r'\s+',
          header=None,  # And no `usecols`, which accepts longer rows.
          dtype={column: np.float64},
          decimal=decimal,
          skipinitialspace=True,
          skip_blank_lines=False,
          chunksize=2**20,
        )
      ]
  except ValueError as error:
    with _text(path) as file:
      for number, line in enumerate(file, 1):
        fields = _fields(line, delimiter)
        if number <= start or not line.strip():
          continue
        if len(fields) > count:
          raise InputError(
            f'Line {number} of {path} has {len(fields)} columns, not {count}'
            f' ({line.strip()[:40]!r}): correct or remove it.'
          ) from error
        if len(fields) <= column or not _is_number(fields[column], decimal):
          raise InputError(
            f'Line {number} of {path} has {line.strip()[:40]!r} where a number'
            ' belongs: correct or remove it.'
          ) from error
    raise
  values = np.concatenate(parts)
  return values[: len(values) - _empty_lines_at_end(path)]


def _empty_lines_at_end(path: pathlib.Path) -> int:
  with path.open('rb') as file:
    file.seek(max(0, path.stat().st_size - _SNIFFED))
    tail = file.read().decode('utf-8', 'replace')
  ends = list(io.StringIO(tail[len(tail.rstrip()) :], newline=None))
  return max(0, len(ends) - 1)  # The first ends the last non-empty line.

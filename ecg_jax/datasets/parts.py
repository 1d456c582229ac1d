"""Folds from a division into parts that others made and published."""

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

from ecg_jax.datasets import schema
from ecg_jax.errors import InputError
from ecg_jax.runtime import files


def read(path: pathlib.Path) -> dict[str, int]:
  """Reads record -> part from a table of others.

  Args:
    path: a CSV with the columns record, or record_name, and fold.

  Raises:
    InputError: the file cannot be read, or is not such a table.
  """
  rows = csv.DictReader(
    files.read_text(path, 'name a file that can be read').splitlines()
  )
  columns = rows.fieldnames or ()
  name = next((x for x in ('record', 'record_name') if x in columns), None)
  if name is None or 'fold' not in columns:
    raise InputError(
      f'{path} has the columns {",".join(columns)!r}: name a table with record,'
      ' or record_name, and fold.'
    )
  parts: dict[str, int] = {}
  for row in rows:
    if row[name] in parts or not (row['fold'] or '').isdecimal():
      raise InputError(
        f'Line {rows.line_num} of {path} has the record {row[name]!r} again, or'
        f' no whole number as its fold, {row["fold"]!r}: correct it.'
      )
    parts[row[name]] = int(row['fold'])
  return parts


def to_folds(parts: Mapping[str, int]) -> dict[str, Any]:
  """The table of a division into parts that others made.

  Args:
    parts: record -> number of its part, at least three.

  Returns:
    A table with a fold for each part in ascending order: its test set is that
    part, its validation set the next one, and after the last the first.

  Raises:
    InputError: there are less than three parts.
  """
  numbers = sorted({*parts.values()})
  if len(numbers) < 3:
    raise InputError(
      f'{len(numbers)} parts make no train, validation and test set: name a'
      ' table that has at least 3.'
    )
  folds = {}
  for fold, number in enumerate(numbers):
    following = numbers[(fold + 1) % len(numbers)]
    sets: dict[str, list[str]] = {name: [] for name in schema.SETS}
    for record, part in sorted(parts.items()):
      names = {number: 'test', following: 'validation'}
      sets[names.get(part, 'train')].append(record)
    folds[str(fold)] = sets
  return {
    'algorithm': 'test = a part of another table; validation = the next part',
    'seed': 0,
    'labels_sha256': files.digest(parts),
    'holdout': [],
    'folds': folds,
  }

"""predictions.csv of a fold: columns, writer and reader."""

import csv
import io
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ecg_jax.datasets import schema
from ecg_jax.errors import InputError
from ecg_jax.runtime import files


def write(
  path: pathlib.Path,
  *,
  records: list[str],
  labels: list[str],
  probabilities: Any,
  fold: int,
) -> None:
  """Writes predictions.csv, rows sorted by record.

  Args:
    path: The file.
    records: Their names.
    labels: Class letter of each.
    probabilities: float32 [n, 4], order N, A, O, ~.
    fold: The fold whose weights these are.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(COLUMNS)
  for record, label, row in sorted(
    zip(records, labels, probabilities, strict=True), key=lambda x: x[0]
  ):
    predicted = schema.CLASSES[int(row.argmax())]
    writer.writerow([record, fold, label, predicted, *map(float, row)])
  files.write_atomically(path, text.getvalue().encode())


# File with the predictions of each set that can be summarised; columns of
# these and of metrics.csv (its validation columns empty where none was made).
FILES = {
  'test': 'predictions.csv',
  'validation': 'validation_predictions.csv',
}


COLUMNS = [
  'record',
  'fold',
  'label',
  'predicted',
  *(f'probability_{name}' for name in schema.CLASSES),
]


class Predictions(NamedTuple):
  """The answers of one fold to one set; n: records."""

  records: list[str]
  """Their names."""
  labels: np.ndarray
  """int64 [n], order N, A, O, ~."""
  predicted: np.ndarray
  """int64 [n]."""
  probabilities: np.ndarray
  """float64 [n, 4]."""


def read(path: pathlib.Path, fold: int) -> Predictions:
  """Reads the predictions of one fold; raises InputError if damaged."""
  records, labels, predicted, probabilities = [], [], [], []
  lines = csv.reader(files.read_text(path).splitlines(), strict=True)
  try:
    header = next(lines, [])
    if header != COLUMNS:
      raise InputError(
        f'{path} has the columns {",".join(header)!r} instead of '
        f'{",".join(COLUMNS)!r}; score the fold again.'
      )
    for row in lines:
      record, in_fold, label, answer, *cells = row
      if len(row) != len(header) or in_fold != str(fold):
        raise ValueError
      if not all(0 <= float(cell) < math.inf for cell in cells):
        raise ValueError
      records.append(record)
      labels.append(schema.CLASSES.index(label))
      predicted.append(schema.CLASSES.index(answer))
      probabilities.append([float(cell) for cell in cells])
    if len(set(records)) < len(records):
      raise InputError(f'{path} has a record twice; score the fold again.')
  except (ValueError, csv.Error) as error:
    raise InputError(
      f'Line {lines.line_num} of {path} is not a prediction of fold {fold}; '
      'score the fold again.'
    ) from error
  return Predictions(
    records,
    np.array(labels, np.int64),
    np.array(predicted, np.int64),
    np.array(probabilities).reshape(-1, len(schema.CLASSES)),
  )

"""predictions.csv of a fold, one row per record: columns, writer and reader."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from typing import NamedTuple

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.runtime import files

FILES = {'test': 'predictions.csv', 'validation': 'validation_predictions.csv'}
"""Set -> file with its predictions; the training set has none."""

_COLUMNS = ('record', 'fold', 'label', 'predicted')


class Predictions(NamedTuple):
  """The predictions of one fold for one set; n records, C classes."""

  records: list[str]
  """Names of the records."""
  labels: np.ndarray
  """int64 [n], actual class, as an index into `DatasetSpec.classes`."""
  predicted: np.ndarray
  """int64 [n], predicted class."""
  probabilities: np.ndarray
  """float64 [n, C]."""


def columns(classes: Sequence[str]) -> tuple[str, ...]:
  """Columns of the file; other versions may have written more."""
  return (*_COLUMNS, *(f'probability_{name}' for name in classes))


def write(
  path: pathlib.Path,
  *,
  records: Sequence[str],
  labels: Sequence[str],
  probabilities: np.ndarray,
  fold: int,
  classes: Sequence[str],
) -> None:
  """Writes predictions.csv, rows sorted by record.

  Args:
    path: The file.
    records: Names of the records.
    labels: Class of each.
    probabilities: float32 [n, C], in the order of `classes`.
    fold: The fold whose weights made these predictions.
    classes: Names of all classes.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(columns(classes))
  for record, label, row in sorted(
    zip(records, labels, probabilities, strict=True), key=lambda x: x[0]
  ):
    predicted = classes[int(row.argmax())]
    writer.writerow([record, fold, label, predicted, *map(float, row)])
  files.write_atomically(path, text.getvalue().encode())


def read(path: Traversable, fold: int, classes: Sequence[str]) -> Predictions:
  """Reads the predictions of one fold.

  Args:
    path: The file.
    fold: The fold; rows of another one are an error.
    classes: Names of all classes.

  Raises:
    InputError: The file cannot be read or is damaged.
  """
  names = columns(classes)

  def parse(row: dict[str, str]) -> tuple[str, int, int, list[float]]:
    probabilities = [float(row[name]) for name in names[len(_COLUMNS) :]]
    if not all(0 <= p < math.inf for p in probabilities):
      raise ValueError(f'probabilities {probabilities}')
    if row['fold'] != str(fold):
      raise ValueError(f'fold {row["fold"]}')
    label = classes.index(row['label'])
    predicted = classes.index(row['predicted'])
    return row['record'], label, predicted, probabilities

  advice = 'score the fold again'
  kind = f'a prediction of fold {fold}'
  rows = files.read_csv(path, names, parse, kind=kind, advice=advice)
  records = [row[0] for row in rows]
  if len(set(records)) < len(records):
    raise InputError(f'{path} has a record twice; {advice}.')
  return Predictions(
    records,
    np.array([row[1] for row in rows], np.int64),
    np.array([row[2] for row in rows], np.int64),
    np.array([row[3] for row in rows]).reshape(-1, len(classes)),
  )

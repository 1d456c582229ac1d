"""predictions.csv of a fold, one row per record: columns, writer and reader."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ecg_jax.datasets import schema
from ecg_jax.errors import InputError
from ecg_jax.runtime import files

FILES = {'test': 'predictions.csv', 'validation': 'validation_predictions.csv'}
"""Set -> file with its predictions; the training set has none."""

_PROBABILITIES = tuple(f'probability_{name}' for name in schema.CLASSES)

COLUMNS = ('record', 'fold', 'label', 'predicted', *_PROBABILITIES)


class Predictions(NamedTuple):
  """The predictions of one fold for one set; n records, 4 classes."""

  records: list[str]
  """Names of the records."""
  labels: np.ndarray
  """int64 [n], actual class, as an index into `schema.CLASSES`."""
  predicted: np.ndarray
  """int64 [n], predicted class."""
  probabilities: np.ndarray
  """float64 [n, 4]."""


def write(
  path: pathlib.Path,
  *,
  records: Sequence[str],
  labels: Sequence[str],
  probabilities: np.ndarray,
  fold: int,
) -> None:
  """Writes predictions.csv, rows sorted by record.

  Args:
    path: The file.
    records: Names of the records.
    labels: Class letter of each.
    probabilities: float32 [n, 4], order N, A, O, ~.
    fold: The fold whose weights made these predictions.
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


def read(path: pathlib.Path, fold: int) -> Predictions:
  """Reads the predictions of one fold.

  Args:
    path: The file.
    fold: The fold; rows of another one are an error.

  Raises:
    InputError: The file cannot be read or is damaged.
  """

  def parse(row: dict[str, str]) -> tuple[str, int, int, list[float]]:
    probabilities = [float(row[name]) for name in _PROBABILITIES]
    if not all(0 <= p < math.inf for p in probabilities):
      raise ValueError(f'probabilities {probabilities}')
    if row['fold'] != str(fold):
      raise ValueError(f'fold {row["fold"]}')
    label = schema.CLASSES.index(row['label'])
    predicted = schema.CLASSES.index(row['predicted'])
    return row['record'], label, predicted, probabilities

  advice = 'score the fold again'
  kind = f'a prediction of fold {fold}'
  rows = files.read_csv(path, COLUMNS, parse, kind=kind, advice=advice)
  records = [row[0] for row in rows]
  if len(set(records)) < len(records):
    raise InputError(f'{path} has a record twice; {advice}.')
  return Predictions(
    records,
    np.array([row[1] for row in rows], np.int64),
    np.array([row[2] for row in rows], np.int64),
    np.array([row[3] for row in rows]).reshape(-1, len(schema.CLASSES)),
  )

"""metrics.csv of a fold, one row per epoch: columns, writer and readers."""

import csv
import io
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.runtime import files

_ALWAYS = (
  'phase',
  'epoch',
  'step',
  'train_loss',
  'validation_loss',
  'validation_score',
  'learning_rate',
  'records_per_second',
  'seconds',
)  # What every version has written; a file without one of them is damaged.

COLUMNS = _ALWAYS
"""What is written; a column that is added has no cells in older files. The
validation columns are empty where no validation was made. A column
`validation_NAME` for each metric of the config comes after these."""

METRIC = 'validation_'
"""What the columns of metrics begin with."""

_COUNTS = COLUMNS[:3]

_RETRAIN = 'restore it, or delete the folder it is in to train the fold again'


class MetricsFile:
  """The metrics.csv that a training writes, complete after each epoch."""

  def __init__(
    self,
    path: pathlib.Path,
    phase: int,
    epochs: int,
    *,
    enabled: bool,
    metrics: Iterable[str] = (),
  ):
    """Reads the rows up to where training resumes, and drops those after.

    Args:
      path: The file, which need not exist.
      phase: The phase that is resumed.
      epochs: Its completed epochs.
      enabled: Whether this process writes the file.
      metrics: Names of the config's metrics.

    Raises:
      InputError: The file is damaged or lacks an epoch.
    """
    self._path, self._enabled = path, enabled
    self._rows: list[dict[str, Any]] = []
    if path.exists():
      for row in _read_rows(path):
        if (int(row['phase']), int(row['epoch'])) <= (phase, epochs):
          self._rows.append(row)
      here = [int(r['epoch']) for r in self._rows if int(r['phase']) == phase]
      if here != list(range(1, epochs + 1)):
        raise InputError(
          f'{path} has the epochs {here} of phase {phase} instead of 1 to'
          f' {epochs}; {_RETRAIN}.'
        )
    # Columns that another version added stay, with empty cells from here on.
    present = self._rows[0] if self._rows else {}
    more = [f'{METRIC}{name}' for name in metrics]
    self._columns = list(dict.fromkeys([*COLUMNS, *more, *present]))

  def append(self, row: dict[str, Any]) -> None:
    """Adds the row of an epoch; a field that is None becomes an empty cell."""
    if not self._enabled:
      return
    self._rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, self._columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(self._rows)
    files.write_atomically(self._path, text.getvalue().encode())


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the metrics.csv of a fold.

  Args:
    path: The file.

  Returns:
    Column -> float64 [epochs], of `COLUMNS` and then of the metrics; NaN in
    place of empty cells. Columns that another version added are left out.

  Raises:
    InputError: The file cannot be read or is damaged.
  """
  rows = _read_rows(path)
  present = rows[0] if rows else {}
  names = [name for name in present if name.startswith(METRIC)]
  return {
    name: np.array([float(row.get(name) or np.nan) for row in rows])
    for name in dict.fromkeys([*COLUMNS, *names])
  }


def _read_rows(path: pathlib.Path) -> list[dict[str, str]]:
  """Column -> cell of each epoch; `read`'s cells are numbers or ''."""
  return files.read_csv(
    path, _ALWAYS, _check, kind='a row of metrics', advice=_RETRAIN
  )


def _check(row: dict[str, str]) -> dict[str, str]:
  for name, cell in row.items():
    if name in _COUNTS:
      int(cell)
    elif name in COLUMNS or name.startswith(METRIC):
      float(cell or 0)
  return row

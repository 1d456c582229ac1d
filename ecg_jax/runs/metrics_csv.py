"""metrics.csv of a fold: columns, writer and reader."""

import csv
import io
import pathlib
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.runtime import files

COLUMNS = [
  'phase',
  'epoch',
  'step',
  'train_loss',
  'validation_loss',
  'validation_score',
  'learning_rate',
  'records_per_second',
  'seconds',
]


class MetricsFile:
  """metrics.csv of a fold: one row an epoch, whole at any time."""

  def __init__(
    self, path: pathlib.Path, phase: int, epochs: int, *, enabled: bool
  ):
    """Opens the file, cut back to where training goes on.

    Args:
      path: The file; need not be there.
      phase: The phase that goes on.
      epochs: Epochs of it that are complete.
      enabled: Whether this is the process that writes it.
    """
    self._path, self._enabled = path, enabled
    self._rows: list[dict[str, Any]] = []
    if path.exists():
      try:
        reader = csv.DictReader(io.StringIO(files.read_text(path)))
        if reader.fieldnames != list(COLUMNS):
          raise ValueError(f'its columns are {reader.fieldnames}')
        for row in reader:
          for cell in row.values():
            if cell != '':  # None where one is missing, a list of the rest.
              float(cell)
          if (int(row['phase']), int(row['epoch'])) <= (phase, epochs):
            self._rows.append(row)
        here = [int(r['epoch']) for r in self._rows if int(r['phase']) == phase]
        if here != list(range(1, epochs + 1)):
          raise ValueError(f'of phase {phase} it has the epochs {here}')
      except (csv.Error, TypeError, ValueError) as error:
        raise InputError(
          f'{path} is damaged ({error}): restore it, or delete the folder it is'
          ' in to train the fold again.'
        ) from error

  def append(self, row: dict[str, Any]) -> None:
    """Adds the row of an epoch; a field that is None stays empty."""
    if not self._enabled:
      return
    self._rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(self._rows)
    files.write_atomically(self._path, text.getvalue().encode())


def read(path: pathlib.Path) -> np.ndarray:
  """Reads the metrics.csv of a fold.

  Args:
    path: The file; one row an epoch.

  Returns:
    [epochs, 9] float64, columns as `COLUMNS`; NaN where no validation
    was made.

  Raises:
    InputError: The file cannot be read or is damaged.
  """
  lines = csv.reader(files.read_text(path).splitlines(), strict=True)
  try:
    header = next(lines, [])
    if header != COLUMNS:
      raise InputError(
        f'{path} has the columns {",".join(header)!r} instead of '
        f'{",".join(COLUMNS)!r}; restore it.'
      )
    rows = []
    for row in lines:
      if len(row) != len(header):
        raise ValueError
      rows.append([float(cell) if cell else np.nan for cell in row])
      if not np.all(np.isfinite(rows[-1][:3])):
        raise ValueError
  except (ValueError, csv.Error) as error:
    raise InputError(
      f'Line {lines.line_num} of {path} is not a row of metrics; restore it.'
    ) from error
  return np.array(rows).reshape(-1, len(header))

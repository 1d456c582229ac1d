"""The PhysioNet/CinC Challenge 2017 score, from a confusion matrix."""

from typing import Any

import numpy as np

# The order of the rows and columns of every confusion matrix.
CLASSES = ('N', 'A', 'O', '~')


def _percent(part: int, whole: int) -> float:
  """100 * part / whole, and 0 where that is 0/0."""
  return 100.0 * part / whole if whole else 0.0


def scores(confusion: np.ndarray) -> dict[str, Any]:
  """Scores one set of records.

  F1 of a class is 2 * correct / (predicted + actual); the challenge score is
  the mean F1 of N, A and O (Clifford et al. 2017,
  doi:10.22489/CinC.2017.065-469). The noise class is not averaged, but its
  errors count in the other three. Any ratio that is 0/0 counts as 0.

  Args:
    confusion: [4, 4] integers; rows are the actual class, columns the
      predicted one, both in the order of `CLASSES`.

  Returns:
    `records` (int), `score` and `accuracy` (percent), `classes` (by letter:
    `f1`, `precision`, `recall` in percent, the numbers of records `predicted`,
    `actual` and `correct`, and `undefined`, which is true where F1 is 0/0)
    and `confusion` (lists of ints): Python values only, ready for JSON.

  Raises:
    ValueError: the matrix is not [4, 4].
  """
  if confusion.shape != (len(CLASSES), len(CLASSES)):
    raise ValueError(f'A confusion matrix is [4, 4], not {confusion.shape}.')
  counts = [[int(count) for count in row] for row in confusion]
  records = sum(map(sum, counts))
  classes = {}
  for i, name in enumerate(CLASSES):
    correct = counts[i][i]
    actual = sum(counts[i])
    predicted = sum(row[i] for row in counts)
    classes[name] = {
      'f1': _percent(2 * correct, predicted + actual),
      'precision': _percent(correct, predicted),
      'recall': _percent(correct, actual),
      'predicted': predicted,
      'actual': actual,
      'correct': correct,
      'undefined': predicted + actual == 0,
    }
  return {
    'records': records,
    'score': sum(classes[name]['f1'] for name in 'NAO') / 3,
    'accuracy': _percent(sum(counts[i][i] for i in range(4)), records),
    'classes': classes,
    'confusion': counts,
  }

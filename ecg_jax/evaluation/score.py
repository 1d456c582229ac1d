"""The PhysioNet/CinC Challenge 2017 score, from a confusion matrix."""

from typing import Any

import numpy as np

from ecg_jax.datasets import schema

_SHAPE = (len(schema.CLASSES), len(schema.CLASSES))


def _percent(part: int, whole: int) -> float:
  """100 * part / whole, and 0 where that is 0/0."""
  return 100.0 * part / whole if whole else 0.0


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
  """Counts pairs of classes.

  Args:
    labels: Integer [n], the actual classes.
    predicted: Integer [n].

  Returns:
    int64 [4, 4]; rows are the actual class, columns the predicted one.
  """
  confusion = np.zeros(_SHAPE, np.int64)
  np.add.at(confusion, (labels, predicted), 1)
  return confusion


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
    `actual` and `correct`, and `undefined`, true where F1 is 0/0)
    and `confusion` (lists of ints): Python values only, ready for JSON.

  Raises:
    ValueError: the matrix is not [4, 4].
  """
  if confusion.shape != _SHAPE:
    raise ValueError(f'A confusion matrix is {_SHAPE}, not {confusion.shape}.')
  counts = [[int(count) for count in row] for row in confusion]
  records = sum(map(sum, counts))
  classes = {}
  for i, name in enumerate(schema.CLASSES):
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
    'score': sum(classes[name]['f1'] for name in schema.SCORED_CLASSES) / 3,
    'accuracy': _percent(int(np.trace(confusion)), records),
    'classes': classes,
    'confusion': counts,
  }


def bootstrap_interval(
  confusion: np.ndarray, *, resamples: int = 10_000, share: float = 0.95
) -> tuple[float, float]:
  """Interval of the challenge score over resampled records.

  Records drawn with replacement make confusion matrices that are multinomial
  draws of this one; the interval lies between two quantiles of their scores. It
  is the same on each call.

  Args:
    confusion: [4, 4] integers with at least one record, as for `scores`.
    resamples: Number of draws.
    share: Share of the draws within the interval.

  Returns:
    The lower and the upper end, in percent.
  """
  counts = confusion.ravel()
  rng = np.random.default_rng(0)
  drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
  drawn = drawn.reshape(-1, *confusion.shape)
  correct = np.diagonal(drawn, axis1=1, axis2=2)
  either = drawn.sum(axis=1) + drawn.sum(axis=2)
  f1 = 100 * 2 * correct / np.maximum(either, 1)
  found = f1[:, : len(schema.SCORED_CLASSES)].mean(axis=1)
  low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
  return float(low), float(high)

"""The score of a set of records, and metrics further to it; no jax."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.errors import ConfigError, InputError

_OWN_COLUMNS = ('loss', 'score', 'accuracy')

_PARAMETERS = ('confusion', 'labels', 'predicted', 'probabilities', 'spec')


def _percent(part: int, whole: int) -> float:
  """100 * part / whole, and 0 where that is 0/0."""
  return 100.0 * part / whole if whole else 0.0


def confusion_matrix(
  labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts pairs of classes.

  Args:
    labels: Integer [n], the actual classes.
    predicted: Integer [n].
    num_classes: C.

  Returns:
    int64 [C, C]; rows are the actual class, columns the predicted one.
  """
  confusion = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(confusion, (labels, predicted), 1)
  return confusion


def scores(confusion: np.ndarray, spec: DatasetSpec) -> dict[str, Any]:
  """Scores one set of records.

  F1 of a class is 2 * correct / (predicted + actual); the score is the mean F1
  of the scored classes, for the PhysioNet/CinC Challenge 2017 N, A and O
  (Clifford et al. 2017, doi:10.22489/CinC.2017.065-469). A class that is not
  scored counts through its errors in the others. Any ratio that is 0/0 counts
  as 0.

  Args:
    confusion: [C, C] integers; rows are the actual class, columns the
      predicted one, both in the order of `spec.classes`.
    spec: What the records are.

  Returns:
    `records` (int), `score` and `accuracy` (percent), `classes` (by name:
    `f1`, `precision`, `recall` in percent, the numbers of records `predicted`,
    `actual` and `correct`, and `undefined`, true where F1 is 0/0)
    and `confusion` (lists of ints): Python values only, ready for JSON.

  Raises:
    ValueError: The matrix is not [C, C].
  """
  shape = (spec.num_classes, spec.num_classes)
  if confusion.shape != shape:
    raise ValueError(f'A confusion matrix is {shape}, not {confusion.shape}.')
  counts = [[int(count) for count in row] for row in confusion]
  records = sum(map(sum, counts))
  classes = {}
  for i, name in enumerate(spec.classes):
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
  scored = [classes[name]['f1'] for name in spec.scored_classes]
  return {
    'records': records,
    'score': sum(scored) / len(scored),
    'accuracy': _percent(int(np.trace(confusion)), records),
    'classes': classes,
    'confusion': counts,
  }


def bootstrap_interval(
  confusion: np.ndarray,
  spec: DatasetSpec,
  *,
  resamples: int = 10_000,
  share: float = 0.95,
) -> tuple[float, float]:
  """Interval of the score over resampled records.

  Records drawn with replacement make confusion matrices that are multinomial
  draws of this one; the interval lies between two quantiles of their scores. It
  is the same on each call.

  Args:
    confusion: [C, C] integers with at least one record, as for `scores`.
    spec: What the records are.
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
  scored = [spec.classes.index(name) for name in spec.scored_classes]
  found = f1[:, scored].mean(axis=1)
  low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
  return float(low), float(high)


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
  """Wilson's 95 % interval of a share of independent cases.

  Args:
    hits: Number of cases that count, at most `total`.
    total: Number of all cases, at least one.

  Returns:
    The lower and the upper end, in percent.
  """
  z = 1.959964
  share, extra = hits / total, z**2 / total
  middle = share + extra / 2
  half = z * math.sqrt(share * (1 - share) / total + extra / (4 * total))
  low, high = ((middle + x) / (1 + extra) for x in (-half, half))
  return 100 * low, 100 * high


def kappa(confusion: np.ndarray) -> float:
  """Cohen's kappa: agreement beyond that of chance, 1 at most.

  Args:
    confusion: [C, C] integers, as for `scores`.

  Returns:
    NaN if there are no records, or if one class is all that was predicted and
    actual.
  """
  total = confusion.sum()
  if not total:
    return math.nan
  shares = confusion / total
  observed = np.trace(shares)
  expected = shares.sum(axis=1) @ shares.sum(axis=0)
  if expected == 1:
    return math.nan
  return float((observed - expected) / (1 - expected))


def check_metrics(metrics: Mapping[str, Callable[..., Any]]) -> None:
  """Checks the names and parameters of metrics; calls none.

  Raises:
    InputError: Names a metric that `measure` cannot call, or that is called
      like another column.
  """
  for name, metric in metrics.items():
    if name in _OWN_COLUMNS or name.startswith('f1_'):
      raise InputError(
        f'The metric {name!r} is called like a column that every table has:'
        ' rename it.'
      )
    try:
      parameters = inspect.signature(metric).parameters
    except (TypeError, ValueError) as error:
      raise InputError(
        f'The metric {name!r} is no function that can be used ({error}): name a'
        f' function of any of {", ".join(_PARAMETERS)}.'
      ) from error
    if unknown := [x for x in parameters if x not in _PARAMETERS]:
      raise InputError(
        f'The metric {name!r} has the parameter {unknown[0]!r}: use any of'
        f' {", ".join(_PARAMETERS)}.'
      )


def rehearse(
  metrics: Mapping[str, Callable[..., Any]], spec: DatasetSpec
) -> None:
  """Computes metrics of made-up predictions, so that one fails at once.

  Raises:
    InputError: As `measure`.
  """
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(spec.num_classes), 8)
  probabilities = rng.dirichlet(np.ones(spec.num_classes), len(labels))
  measure(metrics, labels, probabilities.astype(np.float32), spec)


def measure(
  metrics: Mapping[str, Callable[..., Any]],
  labels: np.ndarray,
  probabilities: np.ndarray,
  spec: DatasetSpec,
) -> dict[str, float | None]:
  """Computes metrics further to the score.

  Args:
    metrics: By name, functions that return a number. Their parameters are any
      of `confusion` (int64 [C, C], actual class by row), `labels` and
      `predicted` (int64 [n]), `probabilities` (float64 [n, C]) and `spec`
      (DatasetSpec), found by name.
    labels: Integer [n], the actual classes.
    probabilities: Float [n, C].
    spec: What the records are.

  Returns:
    Name -> value; None where it is not finite.

  Raises:
    InputError: Names a metric that cannot be called or returns no number.
    ConfigError: Names a metric that raised an error.
  """
  check_metrics(metrics)
  return {
    name: _call(name, metric, labels, probabilities, spec)
    for name, metric in metrics.items()
  }


def _call(
  name: str,
  metric: Callable[..., Any],
  labels: np.ndarray,
  probabilities: np.ndarray,
  spec: DatasetSpec,
) -> float | None:
  predicted = probabilities.argmax(axis=1)
  values = {  # Arrays of its own, which it may change.
    'confusion': confusion_matrix(labels, predicted, spec.num_classes),
    'labels': labels.astype(np.int64),
    'predicted': predicted,
    'probabilities': probabilities.astype(np.float64),
    'spec': spec,
  }
  used = inspect.signature(metric).parameters
  try:
    found = np.asarray(metric(**{x: values[x] for x in used}))
  except Exception as error:  # It is a program: it can raise anything.
    raise ConfigError(
      f'The metric {name!r} failed ({type(error).__name__}: {error}): fix it.'
    ) from error
  if found.ndim or found.dtype.kind not in 'biuf':
    raise InputError(
      f'The metric {name!r} returned {found.tolist()!r:.99}, no number: return'
      ' one.'
    )
  return float(found) if np.isfinite(found) else None

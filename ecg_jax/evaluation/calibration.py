"""Calibration of probabilities: one temperature for all folds; no jax.

Probabilities are softmax(logits / temperature). The temperature is fitted to
validation sets (Guo et al. 2017, arXiv 1706.04599); it never changes which
class is the most probable. n: records, C: classes.
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import numpy as np

from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.errors import InputError
from ecg_jax.evaluation import score
from ecg_jax.runtime import files

FILE = 'calibration.json'
"""In the run folder."""

BINS = 15
"""Number of equal-width bins of confidence, from 0 to 1."""

_MAX = 10.0  # Temperatures are fitted between 1 / _MAX and _MAX.


class Reliability(NamedTuple):
  """Accuracy by bin of confidence; NaN where a bin is empty."""

  records: np.ndarray
  """int64 [BINS], predictions in the bin, which includes its upper edge."""
  confidence: np.ndarray
  """float64 [BINS], mean probability of the predicted class."""
  accuracy: np.ndarray
  """float64 [BINS], share of correct predictions."""


class Coverage(NamedTuple):
  """Scores of the records whose confidence reaches a threshold."""

  threshold: float
  """Minimum confidence."""
  coverage: float
  """Share of the records that reach it."""
  score: float
  """Score of these records, in percent."""
  accuracy: float
  """Accuracy of these records, in percent."""


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
  """Converts logits to probabilities at a temperature.

  Args:
    logits: Float [..., C]; log-probabilities work as well. Minus infinity
      marks an impossible class.
    temperature: Above 1 lowers the confidence, below 1 raises it.

  Returns:
    float64 [..., C]; each row sums to 1.
  """
  scaled = np.asarray(logits, np.float64) / temperature
  powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def rescale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
  """Converts probabilities, float [..., C], from temperature 1 to another."""
  with np.errstate(divide='ignore'):
    return softmax(np.log(probabilities), temperature)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Fits the temperature of the greatest likelihood, between 0.1 and 10.

  Args:
    probabilities: Float [n, C] at temperature 1.
    labels: Integer [n].
  """
  # Takes half a second, which every start of a prediction would pay.
  from scipy import optimize

  found = optimize.minimize_scalar(
    lambda log: loss(rescale(probabilities, math.exp(log)), labels),
    bounds=(-math.log(_MAX), math.log(_MAX)),
    method='bounded',
  )
  return math.exp(found.x)


def is_at_bound(temperature: float) -> bool:
  """Whether a fitted temperature would be beyond the bounds of the fit."""
  return not 1.01 / _MAX < temperature < _MAX / 1.01


def loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Mean cross-entropy of probabilities, float [n, C], and integer [n]."""
  own = probabilities[np.arange(len(labels)), labels]
  # A float32 probability of 0 was too small to represent.
  return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Mean over records of the squared distance to the one-hot label.

  Args:
    probabilities: Float [n, C].
    labels: Integer [n].

  Returns:
    0 (certain and correct) to 2 (certain and wrong), summed over the classes.
  """
  truth = np.eye(probabilities.shape[1])[labels]
  return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> Reliability:
  """Sorts predictions by confidence and counts the correct ones.

  Args:
    probabilities: Float [n, C].
    labels: Integer [n].
  """
  confidence = probabilities.max(axis=1)
  correct = probabilities.argmax(axis=1) == labels
  bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
  records = np.bincount(bins, minlength=BINS)
  with np.errstate(invalid='ignore'):
    return Reliability(
      records,
      np.bincount(bins, confidence, minlength=BINS) / records,
      np.bincount(bins, correct, minlength=BINS) / records,
    )


def expected_calibration_error(
  probabilities: np.ndarray, labels: np.ndarray
) -> float:
  """Mean over records of the gap between confidence and accuracy of their bin.

  Args:
    probabilities: Float [n, C].
    labels: Integer [n].

  Returns:
    0 to 1.
  """
  table = reliability(probabilities, labels)
  gaps = np.nan_to_num(np.abs(table.confidence - table.accuracy))
  return float(gaps @ table.records / len(labels))


def measures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """`expected_calibration_error`, `brier_score` and `loss` by name."""
  found = (expected_calibration_error, brier_score, loss)
  return {f.__name__: f(probabilities, labels) for f in found}


def withhold(
  probabilities: np.ndarray,
  labels: np.ndarray,
  threshold: float,
  spec: DatasetSpec,
) -> Coverage:
  """Scores the part of a set whose confidence reaches a threshold.

  Args:
    probabilities: Float [n, C].
    labels: Integer [n].
    threshold: Minimum confidence.
    spec: What the records are.

  Returns:
    The scores, NaN if no record is left.
  """
  confident = probabilities.max(axis=1) >= threshold
  if not confident.any():
    return Coverage(threshold, 0.0, math.nan, math.nan)
  predicted = probabilities[confident].argmax(axis=1)
  confusion = score.confusion_matrix(
    labels[confident], predicted, spec.num_classes
  )
  found = score.scores(confusion, spec)
  coverage = float(confident.mean())
  return Coverage(threshold, coverage, found['score'], found['accuracy'])


def read(run_folder: Traversable, folds: Sequence[int]) -> float:
  """Reads the temperature of a run; 1.0 if it was never calibrated.

  Args:
    run_folder: The run.
    folds: Its finished folds.

  Raises:
    InputError: Its calibration.json is damaged, or of other folds.
  """
  path = run_folder / FILE
  if not path.is_file():
    return 1.0
  try:
    found = json.loads(files.read_text(path))
    temperature, fitted = found['temperature'], found['folds']
    # A bool is a number in Python.
    if isinstance(temperature, bool) or not 1 / _MAX <= temperature <= _MAX:
      raise ValueError(f'temperature is {temperature}')
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is damaged ({type(error).__name__}: {error}): delete it or run'
      ' tools/calibrate.py again.'
    ) from error
  if fitted != list(folds):
    raise InputError(
      f'{path} was fitted to the folds {fitted}, while the finished ones are'
      f' {list(folds)}: run tools/calibrate.py again.'
    )
  return float(temperature)


def write(run_folder: pathlib.Path, calibration: Mapping[str, Any]) -> None:
  """Writes calibration.json.

  Args:
    run_folder: The run.
    calibration: `temperature`, the `folds` that it was fitted to, in ascending
      order, and further fields; no NaN.

  Raises:
    InputError: The folder is not writable.
  """
  text = json.dumps(dict(calibration), indent=1, allow_nan=False) + '\n'
  files.write_atomically(run_folder / FILE, text.encode())

"""How sure an answer may claim to be: one temperature for all folds; no jax.

Probabilities are softmax(logits / temperature). The temperature is fitted to
validation sets (Guo et al. 2017, arXiv 1706.04599); it never changes which
class is likeliest. n: records.
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.evaluation import score
from ecg_jax.runtime import files

FILE = 'calibration.json'
"""In the run folder."""

BINS = 15
"""Of equal width, from 0 to 1, that confidences are sorted into."""

_MOST = 10.0  # A temperature is fitted between 1 / _MOST and _MOST.


class Reliability(NamedTuple):
  """What confidences are worth, by bin; NaN where a bin is empty."""

  records: np.ndarray
  """int64 [BINS], answers in the bin; a bin holds its upper edge."""
  confidence: np.ndarray
  """float64 [BINS], their mean probability of the predicted class."""
  accuracy: np.ndarray
  """float64 [BINS], the share of them that is right."""


class Coverage(NamedTuple):
  """What is left when answers below a confidence are withheld."""

  threshold: float
  """The least confidence that is answered."""
  coverage: float
  """Share of the records that is answered."""
  score: float
  """Challenge score of these, in percent."""
  accuracy: float
  """Of these, in percent."""


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
  """Probabilities of logits at a temperature.

  Args:
    logits: Float [..., 4]; log-probabilities serve as well. Minus infinity
      stands for a class that is impossible.
    temperature: Above 1 is less sure, below 1 surer.

  Returns:
    float64 [..., 4]; each row sums to 1.
  """
  scaled = np.asarray(logits, np.float64) / temperature
  powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def rescale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
  """Probabilities of temperature 1, float [..., 4], at another one."""
  with np.errstate(divide='ignore'):
    return softmax(np.log(probabilities), temperature)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """The temperature that makes the labels likeliest, between 0.1 and 10.

  Args:
    probabilities: Float [n, 4] at temperature 1.
    labels: Integer [n], order N, A, O, ~.
  """
  # Every start of a prediction would pay the half second of this import.
  from scipy import optimize

  found = optimize.minimize_scalar(
    lambda log: loss(rescale(probabilities, math.exp(log)), labels),
    bounds=(-math.log(_MOST), math.log(_MOST)),
    method='bounded',
  )
  return math.exp(found.x)


def loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Mean cross-entropy, of float [n, 4] and integer [n]."""
  own = probabilities[np.arange(len(labels)), labels]
  # A float32 probability of 0 is one too small to be written.
  return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Mean over records of the squared distance to the truth.

  Args:
    probabilities: Float [n, 4].
    labels: Integer [n].

  Returns:
    0 (sure and right) to 2 (sure and wrong): the sum over the four classes.
  """
  truth = np.eye(probabilities.shape[1])[labels]
  return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> Reliability:
  """Sorts answers by confidence and counts how many are right.

  Args:
    probabilities: Float [n, 4].
    labels: Integer [n].
  """
  confidence = probabilities.max(axis=1)
  right = probabilities.argmax(axis=1) == labels
  bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
  records = np.bincount(bins, minlength=BINS)
  with np.errstate(invalid='ignore'):
    return Reliability(
      records,
      np.bincount(bins, confidence, minlength=BINS) / records,
      np.bincount(bins, right, minlength=BINS) / records,
    )


def expected_calibration_error(
  probabilities: np.ndarray, labels: np.ndarray
) -> float:
  """Mean over records of how far their bin's confidence is from its accuracy.

  Args:
    probabilities: Float [n, 4].
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
  probabilities: np.ndarray, labels: np.ndarray, threshold: float
) -> Coverage:
  """What is left of a set when unsure answers are withheld.

  Args:
    probabilities: Float [n, 4].
    labels: Integer [n].
    threshold: The least confidence that is answered.

  Returns:
    Its scores are NaN where nothing is answered.
  """
  answered = probabilities.max(axis=1) >= threshold
  if not answered.any():
    return Coverage(threshold, 0.0, math.nan, math.nan)
  predicted = probabilities[answered].argmax(axis=1)
  found = score.scores(score.confusion_matrix(labels[answered], predicted))
  return Coverage(
    threshold, float(answered.mean()), found['score'], found['accuracy']
  )


def read(run_folder: pathlib.Path, folds: Sequence[int]) -> float:
  """The temperature of a run; 1.0 where it was never calibrated.

  Args:
    run_folder: The run's.
    folds: Its finished ones.

  Raises:
    InputError: Its calibration.json is damaged, or of other folds.
  """
  path = run_folder / FILE
  if not path.exists():
    return 1.0
  try:
    found = json.loads(files.read_text(path))
    temperature, fitted = found['temperature'], found['folds']
    # JSON's true is a number to Python.
    if isinstance(temperature, bool) or not 1 / _MOST <= temperature <= _MOST:
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
    run_folder: The run's.
    calibration: `temperature`, `folds` that it was fitted to, in ascending
      order, and what else is to be known of it; no NaN.

  Raises:
    InputError: The folder cannot be written to.
  """
  text = json.dumps(dict(calibration), indent=1, allow_nan=False) + '\n'
  files.write_atomically(run_folder / FILE, text.encode())

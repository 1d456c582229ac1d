"""From the folds' logits to the prediction for a recording; no JAX.

Folds' logits of a window -> a prediction; predictions for windows -> a summary.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ecg_jax.datasets.schema import UNDECIDED, DatasetSpec
from ecg_jax.evaluation import calibration


class Prediction(NamedTuple):
  """The prediction of some folds for a window, or for a recording."""

  chosen: str
  """A class, whatever its probability."""
  probabilities: np.ndarray
  """float64 [C], in the order of `DatasetSpec.classes`: the mean over folds, or
  over windows."""
  agreement: float
  """Share of the folds, or of the windows, whose class is `chosen`; NaN of a
  fold alone."""
  sure: bool = True
  """Whether the probability of `chosen` reaches the threshold of abstention."""

  @property
  def predicted(self) -> str:
    """The reported class, or UNDECIDED."""
    return self.chosen if self.sure else UNDECIDED


class WindowPrediction(NamedTuple):
  """The prediction for a part of a recording."""

  start: float
  end: float
  """Seconds from the start of the recording."""
  answer: Prediction
  beats: np.ndarray | tuple[()] = ()
  """float64 [beats], the R peaks found in it, likewise in seconds."""


class Summary(NamedTuple):
  """The predictions for the windows of a long recording, summarized."""

  answer: Prediction
  """The class of the mean probability over `used` windows: those whose class,
  sure or not, is not the noise class, or all if all are. No model was trained
  on this."""
  used: int
  shares: dict[str, float]
  """Class or UNDECIDED -> share of `answered_seconds`."""
  answered_seconds: float
  """Time covered by windows that have a prediction."""
  episodes: list[tuple[float, float]]
  """Start and end, in seconds, of segments of the dataset's `episode_class`
  without a gap between them; none if it has no such class."""
  episode_class: str | None = None
  """That class."""

  @property
  def longest_episode(self) -> tuple[float, float] | None:
    """Start and end of the first longest episode; None without any."""
    return max(self.episodes, key=lambda x: x[1] - x[0], default=None)

  @property
  def episode_share(self) -> float:
    """Share of `answered_seconds` in episodes."""
    return self.shares.get(self.episode_class or '', 0.0)

  @property
  def headline(self) -> str:
    """Share of time in episodes, their number, the longest; '' without any.

    This is what to read first, whatever the class of the mean is.
    """
    if self.longest_episode is None:
      return ''
    start, end = self.longest_episode
    count = len(self.episodes)
    return (
      f'{self.episode_class} in {percent(self.episode_share)} of'
      f' {clock(self.answered_seconds)}: {count} episode{"s" * (count > 1)},'
      f' the longest {clock(end - start)} from {clock(start)}'
    )


def percent(share: float) -> str:
  """A share as text; one of a few seconds of a day is not 0."""
  value = 100 * share
  return f'{value:.1f} %' if value >= 0.1 or not value else f'{value:.1g} %'


def clock(seconds: float) -> str:
  """A time as H:MM:SS."""
  whole = round(seconds)
  return f'{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}'


def combine(
  logits: np.ndarray,
  classes: Sequence[str],
  *,
  temperature: float,
  vote: bool = False,
  abstain: float = 0.0,
) -> Prediction:
  """Combines the logits of some folds for one window.

  Args:
    logits: float32 [folds, C].
    classes: Names of the classes.
    temperature: Temperature of the run's calibration; 1 for none.
    vote: Whether to choose the class of most folds, and of tied ones the one of
      the highest mean probability, instead of the highest mean probability.
    abstain: Least mean probability of a class that is sure.
  """
  each = calibration.softmax(logits, temperature)
  votes = np.bincount(each.argmax(axis=-1), minlength=len(classes))
  mean = each.mean(axis=0)
  # A mean is at most 1, so a vote outweighs it.
  chosen = int(np.argmax(2 * votes + mean if vote else mean))
  return Prediction(
    classes[chosen],
    mean,
    float(votes[chosen] / len(each)) if len(each) > 1 else math.nan,
    bool(mean[chosen] >= abstain),
  )


def partition(
  windows: Sequence[WindowPrediction],
) -> list[tuple[float, float, str]]:
  """Assigns each instant that windows cover to the one with the nearest middle.

  Args:
    windows: Windows of one length, ordered by start.

  Returns:
    Start and end, in seconds, and class or UNDECIDED, of each, in order.
  """
  middles = [(window.start + window.end) / 2 for window in windows]
  edges = [(a + b) / 2 for a, b in itertools.pairwise(middles)]
  return [
    (max(window.start, low), min(window.end, high), window.answer.predicted)
    for window, low, high in zip(
      windows, [-math.inf, *edges], [*edges, math.inf], strict=True
    )
  ]


def summarize(
  windows: Sequence[WindowPrediction],
  spec: DatasetSpec,
  *,
  abstain: float = 0.0,
) -> Summary:
  """Summarizes the predictions for the windows of a long recording.

  Args:
    windows: At least one, of one length, ordered by start.
    spec: What the records are that the model was trained on.
    abstain: As for `combine`.
  """
  shares = dict.fromkeys((*spec.classes, UNDECIDED), 0.0)
  episodes: list[tuple[float, float]] = []
  for start, end, predicted in partition(windows):
    shares[predicted] += end - start
    if predicted == spec.episode_class:
      if episodes and start <= episodes[-1][1] + 1e-6:
        start, _ = episodes.pop()
      episodes.append((start, end))
  seconds = sum(shares.values())
  answers = [window.answer for window in windows]
  noise = spec.noise_class
  used = [answer for answer in answers if answer.chosen != noise] or answers
  mean = np.mean([answer.probabilities for answer in used], axis=0)
  chosen = spec.classes[int(mean.argmax())]
  agreement = float(np.mean([answer.chosen == chosen for answer in used]))
  return Summary(
    Prediction(chosen, mean, agreement, bool(mean.max() >= abstain)),
    len(used),
    {name: time / seconds for name, time in shares.items()},
    seconds,
    episodes,
    spec.episode_class,
  )

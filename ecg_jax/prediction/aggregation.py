"""What logits of windows say of a recording; no jax.

Folds' logits of a window -> an answer; a recording's answers -> its summary.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ecg_jax.datasets import schema
from ecg_jax.evaluation import calibration

UNDECIDED = 'undecided'
"""Instead of a class, where the model is not sure enough."""

_AF, _NOISE = schema.CLASSES.index('A'), schema.CLASSES.index('~')


class Answer(NamedTuple):
  """What the folds say together."""

  chosen: str
  """A class, sure or not."""
  probabilities: np.ndarray
  """float64 [4], order N, A, O, ~: the mean over folds."""
  agreement: float
  """Share of the folds that give the class that was chosen the most."""
  sure: bool = True
  """Whether its probability is as high as was asked for."""

  @property
  def predicted(self) -> str:
    """What is told: the class, or UNDECIDED."""
    return self.chosen if self.sure else UNDECIDED


class Stretch(NamedTuple):
  """An answer for a part of a recording, in seconds."""

  start: float
  end: float
  answer: Answer


class Summary(NamedTuple):
  """What the windows of a long recording say of it."""

  answer: Answer
  """The class of the mean probability over `used` windows: those whose class,
  sure or not, is not noise, or all where all are. No model was trained on
  this."""
  used: int
  shares: dict[str, float]
  """Class or UNDECIDED -> share of the time that was answered."""
  answered_seconds: float
  episodes: list[tuple[float, float]]
  """Start and end, in seconds, of atrial fibrillation: parts of class A without
  a gap between them."""

  @property
  def longest_episode(self) -> tuple[float, float] | None:
    """Start and end of the longest, the first of equals; None without any."""
    return max(self.episodes, key=lambda x: x[1] - x[0], default=None)


def combine(
  logits: np.ndarray,
  *,
  temperature: float,
  vote: bool = False,
  abstain: float = 0.0,
) -> Answer:
  """The answer of some folds for one window.

  Args:
    logits: float32 [folds, 4].
    temperature: Of the run's calibration; 1 for none.
    vote: Whether the class is that of most folds, of equals the one of the
      higher mean probability, instead of the highest mean probability.
    abstain: Sure is a class of at least this mean probability.
  """
  each = calibration.softmax(logits, temperature)
  votes = np.bincount(each.argmax(axis=-1), minlength=len(schema.CLASSES))
  mean = each.mean(axis=0)
  # A mean is at most 1, so a vote outweighs it.
  chosen = int(np.argmax(2 * votes + mean if vote else mean))
  return Answer(
    schema.CLASSES[chosen],
    mean,
    float(votes[chosen] / len(each)),
    bool(mean[chosen] >= abstain),
  )


def partition(stretches: Sequence[Stretch]) -> list[tuple[float, float, str]]:
  """Divides the time that windows cover: each instant to the nearest middle.

  Args:
    stretches: Windows of one length, ordered by start.

  Returns:
    Start and end, in seconds, and class or UNDECIDED, of each, in order.
  """
  middles = [(start + end) / 2 for start, end, _ in stretches]
  edges = [(a + b) / 2 for a, b in itertools.pairwise(middles)]
  return [
    (max(start, low), min(end, high), answer.predicted)
    for (start, end, answer), low, high in zip(
      stretches, [-math.inf, *edges], [*edges, math.inf], strict=True
    )
  ]


def summarize(stretches: Sequence[Stretch], *, abstain: float = 0.0) -> Summary:
  """Sums up the answers of a long recording.

  Args:
    stretches: At least one, of one length, ordered by start.
    abstain: As for `combine`.
  """
  shares = dict.fromkeys((*schema.CLASSES, UNDECIDED), 0.0)
  episodes: list[tuple[float, float]] = []
  for start, end, predicted in partition(stretches):
    shares[predicted] += end - start
    if predicted == schema.CLASSES[_AF]:
      if episodes and start <= episodes[-1][1] + 1e-6:
        episodes[-1] = (episodes[-1][0], end)
      else:
        episodes.append((start, end))
  seconds = sum(shares.values())
  used = [
    stretch.answer
    for stretch in stretches
    if stretch.answer.chosen != schema.CLASSES[_NOISE]
  ] or [stretch.answer for stretch in stretches]
  mean = np.mean([answer.probabilities for answer in used], axis=0)
  chosen = schema.CLASSES[int(mean.argmax())]
  agreeing = [answer.chosen == chosen for answer in used]
  return Summary(
    Answer(chosen, mean, float(np.mean(agreeing)), bool(mean.max() >= abstain)),
    len(used),
    {name: time / seconds for name, time in shares.items()},
    seconds,
    episodes,
  )

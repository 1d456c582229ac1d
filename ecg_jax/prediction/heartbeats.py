"""From the R peaks of windows to the heart rate; no JAX."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ecg_jax.prediction import aggregation
from ecg_jax.prediction.aggregation import WindowPrediction

# No record of the challenge, whatever its label, has an evenness above 0.27 or
# fewer than 31 beats a minute. Sines of 2.2 Hz and faster are more even.
_MOST_EVEN = 0.3
_SECONDS_PER_BEAT = 3


class HeartRate(NamedTuple):
  """Beats of a recording or window, and the times between them, by median.

  Of fewer than two RR intervals all but `beats` is None.
  """

  beats: int
  """How many were found."""
  per_minute: float | None = None
  """Heart rate at the median RR interval."""
  rr_median: float | None = None
  """Seconds."""
  rr_interquartile: float | None = None
  """From the first to the third quartile of the RR intervals, seconds."""


def measure(windows: Sequence[WindowPrediction]) -> HeartRate:
  """The heart rate of some windows of a recording together.

  Where windows overlap, beats and intervals count in the window whose middle is
  nearest, so once. An interval lies within a window, so the one from the last
  beat of a window to the first of the next does not count without an overlap.

  Args:
    windows: As for `aggregation.partition`.
  """
  beats, intervals = 0, [np.zeros(0)]
  parts = aggregation.partition(windows)
  for window, (start, end, _) in zip(windows, parts, strict=True):
    times = np.asarray(window.beats)
    middles = (times[1:] + times[:-1]) / 2
    inside = (start <= middles) & (middles < end)
    intervals.append(np.diff(times)[inside])
    beats += int(np.sum((start <= times) & (times < end)))
  rr = np.concatenate(intervals)
  if len(rr) < 2:
    return HeartRate(beats)
  low, middle, high = map(float, np.percentile(rr, [25, 50, 75]))
  return HeartRate(beats, 60 / middle, middle, high - low)


def check(
  positions: np.ndarray, evenness: float, seconds: float, *, windowed: bool
) -> tuple[np.ndarray, list[str]]:
  """Keeps the beats of a window if they may be some.

  Args:
    positions: int32 [beats], the R peaks.
    evenness: `beats.r_peaks.Beats.evenness`.
    seconds: Length of the window.
    windowed: Whether it is one of a long recording's; its phrase is then the
      same for all windows.

  Returns:
    The positions, none where the signal is too even, and a phrase if it is or
    if they are too few for a rhythm.
  """
  if evenness > _MOST_EVEN:
    phrase = 'no QRS complexes stand out, the signal is as strong throughout'
    return positions[:0], [f'{phrase}: the answer is not about a rhythm']
  beats = len(positions)
  if beats >= seconds // _SECONDS_PER_BEAT:
    return positions, []
  found = f'{beats} beat{"s" * (beats != 1)} found in {seconds:.1f} s'
  if windowed:
    found = f'less than a beat in {_SECONDS_PER_BEAT} s found'
  return positions, [f'{found}: too few for an answer about a rhythm']

"""The windows of recordings that a page shows, chosen and drawn."""

import bisect
import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ecg_jax.prediction import ecg_plot, ecg_svg, pictures
from ecg_jax.prediction.aggregation import WindowPrediction, clock
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.prediction.predictor import RecordingResult, Settings, Window
from ecg_jax.recordings import lead, resampling
from ecg_jax.runtime.page import Html

MOST_EXPLAINED = 64
"""Windows of a long recording with an attribution, at most, which takes most of
the time: half an hour of them."""

MOST_DRAWN = 256
"""Windows of a long recording that are drawn, at most, where it has more
episodes than are explained."""

Opener = Callable[[], lead.Recording]
"""Opens a recording."""

_MOST_THREADS = 8
"""That draw; each takes the memory of a window's gradients."""

_UNEXPLAINED = ecg_plot.Attribution(np.zeros(1), ecg_plot.LONGEST_SECONDS)
"""Has no bars."""


class Choice(NamedTuple):
  """The windows of a recording that are drawn, by their positions."""

  drawn: list[int]
  """Ascending."""
  explained: set[int]
  """Those with an attribution."""
  of_episodes: list[int]
  """The most certain window of each episode, drawn or not."""


def choose(result: RecordingResult) -> Choice:
  """Chooses the windows of a recording that are drawn.

  Of a long one they are the most certain of each episode, the longest episodes
  first, and of each class; where these are few, then the first of the others.
  """
  windows = range(len(result.windows))
  episodes = result.summary.episodes if result.summary else []
  middles = [(window.start + window.end) / 2 for window in result.windows]
  of_episodes = [
    surest(
      result,
      windows[bisect.bisect(middles, start) : bisect.bisect_left(middles, end)],
      str(result.spec.episode_class),
    )
    for start, end in episodes
  ]
  lengths = [start - end for start, end in episodes]
  longest = sorted(range(len(episodes)), key=lengths.__getitem__)
  chosen = [of_episodes[number] for number in longest]
  if windows:
    chosen += [surest(result, windows, name) for name in result.spec.classes]
  most = min(max(len({*chosen}), MOST_EXPLAINED), MOST_DRAWN)
  ranked = [*dict.fromkeys([*chosen, *windows])][:most]
  return Choice(sorted(ranked), {*ranked[:MOST_EXPLAINED]}, of_episodes)


def surest(result: RecordingResult, windows: Sequence[int], name: str) -> int:
  """Of some windows that with the highest probability of a class."""
  column = result.spec.classes.index(name)
  return max(
    windows,
    key=lambda index: result.windows[index].answer.probabilities[column],
  )


def times_of(window: WindowPrediction) -> str:
  """Start and end of a window, in words."""
  return f'{clock(window.start)} to {clock(window.end)}'


def draw(
  model: Ensemble,
  results: Sequence[RecordingResult],
  choices: Sequence[Choice],
  openers: Mapping[str, Opener],
  settings: Settings,
) -> Iterator[Html]:
  """Draws the chosen windows of all recordings, in order, some at a time."""
  threads = min(_MOST_THREADS, os.cpu_count() or 1)
  coming: collections.deque[concurrent.futures.Future[Html]]
  coming = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for result, choice in zip(results, choices, strict=True):
      windows = _read(model, result, choice.drawn, openers, settings)
      for index, window in zip(choice.drawn, windows, strict=True):
        explained = index in choice.explained
        coming.append(
          pool.submit(_draw, model, result, index, window, explained)
        )
        if len(coming) > 2 * threads:
          yield coming.popleft().result()
    while coming:
      yield coming.popleft().result()


def _draw(
  model: Ensemble,
  result: RecordingResult,
  index: int,
  window: Window,
  explained: bool,
) -> Html:
  """Draws a window, with what speaks for its prediction or without."""
  prediction = result.windows[index]
  attribution = _UNEXPLAINED
  if explained:
    attribution = pictures.attribute(model, window, prediction.answer)
  return ecg_svg.draw(
    window.counts,
    model.spec,
    attribution=attribution,
    beats=np.asarray(prediction.beats) - window.start,
    description=f'ECG of {result.name}, {times_of(prediction)}',
  )


def _read(
  model: Ensemble,
  result: RecordingResult,
  positions: Sequence[int],
  openers: Mapping[str, Opener],
  settings: Settings,
) -> Iterator[Window]:
  """Reads windows of a long recording; that of a short one is kept."""
  if not positions:
    return
  if not result.windowed:
    [window, _] = next(iter(result.examples.values()))
    yield window
    return
  recording = openers[result.name]()
  for index in positions:
    start, end = result.windows[index].start, result.windows[index].end
    counts, *_ = resampling.read_window(
      recording,
      model.encoding,
      start,
      end - start,
      bandpass=settings.bandpass,
    )
    yield Window(0, start, end, counts, model.folds)

"""The picture of one recording: ECG paper, probabilities, and attribution.

All sizes are millimeters of paper; 25 of them are a second, 10 a millivolt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROW_SECONDS = 10

LONGEST_SECONDS = 120
"""Longest part of a recording that is drawn, from its start."""

LEAST_MILLIVOLT, MOST_MILLIVOLT = 1.5, 5.0
"""Height of a row; a trace beyond it is cut off, and marked."""

LEAST_ATTRIBUTION = 1e-4
"""If the strongest segment is weaker, attributions are rounding errors and are
not drawn. In a real record it is around 0.1."""

PNG_DPI = 127
"""Five pixels per millimeter, so that the lines of the paper are even."""

_SECOND, _MILLIVOLT = 25, 10

_MARGIN, _HEADER, _STRIP, _GAP = 6, 26, 8, 7

_BAR = 3.25  # Height of the bar of a class.

_PULSE_SECONDS = 0.4  # Space left of each row for the pulse of 1 mV.

_PAPER, _FINE, _COARSE = '#fffafa', '#f9dcdc', '#eeaaaa'

_REPLACEMENT = '\N{REPLACEMENT CHARACTER}'

_FOR, _AGAINST = '#d95f02', '#1f78b4'

_BEAT, _WARNING = '0.45', '#b00020'


class Attribution(NamedTuple):
  """What speaks for the most likely class, and what against it."""

  shares: np.ndarray
  """Float [segments], contribution of each segment, for the class (above 0) or
  against it (below)."""
  segment_seconds: float
  """Length of a segment."""
  without_trees: bool = False
  """Whether trees have a part in the probabilities, which has none in this."""


class Rhythm(NamedTuple):
  """What was found in the signal beside the answer."""

  beats: np.ndarray | tuple[()] = ()
  """Float [beats], the R peaks, seconds from the start of the signal."""
  per_minute: float | None = None
  """Heart rate, if there is one."""
  warnings: Sequence[str] = ()
  """How the signal differs from the records trained on."""


def robust_range(trace: np.ndarray) -> tuple[float, float]:
  """Lowest and highest value of a trace, except for a few spikes."""
  low, high = np.percentile(trace, [0.2, 99.8])
  return float(low), float(high)


def draw_trace(
  axes: Axes, trace: np.ndarray, sampling_rate: float, start: float = 0.0
) -> None:
  """Draws a trace over time.

  Args:
    axes: Axes to draw on.
    trace: Float [samples].
    sampling_rate: Hz.
    start: Time of the first sample, seconds.
  """
  time = start + np.arange(len(trace)) / sampling_rate
  axes.plot(time, trace, color='black', linewidth=0.6)


def draw(
  signal: np.ndarray,
  sampling_rate: float,
  *,
  name: str,
  lead: str,
  classes: Mapping[str, str],
  answer: str,
  probabilities: np.ndarray,
  attribution: Attribution,
  rhythm: Rhythm,
) -> Figure:
  """Draws one recording, or one window of it.

  Args:
    signal: Float [samples], mV; its median is drawn as zero.
    sampling_rate: Hz.
    name: Name of the recording, any text.
    lead: Name of the lead.
    classes: All classes, each with its name in words.
    answer: A class, or the text reported instead.
    probabilities: Float [C], in the order of `classes`.
    attribution: Of the most likely class.
    rhythm: Marked above the trace, and written.

  Returns:
    The figure, at true scale.
  """
  shown = signal[: round(LONGEST_SECONDS * sampling_rate)]
  shown = np.asarray(shown, np.float64) - np.median(shown)
  low, high = paper_limits(shown)
  row_samples = round(ROW_SECONDS * sampling_rate)
  starts = range(0, len(shown), row_samples)
  row_height = _MILLIVOLT * (high - low) + _STRIP + _GAP
  width = _SECOND * (_PULSE_SECONDS + ROW_SECONDS) + 2 * _MARGIN
  bars = _BAR * max(len(classes), 4)
  header = _HEADER + bars - 4 * _BAR
  sheet = _Sheet(width, header + row_height * len(starts) + _MARGIN)

  seconds = len(signal) / sampling_rate
  length = f'{seconds:.1f} s'
  if len(shown) < len(signal):
    length = f'the first {LONGEST_SECONDS} s of {seconds:.0f} s'
  sheet.write(_MARGIN, 4, _printable(name), fontsize=13, fontweight='bold')
  if rhythm.per_minute is not None:
    length += f', {rhythm.per_minute:.0f} beats/min'
  scale = '      25 mm/s, 10 mm/mV'
  details = f'lead {_printable(lead)}, {sampling_rate:g} Hz, {length}{scale}'
  sheet.write(_MARGIN, 11.5, details, fontsize=9)
  warning = _printable('; '.join(rhythm.warnings), 120)
  sheet.write(_MARGIN, 22.5, warning, fontsize=8, color=_WARNING)
  likeliest = list(classes)[int(np.argmax(probabilities))]
  speaks_for = 'bars below the trace: what speaks for'
  speaks_for += f' {_printable(likeliest, 12)} (up)'
  sheet.write(_MARGIN, 17.5, speaks_for, fontsize=9, color=_FOR)
  against = 'and against it (down)'
  if attribution.without_trees:
    against += '; of the network, not of the trees'
  right = _MARGIN + 74.3 + 1.7 * len(_printable(likeliest, 12))
  sheet.write(right, 17.5, against, fontsize=9, color=_AGAINST)
  meaning = classes.get(answer, answer)
  title = answer if meaning == answer else f'{answer}, {meaning}'
  title = _printable(title, 40)
  sheet.write(width - 95, 4, title, fontsize=13, fontweight='bold')
  chances = sheet.axes(width - 58, 11, 38, bars)
  names = [_printable(words, 24) for words in classes.values()]
  _draw_probabilities(chances, probabilities, names)

  heights = bar_heights(attribution.shares)
  top: float = header
  for first in starts:
    row = shown[first : first + row_samples]
    start = first / sampling_rate
    times = (start - _PULSE_SECONDS, start + len(row) / sampling_rate)
    row_width = _SECOND * (times[1] - times[0])
    paper = sheet.axes(_MARGIN, top, row_width, _MILLIVOLT * (high - low))
    _draw_paper(paper, times, (low, high))
    _draw_pulse(paper, start, high)
    _mark_beats(paper, np.asarray(rhythm.beats), (start, times[1]), high)
    draw_trace(paper, np.clip(row, low, high), sampling_rate, start)
    _mark_cut(paper, start + np.arange(len(row)) / sampling_rate, row)
    below = top + _MILLIVOLT * (high - low) + 0.5
    strip = sheet.axes(_MARGIN, below, row_width, _STRIP)
    seconds_each = attribution.segment_seconds
    _draw_attribution(strip, heights, seconds_each, times, start)
    top += row_height
  return sheet.figure


class _Sheet:
  """A figure addressed in millimeters from its top left corner."""

  def __init__(self, width: float, height: float):
    self.size = width, height
    inches = (width / 25.4, height / 25.4)
    self.figure = Figure(figsize=inches, facecolor='white')

  def axes(self, left: float, top: float, width: float, height: float) -> Axes:
    """Adds axes."""
    x, y = self.size
    place = left / x, 1 - (top + height) / y, width / x, height / y
    return self.figure.add_axes(place)

  def write(self, left: float, top: float, text: str, **style: Any) -> None:
    """Writes a line of text."""
    x, y = left / self.size[0], 1 - top / self.size[1]
    self.figure.text(x, y, text, parse_math=False, va='top', **style)


def _printable(text: str, longest: int = 60) -> str:
  """The text with unprintable characters replaced, cut where too long."""
  text = ''.join(x if x.isprintable() else _REPLACEMENT for x in text)
  return text if len(text) <= longest else f'{text[: longest - 1]}…'


def paper_limits(trace: np.ndarray) -> tuple[float, float]:
  """Lowest and highest mV of a row, multiples of half a millivolt apart."""
  low, high = float(trace.min()), float(trace.max())
  if high - low > MOST_MILLIVOLT - 1:
    low, high = robust_range(trace)
  middle = round(low + high) / 2  # Up to 0.25 mV from the trace's.
  half = np.ceil(high - low + 0.5) / 2
  half = np.clip(half, LEAST_MILLIVOLT / 2, MOST_MILLIVOLT / 2)
  return middle - half, middle + half


def _draw_paper(
  axes: Axes, times: tuple[float, float], limits: tuple[float, float]
) -> None:
  """Lines every millimeter, stronger ones every five; a path per kind."""
  axes.set(xlim=times, ylim=limits, xticks=[], yticks=[], facecolor=_PAPER)
  axes.spines[:].set_color(_COARSE)
  for step, color, width in ((1, _FINE, 0.4), (5, _COARSE, 0.6)):
    for scale, ends, (first, last) in (
      (_SECOND, limits, times),
      (_MILLIVOLT, times, limits),
    ):
      marks = np.arange(
        np.ceil(first * scale / step - 1e-6), last * scale / step + 1e-6
      )
      # Parallel lines with gaps between.
      along = np.repeat(marks * step / scale, 3)
      across = np.tile([*ends, np.nan], len(marks))
      x, y = (along, across) if scale == _SECOND else (across, along)
      axes.plot(x, y, color=color, linewidth=width, zorder=0.5)


def _draw_pulse(axes: Axes, start: float, highest: float) -> None:
  """The pulse of 1 mV and 0.2 s that shows the scale, within the paper."""
  time = start - _PULSE_SECONDS + np.array([0.04, 0.1, 0.1, 0.3, 0.3, 0.36])
  pulse = np.array([0, 0, 1, 1, 0, 0]) + min(0, highest - 1.2)
  axes.plot(time, pulse, color='black', linewidth=0.8)


def _mark_beats(
  axes: Axes, beats: np.ndarray, times: tuple[float, float], highest: float
) -> None:
  """Marks R peaks of a row at the upper edge of the paper."""
  shown = beats[(times[0] <= beats) & (beats < times[1])]
  style: dict[str, Any] = {'color': _BEAT, 'markersize': 3}
  axes.plot(shown, np.full(len(shown), highest - 0.05), 'v', **style)


def _mark_cut(axes: Axes, time: np.ndarray, row: np.ndarray) -> None:
  """Marks, in red, where a row of the trace goes beyond the paper."""
  low, high = axes.get_ylim()
  style: dict[str, Any] = {'color': 'red', 'markersize': 3, 'clip_on': False}
  for cut, edge in ((row < low, low), (row > high, high)):
    axes.plot(time[cut], np.full(cut.sum(), edge), '.', **style)


def bar_heights(shares: np.ndarray) -> np.ndarray:
  """Heights, between -1 and 1, of the bars of an attribution."""
  if np.abs(shares).max() < LEAST_ATTRIBUTION:
    return np.zeros_like(shares)
  # A few strong segments must not hide the rest.
  strong = max(float(np.quantile(np.abs(shares), 0.98)), 1e-9)
  return np.clip(shares / strong, -1, 1)


def _draw_attribution(
  axes: Axes,
  heights: np.ndarray,
  segment_seconds: float,
  times: tuple[float, float],
  start: float,
) -> None:
  """Bars between -1 and 1 under a row that begins at `start`, and seconds."""
  begins = np.arange(len(heights)) * segment_seconds
  middles = begins + segment_seconds / 2
  inside = (start < middles) & (middles < times[1])
  values = heights[inside]
  colors = np.where(values > 0, _FOR, _AGAINST)
  axes.bar(begins[inside], values, segment_seconds, align='edge', color=colors)
  axes.plot([start, times[1]], [0, 0], color='0.5', linewidth=0.5)
  axes.set(xlim=times, ylim=(-1, 1), yticks=[])
  axes.spines[:].set_visible(False)
  seconds = np.arange(np.ceil(start - 1e-6), times[1] + 1e-6)
  labels = [f'{abs(second):.0f}' for second in seconds]
  axes.set_xticks(seconds, labels, fontsize=7)
  axes.tick_params(length=2, pad=1, color='0.5', labelcolor='0.3')


def _draw_probabilities(
  axes: Axes, probabilities: np.ndarray, names: Sequence[str]
) -> None:
  """A bar per class, the most likely one dark."""
  places = range(len(names))
  colors = np.where(probabilities == probabilities.max(), '0.25', '0.7')
  axes.barh(places, probabilities, 0.7, color=colors)
  for place, probability in zip(places, probabilities, strict=True):
    percent = f'{100 * probability:.0f} %'
    axes.text(1.05, place, percent, va='center', fontsize=8)
  axes.set(xlim=(0, 1), xticks=[])
  axes.set_yticks(places, names, fontsize=8)
  axes.invert_yaxis()
  axes.tick_params(length=0)
  axes.spines[['top', 'right', 'bottom']].set_visible(False)
  axes.spines.left.set_color('0.6')

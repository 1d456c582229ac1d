"""Columns of times: the sampling rate that they tell, and their jumps."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from ecg_jax.errors import InputError

_PLAUSIBLE = (50.0, 5000.0)
"""Hz; of s, ms, us and ns only one puts a rate there."""

_MAX_GAP = 7 * 86_400.0
"""Seconds that a jump of the time lasts at most."""

_SHORTEST = 512
"""Rows of a recording, at least; a counter that begins anew earlier has few
bits."""

_DAY = 86_400.0

_LONGEST = 64
"""Characters of a time, at most."""

_MONTHS = ('jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct',
           'nov', 'dec')  # fmt: skip

_PARTS = re.compile(
  r'(?:(?P<year>\d{4})[-./](?P<month>\d\d?)[-./](?P<day>\d\d?)[ T_]+|'
  rf'(?P<early_day>\d\d?)[- ./](?P<name>{"|".join(_MONTHS)})[a-z]*\.?[- ./]'
  r'(?P<late_year>\d{4})[ T_]+)?'
  r'(?P<a>\d{1,9}):(?P<b>\d{1,9})(?::(?P<c>\d{1,9}))?'
  r'(?:[.,:](?P<part>\d{1,15}))?(?: ?(?P<half>[ap])\.?m)?',
  re.ASCII | re.IGNORECASE,
)
"""A date and a time of day, or a time since the start."""


@dataclasses.dataclass(frozen=True)
class Clock:
  """A column whose numbers rise by the same step with each row.

  That may be a time, or the number of the row.
  """

  column: int
  step: float
  """From row to row, in the unit of the column."""
  resolution: float
  """Least difference of two times that the column can show."""
  seconds: float | None
  """Seconds in the column's unit, None where it is not known, or is a row."""
  assumed: bool
  """Whether the unit was chosen because only it gives a plausible rate."""
  of_day: bool
  """Whether it may be a time of day, which begins again at midnight."""
  irregular: bool
  """Whether its steps differ, such as those of a computer that receives."""

  @property
  def unit(self) -> str:
    """The unit that is assumed, '' if it is stated."""
    units = {1.0: 's', 1e-3: 'ms', 1e-6: 'us', 1e-9: 'ns'}
    return units.get(self.seconds or 0.0, '') if self.assumed else ''

  @property
  def rate(self) -> float | None:
    """Rows per second, or None."""
    return None if self.seconds is None else 1 / (self.step * self.seconds)


def clock_seconds(texts: Sequence[str] | np.ndarray) -> np.ndarray:
  """Converts times of day, or since a start, to seconds.

  Texts that differ in their digits only are converted together.

  Args:
    texts: As `text_lines.CLOCK` describes them.

  Returns:
    float64 [len(texts)], NaN for what is no time; with the day of a date only
    where it is written year first or with the month's name.
  """
  fixed = np.array([str(text)[:_LONGEST] for text in texts], str)
  width = fixed.dtype.itemsize // 4
  signs = (
    fixed.view(np.uint32).reshape(-1, width) if width else np.empty((0, 0))
  )
  is_digit = (signs >= ord('0')) & (signs <= ord('9'))
  forms = np.where(is_digit, ord('0'), signs)
  seconds = np.full(len(fixed), np.nan)
  rest = np.arange(len(fixed))
  while len(rest):
    same = (forms[rest] == forms[rest[0]]).all(axis=1)
    rows, rest = rest[same], rest[~same]
    seconds[rows] = _seconds(str(fixed[rows[0]]), signs[rows])
  return seconds


def _seconds(text: str, signs: np.ndarray) -> np.ndarray | float:
  """Seconds of texts of one form.

  Args:
    text: One of them.
    signs: Characters [texts, length] of all.
  """
  found = _PARTS.search(text)
  if found is None:
    return np.nan

  def number(part: str) -> np.ndarray:
    digits = signs[:, slice(*found.span(part))].astype(np.int64) - ord('0')
    return digits @ 10 ** np.arange(digits.shape[1])[::-1]

  hours, minutes, seconds = number('a'), number('b'), number('c')
  if found['c'] is None and found['part']:  # Minutes and seconds.
    hours, minutes, seconds = 0 * hours, hours, minutes
  if found['half']:
    hours = hours % 12 + 12 * (found['half'].lower() == 'p')
  time = 3600 * hours + 60 * minutes + seconds
  digits = len(found['part'] or '')
  return time + _days(found, number) * 86_400 + number('part') / 10**digits


def _days(
  found: re.Match[str], number: Callable[[str], np.ndarray]
) -> np.ndarray | int:
  """Days of dates, 0 where it cannot be known which number is the month."""
  if found['year']:
    year, month, day = number('year'), number('month'), number('day')
  elif found['name']:
    year, day = number('late_year'), number('early_day')
    month = np.full_like(day, 1 + _MONTHS.index(found['name'].lower()))
  else:
    return 0
  right = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
  months = (year - 1970) * 12 + month - 1
  days = months.astype('M8[M]').astype('M8[D]').astype(np.int64) + day - 1
  return np.where(right, days, 0)


def find_clock(
  column: int,
  blocks: Sequence[np.ndarray],
  seconds: float | None,
  *,
  may_assume: bool,
  of_day: bool = False,
  may_differ: bool = False,
) -> Clock | None:
  """The clock of a column, or None if its steps are not regular.

  Args:
    column: Its number.
    blocks: Times of consecutive rows from several places.
    seconds: Seconds in the unit of the times, None if not stated.
    may_assume: Whether a unit may be assumed that is not stated.
    of_day: Whether these may be times of day.
    may_differ: Whether the steps may differ, and the clock be irregular.
  """
  if of_day:
    blocks = [x + _midnights(np.diff(x, prepend=x[:1])) for x in blocks]
  found = _common(blocks)
  irregular = found is None
  if found is None and may_differ:
    found = _mean_step(max(blocks, key=len))
  if found is None:
    return None
  step, resolution, error = found
  assumed = seconds is None and may_assume
  if assumed:
    low, high = _PLAUSIBLE
    seconds = next(
      (x for x in (1.0, 1e-3, 1e-6, 1e-9) if low <= 1 / (step * x) <= high),
      None,
    )
  if seconds is not None:
    rate = 1 / (step * seconds)
    near = next(
      x
      for x in (round(rate), round(rate, 1), round(rate, 3), rate)
      if abs(rate - x) <= (error + 1e-6) * rate
    )
    step = 1 / (near * seconds)
  elif abs(step - 1) <= error + 1e-6:
    step = 1.0
  return Clock(column, step, resolution, seconds, assumed, of_day, irregular)


def _common(
  blocks: Sequence[np.ndarray],
) -> tuple[float, float, float] | None:
  """What `_step` finds in blocks, None if that is not the same in all."""
  estimates = [x for x in map(_step, blocks) if x is not None]
  if not estimates:
    return None
  step, _, error = min(estimates, key=lambda x: x[2])
  if any(
    abs(other / step - 1) > 2 * (error + other_error) + 2e-3
    for other, _, other_error in estimates
  ):
    return None
  # The later a time is, the coarser it may be written.
  return step, max(x[1] for x in estimates), error


def _mean_step(times: np.ndarray) -> tuple[float, float, float] | None:
  """The same as `_step` of times whose steps differ, but around a mean."""
  times = times[np.isfinite(times)]
  steps = np.diff(times)
  if len(steps) < 500:
    return None
  lag = len(steps) // 10
  step = float(np.median(times[lag:] - times[:-lag])) / lag
  jumps = (steps > 3 * np.quantile(steps, 0.995)) * (steps - step)
  rows = np.arange(len(steps))
  known = np.cumsum(steps - jumps)
  step = float(np.polyfit(rows, known, 1)[0])
  rest = known - step * rows
  spread = float(rest.max() - rest.min())
  error = 0.5 * spread / (step * len(steps)) if step > 0 else 1.0
  return (step, spread, error) if 0 < error < 0.02 else None


def _step(times: np.ndarray) -> tuple[float, float, float] | None:
  """Step of regular times, their resolution and the step's relative error."""
  times = times[np.isfinite(times)]
  back = np.flatnonzero(np.diff(times) < 0) + 1
  times = max(np.split(times, back), key=len)
  steps = np.diff(times)
  if len(steps) < 20 or not steps.any():
    return None
  noise = 4 * np.finfo(np.float64).eps * float(np.abs(times).max())
  if np.mean(steps == 0) > 0.5:
    return _coarse(times, noise)
  finest = float(steps[steps > noise].min())
  for lag in (16, 128, len(times) // 2):
    if lag >= len(times):
      continue
    step = float(np.median(times[lag:] - times[:-lag])) / lag
    jumps = np.flatnonzero(steps > 1.75 * step + max(finest, noise))
    ends = np.array([-1, *jumps, len(steps)])
    longest = int(np.argmax(np.diff(ends)))
    part = times[ends[longest] + 1 : ends[longest + 1] + 1]
    if step <= 0 or len(part) < 20:
      continue
    rows = np.arange(len(part))
    step = float(np.polyfit(rows, part - part[0], 1)[0])
    rest = part - part[0] - step * rows
    spread = float(rest.max() - rest.min()) + noise
    error = spread / (step * len(part))
    if spread <= max(step, 1.1 * finest) + noise and error < 0.01:
      return step, spread, error
  return None


def _coarse(
  times: np.ndarray, noise: float
) -> tuple[float, float, float] | None:
  """The same of times that several rows share, such as whole seconds."""
  edges = np.flatnonzero(np.diff(times)) + 1
  counts, spans = np.diff(edges), np.diff(times[edges])
  if len(counts) < 3:
    return None
  unit = float(np.median(spans))
  usual = np.abs(spans - unit) <= 0.1 * unit + noise
  counts, spans = counts[usual], spans[usual]
  if np.mean(usual) < 0.8 or len(counts) < 3:
    return None
  if np.ptp(counts) > max(2, 0.05 * counts.mean()):
    return None
  error = (np.ptp(counts) + 0.01) / counts.sum() + np.ptp(spans) / spans.sum()
  return float(spans.sum() / counts.sum()), float(spans.max()), float(error)


def _count(before: np.ndarray, after: np.ndarray, clock: Clock) -> float | None:
  """How far a counter of so many bits counts before it begins again.

  Args:
    before: Its last values.
    after: Its first values.
    clock: The counter.

  Returns:
    The count, None if it is no such counter.
  """
  top, bottom = float(before.max()), float(after.min())
  if clock.seconds is None and top - bottom < _SHORTEST * clock.step:
    return top - bottom + clock.step
  near = (2.0**bits for bits in (16, 24, 32) if 0.99 < top / 2.0**bits < 1)
  return next(near, None) if bottom < 0.01 * top else None


def _midnights(steps: np.ndarray) -> np.ndarray:
  """Seconds of the days that have passed, by steps of times of day."""
  return _DAY * np.cumsum(np.nan_to_num(steps) < -_DAY / 2)


class Gaps:
  """Finds the jumps of a clock, row by row through a file."""

  def __init__(self, clock: Clock, name: str):
    """Takes the clock, and the file's name for errors."""
    self._clock, self._name = clock, name
    self._last: float | None = None
    self._last_row = 0
    self._rows = 0
    self._added = 0.0
    self.places: list[int] = []
    """Rows before which samples are missing."""
    self.lengths: list[int] = []
    """Samples that are missing there."""

  def _is_even(self, times: np.ndarray) -> bool:
    """Whether the next rows go on step by step, as nearly all do."""
    if self._last is None or self._last_row != self._rows - 1 or self._added:
      return False
    steps = np.diff(times, prepend=self._last)
    # Neither is true of NaN.
    return bool(
      len(steps) and steps.min() >= 0 and steps.max() < 1.5 * self._clock.step
    )

  def add(self, times: np.ndarray) -> None:
    """Adds the times of the next rows; NaN where a row has none.

    Raises:
      InputError: The time goes back, or jumps further than a week.
    """
    clock = self._clock
    if self._is_even(times):
      self._rows += len(times)
      self._last, self._last_row = float(times[-1]), self._rows - 1
      return
    known = np.flatnonzero(np.isfinite(times))
    values = times[known] + self._added
    rows = known + self._rows
    self._rows += len(times)
    if not len(values):
      return
    if self._last is None:
      self._last_row = int(rows[0])
      self._last = float(values[0])
    steps = np.diff(values, prepend=self._last)
    if clock.of_day:
      passed_midnight = _midnights(steps)
      steps = np.diff(values + passed_midnight, prepend=self._last)
      values = values + passed_midnight
      self._added += float(passed_midnight[-1])
    tolerance = clock.resolution * 1.01 + 4 * np.finfo(np.float64).eps * abs(
      self._last
    )
    back = steps < -tolerance
    if back.any():
      before = np.append(self._last, values[:-1])[back]
      count = _count(before, values[back], clock)
      if count is None:
        row = int(rows[np.flatnonzero(back)[0]])
        does = 'goes back in time' if clock.seconds else 'counts anew'
        raise InputError(
          f'{self._name} {does} at row {row + 1}, as where another recording'
          ' begins: export its parts as files of their own.'
        )
      steps = np.where(back, steps % count, steps)
    self._last = float(values[-1])
    # Rows may share a time: a step is that of all since the last.
    changes = np.flatnonzero(steps)
    rows, steps = rows[changes], steps[changes]
    if not len(rows):
      return
    passed = np.diff(rows, prepend=self._last_row)
    self._last_row = int(rows[-1])
    missing = np.rint(steps / clock.step).astype(np.int64) - passed
    jump = (steps > passed * clock.step + max(0.5 * clock.step, tolerance)) & (
      missing > 0
    )
    # The later a time is, the coarser it may be written: such a step comes
    # again, after as many rows as it takes.
    again = np.append(steps[1:], 0.0)
    due = clock.step * np.append(passed[1:], 0)
    jump &= ~((steps <= 1.01 * again) & (np.abs(again - due) < 0.1 * again))
    longest = steps.max() * (clock.seconds or 0.0)
    if longest > _MAX_GAP or missing[jump].sum() > 2**40:
      raise InputError(
        f'{self._name} jumps by {longest:.3g} s in its time column: export its'
        ' parts as files of their own.'
      )
    self.places += rows[jump].tolist()
    self.lengths += missing[jump].tolist()

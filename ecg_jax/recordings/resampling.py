"""Windows of a lead as int16 samples at the rate and in the unit of a model.

The samples of a window do not depend on how the recording is cut.
"""

import fractions
import functools
import math
from typing import NamedTuple

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import lead

LONGEST_BRIDGED = 0.05
"""Seconds of missing samples in a row that are interpolated, at most."""

_FILTER_LENGTH = 16
"""Samples of the lower rate that the resampling filter spans to each side."""

_BANDPASS_CONTEXT = 6.0
"""Seconds of signal read to each side, in which the filter settles."""


_LARGE = 30.0
"""mV, the largest constant that is not subtracted before resampling."""

_LEAST_CONSTANT = 3000
"""Counts, the smallest constant that is removed from a window."""


class GapError(InputError):
  """More samples are missing in a row than are interpolated."""


class NoSamplesError(GapError):
  """All samples of a window are missing.

  Attributes:
    advice: What may help, if all are missing in the others as well.
  """

  def __init__(self, recording: lead.Recording, start: float, end: float):
    """Takes the recording, and the window in seconds."""
    source = recording.source
    several = source is not None and len(source.channels) > 1
    self.advice = 'choose another with --lead' if several else 'export it again'
    super().__init__(
      f'{recording.name} has no samples of lead {recording.lead} from'
      f' {start:.2f} to {end:.2f} s: {self.advice}.'
    )


def is_flat(lowest: float, highest: float, encoding: lead.Encoding) -> bool:
  """Whether samples in this range, mV, vary by less than a count."""
  count = 0.999 / encoding.counts_per_millivolt  # Float32 does not hold it.
  # Resampled, a constant varies by 2e-5 of itself.
  return bool(highest - lowest < count + 1e-4 * abs(lowest))


def flat_line(recording: lead.Recording, encoding: lead.Encoding) -> InputError:
  """The refusal of a recording that is flat everywhere; see `is_flat`."""
  count = 1 / encoding.counts_per_millivolt
  return InputError(
    f'{recording.name} is a flat line: lead {recording.lead} varies by less'
    f' than {count:g} mV; check its unit, or choose another lead.'
  )


def num_counts(recording: lead.Recording, sampling_rate: int) -> int:
  """Number of samples of a recording at another sampling rate, Hz."""
  up, down = _ratio(sampling_rate, recording.sampling_rate)
  return -(-recording.num_samples * up // down)


def window_times(
  seconds: float, window: float, stride: float
) -> list[tuple[float, float]]:
  """Start and end of the windows of a recording, in seconds.

  The last window is moved back to the end of the recording.

  Args:
    seconds: Length of the recording.
    window: Length of a window; a longer one is the whole recording.
    stride: Time from one start to the next.
  """
  if window >= seconds:
    return [(0.0, seconds)]
  count = int((seconds - window) / stride + 1e-9) + 1
  times = [(k * stride, k * stride + window) for k in range(count)]
  if times[-1][1] < seconds - 1e-6:
    times.append((seconds - window, seconds))
  return times


class Window(NamedTuple):
  """A part of a recording as a model takes it."""

  counts: np.ndarray
  """int16 [samples]."""
  removed: float
  """Constant that was subtracted, in mV; 0 nearly always."""
  flat: bool
  """Whether the samples, before a filter, vary by less than a count."""


def window_counts(
  recording: lead.Recording,
  encoding: lead.Encoding,
  start_seconds: float = 0.0,
  seconds: float = math.inf,
  *,
  bandpass: bool = False,
) -> np.ndarray:
  """The `counts` of `read_window`."""
  window = read_window(
    recording, encoding, start_seconds, seconds, bandpass=bandpass
  )
  return window.counts


def read_window(
  recording: lead.Recording,
  encoding: lead.Encoding,
  start_seconds: float = 0.0,
  seconds: float = math.inf,
  *,
  bandpass: bool = False,
) -> Window:
  """Reads a window of a recording as a model takes it.

  A recording of that rate and unit keeps its own int16 samples. Where the range
  of int16 would cut samples off and fewer without a constant, such as an
  electrode offset or the middle of unsigned words, the median is subtracted:
  models do not see a constant.

  Args:
    recording: The recording.
    encoding: Rate and unit of the result.
    start_seconds: Start of the window, at least 0.
    seconds: Length of the window, which ends at the recording's end at most.
    bandpass: Whether to filter, 0.5 to 40 Hz, without a time shift.

  Returns:
    The samples, clipped to the range of int16, the constant, and whether they
    are flat.

  Raises:
    GapError: More than LONGEST_BRIDGED is missing in a row.
    InputError: The file is damaged there.
  """
  rate = encoding.sampling_rate
  total = num_counts(recording, rate)
  start = min(round(start_seconds * rate), total)
  stop = min(total, start + round(min(seconds, total) * rate))
  margin = round(_BANDPASS_CONTEXT * rate) if bandpass else 0
  low, high = max(0, start - margin), min(total, stop + margin)
  millivolt = _resampled(recording, rate, (low, high), (start, stop))
  raw = millivolt[start - low : stop - low]
  flat = is_flat(raw.min(), raw.max(), encoding)
  if bandpass:
    from ecg_jax.recordings import filters

    millivolt = filters.bandpass(millivolt, rate)
  used = millivolt[start - low : stop - low]
  counts = np.rint(used * encoding.counts_per_millivolt)
  limits = np.iinfo(np.int16)
  clipped = np.clip(counts, limits.min, limits.max)
  removed = 0.0
  lost = np.count_nonzero(clipped != counts)
  median = float(np.median(used)) if lost else 0.0
  # Less is no offset, and would only make samples depend on the cut.
  if abs(median) * encoding.counts_per_millivolt > _LEAST_CONSTANT:
    centered = np.rint((used - median) * encoding.counts_per_millivolt)
    within = np.clip(centered, limits.min, limits.max)
    if np.count_nonzero(within != centered) < lost:
      clipped, removed = within, median
  return Window(clipped.astype(np.int16), removed, flat)


@functools.lru_cache
def _ratio(wanted: int, sampling_rate: float) -> tuple[int, int]:
  """Ratio of two sampling rates, with a relative error up to 5e-5."""
  ratio = fractions.Fraction(wanted) / fractions.Fraction(sampling_rate)
  return ratio.limit_denominator(10_000).as_integer_ratio()


def _resampled(
  recording: lead.Recording,
  wanted: int,
  part: tuple[int, int],
  needed: tuple[int, int],
) -> np.ndarray:
  """Samples of a part at the rate `wanted`, float64, in mV, none missing.

  They equal those of the whole recording resampled at once: as much is read to
  each side as the filter spans. The recording is extended by its first and last
  sample.

  Raises:
    GapError: A gap within `needed` is too long to be interpolated.
  """
  (low, high), (start, stop) = part, needed
  rate = recording.sampling_rate
  up, down = _ratio(wanted, rate)
  bridged = math.ceil(LONGEST_BRIDGED * rate)
  reach = _FILTER_LENGTH * max(up, down) // up + 1 + bridged
  first = low * down // up - reach
  first -= first % down  # The two rates have a sample in common there.
  last = high * down // up + reach
  begin, end = max(0, first), min(last, recording.num_samples)
  block = recording.millivolt(begin, end).astype(np.float64)
  present = np.isfinite(block)
  if not present.all():
    from_, to = start * down // up - begin, stop * down // up - begin
    for gap, length in _gaps(present):
      long = length > min(bridged, len(present) - 1)
      if long and length == len(present):
        raise NoSamplesError(recording, begin / rate, end / rate)
      if long and gap < to and gap + length > from_:
        raise GapError(
          f'{recording.name} has no samples at {(begin + gap) / rate:.2f} s for'
          f' longer than the {LONGEST_BRIDGED:g} s that are bridged: cut it'
          ' there.'
        )
    places = np.arange(len(block))
    block = np.interp(places, places[present], block[present])
  if up == down:
    return block[low - begin : high - begin]
  from ecg_jax.recordings import filters

  # The filter passes a constant with an error of 2e-5, times an offset of
  # volts too much.
  large = abs(block).max() > _LARGE and abs(np.median(block)) > _LARGE
  constant = np.median(block) if large else 0.0
  block = np.pad(block - constant, (begin - first, last - end), 'edge')
  block = filters.resample(block, up, down, reach=_FILTER_LENGTH)
  skipped = low - first // down * up
  return block[skipped : skipped + high - low] + constant


def _gaps(present: np.ndarray) -> list[tuple[int, int]]:
  """Start and length of each run of False."""
  edges = np.flatnonzero(np.diff(present, prepend=True, append=True))
  return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]

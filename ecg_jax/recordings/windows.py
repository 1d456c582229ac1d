"""Windows of a lead as the models see it: resampled to their rate."""

import fractions
import functools
import math

import numpy as np
import scipy.signal

from ecg_jax.errors import InputError
from ecg_jax.recordings import lead
from ecg_jax.recordings.training_range import SAMPLING_RATE

LONGEST_BRIDGED = 0.05
"""Seconds: missing samples up to here in a row are interpolated."""

_FILTER_LENGTH = 16
"""Of the resampling filter, to each side, in samples of the lower rate."""

_BANDPASS = (0.5, 40.0)
"""Hz, the band of the device that recorded the challenge's records."""

_BANDPASS_CONTEXT = 6.0
"""Seconds of signal read to each side, in which the filter settles."""


class GapError(InputError):
  """More samples are missing than are bridged."""


def num_counts(recording: lead.Recording) -> int:
  """Samples of a recording at 300 Hz."""
  up, down = _ratio(recording.sampling_rate)
  return -(-recording.num_samples * up // down)


def window_counts(
  recording: lead.Recording,
  start_seconds: float = 0.0,
  seconds: float = math.inf,
  *,
  bandpass: bool = False,
) -> np.ndarray:
  """A window of a recording as the models are given it.

  A challenge record comes out as the int16 samples it consists of.

  Args:
    recording: The recording.
    start_seconds: Where the window begins, at least 0.
    seconds: Its length; it ends where the recording ends.
    bandpass: Whether to filter, 0.5 to 40 Hz, without a shift in time.

  Returns:
    int16 [samples] at 300 Hz in counts of 1/1000 mV; what is outside of the
    range of int16 is set to its ends.

  Raises:
    GapError: More than LONGEST_BRIDGED is missing in a row.
    InputError: The file is damaged there.
  """
  total = num_counts(recording)
  start = min(round(start_seconds * SAMPLING_RATE), total)
  stop = min(total, start + round(min(seconds, total) * SAMPLING_RATE))
  margin = round(_BANDPASS_CONTEXT * SAMPLING_RATE) if bandpass else 0
  low, high = max(0, start - margin), min(total, stop + margin)
  millivolt = _resampled(recording, low, high, start, stop)
  if bandpass:
    sections = scipy.signal.butter(
      2, _BANDPASS, 'bandpass', fs=SAMPLING_RATE, output='sos'
    )
    millivolt = scipy.signal.sosfiltfilt(
      sections,
      millivolt,
      padlen=min(len(millivolt) - 1, SAMPLING_RATE),
    )
  counts = np.rint(millivolt[start - low : stop - low] * 1000.0)
  limits = np.iinfo(np.int16)
  return np.clip(counts, limits.min, limits.max).astype(np.int16)


@functools.lru_cache
def _ratio(sampling_rate: float) -> tuple[int, int]:
  """300 Hz / the rate as a fraction, off by 5e-5 of it at most."""
  ratio = fractions.Fraction(SAMPLING_RATE) / fractions.Fraction(sampling_rate)
  return ratio.limit_denominator(10_000).as_integer_ratio()


@functools.lru_cache(maxsize=4)
def _filter(up: int, down: int) -> np.ndarray:
  """Low-pass taps at `up` times the rate, float64, 80 dB down."""
  most = max(up, down)
  return scipy.signal.firwin(
    2 * _FILTER_LENGTH * most + 1, 1 / most, window=('kaiser', 8.0)
  )


def _resampled(
  recording: lead.Recording, low: int, high: int, start: int, stop: int
) -> np.ndarray:
  """Samples `low` to `high` of 300 Hz, float64, in mV, none missing.

  They are those of the whole recording resampled at once: as much is read to
  each side as the filter reaches. Before its start and behind its end it goes
  on as its first and last sample.

  Raises:
    GapError: From `start` to `stop` it has a gap too long to be bridged.
  """
  rate = recording.sampling_rate
  up, down = _ratio(rate)
  bridged = math.ceil(LONGEST_BRIDGED * rate)
  reach = _FILTER_LENGTH * max(up, down) // up + 1 + bridged
  first = low * down // up - reach
  first -= first % down  # Where a sample of 300 Hz is one of the recording's.
  last = high * down // up + reach
  begin, end = max(0, first), min(last, recording.num_samples)
  block = recording.millivolt(begin, end).astype(np.float64)
  there = np.isfinite(block)
  if not there.all():
    from_, to = start * down // up - begin, stop * down // up - begin
    for gap, length in _gaps(there):
      long = length > min(bridged, len(there) - 1)
      if long and gap < to and gap + length > from_:
        raise GapError(
          f'{recording.name} has no samples at {(begin + gap) / rate:.2f} s for'
          f' longer than the {LONGEST_BRIDGED:g} s that are bridged: cut it'
          ' there.'
        )
    block = np.interp(
      np.arange(len(block)), np.flatnonzero(there), block[there]
    )
  block = np.pad(block, (begin - first, last - end), 'edge')
  if up != down:
    block = scipy.signal.resample_poly(
      block, up, down, window=_filter(up, down)
    )
  skipped = low - first // down * up
  return block[skipped : skipped + high - low]


def _gaps(there: np.ndarray) -> list[tuple[int, int]]:
  """Start and length of each run of False."""
  edges = np.flatnonzero(np.diff(there, prepend=True, append=True))
  return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]

"""Differences between a window and the records that models are trained on."""

import dataclasses
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranges:
  """What the records of a dataset have, each as lowest and highest."""

  seconds: tuple[float, float]
  """Length of all records."""
  millivolt: tuple[float, float]
  """Difference of the 99.5th and the 0.5th percentile of a record's samples, in
  99 % of the records."""
  power_above_40_hz: tuple[float, float]
  """Share of the power above 0.5 Hz, in 99 % of the records."""


def measure(
  records: Iterable[np.ndarray],
  *,
  sampling_rate: int,
  counts_per_millivolt: float,
) -> Ranges:
  """Measures the ranges of records.

  Args:
    records: int16 [samples] each.
    sampling_rate: Hz.
    counts_per_millivolt: Unit of the samples.
  """
  rows = [
    (
      len(counts) / sampling_rate,
      _spread(counts) / counts_per_millivolt,
      _power_above_40_hz(counts, sampling_rate),
    )
    for counts in records
  ]
  seconds, *others = np.transpose(rows)
  millivolt, power = (np.quantile(x, [0.005, 0.995]) for x in others)
  return Ranges(
    seconds=(float(seconds.min()), float(seconds.max())),
    millivolt=(float(millivolt[0]), float(millivolt[1])),
    power_above_40_hz=(float(power[0]), float(power[1])),
  )


def departures(
  counts: np.ndarray,
  ranges: Ranges,
  *,
  sampling_rate: int,
  counts_per_millivolt: float,
) -> list[str]:
  """Finds the differences of a window from the training records.

  Args:
    counts: int16 [samples].
    ranges: What the training records have.
    sampling_rate: Hz.
    counts_per_millivolt: Unit of the samples.

  Returns:
    A phrase for each difference, the same for all windows.
  """
  found = []
  seconds = len(counts) / sampling_rate
  shortest, longest = ranges.seconds
  if seconds < shortest:
    found.append(f'shorter than the {shortest:g} s of training records')
  if seconds > longest:
    found.append(f'longer than the {longest:g} s of training records')
  spread = _spread(counts) / counts_per_millivolt
  low, high = ranges.millivolt
  limits = np.iinfo(np.int16)
  if counts.min() == limits.min or counts.max() == limits.max:
    most = limits.max / counts_per_millivolt
    found.append(f'cut off at {most:.5g} mV: check the units')
  elif not low <= spread <= high:
    side = 'below' if spread < low else 'above'
    found.append(
      f'amplitude {side} the {low:.3g} to {high:.3g} mV of training records'
    )
  share = _power_above_40_hz(counts, sampling_rate)
  low, high = ranges.power_above_40_hz
  if not low <= share <= high:
    found.append(
      f'{"less" if share < low else "more"} power above 40 Hz than the'
      f' {100 * low:.3g} to {100 * high:.3g} % of training records'
    )
  return found


def _spread(counts: np.ndarray) -> float:
  """Difference of two percentiles of the samples, robust to spikes."""
  low, high = np.percentile(counts, [0.5, 99.5])
  return float(high - low)


def _power_above_40_hz(counts: np.ndarray, sampling_rate: int) -> float:
  """Share of the power above 0.5 Hz; 0 for a flat line."""
  frequencies = np.fft.rfftfreq(len(counts), 1 / sampling_rate)
  spectrum = np.fft.rfft(counts - counts.mean())
  power = spectrum.real**2 + spectrum.imag**2
  total = power[frequencies >= 0.5].sum()
  return float(power[frequencies > 40].sum() / total) if total else 0.0

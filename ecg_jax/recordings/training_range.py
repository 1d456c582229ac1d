"""Differences between a window and the records that models are trained on.

The ranges cover 99 % of the PhysioNet/CinC Challenge 2017's 8,528 records, and
all of them for the length.
"""

import numpy as np

SAMPLING_RATE = 300
"""Hz, the rate of the models."""

SECONDS = (9.0, 61.0)

MILLIVOLT = (0.37, 7.0)
"""Difference of the 99.5th and the 0.5th percentile of a record's samples."""

POWER_ABOVE_40_HZ = (5e-5, 7e-3)
"""Share of the power above 0.5 Hz."""


def departures(counts: np.ndarray) -> list[str]:
  """Finds the differences of a window from the training records.

  Args:
    counts: int16 [samples] at 300 Hz, 1/1000 mV.

  Returns:
    A phrase for each difference, the same for all windows.
  """
  found = []
  seconds = len(counts) / SAMPLING_RATE
  if seconds < SECONDS[0]:
    found.append(f'shorter than the {SECONDS[0]:g} s of training records')
  if seconds > SECONDS[1]:
    found.append(f'longer than the {SECONDS[1]:g} s of training records')
  low, high = np.percentile(counts, [0.5, 99.5]) / 1000
  limits = np.iinfo(np.int16)
  if counts.min() == limits.min or counts.max() == limits.max:
    found.append('cut off at 32.767 mV: check the units')
  elif not MILLIVOLT[0] <= high - low <= MILLIVOLT[1]:
    side = 'below' if high - low < MILLIVOLT[0] else 'above'
    found.append(
      f'amplitude {side} the {MILLIVOLT[0]:g} to {MILLIVOLT[1]:g} mV of'
      ' training records'
    )
  frequencies = np.fft.rfftfreq(len(counts), 1 / SAMPLING_RATE)
  spectrum = np.fft.rfft(counts - counts.mean())
  power = spectrum.real**2 + spectrum.imag**2
  total = power[frequencies >= 0.5].sum()
  share = power[frequencies > 40].sum() / total if total else 0.0
  if not POWER_ABOVE_40_HZ[0] <= share <= POWER_ABOVE_40_HZ[1]:
    low, high = POWER_ABOVE_40_HZ
    found.append(
      f'{"less" if share < low else "more"} power above 40 Hz than the'
      f' {100 * low:g} to {100 * high:g} % of training records'
    )
  return found

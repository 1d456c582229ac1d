"""Filters of signals, with SciPy.

Imported by what filters, when it does: SciPy takes as long to import as JAX,
and a recording of the model's rate does without.
"""

import functools

import numpy as np
import scipy.signal

_BANDPASS = (0.5, 40.0)
"""Hz, the band of the device that recorded the challenge's records; it ends at
0.4 of a sampling rate below 100 Hz, which has no 40 Hz or hardly any."""


def bandpass(signal: np.ndarray, sampling_rate: int) -> np.ndarray:
  """Filters a signal, 0.5 to 40 Hz, without a time shift."""
  lowest, highest = _BANDPASS
  band = lowest, min(highest, 0.4 * sampling_rate)
  sections = scipy.signal.butter(
    2, band, 'bandpass', fs=sampling_rate, output='sos'
  )
  return scipy.signal.sosfiltfilt(
    sections, signal, padlen=min(len(signal) - 1, sampling_rate)
  )


def resample(
  signal: np.ndarray, up: int, down: int, *, reach: int
) -> np.ndarray:
  """Resamples a signal to `up / down` of its rate.

  Args:
    signal: The signal.
    up: Whole number.
    down: Whole number.
    reach: Samples of the lower rate that the filter spans to each side.
  """
  taps = _low_pass(max(up, down), reach)
  return scipy.signal.resample_poly(signal, up, down, window=taps)


@functools.lru_cache(maxsize=4)
def _low_pass(most: int, reach: int) -> np.ndarray:
  """Taps, float64, that pass 1 / most of the frequencies, 80 dB down beyond."""
  size = 2 * reach * most + 1
  return scipy.signal.firwin(size, 1 / most, window=('kaiser', 8.0))

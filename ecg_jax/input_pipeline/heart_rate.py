"""Random resampling: every recording is stretched to a random heart rate."""

import dataclasses

import numpy as np

HEART_RATE = 80.0
"""Beats per minute that every recording is taken to have (section 2.2)."""

_LONGEST_PRODUCT = 2**32


@dataclasses.dataclass(frozen=True)
class Resampling:
  """Random resampling: heart rates are stretched to a uniform random one."""

  slowest: float
  """Lowest heart rate, in beats per minute, if all had HEART_RATE."""
  fastest: float
  """Highest heart rate, in beats per minute."""

  def lengths(
    self, lengths: np.ndarray, rates: np.ndarray | float
  ) -> np.ndarray:
    """Samples, int64, of recordings stretched to `rates` (beats per minute)."""
    return np.rint(lengths * (HEART_RATE / rates)).astype(np.int64)


def longest_resampled(resampling: Resampling | None) -> int:
  """Longest recording, in samples, whose resampling is exact in 32 bits.

  Without resampling a step takes each sample by the same arithmetic.
  """
  stretch = HEART_RATE / resampling.slowest if resampling else 1
  return int((_LONGEST_PRODUCT / stretch) ** 0.5) - 1

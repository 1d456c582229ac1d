"""What a column or channel is, judged by its samples."""

from collections.abc import Sequence

import numpy as np

_FEWEST = 20
"""Samples from which a channel is judged at all."""

_FEWEST_OF_CLOCK = 50
"""Samples that rise without exception in a clock; an ECG's never do."""


def role(blocks: Sequence[np.ndarray]) -> str:
  """Judges a channel by blocks of its samples.

  Args:
    blocks: Consecutive samples [n] from several places, NaN where missing.

  Returns:
    'empty', 'constant', 'flag' (two values), 'row number', 'time', or '' for
    anything else, which may be an ECG.
  """
  values = np.concatenate([*blocks, np.empty(0)])
  present = values[np.isfinite(values)]
  if len(values) < _FEWEST:
    return ''
  if not len(present):
    return 'empty'
  if (present == present[0]).all():
    return 'constant'
  steps = np.concatenate(
    [np.diff(block[np.isfinite(block)]) for block in blocks]
  )
  if len(present) >= _FEWEST_OF_CLOCK and len(steps):
    typical = float(np.median(steps))
    even = np.mean(steps == 1) > 0.5
    if (steps >= 0).all() or (steps <= 0).all():
      return 'row number' if even else 'time'
    if even and np.mean(steps == 1) > 0.9:
      return 'row number'  # Of 4 bits.
    # A counter, or a time, begins again now and then.
    if typical > 0 and np.mean(np.abs(steps / typical - 1) < 0.5) > 0.95:
      return 'row number' if typical == 1 else 'time'
  return 'flag' if len(np.unique(present)) == 2 else ''

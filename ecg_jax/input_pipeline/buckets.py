"""The lengths that batches are padded to, each a program of its own."""

from typing import NamedTuple

import numpy as np

from ecg_jax.input_pipeline.heart_rate import HEART_RATE, Resampling

_QUANTUM = 32


class Bucket(NamedTuple):
  """Batches of about one length, which share a compiled program."""

  samples: int
  """Length that signals are computed in, after resampling."""
  window: int
  """Length that is cut out of the dataset, before resampling."""


def bucket_bounds(
  lengths: np.ndarray, *, num_buckets: int, resampling: Resampling | None
) -> tuple[int, ...]:
  """Chooses the buckets that compute the fewest samples of padding.

  Dynamic programming over bounds in steps of about 1/200 of the longest. With
  resampling, each length stands for 64 evenly spaced heart rates.

  Args:
    lengths: Samples of the dataset's recordings.
    num_buckets: How many buckets at most.
    resampling: Random resampling, or None.

  Returns:
    Ascending upper bounds in samples; the last holds the longest recording.
  """
  lengths = np.asarray(lengths)
  longest = lengths.max()
  if resampling is not None:
    rates = np.linspace(resampling.slowest, resampling.fastest, 65)
    middles = (rates[1:] + rates[:-1]) / 2
    longest = resampling.lengths(longest, resampling.slowest)
    lengths = resampling.lengths(lengths[:, None], middles).ravel()
  quantum = _QUANTUM * max(1, round(longest / 200 / _QUANTUM))
  # A bound just above a length that many recordings share wastes nothing.
  values, counts = np.unique(lengths, return_counts=True)
  frequent = values[counts > len(lengths) / 20]
  grid = np.arange(1, -(-longest // quantum) + 1) * quantum
  grid[-1] = longest
  grid = np.unique(np.concatenate([grid, frequent]))
  below = np.searchsorted(np.sort(lengths), grid, side='right')
  # cost[j]: samples computed for all recordings up to grid[j].
  cost = below * grid
  previous = np.zeros((num_buckets, len(grid)), np.int64)
  for bucket in range(1, num_buckets):
    steps = cost[:, None] + (below[None, :] - below[:, None]) * grid[None, :]
    steps[np.tril_indices(len(grid), -1)] = np.iinfo(np.int64).max
    previous[bucket] = steps.argmin(axis=0)
    cost = steps.min(axis=0)
  bounds, at = [], len(grid) - 1
  for bucket in reversed(range(num_buckets)):
    bounds.append(int(grid[at]))
    at = previous[bucket, at]
  return tuple(sorted(set(bounds)))


def window_samples(
  samples: int, longest: int, resampling: Resampling | None
) -> int:
  """Samples, before resampling, that hold any recording of a bucket.

  Args:
    samples: Upper bound of the bucket.
    longest: Samples of the longest recording of all.
    resampling: Random resampling, or None.
  """
  if resampling is None:
    return samples
  # A length is rounded, and may have lost half a sample.
  window = int((samples + 0.5) * resampling.fastest / HEART_RATE) + 1
  return min(longest, window)

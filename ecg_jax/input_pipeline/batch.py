"""What a step computes on: a batch of recordings."""

from typing import NamedTuple

import jax


class Batch(NamedTuple):
  """Recordings of one step; rows outside the mask are padding.

  B: batch, W: samples cut out of the dataset, N: samples computed.
  """

  signal: jax.Array
  """int16 [B, W], counts of the dataset's unit; not read behind a length."""
  signal_lengths: jax.Array
  """int32 [B], valid samples of `signal`."""
  lengths: jax.Array
  """int32 [B], samples after resampling, at most N."""
  mask: jax.Array
  """bool [B], rows that hold a record."""
  labels: jax.Array
  """int32 [B], class; not read in prediction."""
  weights: jax.Array
  """float32 [B], weight of each record in the loss; not read in prediction."""

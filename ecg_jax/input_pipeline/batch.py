"""What a step is given."""

from typing import NamedTuple

import jax


class Batch(NamedTuple):
  """What a step is given; rows outside the mask are padding."""

  signal: jax.Array
  """int16 [B, W], counts of 1/1000 mV; not read behind a length."""
  signal_lengths: jax.Array
  """int32 [B], valid samples of `signal`."""
  lengths: jax.Array
  """int32 [B], samples after resampling, at most N."""
  labels: jax.Array
  """int32 [B], class in the order N, A, O, ~."""
  mask: jax.Array
  """bool [B], rows that hold a record."""

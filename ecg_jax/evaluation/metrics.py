"""Sums over examples, kept on the device and finalised once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.evaluation import score


class Metrics(NamedTuple):
  """Sums over the examples seen so far; two are merged by adding."""

  confusion: jax.Array
  """int32 [4, 4], rows = actual, columns = predicted, order N, A, O, ~."""
  loss: jax.Array
  """float32, sum of the weighted cross-entropies."""
  records: jax.Array
  """int32, how many examples."""

  @classmethod
  def empty(cls) -> 'Metrics':
    """No example yet."""
    return cls(
      jnp.zeros((4, 4), jnp.int32),
      jnp.zeros((), jnp.float32),
      jnp.zeros((), jnp.int32),
    )

  def add(
    self,
    probabilities: jax.Array,
    labels: jax.Array,
    losses: jax.Array,
    mask: jax.Array,
  ) -> 'Metrics':
    """Adds the rows of one batch that the mask [B] holds.

    Args:
      probabilities: float32 [B, 4]; what is kept of a record, so the class it
        counts as is the one that a reader of them finds.
      labels: int32 [B].
      losses: float32 [B], weighted cross-entropies.
      mask: bool [B].

    Returns:
      The new sums.
    """
    actual = jax.nn.one_hot(labels, 4, dtype=jnp.int32) * mask[:, None]
    predicted = jax.nn.one_hot(
      probabilities.argmax(axis=-1), 4, dtype=jnp.int32
    )
    return Metrics(
      self.confusion + actual.T @ predicted,
      self.loss + jnp.sum(losses, where=mask),
      self.records + jnp.sum(mask, dtype=jnp.int32),
    )


def finalise(metrics: Metrics) -> dict[str, Any]:
  """The fields of one set in scores.json, from fetched sums."""
  fields = score.scores(np.asarray(metrics.confusion, np.int64))
  return {**fields, 'loss': float(metrics.loss) / max(1, int(metrics.records))}

"""Sums over examples, accumulated on the device and finalized once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.datasets import schema
from ecg_jax.evaluation import score

_CLASSES = len(schema.CLASSES)


class Metrics(NamedTuple):
  """Sums over the examples so far; two are merged by addition."""

  confusion: jax.Array
  """int32 [4, 4], rows = actual, columns = predicted, order N, A, O, ~."""
  loss: jax.Array
  """float32, sum of the weighted cross-entropies."""
  records: jax.Array
  """int32, number of examples."""

  @classmethod
  def empty(cls) -> 'Metrics':
    """Sums over no examples."""
    return cls(
      jnp.zeros((_CLASSES, _CLASSES), jnp.int32),
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
    """Adds the rows of one batch that are valid.

    Args:
      probabilities: float32 [B, 4]; these rather than logits, since they are
        saved: a reader finds the same class, also where two are equal.
      labels: int32 [B].
      losses: float32 [B], weighted cross-entropies.
      mask: bool [B], true for valid rows.

    Returns:
      The new sums.
    """
    actual = jax.nn.one_hot(labels, _CLASSES, dtype=jnp.int32)
    actual *= mask[:, None].astype(jnp.int32)
    predicted = jax.nn.one_hot(
      probabilities.argmax(axis=-1), _CLASSES, dtype=jnp.int32
    )
    return Metrics(
      self.confusion + actual.T @ predicted,
      self.loss + jnp.sum(losses, where=mask),
      self.records + jnp.sum(mask, dtype=jnp.int32),
    )


def finalise(metrics: Metrics) -> dict[str, Any]:
  """Computes the fields of one set in scores.json from fetched sums."""
  fields = score.scores(np.asarray(metrics.confusion, np.int64))
  return {**fields, 'loss': float(metrics.loss) / max(1, int(metrics.records))}

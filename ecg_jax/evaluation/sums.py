"""Sums over examples, accumulated on the device and finalized once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.evaluation import score


class Sums(NamedTuple):
  """Sums over the examples so far; two are merged by addition."""

  confusion: jax.Array
  """int32 [C, C], rows = actual, columns = predicted class."""
  loss: jax.Array
  """float32, sum of the losses."""
  records: jax.Array
  """int32, number of examples."""

  @classmethod
  def empty(cls, num_classes: int) -> 'Sums':
    """Sums over no examples, of C classes."""
    return cls(
      jnp.zeros((num_classes, num_classes), jnp.int32),
      jnp.zeros((), jnp.float32),
      jnp.zeros((), jnp.int32),
    )

  def add(
    self,
    probabilities: jax.Array,
    labels: jax.Array,
    losses: jax.Array,
    mask: jax.Array,
  ) -> 'Sums':
    """Adds the rows of one batch that are valid.

    Args:
      probabilities: float32 [B, C]; these rather than logits, since they are
        saved: a reader finds the same class, also where two are equal.
      labels: int32 [B].
      losses: float32 [B], losses.
      mask: bool [B], true for valid rows.

    Returns:
      The new sums.
    """
    num_classes = probabilities.shape[1]
    actual = jax.nn.one_hot(labels, num_classes, dtype=jnp.int32)
    actual *= mask[:, None].astype(jnp.int32)
    predicted = jax.nn.one_hot(
      probabilities.argmax(axis=-1), num_classes, dtype=jnp.int32
    )
    return Sums(
      self.confusion + actual.T @ predicted,
      self.loss + jnp.sum(losses, where=mask),
      self.records + jnp.sum(mask, dtype=jnp.int32),
    )


def finalise(sums: Sums, spec: DatasetSpec) -> dict[str, Any]:
  """Computes the fields of one set in scores.json from fetched sums."""
  fields = score.scores(np.asarray(sums.confusion, np.int64), spec)
  return {**fields, 'loss': float(sums.loss) / max(1, int(sums.records))}

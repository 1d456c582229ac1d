"""Gradient-boosted trees: a record's features -> a score of each class.

B: batch, F: features, R: rounds, C: classes, S: splits of a tree, at most, one
less than its leaves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


class Splits(NamedTuple):
  """The splits of all trees, each behind the one above it.

  The leaves of a tree are numbered from left to right, so that a node is known
  by its first leaf.
  """

  node: Array
  """int32 [S, R, C], the node that is split; -1 where the tree has fewer."""
  right: Array
  """int32 [S, R, C], the node to its right below; to its left is `node`."""
  feature: Array
  """int32 [S, R, C], which feature decides."""
  threshold: Array
  """float32 [S, R, C], the largest value that goes left."""
  missing_left: Array
  """bool [S, R, C], whether NaN goes left."""


class Trees(NamedTuple):
  """Trees of which each round adds one for each class."""

  baseline: Array
  """float32 [C], the score without any tree."""
  splits: Splits
  leaves: Array
  """float32 [R, C, S + 1], what a leaf adds to the score."""


def logits(trees: Trees, features_BxF: jax.Array) -> jax.Array:
  """The scores of records, whose softmax is their probabilities.

  Args:
    trees: The trees.
    features_BxF: float32, NaN where one is missing.

  Returns:
    float32 [B, C]; a row depends on its own features only.
  """
  return jax.vmap(lambda features: _logits(trees, features))(features_BxF)


def _logits(trees: Trees, features: jax.Array) -> jax.Array:
  """The scores, float32 [C], of a record with these features, float32 [F]."""

  def descend(node, split):
    value = features[split.feature]
    missing = jnp.isnan(value)
    goes_left = (value <= split.threshold) | (missing & split.missing_left)
    return jnp.where((node == split.node) & ~goes_left, split.right, node), None

  root = jnp.zeros(trees.leaves.shape[:2], jnp.int32)
  leaf, _ = jax.lax.scan(descend, root, trees.splits)
  values = jnp.take_along_axis(trees.leaves, leaf[:, :, None], axis=2)
  return jnp.asarray(trees.baseline) + values[:, :, 0].sum(axis=0)

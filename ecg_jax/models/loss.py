"""Weighted cross-entropy, and the weights of the classes."""

import jax
import jax.numpy as jnp
import numpy as np


def weighted_cross_entropy(
  logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> jax.Array:
  """Cross-entropy of each record times its weight, float32 [B].

  Args:
    logits: float32 [B, C].
    labels: int32 [B].
    weights: float32 [B].
  """
  log_probabilities = jax.nn.log_softmax(logits)
  # Not by a gather, whose gradient is a scatter: a GPU adds in any order.
  own = labels[:, None] == jnp.arange(log_probabilities.shape[1])[None, :]
  picked = jnp.sum(log_probabilities, axis=1, where=own)
  return -picked * weights


def class_weights(
  classes: np.ndarray, num_classes: int, power: float | None = None
) -> np.ndarray:
  """Loss weight of each class: 0.8 + 0.2 * 100 / its percentage (section 2.4).

  Args:
    classes: int [n], the class of each record of the fold's train set.
    num_classes: C.
    power: If given, not that formula but 1 / (share of the class) ** power.

  Returns:
    float32 [C]; a class without records has weight 0.
  """
  shares = np.bincount(classes, minlength=num_classes) / len(classes)
  safe = np.where(shares > 0, shares, 1)
  weights = 0.8 + 0.2 / safe if power is None else safe**-power
  return np.where(shares > 0, weights, 0).astype(np.float32)

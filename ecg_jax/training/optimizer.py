"""How a step changes the weights: AdamW, and their moving average."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ecg_jax.fields.training import OptimizerFields

# Decay, frozen parameters and average are written out below: with optax's own
# (`add_decayed_weights` in a chain, `partition`, `ema`) a checkpoint would be
# another tree, and the average's first steps other bits.
_ADAM = optax.scale_by_adam()


def split(
  params: Mapping[str, Any], trained: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Divides the top level of `params` into what is trained and what is not."""
  frozen = {name: params[name] for name in params if name not in trained}
  return {name: params[name] for name in trained}, frozen


def fresh_moments(params: Mapping[str, Any]) -> optax.OptState:
  """Adam's state for these parameters before its first step."""
  return _ADAM.init(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(OptimizerFields):
  """AdamW with a moving average of the weights; static under `jax.jit`."""

  def update(
    self,
    params: Mapping[str, Any],
    gradients: Mapping[str, Any],
    moments: optax.OptState,
    learning_rate: jax.Array,
  ) -> tuple[dict[str, Any], optax.OptState]:
    """One step.

    The learning rate is an argument, not part of the program, so that phases
    which differ in nothing else share one.

    Returns:
      New parameters and moments.
    """
    # optax raises its decay, a float, to the power of an int32 count.
    with jax.numpy_dtype_promotion('standard'):
      directions, moments = _ADAM.update(gradients, moments)

    def change(path, value, direction):
      if self.weight_decay and 'kernel' in path[-1].key:
        direction += self.weight_decay * value
      return value - learning_rate * direction

    changed = jax.tree_util.tree_map_with_path(change, dict(params), directions)
    return changed, moments

  def update_average(
    self,
    average: Mapping[str, Any],
    variables: Mapping[str, Any],
    trained: tuple[str, ...],
    step: jax.Array,
  ) -> dict[str, Any]:
    """The exponential moving average of the variables after a step.

    Over the first steps it forgets faster, so that it soon leaves the initial
    weights behind. What is not trained keeps its bits, which the mean of two
    equal numbers need not.

    Args:
      average: The average before; {} where none is kept.
      variables: `params` and `batch_stats` after the step.
      trained: The names in them that are trained.
      step: int32, steps made before this one.
    """
    keep = jnp.minimum(self.average_decay, (1 + step) / (10 + step))

    def mean(old, new):
      return keep * old + (1 - keep) * new

    return {
      collection: {
        name: jax.tree.map(mean, old, variables[collection][name])
        if name in trained
        else old
        for name, old in values.items()
      }
      for collection, values in average.items()
    }

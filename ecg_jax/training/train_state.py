"""All arrays that a training step changes, in one pytree."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ecg_jax.training import optimizer


@struct.dataclass
class TrainState:
  """The state of one training job."""

  params: dict[str, Any]
  """Parameters of all kinds of phase, by top-level module; float32."""
  batch_stats: dict[str, Any]
  """Running mean and variance of each batch normalisation; float32."""
  optimizer_state: Any
  """Adam's moments of the parameters that the present phase trains."""
  average: dict[str, Any]
  """Moving average of `params` and `batch_stats`, or {} where none is kept."""
  step: jax.Array
  """int32, steps made since the job began, through all phases."""

  @property
  def variables(self) -> dict[str, Any]:
    """What the model is trained with."""
    return {'params': self.params, 'batch_stats': self.batch_stats}

  @property
  def evaluated(self) -> dict[str, Any]:
    """What the model is evaluated with: the average, where there is one."""
    return self.average or self.variables


def begin_phase(
  variables: Mapping[str, Any],
  step: jax.Array | int,
  trained: tuple[str, ...],
  *,
  averaged: bool,
) -> TrainState:
  """A state with these variables and fresh optimizer moments.

  Args:
    variables: `params` and `batch_stats`.
    step: Steps made before.
    trained: Top-level parameters that the phase trains.
    averaged: Whether to keep an average, which begins with `variables`.
  """
  trainable, _ = optimizer.split(variables['params'], trained)
  return TrainState(
    params=dict(variables['params']),
    batch_stats=dict(variables['batch_stats']),
    optimizer_state=optimizer.fresh_moments(trainable),
    average=jax.tree.map(jnp.copy, dict(variables)) if averaged else {},
    step=jnp.asarray(step, jnp.int32),
  )

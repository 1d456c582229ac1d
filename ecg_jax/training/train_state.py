"""All arrays that a training step reads or changes, in one pytree."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ecg_jax.training import optimizer


@struct.dataclass
class SavedState:
  """What a checkpoint holds of a job's state; its fields are a file format."""

  params: dict[str, Any]
  """Parameters of all kinds of phase, by top-level module; float32."""
  batch_stats: dict[str, Any]
  """Running mean and variance of each batch normalization; float32."""
  optimizer_state: Any
  """Adam's moments of the parameters that the present phase trains."""
  average: dict[str, Any]
  """Moving average of `params` and `batch_stats`, or {} where none is kept."""
  step: jax.Array
  """int32, steps since the job began, through all phases."""


@struct.dataclass
class TrainState(SavedState):
  """The state of one training job."""

  key: jax.Array
  """The job's random key; that of a step is folded from it and `step`. It
  follows from the seed, the fold and the number of restores."""

  @property
  def variables(self) -> dict[str, Any]:
    """The variables that are trained."""
    return {'params': self.params, 'batch_stats': self.batch_stats}

  @property
  def evaluated(self) -> dict[str, Any]:
    """The variables that are evaluated: the average, where there is one."""
    return self.average or self.variables

  def saved(self) -> SavedState:
    """The part that goes into a checkpoint."""
    names = [field.name for field in dataclasses.fields(SavedState)]
    return SavedState(**{name: getattr(self, name) for name in names})

  def restored(self, saved: SavedState) -> 'TrainState':
    """This state with the arrays of a checkpoint."""
    return dataclasses.replace(self, **vars(saved))


def begin_phase(
  variables: Mapping[str, Any],
  step: jax.Array | int,
  key: jax.Array,
  trained: tuple[str, ...],
  *,
  averaged: bool,
) -> TrainState:
  """A state with these variables and fresh optimizer moments.

  Args:
    variables: `params` and `batch_stats`.
    step: Steps made before.
    key: The job's random key.
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
    key=key,
  )

"""The phases of training: which parameters, how long, at what learning rate."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

_ADAM = optax.scale_by_adam()


@dataclasses.dataclass(frozen=True)
class Phase:
  """One phase (paper, section 2.4)."""

  kind: str
  """Which parameters are trained: a key of the model's `trained`."""
  epochs: int
  """Epochs at most."""
  learning_rate: float
  """Constant through the phase."""

  @property
  def evaluated_as(self) -> str:
    """The kind under which the phase's network is evaluated."""
    return 'auxiliary' if self.kind == 'auxiliary' else 'all'


def phases(
  *,
  kinds: tuple[str, ...],
  epochs: tuple[int, ...],
  learning_rates: tuple[float, ...],
  max_epochs: int | None,
) -> tuple[Phase, ...]:
  """The phases in order; `max_epochs` caps each of them."""
  return tuple(
    Phase(kind, count if max_epochs is None else min(count, max_epochs), rate)
    for kind, count, rate in zip(kinds, epochs, learning_rates, strict=True)
  )


def split(
  params: Mapping[str, Any], trained: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Divides the top level of `params` into what is trained and what is not."""
  return (
    {name: params[name] for name in trained},
    {name: value for name, value in params.items() if name not in trained},
  )


def fresh_moments(params: Mapping[str, Any]) -> optax.OptState:
  """Adam's state for these parameters before its first step."""
  return _ADAM.init(params)


def update(
  params: Mapping[str, Any],
  gradients: Mapping[str, Any],
  moments: optax.OptState,
  learning_rate: jax.Array,
) -> tuple[dict[str, Any], optax.OptState]:
  """One step of Adam.

  The learning rate is an argument, not part of the program, so that phases
  which differ in nothing else share one.

  Returns:
    New parameters and moments.
  """
  directions, moments = _ADAM.update(gradients, moments)
  changed = jax.tree.map(
    lambda value, direction: value - learning_rate * direction,
    dict(params),
    directions,
  )
  return changed, moments

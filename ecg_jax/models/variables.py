"""The variables of a model: how they begin, and how many there are."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util


@functools.partial(jax.jit, static_argnames=('model', 'frequency_bins'))
def initialise(
  model: nn.Module, key: jax.Array, frequency_bins: int
) -> dict[str, Any]:
  """Initialises the variables of every kind of phase.

  A parameter depends on the key and its own path only, so those that several
  kinds of phase share have the same value.

  Args:
    model: As `ecg_jax.models` describes it.
    key: Random key.
    frequency_bins: Size of the last axis of the model's input.

  Returns:
    `params` and `batch_stats`, float32.
  """
  x = jnp.zeros((1, 16, frequency_bins))
  lengths = jnp.full((1,), 16)
  variables: dict[str, Any] = {'params': {}, 'batch_stats': {}}
  for kind, trained in model.trained.items():
    if set(trained) <= variables['params'].keys():
      continue
    initial = model.init(key, x, lengths, train=False, kind=kind)
    for collection in variables:
      variables[collection].update(initial.get(collection, {}))
  return variables


def by_path(tree: Any) -> dict[str, Any]:
  """Path -> leaf, in the order of the tree's leaves."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def of_paths(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """The tree whose `by_path` has these arrays."""
  tree: dict[str, Any] = traverse_util.unflatten_dict(arrays, sep='/')
  return tree


def count_parameters(params: Mapping[str, Any]) -> int:
  """Number of parameters of the model, without the auxiliary layer."""
  arrays = jax.tree.leaves(
    {k: v for k, v in params.items() if k != 'auxiliary'}
  )
  return sum(array.size for array in arrays)

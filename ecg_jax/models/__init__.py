"""The models, by name."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.models import cnn, crnn, residual_crnn


def halvings(model: Mapping[str, Any]) -> int:
  """How often a model halves time, of its fields in a config."""
  return len(model['widths']) if 'widths' in model else model['blocks']


MODELS = {
  'cnn': cnn.CNN,
  'crnn': crnn.CRNN,
  'residual_crnn': residual_crnn.ResidualCRNN,
}


def create_model(name: str, **fields: Any) -> nn.Module:
  """Returns the model of that name with these fields."""
  return MODELS[name](**fields)


@functools.partial(jax.jit, static_argnames=('model', 'frequency_bins'))
def initialise(
  model: nn.Module, key: jax.Array, frequency_bins: int
) -> dict[str, Any]:
  """Returns the variables of all kinds of phase: params and batch_stats.

  A parameter depends on the key and its own path alone, so those that several
  kinds share come out the same.
  """
  x = jnp.zeros((1, 16, frequency_bins))
  lengths = jnp.full((1,), 16)
  variables: dict[str, Any] = {'params': {}, 'batch_stats': {}}
  for kind, trained in model.trained.items():
    if set(trained) <= variables['params'].keys():
      continue
    found = model.init(key, x, lengths, train=False, kind=kind)
    for collection in variables:
      variables[collection].update(found[collection])
  return variables


def count_parameters(params: Mapping[str, Any]) -> int:
  """Trainable parameters of the model, without the auxiliary layer."""
  arrays = jax.tree.leaves(
    {k: v for k, v in params.items() if k != 'auxiliary'}
  )
  return sum(array.size for array in arrays)

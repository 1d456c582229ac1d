"""Registry of the models.

A model is a Flax module with one field, `config`, and two class variables:

* `config_type`: the frozen dataclass of its config, a `layers.LayerConfig`.
  Its fields are those of `config.model` in a config file, those of
  `config.dropout` behind `dropout_`, and `dtype` and `remat`.
* `trained`: kind of phase -> names of the top-level parameters it trains.

To add one, write its file and a config file, and register it in `MODELS`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.errors import InputError
from ecg_jax.models import cnn, crnn, residual_crnn

MODELS: Mapping[str, Any] = {
  'cnn': cnn.CNN,
  'crnn': crnn.CRNN,
  'residual_crnn': residual_crnn.ResidualCRNN,
}
"""Name in a config file -> class."""


def create_model(name: str, **fields: Any) -> nn.Module:
  """Creates a model.

  Args:
    name: Key of `MODELS`.
    **fields: Fields of the model's config.

  Raises:
    InputError: The model's config has no such field.
  """
  model = MODELS[name]
  known = {field.name for field in dataclasses.fields(model.config_type)}
  if unknown := fields.keys() - known:
    raise InputError(
      f'The config has a field {min(unknown)!r}, which a {name} does not have:'
      ' leave it out, or use the version that knows it.'
    )
  return model(model.config_type(**fields))


@functools.partial(jax.jit, static_argnames=('model', 'frequency_bins'))
def initialise(
  model: nn.Module, key: jax.Array, frequency_bins: int
) -> dict[str, Any]:
  """Initialises the variables of every kind of phase.

  A parameter depends on the key and its own path only, so those that several
  kinds of phase share have the same value.

  Args:
    model: Made by `create_model`.
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
      variables[collection].update(initial[collection])
  return variables


def count_parameters(params: Mapping[str, Any]) -> int:
  """Number of parameters of the model, without the auxiliary layer."""
  arrays = jax.tree.leaves(
    {k: v for k, v in params.items() if k != 'auxiliary'}
  )
  return sum(array.size for array in arrays)

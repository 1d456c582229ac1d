"""A config as a run keeps it: as JSON, and compared with another; no JAX."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from ecg_jax import default_config, fields
from ecg_jax.errors import InputError
from ecg_jax.fields.group import flatten

EXECUTION_FIELDS = frozenset(
  path
  for group in fields.GROUPS
  for path, field in group.fields().items()
  if not field.metadata.get('decides', True)
)
"""Fields that may change between starts; all others decide the result."""


def deciding(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns field -> JSON value of the fields that decide the result."""
  # With lists, not tuples, as a checkpoint's manifest has them.
  values = json.loads(json.dumps(flatten(to_json(config))))
  return {k: v for k, v in values.items() if k not in EXECUTION_FIELDS}


def differences(
  config: ml_collections.ConfigDict, other: ml_collections.ConfigDict
) -> list[str]:
  """Compares the fields that decide the result; returns as `compare` does."""
  # Its lists are shown as tuples, as a config has them.
  return compare(flatten(deciding(config)), flatten(deciding(other)))


def compare(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
  """Lists the differences, as 'name: value here, value there'."""
  return [
    f'{name}: {here.get(name)!r} here, {there.get(name)!r} there'
    for name in sorted({*here, *there})
    if here.get(name) != there.get(name)
  ]


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Converts a config to what JSON can store."""
  return json.loads(config.to_json_best_effort())


def from_json(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Restores the config that `to_json` of this or an older version converted.

  New fields are off by default, so a missing one has its default.

  Raises:
    InputError: It has a field that this version does not know, which may
      decide what the network computes.
  """
  config = ml_collections.ConfigDict(_with_tuples(values))
  default_config.complete(config)
  known = {path for group in fields.GROUPS for path in group.fields()}
  # `experiment.make_network` checks these.
  open_groups = fields.OPEN_GROUPS | {'model', 'dropout'}
  for path in flatten(config):
    if path not in known and path.partition('.')[0] not in open_groups:
      raise InputError(
        f'The config has the field {path!r}, which this version does not know:'
        ' use the version that wrote it.'
      )
  return config


def defaults(model: str) -> dict[str, Any]:
  """Returns field -> default as JSON, without those of a user-defined model."""
  config = ml_collections.ConfigDict({'model': {'name': model}})
  default_config.complete(config)
  return json.loads(json.dumps(flatten(config)))


def _with_tuples(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _with_tuples(item) for name, item in value.items()}
  return tuple(value) if isinstance(value, list) else value

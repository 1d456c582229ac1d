"""What a run says of its dataset; no jax, and no config is parsed."""

from collections.abc import Mapping
from typing import Any

from ecg_jax.datasets import schema
from ecg_jax.errors import InputError

_DECIDING = (
  'classes',
  'scored_classes',
  'sampling_rate',
  'counts_per_millivolt',
)


def of_run(run: Mapping[str, Any]) -> schema.DatasetSpec:
  """The dataset's description in a run's config.json.

  Runs of versions that wrote none are of the Challenge's records or of the
  synthetic ones.

  Args:
    run: The content of config.json.

  Raises:
    TypeError, ValueError, LookupError, AttributeError: It is damaged.
  """
  if 'dataset' in run:
    try:
      return schema.DatasetSpec.from_json(run['dataset'])
    except InputError as error:
      raise ValueError(str(error).removesuffix('.')) from error
  is_synthetic = run['config'].get('data', {}).get('name') == 'synthetic_ecg'
  return schema.SYNTHETIC if is_synthetic else schema.CHALLENGE


def differences(
  spec: schema.DatasetSpec, other: schema.DatasetSpec
) -> list[str]:
  """What makes another model of it, as 'name: value here, value there'."""
  return [
    f'{name}: {getattr(spec, name)!r} here, {getattr(other, name)!r} there'
    for name in _DECIDING
    if getattr(spec, name) != getattr(other, name)
  ]

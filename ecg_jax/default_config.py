"""The default config: the paper's method on the published data.

`ecg_jax.fields` declares its fields, their defaults and bounds.
"""

import ml_collections
from ml_collections import config_dict

from ecg_jax import registry
from ecg_jax.errors import InputError
from ecg_jax.fields import GROUPS
from ecg_jax.fields.group import Group
from ecg_jax.fields.models import MODELS, ModelFields


def get_config(model: str = 'crnn') -> ml_collections.ConfigDict:
  """Returns a config with every field at its default.

  Args:
    model: A shipped model, or 'my_module:MyModel' or 'path/file.py:MyModel'.
  """
  config = ml_collections.ConfigDict({'model': {'name': model}})
  complete(config)
  _fill(config, model_fields(model))
  return config


def model_fields(model: str) -> type[ModelFields]:
  """The fields of a model, which is imported if it is one of your own."""
  if model in MODELS:
    return MODELS[model]
  found = registry.find('model.name', model, registry.MODELS)
  kind = getattr(found, 'config_type', None)
  if not (isinstance(kind, type) and issubclass(kind, ModelFields)):
    raise InputError(
      f'model.name is {model!r}, which is no model: give it a class variable'
      ' config_type, derived from ecg_jax.fields.models.ModelFields.'
    )
  kind.check_declaration()
  return kind


def apply_authors(config: ml_collections.ConfigDict) -> None:
  """Changes a config of the paper to what the authors' code effectively did."""
  config.compensated_sampling = True
  config.dropout.convolution = 0.0
  config.phases.learning_rates = (1e-3,) * len(config.phases.learning_rates)
  config.model.reduction = 'stride'
  config.augmentation.burst_span_samples = 11


def complete(config: ml_collections.ConfigDict) -> None:
  """Adds the fields that a config lacks, with their defaults.

  Those of a user-defined model are not added: its own file has them.
  """
  for kind in groups(config):
    _fill(config, kind)


def groups(config: ml_collections.ConfigDict) -> list[type[Group]]:
  """All that declare fields of a config; not those of a user-defined model."""
  model = config.get('model', {}).get('name', 'crnn')
  return [*GROUPS, *([MODELS[model]] if model in MODELS else [])]


def _fill(config: ml_collections.ConfigDict, kind: type[Group]) -> None:
  for path, field in kind.fields().items():
    group, _, name = path.rpartition('.')
    if group and group not in config:
      config[group] = ml_collections.ConfigDict()
    owner = config[group] if group else config
    if name not in owner:
      is_none = field.default is None
      typed_none = config_dict.placeholder(kind.type_of(field.name))
      owner[name] = typed_none if is_none else field.default

"""Checks of the values in a config.

No JAX here, so that a mistake is reported at once. The spectrogram and the
models check their own fields where they are defined, once JAX is imported but
before any data is read.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ecg_jax.errors import InputError

PUBLISHED_FOLDS = 5
"""Number of folds of the published table, used without data.folds_file."""

_CHOICES: Mapping[str, Sequence[str]] = {
  'data.name': ('physionet2017', 'synthetic_ecg'),
  'data.placement': ('device', 'host'),
  'label_version': ('v1', 'v2', 'v3'),
  'dtype': ('float32', 'bfloat16'),
  'on_nan': ('stop', 'restore'),
  'phases.schedule': ('constant', 'cosine'),
  'model.name': ('cnn', 'crnn', 'residual_crnn'),
}

_POSITIVE = (
  'augmentation.slowest_heart_rate',
  'augmentation.fastest_heart_rate',
  'checkpoint_minutes',
)

_NOT_NEGATIVE = ('seed', 'weight_decay', 'phases.warmup_epochs')

_STAGES = ('spectrogram', 'model', 'dropout')  # groups that check themselves

_PHASE_KINDS = {
  'cnn': ('all',),
  'crnn': ('auxiliary', 'lstm', 'all'),
  'residual_crnn': ('all',),
}

_CONFIG_OF_MODEL = {'residual_crnn': 'crnn_fast'}


def check(fields: Mapping[str, Any]) -> None:
  """Refuses values of a config that no run can use.

  Args:
    fields: Field with its groups, like 'data.name' -> value.

  Raises:
    InputError: Names the field and the value.
    KeyError: A field is missing.
  """
  for field, choices in _CHOICES.items():
    choice(field, fields[field], choices)
  described = 'crnn' if 'model.lstm_units' in fields else 'cnn'
  if 'model.widths' in fields:
    described = 'residual_crnn'
  model = fields['model.name']
  if model != described:
    raise InputError(
      f'model.name is {model!r}: this config describes a {described}, use'
      f' configs/{_CONFIG_OF_MODEL.get(model, model)}.py.'
    )
  for field, value in fields.items():
    if field.partition('.')[0] not in _STAGES:
      _check_number(field, value)
  _check_relations(fields)
  _check_folds(fields['folds'], fields['data.folds_file'])
  _check_phases(fields)


def require(holds: bool, field: str, value: Any, rule: str) -> None:
  """Raises an InputError that states the rule, unless it holds."""
  if not holds:
    raise InputError(f'{field} is {value}: it must {rule}.')


def choice(field: str, value: Any, choices: Sequence[str]) -> None:
  """Raises an InputError unless the value is one of the choices."""
  if value not in choices:
    near = difflib.get_close_matches(str(value), choices, n=1) or choices
    raise InputError(
      f'{field} is {value!r}: use {" or ".join(map(repr, near))}.'
    )


def at_least(field: str, value: float, least: int) -> None:
  """Raises an InputError unless the number is finite and at least `least`."""
  require(least <= value < math.inf, field, value, f'be at least {least}')


def positive(field: str, value: float) -> None:
  """Raises an InputError unless the number is finite and above 0."""
  require(0 < value < math.inf, field, value, 'be positive')


def fraction(field: str, value: float) -> None:
  """Raises an InputError unless the number is at least 0 and below 1."""
  require(0 <= value < 1, field, value, 'be at least 0 and below 1')


def _check_number(field: str, value: Any) -> None:
  if field == 'class_weight_power':
    holds = value is None or 0 <= value <= 1
    require(holds, field, value, 'be between 0 and 1')
  elif type(value) not in (int, float):
    return
  elif field in _NOT_NEGATIVE:
    at_least(field, value, 0)
  elif field in _POSITIVE:
    positive(field, value)
  elif type(value) is int:
    at_least(field, value, 1)
  else:
    fraction(field, value)


def _check_relations(fields: Mapping[str, Any]) -> None:
  """Checks numbers that others limit."""
  seed = fields['seed']
  require(seed < 2**32, 'seed', seed, f'be below {2**32}')
  slowest = fields['augmentation.slowest_heart_rate']
  fastest = fields['augmentation.fastest_heart_rate']
  require(
    slowest <= fastest,
    'augmentation.fastest_heart_rate',
    fastest,
    f'be at least augmentation.slowest_heart_rate, {slowest}',
  )
  window = fields['spectrogram.window_samples']
  longest = fields['augmentation.max_samples']
  require(
    longest is None or longest >= window,
    'augmentation.max_samples',
    longest,
    f'be at least spectrogram.window_samples, {window}',
  )


def _check_folds(folds: Any, folds_file: str | None) -> None:
  if not folds:
    raise InputError('folds is empty: name at least one, like (0,).')
  for fold in folds:
    if type(fold) is not int:
      raise InputError(
        f'folds holds {fold!r}: write whole numbers, like (0, 1).'
      )
    if fold < 0 or (folds_file is None and fold >= PUBLISHED_FOLDS):
      last = '' if folds_file else f' to {PUBLISHED_FOLDS - 1}'
      raise InputError(f'folds holds {fold}: folds are numbered from 0{last}.')
  if len(set(folds)) < len(folds):
    raise InputError(f'folds is {folds}: name each fold once.')


def _check_phases(fields: Mapping[str, Any]) -> None:
  kinds = fields['phases.kinds']
  for field in ('phases.epochs', 'phases.learning_rates'):
    if len(fields[field]) != len(kinds):
      raise InputError(
        f'{field} is {fields[field]}: set one for each of phases.kinds,'
        f' {len(kinds)} in all.'
      )
  known = _PHASE_KINDS[fields['model.name']]
  for kind in kinds:
    if kind not in known:
      raise InputError(
        f'phases.kinds holds {kind!r}: a {fields["model.name"]} can train'
        f' {" or ".join(map(repr, known))}.'
      )
  if not kinds or kinds[-1] == 'auxiliary':
    raise InputError(
      f'phases.kinds is {kinds}: the last phase must train the model itself.'
    )
  for epochs in fields['phases.epochs']:
    if type(epochs) is not int or epochs < 1:
      raise InputError(
        f'phases.epochs holds {epochs!r}: epochs are whole numbers from 1.'
      )
  for rate in fields['phases.learning_rates']:
    if type(rate) not in (int, float) or not 0 < rate < math.inf:
      raise InputError(
        f'phases.learning_rates holds {rate!r}: rates are positive numbers.'
      )

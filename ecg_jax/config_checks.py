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

DATASETS = ('physionet2017', 'synthetic_ecg')
"""Each has a folder of its name in `ecg_jax.datasets`."""

PUBLISHED_FOLDS = 5
"""Number of folds of the published table, used without data.folds_file."""

_CHOICES: Mapping[str, Sequence[str]] = {
  'data.name': DATASETS,
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
  config = _CONFIG_OF_MODEL.get(model, model)
  _refuse_unless(
    model == described,
    f'model.name is {model!r}',
    f'this config describes a {described}, use configs/{config}.py',
  )
  for field, value in fields.items():
    if field.partition('.')[0] not in _STAGES:
      _check_number(field, value)
  _check_relations(fields)
  _check_folds(fields['folds'], fields['data.folds_file'])
  _check_phases(fields)


def require(holds: bool, field: str, value: Any, rule: str) -> None:
  """Raises an InputError that states the rule, unless it holds."""
  _refuse_unless(holds, f'{field} is {value}', f'it must {rule}')


def _refuse_unless(holds: bool, problem: str, advice: str) -> None:
  if not holds:
    raise InputError(f'{problem}: {advice}.')


def choice(field: str, value: Any, choices: Sequence[str]) -> None:
  """Raises an InputError unless the value is one of the choices."""
  near = difflib.get_close_matches(str(value), choices, n=1) or choices
  advice = f'use {" or ".join(map(repr, near))}'
  _refuse_unless(value in choices, f'{field} is {value!r}', advice)


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
  _refuse_unless(bool(folds), 'folds is empty', 'name at least one, like (0,)')
  last = '' if folds_file else f' to {PUBLISHED_FOLDS - 1}'
  for fold in folds:
    problem = f'folds holds {fold!r}'
    is_number = type(fold) is int
    _refuse_unless(is_number, problem, 'write whole numbers, like (0, 1)')
    known = fold >= 0 and (folds_file is not None or fold < PUBLISHED_FOLDS)
    _refuse_unless(known, problem, f'folds are numbered from 0{last}')
  unique = len(set(folds)) == len(folds)
  _refuse_unless(unique, f'folds is {folds}', 'name each fold once')


def _check_phases(fields: Mapping[str, Any]) -> None:
  kinds, model = fields['phases.kinds'], fields['model.name']
  count = f'set one for each of phases.kinds, {len(kinds)} in all'
  for field in ('phases.epochs', 'phases.learning_rates'):
    is_whole = len(fields[field]) == len(kinds)
    _refuse_unless(is_whole, f'{field} is {fields[field]}', count)
  known = _PHASE_KINDS[model]
  trainable = f'a {model} can train {" or ".join(map(repr, known))}'
  for kind in kinds:
    _refuse_unless(kind in known, f'phases.kinds holds {kind!r}', trainable)
  _refuse_unless(
    bool(kinds) and kinds[-1] != 'auxiliary',
    f'phases.kinds is {kinds}',
    'the last phase must train the model itself',
  )
  for epochs in fields['phases.epochs']:
    _refuse_unless(
      type(epochs) is int and epochs >= 1,
      f'phases.epochs holds {epochs!r}',
      'epochs are whole numbers from 1',
    )
  for rate in fields['phases.learning_rates']:
    _refuse_unless(
      type(rate) in (int, float) and 0 < rate < math.inf,
      f'phases.learning_rates holds {rate!r}',
      'rates are positive numbers',
    )

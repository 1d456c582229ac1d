"""Checks of the values in a config.

No JAX here, so that a mistake is reported at once.
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
  'spectrogram.normalise': ('none', 'record'),
  'phases.schedule': ('constant', 'cosine'),
  'model.name': ('cnn', 'crnn', 'residual_crnn'),
  'model.reduction': ('max_pool', 'stride'),
  'model.summary': ('last', 'mean'),
}

_LEAST = {'seed': 0, 'model.growth': 0, 'spectrogram.window_samples': 2}
"""Smallest value of a whole number; that of all others is 1."""

_POSITIVE = (
  'spectrogram.power_floor',
  'augmentation.slowest_heart_rate',
  'augmentation.fastest_heart_rate',
  'model.batch_norm_epsilon',
  'checkpoint_minutes',
)

_NOT_NEGATIVE = ('weight_decay', 'phases.warmup_epochs')

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
  for field in fields.keys() & _CHOICES.keys():
    _check_choice(field, fields[field])
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
    _check_number(field, value)
  _check_relations(fields)
  _check_folds(fields['folds'], fields['data.folds_file'])
  _check_phases(fields)


def _require(holds: bool, field: str, value: Any, rule: str) -> None:
  """Raises an InputError that states the rule, unless it holds."""
  if not holds:
    raise InputError(f'{field} is {value}: it must {rule}.')


def _check_choice(field: str, value: Any) -> None:
  choices = _CHOICES[field]
  if value not in choices:
    near = difflib.get_close_matches(str(value), choices, n=1) or choices
    raise InputError(
      f'{field} is {value!r}: use {" or ".join(map(repr, near))}.'
    )


def _check_number(field: str, value: Any) -> None:
  """Checks a number alone; floats are fractions but for those listed."""
  if type(value) is int:
    least = _LEAST.get(field, 1)
    _require(value >= least, field, value, f'be at least {least}')
  elif field == 'class_weight_power':
    holds = value is None or 0 <= value <= 1
    _require(holds, field, value, 'be between 0 and 1')
  elif not isinstance(value, float):
    return
  elif field in _POSITIVE:
    _require(0 < value < math.inf, field, value, 'be positive')
  elif field in _NOT_NEGATIVE:
    _require(0 <= value < math.inf, field, value, 'be at least 0')
  else:
    _require(0 <= value < 1, field, value, 'be at least 0 and below 1')


def _check_relations(fields: Mapping[str, Any]) -> None:
  """Checks numbers that others limit."""
  seed = fields['seed']
  _require(seed < 2**32, 'seed', seed, f'be below {2**32}')
  slowest = fields['augmentation.slowest_heart_rate']
  fastest = fields['augmentation.fastest_heart_rate']
  _require(
    slowest <= fastest,
    'augmentation.fastest_heart_rate',
    fastest,
    f'be at least augmentation.slowest_heart_rate, {slowest}',
  )
  window = fields['spectrogram.window_samples']
  hop = fields['spectrogram.hop_samples']
  _require(
    hop <= window,
    'spectrogram.hop_samples',
    hop,
    f'not exceed spectrogram.window_samples, {window}',
  )
  kept, bins = fields['spectrogram.kept_bins'], window // 2 + 1
  if kept is not None and kept > bins:
    raise InputError(
      f'spectrogram.kept_bins is {kept}: a window of {window} samples has'
      f' {bins}.'
    )
  longest = fields['augmentation.max_samples']
  _require(
    longest is None or longest >= window,
    'augmentation.max_samples',
    longest,
    f'be at least spectrogram.window_samples, {window}',
  )
  frames = fields.get('model.kernel_frames', 1)
  _require(frames % 2 == 1, 'model.kernel_frames', frames, 'be odd')
  widths = fields.get('model.widths', (1,))
  if not widths or any(type(w) is not int or w < 1 for w in widths):
    raise InputError(
      f'model.widths is {widths}: it lists the channels of each stage, like'
      ' (40, 64, 96).'
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

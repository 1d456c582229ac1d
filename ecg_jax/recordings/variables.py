"""Chooses the signal among the variables of a file, and what others say of it.

MATLAB, NumPy (.npz) and HDF5 files have variables of any name.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import units
from ecg_jax.recordings.channels import Channel

CHALLENGE = 'val'
"""Name of the signal in the records of the challenge."""

_RATES = {'fs', 'sfreq', 'srate', 'sr', 'hz', 'freq', 'frequency', 'rate',
          'samplerate', 'samplingrate', 'samplefreq', 'samplefrequency',
          'samplingfreq', 'samplingfrequency', 'ecgfs', 'fsecg', 'fsamp',
          'fsampling', 'sampfreq', 'tickrate'}  # fmt: skip
"""Names of a sampling rate, in lower case without signs."""

_UNITS = {'unit', 'units', 'physicaldimension', 'ecgunit', 'ecgunits'}

_NAMES = {'lead', 'leads', 'label', 'labels', 'leadnames', 'channel',
          'channels', 'channelnames', 'signames', 'signame', 'titles',
          'leadname'}  # fmt: skip


def choose(
  path: Any, shapes: Mapping[str, tuple[int, ...]], wanted: str | None
) -> str:
  """Chooses the variable with the signal; returns its name.

  Args:
    path: Name of the file in an error.
    shapes: Name -> shape of each array of real numbers.
    wanted: The name to choose (case is ignored if only one has it then); None
      for `val`, else the only one that may be a signal.

  Raises:
    InputError: There is none, or there are several; the message lists them.
  """
  listed = ', '.join(
    f'{name} ({" x ".join(map(str, shape)) or "a number"})'
    for name, shape in shapes.items()
  )
  listed = f'it has {listed[:300]}{"..." * (len(listed) > 300)}'
  if wanted is not None:
    alike = [name for name in shapes if name.lower() == wanted.strip().lower()]
    if wanted in shapes or len(alike) == 1:
      return wanted if wanted in shapes else alike[0]
    raise InputError(
      f'{path} has no variable {wanted!r} of numbers: {listed}.'
      if shapes
      else f'{path} has no variable of numbers: save one with the signal.'
    )
  if CHALLENGE in shapes:
    return CHALLENGE
  signals = [name for name, shape in shapes.items() if _may_be_signal(shape)]
  if len(signals) == 1:
    return signals[0]
  if not signals:
    raise InputError(
      f'{path} has no variable with samples: save one with a row or a column of'
      ' numbers for each lead.'
    )
  raise InputError(
    f'{path} has {len(signals)} variables that may be the signal: choose with'
    f' --variable; {listed}.'
  )


def _may_be_signal(shape: tuple[int, ...]) -> bool:
  """Whether an array has samples; a few numbers are no recording."""
  return len(shape) in (1, 2) and max(shape, default=0) >= 50


def flat(variables: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Names with dots -> the fields of structures, which are mappings."""
  found: dict[str, Any] = {}
  for name, value in variables.items():
    if isinstance(value, Mapping):
      found |= flat(value, f'{prefix}{name}.')
    else:
      found[f'{prefix}{name}'] = value
  return found


def is_numbers(value: Any) -> bool:
  """Whether a variable is an array of real numbers."""
  return isinstance(value, np.ndarray) and value.dtype.kind in 'iuf'


def _stated_rate(others: Mapping[str, Any]) -> tuple[float | None, str]:
  """The sampling rate that other variables state, and where.

  Args:
    others: Name -> value.

  Returns:
    Hz, and the name in words; None and '' where none or several are stated.
  """
  rates = {}
  for name, value in others.items():
    plain, number = _plain(name), _number(value)
    if number is None or number <= 0:
      continue
    if plain in _RATES:
      rates[name] = number
    elif plain == 'isi':  # As AcqKnowledge states the time between samples.
      unit = next((v for k, v in others.items() if _plain(k) == 'isiunits'), '')
      each = {'ms': 1000.0, 's': 1.0, 'sec': 1.0}.get(_text(unit))
      if each is not None:
        rates[name] = each / number
  if len({*rates.values()}) != 1:
    return None, ''
  name, rate = next(iter(rates.items()))
  return rate, f'variable {name}'


def _stated_texts(
  others: Mapping[str, Any], count: int
) -> tuple[list[str], list[str | None]]:
  """Names and units that other variables state of the channels.

  Args:
    others: Name -> value.
    count: Number of channels.

  Returns:
    A name and a unit for each channel, '' and None where not stated.
  """
  names: list[str] = [''] * count
  spelled: list[str | None] = [None] * count
  for name, value in others.items():
    texts = [_text(x) for x in np.atleast_1d(np.asarray(value, object)).flat]
    if _plain(name) in _NAMES and len(texts) == count and all(texts):
      names = texts
    known = any(units.to_millivolt(text) is not None for text in texts)
    if _plain(name) in _UNITS and len(texts) in (1, count) and known:
      spelled = [text or None for text in (texts * count)[:count]]
  return names, spelled


def described_channels(
  others: Mapping[str, Any], count: int
) -> tuple[Channel, ...]:
  """Channels with the names, units and rate that other variables state.

  Args:
    others: The variables beside that of the signal, by name.
    count: Number of channels.
  """
  rate, rate_from = _stated_rate(others)
  names, units = _stated_texts(others, count)
  return tuple(
    Channel(
      name,
      unit,
      rate,
      unit_from='variable of units' if unit else '',
      rate_from=rate_from,
    )
    for name, unit in zip(names, units, strict=True)
  )


def _plain(name: str) -> str:
  return re.sub(r'[^a-z]', '', name.rpartition('.')[2].lower())


def _number(value: Any) -> float | None:
  """The finite number that a variable has alone, or None."""
  try:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in 'iuf':
      return None
    number = float(array.reshape(-1)[0])
  except (TypeError, ValueError):
    return None
  return number if np.isfinite(number) else None


def _text(value: Any) -> str:
  """A text of a variable, '' for anything else."""
  if isinstance(value, np.ndarray) and value.size == 1:
    value = value.reshape(-1)[0]
  value = (
    value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
  )
  return value.strip() if isinstance(value, str) else ''

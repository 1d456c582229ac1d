"""Chooses the lead to read, by names and by what the channels contain."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import column_names, content, text_headers, units
from ecg_jax.recordings.channels import Channel, Channels

_UNREADABLE = ('time', 'row number', 'text', 'empty')
"""Roles that a lead does not have even if it is asked for."""

_BLOCKS, _BLOCK = 8, 512
"""Places and samples by which a channel is judged."""

_NO_VOLTAGE = re.compile(
  r'%|bpm|mmhg|cmh2o|k?pa|[ckm]?hz|°?[cf]|deg.*|m?g|m/s.*|[clm]*l(/\w+)?|'
  r'm?s(ec)?|min|[kmµu]?ohms?|rpm|pm|lpm|lux|k?n|nu|db|rad.*|cm|mm|m',
  re.IGNORECASE,
)
"""Units of something else than an ECG."""


def choose(
  path: str, source: Channels, wanted: str | None, option: str = '--lead'
) -> tuple[int, tuple[str, ...]]:
  """Chooses the lead of a file; returns its number and notes.

  A lead that contains no signal is passed over for another.

  Args:
    path: Name of the file in an error.
    source: The file.
    wanted: As in `choose_lead`.
    option: As in `choose_lead`.

  Raises:
    InputError: As `choose_lead`.
  """
  channels = list(source.channels)
  judged: set[int] = set()
  notes: tuple[str, ...] = ()
  while True:
    number, why = choose_lead(path, channels, wanted, option)
    if wanted is not None or len(channels) == 1 or number in judged:
      return number, notes + why
    judged.add(number)
    if found := content.role(_blocks(source, number)):
      name = channels[number].name or str(number)
      channels[number] = dataclasses.replace(channels[number], role=found)
      notes += (f'lead {name} is passed over: {found}',)


def _blocks(source: Channels, number: int) -> list[np.ndarray]:
  samples = source.open(number)
  starts = np.linspace(0, max(0, samples.num_samples - _BLOCK), _BLOCKS)
  return [
    samples.read(start, min(start + _BLOCK, samples.num_samples))
    for start in np.unique(starts.astype(int)).tolist()
  ]


def choose_lead(
  path: str,
  channels: Sequence[Channel],
  wanted: str | None,
  option: str = '--lead',
) -> tuple[int, tuple[str, ...]]:
  """Chooses the lead to read; returns its number and notes.

  Args:
    path: Name of the file in an error.
    channels: All channels of the file.
    wanted: Name (case is ignored) or number of a channel. None for the only one
      that may be an ECG, or the first with a name like an ECG lead's; aVR,
      which is upside down, only where there is no other.
    option: What `wanted` is called where the user gives it.

  Raises:
    InputError: There is no such lead; the message lists the leads.
  """
  names = [channel.name or str(k) for k, channel in enumerate(channels)]
  parts = [
    f'{k} {channel.name}'.strip() + f' ({channel.role})' * bool(channel.role)
    for k, channel in enumerate(channels)
  ]
  listed = f'it has {", ".join(parts)}'
  if len(listed) > 300:
    listed = f'{listed[:300]}...'
  if wanted is not None:
    return _wanted(path, channels, listed, wanted, option)
  may_be = [
    k
    for k, channel in enumerate(channels)
    if not channel.role and may_be_voltage(channel.unit)
  ]
  named = [k for k in may_be if column_names.is_ecg(names[k])]
  named.sort(key=lambda k: column_names.is_inverted(names[k]))
  if named:
    number, *rest = named
    if column_names.is_inverted(names[number]):
      return number, (f'lead {names[number]} taken, which is upside down',)
    if rest and not all(column_names.is_lead(names[k]) for k in named):
      left = ', '.join(names[k] for k in rest[:4])
      return number, (f'lead {names[number]} taken, not {left}',)
    return number, ()
  if len(channels) == 1:
    # A signal that is constant, or one whose name says nothing else.
    known = column_names.role(names[0]) in ('another signal', 'heart rate')
    electric = may_be_voltage(channels[0].unit)
    if electric and not known and channels[0].role not in _UNREADABLE:
      return 0, ()
  # Row numbers are judged by their content.
  plain = ('', 'row number')
  may_be = [k for k in may_be if column_names.role(names[k]) in plain]
  others = [
    name
    for name, channel in zip(names, channels, strict=True)
    if column_names.is_ecg(name) and channel.role != 'text'
  ]
  if len(may_be) == 1 and not others:
    [number] = may_be
    note = f'lead {names[number]} taken, the only one that may be an ECG'
    return number, (note,)
  raise InputError(
    f'{path} has no channel that looks like an ECG by name, unit and content:'
    f' choose with {option}; {listed}.'
  )


def _wanted(
  path: str,
  channels: Sequence[Channel],
  listed: str,
  wanted: str,
  option: str,
) -> tuple[int, tuple[str, ...]]:
  """The lead of a name or number."""
  names = [channel.name or str(k) for k, channel in enumerate(channels)]
  plain = wanted.strip().lower()
  bare = text_headers.with_unit(wanted.strip())[0].lower()
  exact = [k for k, name in enumerate(names) if name.strip().lower() == plain]
  part = [
    k
    for k, name in enumerate(names)
    if bare == name.lower() or plain in re.split(r' \(|\)$', name.lower())
  ]
  found = exact or (part if len(part) == 1 else [])
  if not found and plain.isdecimal() and int(plain) < len(names):
    found = [int(plain)]
  if not found:
    raise InputError(f'{path} has no lead {wanted!r}: {listed}.')
  number = found[0]
  if channels[number].role in _UNREADABLE:
    raise InputError(
      f'Lead {names[number]} of {path} is no ECG but {channels[number].role}:'
      f' choose another with {option}; {listed}.'
    )
  notes: tuple[str, ...] = ()
  if channels[number].role:
    notes = (f'lead {names[number]} looks like {channels[number].role}',)
  if len(found) > 1:
    notes = (f'{len(found)} leads are called {names[number]}: the first taken',)
  return number, notes


def may_be_voltage(unit: str | None) -> bool:
  """Whether a unit is not known to be one of something else."""
  return (
    not unit
    or units.to_millivolt(unit) is not None
    or not _NO_VOLTAGE.fullmatch(unit.strip().strip('[]()'))
  )

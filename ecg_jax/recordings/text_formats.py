"""Headers of text files that have a form of their own."""

import dataclasses
import json
import re
from collections.abc import Sequence

from ecg_jax.recordings.text_rates import NUMBER, Stated, value_of
from ecg_jax.recordings.units import to_hertz

_CHANNEL = re.compile(r'CH\d+', re.IGNORECASE)
"""A name that AcqKnowledge gives to a channel."""

_LABEL = re.compile(r'\s*label:\s*(\S.*?)\s*', re.IGNORECASE)
"""The line with the name of a channel of LabSystem Pro."""


@dataclasses.dataclass(frozen=True)
class Known:
  """What a format that is known by name states."""

  names: tuple[str, ...] = ()
  units: tuple[Stated | None, ...] = ()
  rates: tuple[Stated, ...] = ()


def read(above: Sequence[str], width: int, names: Sequence[str]) -> Known:
  """Reads the header of a format that is known.

  Args:
    above: The lines above the table.
    width: Columns of the table.
    names: Of the columns, '' where there is none.
  """
  for number, line in enumerate(above, 1):
    if re.match(r'#\s*\{', line):
      return _opensignals(line, number, width)
    if 'openbci' in line.lower() and line.startswith('%'):
      # Its files are in microvolts and do not state it.
      volts = Stated('uV', 'OpenBCI format')
      return Known(units=(volts,) * width)
    if re.match(r'\s*\d+ channels?[\s,;]*$', line.replace('"', ''), re.I):
      return _acqknowledge(above, width, names)
    if line.startswith('LabVIEW Measurement'):
      return _labview(above, width, names)
  labels = [x[1] for line in above if (x := _LABEL.fullmatch(line))]
  if len(labels) == width > 1:  # LabSystem Pro.
    return Known(tuple(labels))
  return _labchart(above, width)


def _labview(above: Sequence[str], width: int, names: Sequence[str]) -> Known:
  """Reads units and the time between samples of a LabVIEW measurement."""
  stated: list[Stated | None] = [None] * width
  rates: dict[float, Stated] = {}
  channels = [k for k, x in enumerate(names) if x not in ('', 'X_Value')]
  for number, line in enumerate(above, 1):
    key, *fields = line.rstrip().split('\t')
    fields = [field.strip() for field in fields if field.strip()]
    place = f'header line {number}'
    if key == 'Y_Unit_Label' and len(fields) == len(channels):
      for k, field in zip(channels, fields, strict=True):
        stated[k] = Stated(field, place)
    if key == 'X_Dimension' and {*fields} != {'Time'}:
      return Known(units=tuple(stated))
    if key == 'Delta_X' and all(re.fullmatch(NUMBER, x, re.I) for x in fields):
      for period in map(value_of, fields):
        if period > 0:
          rates.setdefault(period, Stated(to_hertz(period), place))
  return Known(units=tuple(stated), rates=tuple(rates.values()))


def _opensignals(line: str, number: int, width: int) -> Known:
  """Reads the JSON header of OpenSignals (BITalino, biosignalsplux)."""
  try:
    devices = json.loads(line.lstrip('# '))
    [device] = devices.values()
    columns = [str(x) for x in device['column']]
    sensors = [str(x) for x in device.get('sensor', [])]
    labels = [str(x) for x in device.get('label', [])]
    rate = float(device['sampling rate'])
  except (ValueError, KeyError, TypeError, AttributeError):
    return Known()
  place = f'header line {number}'
  if len(columns) not in (width, width - 1):  # A tab ends each row.
    return Known(rates=(Stated(rate, place),))
  if len(labels) != len(sensors):
    labels = columns[len(columns) - len(sensors) :]
  sensor = dict(zip(labels, sensors, strict=True))
  names = [
    f'{sensor[x]} ({x})' if sensor.get(x, 'RAW').upper() != 'RAW' else x
    for x in columns
  ]
  names += [''] * (width - len(names))
  return Known(tuple(names), (), (Stated(rate, place),))


def _acqknowledge(
  above: Sequence[str], width: int, names: Sequence[str]
) -> Known:
  """Reads the names and units that AcqKnowledge writes in pairs of lines."""
  for number, line in enumerate(above):
    found = re.fullmatch(r'\s*"?(\d+) channels?"?[\s,;]*', line, re.IGNORECASE)
    if found is None:
      continue
    count = int(found[1])
    pairs = [x.strip(' "\t,;') for x in above[number + 1 :][: 2 * count]]
    extra = width - count
    if len(pairs) < 2 * count or not 0 <= extra <= 2:
      return Known()
    # A time may come first; the rows may end in a delimiter.
    first = next((k for k, x in enumerate(names) if _CHANNEL.fullmatch(x)), 0)
    if extra and not any(map(_CHANNEL.fullmatch, names)):
      return Known()
    before: list[None] = [None] * first
    behind: list[None] = [None] * (extra - first)
    stated = [
      Stated(unit, f'header line {number + 3 + 2 * k}') if unit else None
      for k, unit in enumerate(pairs[1::2])
    ]
    own = [*before, *pairs[::2], *behind]
    return Known(tuple(name or '' for name in own), (*before, *stated, *behind))
  return Known()


def _labchart(above: Sequence[str], width: int) -> Known:
  """Reads the units that LabChart states beside the ranges of its channels."""
  found: list[Stated | None] = [None] * width
  for number, line in enumerate(above, 1):
    key, *fields = line.rstrip('\t').split('\t')
    key = key.strip('" ').lower()
    if key not in ('range=', 'unitname=') or len(fields) not in (
      width, width - 1
    ):  # fmt: skip
      continue
    for k, field in enumerate(reversed(fields)):
      part = re.fullmatch(rf'\s*({NUMBER})\s+(\S+)\s*', field, re.IGNORECASE)
      if key == 'unitname=' and field.strip():
        found[-1 - k] = Stated(field.strip(), f'header line {number}')
      elif part and found[-1 - k] is None:
        # The volts of a range of millivolts would be a thousandth of it.
        found[-1 - k] = Stated(
          part[2], f'header line {number}', value_of(part[1])
        )
  return Known(units=tuple(found) if any(found) else ())

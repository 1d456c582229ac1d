"""A lead of a user's recording, in mV at its own sampling rate.

`resampling` makes windows of it. Only what a window needs is read at a time.
"""

import dataclasses
import math
import numbers
import pathlib
from collections.abc import Callable

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import arrays, formats, lead_choice, variables
from ecg_jax.recordings import units as units_lib
from ecg_jax.recordings.channels import Channels, explained, to_float32

UNITS = ('V', 'mV', 'uV', 'nV', 'counts')
"""Units of files; counts are those of the model's records."""

SLOWEST, FASTEST = 50.0, 100_000.0
"""Hz, the sampling rates that are accepted."""


@dataclasses.dataclass(frozen=True)
class Encoding:
  """Rate and unit of int16 samples, such as those that a model classifies."""

  sampling_rate: int
  """Hz."""
  counts_per_millivolt: float


@dataclasses.dataclass(frozen=True)
class Recording:
  """One lead of a file or an array, read in blocks."""

  name: str
  """Path of the file, or name of the array."""
  lead: str
  sampling_rate: float
  """Hz."""
  num_samples: int
  notes: tuple[str, ...]
  """Assumptions about the file."""
  read: Callable[[int, int], np.ndarray]
  """start, stop -> mV."""
  source: Channels | None = None
  """What was understood of the file and of all its channels."""
  number: int = 0
  """Position of the lead among `source.channels`."""
  rate_from: str = ''
  """Where the sampling rate is stated, such as 'header' or
  '--sampling_rate'."""
  unit: str = ''
  """Unit of the samples of the file, as it or `--units` spells it."""
  unit_from: str = ''
  """Where the unit is stated, such as 'header' or '--units'."""

  def millivolt(self, start: int, stop: int) -> np.ndarray:
    """Reads samples.

    Args:
      start: First sample, at least 0.
      stop: One past the last sample, at most `num_samples`.

    Returns:
      float32 [stop - start], in mV at the lead's own rate; NaN for a missing
      sample.

    Raises:
      InputError: The file is damaged there.
    """
    return to_float32(self.read(start, stop))


def open_recording(
  path: pathlib.Path,
  encoding: Encoding,
  *,
  lead: str | None = None,
  sampling_rate: float | None = None,
  units: str | None = None,
  gain: float | None = None,
  variable: str | None = None,
) -> Recording:
  """Opens a lead of a file.

  Args:
    path: A file of one of `formats.SUFFIXES`.
    encoding: Of the model's records: what counts are, and what a .mat without
      a header is taken to have.
    lead: Name or number (from 0) of the lead; None for the first with a name
      or unit like an ECG's.
    sampling_rate: Hz, for files that do not state it.
    units: One of UNITS, for files that do not state it.
    gain: Counts per mV of a file of raw counts, whose units then are 'counts';
      None for those of the model's records.
    variable: Name of the variable to read, in formats that have several.

  Raises:
    InputError: The file, the lead, its rate or units cannot be used.
  """
  channels = formats.read_channels(path, variable)
  counts_per_millivolt = encoding.counts_per_millivolt
  if gain is not None:
    if not 0 < gain < math.inf:
      raise InputError(f'--gain is {gain:g}: give counts per mV, above 0.')
    if units is not None and not is_counts(units):
      raise InputError(
        f'--gain is for counts, not for --units {units}: give one of the two.'
      )
    counts_per_millivolt, units = gain, 'counts'
  # As a record of the challenge, the best known of this name.
  is_val = channels.facts.get('variable') == variables.CHALLENGE
  is_record = is_val and path.suffix.lower() == '.mat'
  return _open_lead(
    channels,
    str(path),
    lead=lead,
    sampling_rate=sampling_rate,
    units=units,
    counts_per_millivolt=counts_per_millivolt,
    lead_option='--lead',
    units_from=f'--units {units}' if gain is None else f'--gain {gain:g}',
    assumed=encoding if is_record else None,
  )


def from_array(
  signal: np.ndarray,
  *,
  sampling_rate: float,
  units: str,
  counts_per_millivolt: float,
  lead: int | str | None = None,
  name: str = 'signal',
) -> Recording:
  """A recording of samples in memory.

  Args:
    signal: Real numbers [samples], or [leads, samples] or its transpose; NaN or
      masked where one is missing.
    sampling_rate: Hz.
    units: One of UNITS.
    counts_per_millivolt: What 'counts' are.
    lead: Number of the lead, where there are several.
    name: Name of the recording.

  Raises:
    InputError: The signal or an argument cannot be used.
  """
  if not isinstance(sampling_rate, numbers.Real):
    raise InputError(
      f'sampling_rate is {sampling_rate!r}, not a number: give it in Hz.'
    )
  if not isinstance(units, str) or _factor(units, counts_per_millivolt) is None:
    raise InputError(
      f'units is {units!r}, not a known voltage: use one of {", ".join(UNITS)}.'
    )
  try:
    array = np.asarray(signal)
  except (TypeError, ValueError) as error:
    raise InputError(
      f'{name} cannot be converted to an array: give samples, or leads with'
      ' the same number of samples.'
    ) from error
  if np.ma.is_masked(signal) and array.dtype.kind in 'iuf':
    array = np.where(np.ma.getmaskarray(signal), np.nan, array)
  channels = arrays.array_channels(name, array)
  return _open_lead(
    channels,
    name,
    lead=None if lead is None else str(lead),
    sampling_rate=sampling_rate,
    units=units,
    counts_per_millivolt=counts_per_millivolt,
  )


def _open_lead(
  channels: Channels,
  path: str,
  *,
  lead: str | None,
  sampling_rate: float | None,
  units: str | None,
  counts_per_millivolt: float,
  units_from: str = 'units',
  lead_option: str = 'lead',
  assumed: Encoding | None = None,
) -> Recording:
  """Opens a lead of a file or an array.

  Args:
    channels: The file.
    path: Its name in an error.
    lead: As in `open_recording`.
    sampling_rate: Hz, where the file states none.
    units: Unit, where the file states none.
    counts_per_millivolt: What 'counts' are.
    units_from: The option that states `units`, with its value.
    lead_option: The option that states `lead`.
    assumed: Rate and unit where nothing states them; None to refuse that.
  """
  with explained(path):
    number, notes = lead_choice.choose(path, channels, lead, lead_option)
  chosen = channels.channels[number]
  name, stated = chosen.name or str(number), chosen.rate
  unit = (chosen.unit or '').strip()
  rate = sampling_rate if stated is None else stated
  rate_from = '--sampling_rate' if stated is None else chosen.rate_from
  if rate is None and assumed is not None:
    rate, rate_from = assumed.sampling_rate, 'assumed'
    notes += (f'no header: taken to have {rate} samples a second',)
  if assumed is not None and not unit and units is None:
    units, units_from = 'counts', 'assumed'
    count = f'{counts_per_millivolt:g}'
    notes += (f'no header: taken to be in units of 1/{count} mV',)
  rate = _checked_rate(path, name, rate, chosen.rate_from)
  scale = _scale(path, name, unit, units, counts_per_millivolt)
  if sampling_rate not in (None, rate):
    unused = f'--sampling_rate {sampling_rate:g} not used'
    notes += (f'states {rate:g} Hz itself: {unused}',)
  states_unit = units_lib.to_millivolt(unit) is not None
  if states_unit and units is not None:
    if _factor(units, counts_per_millivolt) != scale:
      notes += (f'states {unit} itself: {units_from} not used',)
  elif unit and units is not None and unit.lower() != units.strip().lower():
    notes += (f'states {unit}: taken as {units_from} says',)
  with explained(path):
    samples = channels.open(number)
    if samples.num_samples < 1:
      raise InputError(f'{path} has no samples: export it again.')
  notes += samples.notes

  def read(start: int, stop: int) -> np.ndarray:
    with explained(path):
      values = samples.read(start, stop)
      if len(values) != stop - start:
        raise InputError(
          f'{path} ends before its sample {stop}: it was cut off, so export it'
          ' again.'
        )
      return values * scale

  return Recording(
    path,
    name,
    rate,
    samples.num_samples,
    notes,
    read,
    channels,
    number,
    rate_from,
    unit if states_unit else units or '',
    chosen.unit_from if states_unit else units_from.partition(' ')[0],
  )


def _checked_rate(
  path: str, lead: str, rate: float | None, stated: str
) -> float:
  """A rate that is neither missing nor impossible; `stated` says where."""
  if rate is None and stated:
    raise InputError(
      f'{path} states several sampling rates ({stated}): give --sampling_rate'
      f' HZ of lead {lead}.'
    )
  if rate is None:
    raise InputError(
      f'{path} does not say its sampling rate: give --sampling_rate HZ.'
    )
  if not SLOWEST <= rate <= FASTEST:  # Neither is NaN.
    raise InputError(
      f'{path} has a sampling rate of {rate:g} Hz, not {SLOWEST:g} to'
      f' {FASTEST:g}: give the right one.'
    )
  return float(rate)


def is_counts(units: str) -> bool:
  """Whether units are not a voltage, but counts of a converter."""
  return units.strip().lower() in ('count', 'counts')


def _factor(unit: str, counts_per_millivolt: float) -> float | None:
  """Factor from a unit to mV, None if it is unknown."""
  if is_counts(unit):
    return 1 / counts_per_millivolt
  return units_lib.to_millivolt(unit)


def _scale(
  path: str, lead: str, stated: str, units: str | None, counts: float
) -> float:
  """Factor from a lead's samples to mV."""
  choice = (
    f'one of {", ".join(UNITS)} (of 1/{counts:g} mV), or --gain COUNTS_PER_MV'
  )
  scale = units_lib.to_millivolt(stated)
  if scale is not None:
    return scale
  if not lead_choice.may_be_voltage(stated):
    raise InputError(
      f'Lead {lead} of {path} is in {stated!r}, not a voltage: choose another'
      ' with --lead.'
    )
  scale = None if units is None else _factor(units, counts)
  if scale is not None:
    return scale
  if units is not None:
    raise InputError(
      f'--units {units!r} for lead {lead} of {path} is unknown: give {choice}.'
    )
  if stated:
    raise InputError(
      f'Lead {lead} of {path} is in {stated!r}, not a known voltage: choose'
      f' another with --lead, or give --units, {choice}.'
    )
  raise InputError(
    f'{path} does not say the units of lead {lead}: give --units, {choice}.'
  )

"""A lead of a user's recording, in mV at its own sampling rate.

`resampling` makes windows of it. Only what a window needs is read at a time.
"""

import dataclasses
import numbers
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import arrays, formats
from ecg_jax.recordings.channels import Channels, explained, to_float32

UNITS = ('V', 'mV', 'uV', 'nV', 'counts')
"""Units of files; counts are those of the model's records."""

_MILLIVOLT = {'V': 1e3, 'mV': 1.0, 'uV': 1e-3, 'nV': 1e-6}

SLOWEST, FASTEST = 50.0, 100_000.0
"""Hz, the sampling rates that are accepted."""

_ECG_NAME = re.compile(
  r'.*(ecg|ekg).*'
  r'|(lead|mod\.?|ml?)?[ _]*(i|ii|iii|av[rlf]|v\d\w*|mcl\d|c[mc]\d)([-+ ].*)?',
  re.IGNORECASE,
)


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
) -> Recording:
  """Opens a lead of a file.

  Args:
    path: A WFDB header, .edf, .mat (`val`), .csv, .txt or .npy.
    encoding: Of the model's records: what counts are, and what a .mat without
      a header is taken to have.
    lead: Name or number (from 0) of the lead; None for the first with a name
      or unit like an ECG's.
    sampling_rate: Hz, for files that do not state it.
    units: One of UNITS, for files that do not state it.

  Raises:
    InputError: The file, the lead, its rate or units cannot be used.
  """
  channels = formats.read_channels(path)
  notes = []
  if path.suffix.lower() == '.mat':
    # As a record of the challenge, the best known of this format.
    if sampling_rate is None:
      sampling_rate = encoding.sampling_rate
      notes.append(f'no header: taken to have {sampling_rate} samples a second')
    if units is None:
      units = 'counts'
      count = encoding.counts_per_millivolt
      notes.append(f'no header: taken to be in units of 1/{count:g} mV')
  opened = _open_lead(
    channels,
    str(path),
    lead=lead,
    sampling_rate=sampling_rate,
    units=units,
    counts_per_millivolt=encoding.counts_per_millivolt,
  )
  return dataclasses.replace(opened, notes=(*notes, *opened.notes))


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
) -> Recording:
  notes: tuple[str, ...] = ()
  scales = _MILLIVOLT | {'counts': 1 / counts_per_millivolt}
  names = tuple(name or str(k) for k, name in enumerate(channels.names))
  chosen = choose_lead(path, names, channels.units, lead)
  stated = channels.rates[chosen]
  rate = sampling_rate if stated is None else stated
  if rate is None:
    raise InputError(
      f'{path} does not say its sampling rate: give --sampling_rate HZ.'
    )
  if not SLOWEST <= rate <= FASTEST:  # Neither is NaN.
    raise InputError(
      f'{path} has a sampling rate of {rate:g} Hz, not {SLOWEST:g} to'
      f' {FASTEST:g}: give the right one.'
    )
  scale = _scale(path, names[chosen], channels.units[chosen], units, scales)
  if sampling_rate not in (None, rate):
    unused = f'--sampling_rate {sampling_rate:g} not used'
    notes += (f'states {rate:g} Hz itself: {unused}',)
  if units is not None and scales.get(_unit(units) or '') != scale:
    unused = f'--units {units} not used'
    notes += (f'states {channels.units[chosen]} itself: {unused}',)
  with explained(pathlib.Path(path)):
    samples = channels.open(chosen)
    if samples.num_samples < 1:
      raise InputError(f'{path} has no samples: export it again.')
  notes += samples.notes

  def read(start: int, stop: int) -> np.ndarray:
    with explained(pathlib.Path(path)):
      values = samples.read(start, stop)
      if len(values) != stop - start:
        raise InputError(
          f'{path} ends before its sample {stop}: it was cut off, so export it'
          ' again.'
        )
      return values * scale

  return Recording(
    path, names[chosen], float(rate), samples.num_samples, notes, read
  )


def choose_lead(
  path: str,
  names: Sequence[str],
  units: Sequence[str | None],
  wanted: str | None,
) -> int:
  """Chooses the lead to read; returns its number.

  Args:
    path: Name of the file in an error.
    names: Names of all channels.
    units: Units of all channels, None where not stated.
    wanted: Name (case is ignored) or number of a channel; None for the only
      one, else the first with a name like an ECG lead's, else the first in mV.

  Raises:
    InputError: There is no such lead; the message lists the leads.
  """
  listed = f'it has {", ".join(f"{k} {name}" for k, name in enumerate(names))}'
  if len(listed) > 300:
    listed = f'{listed[:300]}...'
  if wanted is not None:
    for number, name in enumerate(names):
      if wanted.strip().lower() == name.lower():
        return number
    if wanted.strip().isdecimal() and int(wanted) < len(names):
      return int(wanted)
    raise InputError(f'{path} has no lead {wanted!r}: {listed}.')
  electric = [k for k, unit in enumerate(units) if not unit or _unit(unit)]
  named = [k for k in electric if _ECG_NAME.fullmatch(names[k].strip())]
  measured = [k for k in electric if _unit(units[k]) == 'mV']
  only = electric if len(names) == 1 else []
  if candidates := [*named, *measured, *only]:
    return candidates[0]
  raise InputError(
    f'{path} has no channel that looks like an ECG by name and unit: choose'
    f' with --lead; {listed}.'
  )


def _unit(text: str | None) -> str | None:
  """The one of UNITS that a file spells so, or None."""
  plain = str(text).strip().replace('µ', 'u').replace('μ', 'u').lower()
  return next((unit for unit in UNITS if unit.lower() == plain), None)


def _scale(
  path: str,
  lead: str,
  stated: str | None,
  units: str | None,
  scales: Mapping[str, float],
) -> float:
  """Factor from a lead's samples to mV."""
  unit = _unit(stated or units)
  if unit is None and not stated:
    raise InputError(
      f'{path} does not say the units of lead {lead}'
      + ('' if units is None else f', and {units!r} are unknown')
      + f': give --units, one of {", ".join(UNITS)} (of'
      f' 1/{1 / scales["counts"]:g} mV).'
    )
  if unit is None:
    raise InputError(
      f'Lead {lead} of {path} is in {stated!r}, not a voltage: choose another'
      ' with --lead.'
    )
  return scales[unit]

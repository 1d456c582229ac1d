"""Reads EDF and EDF+C files."""

import contextlib
import math
import pathlib

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import Channels, Samples


def read_edf(path: pathlib.Path) -> Channels:
  """Opens an EDF or EDF+C file."""
  import edfio

  edf = edfio.read_edf(path, lazy_load_data=True, header_encoding='latin-1')
  if edf.reserved.startswith('EDF+D'):
    raise InputError(
      f'{path} is discontinuous (EDF+D), so its times are unknown: export it'
      ' as EDF or EDF+C.'
    )
  with path.open('rb') as file:
    claimed = int(file.read(244)[-8:])
  # A device that was switched off while recording leaves -1.
  if claimed not in (-1, edf.num_data_records):
    raise InputError(
      f'{path} claims {claimed} data records and holds {edf.num_data_records}:'
      ' it was cut off, so export it again.'
    )

  def open_channel(channel: int) -> Samples:
    signal = edf.signals[channel]
    rate = signal.sampling_frequency
    # edfio would return counts where these ranges do not scale them.
    for kind in ('physical', 'digital'):
      wrong = 'not two numbers'
      with contextlib.suppress(ValueError):
        low, high = getattr(signal, f'{kind}_range')
        if math.isfinite(high - low):
          wrong = f'both {low:g}' if low == high else ''
      if wrong:
        raise InputError(
          f'{path} has a {kind} minimum and maximum of lead'
          f' {signal.label.strip() or channel} that are {wrong}, so its units'
          ' are unknown: export it again.'
        )

    def read(start: int, stop: int) -> np.ndarray:
      return signal.get_data_slice(start / rate, stop / rate)

    return Samples(signal.samples_per_data_record * edf.num_data_records, read)

  return Channels(
    tuple(signal.label.strip() for signal in edf.signals),
    tuple(signal.physical_dimension.strip() for signal in edf.signals),
    tuple(signal.sampling_frequency for signal in edf.signals),
    open_channel,
  )

"""Reads the waveforms of DICOM files."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings.channels import ArraySamples, Channel, Channels


@dataclasses.dataclass(frozen=True)
class DicomFile(Channels):
  """The channels of the waveforms of a DICOM file."""

  rows: tuple[np.ndarray, ...]
  """Samples of each channel, float64, in its unit; NaN where missing."""

  def open(self, number: int) -> ArraySamples:
    """Opens a channel."""
    return ArraySamples(self.rows[number])


def read_dicom(path: pathlib.Path) -> Channels:
  """Reads the waveforms of a DICOM file, of minutes at most.

  What a device derived from them, such as a median beat, is not a channel.

  Raises:
    InputError: There is none, or pydicom is missing.
  """
  try:
    import pydicom
    from pydicom.waveforms import multiplex_array
  except ImportError as error:
    raise InputError(
      f'{path} is DICOM: install ecg_jax[devices] to read its waveforms, or'
      ' export it as EDF or CSV.'
    ) from error
  file = pydicom.dcmread(path)
  groups = list(enumerate(getattr(file, 'WaveformSequence', None) or ()))
  if not groups:
    raise InputError(f'{path} has no waveform: give one with an ECG.')
  original = [
    (number, group)
    for number, group in groups
    if getattr(group, 'WaveformOriginality', 'ORIGINAL') != 'DERIVED'
  ]
  channels, rows = [], []
  for number, group in original or groups:
    counts = multiplex_array(file, number, as_raw=True).astype(np.float64)
    padding = _padding(group)
    if padding is not None:
      counts[counts == padding] = np.nan
    rate = float(group.SamplingFrequency)
    for column, item in enumerate(group.ChannelDefinitionSequence):
      scale, unit = _scale(item)
      sources = getattr(item, 'ChannelSourceSequence', None) or ()
      name = str(getattr(sources[0], 'CodeMeaning', '')) if sources else ''
      baseline = float(getattr(item, 'ChannelBaseline', None) or 0)
      offset = baseline if unit else 0.0
      rows.append(counts[:, column] * scale + offset)
      channels.append(
        Channel(
          name or str(getattr(item, 'ChannelLabel', '')),
          unit,
          rate,
          unit_from='channel sensitivity' if unit else '',
          rate_from='sampling frequency',
        )
      )
  facts = {
    'format': 'DICOM waveform',
    'groups of channels': f'{len(original or groups)} of {len(groups)}',
  }
  return DicomFile(tuple(channels), facts, tuple(rows))


def _scale(item: Any) -> tuple[float, str | None]:
  """Factor from a channel's counts to its unit, and this unit if stated."""
  sensitivity = getattr(item, 'ChannelSensitivity', None)
  codes = getattr(item, 'ChannelSensitivityUnitsSequence', None) or ()
  unit = str(getattr(codes[0], 'CodeValue', '')) if codes else ''
  if sensitivity is None or not unit:
    return 1.0, None
  correction = getattr(item, 'ChannelSensitivityCorrectionFactor', None)
  return float(sensitivity) * float(1 if correction is None else correction), (
    unit
  )


def _padding(group: Any) -> int | None:
  """The count of a missing sample, or None."""
  value = getattr(group, 'WaveformPaddingValue', None)
  if isinstance(value, bytes):
    return int.from_bytes(value, 'little', signed=True) if value else None
  return None if value is None else int(value)

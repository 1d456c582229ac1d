"""What was understood of a recording, in words, for a user to check."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.recordings import formats, lead, resampling
from ecg_jax.recordings.channels import Channel

_BLOCK = 2**20
"""Samples that are read at a time."""

_CHANNELS_SHOWN = 100
"""Channels of a file that are listed, at most."""


@dataclasses.dataclass(frozen=True)
class Explanation:
  """What was understood of a file."""

  path: pathlib.Path
  facts: tuple[tuple[str, str], ...]
  """Name -> value of each fact, in the order to show them."""
  failure: str | None = None
  """Why it has no prediction, in a sentence."""

  def __str__(self) -> str:
    width = max((len(name) for name, _ in self.facts), default=0)
    lines = [f'  {name:{width}}  {text}' for name, text in self.facts]
    return '\n'.join([_in_one_line(str(self.path)), *lines])


def explain(
  path: pathlib.Path, encoding: lead.Encoding, **options: Any
) -> Explanation:
  """Reads a recording as for a prediction, to say what was understood of it.

  All of its lead is read, a block at a time.

  Args:
    path: The file.
    encoding: Of the model's records.
    **options: As of `lead.open_recording`.
  """
  facts: list[tuple[str, str]] = []
  try:
    source = formats.read_channels(path, options.get('variable'))
    facts += source.facts.items()
    facts += _describe_channels(source.channels)
    recording = lead.open_recording(path, encoding, **options)
    facts += _describe_lead(recording, options.get('gain'), encoding)
    facts += [('note', note) for note in recording.notes]
    described, lowest, highest = _describe_samples(recording)
    facts += described
    if lowest <= highest and resampling.is_flat(lowest, highest, encoding):
      raise resampling.flat_line(recording, encoding)
  except InputError as error:
    facts.append(('refused', str(error)))
    return Explanation(path, _printable(facts), str(error))
  return Explanation(path, _printable(facts))


def _describe_channels(channels: tuple[Channel, ...]) -> list[tuple[str, str]]:
  """What is stated of each channel, and what it was taken for."""
  facts = []
  for number, channel in enumerate(channels[:_CHANNELS_SHOWN]):
    parts = [repr(channel.name) if channel.name else 'without a name']
    if channel.unit:
      parts.append(f'in {_with_place(channel.unit.strip(), channel.unit_from)}')
    if channel.rate is not None:
      parts.append(_with_place(f'{channel.rate:g} Hz', channel.rate_from))
    if channel.role:
      parts.append(f'taken for: {channel.role}')
    facts.append((f'channel {number}', ', '.join(parts)))
  if (more := len(channels) - _CHANNELS_SHOWN) > 0:
    facts.append(('channels', f'and {more} more'))
  return facts


def _describe_lead(
  recording: lead.Recording, gain: float | None, encoding: lead.Encoding
) -> list[tuple[str, str]]:
  """The lead that was chosen, its rate and unit."""
  unit = recording.unit
  if lead.is_counts(unit):
    count = encoding.counts_per_millivolt if gain is None else gain
    unit = f'{unit} of 1/{count:g} mV'
  rate = f'{recording.sampling_rate:g} Hz'
  return [
    ('lead', f'{recording.number}, {recording.lead!r}'),
    ('sampling rate', _with_place(rate, recording.rate_from)),
    ('unit', _with_place(unit, recording.unit_from)),
  ]


def _describe_samples(
  recording: lead.Recording,
) -> tuple[list[tuple[str, str]], float, float]:
  """Number, length, gaps and range of the samples, all of which are read.

  Returns:
    These, and the range in mV, which is reversed where all are missing.
  """
  rate, total = recording.sampling_rate, recording.num_samples
  lowest, highest, was_missing = np.inf, -np.inf, False
  edges = []
  for start in range(0, total, _BLOCK):
    block = recording.millivolt(start, min(start + _BLOCK, total))
    missing = ~np.isfinite(block)
    edges.append(start + np.flatnonzero(np.diff(missing, prepend=was_missing)))
    was_missing = bool(missing[-1])
    if not missing.all():
      lowest = min(lowest, float(np.nanmin(block)))
      highest = max(highest, float(np.nanmax(block)))
  edges.append(np.full(int(was_missing), total))
  starts, ends = np.concatenate(edges).reshape(-1, 2).T
  gaps = 'none'
  if len(starts):
    lengths = ends - starts
    longest = int(lengths.argmax())
    gaps = (
      f'{len(starts)}, {lengths.sum() / rate:.2f} s together, the longest'
      f' {lengths[longest] / rate:.2f} s from {starts[longest] / rate:.2f} s'
    )
  facts = [('samples', f'{total:,}, {total / rate:.2f} s'), ('gaps', gaps)]
  if lowest <= highest:
    facts.append(('range', f'{lowest:.3f} to {highest:.3f} mV'))
  return facts, lowest, highest


def _with_place(text: str, place: str) -> str:
  return f'{text} ({place})' if place else text


def _printable(facts: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
  return tuple((_in_one_line(name), _in_one_line(text)) for name, text in facts)


def _in_one_line(text: str) -> str:
  """A text without line ends and signs that would control the terminal."""
  plain = ' '.join(text.split())
  return ''.join(x if x.isprintable() else f'\\x{ord(x):02x}' for x in plain)

"""Finds and reads the recordings of a folder that its table labels."""

import collections
import functools
import hashlib
import itertools
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tqdm

from ecg_jax.datasets import schema
from ecg_jax.datasets.recordings_folder import table as table_lib
from ecg_jax.datasets.recordings_folder.table import Line
from ecg_jax.errors import InputError
from ecg_jax.recordings import find, formats, lead, resampling
from ecg_jax.runtime import files

_SLACK = 1e-3
"""Seconds that a segment may end behind its recording, by rounding."""


def digest(folder: pathlib.Path) -> str:
  """SHA-256 of the names and the contents of all files of a folder.

  Those that are hidden do not count.

  Raises:
    InputError: One cannot be read.
  """
  digests = {}
  paths = _visible_files(folder)
  for path in tqdm.tqdm(
    paths, 'comparing', unit=' files', delay=2, disable=not sys.stderr.isatty()
  ):
    try:
      with path.open('rb') as file:
        content = hashlib.file_digest(file, 'sha256')
    except OSError as error:
      raise InputError(
        f'{path} cannot be read ({error.strerror}): make it readable, or remove'
        ' it.'
      ) from error
    digests[path.relative_to(folder).as_posix()] = content.hexdigest()
  return files.digest(digests)


def match(
  folder: pathlib.Path, lines: Sequence[Line], refused: list[str]
) -> list[tuple[Line, pathlib.Path]]:
  """Finds the recording of each line.

  Args:
    folder: The folder.
    lines: Those of its table.
    refused: Takes a sentence for each line without a recording, and for each
      recording without a line.

  Returns:
    Lines and files, in the order of the lines.
  """
  found = [
    path
    for inside in sorted({path.parent for path in _visible_files(folder)})
    for path in find.find_inside(inside, with_arrays=True)
    if path != folder / table_lib.NAME
  ]
  names: dict[str, list[pathlib.Path]] = {}
  stems: dict[str, list[pathlib.Path]] = {}
  for path in found:
    name = path.relative_to(folder)
    names[name.as_posix()] = [path]
    stems.setdefault(name.with_suffix('').as_posix(), []).append(path)
  matched: list[tuple[Line, pathlib.Path]] = []
  spelled: dict[pathlib.Path, str] = {}
  for line in lines:
    paths = (
      names.get(line.recording)
      or stems.get(line.recording)
      or stems.get(_stem(line.recording), [])
    )
    where = f'Line {line.number} of {folder / table_lib.NAME}'
    if len(paths) != 1:
      problem = 'which is no recording there: correct the name, or add the file'
      if paths:
        listed = ' and '.join(path.name for path in paths)
        problem = f'and there are {listed}: write the ending, too'
      refused.append(f'{where} names {line.recording}, {problem}.')
    elif spelled.setdefault(paths[0], line.recording) != line.recording:
      refused.append(
        f'{where} names {line.recording}, which is {spelled[paths[0]]} in'
        ' another line: write the name in one way.'
      )
    else:
      matched.append((line, paths[0]))
  for path in found:
    if path not in spelled and _is_recording(path):
      refused.append(
        f'{path} has no line in {table_lib.NAME}: label it, or move it to'
        ' another folder.'
      )
  return matched


def read(
  matched: Sequence[tuple[Line, pathlib.Path]],
  spec: schema.DatasetSpec,
  refused: list[str],
  notes: collections.Counter[str],
) -> Iterator[schema.Record]:
  """Reads records, one at a time.

  Args:
    matched: Lines and files; those of a file together.
    spec: Of the dataset.
    refused: Takes a sentence for each line that cannot be read.
    notes: Counts the lines for which a reader assumed something.

  Yields:
    The records, in the order of the lines.
  """
  encoding = lead.Encoding(spec.sampling_rate, spec.counts_per_millivolt)
  with tqdm.tqdm(
    total=len(matched), unit=' records', disable=not sys.stderr.isatty()
  ) as bar:
    for path, group in itertools.groupby(matched, lambda pair: pair[1]):
      # Opened once, since a text of a day is read through then.
      opened = functools.cache(functools.partial(_open, path, encoding))
      for line, _ in group:
        bar.update()
        recording = opened(**line.reading)
        try:
          if isinstance(recording, InputError):
            raise recording
          yield _record(line, recording, encoding, spec)
          notes.update(recording.notes)
        except InputError as error:
          reason = in_columns(str(error))
          refused.append(f'Line {line.number} of {table_lib.NAME}: {reason}')


def in_columns(text: str) -> str:
  """A sentence of a reader, which names options of predict, for a table."""
  return re.sub(
    rf'--({"|".join(table_lib.READING)})\b( [A-Z_]{{2,}})?',
    rf'the column \1 of {table_lib.NAME}',
    text,
  )


def _open(
  path: pathlib.Path, encoding: lead.Encoding, **reading: Any
) -> lead.Recording | InputError:
  """Opens a recording; returns the error if that fails."""
  try:
    return lead.open_recording(path, encoding, **reading)
  except InputError as error:
    return error


def _record(
  line: Line,
  recording: lead.Recording,
  encoding: lead.Encoding,
  spec: schema.DatasetSpec,
) -> schema.Record:
  """Reads the segment of a line."""
  seconds = recording.num_samples / recording.sampling_rate
  end = seconds if line.end == math.inf else line.end
  if max(line.start, end - _SLACK) > seconds or line.start >= seconds:
    raise InputError(
      f'{line.name} is behind the end of {recording.name}, which has'
      f' {seconds:.10g} s: correct its seconds.'
    )
  counts = resampling.window_counts(
    recording, encoding, line.start, min(end, seconds) - line.start
  )
  if not len(counts):
    raise InputError(f'{line.name} has no sample: give it more seconds.')
  labels = dict.fromkeys(spec.label_versions, line.label)
  return schema.Record(line.name, counts, labels, line.patient)


def _stem(recording: str) -> str:
  """A name without the ending of a file, such as the .mat of a header."""
  stem, ending = os.path.splitext(recording)
  known = (*formats.SUFFIXES, '.dat', '.eeg')
  return stem if ending.lower() in known else recording


def _is_recording(path: pathlib.Path) -> bool:
  """Whether a file without a line is one, and not a text of another kind."""
  if path.suffix.lower() in find.DEVICE_SUFFIXES:
    return True
  try:
    return bool(formats.read_channels(path).channels)
  except InputError:
    return False


def _visible_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Files of a folder and its subfolders, without hidden ones, sorted."""
  found = []
  for place, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if name[0] != '.']
    found += [pathlib.Path(place, name) for name in names if name[0] != '.']
  return sorted(found)

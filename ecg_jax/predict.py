"""Classifies a user's own recordings with the trained folds of a run.

python -m ecg_jax.predict --run RUN_FOLDER FILE [FILE or folder ...]
"""

import argparse
import collections
import dataclasses
import functools
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from ecg_jax import cli
from ecg_jax.errors import InputError, PartialFailure
from ecg_jax.recordings import find, lead
from ecg_jax.runtime import files

_SIGNAL_SUFFIXES = {'.hea', '.dat', '.mat', '.edf', '.npy'}
"""No output has such an ending."""


def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  return cli.run_command(
    lambda: _run(arguments),
    debug='--debug' in arguments,
    memory=cli.FREE_MEMORY,
  )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
  """The command line, checked.

  Raises:
    InputError: Says what is wrong with it.
  """
  parser = cli.ArgumentParser(
    prog='ecg_jax.predict',
    description='Classifies recordings with the trained folds of a run.',
  )
  path = cli.path_argument
  add = parser.add_argument
  add('paths', metavar='FILE', nargs='+', type=path, help='file or folder')
  add('--run', metavar='RUN_FOLDER', type=path, required=True)
  add('--lead', help='name or number (from 0); default: the first ECG')
  add(
    '--sampling_rate',
    type=float,
    help='Hz; for CSV, TXT, .npy, .mat, and .hea without it',
  )
  add(
    '--units',
    choices=list(lead.MILLIVOLT),
    help='for CSV, TXT, .npy, .mat; counts are of 1/1000 mV',
  )
  add(
    '--window',
    type=float,
    default=30.0,
    help='seconds; of recordings longer than any trained on',
  )
  add(
    '--stride',
    type=float,
    default=30.0,
    help='seconds from one window to the next',
  )
  add('--bandpass', action='store_true', help='filter, 0.5 to 40 Hz')
  add('--vote', action='store_true', help='of the folds, not their mean')
  add('--abstain', metavar='P', type=float, default=0.0,
      help='undecided below this probability')  # fmt: skip
  add('--allow_leak', action='store_true',
      help='let folds answer for records that they learnt from')  # fmt: skip
  add('--out', type=path, metavar='FILE', help='.csv or .json')
  add('--answers', type=path, metavar='FILE', help='record,label lines')
  add('--plot', type=path, metavar='DIR', help='pictures, .png and .svg')
  add('--debug', action='store_true', help='print the traceback of an error')
  given = parser.parse_args(arguments)
  if given.out is not None and given.out.suffix not in ('.csv', '.json'):
    raise InputError(f'--out {given.out} ends neither in .csv nor in .json.')
  return given


def _check_outputs(
  given: argparse.Namespace, inputs: Sequence[pathlib.Path]
) -> None:
  """Refuses outputs that cannot be written, or would replace what is kept.

  Raises:
    InputError: Says which, and why.
  """
  kept = {os.path.realpath(path) for path in inputs if not path.is_dir()}
  run = pathlib.Path(os.path.realpath(given.run))
  taken: set[str] = set()
  for name in ('out', 'answers', 'plot'):
    output = getattr(given, name)
    if output is None:
      continue
    place = os.path.realpath(output)
    if place in kept or output.suffix.lower() in _SIGNAL_SUFFIXES:
      raise InputError(
        f'--{name} {output} would replace a recording: name another file.'
      )
    if pathlib.Path(place).is_relative_to(run):
      raise InputError(
        f'--{name} {output} is in the run folder {given.run}: name a place'
        ' outside of it.'
      )
    if place in taken:
      raise InputError(
        f'--{name} {output} is named for another output too: name another.'
      )
    taken.add(place)
    if name == 'plot':
      files.check_writable(output, f'--{name}')
      continue
    if output.is_dir():
      raise InputError(f'--{name} {output} is a folder: name a file.')
    files.check_writable(output.parent, f'--{name}')


def _is_answer(path: pathlib.Path) -> bool:
  """Whether it is what --out or --answers wrote, and may write again."""
  try:
    with path.open(encoding='utf-8', errors='replace') as file:
      line = file.readline(4096).strip()
  except OSError:
    return False
  return line.startswith('recording,lead,') or bool(
    re.fullmatch('.+,[NAO~]', line)
  )


def _run(arguments: Sequence[str]) -> int:
  given = _parse(arguments)
  paths = find.find(given.paths, with_arrays=given.sampling_rate is not None)
  # Without a rate those of a folder are not read, but not replaced either.
  others = find.find(given.paths, with_arrays=True)
  others = [path for path in others if not _is_answer(path)]
  _check_outputs(given, [*given.paths, *paths, *others])

  # Imported once paths are known to be good: they take seconds.
  from ecg_jax.prediction import ensemble, pictures, predictor, report
  from ecg_jax.runtime import startup

  startup.enable_compilation_cache()
  fields = [field.name for field in dataclasses.fields(predictor.Settings)]
  settings = predictor.Settings(**{x: getattr(given, x) for x in fields})
  folds = ensemble.load(given.run)
  openers = {
    name: functools.partial(
      lead.open_recording,
      path,
      lead=given.lead,
      sampling_rate=given.sampling_rate,
      units=given.units,
    )
    for name, path in zip(_names(paths), paths, strict=True)
  }
  outcomes = predictor.predict_recordings(folds, openers, settings)
  failed = [x.failure for x in outcomes if x.failure is not None]
  try:  # What was found is told whatever fails here.
    if given.out is not None:
      if given.out.suffix == '.csv':
        text = report.to_csv(outcomes)
      else:
        text = report.to_json(outcomes, folds, settings)
      files.write_atomically(given.out, _encode(text))
    if given.answers is not None:
      text = report.to_answers(outcomes)
      files.write_atomically(given.answers, _encode(text))
    if given.plot is not None:
      # Matplotlib takes a second.

      pictures.write(given.plot, folds, outcomes)
  finally:
    _tell(report.format_table(outcomes), sys.stdout)
    for failure in failed:
      _tell(failure, sys.stderr)
  if failed:
    raise PartialFailure(
      f'No answer for {len(failed)} of {len(outcomes)}'
      f' recording{"s" * (len(outcomes) > 1)}.'
    )
  return 0


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
  """File names without their endings, or paths where these are not enough."""
  counts = collections.Counter(path.stem for path in paths)
  whole = [_encode(str(path)).decode() for path in paths]
  names = [
    _encode(path.stem).decode() if counts[path.stem] == 1 else name
    for path, name in zip(paths, whole, strict=True)
  ]
  # The stem of x.csv.npy may be the path of another.
  return names if len(set(names)) == len(names) else whole


def _encode(text: str) -> bytes:
  """UTF-8; of what was no UTF-8 in a file's name, its codes."""
  return text.encode(errors='backslashreplace')


def _tell(text: str, stream: TextIO) -> None:
  """Prints; of characters that the stream does not have, their codes."""
  encoding = stream.encoding or 'utf-8'
  print(text.encode(encoding, 'backslashreplace').decode(encoding), file=stream)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

"""Classifies a user's own recordings with the finished folds of a run.

python -m ecg_jax.predict FILE [FILE or folder ...]
python -m ecg_jax.predict --run RUN_FOLDER FILE [FILE or folder ...]
python -m ecg_jax.predict --explain FILE [FILE or folder ...]
"""

import argparse
import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ecg_jax import cli
from ecg_jax.datasets import schema
from ecg_jax.errors import InputError, PartialFailure
from ecg_jax.prediction import outputs
from ecg_jax.recordings import explain, find, lead, units
from ecg_jax.runs import artifacts, released

_READING = ('lead', 'sampling_rate', 'units', 'gain', 'variable')
"""Options that say how files are read."""

_OUTPUTS = ('out', 'answers', 'plot', 'report')
"""Options that say what is written."""


@cli.command(cli.FREE_MEMORY)
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  options = _parse(arguments)
  targets = outputs.Outputs(**{x: getattr(options, x) for x in _OUTPUTS})
  paths = find.find(
    options.paths,
    with_arrays=options.explain or options.sampling_rate is not None,
  )
  reading = {name: getattr(options, name) for name in _READING}
  if options.explain:
    return _explain(paths, options.run, reading)
  run = released.open_run(options.run)
  left_out = targets.check(run, [*options.paths, *paths])

  # Imported once paths are known to be good: they take seconds.
  from ecg_jax.prediction import ensemble, predictor
  from ecg_jax.runtime import startup

  startup.enable_compilation_cache()
  fields = [field.name for field in dataclasses.fields(predictor.Settings)]
  settings = predictor.Settings(**{x: getattr(options, x) for x in fields})
  model = ensemble.load(run)
  openers = {
    name: functools.partial(
      lead.open_recording, path, model.encoding, **reading
    )
    for name, path in zip(outputs.names(paths), paths, strict=True)
  }
  results = predictor.predict_recordings(model, openers, settings)
  try:
    targets.write(results, model, settings, openers)
  finally:
    _tell_left_out(left_out, options.paths)
  return 0


def _tell_left_out(
  files: Sequence[pathlib.Path], named: Sequence[pathlib.Path]
) -> None:
  """Says on stderr which files and subfolders of folders are not read."""
  if files:
    print(
      f'Left out: {len(files)} file{"s" * (len(files) > 1)} without a sampling'
      f' rate and unit, such as {files[0]}: --explain says what each lacks;'
      ' recordings are read with --sampling_rate and --units.',
      file=sys.stderr,
    )
  if folders := find.subfolders(named):
    print(
      f'Left out: {len(folders)} subfolder{"s" * (len(folders) > 1)} with'
      f' recordings, such as {folders[0]}: name them too.',
      file=sys.stderr,
    )


def _explain(
  paths: Sequence[pathlib.Path],
  run_folder: pathlib.Path | None,
  reading: dict[str, Any],
) -> int:
  """Prints what is understood of each file, without a network.

  Raises:
    PartialFailure: A recording would have no prediction.
  """
  spec = schema.CHALLENGE
  if run_folder is not None:
    spec = artifacts.read_spec(released.open_run(run_folder))
  encoding = lead.Encoding(spec.sampling_rate, spec.counts_per_millivolt)
  failures = 0
  for path in paths:
    explanation = explain.explain(path, encoding, **reading)
    failures += explanation.failure is not None
    cli.print_text(str(explanation))
  if failures:
    raise PartialFailure(
      f'No answer for {failures} of {len(paths)}'
      f' recording{"s" * (len(paths) > 1)}: see "refused".'
    )
  return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
  """Parses the command line; raises InputError where it is wrong."""
  parser = cli.ArgumentParser(
    prog='ecg_jax.predict',
    description='Classifies recordings with the finished folds of a run.',
  )
  path = cli.path_argument
  add = parser.add_argument
  add('paths', metavar='FILE', nargs='+', type=path, help='file or folder')
  add('--run', metavar='RUN_FOLDER', type=path,
      help='default: the weights of the package')  # fmt: skip
  add('--explain', action='store_true',
      help='say what is understood of each file, and predict'
      ' nothing')  # fmt: skip
  add('--lead', help='name or number (from 0); default: the first ECG')
  add('--sampling_rate', type=_positive('samples a second'),
      help='Hz; for CSV, TXT, .npy, .mat, and .hea without it')  # fmt: skip
  add('--units', type=_units,
      help='V, mV, uV, nV, in any spelling, or counts as in the training data;'
      ' for files that state none')  # fmt: skip
  add('--gain', metavar='COUNTS_PER_MV', type=_positive('counts per mV'),
      help='for files of raw counts, in place of --units')  # fmt: skip
  add('--variable', metavar='NAME',
      help='to read of a .mat or .npz that has several')  # fmt: skip
  add('--window', type=float, default=30.0,
      help='seconds; for recordings longer than any trained on')  # fmt: skip
  add('--stride', type=float, default=30.0,
      help='seconds from one window to the next')  # fmt: skip
  add('--bandpass', action='store_true', help='filter, 0.5 to 40 Hz')
  add('--vote', action='store_true', help='folds vote instead of averaging')
  add('--abstain', metavar='P', type=float, default=0.0,
      help='undecided below this probability')  # fmt: skip
  add('--allow_leak', action='store_true',
      help='let folds classify records that they were trained on')  # fmt: skip
  add('--out', type=path, metavar='FILE', help='.csv or .json')
  add('--answers', type=path, metavar='FILE', help='record,label lines')
  add('--plot', type=path, metavar='DIR', help='pictures, .png and .svg')
  add('--report', type=path, metavar='FILE', help='page to look at, .html')
  options = parser.parse_args(arguments)
  if options.gain is not None and options.units not in (None, 'counts'):
    raise InputError(
      f'--gain {options.gain:g} is for counts, --units {options.units} for'
      ' voltages: leave one of them out.'
    )
  for name in _OUTPUTS:
    if options.explain and getattr(options, name) is not None:
      raise InputError(
        f'--{name} is for predictions, which --explain does not make: leave one'
        ' of them out.'
      )
  return options


def _units(text: str) -> str:
  """Parses --units."""
  if lead.is_counts(text):
    return 'counts'
  if units.to_millivolt(text) is None:
    raise argparse.ArgumentTypeError(
      f'{text!r} is neither counts nor a unit of voltage such as V, mV, uV, nV'
    )
  return text


def _positive(what: str) -> Callable[[str], float]:
  """A parser of an option that is a positive number of something."""

  def parse(text: str) -> float:
    try:
      number = float(text)
    except ValueError:
      number = math.nan
    if not 0 < number < math.inf:
      raise argparse.ArgumentTypeError(
        f'{text!r} is not a positive number of {what}'
      )
    return number

  return parse


if __name__ == '__main__':
  sys.exit(main())

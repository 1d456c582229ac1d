"""Classifies a user's own recordings with the trained folds of a run.

python -m ecg_jax.predict --run RUN_FOLDER FILE [FILE or folder ...]
"""

import argparse
import collections
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence

from ecg_jax import artifacts, errors, recording_files, recordings, summary
from ecg_jax.errors import InputError


def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  return errors.run_command(
    lambda: _run(arguments), debug='--debug' in arguments
  )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
  """The command line, checked.

  Raises:
    InputError: Says what is wrong with it.
  """
  parser = errors.ArgumentParser(
    prog='ecg_jax.predict',
    description='Classifies recordings with the trained folds of a run.',
  )
  path = pathlib.Path
  add = parser.add_argument
  add('paths', metavar='FILE', nargs='+', type=path, help='file or folder')
  add('--run', metavar='RUN_FOLDER', type=path, required=True)
  add('--lead', help='name or number (from 0); default: the first ECG')
  add('--sampling_rate', type=float, help='Hz; for CSV, TXT, .npy, .mat')
  add(
    '--units',
    choices=list(recordings.MILLIVOLT),
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


def _run(arguments: Sequence[str]) -> int:
  given = _parse(arguments)
  paths = recording_files.find(
    given.paths, with_arrays=given.sampling_rate is not None
  )
  for name in ('out', 'answers'):
    if getattr(given, name) is not None:
      artifacts.check_writable(getattr(given, name).parent, f'--{name}')
  if given.plot is not None:
    artifacts.check_writable(given.plot, '--plot')

  # Imported once paths are known to be good: they take seconds.
  from ecg_jax import answering, compilation_cache, prediction_report, trained

  compilation_cache.enable()
  fields = [field.name for field in dataclasses.fields(answering.Settings)]
  settings = answering.Settings(**{x: getattr(given, x) for x in fields})
  folds = trained.load(given.run)
  openers = {
    name: functools.partial(
      recordings.open_recording,
      path,
      lead=given.lead,
      sampling_rate=given.sampling_rate,
      units=given.units,
    )
    for name, path in zip(_names(paths), paths, strict=True)
  }
  outcomes = answering.answer(folds, openers, settings)
  if given.out is not None:
    if given.out.suffix == '.csv':
      text = prediction_report.to_csv(outcomes)
    else:
      text = prediction_report.to_json(outcomes, folds, settings)
    summary.write_atomically(given.out, text.encode())
  if given.answers is not None:
    text = prediction_report.to_answers(outcomes)
    summary.write_atomically(given.answers, text.encode())
  print(prediction_report.format_table(outcomes))
  if given.plot is not None:
    from ecg_jax import prediction_pictures  # Matplotlib takes a second.

    prediction_pictures.write(given.plot, folds, outcomes)
  failed = [x.failure for x in outcomes if x.failure is not None]
  for failure in failed:
    print(failure, file=sys.stderr)
  if failed:
    raise errors.PartialFailure(
      f'{len(failed)} of {len(outcomes)} recordings have no answer.'
    )
  return 0


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
  """File names without their endings, or paths where these are not enough."""
  counts = collections.Counter(path.stem for path in paths)
  return [path.stem if counts[path.stem] == 1 else str(path) for path in paths]


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

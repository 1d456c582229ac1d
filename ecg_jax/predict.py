"""Classifies a user's own recordings with the finished folds of a run.

python -m ecg_jax.predict --run RUN_FOLDER FILE [FILE or folder ...]
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence

from ecg_jax import cli
from ecg_jax.prediction import outputs
from ecg_jax.recordings import find, lead


@cli.command(cli.FREE_MEMORY)
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  options = _parse(arguments)
  targets = outputs.Outputs(options.out, options.answers, options.plot)
  paths = find.find(
    options.paths, with_arrays=options.sampling_rate is not None
  )
  targets.check(options.run, [*options.paths, *paths])

  # Imported once paths are known to be good: they take seconds.
  from ecg_jax.prediction import ensemble, predictor
  from ecg_jax.runtime import startup

  startup.enable_compilation_cache()
  fields = [field.name for field in dataclasses.fields(predictor.Settings)]
  settings = predictor.Settings(**{x: getattr(options, x) for x in fields})
  model = ensemble.load(options.run)
  openers = {
    name: functools.partial(
      lead.open_recording,
      path,
      model.encoding,
      lead=options.lead,
      sampling_rate=options.sampling_rate,
      units=options.units,
    )
    for name, path in zip(outputs.names(paths), paths, strict=True)
  }
  results = predictor.predict_recordings(model, openers, settings)
  targets.write(results, model, settings)
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
  add('--run', metavar='RUN_FOLDER', type=path, required=True)
  add('--lead', help='name or number (from 0); default: the first ECG')
  add('--sampling_rate', type=float,
      help='Hz; for CSV, TXT, .npy, .mat, and .hea without it')  # fmt: skip
  add('--units', choices=list(lead.UNITS),
      help='of CSV, TXT, .npy, .mat; counts as in the training data'
      )  # fmt: skip
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
  return parser.parse_args(arguments)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

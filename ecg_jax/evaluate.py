"""Scores a set of records: each counted once, deterministically.

python -m ecg_jax.evaluate RUN_FOLDER --set test --label_version v2

or how well a run finds a class in another dataset:

python -m ecg_jax.evaluate RUN_FOLDER --on mitdb
"""

import sys
from collections.abc import Sequence

from ecg_jax import cli
from ecg_jax.errors import InputError
from ecg_jax.evaluation import summary, tables
from ecg_jax.evaluation.rescore import evaluate_run
from ecg_jax.prediction import other_dataset
from ecg_jax.runs import finished_run


@cli.command(cli.FREE_MEMORY)
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = finished_run.run_parser(
    'ecg_jax.evaluate',
    'Scores the saved weights of a run again, and prints a table.',
  )
  parser.add_argument(
    '--label_version', help="labels to score with; default: the run's"
  )
  parser.add_argument(
    '--out',
    type=cli.path_argument,
    help='folder for the scores; default: evaluation_... in the run folder',
  )
  other = parser.add_argument_group('another dataset, all of it')
  other.add_argument('--on', metavar='NAME', help='as in --config.data.name')
  other.add_argument(
    '--map',
    metavar='AFIB=A,NSR=N',
    help='what its classes are taken for; default: the same names',
  )
  other.add_argument(
    '--positive', metavar='CLASS', help='class of the run that is to be found'
  )
  options = parser.parse_args(arguments)
  chosen = {
    field: getattr(options, field)
    for field in ('label_version', 'out', 'manual_dir', 'data_dir')
  }
  of_other = {'positive': options.positive, 'meaning': options.map}
  if options.on is not None:
    if options.set_name != 'test':
      raise InputError(
        f"--set {options.set_name} is a part of the run's own data: leave it"
        ' out with --on.'
      )
    print(
      other_dataset.evaluate_on(
        options.run_folder, options.on, **chosen, **of_other
      )
    )
    return 0
  if any(value is not None for value in of_other.values()):
    raise InputError(
      '--map and --positive are for another dataset: name it with --on.'
    )
  out = evaluate_run(options.run_folder, set_name=options.set_name, **chosen)
  scores = summary.summarize(out, options.set_name)
  print(tables.format_table([scores]))
  tables.write_summary(out, [scores])
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

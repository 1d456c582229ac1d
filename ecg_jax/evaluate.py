"""Scores a set of records: each counted once, deterministically.

python -m ecg_jax.evaluate RUN_FOLDER --set test --label_version v2
"""

import sys
from collections.abc import Sequence

from ecg_jax import cli
from ecg_jax.evaluation import summary, tables
from ecg_jax.evaluation.rescore import evaluate_run
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
  options = parser.parse_args(arguments)
  fields = ('set_name', 'label_version', 'manual_dir', 'data_dir')
  chosen = {field: getattr(options, field) for field in fields}
  out = evaluate_run(options.run_folder, **chosen)
  scores = summary.summarize(out, options.set_name)
  print(tables.format_table([scores]))
  tables.write_summary(out, [scores])
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

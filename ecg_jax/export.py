"""Writes a run's finished folds as programs that need neither it nor ecg_jax.

python -m ecg_jax.export --run RUN_FOLDER --out MODEL_FOLDER

The folder holds `predict_int16.bin` and `predict_millivolt.bin` (jax.export,
for CPUs and NVIDIA GPUs, any number of recordings of any length),
`weights.npz`, and `MODEL_CARD.md`, which says how to call them and what they
are worth. The weights stand beside the programs: so they are there once and not
in each program, and can be read by anything.

B: batch, N: samples.
"""

import sys
from collections.abc import Sequence

from ecg_jax import cli
from ecg_jax.prediction import exporter


def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  return cli.run_command(
    lambda: _run(arguments),
    debug='--debug' in arguments,
    memory=cli.FREE_MEMORY,
  )


def _run(arguments: Sequence[str]) -> int:
  parser = cli.ArgumentParser(
    prog='ecg_jax.export',
    description='Writes the finished folds of a run as programs that need'
    ' neither it nor ecg_jax.',
  )
  parser.add_argument('--run', required=True, type=cli.path_argument)
  parser.add_argument('--out', required=True, type=cli.path_argument)
  parser.add_argument(
    '--debug', action='store_true', help='print the traceback of an error'
  )
  given = parser.parse_args(arguments)
  exporter.export(given.run, given.out)
  for path in sorted(given.out.iterdir()):
    print(f'{path} ({path.stat().st_size:,} bytes)')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

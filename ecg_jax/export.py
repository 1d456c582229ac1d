"""Exports a run's finished folds as programs that need neither it nor ecg_jax.

python -m ecg_jax.export RUN_FOLDER --out MODEL_FOLDER

The folder holds `predict_int16.bin` and `predict_millivolt.bin` (jax.export,
for CPUs and NVIDIA GPUs, any number of recordings of any length),
`weights.npz`, and `MODEL_CARD.md`, which explains how to call them and how well
they score. The weights are beside the programs, so that they are stored once
and other programs can read them.
"""

import sys
from collections.abc import Sequence

from ecg_jax import cli
from ecg_jax.prediction import exporter


@cli.command(cli.FREE_MEMORY)
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = cli.ArgumentParser(
    prog='ecg_jax.export',
    description='Exports the finished folds of a run as programs that need'
    ' neither it nor ecg_jax.',
  )
  path = cli.path_argument
  parser.add_argument('run_folder', metavar='RUN_FOLDER', type=path)
  parser.add_argument('--out', required=True, type=path)
  options = parser.parse_args(cli.without_run_flag(arguments))
  exporter.export(options.run_folder, options.out)
  for file in sorted(options.out.iterdir()):
    print(f'{file} ({file.stat().st_size:,} bytes)')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

"""Trains the models of a config on its folds and prints the table of scores.

python -m ecg_jax.main --config configs/crnn.py
python -m ecg_jax.main --config ecg_jax:ablations --seeds 0,1,2
srun python -m ecg_jax.main --config configs/crnn.py --distributed
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from ecg_jax import cli, configuration
from ecg_jax.errors import InputError
from ecg_jax.runtime import signals, startup

_PROCESSES = ('coordinator_address', 'num_processes', 'process_id')


def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  values = configuration.define_flags()
  for name, explanation in {
    'workdir': 'folder of the run; default runs/NAME_OF_CONFIG',
    'seeds': 'like 0,1,2: a run with each seed, in WORKDIR/NAME/seedS',
    'coordinator_address': 'HOST:PORT of process 0, of several processes',
  }.items():
    flags.DEFINE_string(name, None, explanation, flag_values=values)
  for name, explanation in {
    'num_processes': 'number of processes that run this command',
    'process_id': 'number of this process, from 0',
  }.items():
    flags.DEFINE_integer(name, None, explanation, flag_values=values)
  flags.DEFINE_boolean(
    'distributed',
    False,
    'whether several processes run this command, started by SLURM, Open MPI or'
    ' Kubernetes',
    flag_values=values,
  )
  code = cli.run_command(lambda: _run(values, argv), debug='--debug' in argv)
  jax = sys.modules.get('jax')
  if code and jax and jax.distributed.is_initialized():
    # JAX's own end would wait for the others, of which one may be gone.
    sys.stdout.flush()
    os._exit(code)
  return code


def _run(values: flags.FlagValues, argv: Sequence[str]) -> int:
  with signals.handled() as loop:
    configs = configuration.parse_all(values, argv)
    name = configuration.name_of(argv)
    runs = configuration.runs(configs, _parse_seeds(values.seeds), name)
    workdir = pathlib.Path(values.workdir or f'runs/{name}').expanduser()
    processes = _process_flags(values)

    # Imported once the command line is known to be good: they take seconds.
    import jax

    from ecg_jax.runtime import multihost
    from ecg_jax.training.train_runs import train_runs

    try:
      if processes is not None:
        multihost.begin(*processes)
      train_runs(runs, workdir, loop)
    except (Exception, KeyboardInterrupt) as error:
      if jax.distributed.is_initialized():
        multihost.leave(cli.explain(error)[0])
      raise
  return 0


def _parse_seeds(text: str | None) -> tuple[int, ...]:
  """Parses '0,1,2'; None has no seeds.

  Raises:
    InputError: One is not a whole number from 0 to 2**32 - 1, or a duplicate.
  """
  try:
    seeds = tuple(map(int, text.split(','))) if text is not None else ()
  except ValueError:
    seeds = (-1,)
  if any(not 0 <= seed < 2**32 for seed in seeds):
    raise InputError(
      f'--seeds is {text!r}: write whole numbers from 0 to {2**32 - 1}, like'
      ' 0,1,2.'
    )
  if len(set(seeds)) < len(seeds):
    raise InputError(f'--seeds is {text!r}: name each seed once.')
  return seeds


def _process_flags(values: flags.FlagValues) -> list[Any] | None:
  """The arguments of `multihost.begin`; None where one process runs alone."""
  processes = [values[name].value for name in _PROCESSES]
  if processes == [None] * 3:
    return processes if values.distributed else None
  if None in processes:
    raise InputError(
      '--coordinator_address, --num_processes and --process_id go together:'
      ' set all three, or --distributed where SLURM, Open MPI or Kubernetes'
      ' starts the processes.'
    )
  return processes


def command() -> int:
  """Runs the command line of this process; returns the exit code."""
  startup.restart_in_huge_pages()
  return main(sys.argv)


if __name__ == '__main__':
  sys.exit(command())

"""Trains a small CRNN from Python, as the command `ecg_jax.main` does.

    python -m examples.train_small [RUN_FOLDER [--config.FIELD=VALUE ...]]

It shows how fields of a config are set, that a run which is started again
continues (a finished one only prints its table), and what is returned. The
data are 60 records of the synthetic set for each set of fold 0. A minute on a
laptop; the scores mean nothing after two epochs.
"""

import sys

from ecg_jax import main


def train(run_folder: str, *options: str) -> int:
  """Trains fold 0 for two epochs; returns the exit code of the command."""
  fields = {
    'folds': (0,),
    'data.max_records': 60,
    'phases.kinds': ('all',),
    'phases.epochs': (2,),
    'phases.learning_rates': (2e-3,),
    'buckets.training': 1,
    'buckets.evaluation': 1,
    'tensorboard': False,
  }
  command = ['train_small', '--config', 'configs/quickstart.py']
  command += ['--workdir', run_folder]
  for name, value in fields.items():
    command.append(f'--config.{name}={value}')
  return main.main([*command, *options])


if __name__ == '__main__':
  sys.exit(train(*sys.argv[1:] or ['runs/example']))

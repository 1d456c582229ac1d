"""Trains the models of a config on its folds, and prints the table of scores.

python -m ecg_jax.main --config configs/crnn.py
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from ecg_jax import configuration, errors


def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  values = configuration.define_flags()
  flags.DEFINE_string(
    'workdir',
    None,
    'folder of the run; default runs/NAME_OF_CONFIG',
    flag_values=values,
  )
  debug = '--debug' in argv
  return errors.run_command(lambda: _run(values, argv), debug=debug)


def _run(values: flags.FlagValues, argv: Sequence[str]) -> int:
  config = configuration.parse(values, argv)
  name = configuration.name_of(configuration.config_path(values))
  workdir = pathlib.Path(values.workdir or f'runs/{name}').expanduser()

  # Imported once the command line is known to be good: they take seconds.
  import jax

  from ecg_jax import (
    artifacts,
    compilation_cache,
    experiment,
    input_pipeline,
    jobs,
    models,
    summary,
    train,
  )

  artifacts.check_config(workdir, config)
  artifacts.check_writable(workdir)
  compilation_cache.enable()
  data = experiment.load_data(config)
  artifacts.begin_run(workdir, config, data.digests())
  artifacts.write_labels(
    workdir / 'labels.csv',
    {v: data.dataset.labels(v) for v in input_pipeline.LABEL_VERSIONS},
  )
  work = [jobs.make_job(config, data, fold, workdir) for fold in config.folds]
  params = jax.eval_shape(lambda: train.initial_variables(work[0]))['params']
  print(
    f'{config.model.name} with {models.count_parameters(params):,} trainable'
    f' parameters on {config.data.name}, folds'
    f' {", ".join(map(str, config.folds))}, in {workdir}',
    flush=True,
  )
  failed = jobs.run(work)
  found = summary.summarize(workdir)
  print(summary.format_table([found]))
  summary.write_summary(workdir, [found])
  if len(failed) == len(work):
    raise next(iter(failed.values()))
  if failed:
    raise errors.PartialFailure(
      f'{", ".join(failed)} failed: start again with the same command to train'
      ' what is unfinished.'
    ) from next(iter(failed.values()))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))

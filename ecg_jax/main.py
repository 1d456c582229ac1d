"""Trains the models of a config on its folds, and prints the table of scores.

python -m ecg_jax.main --config configs/crnn.py
python -m ecg_jax.main --config configs/ablations.py --seeds 0,1,2
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from ecg_jax import configuration, errors, huge_pages, interruption


def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  values = configuration.define_flags()
  for name, explanation in {
    'workdir': 'folder of the run; default runs/NAME_OF_CONFIG',
    'seeds': 'like 0,1,2: a run with each seed, in WORKDIR/NAME/seedS',
  }.items():
    flags.DEFINE_string(name, None, explanation, flag_values=values)
  debug = '--debug' in argv
  return errors.run_command(lambda: _run(values, argv), debug=debug)


def _run(values: flags.FlagValues, argv: Sequence[str]) -> int:
  with interruption.handled() as loop:
    return _train(values, argv, loop)


def _train(
  values: flags.FlagValues, argv: Sequence[str], loop: interruption.Loop
) -> int:
  configs = configuration.parse_all(values, argv)
  seeds = configuration.parse_seeds(values.seeds)
  name = configuration.name_of(configuration.config_path(argv))
  workdir = pathlib.Path(values.workdir or f'runs/{name}').expanduser()
  runs = configuration.runs(configs, seeds, name)

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

  for run, config in runs.items():
    artifacts.check_config(workdir / run, config)
  artifacts.check_writable(workdir)
  compilation_cache.enable()
  work: list[train.Job] = []
  found = experiment.load_data(list(runs.values()))
  for (run, config), data in zip(runs.items(), found, strict=True):
    folder = workdir / run
    artifacts.begin_run(folder, config, data.digests())
    artifacts.write_labels(
      folder / 'labels.csv',
      {v: data.dataset.labels(v) for v in input_pipeline.LABEL_VERSIONS},
    )
    for fold in config.folds:
      work.append(jobs.make_job(config, data, fold, folder, run))
    params = jax.eval_shape(lambda: train.initial_variables(work[-1]))['params']
    print(
      f'{config.model.name} with {models.count_parameters(params):,} trainable'
      f' parameters on {config.data.name}, folds'
      f' {", ".join(map(str, config.folds))}, in {folder}',
      flush=True,
    )
  with loop() as stop:
    failed = jobs.run(work, stop)
  summaries = summary.summarize_folders([workdir])
  print(summary.format_table(list(summaries[workdir].values())))
  summary.write_summaries(summaries)
  if len(failed) == len(work):
    raise next(iter(failed.values()))
  if failed:
    raise errors.PartialFailure(
      f'{", ".join(failed)} failed: start again with the same command to train'
      ' what is unfinished.'
    ) from next(iter(failed.values()))
  return 0


if __name__ == '__main__':
  huge_pages.restart()
  sys.exit(main(sys.argv))

"""Trains the models of a config on its folds, and prints the table of scores.

python -m ecg_jax.main --config configs/crnn.py
python -m ecg_jax.main --config configs/ablations.py --seeds 0,1,2
srun python -m ecg_jax.main --config configs/crnn.py --distributed
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from ecg_jax import cli, configuration
from ecg_jax.errors import InputError, PartialFailure
from ecg_jax.runtime import signals, startup


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
    'num_processes': 'how many processes run this command',
    'process_id': 'which of them this is, from 0',
  }.items():
    flags.DEFINE_integer(name, None, explanation, flag_values=values)
  flags.DEFINE_boolean(
    'distributed',
    False,
    'whether several processes run this command, as SLURM, Open MPI or'
    ' Kubernetes tell',
    flag_values=values,
  )
  debug = '--debug' in argv
  code = cli.run_command(lambda: _run(values, argv), debug=debug)
  jax = sys.modules.get('jax')
  if code and jax and jax.distributed.is_initialized():
    # JAX's own end would wait for the others, of which one may be gone.
    sys.stdout.flush()
    os._exit(code)
  return code


def _run(values: flags.FlagValues, argv: Sequence[str]) -> int:
  with signals.handled() as loop:
    try:
      return _train(values, argv, loop)
    except (Exception, KeyboardInterrupt) as error:
      jax = sys.modules.get('jax')
      if jax and jax.distributed.is_initialized():
        from ecg_jax.runtime import multihost

        multihost.leave(cli.explain(error)[0])
      raise


def _train(
  values: flags.FlagValues, argv: Sequence[str], loop: signals.Loop
) -> int:
  configs = configuration.parse_all(values, argv)
  seeds = configuration.parse_seeds(values.seeds)
  name = configuration.name_of(configuration.config_path(argv))
  workdir = pathlib.Path(values.workdir or f'runs/{name}').expanduser()
  runs = configuration.runs(configs, seeds, name)
  devices_per_job = configuration.devices_per_job(runs.values())
  given = [
    values[name].value
    for name in ('coordinator_address', 'num_processes', 'process_id')
  ]
  if not (None not in given or given == [None] * 3):
    raise InputError(
      '--coordinator_address, --num_processes and --process_id go together:'
      ' give all three, or --distributed where SLURM, Open MPI or Kubernetes'
      ' starts the processes.'
    )

  # Imported once the command line is known to be good: they take seconds.
  import jax

  from ecg_jax import experiment, models
  from ecg_jax.datasets import schema
  from ecg_jax.evaluation import summary, tables
  from ecg_jax.runs import artifacts, checkpoint, finished_run
  from ecg_jax.runtime import files, multihost, startup
  from ecg_jax.training import scheduler
  from ecg_jax.training.job import Job, make_job

  if values.distributed or given[0] is not None:
    multihost.begin(*given)
  leads = jax.process_index() == 0
  for run, config in runs.items():
    artifacts.check_config(workdir / run, config)
  files.check_writable(workdir)
  startup.enable_compilation_cache()
  checkpoint.report_failed_saves_once()
  work: list[Job] = []
  found = experiment.load_data(list(runs.values()))
  digests = [data.digests() for data in found]
  multihost.check_alike(
    'begin',
    [[run, configuration.to_json(config)] for run, config in runs.items()],
    digests,
  )
  for (run, config), data in zip(runs.items(), found, strict=True):
    for fold in config.folds:
      work.append(make_job(config, data, fold, workdir / run, run))
  if leads:
    for (run, config), data, known in zip(
      runs.items(), found, digests, strict=True
    ):
      folder = workdir / run
      artifacts.begin_run(folder, config, known)
      artifacts.write_labels(
        folder / 'labels.csv',
        {v: data.dataset.labels(v) for v in schema.LABEL_VERSIONS},
      )
      shapes = finished_run.variable_shapes(experiment.make_network(config))
      print(
        f'{config.model.name} with'
        f' {models.count_parameters(shapes["params"]):,} trainable'
        f' parameters on {config.data.name}, folds'
        f' {", ".join(map(str, config.folds))}, in {folder}',
        flush=True,
      )
  multihost.check_shared(workdir)
  with loop() as stop:
    failed = scheduler.run(work, devices_per_job, stop)
  if leads:
    summaries = summary.summarize_folders([workdir])
    print(tables.format_table(list(summaries[workdir].values())))
    tables.write_summaries(summaries)
  everyone = range(jax.process_count())
  multihost.exchange('done', '', everyone)  # Who fails before says so.
  if len(failed) == len(work):
    raise next(iter(failed.values()))
  if failed:
    raise PartialFailure(
      f'{", ".join(failed)} failed: start again with the same command to train'
      ' what is unfinished.'
    ) from next(iter(failed.values()))
  return 0


if __name__ == '__main__':
  startup.restart_in_huge_pages()
  sys.exit(main(sys.argv))

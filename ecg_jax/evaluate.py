"""Scores a set of records: each counted once, deterministically.

python -m ecg_jax.evaluate RUN_FOLDER --set test --label_version v2
"""

import pathlib
import sys
from collections.abc import Sequence

import jax

from ecg_jax import cli, configuration, experiment
from ecg_jax.evaluation import eval_step, summary, tables
from ecg_jax.input_pipeline import device_data
from ecg_jax.runs import artifacts, finished_run, predictions
from ecg_jax.runtime import sharding


def evaluate_run(
  run_folder: pathlib.Path,
  *,
  set_name: str,
  label_version: str | None,
  manual_dir: str | None,
  data_dir: str | None,
) -> pathlib.Path:
  """Scores the kept weights of a run's finished folds again.

  Args:
    run_folder: The run.
    set_name: 'test' or 'validation'.
    label_version: Labels to score with, or None for the run's own. Sets and
      loss weights stay those of the training.
    manual_dir: Folder of the source files, or None for the run's.
    data_dir: Folder of the prepared datasets, or None for the run's.

  Returns:
    The folder `evaluation_SET_VERSION` in the run's, with the artifacts of a
    run: config.json, foldK/scores.json and predictions.

  Raises:
    InputError: There is no finished fold, or the data are not the run's.
  """
  config = finished_run.read_config(
    run_folder, manual_dir=manual_dir, data_dir=data_dir
  )
  finished = finished_run.finished_folds(run_folder, config)
  data = finished_run.load_data(run_folder, config)

  version = label_version or config.label_version
  scored = config.copy_and_resolve_references()
  scored.label_version = version
  scored.folds = finished
  out = run_folder / f'evaluation_{set_name}_{version}'
  digests = artifacts.read_run(run_folder)['digests']
  artifacts.begin_run(out, scored, digests)

  mesh = sharding.make_mesh(jax.local_devices()[:1])
  arrays = device_data.put_dataset(data.dataset, version, mesh)
  network = experiment.make_network(config)
  for number in finished:
    fold = experiment.make_fold(config, data, number, label_version=version)
    chunks = experiment.make_sampler(config, fold).evaluation_chunks(set_name)
    result = eval_step.evaluate(
      finished_run.restore(run_folder, config, number, network, mesh),
      device_data.with_weights(arrays, fold.weights, mesh),
      chunks,
      network=network,
      kind='all',
      mesh=mesh,
    )
    eval_step.write_predictions(
      out / f'fold{number}' / predictions.FILES[set_name],
      result,
      data.dataset,
      fold=number,
      label_version=version,
    )
    kept = artifacts.read_scores(run_folder / f'fold{number}' / 'scores.json')
    artifacts.write_scores(
      out / f'fold{number}' / 'scores.json',
      {
        **kept,
        'label_version': version,
        'versions': artifacts.versions(),
        'commit': artifacts.commit(),
        'sets': {set_name: result.scores},
      },
    )
  return out


@cli.command(cli.FREE_MEMORY)
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = finished_run.run_parser(
    'ecg_jax.evaluate',
    'Scores the kept weights of a run again, and prints a table.',
  )
  parser.add_argument(
    '--label_version',
    choices=configuration.CHOICES['label_version'],
    help="labels to score with; default: the run's",
  )
  given = parser.parse_args(arguments)
  out = evaluate_run(
    given.run_folder,
    set_name=given.set_name,
    label_version=given.label_version,
    manual_dir=given.manual_dir,
    data_dir=given.data_dir,
  )
  found = summary.summarize(out, given.set_name)
  print(tables.format_table([found]))
  tables.write_summary(out, [found])
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

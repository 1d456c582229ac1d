"""Scores the finished folds of a run again, as a run of its own."""

import pathlib
from importlib.resources.abc import Traversable

from ecg_jax import experiment
from ecg_jax.errors import InputError
from ecg_jax.evaluation import eval_step
from ecg_jax.input_pipeline import device_data
from ecg_jax.runs import artifacts, finished_run, predictions, released
from ecg_jax.runtime import sharding


def evaluate_run(
  run_folder: Traversable,
  *,
  set_name: str,
  label_version: str | None = None,
  out: pathlib.Path | None = None,
  manual_dir: str | pathlib.Path | None = None,
  data_dir: str | pathlib.Path | None = None,
) -> pathlib.Path:
  """Scores the saved weights of a run's finished folds on a set.

  Args:
    run_folder: The run, as `released.open_run` takes it.
    set_name: 'test' or 'validation'.
    label_version: Labels to score with; None for the run's own. The sets and
      the loss weights stay those of the training.
    out: Folder for what is returned; None for `evaluation_SET_VERSION` in
      `released.output_folder`.
    manual_dir: Folder of the source files; None for the run's.
    data_dir: Folder of the prepared datasets; None for the run's.

  Returns:
    That folder, with the artifacts of a run: config.json, foldK/scores.json
    and predictions.

  Raises:
    InputError: The run has no finished fold or no such labels, or the data are
      not the run's.
  """
  folders = {'manual_dir': manual_dir, 'data_dir': data_dir}
  run_folder = released.open_run(run_folder)
  config = finished_run.read_config(run_folder, **folders)
  spec = artifacts.read_spec(run_folder)
  if label_version not in (None, *spec.label_versions):
    raise InputError(
      f'--label_version is {label_version!r}: use one of the run,'
      f' {", ".join(spec.label_versions)}.'
    )
  finished = finished_run.finished_folds(run_folder, config)
  mesh = sharding.one_device()
  data = finished_run.load_data(run_folder, config)

  version = label_version or config.label_version
  scored = config.copy_and_resolve_references()
  scored.label_version = version
  scored.folds = finished
  name = f'evaluation_{set_name}_{version}'
  out = out or released.output_folder(run_folder) / name
  digests = artifacts.read_run(run_folder)['digests']
  artifacts.begin_run(out, scored, digests, spec)

  arrays = device_data.put_dataset(data.dataset, version, mesh)
  network = experiment.make_network(config, spec)
  for number in finished:
    fold = experiment.make_fold(config, data, number, label_version=version)
    chunks = experiment.make_sampler(config, fold).evaluation_chunks(set_name)
    result = eval_step.evaluate(
      finished_run.restore(run_folder, config, number, network, mesh),
      device_data.with_weights(arrays, fold.weights, mesh),
      chunks,
      fold=fold,
      network=network,
      kind='all',
      mesh=mesh,
    )
    folder = f'fold{number}'
    path = out / folder / predictions.FILES[set_name]
    eval_step.write_predictions(path, result, fold)
    saved = artifacts.read_scores(run_folder / folder / 'scores.json')
    artifacts.write_scores(
      out / folder / 'scores.json',
      {
        **saved,
        'label_version': version,
        'versions': artifacts.versions(),
        'commit': artifacts.commit(),
        'sets': {set_name: result.scores},
      },
    )
  return out

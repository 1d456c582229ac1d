"""A run's finished folds: config, data, sets and weights."""

import functools
import pathlib
from importlib.resources.abc import Traversable
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from ecg_jax import cli, configuration, experiment, registry, stored_config
from ecg_jax.datasets import folds, schema
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline import dataset
from ecg_jax.models import forward, variables
from ecg_jax.runs import artifacts, predictions, released, trees_file
from ecg_jax.runtime import sharding


def run_parser(prog: str, description: str) -> cli.ArgumentParser:
  """Parser of a command that works on the predictions of a run.

  Its fields are run_folder, set_name, manual_dir, data_dir and debug.
  """
  parser = cli.ArgumentParser(prog=prog, description=description)
  path = cli.path_argument
  parser.add_argument('run_folder', metavar='RUN_FOLDER', type=path)
  parser.add_argument(
    '--set', choices=list(predictions.FILES), default='test', dest='set_name'
  )
  parser.add_argument(
    '--manual_dir', type=path, help="source files; default: the run's"
  )
  parser.add_argument(
    '--data_dir', type=path, help="prepared datasets; default: the run's"
  )
  return parser


def read_config(
  run_folder: Traversable,
  *,
  manual_dir: str | pathlib.Path | None,
  data_dir: str | pathlib.Path | None,
) -> ml_collections.ConfigDict:
  """Reads the config of a run.

  Args:
    run_folder: The run, from `released.open_run`.
    manual_dir: Folder of the source files in place of the run's, or None.
    data_dir: Folder of the prepared datasets in place of the run's, or None.

  Raises:
    InputError: The folder is not that of a run, or a file that its config names
      has been changed or is missing.
  """
  run = artifacts.read_run(run_folder)
  config = stored_config.from_json(run['config'])
  names = configuration.names(config)
  found = dict.fromkeys(names) | registry.source_digests(names)
  artifacts.check_sources(run_folder, run, found)
  for name, folder in (('manual_dir', manual_dir), ('data_dir', data_dir)):
    if folder is not None:
      config.data[name] = str(folder)
  return config


def load_data(
  run_folder: Traversable, config: ml_collections.ConfigDict
) -> experiment.FoldedDataset:
  """Loads the data of a run.

  Args:
    run_folder: The run.
    config: Its config, from `read_config`.

  Raises:
    InputError: They cannot be loaded, or are not those the run was trained on.
  """
  [data] = experiment.load_data([config])
  run = artifacts.read_run(run_folder)
  artifacts.check_spec(run_folder, run, data.dataset.spec)
  artifacts.check_digests(run_folder, run, data.digests())
  return data


def read_table(
  run_folder: Traversable, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Reads or draws the table of folds of a run, without its data.

  Args:
    run_folder: The run.
    config: Its config.

  Raises:
    InputError: Its labels.csv or the file of the table is missing or changed.
  """
  table = experiment.read_table(config)
  source: Any = config.data.folds_file
  if table is None:
    source = run_folder / 'labels.csv'
    spec = artifacts.read_spec(run_folder)
    labels = artifacts.read_labels(run_folder, spec.folds_label_version)
    patients = artifacts.read_patients(run_folder) if spec.by_patient else None
    table = folds.published(labels, spec, patients)
  expected = artifacts.read_run(run_folder)['digests']['folds']
  if experiment.table_digest(table) != expected:
    raise InputError(
      f'{source} makes other folds than those that {run_folder} was trained on:'
      ' restore the original.'
    )
  return table


def read_sets(
  run_folder: Traversable, config: ml_collections.ConfigDict, fold: int
) -> dict[str, list[str]]:
  """Reads the sets of a run's fold, without its data.

  Args:
    run_folder: The run.
    config: Its config.
    fold: The fold.

  Returns:
    'train', 'validation' and 'test' -> names of the records.

  Raises:
    InputError: As `read_table`.
  """
  sets = read_table(run_folder, config)['folds'][str(fold)]
  labels = artifacts.read_labels(run_folder, config.label_version)
  return {
    name: dataset.thin(sets[name], labels, config.data.max_records)
    for name in schema.SETS
  }


def trained_on(run_folder: Traversable, fold: int) -> dict[str, str]:
  """The records that shaped a fold's weights, identified by their samples.

  These are the records of its training and validation sets, and those of the
  runs that its weights were initialised from. A record that the Challenge has
  twice, in a training and in a test set, is one of them.

  Args:
    run_folder: The run.
    fold: The fold.

  Returns:
    SHA-256 of a record's little-endian int16 samples -> its name.

  Raises:
    InputError: One of these runs does not exist or is damaged.
  """
  if isinstance(run_folder, released.ReleasedRun):
    return released.read_trained_on(run_folder, fold)
  config = read_config(run_folder, manual_dir=None, data_dir=None)
  digests = artifacts.read_run(run_folder)['digests'].get('records', {})
  sets = read_sets(run_folder, config, fold)
  records = [*sets['train'], *sets['validation']]
  if missing := set(records) - digests.keys():
    raise InputError(
      f'{run_folder}/config.json is damaged (no digest of {min(missing)}):'
      ' restore it.'
    )
  own = {digests[record]: record for record in records}
  if config.init_from is None:
    return own
  return trained_on(released.open_run(config.init_from), fold) | own


def finished_folds(
  run_folder: Traversable, config: ml_collections.ConfigDict
) -> tuple[int, ...]:
  """The folds of a run that have scores and weights, in ascending order.

  Args:
    run_folder: The run.
    config: Its config.

  Raises:
    InputError: No fold is finished, or a finished one has lost its weights.
  """
  folders = {fold: run_folder / f'fold{fold}' for fold in sorted(config.folds)}
  finished = [f for f in folders if (folders[f] / 'scores.json').is_file()]
  if not finished:
    raise InputError(f'{run_folder} has no finished fold: train one first.')
  is_folder = not isinstance(run_folder, released.ReleasedRun)
  for fold in finished:
    if is_folder and not (folders[fold] / 'checkpoints').is_dir():
      raise InputError(
        f'{folders[fold]} has no checkpoints, which hold the weights: restore'
        ' them, or delete the folder and train the fold again.'
      )
  return tuple(finished)


def restore(
  run_folder: Traversable,
  config: ml_collections.ConfigDict,
  fold: int,
  network: forward.Network,
  mesh: Mesh,
) -> dict[str, Any]:
  """Restores the best weights of a finished fold, and its trees.

  Args:
    run_folder: The run.
    config: Its config.
    fold: The fold.
    network: The network of that config.
    mesh: The devices, to each of which the arrays are replicated.

  Returns:
    `params` and `batch_stats`, and `trees` where the config has some.

  Raises:
    InputError: The checkpoint is damaged, or of other settings or shapes; or
      the file of the trees is damaged or missing.
  """
  folder = run_folder / f'fold{fold}'
  if isinstance(folder, pathlib.Path):
    from ecg_jax.runs import checkpoint  # Orbax takes a while to import.

    settings = stored_config.deciding(config) | {'fold': fold}
    with checkpoint.Checkpoints(
      folder / 'checkpoints', settings, only_latest=True
    ) as saved:
      shapes = sharding.replicated(variable_shapes(network), mesh)
      best = saved.restore('best', shapes)
  else:
    assert isinstance(run_folder, released.ReleasedRun)
    arrays = released.read_weights(run_folder, fold)
    # Tracing the model for its shapes takes long; tests do it for the package.
    if not released.is_of_package(run_folder):
      _check_shapes(run_folder, arrays, network)
    best = {'params': {}, 'batch_stats': {}} | variables.of_paths(arrays)
    best = sharding.replicate(best, mesh)
  if config.trees.rounds:
    scores = artifacts.read_scores(folder / 'scores.json')
    trees = trees_file.read(folder / trees_file.FILE, scores.get('trees'))
    best['trees'] = sharding.replicate(trees, mesh)
  return best


def _check_shapes(
  run_folder: Traversable,
  arrays: dict[str, np.ndarray],
  network: forward.Network,
) -> None:
  """Refuses a released file whose arrays the model does not have."""
  wanted = variables.by_path(variable_shapes(network))
  if {path: array.shape for path, array in arrays.items()} != {
    path: array.shape for path, array in wanted.items()
  }:
    raise InputError(
      f'{run_folder} has weights of other shapes than its model here: use the'
      ' version of ecg_jax that it came with.'
    )


@functools.cache  # For every fold of a run alike.
def variable_shapes(network: forward.Network) -> dict[str, Any]:
  """Shapes and dtypes of the network's `params` and `batch_stats`."""
  bins = network.spectrogram.bins
  return jax.eval_shape(
    lambda: variables.initialise(network.model, jax.random.key(0), bins)
  )

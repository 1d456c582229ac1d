"""Kept weights of an earlier run, to start the training of a fold from."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ecg_jax import configuration, experiment
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import forward
from ecg_jax.runs import checkpoint, finished_run
from ecg_jax.runtime import sharding


def starting_variables(
  run_folder: pathlib.Path,
  network: forward.Network,
  dataset: Dataset,
  sets: Mapping[str, np.ndarray],
  fold: int,
) -> dict[str, Any]:
  """The weights that the earlier run kept of the fold of the same number.

  A record that both the earlier run and the new fold itself learn from, as one
  of the few that the challenge holds twice, gives nothing new away.

  Args:
    run_folder: The earlier run.
    network: Of the new fold.
    dataset: That it is trained on.
    sets: 'train', 'validation', 'test' -> int32 positions in the dataset.
    fold: Its number.

  Returns:
    `params` and `batch_stats`, on the host.

  Raises:
    InputError: The earlier run has not finished that fold, has another model,
      or has learnt from a record of the new fold's test set.
  """
  config = finished_run.read_config(run_folder, manual_dir=None, data_dir=None)
  finished = finished_run.finished_folds(run_folder, config)
  if fold not in finished:
    raise InputError(
      f'init_from is {str(run_folder)!r}, whose fold {fold} is not finished: a'
      ' fold starts from the weights of the fold of its number, so train that'
      f' first, or only folds {", ".join(map(str, finished))}.'
    )
  kept = experiment.make_network(config)
  here, there = (
    checkpoint.describe(finished_run.variable_shapes(n))
    for n in (network, kept)
  )
  if differing := configuration.compare(here, there):
    raise InputError(
      f'init_from is {str(run_folder)!r}, a run of another model'
      f' ({differing[0]}): describe the same model as there.'
    )
  _check_unseen(run_folder, dataset, sets, fold)
  mesh = sharding.make_mesh(jax.local_devices()[:1])
  return sharding.fetch(
    finished_run.restore(run_folder, config, fold, kept, mesh)
  )


def _check_unseen(
  run_folder: pathlib.Path,
  dataset: Dataset,
  sets: Mapping[str, np.ndarray],
  fold: int,
) -> None:
  """Refuses a fold whose test set the earlier run has learnt from."""
  digests = dataset.record_digests()
  here = {
    name: {digests[dataset.records[index]]: index for index in indices}
    for name, indices in sets.items()
  }
  seen = finished_run.trained_on(run_folder, fold)
  also = here['train'].keys() | here['validation'].keys()
  leaked = (here['test'].keys() & seen.keys()) - also
  if leaked:
    first = min(leaked, key=lambda digest: here['test'][digest])
    raise InputError(
      f'init_from is {str(run_folder)!r}, whose fold {fold} has learnt from'
      f' records of the test set of fold {fold} here ({len(leaked)}, like'
      f' {dataset.records[here["test"][first]]}, which is {seen[first]} there):'
      ' use the same table of folds, or a run of other records.'
    )

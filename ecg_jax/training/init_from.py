"""Saved weights of an earlier run, to start the training of a fold from."""

import dataclasses
from importlib.resources.abc import Traversable
from typing import Any

import jax
from absl import logging

from ecg_jax import experiment, stored_config
from ecg_jax.errors import InputError
from ecg_jax.models import forward, variables
from ecg_jax.runs import artifacts, checkpoint, finished_run
from ecg_jax.runtime import sharding


def starting_variables(
  run_folder: Traversable,
  network: forward.Network,
  fold: experiment.Fold,
  key: jax.Array,
) -> dict[str, Any]:
  """The weights that the earlier run saved for the fold of the same number.

  A record that both the earlier run and the new fold itself train on, like one
  of the few that the challenge holds twice, gives nothing new away.

  Where the number of classes is another one, the layer that ends in the logits
  is drawn anew.

  Args:
    run_folder: The earlier run, from `released.open_run`.
    network: Of the new fold.
    fold: The new fold.
    key: Its random key.

  Returns:
    `params` and `batch_stats`, on the host.

  Raises:
    InputError: The earlier run has not finished that fold, has another model,
      or was trained on a record of the new fold's test set.
  """
  config = finished_run.read_config(run_folder, manual_dir=None, data_dir=None)
  finished = finished_run.finished_folds(run_folder, config)
  number = fold.number
  if number not in finished:
    raise InputError(
      f'init_from is {str(run_folder)!r}, whose fold {number} is not finished:'
      ' a fold starts from the weights of the fold of its number, so train that'
      f' first, or only folds {", ".join(map(str, finished))}.'
    )
  spec = artifacts.read_spec(run_folder)
  kept = experiment.make_network(config, spec)
  # The earlier model, had it had the classes of this fold.
  rate = spec.sampling_rate
  here_spec = dataclasses.replace(fold.dataset.spec, sampling_rate=rate)
  alike = experiment.make_network(config, here_spec)
  shapes = map(finished_run.variable_shapes, (network, alike))
  here, there = map(checkpoint.describe, shapes)
  if differing := stored_config.compare(here, there):
    raise InputError(
      f'init_from is {str(run_folder)!r}, a run of another model'
      f' ({differing[0]}): describe the same model as there.'
    )
  _check_unseen(run_folder, fold)
  mesh = sharding.one_device()
  best = finished_run.restore(run_folder, config, number, kept, mesh)
  best.pop('trees', None)  # They are fitted to each fold anew.
  best = sharding.fetch(best)
  if kept.num_classes == network.num_classes:
    return best
  logging.warning(
    'init_from is %r, with %d classes, and there are %d here: the last layer of'
    ' fold %d is drawn anew.',
    str(run_folder),
    kept.num_classes,
    network.num_classes,
    number,
  )
  bins = network.spectrogram.bins
  fresh = sharding.fetch(variables.initialise(network.model, key, bins))
  return jax.tree.map(
    lambda old, new: old if old.shape == new.shape else new, best, fresh
  )


def _check_unseen(run_folder: Traversable, fold: experiment.Fold) -> None:
  """Refuses a fold whose test set the earlier run was trained on."""
  records, digests = fold.dataset.records, fold.dataset.record_digests()
  here = {
    name: {digests[records[index]]: index for index in indices}
    for name, indices in fold.sets.items()
  }
  seen = finished_run.trained_on(run_folder, fold.number)
  also = here['train'].keys() | here['validation'].keys()
  leaked = (here['test'].keys() & seen.keys()) - also
  if leaked:
    first = min(leaked, key=lambda digest: here['test'][digest])
    raise InputError(
      f'init_from is {str(run_folder)!r}, whose fold {fold.number} was'
      f' trained on records of the test set of fold {fold.number} here'
      f' ({len(leaked)}, like {records[here["test"][first]]}, which is'
      f' {seen[first]} there): use the same table of folds, or a run of other'
      ' records.'
    )

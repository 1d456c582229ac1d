"""Builds what a config describes: data, sets of a fold, network."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from ecg_jax import models
from ecg_jax.datasets import folds, prepare, schema
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.input_pipeline import sampler
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import augmentation, forward, loss, preprocessing
from ecg_jax.runtime import files

_Settings = TypeVar('_Settings')


@dataclasses.dataclass(frozen=True)
class FoldedDataset:
  """A dataset and the table of folds that divides it."""

  dataset: Dataset
  table: Mapping[str, Any]
  """As ecg_jax.datasets.folds describes it."""

  def digests(self) -> dict[str, Any]:
    """Digests of the dataset, labels, folds and each record's samples."""
    records = self.dataset.record_digests()
    return {
      'dataset': files.digest(records),
      'labels': {
        version: folds.labels_digest(labels)
        for version, labels in self.dataset.all_labels().items()
      },
      'folds': table_digest(self.table),
      'records': records,
    }


@dataclasses.dataclass(frozen=True)
class Fold:
  """One division of a dataset into sets. R: records of the dataset."""

  dataset: Dataset
  number: int
  label_version: str
  """Labels that the loss and the scores compare with."""
  sets: Mapping[str, np.ndarray]
  """'train', 'validation', 'test' -> int32 positions in the dataset."""
  weights: np.ndarray
  """float32 [R], weight of each record in the loss: that of its class."""


def table_digest(table: Mapping[str, Any]) -> str:
  """SHA-256 of a table's folds and hold-out set."""
  return files.digest({name: table[name] for name in ('folds', 'holdout')})


def load_data(
  configs: Sequence[ml_collections.ConfigDict],
) -> list[FoldedDataset]:
  """Prepares what need be, and reads datasets and tables of folds.

  Args:
    configs: Those of the runs; a dataset that several use is read once.

  Returns:
    The data of each.

  Raises:
    InputError: A source, a table or a fold cannot be used.
  """
  for config in configs:
    make_network(config)  # Checks its fields before any data is read.
  tables = [read_table(config) for config in configs]
  datasets: dict[tuple[str | None, ...], Dataset] = {}
  found = []
  for config, table in zip(configs, tables, strict=True):
    data = config.data
    source = (data.name, data.manual_dir, data.data_dir, data.placement)
    if source not in datasets:
      builder = prepare.prepare(
        data.name, manual_dir=data.manual_dir, data_dir=data.data_dir
      )
      datasets[source] = dataset_lib.load(
        builder, in_memory=data.placement == 'device'
      )
    dataset = datasets[source]
    if table is None:
      table = folds.make_folds(dataset.labels('v2'))
    folds.check_table(table, dataset.records)
    check_lengths(dataset, config)
    found.append(FoldedDataset(dataset, table))
  return found


def read_table(config: ml_collections.ConfigDict) -> dict[str, Any] | None:
  """The table of `data.folds_file`, or None for the published one."""
  if config.data.folds_file is None:
    return None
  table = folds.read_table(config.data.folds_file)
  for fold in config.folds:
    if str(fold) not in table['folds']:
      raise InputError(
        f'folds holds {fold}: {config.data.folds_file} has folds 0 to'
        f' {len(table["folds"]) - 1}.'
      )
  return table


def check_lengths(dataset: Dataset, config: ml_collections.ConfigDict) -> None:
  """Refuses recordings too short for a frame or too long to resample.

  Raises:
    InputError: Names the record.
  """
  shortest = int(dataset.lengths.argmin())
  if dataset.lengths[shortest] < config.spectrogram.window_samples:
    raise InputError(
      f'Record {dataset.records[shortest]} has {dataset.lengths[shortest]}'
      ' samples, less than one spectrogram window of'
      f' {config.spectrogram.window_samples}: leave it out of the dataset.'
    )
  longest = int(dataset.lengths.argmax())
  used = min(
    dataset.lengths[longest], config.augmentation.max_samples or sys.maxsize
  )
  most = sampler.longest_resampled(make_resampling(config))
  if used > most:
    raise InputError(
      f'Record {dataset.records[longest]} has {dataset.lengths[longest]}'
      f' samples, more than the {most} that a step can take: set'
      ' augmentation.max_samples to no more.'
    )


def make_fold(
  config: ml_collections.ConfigDict,
  data: FoldedDataset,
  number: int,
  *,
  label_version: str | None = None,
) -> Fold:
  """A fold of a config's data.

  Args:
    config: The config.
    data: Its data.
    number: The fold.
    label_version: Labels to score with, or None for those of the config, from
      which the train set and the weights of the classes come in any case.
  """
  labels = data.dataset.labels(config.label_version)
  sets = {
    name: data.dataset.find(
      dataset_lib.thin(
        data.table['folds'][str(number)][name], labels, config.data.max_records
      )
    )
    for name in schema.SETS
  }
  classes = data.dataset.classes[config.label_version][sets['train']]
  version = label_version or config.label_version
  weights = make_class_weights(config, classes)[data.dataset.classes[version]]
  return Fold(data.dataset, number, version, sets, weights)


def make_class_weights(
  config: ml_collections.ConfigDict, classes: np.ndarray
) -> np.ndarray:
  """Loss weights, float32 [4], for a train set of these classes."""
  for index in np.flatnonzero(np.bincount(classes, minlength=4) == 0):
    logging.warning(
      'The train set has no record of class %s: it cannot be learned.',
      schema.CLASSES[index],
    )
  if not config.class_weights:
    return np.ones(4, np.float32)
  return loss.class_weights(classes, config.class_weight_power)


def make_sampler(
  config: ml_collections.ConfigDict, fold: Fold
) -> sampler.Sampler:
  """Draws the batches of a fold."""
  classes = fold.dataset.classes[config.label_version][fold.sets['train']]
  repeats = sampler.class_repeats(classes)
  return sampler.Sampler(
    lengths=fold.dataset.lengths,
    sets=fold.sets,
    key=(config.seed, fold.number),
    repeats=repeats if config.compensated_sampling else None,
    max_samples=config.augmentation.max_samples,
    resampling=make_resampling(config),
    shortest=config.spectrogram.window_samples,
    training_buckets=config.buckets.training,
    evaluation_buckets=config.buckets.evaluation,
    batch_size=config.batch_size,
    evaluation_batch_size=config.evaluation_batch_size,
    chunk_steps=config.chunk_steps,
  )


def make_resampling(
  config: ml_collections.ConfigDict,
) -> sampler.Resampling | None:
  """Random resampling, or None where it is switched off."""
  if not config.augmentation.resampling:
    return None
  rates = config.augmentation
  return sampler.Resampling(rates.slowest_heart_rate, rates.fastest_heart_rate)


def make_network(config: ml_collections.ConfigDict) -> forward.Network:
  """The static half of the forward pass.

  Raises:
    InputError: The model has no such field, or a value cannot be used.
  """
  dropout = {f'dropout_{name}': rate for name, rate in config.dropout.items()}

  return forward.Network(
    model=models.create_model(
      **config.model,
      **dropout,
      dtype=jnp.dtype(config.dtype),
      remat=config.remat,
    ),
    spectrogram=preprocessing.Spectrogram(**config.spectrogram),
    augmentation=from_config(augmentation.Augmentation, config.augmentation),
  )


def from_config(
  kind: type[_Settings], config: ml_collections.ConfigDict
) -> _Settings:
  """A dataclass, each field with the value of the config's of its name."""
  fields = dataclasses.fields(cast(Any, kind))
  return kind(**{field.name: config[field.name] for field in fields})

"""Builds what a config describes: data, sets of a fold, network."""

import dataclasses
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from flax import linen as nn

from ecg_jax import configuration, default_config, registry
from ecg_jax.datasets import folds, schema
from ecg_jax.errors import InputError
from ecg_jax.fields.data import (
  REFERENCE_RATE,
  AugmentationFields,
  DataFields,
  SpectrogramFields,
  samples_at,
)
from ecg_jax.fields.group import flatten
from ecg_jax.fields.training import LossFields
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.input_pipeline import heart_rate, sampler
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import contract, forward, loss, preprocessing
from ecg_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class FoldedDataset:
  """A dataset and the table of folds that divides it."""

  dataset: Dataset
  table: Mapping[str, Any]
  """As ecg_jax.datasets.folds describes it."""
  sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """Name in the config -> SHA-256 of the user's file that it names."""

  def digests(self) -> dict[str, Any]:
    """Digests of the dataset, labels, folds, records and, if any, sources."""
    records = self.dataset.record_digests()
    return {
      **({'sources': dict(self.sources)} if self.sources else {}),
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
  metrics: Mapping[str, Callable[..., float]]
  """Name -> metric, further to those that every run has."""


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
  from ecg_jax.datasets import prepare

  tables = [check(config) for config in configs]  # Before any data is read.
  datasets: dict[DataFields, Dataset] = {}
  found = []
  for config, table in zip(configs, tables, strict=True):
    data = DataFields.of(flatten(config))
    # These change neither the records nor where they are.
    source = dataclasses.replace(data, max_records=None, folds_file=None)
    if source not in datasets:
      datasets[source] = dataset_lib.load(
        prepare.prepare(data), in_memory=data.placement == 'device'
      )
    dataset = datasets[source]
    if table is None:
      labels = dataset.labels(dataset.spec.folds_label_version)
      patients = dataset.patients_of_records()
      table = folds.published(labels, dataset.spec, patients)
    folds.check_table(table, dataset.records)
    check_lengths(dataset, config)
    sources = registry.source_digests(configuration.names(config))
    found.append(FoldedDataset(dataset, table, sources))
  return found


def check(config: ml_collections.ConfigDict) -> dict[str, Any] | None:
  """Refuses a config that its dataset or its model cannot do.

  Returns:
    The table of `data.folds_file`, or None for the dataset's own folds.

  Raises:
    InputError: Names the field and the value.
  """
  # Not for what needs a network alone: TFDS takes long to import.
  from ecg_jax.datasets import prepare

  builder = prepare.find_builder(DataFields.of(flatten(config)))
  spec = builder.SPEC
  if config.label_version not in spec.label_versions:
    known = ' or '.join(map(repr, spec.label_versions))
    near = difflib.get_close_matches(config.label_version, spec.label_versions)
    raise InputError(
      f'label_version is {config.label_version!r}: use'
      f' {repr(near[0]) if near else known}, as {config.data.name} has.'
    )
  network = make_network(config, spec)
  for kind in config.phases.kinds:
    if kind not in network.model.trained:
      known = ' or '.join(map(repr, network.model.trained))
      raise InputError(
        f'phases.kinds holds {kind!r}: a {config.model.name} can train {known}.'
      )
  _check_contract(config, network)
  make_metrics(config)
  table = read_table(config)
  source, count = config.data.name, spec.num_folds
  if table is None:
    builder.check_folds()
  else:
    source, count = config.data.folds_file, len(table['folds'])
  for fold in config.folds:
    if fold >= count:
      raise InputError(
        f'folds holds {fold}: {source} has folds 0 to {count - 1}.'
      )
  return table


def _check_contract(
  config: ml_collections.ConfigDict, network: forward.Network
) -> None:
  """Checks what is not shipped, before any data is read."""
  if config.model.name not in registry.MODELS:
    bins = network.spectrogram.bins
    contract.check_model(config.model.name, network.model, bins)
  if config.loss.name not in registry.LOSSES:
    count = network.num_classes
    contract.check_loss(config.loss.name, network.loss, count)
  names = config.augmentation.functions
  own = network.augmentations[-len(names) :] if names else ()
  for name, augmentation in zip(names, own, strict=True):
    if name not in registry.AUGMENTATIONS:
      contract.check_augmentation(name, augmentation)


def read_table(config: ml_collections.ConfigDict) -> dict[str, Any] | None:
  """The table of `data.folds_file`, or None for the dataset's own."""
  if config.data.folds_file is None:
    return None
  return folds.read_table(config.data.folds_file)


def check_lengths(dataset: Dataset, config: ml_collections.ConfigDict) -> None:
  """Refuses recordings too short for a frame or too long to resample.

  Raises:
    InputError: Names the record.
  """
  window = make_spectrogram(config, dataset.spec).window_samples
  shortest = int(dataset.lengths.argmin())
  if dataset.lengths[shortest] < window:
    raise InputError(
      f'Record {dataset.records[shortest]} has {dataset.lengths[shortest]}'
      f' samples, less than one spectrogram window of {window}: leave it out of'
      ' the dataset.'
    )
  longest = int(dataset.lengths.argmax())
  limit = max_samples(config, dataset.spec) or sys.maxsize
  most = heart_rate.longest_resampled(make_resampling(config))
  if min(dataset.lengths[longest], limit) > most:
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
  of_class = make_class_weights(config, data.dataset.spec, classes)
  weights = of_class[data.dataset.classes[version]]
  return Fold(
    data.dataset, number, version, sets, weights, make_metrics(config)
  )


def make_class_weights(
  config: ml_collections.ConfigDict,
  spec: schema.DatasetSpec,
  classes: np.ndarray,
) -> np.ndarray:
  """Loss weights, float32 [C], for a train set of these classes."""
  count = spec.num_classes
  for index in np.flatnonzero(np.bincount(classes, minlength=count) == 0):
    logging.warning(
      'The train set has no record of class %s: it cannot be learned.',
      spec.classes[index],
    )
  if not config.class_weights:
    return np.ones(count, np.float32)
  return loss.class_weights(classes, count, config.class_weight_power)


def make_metrics(
  config: ml_collections.ConfigDict,
) -> dict[str, Callable[..., float]]:
  """Name -> metric of a config, further to those that every run has.

  Raises:
    InputError: One is no function, or two would have the same name.
  """
  found: dict[str, Callable[..., float]] = {}
  for name in config.metrics:
    short = name.rpartition(':')[2]
    if short in found:
      raise InputError(
        f'metrics is {config.metrics}, where two are {short!r}: name each once.'
      )
    found[short] = registry.find_function('metrics', name, registry.METRICS)
  return found


def make_sampler(
  config: ml_collections.ConfigDict, fold: Fold
) -> sampler.Sampler:
  """Draws the batches of a fold."""
  spec = fold.dataset.spec
  classes = fold.dataset.classes[config.label_version][fold.sets['train']]
  repeats = sampler.class_repeats(classes, spec.num_classes)
  return sampler.Sampler(
    lengths=fold.dataset.lengths,
    sets=fold.sets,
    key=(config.seed, fold.number),
    repeats=repeats if config.compensated_sampling else None,
    max_samples=max_samples(config, spec),
    resampling=make_resampling(config),
    shortest=make_spectrogram(config, spec).window_samples,
    training_buckets=config.buckets.training,
    evaluation_buckets=config.buckets.evaluation,
    batch_size=config.batch_size,
    evaluation_batch_size=config.evaluation_batch_size,
    chunk_steps=config.chunk_steps,
  )


def max_samples(
  config: ml_collections.ConfigDict, spec: schema.DatasetSpec
) -> int | None:
  """Samples of a recording that training uses at most, at its own rate."""
  samples = config.augmentation.max_samples
  return samples and samples_at(samples, spec.sampling_rate)


def make_resampling(
  config: ml_collections.ConfigDict,
) -> heart_rate.Resampling | None:
  """Random resampling, or None where it is switched off."""
  if not config.augmentation.resampling:
    return None
  rates = config.augmentation
  return heart_rate.Resampling(
    rates.slowest_heart_rate, rates.fastest_heart_rate
  )


def make_spectrogram(
  config: ml_collections.ConfigDict, spec: schema.DatasetSpec
) -> preprocessing.Spectrogram:
  """The spectrogram of a config, for the rate and unit of a dataset."""
  fields = SpectrogramFields.of(flatten(config))
  rate = spec.sampling_rate
  lengths = {
    name: samples_at(getattr(fields, name), rate)
    for name in ('window_samples', 'hop_samples')
  }
  if lengths['window_samples'] < 2:
    raise InputError(
      f'spectrogram.window_samples is {fields.window_samples}, less than 2 at'
      f' the {rate} Hz of the dataset: give a longer one, counted at'
      f' {REFERENCE_RATE} Hz.'
    )
  return preprocessing.Spectrogram(
    **(vars(fields) | lengths),
    sampling_rate=rate,
    counts_per_millivolt=spec.counts_per_millivolt,
  )


def make_network(
  config: ml_collections.ConfigDict, spec: schema.DatasetSpec
) -> forward.Network:
  """The static half of the forward pass.

  Args:
    config: The config.
    spec: Of the dataset that it is for.

  Raises:
    InputError: The model has no such field, or a value cannot be used.
  """
  values = flatten(config)
  fields = AugmentationFields.of(values)
  bursts = fields.bursts and fields.burst_share > 0
  names = ['bursts'] if bursts and 'bursts' not in fields.functions else []
  names += fields.functions
  span = samples_at(fields.burst_span_samples, spec.sampling_rate)
  scaled = values | {'augmentation.burst_span_samples': span}
  loss_name = LossFields.of(values).name
  augmentations = registry.find_functions(
    'augmentation.functions',
    names,
    registry.AUGMENTATIONS,
    scaled,
    AugmentationFields.fields(),
  )
  [loss_of_records] = registry.find_functions(
    'loss.name', [loss_name], registry.LOSSES, values, LossFields.fields()
  )
  return forward.Network(
    model=_make_model(config, spec),
    spectrogram=make_spectrogram(config, spec),
    augmentations=augmentations,
    loss=loss_of_records,
  )


def _make_model(
  config: ml_collections.ConfigDict, spec: schema.DatasetSpec
) -> nn.Module:
  name = config.model.name
  model = registry.find('model.name', name, registry.MODELS)
  kind = default_config.model_fields(name)
  if 'all' not in getattr(model, 'trained', ()):
    raise InputError(
      f"model.name is {name!r}, whose class variable trained has no 'all': list"
      ' the top-level parameters of the whole model there.'
    )
  dropout = config.get('dropout', {})
  values = flatten({'model': config.model, 'dropout': dropout})
  del values['model.name']
  if unknown := values.keys() - kind.fields().keys():
    raise InputError(
      f'The config has a field {min(unknown)!r}, which {name} does not have:'
      f' leave it out, or start from default_config.get_config({name!r}).'
    )
  return model(
    kind.of(
      values,
      num_classes=spec.num_classes,
      dtype=jnp.dtype(config.dtype),
      remat=config.remat,
    )
  )

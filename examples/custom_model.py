"""Trains a model of your own on records of your own.

    python -m examples.custom_model [RUN_FOLDER]

It shows a Flax module with a layer of its own that masks what is not valid, a
dataset made of arrays with its own folds, and a weight in the loss for each
record, in Python; docs/extending.md does it by a config. The job has all that
others have: validation, checkpoints, resuming, scores, predictions. Half a
minute on a laptop.
"""

import dataclasses
import json
import pathlib
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ecg_jax import default_config, experiment
from ecg_jax.datasets import folds, schema
from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.fields.models import ModelFields
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import layers, preprocessing
from ecg_jax.training import job as job_lib
from ecg_jax.training import job_queue


class ChannelGate(nn.Module):
  """Scales each channel by a function of all channels' means over time."""

  @nn.compact
  def __call__(self, x_BxTxC: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """Returns the same shape, zero outside the mask."""
    mean_BxC = layers.masked_mean(x_BxTxC, mask_BxT)
    gate_BxC = nn.sigmoid(nn.Dense(x_BxTxC.shape[-1])(mean_BxC))
    return layers.masked(x_BxTxC * gate_BxC[:, None], mask_BxT)


class Features(nn.Module):
  """Convolutions over time, each with batch normalization and a gate."""

  width: int
  layers: int

  @nn.compact
  def __call__(
    self, x_BxTxC: jax.Array, mask_BxT: jax.Array, *, train: bool
  ) -> jax.Array:
    """Returns [B, T, width], zero outside the mask."""
    x = x_BxTxC
    for _ in range(self.layers):
      x = nn.Conv(self.width, (5,), use_bias=False)(x)
      x = layers.BatchNorm(momentum=0.9)(x, mask_BxT, train=train)
      x = layers.masked(nn.relu(x), mask_BxT)
    return ChannelGate()(x, mask_BxT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedCNNFields(ModelFields):
  """Fields of the model; those of `config.model` in a config."""

  width: int = 24
  """Channels of each convolution."""
  layers: int = 3
  """Convolutions."""

  def __post_init__(self) -> None:
    self.at_least(1, 'width', 'layers')


class GatedCNN(nn.Module):
  """Takes the bins of a frame as channels; mean over time; linear layer."""

  config: GatedCNNFields

  config_type: ClassVar = GatedCNNFields
  trained: ClassVar = {'all': ('features', 'output')}

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool, kind: str
  ) -> jax.Array:
    """Returns logits, float32 [B, C]."""
    del kind
    mask_BxT = preprocessing.valid(lengths, x_BxTxF.shape[1])
    x = Features(self.config.width, self.config.layers, name='features')(
      x_BxTxF, mask_BxT, train=train
    )
    mean = layers.masked_mean(x, mask_BxT).astype(jnp.float32)
    return nn.Dense(self.config.num_classes, name='output')(mean)


def make_data(num_records: int) -> experiment.FoldedDataset:
  """A dataset of arrays, here synthetic ones, and its division into folds."""
  records = [generator.generate_record(1, i) for i in range(num_records)]
  names, signals, labels = zip(*records, strict=True)
  lengths = np.array([len(signal) for signal in signals])
  spec = schema.DatasetSpec(classes=('N', 'A', 'O', '~'), sampling_rate=300)
  classes = np.array([spec.classes.index(x) for x in labels], np.int32)
  dataset = Dataset(
    records=names,
    signal=np.concatenate(signals),  # int16, counts of 1/1000 mV at 300 Hz
    offsets=np.cumsum(lengths) - lengths,
    lengths=lengths,
    classes={'v1': classes},
    spec=spec,
  )
  table = folds.make_folds(
    dict(zip(names, labels, strict=True)),
    num_folds=2,
    train_validation_parts=3,
  )
  return experiment.FoldedDataset(dataset, table)


def train(run_folder: str) -> float:
  """Trains fold 0; returns the score of its test set, in percent."""
  config = default_config.get_config(f'{__file__}:GatedCNN')
  config.label_version = 'v1'
  config.augmentation.resampling = config.augmentation.bursts = False
  config.phases.epochs = (6,)
  config.phases.learning_rates = (3e-3,)
  config.batch_size = 10
  config.validate_every_epochs = 1
  config.buckets.training = config.buckets.evaluation = 1
  data = make_data(120)
  job = job_lib.make_job(config, data, 0, pathlib.Path(run_folder))
  # Recordings below 30 s count half of what others of their class do.
  is_short = data.dataset.lengths < 30 * data.dataset.spec.sampling_rate
  weights = job.fold.weights * np.where(is_short, 0.5, 1).astype(np.float32)
  fold = dataclasses.replace(job.fold, weights=weights)
  failed = job_queue.run([dataclasses.replace(job, fold=fold)])
  for error in failed.values():
    raise error
  scores = json.loads((job.folder / 'scores.json').read_text())
  return scores['sets']['test']['score']


if __name__ == '__main__':
  score = train(*sys.argv[1:] or ['runs/custom_model'])
  print(f'score of the test set: {score:.1f}')

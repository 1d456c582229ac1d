"""Trains a model of your own on records of your own.

    python -m examples.custom_model [RUN_FOLDER]

It shows a Flax module with a layer of its own that masks what is not valid, a
dataset made of arrays with its own folds, a weight in the loss for each record,
and how these replace those of a config in a job. The job then has all that the
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

from ecg_jax import configuration, experiment
from ecg_jax.datasets import folds, schema
from ecg_jax.datasets.synthetic_ecg import generator
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


class GatedCNN(nn.Module):
  """Takes the bins of a frame as channels; mean over time; linear layer."""

  width: int = 24
  layers: int = 3

  trained: ClassVar = {'all': ('features', 'output')}

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool, kind: str
  ) -> jax.Array:
    """Returns logits, float32 [B, 4]."""
    del kind
    mask_BxT = preprocessing.valid(lengths, x_BxTxF.shape[1])
    x = Features(self.width, self.layers, name='features')(
      x_BxTxF, mask_BxT, train=train
    )
    mean = layers.masked_mean(x, mask_BxT).astype(jnp.float32)
    return nn.Dense(len(schema.CLASSES), name='output')(mean)


def make_data(num_records: int) -> experiment.FoldedDataset:
  """A dataset of arrays, here synthetic ones, and its division into folds."""
  records = [generator.generate_record(1, i) for i in range(num_records)]
  names, signals, labels = zip(*records, strict=True)
  lengths = np.array([len(signal) for signal in signals])
  classes = np.array([schema.CLASSES.index(x) for x in labels], np.int32)
  dataset = Dataset(
    records=names,
    signal=np.concatenate(signals),  # int16, counts of 1/1000 mV at 300 Hz
    offsets=np.cumsum(lengths) - lengths,
    lengths=lengths,
    classes=dict.fromkeys(schema.LABEL_VERSIONS, classes),
  )
  table = folds.make_folds(
    dict(zip(names, labels, strict=True)),
    num_folds=2,
    train_validation_parts=3,
  )
  return experiment.FoldedDataset(dataset, table)


def train(run_folder: str) -> float:
  """Trains fold 0; returns the score of its test set, in percent."""
  # All that is not the model or the data comes from a config.
  config = configuration.parse(
    configuration.define_flags(),
    [
      'custom_model',
      '--config=configs/quickstart.py',
      '--config.folds=(0,)',
      "--config.phases.kinds=('all',)",
      '--config.phases.epochs=(6,)',
      '--config.phases.learning_rates=(3e-3,)',
      '--config.buckets.training=1',
      '--config.buckets.evaluation=1',
    ],
  )
  data = make_data(120)
  job = job_lib.make_job(config, data, 0, pathlib.Path(run_folder))
  # Recordings below 30 s count half of what others of their class do.
  is_short = data.dataset.lengths < 30 * schema.SAMPLING_RATE
  weights = job.fold.weights * np.where(is_short, 0.5, 1).astype(np.float32)
  job = dataclasses.replace(
    job,
    fold=dataclasses.replace(job.fold, weights=weights),
    network=dataclasses.replace(job.network, model=GatedCNN()),
    # What a checkpoint is compared with.
    settings={**job.settings, 'model.name': 'examples/custom_model.py'},
  )
  failed = job_queue.run([job])
  for error in failed.values():
    raise error
  scores = json.loads((job.folder / 'scores.json').read_text())
  return scores['sets']['test']['score']


if __name__ == '__main__':
  score = train(*sys.argv[1:] or ['runs/custom_model'])
  print(f'score of the test set: {score:.1f}')

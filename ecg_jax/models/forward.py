"""From samples to logits: one path for training, evaluation and prediction.

Recording -> resampling -> augmentation -> log-spectrogram -> model. Lengths
accompany the signal at every step. In evaluation the probabilities are averaged
with those of trees on beat features, where a fold has trees.

B: batch, W: samples of the input buffer, N: samples after resampling, T:
frames, F: frequency bins.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.beats import features as beat_features
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import augmentation, loss, preprocessing, trees
from ecg_jax.runtime import collectives

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Logits, float32 [B, C], labels, int32 [B], weights, float32 [B] -> float32
[B]."""

TREES_WEIGHT = 0.5
"""Of the trees' probabilities in the average; the network's have the rest."""


@dataclasses.dataclass(frozen=True)
class Network:
  """The static half of the forward pass: everything that is not an array."""

  model: nn.Module
  """As `ecg_jax.models` describes it."""
  spectrogram: preprocessing.Spectrogram
  augmentations: tuple[augmentation.Augmentation, ...] = ()
  """Random changes in training. Resampling comes with `Batch.lengths`."""
  loss: Loss = loss.weighted_cross_entropy
  """Loss of each record."""

  @property
  def num_classes(self) -> int:
    """C, the number of logits."""
    return self.model.config.num_classes


def evaluate_logits(
  network: Network,
  variables: dict[str, Any],
  batch: Batch,
  *,
  kind: str,
  beats: jax.Array | None = None,
) -> jax.Array:
  """Computes logits deterministically.

  A row's logits depend on its own valid samples only.

  Args:
    network: The static half of the forward pass.
    variables: `params` and `batch_stats`; with `trees`, the logits are those
      of the average with them.
    batch: Recordings at their original length (`lengths` are not used).
    kind: Part of the model that is used (a key of `model.trained`).
    beats: The `beat_features_of` the batch, where they are known already.

  Returns:
    Float32 [B, C].
  """
  features, frames = evaluation_features(network, batch)
  logits = logits_of_features(network, variables, features, frames, kind=kind)
  if 'trees' not in variables:
    return logits
  if beats is None:
    beats = beat_features_of(network, batch)
  by_trees = jax.nn.softmax(trees.logits(variables['trees'], beats))
  by_network = jax.nn.softmax(logits)
  return jnp.log(TREES_WEIGHT * by_trees + (1 - TREES_WEIGHT) * by_network)


def evaluation_features(
  network: Network, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Log-spectrograms of recordings at their original length.

  Args:
    network: Its `spectrogram` is used.
    batch: Recordings (`lengths` are not used).

  Returns:
    Float32 [B, T, F], and valid frames, int32 [B].
  """
  signal = batch.signal.astype(jnp.float32)
  lengths = jnp.where(batch.mask, batch.signal_lengths, 0)
  mask = preprocessing.valid(lengths, signal.shape[1])
  return features_of(network, jnp.where(mask, signal, 0.0), lengths)


def beat_features_of(network: Network, batch: Batch) -> jax.Array:
  """Features of the trees, of recordings at their original length.

  Args:
    network: Rate and unit of its `spectrogram` are used.
    batch: Recordings (`lengths` are not used).

  Returns:
    Float32 [B, F]: `beats.features.names`.
  """
  return beat_features.compute(
    batch.signal,
    jnp.where(batch.mask, batch.signal_lengths, 0),
    sampling_rate=network.spectrogram.sampling_rate,
    counts_per_millivolt=network.spectrogram.counts_per_millivolt,
  )


def logits_of_features(
  network: Network,
  variables: dict[str, Any],
  features: jax.Array,
  frames: jax.Array,
  *,
  kind: str,
) -> jax.Array:
  """Computes the logits of the network alone deterministically.

  Args:
    network: Its `model` is used.
    variables: `params` and `batch_stats`; `trees` are not used.
    features: Input of the model, float32 [B, T, F].
    frames: Valid frames, int32 [B].
    kind: Part of the model that is used (a key of `model.trained`).

  Returns:
    Float32 [B, C].
  """
  variables = {name: x for name, x in variables.items() if name != 'trees'}
  logits = network.model.apply(
    variables, features, frames, train=False, kind=kind
  )
  return jnp.asarray(logits)


def train_logits(
  network: Network,
  variables: dict[str, Any],
  batch: Batch,
  key: jax.Array,
  *,
  samples: int,
  kind: str,
) -> tuple[jax.Array, dict[str, Any]]:
  """Computes logits with augmentation, dropout and batch statistics.

  Args:
    network: The static half of the forward pass.
    variables: `params` and `batch_stats`.
    batch: Recordings and the lengths to resample them to.
    key: Random key of the step.
    samples: N.
    kind: Part of the model that is used (a key of `model.trained`).

  Returns:
    Logits, float32 [B, C], and the new `batch_stats`.
  """
  augmentation_key, dropout_key = jax.random.split(key)
  signal, lengths = augment(network, batch, augmentation_key, samples=samples)
  features, frames = features_of(network, signal, lengths)
  logits, changed = network.model.apply(
    variables,
    features,
    frames,
    train=True,
    kind=kind,
    rngs={'dropout': dropout_key},
    mutable=['batch_stats'],
  )
  return logits, changed.get('batch_stats', {})


def augment(
  network: Network, batch: Batch, key: jax.Array, *, samples: int
) -> tuple[jax.Array, jax.Array]:
  """Resamples and augments the signals of a batch, as in training.

  Args:
    network: Its `augmentations` are used.
    batch: Recordings and the lengths to resample them to.
    key: Random key. A row's changes depend on it and the row's position in the
      global batch, so not on how the batch is divided over devices.
    samples: N.

  Returns:
    Signals, float32 [B, N], zero beyond their lengths, and these, int32 [B].
  """
  lengths = jnp.where(batch.mask, batch.lengths, 0)
  signal = augmentation.resample(
    batch.signal, batch.signal_lengths, lengths, samples
  )
  rows = collectives.own_rows(jnp.arange(collectives.size() * len(lengths)))
  keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
  signal = augmentation.augment(signal, lengths, keys, network.augmentations)
  return signal, lengths


def features_of(
  network: Network, signal: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes the model's input from signals.

  Args:
    network: Its `spectrogram` is used.
    signal: Float32 [B, N], zero beyond each length.
    lengths: Valid samples, int32 [B].

  Returns:
    Log-spectrograms, float32 [B, T, F], and valid frames, int32 [B].
  """
  signal = preprocessing.normalise(signal, lengths, network.spectrogram)
  return preprocessing.log_spectrogram(signal, lengths, network.spectrogram)

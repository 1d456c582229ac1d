"""The one way from samples to logits: for training, evaluation and prediction.

Recording -> resampling -> bursts -> log-spectrogram -> model. Lengths travel
with the signal at every step. B: batch, W: samples given, N: samples computed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import augmentation, preprocessing
from ecg_jax.runtime import collectives


@dataclasses.dataclass(frozen=True)
class Network:
  """All of the forward pass that is not an array."""

  model: nn.Module
  spectrogram: preprocessing.Spectrogram
  bursts: augmentation.Bursts | None
  """Dropout bursts in training, or None. Resampling is in `Batch.lengths`."""


def evaluate_logits(
  network: Network,
  variables: dict[str, Any],
  batch: Batch,
  *,
  kind: str,
) -> jax.Array:
  """Logits, float32 [B, 4], deterministic.

  A row's logits depend on its own valid samples only.

  Args:
    network: The static half.
    variables: `params` and `batch_stats`.
    batch: Recordings in their own length (`lengths` are not read).
    kind: Which part of the model is in use (a key of `model.trained`).
  """
  features, frames = evaluation_features(network, batch)
  return logits_of_features(network, variables, features, frames, kind=kind)


def evaluation_features(
  network: Network, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Log-spectrograms of recordings in their own length, as `features_of`."""
  signal = batch.signal.astype(jnp.float32)
  lengths = jnp.where(batch.mask, batch.signal_lengths, 0)
  mask = preprocessing.valid(lengths, signal.shape[1])
  return features_of(network, jnp.where(mask, signal, 0.0), lengths)


def logits_of_features(
  network: Network,
  variables: dict[str, Any],
  features: jax.Array,
  frames: jax.Array,
  *,
  kind: str,
) -> jax.Array:
  """Logits, float32 [B, 4], deterministic.

  Args:
    network: The static half.
    variables: `params` and `batch_stats`.
    features: Float32 [B, T, F], what the model is given.
    frames: Int32 [B], valid ones.
    kind: As of `evaluate_logits`.
  """
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
  """Logits, float32 [B, 4], with augmentation, dropout and batch statistics.

  Args:
    network: The static half.
    variables: `params` and `batch_stats`.
    batch: Recordings and the lengths they are to be resampled to.
    key: The step's random key.
    samples: N.
    kind: Which part of the model is in use (a key of `model.trained`).

  Returns:
    The logits and the new batch_stats.
  """
  burst_key, dropout_key = jax.random.split(key)
  signal, lengths = augment(network, batch, burst_key, samples=samples)
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
  return logits, changed['batch_stats']


def augment(
  network: Network, batch: Batch, key: jax.Array, *, samples: int
) -> tuple[jax.Array, jax.Array]:
  """Signals as training sees them: resampled, with bursts.

  Args:
    network: Its `bursts`.
    batch: Recordings and the lengths they are to be resampled to.
    key: Random key. A row's bursts come from it and the row's position in the
      global batch.
    samples: N.

  Returns:
    Signals, float32 [B, N], zero behind their lengths, int32 [B].
  """
  lengths = jnp.where(batch.mask, batch.lengths, 0)
  signal = augmentation.resample(
    batch.signal, batch.signal_lengths, lengths, samples
  )
  if network.bursts is not None:
    rows = collectives.own_rows(jnp.arange(collectives.size() * len(lengths)))
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    signal = augmentation.drop_bursts(signal, keys, network.bursts)
  return signal, lengths


def features_of(
  network: Network, signal: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """What the model is given of signals that are zero behind their length.

  Returns:
    Log-spectrograms, float32 [B, T, F], and valid frames, int32 [B].
  """
  signal = preprocessing.normalise(signal, lengths, network.spectrogram)
  return preprocessing.log_spectrogram(signal, lengths, network.spectrogram)

"""Which stretches of time speak for an answer, and which against it.

Two ways to ask, about the same thing: the log-odds of the answer, and what
becomes of them where a frame of the log-spectrogram gives way to the
recording's mean frame. That takes the beats away and keeps their loudness;
silence would look like lost contact, and cut edges like beats.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) take all
frames there together, step by step, and share the change out among them.
Gradient times change at the recording itself would be cheaper but is a poor
guide, since a sure network is flat there. Occlusion takes one stretch at a time
and looks at the answer: slower, blind to what two stretches only say together,
and the check of the other. B: batch, T: frames, F: frequency bins.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward, preprocessing
from ecg_jax.prediction import ensemble
from ecg_jax.prediction.ensemble import TrainedFolds
from ecg_jax.runtime import sharding

STRETCH_SAMPLES = 60
"""0.2 s, about the length of a spectrum and of a beat's QRS complex."""

STEPS = 16
"""Of the integral."""

_OCCLUDED_AT_ONCE = 16


def integrated_gradients(
  model: TrainedFolds, window: np.ndarray, answer: int
) -> np.ndarray:
  """What each stretch adds to the log-odds of an answer.

  Args:
    model: Its folds are averaged.
    window: int16 [samples], counts of 1/1000 mV at 300 Hz, at least one
      spectrum long.
    answer: Position in the order N, A, O, ~.

  Returns:
    float32 [ceil(samples / 60)]; a stretch holds the frames whose middle is in
    it. They sum to the log-odds of the answer less those of a recording that
    is its mean frame throughout, but for the error of the integral.
  """
  batch = _batch(window)
  frames = sharding.fetch(
    [
      _integrate(model.network, variables, batch, np.int32(answer))
      for variables in model.variables
    ]
  )
  by_frame = np.mean(frames, axis=0)
  stretches = _stretches(model.network.spectrogram, len(by_frame))
  found = np.bincount(stretches, by_frame, minlength=_count(len(window)))
  return found[: _count(len(window))].astype(np.float32)


def occlusion(
  model: TrainedFolds, window: np.ndarray, answer: int
) -> np.ndarray:
  """What the log-odds of an answer lose without each stretch.

  Args:
    model: Its folds are averaged.
    window: As for `integrated_gradients`.
    answer: As for `integrated_gradients`.

  Returns:
    float32 [ceil(samples / 60)].
  """
  batch = _batch(window)
  losses = sharding.fetch(
    [
      _occlude(model.network, variables, batch, np.int32(answer))
      for variables in model.variables
    ]
  )
  found = np.zeros(_count(len(window)), np.float32)
  mean = np.mean(losses, axis=0)[: len(found)]
  found[: len(mean)] = mean
  return found


@functools.partial(jax.jit, static_argnames='network')
def _integrate(
  network: forward.Network,
  variables: dict[str, Any],
  batch: Batch,
  answer: jax.Array,
) -> jax.Array:
  """What each frame adds to the log-odds, float32 [T], 0 where not valid."""
  features, frames = forward.evaluation_features(network, batch)
  neutral = _neutral(features, frames)
  change = features - neutral

  def gradient(share):
    return jax.grad(
      lambda x: _log_odds(network, variables, x, frames, answer)[0]
    )(neutral + share * change)

  shares = (np.arange(STEPS, dtype=np.float32) + 0.5) / STEPS
  mean = jax.lax.map(gradient, shares).mean(axis=0)
  return jnp.sum(mean * change, axis=(0, 2))


@functools.partial(jax.jit, static_argnames='network')
def _occlude(
  network: forward.Network,
  variables: dict[str, Any],
  batch: Batch,
  answer: jax.Array,
) -> jax.Array:
  """What the log-odds lose without each stretch, float32, 0 where no frame."""
  features, frames = forward.evaluation_features(network, batch)
  neutral = _neutral(features, frames)
  stretch_T = _stretches(network.spectrogram, features.shape[1])

  def log_odds(left_out):
    without = stretch_T[None, :] == left_out[:, None]
    return _log_odds(
      network,
      variables,
      jnp.where(without[:, :, None], neutral, features),
      jnp.broadcast_to(frames, len(left_out)),
      answer,
    )

  groups = -(-(stretch_T[-1] + 1) // _OCCLUDED_AT_ONCE)
  left_out = np.arange(groups * _OCCLUDED_AT_ONCE).reshape(groups, -1)
  whole = log_odds(np.full(1, -1))
  return (whole[None, :] - jax.lax.map(log_odds, left_out)).ravel()


def _log_odds(
  network: forward.Network,
  variables: dict[str, Any],
  features: jax.Array,
  frames: jax.Array,
  answer: jax.Array,
) -> jax.Array:
  """log(p / (1 - p)) of the answer's probability, float32 [B].

  Unlike log(p) it does not level off where the network is sure.
  """
  logits = forward.logits_of_features(
    network, variables, features, frames, kind='all'
  )
  own = np.arange(logits.shape[1])[None, :] == answer
  others = jnp.where(own, -jnp.inf, logits)
  return logits[:, answer] - jax.nn.logsumexp(others, axis=1)


def _neutral(features_BxTxF: jax.Array, frames: jax.Array) -> jax.Array:
  """The mean valid frame in each valid place, 0 elsewhere, [B, T, F]."""
  mask = preprocessing.valid(frames, features_BxTxF.shape[1])[:, :, None]
  mean = features_BxTxF.mean(axis=1, where=mask, keepdims=True)
  return jnp.where(mask, mean, 0.0)


def _stretches(
  spectrogram: preprocessing.Spectrogram, frames: int
) -> np.ndarray:
  """The stretch that holds the middle of each frame, int64 [frames]."""
  starts = np.arange(frames) * spectrogram.hop_samples
  return (starts + spectrogram.window_samples // 2) // STRETCH_SAMPLES


def _count(samples: int) -> int:
  return -(-samples // STRETCH_SAMPLES)


def _batch(window: np.ndarray) -> Batch:
  return ensemble.make_batch([window], 1, ensemble.bucket(len(window)))

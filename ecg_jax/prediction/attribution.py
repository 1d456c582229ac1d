"""Attribution of a prediction to segments of the recording.

A segment's attribution is its contribution to the log-odds of a class, relative
to a recording in which every frame of the log-spectrogram is the mean frame.
That removes the beats and keeps their loudness; silence would look like lost
contact, and cut edges like beats.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) move all
frames from the mean frame to their own, step by step, and divide the change
among them. Gradient times change at the recording itself would be cheaper but
is a poor guide, since the gradient of a confident network vanishes there. The
tests compare with occlusion, which replaces one segment at a time: it is slower
and misses what only two segments together contribute.

Trees, where a fold has some, are left out: their features are of all beats.

B: batch, T: frames, F: frequency bins.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward, preprocessing
from ecg_jax.prediction.ensemble import Ensemble, make_batch
from ecg_jax.runtime import sharding

_SEGMENT_SECONDS = 0.2
"""About the length of a spectrum and of a beat's QRS complex."""

STEPS = 16
"""Number of steps of the integral."""


def segment_samples(sampling_rate: int) -> int:
  """Length of a segment, in samples."""
  return max(1, round(_SEGMENT_SECONDS * sampling_rate))


@jax.enable_x64(False)
def integrated_gradients(
  model: Ensemble, window: np.ndarray, answer: int
) -> np.ndarray:
  """Attributes the log-odds of a class to the segments of a window.

  Args:
    model: The folds to average over.
    window: int16 [samples], encoded as the records of `model.spec`, at least
      one spectrum long.
    answer: Index of the class in `model.spec.classes`.

  Returns:
    float32 [ceil(samples / segment_samples)]; a segment has the frames whose
    middle it contains. They sum to the log-odds of the class minus those of the
    recording of mean frames, up to the error of the integral.
  """
  batch = make_batch([window], 1, model.bucket(len(window)))
  network, label = model.network, np.int32(answer)
  frames = [_integrate(network, x, batch, label) for x in model.variables]
  by_frame = np.mean(sharding.fetch(frames), axis=0)
  samples = segment_samples(model.spec.sampling_rate)
  count = -(-len(window) // samples)
  segments = frame_segments(network.spectrogram, len(by_frame), samples)
  by_segment = np.bincount(segments, by_frame, minlength=count)
  return by_segment[:count].astype(np.float32)


@functools.partial(jax.jit, static_argnames='network')
def _integrate(
  network: forward.Network,
  variables: dict[str, Any],
  batch: Batch,
  answer: jax.Array,
) -> jax.Array:
  """Attribution of each frame, float32 [T], 0 where not valid."""
  features, frames = forward.evaluation_features(network, batch)
  neutral = mean_frames(features, frames)
  change = features - neutral

  def gradient(share):
    return jax.grad(
      lambda x: log_odds(network, variables, x, frames, answer)[0]
    )(neutral + share * change)

  shares = (np.arange(STEPS, dtype=np.float32) + 0.5) / STEPS
  mean = jax.lax.map(gradient, shares).mean(axis=0)
  return jnp.sum(mean * change, axis=(0, 2))


def log_odds(
  network: forward.Network,
  variables: dict[str, Any],
  features: jax.Array,
  frames: jax.Array,
  answer: jax.Array,
) -> jax.Array:
  """log(p / (1 - p)) of the class's probability p, float32 [B].

  Unlike log(p) it does not saturate where the network is confident.

  Args:
    network: The static half of the forward pass.
    variables: `params` and `batch_stats`.
    features: float32 [B, T, F].
    frames: int32 [B], number of valid frames.
    answer: int32, index of the class.
  """
  logits = forward.logits_of_features(
    network, variables, features, frames, kind='all'
  )
  own = np.arange(logits.shape[1])[None, :] == answer
  others = jnp.where(own, -jnp.inf, logits)
  return logits[:, answer] - jax.nn.logsumexp(others, axis=1)


def mean_frames(features_BxTxF: jax.Array, frames: jax.Array) -> jax.Array:
  """Features whose valid frames are all their mean, the others 0, [B, T, F]."""
  mask = preprocessing.valid(frames, features_BxTxF.shape[1])[:, :, None]
  mean = features_BxTxF.mean(axis=1, where=mask, keepdims=True)
  return jnp.where(mask, mean, 0.0)


def frame_segments(
  spectrogram: preprocessing.Spectrogram, frames: int, samples: int
) -> np.ndarray:
  """The segment that contains the middle of each frame.

  Args:
    spectrogram: Window and hop.
    frames: Number of frames.
    samples: Length of a segment.

  Returns:
    int64 [frames].
  """
  starts = np.arange(frames) * spectrogram.hop_samples
  return (starts + spectrogram.window_samples // 2) // samples

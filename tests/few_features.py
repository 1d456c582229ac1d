"""Three features in place of all, whose programs take long to compile."""

import contextlib
from unittest import mock

import jax.numpy as jnp

from ecg_jax.beats import features
from ecg_jax.evaluation import eval_step
from ecg_jax.prediction import ensemble
from ecg_jax.training import boosting


def of_recording(x_N, length, *, sampling_rate):
  """In place of `features._of_recording`; one is missing at times."""
  x_N = jnp.where(jnp.arange(x_N.shape[0]) < length, x_N, 0)
  values = length, jnp.max(x_N), jnp.min(x_N)
  values = [x.astype(jnp.float32) / sampling_rate for x in values]
  found = dict(zip(('seconds', 'highest', 'lowest'), values, strict=True))
  found['lowest'] = jnp.where(length % 3 == 0, jnp.nan, found['lowest'])
  return found


@contextlib.contextmanager
def instead():
  """Has programs that are compiled in this context use them."""
  with mock.patch.object(features, '_of_recording', of_recording):
    _forget()
    yield
  _forget()


def _forget():
  """Drops what is known of features, and all programs that compute some."""
  features.names.cache_clear()
  programs = boosting.compute_chunk, eval_step.evaluate_chunk
  for program in (*programs, ensemble._beat_features):
    program.clear_cache()

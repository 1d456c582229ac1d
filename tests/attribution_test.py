"""Attribution is where the signal was planted, by gradients as by occlusion."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.fields.models import ResidualCRNNFields
from ecg_jax.models import forward, preprocessing
from ecg_jax.models.loss import weighted_cross_entropy
from ecg_jax.models.residual_crnn import ResidualCRNN
from ecg_jax.models.variables import initialise
from ecg_jax.prediction import attribution, ensemble
from ecg_jax.prediction.ensemble import Ensemble

SPECTROGRAM = preprocessing.Spectrogram(
  window_samples=64, hop_samples=16, sampling_rate=300
)
SAMPLES = 900
SEGMENT = 60


def occlusion(model, window, answer):
  """What the log-odds of a class lose without each segment, float32."""
  batch = ensemble.make_batch([window], 1, model.bucket(len(window)))
  losses = [_occlude(model.network, x, batch, answer) for x in model.variables]
  found = np.zeros(-(-len(window) // SEGMENT), np.float32)
  mean = np.mean(losses, axis=0)[: len(found)]
  found[: len(mean)] = mean
  return found


@functools.partial(jax.jit, static_argnames='network')
def _occlude(network, variables, batch, answer):
  features, frames = forward.evaluation_features(network, batch)
  neutral = attribution.mean_frames(features, frames)
  segments = attribution.frame_segments(
    network.spectrogram, features.shape[1], SEGMENT
  )

  def log_odds(left_out):
    hidden = (segments == left_out)[:, None]
    without = jnp.where(hidden, neutral, features)
    return attribution.log_odds(network, variables, without, frames, answer)[0]

  # Sixteen at a time, as many as fit into memory.
  each = jax.lax.map(log_odds, np.arange(segments[-1] + 1), batch_size=16)
  return log_odds(-1) - each


METHODS = [attribution.integrated_gradients, occlusion]


# Programs for a few seconds of signal instead of a minute.
SPEC = dataclasses.replace(CHALLENGE, longest_samples=1000)


def make_model(network, *variables):
  config = ml_collections.ConfigDict({'evaluation_batch_size': 8})
  folds = tuple(range(len(variables)))
  return Ensemble(
    None, config, folds, network, variables, trained_on=(), spec=SPEC
  )


@dataclasses.dataclass(frozen=True)
class Detector:
  """Class 1 is likelier the more frames are loud in one bin: a known truth."""

  def apply(self, variables, features, frames, *, train, kind):
    del train, kind
    mask = preprocessing.valid(frames, features.shape[1])
    loud = jax.nn.relu(features[:, :, 17] - variables['threshold'])
    score = jnp.sum(loud, axis=1, where=mask) / 10
    return score[:, None] * jnp.array([[0.0, 1, 0, 0]])


def detector(*thresholds):
  network = forward.Network(Detector(), SPECTROGRAM)
  return make_model(network, *({'threshold': level} for level in thresholds))


def planted(rng, samples=SAMPLES, seconds=0.6):
  """Noise with 80 Hz somewhere; the window and where, in samples."""
  signal = rng.normal(0, 20, samples)
  length = int(300 * seconds)
  start = int(rng.integers(samples - length))
  time = np.arange(length) / 300
  signal[start : start + length] += 300 * np.sin(2 * np.pi * 80 * time)
  return signal.astype(np.int16), start, start + length


def share_inside(found, start, stop, margin=64):
  """Share of the attribution in segments near the planted samples."""
  begins = np.arange(len(found)) * SEGMENT
  near = (begins + SEGMENT > start - margin) & (begins < stop + margin)
  return np.abs(found[near]).sum() / np.abs(found).sum()


@pytest.mark.parametrize('samples', [700, SAMPLES, 2500])
@pytest.mark.parametrize('method', METHODS)
def test_all_attribution_is_where_the_detector_looks(method, samples):
  window, start, stop = planted(np.random.default_rng(samples), samples)
  model = detector(4.0)
  found = method(model, window, 1)
  assert found.shape == (-(-samples // 60),)
  assert found.dtype == np.float32
  assert share_inside(found, start, stop) > 0.95
  assert found.sum() > 1
  # What speaks for one class speaks against the others.
  assert method(model, window, 0).sum() < -0.2


def test_gradients_and_occlusion_agree_where_segments_just_add_up():
  for seed in range(5):
    window, *_ = planted(np.random.default_rng(seed))
    by_gradient, by_occlusion = (
      method(detector(-3.0), window, 1) for method in METHODS
    )
    assert np.corrcoef(by_gradient, by_occlusion)[0, 1] > 0.98


@pytest.fixture(scope='module')
def trained():
  """A small CRNN trained to tell noise with 80 Hz in it from noise."""
  fields = ResidualCRNNFields(
    num_classes=4,
    dropout_convolution=0.0,
    dropout_output=0.0,
    widths=(8, 16),
    blocks_per_stage=1,
    kernel_frames=3,
    lstm_units=4,
    batch_norm_momentum=0.8,
  )
  model = ResidualCRNN(fields)
  network = forward.Network(model, SPECTROGRAM)
  variables = initialise(model, jax.random.key(0), SPECTROGRAM.bins)
  optimizer = optax.adam(5e-3)

  @jax.jit
  def step(variables, moments, batch, key):
    def loss(params):
      logits, stats = forward.train_logits(
        network,
        {'params': params, 'batch_stats': variables['batch_stats']},
        batch,
        key,
        samples=SAMPLES,
        kind='all',
      )
      losses = weighted_cross_entropy(logits, batch.labels, jnp.ones(16))
      return losses.mean(), stats

    gradients, stats = jax.grad(loss, has_aux=True)(variables['params'])
    with jax.numpy_dtype_promotion('standard'):  # optax: float ** int32
      updates, moments = optimizer.update(gradients, moments)
    params = optax.apply_updates(variables['params'], updates)
    return {'params': params, 'batch_stats': stats}, moments

  rng = np.random.default_rng(0)
  moments = optimizer.init(variables['params'])
  key = jax.random.key(1)
  for _ in range(60):
    labels = np.arange(16, dtype=np.int32) % 2
    windows = [
      planted(rng)[0] if label else rng.normal(0, 20, SAMPLES).astype(np.int16)
      for label in labels
    ]
    batch = ensemble.make_batch(windows, 16, SAMPLES)._replace(labels=labels)
    variables, moments = step(variables, moments, batch, key)
  return make_model(network, variables)


def test_the_attribution_of_a_trained_network_is_what_was_planted(trained):
  rng = np.random.default_rng(5)
  found = [planted(rng) for _ in range(8)]
  assert np.all(trained.logits([one[0] for one in found])[0].argmax(-1) == 1)
  agreements = []
  for window, start, stop in found:
    maps = [method(trained, window, 1) for method in METHODS]
    for values in maps:
      assert share_inside(values, start, stop) > 0.6
      strongest = values.argmax() * SEGMENT
      assert start - 60 < strongest < stop
    agreements.append(np.corrcoef(*maps)[0, 1])
  assert np.mean(agreements) > 0.8


def log_odds(logits, answer):
  probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float64)))
  return np.log(probabilities[answer] / (1 - probabilities[answer]))


def test_gradients_share_out_the_log_odds_that_the_mean_frame_lacks():
  window, *_ = planted(np.random.default_rng(7))
  model = detector(4.0)
  network, [variables] = model.network, model.variables
  batch = ensemble.make_batch([window], 1, SAMPLES)
  features, frames = forward.evaluation_features(network, batch)
  mean = jnp.broadcast_to(features.mean(axis=1, keepdims=True), features.shape)
  neutral = forward.logits_of_features(
    network, variables, mean, frames, kind='all'
  )
  for answer in range(2):
    whole = log_odds(model.logits([window])[0, 0], answer)
    found = attribution.integrated_gradients(model, window, answer)
    gained = whole - log_odds(np.asarray(neutral)[0], answer)
    assert found.sum() == pytest.approx(gained, rel=0.05)


@pytest.mark.parametrize('method', METHODS)
def test_attribution_is_the_mean_over_folds(method):
  window, *_ = planted(np.random.default_rng(8))
  apart = [method(detector(level), window, 1) for level in (2.0, 5.0)]
  together = method(detector(2.0, 5.0), window, 1)
  assert np.abs(apart[0] - apart[1]).max() > 0.1
  np.testing.assert_allclose(together, np.mean(apart, axis=0), atol=1e-5)


@pytest.mark.parametrize('method', METHODS)
def test_attribution_does_not_depend_on_padding(method):
  window, *_ = planted(np.random.default_rng(9))
  model = detector(2.0)
  kept = method(model, window, 1)
  spec = dataclasses.replace(SPEC, longest_samples=1500)
  padded = method(dataclasses.replace(model, spec=spec), window, 1)
  np.testing.assert_allclose(padded, kept, atol=1e-5)


@pytest.mark.parametrize(
  ('rate', 'samples'), [(50, 10), (128, 26), (300, 60), (500, 100)]
)
def test_segments_last_as_long_at_any_rate(rate, samples):
  assert attribution.segment_samples(rate) == samples
  model = detector(4.0)
  spec = dataclasses.replace(SPEC, sampling_rate=rate)
  model = dataclasses.replace(model, spec=spec)
  window, *_ = planted(np.random.default_rng(0))
  found = attribution.integrated_gradients(model, window, 1)
  assert found.shape == (-(-SAMPLES // samples),)


@pytest.mark.parametrize('method', METHODS)
def test_a_flat_recording_has_no_attribution(method):
  for window in (np.zeros(SAMPLES, np.int16), np.full(64, 32767, np.int16)):
    found = method(detector(4.0), window, 1)
    np.testing.assert_array_equal(found, 0)

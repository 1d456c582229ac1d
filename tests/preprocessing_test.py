"""The log-spectrogram against SciPy's, and what padding must not change."""

import dataclasses
import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_jax.models import preprocessing

SPECTROGRAM = preprocessing.Spectrogram(sampling_rate=300)
SIZE = 1000

compiled = jax.jit(preprocessing.log_spectrogram, static_argnums=2)


def log_spectrogram(*arguments):
  return map(np.asarray, compiled(*arguments))


def _scipy_power(signal, spectrogram=SPECTROGRAM):
  """Power [T, F] of one recording, float64."""
  window = spectrogram.window_samples
  return scipy.signal.spectrogram(
    np.asarray(signal, np.float64),
    fs=spectrogram.sampling_rate,
    nperseg=window,
    noverlap=window - spectrogram.hop_samples,
  )[2].T


def _batch(signals, size=SIZE, behind=0.0):
  batch = np.full((len(signals), size), behind, np.float32)
  for row, signal in zip(batch, signals, strict=True):
    row[: len(signal)] = signal
  return batch, np.array([len(signal) for signal in signals], np.int32)


def _check_against_scipy(signals, size):
  found, frames = log_spectrogram(*_batch(signals, size), SPECTROGRAM)
  # The power itself, from the same program with a floor that cuts nothing.
  unfloored = dataclasses.replace(SPECTROGRAM, power_floor=1e-30)
  power, _ = log_spectrogram(*_batch(signals, size), unfloored)
  power = np.exp(power.astype(np.float64))
  for row, signal in enumerate(signals):
    expected = _scipy_power(signal)
    count = len(expected)
    assert frames[row] == count
    allowed = 1e-4 * expected + 1e-6 * expected.max(axis=1, keepdims=True)
    # 1e-30 in place of a zero, and the rounding of the logarithm.
    allowed += 1e-25 + 1e-5 * expected
    assert (np.abs(power[row, :count] - expected) <= allowed).all()
    expected = np.log(np.maximum(expected, SPECTROGRAM.power_floor))
    np.testing.assert_allclose(found[row, :count], expected, atol=5e-3, rtol=0)
    assert not np.any(found[row, count:])


@pytest.mark.parametrize('amplitude', [1, 200, 3000])
def test_equals_scipy_on_random_signals(amplitude):
  rng = np.random.default_rng(amplitude)
  noise = rng.normal(0, amplitude, (3, SIZE))
  walk = np.clip(noise.cumsum(axis=1), -10000, 10000)
  tone = amplitude * np.sin(np.arange(SIZE) * rng.uniform(0, 3, (3, 1)))
  offset = 10000 + noise[:, ::-1]
  signals = np.rint(np.concatenate([noise, walk, tone, offset]))
  lengths = rng.integers(64, SIZE + 1, len(signals))
  signals = [signal[:n] for signal, n in zip(signals, lengths, strict=True)]
  _check_against_scipy(signals, SIZE)


def test_equals_scipy_on_real_records(real_data):
  signals = []
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    for number in range(1, 8528, 700):
      name = f'training2017/A{number:05}.mat'
      with io.BytesIO(archive.read(name)) as file:
        signals.append(scipy.io.loadmat(file)['val'][0])
  _check_against_scipy(signals, max(map(len, signals)))


def test_other_windows_and_rates_equal_scipy():
  rng = np.random.default_rng(0)
  signal = np.rint(rng.normal(0, 200, SIZE))
  for window, hop, rate in [(33, 11, 250), (50, 50, 300), (32, 1, 500)]:
    spectrogram = preprocessing.Spectrogram(
      window_samples=window, hop_samples=hop, sampling_rate=rate
    )
    found, frames = log_spectrogram(*_batch([signal]), spectrogram)
    expected = _scipy_power(signal, spectrogram)
    assert found.shape[1] == frames[0] == len(expected)
    expected = np.log(np.maximum(expected, 1e-3))
    np.testing.assert_allclose(found[0], expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize('level', [0, 1, -7, 8318, -32768])
def test_constant_signal_is_at_the_floor(level):
  found, _ = log_spectrogram(*_batch([np.full(SIZE, level)]), SPECTROGRAM)
  np.testing.assert_array_equal(found, np.float32(np.log(np.float32(1e-3))))


def test_values_and_gradients_are_finite():
  rng = np.random.default_rng(0)
  extremes = rng.choice([-32768, 32767], SIZE)
  signals = [np.zeros(SIZE), np.full(500, 99), extremes, np.ones(63), []]
  batch, lengths = _batch(signals)
  for normalise in 'none', 'record':
    spectrogram = dataclasses.replace(SPECTROGRAM, normalise=normalise)

    @jax.jit
    def total(batch, spectrogram=spectrogram):
      batch = preprocessing.normalise(batch, lengths, spectrogram)
      return preprocessing.log_spectrogram(batch, lengths, spectrogram)[0].sum()

    value, gradient = jax.value_and_grad(total)(batch)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.any(gradient[2])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, SIZE), min_size=2, max_size=2), st.integers(0))
def test_padding_and_batch_mates_change_nothing(lengths, seed):
  rng = np.random.default_rng(seed)
  signals = [np.rint(rng.normal(0, 300, n)) for n in lengths]
  found, frames = log_spectrogram(*_batch(signals), SPECTROGRAM)
  again, longer = log_spectrogram(
    *_batch(signals[::-1], SIZE + 777, behind=31000.0), SPECTROGRAM
  )
  np.testing.assert_array_equal(frames, longer[::-1])
  count = found.shape[1]
  again, beyond = again[::-1, :count], again[::-1, count:]
  assert not np.any(beyond)
  # Equal but for rounding, which is relative to a frame's largest amplitude.
  found, again = np.exp(found / 2), np.exp(again / 2)
  allowed = 1e-6 * found.max(axis=2, keepdims=True)
  assert (np.abs(again - found) <= allowed).all()


def test_number_of_frames_is_that_of_whole_windows():
  samples = np.arange(0, 400)
  starts = np.arange(0, 400, 32)
  expected = [np.sum(starts + 64 <= n) for n in samples]
  found = preprocessing.num_frames(samples, SPECTROGRAM)
  np.testing.assert_array_equal(np.maximum(found, 0), expected)
  assert preprocessing.num_frames(18286, SPECTROGRAM) == 570
  on_device = preprocessing.num_frames(jnp.asarray(samples), SPECTROGRAM)
  np.testing.assert_array_equal(on_device, found)


def test_buffer_shorter_than_a_window_has_one_masked_frame():
  found, frames = preprocessing.log_spectrogram(
    jnp.ones((2, 10)), jnp.array([10, 3]), SPECTROGRAM
  )
  assert found.shape == (2, 1, 33)
  assert not np.any(found)
  assert not np.any(frames)


def test_normalisation_is_of_the_valid_samples():
  rng = np.random.default_rng(0)
  lengths = [SIZE, 700, 1]
  signals = [rng.normal(500, 3000, n) for n in lengths]
  batch, lengths = _batch(signals)
  unchanged = preprocessing.normalise(jnp.asarray(batch), lengths, SPECTROGRAM)
  np.testing.assert_array_equal(unchanged, batch)
  by_record = dataclasses.replace(SPECTROGRAM, normalise='record')
  scaled = preprocessing.normalise(jnp.asarray(batch), lengths, by_record)
  scaled = np.asarray(scaled)
  for row, signal in zip(scaled[:2], signals[:2], strict=True):
    expected = (signal - signal.mean()) * (200 / signal.std())
    np.testing.assert_allclose(row[: len(signal)], expected, atol=0.01)
    assert not np.any(row[len(signal) :])
  assert not np.any(scaled[2])


@pytest.mark.parametrize('normalise', ['none', 'record'])
def test_another_unit_of_the_same_signal_changes_nothing(normalise):
  signal = np.random.default_rng(0).normal(0, 300, (1, SIZE)).astype('f4')
  lengths = np.array([900], np.int32)
  found = []
  for unit in (1000.0, 250.0):
    spectrogram = dataclasses.replace(
      SPECTROGRAM, normalise=normalise, counts_per_millivolt=unit
    )
    counts = jnp.asarray(signal * (unit / 1000))
    found.append(preprocessing.normalise(counts, lengths, spectrogram))
  np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('kept', [1, 20, 33])
def test_kept_bins_are_the_lowest(kept):
  rng = np.random.default_rng(0)
  batch = _batch([rng.normal(0, 200, 700), rng.normal(0, 200, 500)])
  every, frames = log_spectrogram(*batch, SPECTROGRAM)
  spectrogram = dataclasses.replace(SPECTROGRAM, kept_bins=kept)
  found, same_frames = log_spectrogram(*batch, spectrogram)
  assert found.shape[-1] == spectrogram.bins == kept
  np.testing.assert_allclose(found, every[..., :kept], atol=1e-4)
  np.testing.assert_array_equal(same_frames, frames)

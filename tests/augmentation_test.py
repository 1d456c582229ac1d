"""Resampling against NumPy's interp; bursts counted and compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecg_jax.input_pipeline import heart_rate
from ecg_jax.models import augmentation, preprocessing

compiled_resample = jax.jit(augmentation.resample, static_argnums=3)
drop_bursts = jax.jit(
  augmentation.drop_bursts,
  static_argnames=('burst_span_samples', 'burst_share'),
)


def resample(*arguments):
  return np.asarray(compiled_resample(*arguments))


def _interp(signal, length):
  positions = np.arange(length) * (len(signal) - 1) / max(length - 1, 1)
  return np.interp(positions, np.arange(len(signal)), signal)


def test_resampling_equals_interp_and_changes_the_length():
  rng = np.random.default_rng(0)
  batch, given, size = 64, 600, 800
  signal = rng.integers(-32768, 32768, (batch, given)).astype(np.int16)
  lengths = rng.integers(1, given + 1, batch).astype(np.int32)
  lengths[:3] = 1, 2, given
  factors = rng.uniform(80 / 120, 80 / 60, batch)
  wanted = np.maximum(np.rint(lengths * factors), 1).astype(np.int32)
  wanted[2] = size
  assert {-1, 1} <= set(np.sign(wanted - lengths))
  result = resample(signal, lengths, wanted, size)
  for row, n, m, found in zip(signal, lengths, wanted, result, strict=True):
    # Last sample too: a stretched recording is not cut.
    np.testing.assert_allclose(found[:m], _interp(row[:n], m), atol=0.01)
    assert found[0] == row[0]
    if m > 1:
      assert found[m - 1] == row[n - 1]
    assert not np.any(found[m:])


def test_resampling_to_the_same_length_changes_nothing():
  signal = np.arange(-500, 500, dtype=np.int16)[None]
  lengths = np.array([1000], np.int32)
  np.testing.assert_array_equal(
    resample(signal, lengths, lengths, 1000), signal
  )


def test_resampling_does_not_read_padding_or_batch_mates():
  rng = np.random.default_rng(0)
  signal = rng.integers(-900, 900, (2, 300)).astype(np.int16)
  lengths = np.array([200, 100], np.int32)
  wanted = np.array([260, 70], np.int32)
  expected = resample(signal, lengths, wanted, 400)
  garbage = signal.copy()
  garbage[0, 200:] = 32767
  garbage[1] = -32768
  found = resample(garbage, lengths, np.array([260, 133], np.int32), 400)
  np.testing.assert_array_equal(found[0], expected[0])


def test_resampling_is_exact_at_the_longest_allowed_lengths():
  resampling = heart_rate.Resampling(60.0, 120.0)
  longest = heart_rate.longest_resampled(resampling)
  rng = np.random.default_rng(0)
  for rate in 60.0, 61.7, 119.3:
    length = int(resampling.lengths(np.int64(longest), np.float64(rate)))
    signal = rng.integers(-32768, 32768, longest).astype(np.int16)
    found = resample(
      signal[None], np.array([longest]), np.array([length]), length
    )
    # 0.1 counts of 65,536 is a position wrong by 1.5e-6 samples.
    np.testing.assert_allclose(found[0], _interp(signal, length), atol=0.1)


def _covered(keys, size, span, share):
  signal = jnp.ones((len(keys), size))
  lengths = jnp.full(len(keys), size)
  found = drop_bursts(
    signal, lengths, keys, burst_span_samples=span, burst_share=share
  )
  return np.asarray(found) == 0


@pytest.mark.parametrize(('span', 'share'), [(15, 0.2), (11, 0.2), (30, 0.6)])
def test_bursts_cover_the_share_everywhere(span, share):
  keys = jax.random.split(jax.random.key(span), 1000)
  covered = _covered(keys, 1000, span, share)
  assert abs(covered.mean() - share) < 0.005
  # At the ends of the recording as in its middle.
  for part in covered[:, :20], covered[:, -20:]:
    assert abs(part.mean() - share) < 0.05


def test_a_lone_burst_has_exactly_the_span():
  span = 15
  keys = jax.random.split(jax.random.key(0), 2000)
  covered = _covered(keys, 500, span, 0.02)
  lengths = []
  for row in covered:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
    starts, ends = edges[::2], edges[1::2]
    inside = (starts > 0) & (ends < len(row))
    lengths.extend((ends - starts)[inside])
  assert min(lengths) == span
  # The rest are two that touch or overlap.
  assert np.mean(np.array(lengths) == span) > 0.9


def test_no_share_covers_nothing():
  keys = jax.random.split(jax.random.key(0), 20)
  assert not _covered(keys, 500, 15, 0.0).any()


def test_bursts_come_from_the_own_key_alone():
  keys = jax.random.split(jax.random.key(1), 4)
  covered = _covered(keys, 1000, 15, 0.2)
  np.testing.assert_array_equal(covered, _covered(keys, 1000, 15, 0.2))
  # Neither the row, the batch nor the padding has a part in it.
  np.testing.assert_array_equal(
    covered[2:, :700], _covered(keys[2:], 700, 15, 0.2)
  )
  for other in 0, 2, 3:
    assert (covered[1] != covered[other]).any()


def test_bursts_change_nothing_else():
  rng = np.random.default_rng(0)
  signal = rng.normal(0, 100, (3, 500)).astype(np.float32)
  signal[1, 200:] = 0
  keys = jax.random.split(jax.random.key(0), 3)
  bursts = functools.partial(
    augmentation.drop_bursts, burst_span_samples=15, burst_share=0.2
  )
  lengths = jnp.array([500, 200, 500])
  found = augmentation.augment(signal, lengths, keys, (bursts,))
  expected = np.where(_covered(keys, 500, 15, 0.2), 0, signal)
  np.testing.assert_array_equal(found, expected)
  assert not np.any(found[1, 200:])


def _noise(signal, lengths, keys):
  size = signal.shape[1]
  return signal + jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def test_augmentations_follow_each_other_with_keys_of_their_own():
  lengths, keys = jnp.array([9, 4]), jax.random.split(jax.random.key(0), 2)
  signal = jnp.where(preprocessing.valid(lengths, 9), 3.0, 0.0)

  def augment(*functions):
    return np.asarray(augmentation.augment(signal, lengths, keys, functions))

  double = lambda signal, lengths, keys: 2 * signal  # noqa: E731
  np.testing.assert_array_equal(augment(), signal)
  one = augment(_noise) - signal
  # The first has the recording's own key, and what is behind it stays zero.
  own = jax.random.normal(keys[0], (9,))
  np.testing.assert_allclose(one[0], own, atol=1e-6)
  assert not np.any(one[1, 4:])
  np.testing.assert_array_equal(augment(_noise, double), 2 * (signal + one))
  second = augment(double, _noise) - 2 * signal
  third = augment(double, double, _noise) - 4 * signal
  for left, right in ((one, second), (one, third), (second, third)):
    assert np.abs(left - right)[:, :4].max(axis=1).min() > 0.1

"""Draws counted, buckets against brute force, weights against the formula."""

import dataclasses
import itertools
import zipfile

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_jax.input_pipeline import buckets, heart_rate, sampler
from ecg_jax.models import loss

RESAMPLING = heart_rate.Resampling(60.0, 120.0)


def _lengths(number, seed=0):
  """Lengths like the real ones: most of them the same."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(2714, 18287, number)
  lengths[rng.random(number) < 0.7] = 9000
  return lengths


def _sampler(number=237, **changes):
  fields = {
    'lengths': _lengths(number),
    # In another order than the dataset.
    'sets': dict.fromkeys(('train', 'test'), np.arange(number)[::-1]),
    'key': (0, 0),
    'repeats': None,
    'max_samples': None,
    'resampling': RESAMPLING,
    'shortest': 64,
    'training_buckets': 4,
    'evaluation_buckets': 2,
    'batch_size': 20,
    'evaluation_batch_size': 40,
    'chunk_steps': 3,
  }
  return sampler.Sampler(**(fields | changes))


def _epoch(number=237, epoch=1, **changes):
  return _sampler(number, **changes).training_chunks(0, epoch)


def _valid(chunks, field):
  return np.concatenate([getattr(chunk, field)[chunk.mask] for chunk in chunks])


@given(
  st.integers(1, 300), st.integers(1, 25), st.integers(1, 9), st.integers(1, 6)
)
@settings(max_examples=50, deadline=None)
def test_every_draw_is_used_exactly_once_in_a_bucket_that_holds_it(
  number, batch_size, chunk_steps, num_buckets
):
  draws = _sampler(
    number,
    training_buckets=num_buckets,
    evaluation_buckets=num_buckets,
    batch_size=batch_size,
    evaluation_batch_size=batch_size,
    chunk_steps=chunk_steps,
  )
  training = draws.training_chunks(0, 1)
  evaluation = draws.evaluation_chunks('test')
  for chunks in training, evaluation:
    records = _valid(chunks, 'records')
    np.testing.assert_array_equal(np.sort(records), np.arange(number))
    below = {chunk.bucket.samples for chunk in chunks} | {0}
    for chunk in chunks:
      assert chunk.mask.shape == (chunk_steps, batch_size)
      shorter = max(bound for bound in below if bound < chunk.bucket.samples)
      # In the smallest bucket in use that holds it.
      assert (chunk.lengths[chunk.mask] <= chunk.bucket.samples).all()
      assert (chunk.lengths[chunk.mask] > shorter).all()
      # Steps with records first, then masked ones; masked rows hold nothing.
      filled = chunk.mask.any(axis=1)
      assert filled.sum() == chunk.num_steps >= 1
      assert filled[: chunk.num_steps].all()
      assert not chunk.lengths[~chunk.mask].any()
      assert not chunk.records[~chunk.mask].any()
      assert not chunk.starts.any()
      # array_split: the batches of a bucket are of nearly one size.
    for samples in below - {0}:
      sizes = [
        count
        for chunk in chunks
        if chunk.bucket.samples == samples
        for count in chunk.mask.sum(axis=1)[: chunk.num_steps]
      ]
      assert max(sizes) - min(sizes) <= 1
      assert len(sizes) == -(-sum(sizes) // batch_size)
  own = draws.lengths[_valid(evaluation, 'records')]
  np.testing.assert_array_equal(_valid(evaluation, 'lengths'), own)


def _as_lists(chunks):
  return [
    [np.asarray(value).tolist() for value in dataclasses.astuple(chunk)]
    for chunk in chunks
  ]


def test_chunks_are_a_function_of_seed_fold_phase_and_epoch():
  assert _as_lists(_epoch()) == _as_lists(_epoch())
  places = [(0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1)]
  places += [(0, 0, 0, epoch) for epoch in range(2, 6)]
  epochs = []
  for seed, fold, phase, epoch in places:
    draws = _sampler(key=(seed, fold), training_buckets=1)
    chunks = draws.training_chunks(phase, epoch)
    epochs.append([_valid(chunks, name) for name in ('records', 'lengths')])
  # Another order and other heart rates each time, of the same records.
  for one, other in itertools.combinations(epochs, 2):
    np.testing.assert_array_equal(np.sort(one[0]), np.sort(other[0]))
    assert np.mean(one[0] != other[0]) > 0.5
    lengths = [drawn[1][np.argsort(drawn[0])] for drawn in (one, other)]
    assert np.mean(lengths[0] != lengths[1]) > 0.9


def test_chunks_of_the_buckets_are_mixed():
  orders = [
    tuple(chunk.bucket.samples for chunk in _epoch(epoch=epoch))
    for epoch in range(10)
  ]
  assert len(set(orders)) > 5
  assert any(list(order) != sorted(order) for order in orders)


def test_resampled_rates_are_uniform_in_heart_rate():
  number = 20000
  chunks = _epoch(number, lengths=np.full(number, 9000))
  rates = heart_rate.HEART_RATE * 9000 / _valid(chunks, 'lengths')
  uniform = scipy.stats.uniform(RESAMPLING.slowest, 60)
  assert scipy.stats.kstest(rates, uniform.cdf).pvalue > 0.01
  # Uniform in length would fail by far.
  lengths = np.random.default_rng(0).uniform(6000, 12000, number)
  assert scipy.stats.kstest(80 * 9000 / lengths, uniform.cdf).pvalue < 1e-9


def test_resampling_is_fresh_for_each_draw_and_can_be_off():
  lengths = _lengths(237)
  off = _epoch(resampling=None)
  np.testing.assert_array_equal(
    _valid(off, 'lengths'), lengths[_valid(off, 'records')]
  )
  changed = []
  for epoch in 1, 2:
    chunks = _epoch(epoch=epoch)
    order = np.argsort(_valid(chunks, 'records'))
    changed.append(_valid(chunks, 'lengths')[order])
  factors = changed[0] / lengths
  assert factors.min() >= 80 / 120 - 1e-3
  assert factors.max() <= 80 / 60 + 1e-3
  assert len(set(np.round(factors, 4))) > 200
  assert np.mean(changed[0] != changed[1]) > 0.99


def test_resampling_leaves_at_least_one_frame():
  lengths = np.array([64, 65, 70, 90, 30] * 40)
  chunks = _epoch(200, lengths=lengths)
  found = _valid(chunks, 'lengths')
  given_lengths = lengths[_valid(chunks, 'records')]
  assert found[given_lengths >= 64].min() == 64
  # What was shorter before is at least left as long as it was.
  assert found[given_lengths == 30].min() == 30


def _cost(lengths, bounds):
  return sum(min(b for b in bounds if b >= length) for length in lengths)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_bounds_compute_the_fewest_samples(multiples, num_buckets):
  """Against all choices of bounds at the lengths, which lie on the grid."""
  lengths = 32 * np.array(multiples)
  bounds = buckets.bucket_bounds(
    lengths, num_buckets=num_buckets, resampling=None
  )
  assert 1 <= len(bounds) <= num_buckets
  assert list(bounds) == sorted(set(bounds))
  assert bounds[-1] == lengths.max()
  best = min(
    _cost(lengths, [*choice, lengths.max()])
    for choice in itertools.combinations_with_replacement(
      np.unique(lengths), num_buckets - 1
    )
  )
  assert _cost(lengths, bounds) == best


@given(st.integers(0, 99), st.integers(1, 6), st.booleans())
@settings(max_examples=30, deadline=None)
def test_last_bound_and_window_hold_every_recording(seed, num_buckets, augment):
  lengths = _lengths(50, seed)
  draws = _sampler(
    50,
    lengths=lengths,
    key=(seed, 0),
    resampling=RESAMPLING if augment else None,
    training_buckets=num_buckets,
  )
  for epoch in range(5):
    for chunk in draws.training_chunks(0, epoch):
      own = lengths[chunk.records[chunk.mask]]
      assert own.max() <= chunk.bucket.window <= lengths.max()
  # The longest at the slowest rate too.
  slowest = np.float64(RESAMPLING.slowest if augment else heart_rate.HEART_RATE)
  longest = RESAMPLING.lengths(lengths.max(), slowest)
  assert longest <= draws.buckets[-1].samples


@given(st.floats(20, 200), st.floats(1, 3), st.integers(1, 60000))
def test_window_holds_what_any_rate_makes_fit_the_bucket(
  slowest, factor, samples
):
  resampling = heart_rate.Resampling(slowest, slowest * factor)
  window = buckets.window_samples(samples, 10**9, resampling)
  rates = np.linspace(resampling.slowest, resampling.fastest, 9)
  assert (resampling.lengths(np.int64(window + 1), rates) > samples).all()


def _real_share(chunks):
  computed = sum(chunk.bucket.samples * chunk.mask.sum() for chunk in chunks)
  return _valid(chunks, 'lengths').sum() / computed


def test_most_of_what_is_computed_on_the_real_records_is_real(real_data):
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    entries = archive.infolist()
  sizes = [x.file_size for x in entries if x.filename.endswith('.mat')]
  # A header of 24 bytes, then int16.
  lengths = (np.array(sizes) - 24) // 2
  assert (len(lengths), lengths.min(), lengths.max()) == (8528, 2714, 18286)
  draws = _sampler(8528, lengths=lengths, training_buckets=5, chunk_steps=8)
  assert _real_share(draws.training_chunks(0, 1)) >= 0.80
  evaluation = draws.evaluation_chunks('test')
  assert _real_share(evaluation) >= 0.90


def _classes(counts):
  return np.random.default_rng(0).permutation(np.repeat(np.arange(4), counts))


@pytest.mark.parametrize(
  'counts', [(5076, 758, 2415, 279), (10, 0, 5, 1), (1, 0, 0, 0), (3, 3, 3, 3)]
)
def test_class_weights_are_the_formula(counts):
  weights = loss.class_weights(_classes(counts), 4)
  assert weights.dtype == np.float32
  for weight, count in zip(weights, counts, strict=True):
    percentage = 100 * count / sum(counts)
    expected = 0.8 + 0.2 * 100 / percentage if count else 0
    assert weight == pytest.approx(expected, rel=1e-6)
  weights = loss.class_weights(_classes(counts), 4, 0.3)
  for weight, count in zip(weights, counts, strict=True):
    expected = (sum(counts) / count) ** 0.3 if count else 0
    assert weight == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.integers(0, 400), min_size=4, max_size=4).filter(any))
def test_class_repeats_are_the_formula_in_whole_numbers(counts):
  classes = _classes(counts)
  repeats = sampler.class_repeats(classes, 4)
  total = sum(counts)
  for label, repeat in zip(classes, repeats, strict=True):
    # int(100 * 0.2 / (100 * count / total)) + 1, without rounding.
    assert (repeat - 1) * 5 * counts[label] <= total
    assert repeat * 5 * counts[label] > total


def test_compensated_epochs_draw_classes_as_repeated_and_cut_to_the_set():
  counts = np.array([600, 80, 290, 30])
  classes = _classes(counts)
  repeats = sampler.class_repeats(classes, 4)
  drawn = np.zeros(1000, int)
  epochs = 60
  for epoch in range(epochs):
    # The set is the dataset's records from the last to the first.
    chunks = _epoch(1000, epoch, repeats=repeats[::-1], chunk_steps=8)
    records = _valid(chunks, 'records')
    assert len(records) == 1000
    times = np.bincount(records, minlength=1000)
    assert (times <= repeats).all()
    drawn += times
  # Half of the set is never taken, so the other half is, twice.
  other = 2 * (np.arange(238) % 2)
  records = _valid(_epoch(238, repeats=other[::-1]), 'records')
  np.testing.assert_array_equal(np.bincount(records, minlength=238), other)
  # int(100 * 0.2 / 60) + 1 and so on.
  by_hand = np.array([1, 3, 1, 7])
  np.testing.assert_array_equal(repeats, by_hand[classes])
  expected = counts * by_hand / np.sum(counts * by_hand)
  found = np.bincount(classes, drawn) / (1000 * epochs)
  np.testing.assert_allclose(found, expected, atol=0.01)


def test_of_long_recordings_a_random_part_is_used():
  lengths = np.array([2714, 9000, 9001, 18286] * 60)
  starts = []
  for epoch in range(1, 21):
    chunks = _epoch(
      len(lengths), epoch, lengths=lengths, max_samples=9000, resampling=None
    )
    order = np.argsort(_valid(chunks, 'records'))
    used, start, length = (
      _valid(chunks, name)[order]
      for name in ('signal_lengths', 'starts', 'lengths')
    )
    np.testing.assert_array_equal(used, np.minimum(lengths, 9000))
    np.testing.assert_array_equal(length, used)
    assert (start >= 0).all()
    assert (start + used <= lengths).all()
    assert not start[lengths <= 9000].any()
    starts.append(start)
  starts = np.array(starts)
  assert set(np.unique(starts[:, lengths == 9001])) == {0, 1}
  # Uniform from the first sample to the last that leaves enough.
  drawn = np.sort(starts[:, lengths == 18286].ravel()) / 9286
  uniform = np.linspace(0, 1, len(drawn))
  np.testing.assert_allclose(drawn, uniform, atol=0.05)


def test_parts_are_resampled_like_whole_recordings():
  chunks = _epoch(max_samples=5000)
  used, lengths = (_valid(chunks, x) for x in ('signal_lengths', 'lengths'))
  assert used.max() == 5000
  assert (lengths <= RESAMPLING.lengths(used, RESAMPLING.slowest)).all()
  assert (lengths >= RESAMPLING.lengths(used, RESAMPLING.fastest)).all()
  assert len(np.unique(lengths)) > 100

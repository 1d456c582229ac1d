"""The dataset in memory and on the device, thinning, batches."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecg_jax.datasets import prepare
from ecg_jax.datasets.synthetic_ecg import synthetic_ecg_dataset_builder
from ecg_jax.errors import InputError
from ecg_jax.fields.data import DataFields
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.input_pipeline import device_data, heart_rate, sampler
from ecg_jax.input_pipeline.dataset import StoredSignal
from ecg_jax.runtime import sharding


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(jax.devices()[:1])


# A set of records: their classes, of any dataset, more of the first.
_SETS = st.lists(
  st.sampled_from(['N'] * 6 + ['A', 'O', '~', 'other rhythm']),
  min_size=1,
  max_size=200,
)


@given(_SETS, st.integers(1, 250))
def test_thinned_set_keeps_the_classes_and_their_shares(letters, max_records):
  labels = {f'R{i:03d}': letter for i, letter in enumerate(letters)}
  records = list(labels)
  kept = dataset_lib.thin(records, labels, max_records)
  assert kept == dataset_lib.thin(records[::-1], labels, max_records)
  assert kept == sorted(set(kept) & set(records))
  before = collections.Counter(letters)
  after = collections.Counter(labels[record] for record in kept)
  assert set(after) == set(before)
  part = min(1.0, max_records / len(records))
  for letter, count in before.items():
    assert abs(after[letter] - count * part) < 1
  assert abs(len(kept) - len(records) * part) < len(before)


def test_set_that_is_small_enough_is_kept_whole():
  labels = dict.fromkeys(['b', 'a', 'c'], 'N')
  for max_records in (None, 3, 9):
    kept = dataset_lib.thin(['b', 'a', 'c'], labels, max_records)
    assert kept == ['a', 'b', 'c']


def _sampler(dataset, max_samples, chunk_steps, **changes):
  """Of all records, unchanged, in batches as large as the set."""
  everything = np.arange(len(dataset.records), dtype=np.int32)
  fields = {
    'lengths': dataset.lengths,
    'sets': {'train': everything},
    'key': (0, 0),
    'repeats': None,
    'max_samples': max_samples,
    'resampling': None,
    'shortest': 64,
    'training_buckets': 1,
    'evaluation_buckets': 1,
    'batch_size': len(everything),
    'evaluation_batch_size': len(everything),
    'chunk_steps': chunk_steps,
  }
  return sampler.Sampler(**(fields | changes))


def test_batch_holds_the_samples_of_its_records_to_the_very_last(
  small_data, mesh
):
  dataset = small_data.dataset
  data = device_data.put_dataset(dataset, 'v2', mesh)
  weights = np.arange(len(dataset.records), dtype=np.float32)
  data = device_data.with_weights(data, weights, mesh)
  [chunk] = _sampler(dataset, None, 1).evaluation_chunks('train')
  placed = device_data.put_chunk(chunk, mesh)
  assert int(placed.num_steps) == 1
  batch = jax.jit(device_data.take_batch)(data, placed, 0)
  assert batch.signal.shape == (len(weights), dataset.lengths.max())
  assert batch.mask.all()
  np.testing.assert_array_equal(batch.signal_lengths, dataset.lengths)
  np.testing.assert_array_equal(batch.lengths, dataset.lengths)
  np.testing.assert_array_equal(batch.labels, dataset.classes['v2'])
  np.testing.assert_array_equal(batch.weights, weights)
  ends = np.cumsum(dataset.lengths)
  for row, start, end in zip(batch.signal, dataset.offsets, ends, strict=True):
    found = np.asarray(row)[: end - start]
    np.testing.assert_array_equal(found, dataset.signal[start:end])


def test_dataset_beyond_32_bit_offsets_is_refused(small_data, mesh):
  dataset = dataclasses.replace(
    small_data.dataset, signal=np.broadcast_to(np.int16(0), 2**31 - 100)
  )
  with pytest.raises(InputError, match='more than the 2,147,483,647'):
    device_data.put_dataset(dataset, 'v3', mesh)


def test_digest_is_of_the_samples_alone(small_data):
  dataset = small_data.dataset
  digests = dataset.record_digests()
  assert len(set(digests.values())) == len(dataset.records)
  signal = dataset.signal.copy()
  signal[dataset.offsets[7]] += 1
  changed = dataclasses.replace(dataset, signal=signal).record_digests()
  differing = {name for name in digests if digests[name] != changed[name]}
  assert differing == {dataset.records[7]}


def test_records_are_found_by_name(small_data):
  dataset = small_data.dataset
  wanted = [dataset.records[index] for index in (5, 0, 59)]
  np.testing.assert_array_equal(dataset.find(wanted), [5, 0, 59])
  letters = dataset.labels('v3')
  for name, index in zip(wanted, (5, 0, 59), strict=True):
    assert letters[name] == dataset.spec.classes[dataset.classes['v3'][index]]


def test_batch_holds_the_part_of_a_recording_that_the_chunk_names(
  small_data, mesh
):
  dataset = small_data.dataset
  data = device_data.put_dataset(dataset, 'v3', mesh)
  [chunk] = _sampler(dataset, 500, 1).training_chunks(0, 1)
  assert chunk.bucket == (500, 500)
  placed = device_data.put_chunk(chunk, mesh)
  batch = jax.jit(device_data.take_batch)(data, placed, 0)
  assert chunk.starts.any()
  for row, record in enumerate(chunk.records[0]):
    start = dataset.offsets[record] + chunk.starts[0, row]
    length = min(500, dataset.lengths[record])
    assert batch.signal_lengths[row] == length
    np.testing.assert_array_equal(
      batch.signal[row, :length], dataset.signal[start : start + length]
    )


def test_recordings_on_the_disk_are_fed_as_those_on_the_device(
  small_data, stored_dataset, mesh
):
  """Whole ones, parts of long ones, and padding; chunks of all buckets."""
  dataset = small_data.dataset
  draws = _sampler(
    dataset,
    700,
    2,
    training_buckets=2,
    batch_size=7,
    resampling=heart_rate.Resampling(60.0, 120.0),
  )
  chunks = draws.training_chunks(0, 1)
  take = jax.jit(device_data.take_batch)
  weights = np.arange(len(dataset.records), dtype=np.float32)
  fed = []
  for one in (dataset, stored_dataset):
    data = device_data.put_dataset(one, 'v2', mesh)
    data = device_data.with_weights(data, weights, mesh)
    fed.append(device_data.feed(data, chunks, mesh))
  assert len({chunk.bucket for chunk in chunks}) == 2
  for chunk, here, there in zip(chunks, *fed, strict=True):
    window = chunk.bucket.window
    assert there[0].signal.size == chunk.mask.size * window
    for step in range(chunk.num_steps):
      a, b = take(*here, step), take(*there, step)
      valid = np.arange(window) < np.asarray(a.signal_lengths)[:, None]
      np.testing.assert_array_equal(
        np.where(valid, a.signal, 0), np.where(valid, b.signal, 0)
      )
      for name in ('signal_lengths', 'lengths', 'mask'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
      for name in ('labels', 'weights'):
        np.testing.assert_array_equal(
          getattr(a, name)[a.mask], getattr(b, name)[a.mask]
        )
    assert int(here[1].num_steps) == int(there[1].num_steps)


def test_dataset_on_the_disk_is_that_in_memory(monkeypatch, tmp_path):
  builder_class = synthetic_ecg_dataset_builder.Builder
  monkeypatch.setattr(builder_class, 'NUM_RECORDS', 40)
  monkeypatch.setattr(dataset_lib, '_READ_TOGETHER', 7)
  builder = prepare.prepare(
    DataFields(name='synthetic_ecg', manual_dir=None, data_dir=str(tmp_path))
  )
  here, there = (dataset_lib.load(builder, in_memory=x) for x in (True, False))
  assert here.records == there.records
  assert isinstance(there.signal, StoredSignal)
  assert len(here.signal) == len(there.signal)
  assert here.record_digests() == there.record_digests()
  np.testing.assert_array_equal(here.offsets, there.offsets)
  assert here.all_labels() == there.all_labels()

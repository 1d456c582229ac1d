"""The dataset in memory and on the device, thinning, batches."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecg_jax.datasets import prepare, schema
from ecg_jax.datasets.synthetic_ecg import synthetic_ecg_dataset_builder
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.input_pipeline import device_data, sampler
from ecg_jax.input_pipeline.dataset import StoredSignal
from ecg_jax.runtime import sharding


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(jax.devices()[:1])


# A set of records: their classes, more of the first.
_SETS = st.lists(
  st.sampled_from(schema.CLASSES[:1] * 6 + schema.CLASSES[1:]),
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


def test_batch_holds_the_samples_of_its_records_to_the_very_last(
  small_data, mesh
):
  dataset = small_data.dataset
  data = device_data.put_dataset(dataset, 'v2', mesh)
  window = int(dataset.lengths.max())
  everything = np.arange(len(dataset.records), dtype=np.int32)
  (chunk,) = sampler.evaluation_chunks(
    records=everything,
    lengths=dataset.lengths,
    bounds=(window,),
    batch_size=len(everything),
    chunk_steps=1,
  )
  arrays, num_steps = device_data.put_chunk(chunk, mesh)
  assert int(num_steps) == 1
  batch = jax.jit(device_data.take_batch, static_argnums=3)(
    data, arrays, 0, window
  )
  assert batch.signal.shape == (len(everything), window)
  assert batch.mask.all()
  np.testing.assert_array_equal(batch.signal_lengths, dataset.lengths)
  np.testing.assert_array_equal(batch.lengths, dataset.lengths)
  np.testing.assert_array_equal(batch.labels, dataset.classes['v2'])
  signal = np.asarray(batch.signal)
  for row, start, length in zip(
    signal, dataset.offsets, dataset.lengths, strict=True
  ):
    np.testing.assert_array_equal(
      row[:length], dataset.signal[start : start + length]
    )


def test_dataset_beyond_32_bit_offsets_is_refused(small_data, mesh):
  dataset = dataclasses.replace(
    small_data.dataset,
    signal=np.broadcast_to(np.int16(0), 2**31 - 100),
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
  assert [letters[name] for name in wanted] == [
    schema.CLASSES[dataset.classes['v3'][index]] for index in (5, 0, 59)
  ]


def test_batch_holds_the_part_of_a_recording_that_the_chunk_names(
  small_data, mesh
):
  dataset = small_data.dataset
  data = device_data.put_dataset(dataset, 'v3', mesh)
  records = np.arange(len(dataset.records))
  chunks = sampler.training_chunks(
    key=(0, 0, 0, 1),
    records=records,
    lengths=dataset.lengths,
    repeats=None,
    max_samples=500,
    resampling=None,
    shortest=64,
    bounds=(500,),
    batch_size=len(records),
    chunk_steps=1,
  )
  [chunk] = chunks
  arrays, _ = device_data.put_chunk(chunk, mesh)
  batch = jax.jit(device_data.take_batch, static_argnums=3)(
    data, arrays, 0, 500
  )
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
  chunks = sampler.training_chunks(
    key=(0, 0, 0, 1),
    records=np.arange(len(dataset.records)),
    lengths=dataset.lengths,
    repeats=None,
    max_samples=700,
    resampling=None,
    shortest=64,
    bounds=(500, 700),
    batch_size=7,
    chunk_steps=2,
  )
  take = jax.jit(device_data.take_batch, static_argnums=3)
  fed = [
    device_data.feed(
      device_data.put_dataset(one, 'v2', mesh), chunks, mesh, lambda x: x + 3
    )
    for one in (dataset, stored_dataset)
  ]
  assert len({chunk.samples for chunk in chunks}) == 2
  for chunk, here, there in zip(chunks, *fed, strict=True):
    assert there[0].signal.size == chunk.mask.size * (chunk.samples + 3)
    for step in range(chunk.num_steps):
      a, b = (
        take(data, arrays, step, chunk.samples + 3)
        for data, arrays, _ in (here, there)
      )
      valid = np.arange(chunk.samples + 3) < a.signal_lengths[:, None]
      np.testing.assert_array_equal(
        np.where(valid, a.signal, 0), np.where(valid, b.signal, 0)
      )
      for name in ('signal_lengths', 'lengths', 'mask'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
      np.testing.assert_array_equal(a.labels[a.mask], b.labels[a.mask])
    assert int(here[2]) == int(there[2])


def test_dataset_on_the_disk_is_that_in_memory(monkeypatch, tmp_path):
  builder_class = synthetic_ecg_dataset_builder.Builder
  monkeypatch.setattr(builder_class, 'NUM_RECORDS', 40)
  monkeypatch.setattr(dataset_lib, '_READ_TOGETHER', 7)
  builder = prepare.prepare(
    'synthetic_ecg', manual_dir=None, data_dir=str(tmp_path)
  )
  here, there = (dataset_lib.load(builder, in_memory=x) for x in (True, False))
  assert here.records == there.records
  assert isinstance(there.signal, StoredSignal)
  assert len(here.signal) == len(there.signal)
  assert here.record_digests() == there.record_digests()
  np.testing.assert_array_equal(here.offsets, there.offsets)
  for version in schema.LABEL_VERSIONS:
    assert here.labels(version) == there.labels(version)

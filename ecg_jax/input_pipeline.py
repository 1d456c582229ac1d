"""Prepared dataset -> int16 samples on the device -> batches in the step.

R: records, S: samples of all records, K: steps of a chunk, B: batch size.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorflow_datasets as tfds
from jax.sharding import Mesh

from ecg_jax import forward, sampler, score, sharding
from ecg_jax.errors import InputError

LABEL_VERSIONS = ('v1', 'v2', 'v3')


@dataclasses.dataclass(frozen=True)
class Dataset:
  """All records, in host memory, sorted by name."""

  records: tuple[str, ...]
  """Their names."""
  signal: np.ndarray
  """int16 [S], counts of 1/1000 mV, one recording behind the other."""
  offsets: np.ndarray
  """int64 [R], where each recording starts."""
  lengths: np.ndarray
  """int64 [R], samples of each recording."""
  classes: Mapping[str, np.ndarray]
  """By label version: int32 [R], class in the order N, A, O, ~."""

  def labels(self, version: str) -> dict[str, str]:
    """Record -> class letter, in that version."""
    letters = [score.CLASSES[index] for index in self.classes[version]]
    return dict(zip(self.records, letters, strict=True))

  def record_digests(self) -> dict[str, str]:
    """Record -> SHA-256 of its int16 samples (little-endian bytes)."""
    ends = self.offsets + self.lengths
    return {
      record: hashlib.sha256(
        self.signal[start:end].astype('<i2').tobytes()
      ).hexdigest()
      for record, start, end in zip(
        self.records, self.offsets, ends, strict=True
      )
    }

  def find(self, records: Sequence[str]) -> np.ndarray:
    """Positions, int32, of records in the dataset."""
    position = {record: index for index, record in enumerate(self.records)}
    return np.array([position[record] for record in records], np.int32)


class DeviceData(NamedTuple):
  """The dataset on a device, as the step reads it."""

  signal: jax.Array | np.ndarray
  """int16 [S + longest window]; the tail keeps `dynamic_slice`, which clamps
  its start, from reading the last recordings shifted."""
  offsets: jax.Array | np.ndarray
  """int32 [R]."""
  labels: jax.Array | np.ndarray
  """int32 [R], class in the version that is trained on."""


class ChunkArrays(NamedTuple):
  """The arrays of a sampler.Chunk on a device, each [K, B]."""

  records: jax.Array | np.ndarray
  starts: jax.Array | np.ndarray
  signal_lengths: jax.Array | np.ndarray
  lengths: jax.Array | np.ndarray
  mask: jax.Array | np.ndarray


def load(builder: tfds.core.DatasetBuilder) -> Dataset:
  """Reads a prepared dataset (see ecg_jax.datasets.prepare) into memory.

  Raises:
    InputError: A file of it is damaged.
  """
  examples: list[Mapping[str, Any]] = []
  try:
    for split in builder.info.splits:
      source = builder.as_data_source(split=split)
      examples += source.__getitems__(range(len(source)))
  except RuntimeError as error:  # What array_record raises of a damaged file.
    raise InputError(
      f'The prepared dataset in {builder.data_dir} is damaged ({error}): delete'
      ' that folder to have it built again.'
    ) from error
  examples.sort(key=lambda example: example['record'])
  lengths = np.array([len(example['signal']) for example in examples])
  return Dataset(
    records=tuple(example['record'].decode() for example in examples),
    signal=np.concatenate([example['signal'] for example in examples]),
    offsets=np.cumsum(lengths) - lengths,
    lengths=lengths,
    classes={
      version: np.array(
        [example[f'label_{version}'] for example in examples], np.int32
      )
      for version in LABEL_VERSIONS
    },
  )


def thin(
  records: Sequence[str], labels: Mapping[str, str], max_records: int | None
) -> list[str]:
  """Thins a set to about `max_records`, keeping its class shares.

  Each class keeps its share, rounded, and at least one record; which ones is
  fixed: evenly spaced in the order of names.

  Args:
    records: One set of a fold.
    labels: Record -> class.
    max_records: Records to keep, or None for all.

  Returns:
    Sorted records.
  """
  if max_records is None or len(records) <= max_records:
    return sorted(records)
  kept = []
  for letter in score.CLASSES:
    members = sorted(record for record in records if labels[record] == letter)
    count = round(len(members) * max_records / len(records))
    count = min(len(members), max(1, count))
    chosen = np.linspace(0, len(members), count, endpoint=False).astype(int)
    kept += [members[index] for index in chosen]
  return sorted(kept)


def put_dataset(dataset: Dataset, label_version: str, mesh: Mesh) -> DeviceData:
  """Puts the dataset on every device of the mesh.

  Raises:
    InputError: It has more samples than 32-bit offsets can address.
  """
  longest = int(dataset.lengths.max())
  size = len(dataset.signal) + longest
  if size >= 2**31:
    raise InputError(
      f'The dataset has {size:,} samples, more than the 2,147,483,647 that fit'
      ' on a device: leave out some of its records.'
    )
  return sharding.replicate(
    DeviceData(
      signal=np.pad(dataset.signal, (0, longest)),
      offsets=dataset.offsets.astype(np.int32),
      labels=dataset.classes[label_version].astype(np.int32),
    ),
    mesh,
  )


def put_chunk(
  chunk: sampler.Chunk, mesh: Mesh
) -> tuple[ChunkArrays, jax.Array]:
  """Puts a chunk's arrays and its number of steps on the mesh."""
  arrays = ChunkArrays(*(getattr(chunk, x) for x in ChunkArrays._fields))
  return (
    sharding.split_rows(arrays, mesh),
    sharding.replicate(np.int32(chunk.num_steps), mesh),
  )


def take_batch(
  data: DeviceData, chunk: ChunkArrays, step: Any, window: int
) -> forward.Batch:
  """Cuts the recordings of one step out of the dataset; runs in the step.

  Args:
    data: The dataset.
    chunk: Its [step] row says which records.
    step: Int scalar.
    window: Samples to cut, at least the longest of these recordings' parts.

  Returns:
    The batch, signal int16 [B, window].
  """
  records, starts, signal_lengths, lengths, mask = (
    array[step] for array in chunk
  )

  def cut(start):
    return jax.lax.dynamic_slice(data.signal, (start,), (window,))

  return forward.Batch(
    signal=jax.vmap(cut)(data.offsets[records] + starts),
    signal_lengths=signal_lengths,
    lengths=lengths,
    labels=data.labels[records],
    mask=mask,
  )

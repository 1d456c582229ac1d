"""Prepared dataset -> int16 samples on the device -> batches in the step.

All samples lie on the device, or those of a chunk are read from the disk ahead
of it (`Dataset.signal` says which); the step does not know.

R: records, S: samples of all records, K: steps of a chunk, B: batch size.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from jax.sharding import Mesh

from ecg_jax import forward, sampler, score, sharding
from ecg_jax.errors import InputError

LABEL_VERSIONS = ('v1', 'v2', 'v3')

_READ_TOGETHER = 1024  # records

_READERS, _CHUNKS_AHEAD = 4, 4
"""Threads that read recordings from the disk, and how far ahead."""


class StoredSignal:
  """The samples of a prepared dataset on the disk, read like an array [S]."""

  def __init__(
    self,
    sources: Sequence[Sequence[Mapping[str, Any]]],
    places: Sequence[tuple[int, int]],
    offsets: np.ndarray,
    lengths: np.ndarray,
  ):
    """Takes what holds the recordings.

    Args:
      sources: Of array_record, read at random.
      places: Of each recording: which source, and where in it.
      offsets: int64 [R], where each recording starts, ascending.
      lengths: int64 [R].
    """
    self._sources, self._places = sources, places
    self._offsets, self._size = offsets, int(lengths.sum())

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, part: slice) -> np.ndarray:
    """int16 [stop - start]: samples of one recording."""
    record = int(np.searchsorted(self._offsets, part.start, side='right')) - 1
    source, place = self._places[record]
    signal = self._sources[source][place]['signal']
    first = part.start - self._offsets[record]
    return signal[first : first + part.stop - part.start]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """All records, sorted by name."""

  records: tuple[str, ...]
  """Their names."""
  signal: np.ndarray | StoredSignal
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


class HostData(NamedTuple):
  """A dataset whose recordings go to the device by the chunk."""

  dataset: Dataset
  label_version: str


Data = DeviceData | HostData


class ChunkArrays(NamedTuple):
  """The arrays of a sampler.Chunk on a device, each [K, B]."""

  records: jax.Array | np.ndarray
  starts: jax.Array | np.ndarray
  signal_lengths: jax.Array | np.ndarray
  lengths: jax.Array | np.ndarray
  mask: jax.Array | np.ndarray


# Of a chunk: the dataset, or as much of it as the chunk needs; its arrays; its
# number of steps.
Inputs = tuple[DeviceData, ChunkArrays, jax.Array]


def load(builder: tfds.core.DatasetBuilder, *, in_memory: bool) -> Dataset:
  """Reads a prepared dataset (see ecg_jax.datasets.prepare).

  Args:
    builder: Of the dataset.
    in_memory: Whether to keep its samples, or to read them again when needed.

  Raises:
    InputError: A file of it is damaged.
  """
  sources = [builder.as_data_source(split=x) for x in builder.info.splits]
  examples: list[dict[str, Any]] = []
  try:
    for number, source in enumerate(sources):
      for first in range(0, len(source), _READ_TOGETHER):
        places = range(first, min(first + _READ_TOGETHER, len(source)))
        for place, read in zip(
          places, source.__getitems__(places), strict=True
        ):
          example = {**read, 'place': (number, place)}
          example['length'] = len(read['signal'])
          if not in_memory:
            del example['signal']
          examples.append(example)
  except RuntimeError as error:  # What array_record raises of a damaged file.
    raise InputError(
      f'The prepared dataset in {builder.data_dir} is damaged ({error}): delete'
      ' that folder to have it built again.'
    ) from error
  examples.sort(key=lambda example: example['record'])
  lengths = np.array([example['length'] for example in examples])
  offsets = np.cumsum(lengths) - lengths
  signal: np.ndarray | StoredSignal
  if in_memory:
    signal = np.concatenate([example['signal'] for example in examples])
  else:
    places_of = [example['place'] for example in examples]
    signal = StoredSignal(sources, places_of, offsets, lengths)
  return Dataset(
    records=tuple(example['record'].decode() for example in examples),
    signal=signal,
    offsets=offsets,
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


def put_dataset(dataset: Dataset, label_version: str, mesh: Mesh) -> Data:
  """Puts the dataset on every device of the mesh, if it is in memory.

  Raises:
    InputError: It has more samples than 32-bit offsets can address.
  """
  if isinstance(dataset.signal, StoredSignal):
    return HostData(dataset, label_version)
  longest = int(dataset.lengths.max())
  size = len(dataset.signal) + longest
  if size >= 2**31:
    raise InputError(
      f'The dataset has {size:,} samples, more than the 2,147,483,647 that fit'
      ' on a device: set --config.data.placement host.'
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


def feed(
  data: Data,
  chunks: Sequence[sampler.Chunk],
  mesh: Mesh,
  window_of: Callable[[int], int],
) -> Iterator[Inputs]:
  """What the programs of chunks are given, each put on the mesh when asked for.

  Args:
    data: The dataset.
    chunks: In the order of the programs.
    mesh: The devices.
    window_of: Samples of a bucket -> samples that its programs cut out.

  Yields:
    What each program is given.
  """
  if isinstance(data, DeviceData):
    for chunk in chunks:
      yield data, *put_chunk(chunk, mesh)
    return
  options = grain.ReadOptions(
    num_threads=_READERS, prefetch_buffer_size=_CHUNKS_AHEAD
  )
  parts = grain.MapDataset.source(_Parts(data, chunks, window_of))
  for part, chunk in parts.to_iter_dataset(options):
    yield sharding.replicate(part, mesh), *put_chunk(chunk, mesh)


@dataclasses.dataclass(frozen=True)
class _Parts:
  """Of each chunk the windows alone, as a dataset of their own."""

  data: HostData
  chunks: Sequence[sampler.Chunk]
  window_of: Callable[[int], int]

  def __len__(self) -> int:
    return len(self.chunks)

  def __getitem__(self, index: int) -> tuple[DeviceData, sampler.Chunk]:
    dataset, chunk = self.data.dataset, self.chunks[index]
    window = self.window_of(chunk.samples)
    labels = dataset.classes[self.data.label_version][chunk.records]
    signal = np.zeros((*chunk.records.shape, window), np.int16)
    for place in zip(*np.nonzero(chunk.mask), strict=True):
      start = dataset.offsets[chunk.records[place]] + chunk.starts[place]
      length = chunk.signal_lengths[place]
      signal[place][:length] = dataset.signal[start : start + length]
    numbers = np.arange(chunk.records.size, dtype=np.int32)
    part = DeviceData(
      signal=signal.reshape(-1),
      offsets=numbers * window,
      labels=labels.astype(np.int32).reshape(-1),
    )
    rows = dataclasses.replace(
      chunk,
      records=numbers.reshape(chunk.records.shape),
      starts=np.zeros_like(chunk.starts),
    )
    return part, rows


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

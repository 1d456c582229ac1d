"""Prepared dataset -> int16 samples on the device -> batches in the step.

All samples lie on the device, or those of a chunk are read from the disk ahead
of it (`Dataset.signal` says which); the step does not know.

R: records, S: samples of all records, K: steps of a chunk, B: batch size.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from ecg_jax.errors import InputError
from ecg_jax.input_pipeline import sampler
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.input_pipeline.dataset import Dataset, StoredSignal
from ecg_jax.runtime import sharding

_READERS, _CHUNKS_AHEAD = 4, 4
"""Threads that read recordings from the disk, and how far ahead."""


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
) -> Batch:
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

  return Batch(
    signal=jax.vmap(cut)(data.offsets[records] + starts),
    signal_lengths=signal_lengths,
    lengths=lengths,
    labels=data.labels[records],
    mask=mask,
  )

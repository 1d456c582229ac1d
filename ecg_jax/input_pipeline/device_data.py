"""Dataset in memory -> int16 samples on the device -> batches in the step.

All samples are on the device, or those of a chunk are read from the disk ahead
of it (`Dataset.signal` decides which); the step sees no difference.

R: records, S: samples of all records, K: steps of a chunk, B: batch size.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from ecg_jax.errors import InputError
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.input_pipeline.dataset import Dataset, StoredSignal
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.runtime import sharding

_READERS, _CHUNKS_AHEAD = 4, 4
"""Threads that read recordings from the disk, and how far ahead."""

jax.tree_util.register_dataclass(
  Chunk,
  data_fields=[f.name for f in dataclasses.fields(Chunk) if f.name != 'bucket'],
  meta_fields=['bucket'],
)


class DeviceData(NamedTuple):
  """The dataset on a device, as the step reads it."""

  signal: jax.Array | np.ndarray
  """int16 [S + longest window]; the tail keeps `dynamic_slice`, which clamps
  its start, from reading the last recordings shifted."""
  offsets: jax.Array | np.ndarray
  """int32 [R]."""
  labels: jax.Array | np.ndarray
  """int32 [R], class in the version that is trained on."""
  weights: jax.Array | np.ndarray
  """float32 [R], weight of each record in the loss."""


class HostData(NamedTuple):
  """A dataset whose recordings go to the device chunk by chunk."""

  dataset: Dataset
  labels: np.ndarray
  """int32 [R], as in DeviceData."""
  weights: np.ndarray
  """float32 [R], as in DeviceData."""


Data = DeviceData | HostData


def put_dataset(dataset: Dataset, label_version: str, mesh: Mesh) -> Data:
  """Puts the dataset on every device of the mesh, if it is in memory.

  Every record has weight 1 until `with_weights` sets those of a fold.

  Raises:
    InputError: It has more samples than 32-bit offsets can address.
  """
  labels = dataset.classes[label_version].astype(np.int32)
  weights = np.ones(len(labels), np.float32)
  if isinstance(dataset.signal, StoredSignal):
    return HostData(dataset, labels, weights)
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
      labels=labels,
      weights=weights,
    ),
    mesh,
  )


def with_weights(data: Data, weights: np.ndarray, mesh: Mesh) -> Data:
  """The same data with other weights of the records, float32 [R]."""
  if isinstance(data, HostData):
    return data._replace(weights=weights)
  return data._replace(weights=sharding.replicate(weights, mesh))


def put_chunk(chunk: Chunk, mesh: Mesh) -> Chunk:
  """Puts a chunk's arrays and its number of steps on the mesh."""
  # As an array: another number is not to be another program.
  num_steps: Any = np.int32(chunk.num_steps)
  return sharding.split_rows(
    dataclasses.replace(chunk, num_steps=num_steps), mesh
  )


def feed(
  data: Data, chunks: Sequence[Chunk], mesh: Mesh
) -> Iterator[tuple[DeviceData, Chunk]]:
  """What the programs of chunks read, each put on the mesh when asked for.

  Args:
    data: The dataset.
    chunks: In the order of the programs.
    mesh: The devices.

  Yields:
    The dataset, or as much of it as the chunk needs; and the chunk.
  """
  if isinstance(data, DeviceData):
    for chunk in chunks:
      yield data, put_chunk(chunk, mesh)
    return
  options = grain.ReadOptions(
    num_threads=_READERS, prefetch_buffer_size=_CHUNKS_AHEAD
  )
  parts = grain.MapDataset.source(_Parts(data, chunks))
  for part, chunk in parts.to_iter_dataset(options):
    yield sharding.replicate(part, mesh), put_chunk(chunk, mesh)


@dataclasses.dataclass(frozen=True)
class _Parts:
  """The windows of each chunk alone, as a dataset of their own."""

  data: HostData
  chunks: Sequence[Chunk]

  def __len__(self) -> int:
    return len(self.chunks)

  def __getitem__(self, index: int) -> tuple[DeviceData, Chunk]:
    dataset, chunk = self.data.dataset, self.chunks[index]
    window = chunk.bucket.window
    signal = np.zeros((*chunk.records.shape, window), np.int16)
    for place in zip(*np.nonzero(chunk.mask), strict=True):
      start = dataset.offsets[chunk.records[place]] + chunk.starts[place]
      length = chunk.signal_lengths[place]
      signal[place][:length] = dataset.signal[start : start + length]
    numbers = np.arange(chunk.records.size, dtype=np.int32)
    part = DeviceData(
      signal=signal.reshape(-1),
      offsets=numbers * window,
      labels=self.data.labels[chunk.records].reshape(-1),
      weights=self.data.weights[chunk.records].reshape(-1),
    )
    rows = dataclasses.replace(
      chunk,
      records=numbers.reshape(chunk.records.shape),
      starts=np.zeros_like(chunk.starts),
    )
    return part, rows


def take_batch(data: DeviceData, chunk: Chunk, step: jax.Array) -> Batch:
  """Cuts the recordings of one step out of the dataset; runs in the step.

  Args:
    data: The dataset.
    chunk: Its [step] rows name the records.
    step: Int scalar.

  Returns:
    The batch, signal int16 [B, window of the chunk's bucket].
  """
  records = chunk.records[step]
  starts = data.offsets[records] + chunk.starts[step]

  def cut(start):
    return jax.lax.dynamic_slice(data.signal, (start,), (chunk.bucket.window,))

  return Batch(
    signal=jax.vmap(cut)(starts),
    signal_lengths=chunk.signal_lengths[step],
    lengths=chunk.lengths[step],
    mask=chunk.mask[step],
    labels=data.labels[records],
    weights=data.weights[records],
  )

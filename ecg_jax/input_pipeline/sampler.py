"""Which records are in which batch: a pure function of seed and position.

NumPy only. Draws go into length buckets by their length AFTER resampling, each
bucket into batches, batches of one bucket into chunks of steps that run as one
program. R: records, K: steps of a chunk, B: batch size.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from ecg_jax.input_pipeline.buckets import (
  Bucket,
  bucket_bounds,
  window_samples,
)
from ecg_jax.input_pipeline.heart_rate import Resampling


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Up to K batches of one bucket; rows without a record are masked.

  A pytree (`device_data` registers it) whose bucket is static under `jax.jit`.
  """

  bucket: Bucket
  num_steps: int
  """Steps that have records; the rows of later ones are all masked."""
  records: np.ndarray
  """int32 [K, B], positions in the dataset; 0 in masked rows."""
  starts: np.ndarray
  """int32 [K, B], first sample of the recording that is used."""
  signal_lengths: np.ndarray
  """int32 [K, B], samples of the recording from there on that are used."""
  lengths: np.ndarray
  """int32 [K, B], samples after resampling; 0 in masked rows."""
  mask: np.ndarray
  """bool [K, B], rows that hold a record."""


def class_repeats(classes: np.ndarray, num_classes: int) -> np.ndarray:
  """How often class-compensated sampling takes each record, int [n].

  A record of class c is taken int(100 * 0.2 / percentage of c) + 1 times.

  Args:
    classes: int [n], the class of each record of the fold's train set.
    num_classes: C.
  """
  counts = np.bincount(classes, minlength=num_classes)
  # In whole numbers, so that a quotient on the border is not rounded down.
  repeats = len(classes) // (5 * np.maximum(counts, 1)) + 1
  return np.where(counts > 0, repeats, 0)[classes]


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Draws the batches of a fold's sets."""

  lengths: np.ndarray
  """int [R], samples of every recording of the dataset. All of them make the
  buckets, so that every fold runs the same programs."""
  sets: Mapping[str, np.ndarray]
  """'train', 'validation', 'test' -> int32 positions in the dataset."""
  key: tuple[int, ...]
  """Whole numbers that name the fold: seed, fold."""
  repeats: np.ndarray | None
  """int [train records], how often each is taken before an epoch is cut to
  their number (class-compensated sampling of the authors' configuration), or
  None for once."""
  max_samples: int | None
  """Samples of a recording that training uses at most, or None for all."""
  resampling: Resampling | None
  shortest: int
  """Samples that resampling squeezes no recording below (one frame), unless it
  was shorter before."""
  training_buckets: int
  """Number of buckets at most."""
  evaluation_buckets: int
  batch_size: int
  evaluation_batch_size: int
  chunk_steps: int
  """K."""

  @functools.cached_property
  def buckets(self) -> tuple[Bucket, ...]:
    """The buckets of training."""
    used = np.minimum(self.lengths, self.max_samples or sys.maxsize)
    bounds = bucket_bounds(
      used, num_buckets=self.training_buckets, resampling=self.resampling
    )
    longest = int(used.max())
    return tuple(
      Bucket(samples, window_samples(samples, longest, self.resampling))
      for samples in bounds
    )

  def training_chunks(self, phase: int, epoch: int) -> list[Chunk]:
    """Draws one epoch of training, in the order of training.

    Every draw is used exactly once, of a long recording a random part. An
    epoch depends on its number alone, not on what came before it.

    Args:
      phase: The phase, from 0.
      epoch: The epoch of the phase, from 1.
    """
    seed = np.random.SeedSequence([*self.key, phase, epoch])
    rng = np.random.default_rng(seed)
    records = self.sets['train']
    draws = np.arange(len(records))
    if self.repeats is not None:
      draws = np.repeat(draws, self.repeats)
    draws = rng.permutation(draws)[: len(records)]
    drawn = records[draws]
    lengths = signal_lengths = self.lengths[drawn].astype(np.int64)
    starts = np.zeros_like(signal_lengths)
    if self.max_samples is not None:
      signal_lengths = np.minimum(lengths, self.max_samples)
      starts = rng.integers(0, lengths - signal_lengths, endpoint=True)
      lengths = signal_lengths
    if self.resampling is not None:
      bounds = self.resampling.slowest, self.resampling.fastest
      rates = rng.uniform(*bounds, len(draws))
      least = np.minimum(lengths, self.shortest)
      lengths = np.maximum(self.resampling.lengths(lengths, rates), least)
    rows = (drawn, starts, signal_lengths, lengths)
    chunks = _chunks(rows, self.buckets, self.batch_size, self.chunk_steps)
    return [chunks[index] for index in rng.permutation(len(chunks))]

  def evaluation_chunks(self, set_name: str) -> list[Chunk]:
    """Each record of a set once, whole, in its own length."""
    bounds = bucket_bounds(
      self.lengths, num_buckets=self.evaluation_buckets, resampling=None
    )
    records = self.sets[set_name]
    lengths = self.lengths[records]
    rows = (records, np.zeros_like(lengths), lengths, lengths)
    buckets = [Bucket(samples, samples) for samples in bounds]
    return _chunks(rows, buckets, self.evaluation_batch_size, self.chunk_steps)


def _chunks(
  rows: Sequence[np.ndarray],
  buckets: Sequence[Bucket],
  batch_size: int,
  chunk_steps: int,
) -> list[Chunk]:
  """Divides rows into the chunks of each bucket.

  Args:
    rows: Records, starts, signal lengths and lengths of a Chunk; int [n] each.
    buckets: In ascending order.
    batch_size: Rows of a step at most.
    chunk_steps: Steps of a chunk at most.
  """
  table = np.stack(rows)
  own = np.searchsorted([bucket.samples for bucket in buckets], table[-1])
  chunks = []
  for number, bucket in enumerate(buckets):
    (members,) = np.nonzero(own == number)
    if not len(members):
      continue
    batches = np.array_split(members, -(-len(members) // batch_size))
    for first in range(0, len(batches), chunk_steps):
      steps = batches[first : first + chunk_steps]
      shape = chunk_steps, batch_size
      mask = np.zeros(shape, bool)
      arrays = np.zeros((len(rows), *shape), np.int32)
      for step, batch in enumerate(steps):
        mask[step, : len(batch)] = True
        arrays[:, step, : len(batch)] = table[:, batch]
      records, starts, used, lengths = arrays
      chunk = Chunk(bucket, len(steps), records, starts, used, lengths, mask)
      chunks.append(chunk)
  return chunks

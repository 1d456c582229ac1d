"""A prepared dataset in memory, or on the disk."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ecg_jax.datasets import schema, training_range
from ecg_jax.errors import InputError

if TYPE_CHECKING:  # TFDS is not for what reads no dataset.
  from ecg_jax.datasets.ecg_builder import EcgBuilder

_READ_TOGETHER = 1024  # records

_MEASURED = 1000  # records, at most, that ranges are measured on


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
  """int16 [S], in the unit of `spec`, one recording behind the other."""
  offsets: np.ndarray
  """int64 [R], where each recording starts."""
  lengths: np.ndarray
  """int64 [R], samples of each recording."""
  classes: Mapping[str, np.ndarray]
  """By label version: int32 [R], class as an index into `spec.classes`."""
  spec: schema.DatasetSpec
  """What the records are."""
  patients: tuple[str, ...] = ()
  """Of each record, where `spec.by_patient`."""

  def labels(self, version: str) -> dict[str, str]:
    """Record -> class, in that version."""
    names = [self.spec.classes[index] for index in self.classes[version]]
    return dict(zip(self.records, names, strict=True))

  def patients_of_records(self) -> dict[str, str] | None:
    """Record -> patient; None unless `spec.by_patient`."""
    if not self.spec.by_patient:
      return None
    return dict(zip(self.records, self.patients, strict=True))

  def all_labels(self) -> dict[str, dict[str, str]]:
    """Label version -> record -> class."""
    return {version: self.labels(version) for version in self.classes}

  def measured_spec(self) -> schema.DatasetSpec:
    """`spec` with what it leaves to be measured on the records."""
    ranges = self.spec.ranges
    if ranges is None:
      step = -(-len(self.records) // _MEASURED)
      places = zip(self.offsets[::step], self.lengths[::step], strict=True)
      ranges = training_range.measure(
        (self.signal[start : start + length] for start, length in places),
        sampling_rate=self.spec.sampling_rate,
        counts_per_millivolt=self.spec.counts_per_millivolt,
      )
    return dataclasses.replace(
      self.spec, longest_samples=int(self.lengths.max()), ranges=ranges
    )

  def record_digests(self) -> dict[str, str]:
    """Record -> SHA-256 of its int16 samples (little-endian bytes)."""
    digests = {}
    ends = self.offsets + self.lengths
    for name, *part in zip(self.records, self.offsets, ends, strict=True):
      samples = self.signal[slice(*part)].astype('<i2').tobytes()
      digests[name] = hashlib.sha256(samples).hexdigest()
    return digests

  def find(self, records: Sequence[str]) -> np.ndarray:
    """Positions, int32, of records in the dataset."""
    position = {record: index for index, record in enumerate(self.records)}
    return np.array([position[record] for record in records], np.int32)


def load(builder: 'EcgBuilder', *, in_memory: bool) -> Dataset:
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
        found = source.__getitems__(places)
        for place, read in zip(places, found, strict=True):
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
      for version in builder.SPEC.label_versions
    },
    spec=builder.SPEC,
    patients=tuple(
      example['patient'].decode()
      for example in examples
      if builder.SPEC.by_patient
    ),
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
  for name in {labels[record] for record in records}:
    members = sorted(record for record in records if labels[record] == name)
    count = round(len(members) * max_records / len(records))
    count = min(len(members), max(1, count))
    chosen = np.linspace(0, len(members), count, endpoint=False).astype(int)
    kept += [members[index] for index in chosen]
  return sorted(kept)

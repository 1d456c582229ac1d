"""The TFDS builder that the datasets of recordings derive from."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ecg_jax.datasets import folds, schema


class EcgBuilder(tfds.core.GeneratorBasedBuilder):
  """Recordings, one split for the test set of each published fold.

  The splits fold0 to fold4 have their records in ascending order.

  Attributes:
    HOMEPAGE: where the dataset is described; None if nowhere.
  """

  HOMEPAGE: ClassVar[str | None] = None

  @abc.abstractmethod
  def make_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Sequence[schema.Record]:
    """Returns all records, verified, sorted by name."""

  def _info(self) -> tfds.core.DatasetInfo:
    """Describes the dataset."""
    return self.dataset_info_from_configs(
      features=ecg_features(),
      supervised_keys=('signal', 'label_v3'),
      homepage=self.HOMEPAGE,
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    """Makes all records before the first one is written."""
    records = self.make_records(dl_manager)
    labels = {record.name: record.labels['v2'] for record in records}
    table = folds.make_folds(labels, num_folds=schema.NUM_FOLDS)
    membership = _fold_membership(table)
    return {
      fold: self._generate_examples(
        [r for r in records if membership[r.name][fold] == 'test'], membership
      )
      for fold in _fold_names()
    }

  def _generate_examples(
    self, records: list[schema.Record], membership: dict[str, dict[str, str]]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the examples of one split, in record order."""
    for record in records:
      example = {
        'record': record.name,
        'signal': record.signal,
        **{f'label_{v}': label for v, label in record.labels.items()},
        'sampling_rate': schema.SAMPLING_RATE,
        'fold_membership': membership[record.name],
      }
      yield record.name, example


def ecg_features() -> tfds.features.FeaturesDict:
  """Describes one recording.

  Returns:
    record: name. signal: int16 (samples,), 1/1000 mV. label_v1, label_v2,
    label_v3: class by version of the labels. sampling_rate: int32, Hz.
    fold_membership: the set that the record is in, for fold0 to fold4.
  """
  label = tfds.features.ClassLabel(names=schema.CLASSES)
  membership = tfds.features.ClassLabel(names=schema.SETS)
  return tfds.features.FeaturesDict(
    {
      'record': tfds.features.Text(),
      # Raw bytes are read twice as fast as a list of numbers.
      'signal': tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
      ),
      **{f'label_{version}': label for version in schema.LABEL_VERSIONS},
      'sampling_rate': tfds.features.Scalar(np.int32),
      'fold_membership': tfds.features.FeaturesDict(
        dict.fromkeys(_fold_names(), membership)
      ),
    }
  )


def _fold_names() -> list[str]:
  return [f'fold{fold}' for fold in range(schema.NUM_FOLDS)]


def _fold_membership(table: Mapping[str, Any]) -> dict[str, dict[str, str]]:
  """Record -> {'fold0': its set, 'fold1': ...}, from a table of folds."""
  membership: dict[str, dict[str, str]] = {}
  for fold, sets in table['folds'].items():
    for name, records in sets.items():
      for record in records:
        membership.setdefault(record, {})[f'fold{fold}'] = name
  return membership

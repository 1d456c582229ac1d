"""TFDS builder of the synthetic ECG set, the embedded default."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ecg_jax.datasets import features, folds
from ecg_jax.datasets.synthetic_ecg import generator


class Builder(tfds.core.GeneratorBasedBuilder):
  """Generated records, one split for the test set of each fold.

  The splits fold0 to fold4 have their records in ascending order; the three
  label versions are equal.

  Attributes:
    NUM_RECORDS: how many records are generated.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar = {'1.0.0': 'First version.'}
  NUM_RECORDS = generator.BLOCK

  def _info(self) -> tfds.core.DatasetInfo:
    """Describes the features, those of the real set."""
    return self.dataset_info_from_configs(
      features=features.ecg_features(),
      supervised_keys=('signal', 'label_v3'),
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    """Generates all records; the download manager has nothing to do."""
    del dl_manager
    records = list(generator.generate(self.NUM_RECORDS))
    membership = features.fold_membership(
      folds.make_folds(
        {name: label for name, _, label in records},
        num_folds=features.NUM_FOLDS,
      )
    )
    return {
      fold: self._generate_examples(
        [r for r in records if membership[r[0]][fold] == 'test'], membership
      )
      for fold in (f'fold{number}' for number in range(features.NUM_FOLDS))
    }

  def _generate_examples(
    self,
    records: list[tuple[str, np.ndarray, str]],
    membership: dict[str, dict[str, str]],
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the examples of one split, in record order."""
    for name, signal, label in records:
      yield (
        name,
        {
          'record': name,
          'signal': signal,
          'label_v1': label,
          'label_v2': label,
          'label_v3': label,
          'sampling_rate': generator.SAMPLING_RATE,
          'fold_membership': membership[name],
        },
      )

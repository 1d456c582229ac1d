"""The features that every dataset of recordings has."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ecg_jax.datasets import schema

NUM_FOLDS = 5


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
      'label_v1': label,
      'label_v2': label,
      'label_v3': label,
      'sampling_rate': tfds.features.Scalar(np.int32),
      'fold_membership': tfds.features.FeaturesDict(
        {f'fold{fold}': membership for fold in range(NUM_FOLDS)}
      ),
    }
  )


def fold_membership(table: Mapping[str, Any]) -> dict[str, dict[str, str]]:
  """Turns a table of `folds.make_folds` into the feature of each record.

  Args:
    table: a table of folds without a holdout.

  Returns:
    Record -> {'fold0': 'train', 'validation' or 'test', 'fold1': ...}.
  """
  membership: dict[str, dict[str, str]] = {}
  for fold, sets in table['folds'].items():
    for name, records in sets.items():
      for record in records:
        membership.setdefault(record, {})[f'fold{fold}'] = name
  return membership

"""TFDS builder of the PhysioNet/CinC Challenge 2017 training set."""

import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from ecg_jax.datasets import features, folds
from ecg_jax.datasets.physionet2017 import source


class Builder(tfds.core.GeneratorBasedBuilder):
  """The records, one split for the test set of each published fold.

  The splits fold0 to fold4 have their records in ascending order.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar = {
    '1.0.0': 'Version 1.0.0 of the Challenge at PhysioNet.'
  }
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f'Put {source.ZIP_URL} (or what is in it) and {source.LABELS_URL} in the '
    'folder; without a folder they are downloaded.'
  )

  def _info(self) -> tfds.core.DatasetInfo:
    """Describes the features."""
    return self.dataset_info_from_configs(
      features=features.ecg_features(),
      supervised_keys=('signal', 'label_v3'),
      homepage='https://physionet.org/content/challenge-2017/1.0.0/',
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    """Verifies the whole source before the first record is written."""
    try:
      manual_dir = pathlib.Path(dl_manager.manual_dir)
    except AssertionError:  # So TFDS says that there is no such folder.
      files = source.download()
    else:
      files = source.read_folder(manual_dir)
    records = source.verify(files)
    membership = features.fold_membership(
      folds.make_folds(
        {record.name: record.labels['v2'] for record in records},
        num_folds=features.NUM_FOLDS,
      )
    )
    return {
      fold: self._generate_examples(
        [r for r in records if membership[r.name][fold] == 'test'], membership
      )
      for fold in (f'fold{number}' for number in range(features.NUM_FOLDS))
    }

  def _generate_examples(
    self,
    records: list[source.Record],
    membership: dict[str, dict[str, str]],
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the examples of one split, in record order."""
    for record in records:
      yield (
        record.name,
        {
          'record': record.name,
          'signal': record.signal,
          'label_v1': record.labels['v1'],
          'label_v2': record.labels['v2'],
          'label_v3': record.labels['v3'],
          'sampling_rate': source.SAMPLING_RATE,
          'fold_membership': membership[record.name],
        },
      )

"""TFDS builder of the PhysioNet/CinC Challenge 2017 training set."""

import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from ecg_jax.datasets import ecg_builder, schema
from ecg_jax.datasets.physionet2017 import source


class Builder(ecg_builder.EcgBuilder):
  """The official records of the Challenge."""

  SPEC = schema.CHALLENGE
  RELEASE_NOTES: ClassVar = {
    '1.0.0': 'Version 1.0.0 of the Challenge at PhysioNet.'
  }
  HOMEPAGE = 'https://physionet.org/content/challenge-2017/1.0.0/'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f'Put {source.ZIP_URL} (or what is in it) and {source.LABELS_URL} in the '
    'folder; without a folder they are downloaded.'
  )

  def make_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> list[schema.Record]:
    """Reads or downloads the official files, and verifies all of them."""
    try:
      manual_dir = pathlib.Path(dl_manager.manual_dir)
    except AssertionError:  # How TFDS reports that there is no such folder.
      return source.verify(source.download())
    return source.verify(source.read_folder(manual_dir))

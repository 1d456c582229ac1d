"""TFDS builder of windows of the MIT-BIH Arrhythmia Database."""

import contextlib
import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from ecg_jax.datasets import ecg_builder, schema
from ecg_jax.datasets.mitdb import source, windows
from ecg_jax.recordings import lead


class Builder(ecg_builder.EcgBuilder):
  """Windows of the first lead of all records, labeled by their annotations.

  Attributes:
    WINDOW_SECONDS: length of a window; the last of a record is moved back to
      its end.
  """

  SPEC = schema.DatasetSpec(
    classes=tuple(windows.GROUPS),
    class_names=tuple(windows.GROUPS.values()),
    episode_class='AFIB',
    by_patient=True,
    sampling_rate=300,
    description=(
      'windows of half a minute of the MIT-BIH Arrhythmia Database (Moody and'
      ' Mark 2001): 48 ambulatory recordings of 47 people from 1975 to 1979,'
      ' the first of two leads, 360 Hz, resampled to 300 Hz'
    ),
  )
  # By a run on the challenge's records.
  MEANING: ClassVar = {
    'AFIB': 'A',
    'NSR': 'N',
    'ECTOPY': 'O',
    'BBB': 'O',
    'OTHER': 'O',
  }
  RELEASE_NOTES: ClassVar = {'1.0.0': 'Version 1.0.0 of the database.'}
  HOMEPAGE = 'https://physionet.org/content/mitdb/1.0.0/'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f'Put {source.FILES.sources} in the folder; without a folder it is'
    ' downloaded.'
  )
  WINDOW_SECONDS = 30.0

  def make_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> list[schema.Record]:
    """Reads or downloads the official files, verifies and cuts them."""
    folder = None
    # How TFDS reports that there is no such folder.
    with contextlib.suppress(AssertionError):
      folder = pathlib.Path(dl_manager.manual_dir)
    encoding = lead.Encoding(
      self.SPEC.sampling_rate, self.SPEC.counts_per_millivolt
    )
    found = [
      schema.Record(
        window.name, window.counts, {'v1': window.group}, record.patient
      )
      for record in source.read_records(folder)
      for window in windows.cut(record, encoding, self.WINDOW_SECONDS)
    ]
    return sorted(found, key=lambda record: record.name)

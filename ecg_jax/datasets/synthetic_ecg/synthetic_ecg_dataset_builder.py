"""TFDS builder of the synthetic ECG set, the embedded default."""

import tensorflow_datasets as tfds

from ecg_jax.datasets import ecg_builder, schema
from ecg_jax.datasets.synthetic_ecg import generator


class Builder(ecg_builder.EcgBuilder):
  """Generated records, whose three label versions are equal.

  Attributes:
    NUM_RECORDS: how many records are generated.
  """

  SPEC = schema.SYNTHETIC
  NUM_RECORDS = generator.BLOCK

  def make_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> list[schema.Record]:
    """Generates all records; there is nothing to download."""
    del dl_manager
    versions = self.SPEC.label_versions
    return [
      schema.Record(name, signal, dict.fromkeys(versions, label))
      for name, signal, label in generator.generate(self.NUM_RECORDS)
    ]

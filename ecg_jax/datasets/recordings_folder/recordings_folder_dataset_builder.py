"""TFDS builder of a folder of recordings with a table of labels."""

import collections
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from ecg_jax.datasets import ecg_builder, folds, schema
from ecg_jax.datasets.recordings_folder import source
from ecg_jax.datasets.recordings_folder import table as table_lib
from ecg_jax.errors import InputError
from ecg_jax.fields.data import REFERENCE_RATE, DataFields


class Builder(ecg_builder.EcgBuilder):
  """Recordings of a user; `of` makes the builder of a folder of them.

  They are in one split, `records`, and read one after the other.

  Attributes:
    FOLDER: The folder.
    TABLE: Its table of labels.
    SKIP: Whether to do without what cannot be used.
  """

  RELEASE_NOTES: ClassVar = {'1.0.0': 'First version.'}
  FOLDER: ClassVar[pathlib.Path]
  TABLE: ClassVar[table_lib.Table]
  SKIP: ClassVar[bool]

  @classmethod
  def of(cls, data: DataFields) -> type[ecg_builder.EcgBuilder]:
    """The builder of the folder that a config names.

    Args:
      data: Fields of the config.

    Raises:
      InputError: There is no such folder, or its table cannot be used.
    """
    if not data.manual_dir:
      raise InputError(
        f'data.name is {data.name}, which needs a folder of recordings: name it'
        ' with --config.data.manual_dir.'
      )
    folder = pathlib.Path(data.manual_dir).expanduser()
    path = folder / table_lib.NAME
    table = table_lib.read(path)
    spec = schema.DatasetSpec(
      classes=table_lib.classes(table, data.classes, path),
      scored_classes=data.scored_classes,
      # Those of a config's `label_version`, whatever it is.
      label_versions=schema.CHALLENGE.label_versions,
      num_folds=data.num_folds or 5,
      by_patient=table.by_patient,
      sampling_rate=data.sampling_rate or REFERENCE_RATE,
      description="a folder of the user's own labeled recordings",
    )

    class Found(cls, skip_registration=True):  # type: ignore[call-arg, misc, valid-type]
      __doc__ = cls.__doc__
      name = cls.name
      pkg_dir_path = pathlib.Path(__file__).parent
      SPEC = spec
      FOLDER = folder
      TABLE = table
      SKIP = data.skip_unreadable

    return Found

  @classmethod
  def check_folds(cls) -> None:
    """Draws the folds of the table, which the records will have.

    Raises:
      InputError: A class has too few records or patients for them.
    """
    labels, patients = cls.TABLE.labels(), cls.TABLE.patients()
    grouped = patients if cls.SPEC.by_patient else None
    drawn = folds.published(labels, cls.SPEC, grouped)
    folds.check_classes(drawn['folds'], labels, patients)

  @classmethod
  def content(cls) -> Any:
    """Digest of the files, and the fields of a config that matter."""
    spec = cls.SPEC
    return [
      *(source.digest(cls.FOLDER), str(cls.VERSION)),
      *(spec.classes, spec.sampling_rate, cls.SKIP),
    ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=ecg_builder.ecg_features(self.SPEC, folded=False),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    return {'records': self._generate_records(dl_manager)}

  def _generate_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the examples, and tells at the end what they are."""
    found: dict[str, list[tuple[str, float]]] = {}
    for record in self.make_records(dl_manager):
      label = record.labels[self.SPEC.folds_label_version]
      seconds = len(record.signal) / self.SPEC.sampling_rate
      found.setdefault(label, []).append((record.patient, seconds))
      yield record.name, ecg_builder.to_example(record, self.SPEC)
    print(_summary(found), file=sys.stderr)

  def make_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Iterator[schema.Record]:
    """Reads the records, one at a time, by recording and start."""
    refused: list[str] = []
    matched = source.match(self.FOLDER, self.TABLE.lines, refused)
    self._tell(refused)  # Before hours of reading.
    unreadable: list[str] = []
    notes: collections.Counter[str] = collections.Counter()
    yield from source.read(matched, self.SPEC, unreadable, notes)
    self._tell(unreadable)
    if len(unreadable) == len(matched):
      raise InputError(
        f'{self.FOLDER} has no recording that can be used: correct them.'
      )
    for note, count in sorted(notes.items()):
      print(f'{source.in_columns(note)} ({count} records)', file=sys.stderr)
    assert self.info.metadata is not None
    self.info.metadata['left_out'] = refused + unreadable

  def _tell(self, refused: Sequence[str]) -> None:
    """Prints why lines or recordings cannot be used.

    Raises:
      InputError: There are some, which are not to be left out.
    """
    for reason in refused:
      print(reason, file=sys.stderr)
    if refused and not self.SKIP:
      raise InputError(
        f'{len(refused)} lines or recordings of {self.FOLDER} cannot be used:'
        ' correct them, or leave them out with'
        ' --config.data.skip_unreadable True.'
      )


def _summary(found: Mapping[str, Sequence[tuple[str, float]]]) -> str:
  """Counts what was prepared.

  Args:
    found: Class -> patient and seconds of each record.
  """
  rows = {name: found[name] for name in sorted(found)}
  rows['all'] = [pair for pairs in found.values() for pair in pairs]
  width = max(map(len, rows))
  lines = [f'{"":{width}}  records  patients     seconds']
  for name, pairs in rows.items():
    patients = len({patient for patient, _ in pairs})
    seconds = sum(seconds for _, seconds in pairs)
    lines.append(
      f'{name:{width}}  {len(pairs):7,}  {patients:8,}  {seconds:10,.0f}'
    )
  return '\n'.join(lines)

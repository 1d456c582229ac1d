"""The TFDS builder that the datasets of recordings derive from."""

import abc
import inspect
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ecg_jax.datasets import folds, schema
from ecg_jax.errors import ConfigError, InputError
from ecg_jax.fields.data import DataFields


class EcgBuilder(tfds.core.GeneratorBasedBuilder):
  """Recordings, one split for the test set of each fold.

  The splits fold0, fold1, ... have their records in ascending order.

  Attributes:
    SPEC: what the records are.
    MEANING: class -> what it is taken for by a run on another dataset that has
      those classes.
    VERSION: to be raised when the records change.
    HOMEPAGE: where the dataset is described; None if nowhere.
  """

  SPEC: ClassVar[schema.DatasetSpec]
  MEANING: ClassVar[Mapping[str, str]] = {}
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar = {'1.0.0': 'First version.'}
  HOMEPAGE: ClassVar[str | None] = None
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'Name the folder with the files.'

  def __init_subclass__(cls, **options: Any) -> None:
    """Does for a file that is in no package what TFDS does for a package."""
    if not cls.__module__.startswith('ecg_jax.'):
      # Files in other folders may have classes of the same name.
      options['skip_registration'] = True
    if '.' not in cls.__module__:
      path = pathlib.Path(inspect.getfile(cls))
      cls.pkg_dir_path = path.parent
      if cls.__name__ == 'Builder':
        cls.name = vars(cls).get('name', path.stem)
    super().__init_subclass__(**options)

  @classmethod
  def of(cls, data: DataFields) -> type['EcgBuilder']:
    """The builder of the data that a config describes: here, this class.

    Args:
      data: Fields of the config.

    Raises:
      InputError: A field is set that only other datasets have.
    """
    lists = ('classes', 'scored_classes')
    for name in (*lists, 'sampling_rate', 'num_folds', 'skip_unreadable'):
      if getattr(data, name):
        raise InputError(
          f'data.{name} is {getattr(data, name)}, which is for a'
          f' recordings_folder, not for {data.name}: leave it out.'
        )
    return cls

  @classmethod
  def check_folds(cls) -> None:
    """Refuses folds of its own that are known before reading to be none."""

  @classmethod
  def content(cls) -> Any:
    """What decides the records, as JSON has it; None for what has a VERSION."""
    return None

  @abc.abstractmethod
  def make_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Iterable[schema.Record]:
    """Returns all records, verified, sorted by name."""

  def _make_records(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Sequence[schema.Record]:
    try:
      records = list(self.make_records(dl_manager))
    except InputError:
      raise
    except AssertionError as error:  # How TFDS reports that there is no folder.
      if 'manual' not in str(error).lower():
        raise
      raise InputError(
        f'The dataset {self.name} needs the folder with its files: name it with'
        ' --config.data.manual_dir.'
      ) from error
    except Exception as error:  # It is a program: it can raise anything.
      if type(self).__module__.startswith('ecg_jax.'):
        raise
      raise ConfigError(
        f'make_records of the dataset {self.name} failed'
        f' ({type(error).__name__}: {error}): fix it.'
      ) from error
    check_records(records, self.SPEC)
    return records

  def _info(self) -> tfds.core.DatasetInfo:
    """Describes the dataset."""
    return self.dataset_info_from_configs(
      features=ecg_features(self.SPEC),
      supervised_keys=('signal', f'label_{self.SPEC.label_versions[-1]}'),
      homepage=self.HOMEPAGE,
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    """Makes all records before the first one is written."""
    records = self._make_records(dl_manager)
    version = self.SPEC.folds_label_version
    labels = {record.name: record.labels[version] for record in records}
    patients = {record.name: record.patient for record in records}
    table = folds.published(
      labels, self.SPEC, patients if self.SPEC.by_patient else None
    )
    membership = _fold_membership(table)
    return {
      fold: self._generate_examples(
        [r for r in records if membership[r.name][fold] == 'test'], membership
      )
      for fold in _fold_names(self.SPEC)
    }

  def _generate_examples(
    self, records: list[schema.Record], membership: dict[str, dict[str, str]]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the examples of one split, in record order."""
    for record in records:
      example = to_example(record, self.SPEC)
      yield (
        record.name,
        example | {'fold_membership': membership[record.name]},
      )


def to_example(
  record: schema.Record, spec: schema.DatasetSpec
) -> dict[str, Any]:
  """The features of a record, as `ecg_features` describes them, but folds."""
  return {
    'record': record.name,
    'signal': record.signal,
    **{f'label_{v}': label for v, label in record.labels.items()},
    **({'patient': record.patient} if spec.by_patient else {}),
    'sampling_rate': spec.sampling_rate,
  }


def check_records(
  records: Sequence[schema.Record], spec: schema.DatasetSpec
) -> None:
  """Raises InputError unless records are what the dataset's spec says."""
  for record in records:
    if not isinstance(record, schema.Record):
      raise InputError(
        f'make_records returns {type(record).__name__} {str(record)[:40]!r}:'
        ' return a list of schema.Record.'
      )
  names = [record.name for record in records]
  if names != sorted(set(names)):
    raise InputError(
      'make_records returns records whose names are not sorted or occur twice:'
      ' sort them by name, and give each one name.'
    )
  for name, signal, labels, patient in records:
    problem = ''
    if signal.dtype != np.int16 or signal.ndim != 1 or not len(signal):
      problem = (
        f'a signal of {signal.dtype} {list(signal.shape)}: make it int16'
      )
      problem += f' [samples], in counts of 1/{spec.counts_per_millivolt:g} mV'
    elif not isinstance(labels, dict):
      problem = f'the labels {labels!r}: give a dictionary, version -> class'
    elif {*labels} != {*spec.label_versions}:
      problem = f'labels of the versions {sorted(labels)}: label it in each of'
      problem += f' {list(spec.label_versions)}'
    elif not {*labels.values()} <= {*spec.classes}:
      problem = f'the labels {labels}: use the classes {list(spec.classes)}'
    elif spec.by_patient and not patient:
      problem = 'no patient: name one, as by_patient of the SPEC says'
    if problem:
      raise InputError(f'Record {name} has {problem}.')


def ecg_features(
  spec: schema.DatasetSpec, *, folded: bool = True
) -> tfds.features.FeaturesDict:
  """Describes one recording.

  Args:
    spec: Of the dataset.
    folded: Whether there is a split for each fold, and a fold_membership.

  Returns:
    record: name. signal: int16 (samples,), counts. label_VERSION: class by
    version of the labels. patient: where the spec says `by_patient`.
    sampling_rate: int32, Hz. fold_membership: the set that the record is in,
    for each fold.
  """
  label = tfds.features.ClassLabel(names=spec.classes)
  membership = tfds.features.ClassLabel(names=schema.SETS)
  folds = dict.fromkeys(_fold_names(spec), membership)
  return tfds.features.FeaturesDict(
    {
      'record': tfds.features.Text(),
      # Raw bytes are read twice as fast as a list of numbers.
      'signal': tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
      ),
      **{f'label_{version}': label for version in spec.label_versions},
      **({'patient': tfds.features.Text()} if spec.by_patient else {}),
      'sampling_rate': tfds.features.Scalar(np.int32),
      **(
        {'fold_membership': tfds.features.FeaturesDict(folds)} if folded else {}
      ),
    }
  )


def _fold_names(spec: schema.DatasetSpec) -> list[str]:
  return [f'fold{fold}' for fold in range(spec.num_folds)]


def _fold_membership(table: Mapping[str, Any]) -> dict[str, dict[str, str]]:
  """Record -> {'fold0': its set, 'fold1': ...}, from a table of folds."""
  membership: dict[str, dict[str, str]] = {}
  for fold, sets in table['folds'].items():
    for name, records in sets.items():
      for record in records:
        membership.setdefault(record, {})[f'fold{fold}'] = name
  return membership

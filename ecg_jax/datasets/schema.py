"""What a dataset says of itself: classes, label versions, rate and unit."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ecg_jax.datasets.training_range import Ranges
from ecg_jax.errors import InputError

UNDECIDED = 'undecided'
"""Reported instead of a class whose probability is too low."""

_SLOWEST, _FASTEST = 50, 100_000
"""Hz; recordings of users are read at no others either."""

SETS = ('train', 'validation', 'test')
"""Sets of each fold."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
  """A dataset's description of itself; everything else follows it.

  A builder declares it as `SPEC`. What is None there is measured when the
  dataset is loaded. A run keeps it in config.json.
  """

  classes: tuple[str, ...]
  """Names of the classes as the labels have them, at least two: the order of
  the logits and of the rows and columns of every confusion matrix."""
  scored_classes: tuple[str, ...] = ()
  """Classes whose F1 the score averages; all of them if empty."""
  class_names: tuple[str, ...] = ()
  """The classes in words, for people; `classes` themselves if empty."""
  episode_class: str | None = None
  """Class whose episodes in a long recording are listed, if there is one."""
  noise_class: str | None = None
  """Class of what is too noisy to classify, if there is one: its windows do
  not count in the summary of a long recording."""
  label_versions: tuple[str, ...] = ('v1',)
  """Versions of the labels; each record has a class in each."""
  folds_label_version: str = ''
  """Labels that the folds are stratified by; the first version if empty."""
  num_folds: int = 5
  """Folds that records are divided into without a table of folds."""
  by_patient: bool = False
  """Whether records name their patients, whose records such folds keep in one
  set."""
  sampling_rate: int
  """Samples per second of every record, Hz."""
  counts_per_millivolt: float = 1000.0
  """Unit of the int16 samples."""
  description: str = ''
  """Phrase about the records, for the card of an exported model."""
  longest_samples: int | None = None
  """Length of the longest record."""
  ranges: Ranges | None = None
  """What recordings of users are compared with."""

  def __post_init__(self) -> None:
    """Fills in what is empty; raises InputError where the parts disagree."""
    set_field = object.__setattr__
    for name in ('classes', 'scored_classes', 'class_names', 'label_versions'):
      value = getattr(self, name)
      texts = tuple(value) if isinstance(value, list) else value
      set_field(self, name, texts)
      if not isinstance(texts, tuple) or not all(map(_is_name, texts)):
        raise InputError(
          f'A dataset describes itself wrongly, {name} is {value!r}: write a'
          " tuple of texts of one line, like ('normal', 'other')."
        )
    for name in ('sampling_rate', 'num_folds', 'counts_per_millivolt'):
      value = getattr(self, name)
      kinds = (int, float) if name == 'counts_per_millivolt' else (int,)
      if type(value) not in kinds:
        raise InputError(
          f'A dataset describes itself wrongly, {name} is {value!r}: write a'
          f' {"whole " * (len(kinds) == 1)}number.'
        )
    set_field(self, 'scored_classes', self.scored_classes or self.classes)
    set_field(self, 'class_names', self.class_names or self.classes)
    version = self.folds_label_version or ''.join(self.label_versions[:1])
    set_field(self, 'folds_label_version', version)
    roles = {self.episode_class, self.noise_class} - {None}
    unknown = {*self.scored_classes, *roles} - {*self.classes}
    problem = ''
    if len({*self.classes}) != len(self.classes) or len(self.classes) < 2:
      problem = f'classes is {self.classes}: name at least two, each once'
    elif unknown:
      problem = f'{min(map(str, unknown))!r} is none of the {self.classes}'
    elif len(self.class_names) != len(self.classes):
      problem = f'class_names is {self.class_names}: name each class'
    elif version not in self.label_versions:
      problem = f'folds_label_version is {version!r}: use a label version'
    elif self.num_folds < 2:
      problem = f'num_folds is {self.num_folds}: use at least 2'
    elif UNDECIDED in self.classes:
      problem = f'{UNDECIDED!r} is what is reported of no class: rename it'
    elif not _SLOWEST <= self.sampling_rate <= _FASTEST:
      problem = f'sampling_rate is {self.sampling_rate}: it must be from'
      problem += f' {_SLOWEST} to {_FASTEST} Hz'
    elif not 0 < self.counts_per_millivolt < math.inf:
      problem = 'counts_per_millivolt must be positive'
    if problem:
      raise InputError(f'A dataset describes itself wrongly, {problem}.')

  @property
  def num_classes(self) -> int:
    """C, the number of classes."""
    return len(self.classes)

  def to_json(self) -> dict[str, Any]:
    """The fields as JSON has them."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'DatasetSpec':
    """Restores what `to_json` of this or another version converted."""
    known = {field.name for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in fields.items()
      if name in known
    }
    if values.get('ranges') is not None:
      names = [field.name for field in dataclasses.fields(Ranges)]
      ranges = {name: tuple(values['ranges'][name]) for name in names}
      values['ranges'] = Ranges(**ranges)
    return cls(**values)


def _is_name(value: Any) -> bool:
  is_text = isinstance(value, str) and value == value.strip()
  return is_text and bool(value) and value.isprintable()


CHALLENGE = DatasetSpec(
  classes=('N', 'A', 'O', '~'),
  scored_classes=('N', 'A', 'O'),
  class_names=(
    'normal rhythm',
    'atrial fibrillation',
    'other rhythm',
    'noise',
  ),
  episode_class='A',
  noise_class='~',
  label_versions=('v1', 'v2', 'v3'),
  folds_label_version='v2',
  sampling_rate=300,
  description=(
    'the public training set of the PhysioNet/CinC Challenge 2017 (Clifford et'
    ' al. 2017): 8,528 single-lead recordings of 9 to 61 s from one hand-held'
    ' device, 300 Hz, band-passed by it to 0.5 to 40 Hz'
  ),
  longest_samples=18_286,
  ranges=Ranges(
    seconds=(9.0, 61.0),
    millivolt=(0.37, 7.0),
    power_above_40_hz=(5e-5, 7e-3),
  ),
)
"""The PhysioNet/CinC Challenge 2017."""


SYNTHETIC = dataclasses.replace(
  CHALLENGE,
  description=(
    'synthetic recordings (`ecg_jax.datasets.synthetic_ecg`), which are no'
    ' basis for answers about real ones'
  ),
)
"""The embedded synthetic ECG set."""


_SEGMENT = re.compile(r'(.+)@[\d.]+-[\d.]*')


def recording_of(record: str) -> str:
  """Recording that a record is, or is a segment of: 'a' of 'a@30-60'."""
  segment = _SEGMENT.fullmatch(record)
  return segment[1] if segment else record


class Record(NamedTuple):
  """One recording and its labels."""

  name: str
  """For example A00001."""
  signal: np.ndarray
  """int16 [samples], in the unit and at the rate of the dataset's `SPEC`."""
  labels: dict[str, str]
  """Label version -> class."""
  patient: str = ''
  """Who was recorded, where `SPEC` says `by_patient`."""

"""Fields of the data: which records, how cut, changed, transformed and batched.

Numbers of samples are counted at `REFERENCE_RATE`.
"""

import dataclasses
from typing import ClassVar

from ecg_jax import registry
from ecg_jax.fields.group import Group, execution

REFERENCE_RATE = 300
"""Samples per second, Hz, at which a config counts samples. For a dataset of
another rate they become as many as last as long."""


def samples_at(samples: int, sampling_rate: int) -> int:
  """Samples at a rate, Hz, that last as long as these of a config; at least 1.

  Exact at `REFERENCE_RATE`.
  """
  return max(1, round(samples * sampling_rate / REFERENCE_RATE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFields(Group):
  """The records, and where they are."""

  GROUP: ClassVar = 'data'

  name: str = 'physionet2017'
  """Dataset: 'physionet2017', 'mitdb', 'synthetic_ecg', 'recordings_folder', or
  one of your own."""
  manual_dir: str | None = execution(None)
  """Folder with the source files, like training2017.zip (or its content) and
  REFERENCE-v3.csv, or of a recordings_folder. None: download them."""
  data_dir: str = execution('~/tensorflow_datasets')
  """Folder of the prepared datasets."""
  placement: str = execution('device')
  """Where the samples are: all of them in each 'device', or on the disk of the
  'host', which reads those of the next steps."""
  folds_file: str | None = execution(None)
  """Table of folds (JSON of ecg_jax.datasets.folds), compared by its digest.
  None: the dataset's own folds."""
  max_records: int | None = None
  """Approximate number of records that each set of a fold is thinned to. None:
  all."""

  classes: tuple[str, ...] = ()
  """Classes of a recordings_folder, in the order of all outputs. None named:
  those of its table, sorted."""
  scored_classes: tuple[str, ...] = ()
  """Classes of a recordings_folder that the score averages. None named: all."""
  sampling_rate: int | None = None
  """Hz that the recordings of a recordings_folder are resampled to. None:
  300."""
  num_folds: int | None = None
  """Folds of a recordings_folder without data.folds_file. None: 5."""
  skip_unreadable: bool = False
  """Whether a recordings_folder does without the lines and recordings that
  cannot be used, and says so."""

  def __post_init__(self) -> None:
    registry.check('data.name', self.name, registry.DATASETS)
    self.choice('placement', 'device', 'host')
    self.at_least(1, 'max_records')
    self.at_least(50, 'sampling_rate')
    self.at_least(2, 'num_folds')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrogramFields(Group):
  """The log-spectrogram (paper, section 2.1)."""

  GROUP: ClassVar = 'spectrogram'

  window_samples: int = 64
  """Length of the Tukey window of shape 0.25, in samples at 300 Hz."""
  hop_samples: int = 32
  """Distance between the starts of neighboring frames, samples at 300 Hz."""
  power_floor: float = 1e-3
  """Smallest power before the logarithm, (1/1000 mV)^2 / Hz."""
  kept_bins: int | None = None
  """Lowest frequency bins used, by default 4.7 Hz apart. None: all."""
  normalise: str = 'none'
  """Scaling: 'none', or each 'record' to the same standard deviation."""

  def __post_init__(self) -> None:
    window = self.window_samples
    self.at_least(2, 'window_samples')
    self.at_least(1, 'hop_samples', 'kept_bins')
    self.require(
      self.hop_samples <= window,
      'hop_samples',
      f'not exceed spectrogram.window_samples, {window}',
    )
    self.positive('power_floor')
    self.choice('normalise', 'none', 'record')


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationFields(Group):
  """Random changes of the signals in training (paper, section 2.2).

  Options of functions of your own are further fields of this group.
  """

  GROUP: ClassVar = 'augmentation'
  OPEN: ClassVar = True

  resampling: bool = True
  """Whether to resample each recording to a random heart rate."""
  slowest_heart_rate: float = 60.0
  """Lowest heart rate, beats per minute, where every recording has 80."""
  fastest_heart_rate: float = 120.0
  """Highest heart rate, beats per minute."""
  max_samples: int | None = None
  """Longest segment of a recording, from a random position, in samples at 300
  Hz. None: all of it."""
  bursts: bool = True
  """Whether to set random segments to zero, like a loose electrode."""
  burst_span_samples: int = 15
  """Samples at 300 Hz that are zeroed around each random instant."""
  burst_share: float = 0.2
  """Expected fraction of a recording's samples covered, 0 (off) to below 1."""
  functions: tuple[str, ...] = ()
  """Further changes, in order: functions of your own."""

  def __post_init__(self) -> None:
    self.positive('slowest_heart_rate', 'fastest_heart_rate')
    self.require(
      self.slowest_heart_rate <= self.fastest_heart_rate,
      'fastest_heart_rate',
      f'be at least augmentation.slowest_heart_rate, {self.slowest_heart_rate}',
    )
    self.at_least(1, 'max_samples', 'burst_span_samples')
    self.fraction('burst_share')
    for name in self.functions:
      registry.check(self.path('functions'), name, registry.AUGMENTATIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketFields(Group):
  """Lengths that batches are padded to; each is a program of its own."""

  GROUP: ClassVar = 'buckets'

  training: int = 5
  """Number of lengths in training, at most."""
  evaluation: int = 2
  """Number of lengths in evaluation, at most."""

  def __post_init__(self) -> None:
    self.at_least(1, 'training', 'evaluation')

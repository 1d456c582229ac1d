"""What all datasets share: classes, label versions, sets, sampling rate."""

from typing import NamedTuple

import numpy as np

CLASSES = ('N', 'A', 'O', '~')
"""Normal, atrial fibrillation, other rhythm, noise: the order of the rows and
columns of every confusion matrix."""

SCORED_CLASSES = CLASSES[:3]
"""The classes whose F1 the challenge score averages."""

LABEL_VERSIONS = ('v1', 'v2', 'v3')
"""Versions of the Challenge's labels."""

SETS = ('train', 'validation', 'test')
"""Sets of each fold."""

NUM_FOLDS = 5
"""Published folds."""

SAMPLING_RATE = 300
"""Samples per second of every record."""


class Record(NamedTuple):
  """One recording and its labels."""

  name: str
  """For example A00001."""
  signal: np.ndarray
  """int16 [samples], in 1/1000 mV at SAMPLING_RATE."""
  labels: dict[str, str]
  """Label version -> class."""

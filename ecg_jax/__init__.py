"""ecg_jax: rhythm classification of single-lead ECG recordings in JAX."""

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from ecg_jax.python_model import Model

__all__ = ['load']


def load(run_folder: 'str | pathlib.Path') -> 'Model':
  """Loads the finished folds of a run (`ecg_jax.python_model.load`)."""
  from ecg_jax import python_model  # JAX takes seconds.

  return python_model.load(run_folder)

"""ecg_jax: rhythm classification of single-lead ECG recordings in JAX."""

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from ecg_jax.prediction.predictor import Model

__all__ = ['load']


def load(run_folder: 'str | pathlib.Path | None' = None) -> 'Model':
  """Loads the finished folds of a run (`ecg_jax.prediction.predictor.load`).

  Args:
    run_folder: The folder of the run; None for the weights of the package.
  """
  from ecg_jax.prediction import predictor  # JAX takes seconds.

  return predictor.load(run_folder)

"""A fold never classifies a recording that it was trained on."""

import hashlib
from collections.abc import Iterable

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.prediction.ensemble import Ensemble


def allowed_folds(
  model: Ensemble, name: str, counts: np.ndarray, *, allow_leak: bool
) -> tuple[tuple[int, ...], str | None]:
  """The folds that may classify a recording, known by its samples.

  Args:
    model: The finished folds of a run.
    name: Name of the recording in messages.
    counts: int16 [samples], the whole recording at the model's rate.
    allow_leak: Whether folds that were trained on it classify it all the same.

  Returns:
    The folds, and a note if some of them were trained on it.

  Raises:
    InputError: All folds were trained on it.
  """
  digest = hashlib.sha256(counts.astype('<i2').tobytes()).hexdigest()
  trained = {
    fold: records[digest]
    for fold, records in zip(model.folds, model.trained_on, strict=True)
    if digest in records
  }
  if not trained:
    return model.folds, None
  record = next(iter(trained.values()))
  unseen = tuple(fold for fold in model.folds if fold not in trained)
  if allow_leak:
    return model.folds, (
      f'all folds answered, of which {_listed(trained)} learned from it as'
      f' {record} of the training set'
    )
  if not unseen:
    raise InputError(
      f'{name} is {record} of the training set, and each finished fold of'
      f' {model.run_folder} ({_listed(trained)}) learned from it, or from a'
      ' record with the same samples: train the fold that has it in its test'
      ' set, or give --allow_leak.'
    )
  return unseen, (
    f'{_listed(unseen)} alone answered, the others learned from it as {record}'
    ' of the training set'
  )


def _listed(folds: Iterable[int]) -> str:
  """Folds in words: 'fold 1', 'folds 0, 2'."""
  numbers = [str(fold) for fold in folds]
  return f'fold{"s" * (len(numbers) > 1)} {", ".join(numbers)}'

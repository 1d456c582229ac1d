"""Trained folds for use from Python: `ecg_jax.load`."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from ecg_jax import answering, answers, recordings, trained
from ecg_jax.errors import InputError
from ecg_jax.score import CLASSES


class Prediction(NamedTuple):
  """What a model says of a recording."""

  predicted: str
  """'N', 'A', 'O', '~', or 'undecided'."""
  probabilities: dict[str, float]
  """Of the classes; of a long recording the mean over its windows."""
  agreement: float
  """Share of the folds, or of a long recording's windows, that say so."""
  windows: list[answers.Stretch]
  """Start and end in seconds, and the answer: one, or of a long recording
  each of its windows."""
  summary: answers.Summary | None
  """Of a long recording: time by class, episodes of atrial fibrillation."""
  warnings: list[str]
  """What was assumed, and what is unlike the records of the training."""


@dataclasses.dataclass(frozen=True)
class Model:
  """The finished folds of a run."""

  folds: trained.TrainedFolds

  def predict(
    self,
    signal: np.ndarray,
    *,
    sampling_rate: float,
    units: str,
    lead: int | str | None = None,
    settings: answering.Settings = answering.Settings(),  # noqa: B008
  ) -> Prediction:
    """Classifies a recording of any length, as `ecg_jax.predict` does.

    Args:
      signal: Real numbers [samples], or [leads, samples], either way round;
        NaN or masked where one is missing.
      sampling_rate: Hz.
      units: 'V', 'mV', 'uV', 'nV', or 'counts' of 1/1000 mV.
      lead: Number of the lead, where there are several.
      settings: Windows of long recordings, filter, vote, abstention, leaks.

    Returns:
      What the folds say together.

    Raises:
      InputError: The signal cannot be used; says why.
    """
    [outcome] = answering.answer(
      self.folds,
      {
        'signal': lambda: recordings.from_array(
          signal, sampling_rate=sampling_rate, units=units, lead=lead
        )
      },
      settings,
    )
    if outcome.failure is not None:
      raise InputError(outcome.failure)
    answer = (outcome.summary or outcome.stretches[0]).answer
    return Prediction(
      answer.predicted,
      dict(zip(CLASSES, map(float, answer.probabilities), strict=True)),
      answer.agreement,
      outcome.stretches,
      outcome.summary,
      outcome.warnings(),
    )


def load(run_folder: str | pathlib.Path) -> Model:
  """Loads the finished folds of a run; its data are not needed.

  Args:
    run_folder: As `ecg_jax.main` left it.

  Raises:
    InputError: There is no such run, none of its folds is finished, or a file
      of it is damaged or missing.
  """
  return Model(trained.load(run_folder))

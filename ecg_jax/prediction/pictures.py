"""A picture of each answered recording, with what speaks for the answer."""

import dataclasses
import hashlib
import pathlib
import sys
import urllib.parse
from collections.abc import Sequence

import tqdm
from matplotlib.figure import Figure

from ecg_jax.prediction import attribution, ecg_plot, predictor
from ecg_jax.prediction.ensemble import TrainedFolds
from ecg_jax.recordings import training_range
from ecg_jax.runtime import figures, files

_LONGEST_NAME = 100
"""Characters; a file system takes 255 bytes, of a temporary name too."""


def draw(folds: TrainedFolds, outcome: predictor.Outcome) -> Figure:
  """Draws an answered recording.

  Of one in windows it is the window that is the most certain of the class that
  the recording has the highest probability of.

  Args:
    folds: The folds; those that answered are asked for what speaks for it.
    outcome: What was found, with at least one answer.
  """
  whole = outcome.summary or outcome.stretches[0]
  likeliest = int(whole.answer.probabilities.argmax())
  window, answer = outcome.examples[likeliest]
  name = outcome.name
  if outcome.windowed:
    name = f'{name}, {window.start:.0f} to {window.end:.0f} s'
  answered = dataclasses.replace(
    folds,
    folds=window.folds,
    variables=tuple(
      variables
      for fold, variables in zip(folds.folds, folds.variables, strict=True)
      if fold in window.folds
    ),
  )
  return ecg_plot.draw(
    window.counts / 1000,
    training_range.SAMPLING_RATE,
    name=name,
    lead=outcome.lead,
    answer=answer.predicted,
    probabilities=answer.probabilities,
    evidence=attribution.integrated_gradients(
      answered, window.counts, int(answer.probabilities.argmax())
    ),
    stretch_seconds=attribution.STRETCH_SAMPLES / training_range.SAMPLING_RATE,
  )


def write(
  folder: pathlib.Path,
  folds: TrainedFolds,
  outcomes: Sequence[predictor.Outcome],
) -> None:
  """Draws all that have an answer, into NAME.png and NAME.svg of a folder.

  A name that is too long for a file is cut.
  """
  folder.mkdir(parents=True, exist_ok=True)
  answered = [outcome for outcome in outcomes if outcome.stretches]
  for outcome in tqdm.tqdm(
    answered, unit=' pictures', disable=not sys.stderr.isatty()
  ):
    figure = draw(folds, outcome)
    name = file_name(outcome.name)
    for kind in ('png', 'svg'):
      content = figures.encode(figure, kind=kind, dpi=ecg_plot.PNG_DPI)
      files.write_atomically(folder / f'{name}.{kind}', content)


def file_name(name: str) -> str:
  """A name, which may be a path, as one of at most 100 characters for a file.

  Names that differ are different there.
  """
  quoted = urllib.parse.quote(name, safe=' ')
  if len(quoted) <= _LONGEST_NAME:
    return quoted
  digest = hashlib.sha256(name.encode()).hexdigest()[:16]
  return f'{quoted[: _LONGEST_NAME - 17]}-{digest}'

"""Pictures of classified recordings, with the attribution of the prediction."""

import dataclasses
import hashlib
import pathlib
import sys
import urllib.parse
from collections.abc import Sequence

import numpy as np
import tqdm
from matplotlib.figure import Figure

from ecg_jax.prediction import attribution, ecg_plot, heartbeats
from ecg_jax.prediction.aggregation import Prediction
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.prediction.predictor import RecordingResult, Window
from ecg_jax.runtime import figures, files

_LONGEST_NAME = 100
"""Characters; a file system takes 255 bytes, of a temporary name too."""


def draw(model: Ensemble, result: RecordingResult) -> Figure:
  """Draws a classified recording.

  Of a recording in windows it draws the window with the highest probability of
  the class of its episodes if it has some, else of its most likely class.

  Args:
    model: The ensemble; the attribution averages the folds that classified.
    result: Result with at least one prediction.
  """
  likeliest = int(result.answer.probabilities.argmax())
  if result.summary is not None and result.summary.episodes:
    likeliest = model.spec.classes.index(str(result.summary.episode_class))
  window, prediction = result.examples[likeliest]
  answer = prediction.answer
  name = result.name
  if result.windowed:
    name = f'{name}, {window.start:.0f} to {window.end:.0f} s'
  spec = model.spec
  return ecg_plot.draw(
    window.counts / spec.counts_per_millivolt,
    spec.sampling_rate,
    name=name,
    lead=result.lead,
    classes=dict(zip(spec.classes, spec.class_names, strict=True)),
    answer=answer.predicted,
    probabilities=answer.probabilities,
    attribution=attribute(model, window, answer),
    rhythm=ecg_plot.Rhythm(
      np.asarray(prediction.beats) - window.start,
      heartbeats.measure([prediction]).per_minute,
      window.departures,
    ),
  )


def attribute(
  model: Ensemble, window: Window, answer: Prediction
) -> ecg_plot.Attribution:
  """Attributes the most likely class, by the folds that may classify it."""
  by_fold = dict(zip(model.folds, model.variables, strict=True))
  variables = tuple(by_fold[fold] for fold in window.folds)
  used = dataclasses.replace(model, folds=window.folds, variables=variables)
  shares = attribution.integrated_gradients(
    used, window.counts, int(answer.probabilities.argmax())
  )
  rate = model.spec.sampling_rate
  seconds = attribution.segment_samples(rate) / rate
  return ecg_plot.Attribution(shares, seconds, without_trees=model.has_trees)


def write(
  folder: pathlib.Path, model: Ensemble, results: Sequence[RecordingResult]
) -> None:
  """Draws the results with a prediction to NAME.png and NAME.svg in a folder.

  A name that is too long for a file is cut.
  """
  folder.mkdir(parents=True, exist_ok=True)
  classified = [result for result in results if result.windows]
  for result in tqdm.tqdm(
    classified, unit=' pictures', disable=not sys.stderr.isatty()
  ):
    figure = draw(model, result)
    name = file_name(result.name)
    for kind in ('png', 'svg'):
      content = figures.encode(figure, kind=kind, dpi=ecg_plot.PNG_DPI)
      files.write_atomically(folder / f'{name}.{kind}', content)


def file_name(name: str) -> str:
  """Quotes a name, which may be a path, to at most 100 characters for a file.

  Different names have different results.
  """
  quoted = urllib.parse.quote(name, safe=' ')
  if len(quoted) <= _LONGEST_NAME:
    return quoted
  digest = hashlib.sha256(name.encode()).hexdigest()[:16]
  return f'{quoted[: _LONGEST_NAME - 17]}-{digest}'

"""Run folders with made-up predictions, for tests of what reads a run."""

import contextlib
import json

import numpy as np

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.evaluation import calibration, score, tables
from ecg_jax.runs import artifacts, predictions
from ecg_jax.runtime import files


def write_config(folder, folds, spec=None, **fields):
  """The config.json of a run; as older ones are, if it has no spec."""
  config = {'folds': list(folds), 'data': {}, 'label_version': 'v3', **fields}
  dataset = {} if spec is None else {'dataset': spec.to_json()}
  content = json.dumps({'config': config, **dataset}).encode()
  files.write_atomically(folder / 'config.json', content)


def write_fold(
  folder,
  fold,
  sets,
  *,
  spec=CHALLENGE,
  metrics=None,
  label_version='v3',
  max_records=None,
):
  """A finished fold: its scores and the predictions that give them.

  Args:
    folder: The run.
    fold: The fold.
    sets: 'test' and 'validation' -> records, classes, probabilities.
    spec: What the records are.
    metrics: Name -> metric.
    label_version: As in the config.
    max_records: As in the config.
  """
  scores = {}
  for name, (records, classes, probabilities) in sets.items():
    predictions.write(
      folder / f'fold{fold}' / predictions.FILES[name],
      records=records,
      labels=[spec.classes[number] for number in classes],
      probabilities=probabilities,
      fold=fold,
      classes=spec.classes,
    )
    predicted = np.argmax(probabilities, axis=1)
    confusion = score.confusion_matrix(classes, predicted, spec.num_classes)
    scores[name] = {**score.scores(confusion, spec), 'loss': 0.5}
    if metrics:
      scores[name]['metrics'] = score.measure(
        metrics, classes, probabilities, spec
      )
  artifacts.write_scores(
    folder / f'fold{fold}' / 'scores.json',
    {
      'fold': fold,
      'seed': 0,
      'label_version': label_version,
      'max_records': max_records,
      'best': {'phase': 1, 'epoch': 5},
      'sets': scores,
    },
  )


@contextlib.contextmanager
def calibrated(folder, temperature, folds=(1,), error=0.1):
  """A run is calibrated, for a moment."""
  measures = dict.fromkeys(tables.CALIBRATION, error)
  calibration.write(
    folder,
    {
      'temperature': temperature,
      'folds': list(folds),
      'validation_records': 24,
      'test': {'records': 24, 'before': measures, 'after': measures},
      'withheld': [],
    },
  )
  try:
    yield
  finally:
    (folder / calibration.FILE).unlink()

"""Reads what a run left: config, learning curve, scores, predictions.

    python -m examples.read_run [RUN_FOLDER]

It shows the readers of the artifacts. They check what they read, and need
neither JAX nor the data. The run is results/crnn_fast by default.
"""

import json
import pathlib
import sys

import numpy as np

from ecg_jax.evaluation import score, summary
from ecg_jax.runs import metrics_csv


def read(run_folder: pathlib.Path) -> None:
  """Prints a few facts from each kind of file."""
  run = json.loads((run_folder / 'config.json').read_text())
  config, versions = run['config'], run['versions']
  print(f'{config["model"]["name"]}, trained with jax {versions["jax"]}')

  for path in sorted(run_folder.glob('fold*/metrics.csv')):
    columns = metrics_csv.read(path)  # Name -> float64 [epochs].
    validation = columns['validation_score']
    best = int(np.nanargmax(validation))
    minutes = columns['seconds'].sum() / 60
    print(
      f'{path.parent.name}: best validation score {validation[best]:.1f} after'
      f' epoch {columns["epoch"][best]:.0f}, {minutes:.0f} minutes'
    )

  found = summary.summarize(run_folder)
  mean, deviation = found['mean']['score'], found['standard_deviation']
  print(f'score of the test sets: {mean:.1f} ± {deviation["score"]:.1f}')

  classes = summary.read_spec(run_folder).classes
  folds = summary.read_set(run_folder, 'test').values()
  labels = np.concatenate([fold.labels for fold in folds])
  predicted = np.concatenate([fold.predicted for fold in folds])
  print('actual class by row, predicted class by column:')
  print('  '.join(['', *classes]))
  print(score.confusion_matrix(labels, predicted, len(classes)))

  records = np.concatenate([fold.records for fold in folds])
  probabilities = np.concatenate([fold.probabilities for fold in folds])
  own = probabilities[np.arange(len(labels)), labels]
  print('records whose own class has the lowest probability:')
  for index in np.argsort(own)[:3]:
    print(
      f'  {records[index]}: {classes[labels[index]]} predicted as'
      f' {classes[predicted[index]]}'
    )


if __name__ == '__main__':
  read(pathlib.Path(*sys.argv[1:] or ['results/crnn_fast']))

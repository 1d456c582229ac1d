"""Fits the temperature of a run, and shows how reliable its confidence is.

    python tools/calibrate.py RUN_FOLDER

The temperature is fitted to the validation predictions of all finished folds
and evaluated on the test predictions. Writes calibration.json, which
`ecg_jax.predict` reads, and two pictures: calibration.png, the reliability
diagram before and after, and coverage.png, the score and coverage of selective
prediction. Needs NumPy, SciPy and Matplotlib only.
"""

import sys
from collections.abc import Sequence

import _path  # noqa: F401 - makes ecg_jax importable
import numpy as np
from matplotlib.figure import Figure

from ecg_jax import cli
from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.evaluation import calibration, summary, tables
from ecg_jax.runs import predictions
from ecg_jax.runtime import figures, files

SHOWN_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Confidence thresholds of the table, marked in coverage.png."""

FEW = 20
"""Bins with fewer records are drawn in a lighter color."""


def fit(
  validation: Sequence[predictions.Predictions], *, without: Sequence[str] = ()
) -> float:
  """Fits the temperature to all folds' validation sets.

  Args:
    validation: Predictions of each fold.
    without: Records to leave out.
  """
  left_out = set(without)
  used = np.array(
    [record not in left_out for fold in validation for record in fold.records]
  )
  return calibration.fit(
    np.concatenate([fold.probabilities for fold in validation])[used],
    np.concatenate([fold.labels for fold in validation])[used],
  )


def rescale_test(
  test: Sequence[predictions.Predictions],
  validation: Sequence[predictions.Predictions],
) -> np.ndarray:
  """Test probabilities after calibration, float64 [n, C], fold after fold.

  A test record of one fold is a validation record of another. So that no record
  takes part in its own evaluation, each fold's test set is calibrated without
  its own records; with one fold this is the temperature of the run.
  """
  return np.concatenate(
    [
      calibration.rescale(
        fold.probabilities, fit(validation, without=fold.records)
      )
      for fold in test
    ]
  )


def plot_reliability(
  before: np.ndarray, after: np.ndarray, labels: np.ndarray, title: str
) -> bytes:
  """Draws accuracy over confidence before and after, with the counts.

  Args:
    before: Probabilities, [n, C].
    after: Probabilities, [n, C].
    labels: Integer [n].
    title: Title of the picture.

  Returns:
    A PNG file.
  """
  figure = Figure(figsize=(9, 5.6), layout='constrained')
  figure.suptitle(title)
  panels = figure.subplots(
    2, 2, sharex=True, sharey='row', height_ratios=(3, 1)
  )
  width = 100 / calibration.BINS
  centers = (np.arange(calibration.BINS) + 0.5) * width
  for (upper, lower), when, probabilities in zip(
    panels.T, ('before', 'after'), (before, after), strict=True
  ):
    table = calibration.reliability(probabilities, labels)
    error = calibration.expected_calibration_error(probabilities, labels)
    upper.set_title(
      f'{when}: expected calibration error {100 * error:.1f} %', fontsize=11
    )
    few = table.records < FEW
    for name, members, color in (
      (f'{FEW} records or more', ~few, 'C0'),
      ('fewer', few, '#b5d0e6'),
    ):
      upper.bar(
        centers[members],
        100 * table.accuracy[members],
        0.92 * width,
        color=color,
        label=name,
      )
    upper.plot(
      [0, 100],
      [0, 100],
      '--',
      color='0.3',
      linewidth=1,
      label='confidence = accuracy',
    )
    lower.bar(centers, table.records, 0.92 * width, color='0.6')
    for panel in (upper, lower):
      panel.grid(alpha=0.25)
      panel.set_axisbelow(True)
      panel.spines[['top', 'right']].set_visible(False)
    lower.set_xlabel('confidence (%)')
  least = 10 * (10 // before.shape[1])  # No confidence is lower.
  panels[0, 0].set(ylabel='accuracy (%)', xlim=(least, 100), ylim=(0, 100))
  panels[1, 0].set_ylabel('records')
  panels[0, 0].legend(frameon=False, loc='upper left', fontsize=9)
  return figures.encode(figure, dpi=110)


def plot_coverage(
  probabilities: np.ndarray,
  labels: np.ndarray,
  spec: DatasetSpec,
  title: str,
) -> bytes:
  """Draws score and accuracy over the share of records that are answered.

  Args:
    probabilities: [n, C].
    labels: Integer [n].
    spec: What the records are.
    title: Title of the picture.

  Returns:
    A PNG file.
  """
  figure = Figure(figsize=(9, 4.8), layout='constrained')
  axes = figure.subplots()
  axes.set_title(title)
  thresholds = np.arange(191) / 200  # From 0 to 0.95, with those shown.
  found = [
    calibration.withhold(probabilities, labels, float(threshold), spec)
    for threshold in thresholds
  ]
  found = [one for one in found if one.coverage]
  for color, name, values in (
    ('C0', 'accuracy', [one.accuracy for one in found]),
    ('C1', 'score', [one.score for one in found]),
  ):
    axes.plot(
      [100 * one.coverage for one in found], values, color=color, label=name
    )
  for one in found:
    if one.threshold in SHOWN_THRESHOLDS:
      axes.plot(100 * one.coverage, one.accuracy, 'o', color='C0')
      axes.plot(100 * one.coverage, one.score, 'o', color='C1')
      axes.annotate(
        f'{one.threshold:g}',
        (100 * one.coverage, max(one.score, one.accuracy)),
        (0, 7),
        textcoords='offset points',
        ha='center',
        fontsize=9,
        color='0.3',
      )
  axes.plot([], [], 'o', color='0.4', label='least confidence, as written')
  axes.set_xlabel('records answered (%)')
  axes.set_ylabel('of the answered (%)')
  axes.invert_xaxis()
  axes.margins(y=0.12)
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False, loc='lower right')
  return figures.encode(figure, dpi=110)


@cli.command()
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = cli.ArgumentParser(
    prog='calibrate.py', description='Calibrates the predictions of a run.'
  )
  parser.add_argument(
    'run_folder', metavar='RUN_FOLDER', type=cli.path_argument
  )
  folder = parser.parse_args(arguments).run_folder
  spec = summary.read_spec(folder)
  by_fold = summary.read_set(folder, 'validation')
  validation = list(by_fold.values())
  test = list(summary.read_set(folder, 'test').values())
  temperature = fit(validation)
  labels = np.concatenate([fold.labels for fold in test])
  before = np.concatenate([fold.probabilities for fold in test])
  after = rescale_test(test, validation)
  measured = {
    'before': calibration.measures(before, labels),
    'after': calibration.measures(after, labels),
  }
  selected = [
    calibration.withhold(after, labels, threshold, spec)
    for threshold in SHOWN_THRESHOLDS
  ]
  selected = [one for one in selected if one.coverage]
  fitted_to = sum(len(fold.records) for fold in validation)
  name = folder.resolve().name
  # Everything is written before anything is printed: stdout may be closed.
  pictures = {
    'calibration.png': plot_reliability(
      before, after, labels, f'{name}, test set: temperature {temperature:.2f}'
    ),
    'coverage.png': plot_coverage(
      after, labels, spec, f'{name}, test set: when unsure answers are withheld'
    ),
  }
  for file, content in pictures.items():
    files.write_atomically(folder / file, content)
  found = {
    'temperature': temperature,
    'folds': list(by_fold),
    'validation_records': fitted_to,
    'test': {'records': len(labels), **measured},
    'withheld': [one._asdict() for one in selected],
  }
  calibration.write(folder, found)
  print(
    f'{name}: temperature {temperature:.3f}, fitted to {fitted_to:,}'
    f' validation answers of {len(validation)} folds\n'
  )
  if calibration.is_at_bound(temperature):
    print(
      'This is the bound of what is fitted: the validation sets are too small'
      ' or too easy to tell, so the probabilities are not to be trusted.\n'
    )
  print(tables.format_calibration(found))
  for file in (*pictures, calibration.FILE):
    print(folder / file)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

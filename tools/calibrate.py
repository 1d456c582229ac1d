"""Fits a run's temperature, and shows what its confidence is worth.

    python tools/calibrate.py RUN_FOLDER

The temperature is fitted to the validation predictions of all finished folds;
the test predictions show what it changes. Writes calibration.json, which
prediction reads, and two pictures: calibration.png, the reliability diagram
before and after, and coverage.png, what withholding unsure answers would cost
and gain. Needs NumPy, SciPy and Matplotlib only.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

# So that the package is found without an installation, from any folder.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ecg_jax import cli
from ecg_jax.evaluation import calibration, summary, tables
from ecg_jax.runs import predictions
from ecg_jax.runtime import figures, files

SHOWN_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Least confidences of the table, and those named in coverage.png."""

FEW = 20
"""Accuracies of fewer records than that are drawn in a lighter colour."""

MEASURES = {
  'expected_calibration_error': 'expected calibration error',
  'brier_score': 'Brier score',
  'loss': 'cross-entropy',
}


def fit(
  validation: Sequence[predictions.Predictions], *, without: Sequence[str] = ()
) -> float:
  """The temperature of all folds' validation sets.

  Args:
    validation: Predictions of each fold.
    without: Records to leave out.
  """
  left_out = set(without)
  kept = [
    [record not in left_out for record in fold.records] for fold in validation
  ]
  return calibration.fit(
    np.concatenate(
      [f.probabilities[k] for f, k in zip(validation, kept, strict=True)]
    ),
    np.concatenate(
      [f.labels[k] for f, k in zip(validation, kept, strict=True)]
    ),
  )


def rescale_test(
  test: Sequence[predictions.Predictions],
  validation: Sequence[predictions.Predictions],
) -> np.ndarray:
  """Test probabilities after calibration, float64 [n, 4], fold behind fold.

  What is a test record of one fold is a validation record of another. So that
  no record helps to judge itself, each fold's test set is calibrated without
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
    before: Probabilities, [n, 4].
    after: Probabilities, [n, 4].
    labels: Integer [n].
    title: Of the picture.

  Returns:
    A PNG file.
  """
  figure = Figure(figsize=(9, 5.6), layout='constrained')
  figure.suptitle(title)
  panels = figure.subplots(
    2, 2, sharex=True, sharey='row', height_ratios=(3, 1)
  )
  width = 100 / calibration.BINS
  centres = (np.arange(calibration.BINS) + 0.5) * width
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
        centres[members],
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
    lower.bar(centres, table.records, 0.92 * width, color='0.6')
    for panel in (upper, lower):
      panel.grid(alpha=0.25)
      panel.set_axisbelow(True)
      panel.spines[['top', 'right']].set_visible(False)
    lower.set_xlabel('confidence (%)')
  panels[0, 0].set(ylabel='accuracy (%)', xlim=(20, 100), ylim=(0, 100))
  panels[1, 0].set_ylabel('records')
  panels[0, 0].legend(frameon=False, loc='upper left', fontsize=9)
  return figures.encode(figure, dpi=110)


def plot_coverage(
  probabilities: np.ndarray, labels: np.ndarray, title: str
) -> bytes:
  """Draws score and accuracy over the share of records that is answered.

  Args:
    probabilities: [n, 4].
    labels: Integer [n].
    title: Of the picture.

  Returns:
    A PNG file.
  """
  figure = Figure(figsize=(9, 4.8), layout='constrained')
  axes = figure.subplots()
  axes.set_title(title)
  thresholds = np.arange(191) / 200  # From 0 to 0.95, with those shown.
  found = [
    calibration.withhold(probabilities, labels, float(threshold))
    for threshold in thresholds
  ]
  found = [one for one in found if one.coverage]
  for color, name, values in (
    ('C0', 'accuracy', [one.accuracy for one in found]),
    ('C1', 'challenge score', [one.score for one in found]),
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


def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  return cli.run_command(lambda: _run(arguments), debug='--debug' in arguments)


def _run(arguments: Sequence[str]) -> int:
  parser = cli.ArgumentParser(
    prog='calibrate.py', description='Calibrates the answers of a run.'
  )
  parser.add_argument('run_folder', metavar='RUN_FOLDER', type=pathlib.Path)
  parser.add_argument(
    '--debug', action='store_true', help='print the traceback of an error'
  )
  folder = parser.parse_args(arguments).run_folder
  by_fold = summary.read_set(folder, 'validation')
  validation = list(by_fold.values())
  test = list(summary.read_set(folder, 'test').values())
  temperature = fit(validation)
  labels = np.concatenate([fold.labels for fold in test])
  before = np.concatenate([fold.probabilities for fold in test])
  after = rescale_test(test, validation)
  measured = {
    name: calibration.measures(probabilities, labels)
    for name, probabilities in (('before', before), ('after', after))
  }
  kept = [
    calibration.withhold(after, labels, threshold)
    for threshold in SHOWN_THRESHOLDS
  ]
  kept = [one for one in kept if one.coverage]
  fitted_to = sum(len(fold.records) for fold in validation)
  name = folder.resolve().name
  # Written before anything is printed, which fails if nobody reads it.
  pictures = {
    'calibration.png': plot_reliability(
      before, after, labels, f'{name}, test set: temperature {temperature:.2f}'
    ),
    'coverage.png': plot_coverage(
      after, labels, f'{name}, test set: when unsure answers are withheld'
    ),
  }
  for file, content in pictures.items():
    files.write_atomically(folder / file, content)
  calibration.write(
    folder,
    {
      'temperature': temperature,
      'folds': list(by_fold),
      'validation_records': fitted_to,
      'test': {'records': len(labels), **measured},
      'withheld': [one._asdict() for one in kept],
    },
  )
  print(
    f'{name}: temperature {temperature:.3f}, fitted to {fitted_to:,}'
    f' validation answers of {len(validation)} folds\n'
  )
  print(
    '\n'.join(
      [
        *tables.markdown_table(
          [f'test set, {len(labels):,} records', 'before', 'after'],
          [
            [name, *(f'{measured[when][key]:.4f}' for when in measured)]
            for key, name in MEASURES.items()
          ],
        ),
        '',
        *tables.markdown_table(
          ['least confidence', 'answered (%)', 'score', 'accuracy (%)'],
          [
            [
              f'{one.threshold:g}',
              f'{100 * one.coverage:.1f}',
              f'{one.score:.1f}',
              f'{one.accuracy:.1f}',
            ]
            for one in kept
          ],
        ),
      ]
    )
  )
  for file in (*pictures, calibration.FILE):
    print(folder / file)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

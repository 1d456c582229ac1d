"""Draws the most confident mistakes of a run's finished folds.

    python tools/plot_mistakes.py RUN_FOLDER [--set test] [--count 20]
      [--out DIR]

Writes `worst.png`, the records whose own class got the lowest probability, and
for each class confused with another `ACTUAL_as_PREDICTED.png` with the first of
these. Labels, predictions and signals are the run's; nothing is recomputed.
"""

import pathlib
import sys
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

import _path  # noqa: F401 - makes ecg_jax importable
from matplotlib.figure import Figure

from ecg_jax import cli
from ecg_jax.errors import InputError
from ecg_jax.evaluation import summary, tables
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.prediction import ecg_plot
from ecg_jax.runs import finished_run
from ecg_jax.runtime import figures, files

SHOWN_SECONDS = 30
"""Seconds drawn from the start of a record."""


class Mistake(NamedTuple):
  """A record whose predicted class is not its label."""

  record: str
  fold: int
  label: str
  predicted: str
  probabilities: tuple[float, ...]
  """In the order of the dataset's classes."""
  own: float
  """Probability of the record's own class."""


def read_mistakes(run_folder: pathlib.Path, set_name: str) -> list[Mistake]:
  """The mistakes of all finished folds, the most confident first.

  Raises:
    InputError: The run has no finished fold or is damaged.
  """
  classes = summary.read_spec(run_folder).classes
  mistakes = [
    Mistake(
      record,
      fold,
      classes[label],
      classes[predicted],
      tuple(probabilities),
      own=probabilities[label],
    )
    for fold, predictions in summary.read_set(run_folder, set_name).items()
    for record, label, predicted, probabilities in zip(
      *predictions, strict=True
    )
    if label != predicted
  ]
  return sorted(mistakes, key=lambda mistake: (mistake.own, mistake.record))


def confusions(
  mistakes: Sequence[Mistake],
) -> dict[tuple[str, str], list[Mistake]]:
  """(label, predicted) -> mistakes of that kind, most frequent kind first."""
  kinds: dict[tuple[str, str], list[Mistake]] = {}
  for mistake in mistakes:
    kinds.setdefault((mistake.label, mistake.predicted), []).append(mistake)
  return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))


def plot_records(
  mistakes: Sequence[Mistake], dataset: Dataset, title: str
) -> bytes:
  """Draws a row per record: its first half minute, label and prediction.

  Args:
    mistakes: At least one.
    dataset: Holds their records.
    title: Title of the picture.

  Returns:
    A PNG file.
  """
  figure = Figure(figsize=(16, 0.7 + 1.15 * len(mistakes)))
  figure.suptitle(title, fontsize=12, y=1 - 0.15 / figure.get_figheight())
  panels = figure.subplots(len(mistakes), 1, sharex=True, squeeze=False)[:, 0]
  figure.subplots_adjust(
    left=0.04,
    right=0.995,
    top=1 - 0.55 / figure.get_figheight(),
    bottom=0.45 / figure.get_figheight(),
    hspace=0.35,
  )
  spec = dataset.spec
  rate = spec.sampling_rate
  positions = dataset.find([mistake.record for mistake in mistakes])
  for panel, mistake, index in zip(panels, mistakes, positions, strict=True):
    start, length = dataset.offsets[index], int(dataset.lengths[index])
    shown = min(length, SHOWN_SECONDS * rate)
    counts = dataset.signal[start : start + shown]
    trace = counts / spec.counts_per_millivolt
    ecg_plot.draw_trace(panel, trace, rate)
    # A few spikes must not flatten the rest.
    low, high = ecg_plot.robust_range(trace)
    room = 0.25 * max(high - low, 0.1)
    panel.set_ylim(low - room, high + room)
    chances = ', '.join(
      f'{name} {100 * probability:.0f} %'
      for name, probability in zip(
        spec.classes, mistake.probabilities, strict=True
      )
    )
    panel.set_title(
      f'{mistake.record}, {length / rate:.0f} s, fold {mistake.fold}:'
      f' labeled {mistake.label}, called {mistake.predicted} ({chances})',
      loc='left',
      fontsize=9,
      pad=2,
    )
    panel.tick_params(labelsize=7)
    panel.spines[['top', 'right']].set_visible(False)
  panels[-1].set_xlabel('seconds')
  panels[-1].set_xlim(0, SHOWN_SECONDS)
  figure.text(0.005, 0.5, 'mV', rotation='vertical', va='center')
  return figures.encode(figure, dpi=100)


@cli.command()
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = finished_run.run_parser(
    'plot_mistakes.py', 'Draws the records that a run got wrong.'
  )
  parser.add_argument(
    '--count', type=int, default=20, help='maximum records in a picture'
  )
  parser.add_argument(
    '--out',
    type=cli.path_argument,
    help='folder of the pictures; default: errors_SET in the run folder',
  )
  options = parser.parse_args(arguments)
  run_folder, set_name = options.run_folder, options.set_name
  if options.count < 1:
    raise InputError(f'--count is {options.count}: it must be at least 1.')
  mistakes = read_mistakes(run_folder, set_name)
  if not mistakes:
    print(f'Every record of the {set_name} set is right: nothing drawn.')
    return 0
  out = options.out or run_folder / f'errors_{set_name}'
  files.check_writable(out, '--out')
  config = finished_run.read_config(
    run_folder, manual_dir=options.manual_dir, data_dir=options.data_dir
  )
  data = finished_run.load_data(run_folder, config)
  pictures = {'worst.png': (mistakes, 'the most confident mistakes')}
  rows = []
  for (label, predicted), found in confusions(mistakes).items():
    kind = f'{label} called {predicted}'
    noise = data.dataset.spec.noise_class
    words = [label, predicted]
    if 'noise' not in data.dataset.spec.classes:
      words = ['noise' if x == noise else x for x in words]
    name = f'{urllib.parse.quote("_as_".join(words), safe=" ")}.png'
    pictures[name] = (
      found,
      f'{kind}, {len(found)} records, the most confident',
    )
    rows.append([kind, str(len(found)), found[0].record])
  header = ['mistake', 'records', 'most confident']
  print('\n'.join(tables.markdown_table(header, rows)))
  for name, (found, what) in pictures.items():
    title = f'{run_folder.resolve().name}, {set_name} set: {what}'
    picture = plot_records(found[: options.count], data.dataset, title)
    files.write_atomically(out / name, picture)
    print(out / name)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

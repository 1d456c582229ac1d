"""Prints the fold scores of training runs as a table, and plots them.

python -m ecg_jax.summarize RUN_FOLDER [RUN_FOLDER ...] [--plot]
  [--report FILE.html]

Reads nothing but the artifacts of a run; needs NumPy and Matplotlib only. Also
writes summary.json and summary.md into each run folder.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecg_jax import cli
from ecg_jax.errors import InputError
from ecg_jax.evaluation import summary as summary_lib
from ecg_jax.evaluation import tables
from ecg_jax.fields.group import flatten
from ecg_jax.runs import metrics_csv, predictions
from ecg_jax.runtime import figures, page
from ecg_jax.runtime import files as files_lib

_TEMPLATES = page.read_templates(pathlib.Path(__file__).with_suffix('.html'))


def plot_learning_curves(
  summary: dict[str, Any], metrics: dict[int, dict[str, np.ndarray]]
) -> bytes:
  """Draws losses, validation score and metrics over the epochs of all phases.

  A phase starts at the same x for all folds, even where one of them stopped
  early in the phase before. A dot marks the epoch whose weights were saved; a
  phase that did not improve on its initial weights has none.

  Args:
    summary: Result of `ecg_jax.evaluation.summary.summarize`.
    metrics: Result of `metrics_csv.read` by fold, with empty columns for a fold
      that has no such file.

  Returns:
    A PNG file.
  """
  labels = {
    'train_loss': 'train loss',
    'validation_loss': 'validation loss',
    'validation_score': 'validation score (%)',
  }
  for name in dict.fromkeys(name for one in metrics.values() for name in one):
    if name not in metrics_csv.COLUMNS:
      labels[name] = name.replace('_', ' ', 1)
  phase_of, epoch_of = (
    np.concatenate([one[name] for one in metrics.values()])
    for name in ('phase', 'epoch')
  )
  phases = np.arange(int(phase_of.max()) + 1)
  lengths = [epoch_of[phase_of == p].max(initial=0) for p in phases]
  starts = np.concatenate([[0], np.cumsum(lengths)])
  height = 2 + 2 * len(labels)
  figure = Figure(figsize=(9, height), layout='constrained')
  figure.suptitle(f'{summary["run"]}: learning curves')
  panels = figure.subplots(len(labels), 1, sharex=True)
  for panel, (column, label) in zip(panels, labels.items(), strict=True):
    for fold, values in metrics.items():
      best = summary['folds'].get(str(fold), {}).get('best')
      name = f'fold {fold}' if best else f'fold {fold} (unfinished)'
      name = name if len(values['epoch']) else f'fold {fold} (no epochs)'
      for phase in phases:
        y = values.get(column, np.full(len(values['epoch']), np.nan))
        part = (values['phase'] == phase) & np.isfinite(y)
        epochs, y = values['epoch'][part], y[part]
        x = starts[phase] + epochs
        # One point makes no line: show it as a marker.
        style = '-' if len(x) > 1 else '.'
        panel.plot(x, y, style, color=f'C{fold}', linewidth=1.2)
        if best and best['phase'] == phase and column != 'train_loss':
          saved = epochs == best['epoch']
          marker = {'markeredgecolor': 'black', 'zorder': 3}
          panel.plot(x[saved], y[saved], 'o', color=f'C{fold}', **marker)
      panel.plot([], [], color=f'C{fold}', label=name)
    for border in starts[1:-1]:
      panel.axvline(border + 0.5, color='0.6', linestyle='--', linewidth=0.8)
    panel.set_ylabel(label)
    panel.grid(alpha=0.25)
    panel.spines[['top', 'right']].set_visible(False)
  for phase in phases:
    panels[0].annotate(
      f'phase {phase}' if len(phases) < 8 else str(phase),
      ((starts[phase] + starts[phase + 1] + 1) / 2, 1.02),
      xycoords=('data', 'axes fraction'),
      ha='center',
      fontsize=9,
      color='0.3',
    )
  panels[-1].plot(
    [], [], 'o', color='white', markeredgecolor='black', label='weights kept'
  )
  panels[-1].set_xlabel('epoch, all phases in a row')
  panels[-1].set_xlim(0.5, starts[-1] + 0.5)
  panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
  figure.legend(
    *panels[-1].get_legend_handles_labels(),
    loc='outside lower center',
    ncols=6,
    frameon=False,
  )
  return figures.encode(figure)


def plot_score_over_time(
  summary: dict[str, Any], metrics: dict[int, dict[str, np.ndarray]]
) -> bytes:
  """Draws each fold's validation score over the minutes of its training steps.

  The minutes include the compilation of these steps, but no evaluation and no
  checkpoints.

  Args:
    summary: Result of `ecg_jax.evaluation.summary.summarize`.
    metrics: As for `plot_learning_curves`.

  Returns:
    A PNG file.
  """
  figure = Figure(figsize=(9, 4.5), layout='constrained')
  axes = figure.subplots()
  for fold, columns in metrics.items():
    minutes = np.cumsum(columns['seconds']) / 60
    known = np.isfinite(columns['validation_score'])
    axes.plot(
      minutes[known],
      columns['validation_score'][known],
      '.-',
      color=f'C{fold}',
      label=f'fold {fold}',
    )
  axes.set_title(f'{summary["run"]}: validation score over time')
  axes.set_xlabel('minutes of training steps')
  axes.set_ylabel('validation score (%)')
  axes.set_xlim(left=0)
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  return figures.encode(figure)


def plot_confusion(summary: dict[str, Any]) -> bytes:
  """Draws the pooled confusion matrix with counts and row percentages.

  Args:
    summary: Result of `ecg_jax.evaluation.summary.summarize` with a finished
      fold.

  Returns:
    A PNG file.
  """
  pooled = summary['pooled']
  counts = np.array(pooled['confusion'])
  shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  classes = list(pooled['classes'])
  more = 0.9 * max(0, len(classes) - 4)
  figure = Figure(figsize=(6 + more, 5.6 + more), layout='constrained')
  axes = figure.subplots()
  image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
  for (row, column), share in np.ndenumerate(shares):
    axes.text(
      column,
      row,
      f'{counts[row, column]:,}\n{share:.1f} %',
      ha='center',
      va='center',
      fontsize=12,
      color='white' if share > 50 else 'black',
    )
  axes.set_xticks(range(len(classes)), classes, fontsize=12)
  axes.set_yticks(range(len(classes)), classes, fontsize=12)
  axes.set_xlabel('predicted')
  axes.set_ylabel('actual')
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  axes.set_title(
    f'{summary["run"]}: pooled {summary["set"]} predictions, '
    f'{len(summary["folds"])} of {len(summary["folds_expected"])} folds\n'
    f'{pooled["records"]:,} records, labels {summary["label_version"]}, '
    f'score {pooled["score"]:.1f}',
    fontsize=11,
  )
  figure.colorbar(image, label='percent of the actual class', shrink=0.8)
  return figures.encode(figure)


def plot(run: pathlib.Path, summary: dict[str, Any]) -> dict[str, bytes]:
  """Draws the plots of a run.

  Args:
    run: Folder of the run.
    summary: Its result of `ecg_jax.evaluation.summary.summarize`.

  Returns:
    PNG files by name: learning curves and score over time if an epoch is
    finished, the confusion matrix if a fold is.

  Raises:
    InputError: A metrics.csv is damaged.
  """
  metrics = {}
  for fold in summary['folds_expected']:
    path = run / f'fold{fold}' / 'metrics.csv'
    metrics[fold] = (
      metrics_csv.read(path)
      if path.exists()
      else dict.fromkeys(metrics_csv.COLUMNS, np.empty(0))
    )
  plots = {}
  if any(len(columns['epoch']) for columns in metrics.values()):
    plots['learning_curves.png'] = plot_learning_curves(summary, metrics)
    plots['score_over_time.png'] = plot_score_over_time(summary, metrics)
  if summary['pooled']:
    prefix = '' if summary['set'] == 'test' else f'{summary["set"]}_'
    plots[f'{prefix}confusion.png'] = plot_confusion(summary)
  return plots


def encode_report(summaries: Mapping[pathlib.Path, dict[str, Any]]) -> bytes:
  """Makes a page of the table, the plots and the configs of runs.

  Args:
    summaries: Folder of each run -> its result of
      `ecg_jax.evaluation.summary.summarize`.

  Returns:
    An HTML file.

  Raises:
    InputError: A metrics.csv or config.json is damaged.
  """
  title, header, rows, notes = tables.make_table(list(summaries.values()))
  body = page.fill(
    _TEMPLATES['page'],
    title=title,
    table=page.table(header, rows),
    notes=page.join(page.fill(_TEMPLATES['note'], text=x) for x in notes),
    runs=page.join(_describe_run(*item) for item in summaries.items()),
  )
  names = ', '.join(summary['run'] for summary in summaries.values())
  return page.encode(f'Scores of {names}', body)


def _describe_run(run: pathlib.Path, summary: dict[str, Any]) -> page.Html:
  """The plots of a run, its config, and the commands that repeat it."""
  from ecg_jax import stored_config  # The other outputs need no such library.

  content = json.loads(files_lib.read_text(run / 'config.json'))
  config = flatten(content['config'])
  model = config.pop('model.name', 'crnn')
  defaults = stored_config.defaults(model)
  left_out = stored_config.EXECUTION_FIELDS - {'folds'}
  fields = ''.join(
    f'  config.{name} = {value!r}\n'
    for name, value in config.items()
    if name not in left_out and value != flatten(defaults).get(name)
  )
  versions = content.get('versions', {}).items()
  return page.fill(
    _TEMPLATES['run'],
    run=summary['run'],
    pictures=page.join(
      page.picture(png, name.removesuffix('.png').replace('_', ' '))
      for name, png in plot(run, summary).items()
    ),
    model=repr(model),
    fields=fields,
    checkout=_checkout(content.get('commit')),
    workdir=shlex.quote(f'runs/{summary["run"]}'),
    versions=', '.join(f'{name} {version}' for name, version in versions),
  )


def _checkout(commit: str | None) -> str:
  """The command that gets the code of a run."""
  if commit is None:
    return '# The commit is unknown.'
  changed = '  # and changes of your own' * commit.endswith('-dirty')
  return f'git checkout {commit.removesuffix("-dirty")}{changed}'


def _summarize(
  folders: list[pathlib.Path],
  *,
  set_name: str,
  plot_folder: pathlib.Path | bool | None,
  report: pathlib.Path | None,
) -> None:
  """Prints one table for the runs in all folders and writes the summaries.

  Everything is read and checked before anything is written.

  Args:
    folders: Folders of runs or of lists of runs.
    set_name: The set to summarize, test or validation.
    plot_folder: Folder for the plots; True for each run's own, None for no
      plots.
    report: HTML file of the page, if one is wanted.

  Raises:
    InputError: A folder is not a run folder, damaged or not writable.
  """
  if report is not None:
    if report.suffix != '.html' or report.is_dir():
      raise InputError(f'--report {report} is no .html file: name one.')
    files_lib.check_writable(report.parent, '--report')
  into = plot_folder if isinstance(plot_folder, pathlib.Path) else None
  if (
    into is not None and (into / 'config.json').exists() and into not in folders
  ):
    raise InputError(
      f'--plot {into} takes a run folder as the folder for the plots;'
      ' put --plot after the run folders.'
    )
  by_folder = summary_lib.summarize_folders(folders, set_name)
  summaries = {run: s for runs in by_folder.values() for run, s in runs.items()}
  files = {}
  if plot_folder is not None:
    for run, summary in summaries.items():
      for name, content in plot(run, summary).items():
        if into is not None and len(summaries) > 1:
          name = f'{summary["run"].strip("/").replace("/", "_")}_{name}'
        files[(into or run) / name] = content
  if report is not None:
    files[report] = encode_report(summaries)
  print(tables.format_table(list(summaries.values())))
  tables.write_summaries(by_folder)
  for path, content in files.items():
    files_lib.write_atomically(path, content)
    print(path)


@cli.command()
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = cli.ArgumentParser(
    prog='ecg_jax.summarize',
    description='Fold scores of training runs as a table.',
  )
  parser.add_argument(
    'run_folders',
    metavar='RUN_FOLDER',
    nargs='+',
    type=cli.path_argument,
    help='folder of a run, or of a list of runs (NAME/seedS in it)',
  )
  parser.add_argument(
    '--set', choices=list(predictions.FILES), default='test', dest='set_name'
  )
  parser.add_argument(
    '--plot',
    metavar='DIR',
    nargs='?',
    const=True,
    type=cli.path_argument,
    help='draw learning curves, score over time and confusion matrix into DIR, '
    'by default into the run folder; comes after the run folders',
  )
  parser.add_argument(
    '--report',
    metavar='FILE',
    type=cli.path_argument,
    help='.html file of a page with the table, the plots and the configs',
  )
  options = parser.parse_args(arguments)
  _summarize(
    options.run_folders,
    set_name=options.set_name,
    plot_folder=options.plot,
    report=options.report,
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())

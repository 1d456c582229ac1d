"""Formats tables of scores, and writes summaries."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.evaluation import summary as summary_lib
from ecg_jax.runtime import files


def write_summaries(
  summaries: Mapping[pathlib.Path, Mapping[pathlib.Path, dict[str, Any]]],
) -> None:
  """Writes the summaries of `summarize_folders` into each run and list of runs.

  Raises:
    InputError: A folder is not writable.
  """
  for folder, runs in summaries.items():
    for run, summary in runs.items():
      write_summary(run, [summary])
    if folder not in runs:
      write_summary(folder, list(runs.values()))


def _columns(summaries: Sequence[dict[str, Any]]) -> dict[str, str]:
  """Measure -> title of its column, of all runs; the metrics are the last."""
  classes = [name for one in summaries for name in one['spec'].classes]
  columns = {'score': 'score'}
  columns |= {f'f1_{name}': f'F1 {name}' for name in classes}
  columns |= {'accuracy': 'accuracy'}
  measured = [name for one in summaries for name in one['mean'] or ()]
  return columns | {name: name for name in measured if name not in columns}


def _number(value: float | None, measure: str) -> str:
  """Percent have a decimal, metrics three."""
  if value is None:
    return '–'
  is_percent = measure in ('score', 'accuracy') or measure.startswith('f1_')
  if is_percent:
    return f'{value:.1f}'
  return f'{value:.3f}' if abs(value) < 1e6 else f'{value:.3e}'


def _is_undefined(
  set_scores: dict[str, Any], measure: str, spec: DatasetSpec
) -> bool:
  """Whether a 0/0 went into a measure."""
  names = [measure.removeprefix('f1_')]
  if measure == 'score':
    names = list(spec.scored_classes)
  classes = set_scores['classes']
  return any(classes[name]['undefined'] for name in names if name in classes)


def _set_cells(
  set_scores: dict[str, Any] | None, spec: DatasetSpec, measures: Iterable[str]
) -> list[str]:
  """Number of records and the measures of one set; a dagger marks 0/0."""
  if set_scores is None:
    return ['–', *('–' for _ in measures)]
  cells = [str(set_scores['records'])]
  values = summary_lib.measures(set_scores)
  for measure in measures:
    undefined = _is_undefined(set_scores, measure, spec)
    cells.append(f'{_number(values.get(measure), measure)}{"†" * undefined}')
  return cells


def _mean_cells(summary: dict[str, Any], measures: Iterable[str]) -> list[str]:
  """An empty cell for the records, and the measures as mean ± deviation."""
  mean, spec = summary['mean'], summary['spec']
  if mean is None:
    return _set_cells(None, spec, measures)
  deviation = summary['standard_deviation'] or {}
  cells = ['']
  for measure in measures:
    value = _number(mean.get(measure), measure)
    spread = _number(deviation.get(measure), measure)
    folds = summary['folds'].values()
    undefined = any(_is_undefined(found, measure, spec) for found in folds)
    known = mean.get(measure) is not None
    cells.append(f'{value} ± {spread}{"†" * undefined}' if known else value)
  return cells


def _notes(summaries: Sequence[dict[str, Any]]) -> list[str]:
  """Notes on what limits the comparison of the figures."""
  runs: dict[str, list[str]] = {}  # Text of a note -> runs that share it.
  for summary in summaries:
    texts = []
    if summary['pooled_interval']:
      low, high = summary['pooled_interval']
      texts.append(
        '95 % interval of the pooled score, its records drawn with '
        f'replacement: {low:.1f} to {high:.1f}.'
      )
    texts += [
      f'fold {fold} is not included ({reason}).'
      for fold, reason in summary['missing'].items()
    ]
    if summary['max_records'] is not None:
      texts.append(
        f'data.max_records = {summary["max_records"]}: its sets are thinned, '
        'not the full ones.'
      )
    if summary['max_epochs'] is not None:
      texts.append(
        f'max_epochs = {summary["max_epochs"]}: its phases were cut short.'
      )
    if summary['repeated_records']:
      texts.append(
        f'the folds share records; {summary["repeated_records"]} pooled '
        'predictions are of a record counted already.'
      )
    texts += [
      f'{name}: {reason}.'
      for name, reason in summary.get('lost_metrics', {}).items()
    ]
    for text in texts:
      runs.setdefault(text, []).append(summary['run'])
  notes = [
    f'{"Each run" if 1 < len(names) == len(summaries) else ", ".join(names)}: '
    f'{text}'
    for text, names in runs.items()
  ]
  for field, name in (('label_version', 'Label versions'), ('data', 'Data')):
    if len({summary[field] for summary in summaries}) > 1:
      listed = ', '.join(f'{s["run"]} {s[field]}' for s in summaries)
      notes.append(f'{name} differ, scores do not compare: {listed}.')
  if any(
    values['undefined']
    for summary in summaries
    for found in summary['folds'].values()
    for values in found['classes'].values()
  ):
    notes.append(
      '† F1 of a class neither present nor predicted is 0/0: undefined, '
      'counted as 0.'
    )
  return notes


CALIBRATION = {
  'expected_calibration_error': 'expected calibration error',
  'brier_score': 'Brier score',
  'loss': 'cross-entropy',
}
"""Measure of `calibration.measures` -> its name in tables."""


def format_calibration(content: Mapping[str, Any]) -> str:
  """Formats calibration.json as two Markdown tables.

  They are of the measures on the test sets, and of what is answered, and how
  well, where predictions below a confidence are withheld.
  """
  test = content['test']
  whens = ('before', 'after')
  lines = markdown_table(
    [f'test set, {test["records"]:,} records', *whens],
    [
      [name, *(f'{test[when][key]:.4f}' for when in whens)]
      for key, name in CALIBRATION.items()
    ],
  )
  lines += ['']
  lines += markdown_table(
    ['least confidence', 'answered (%)', 'score', 'accuracy (%)'],
    [
      [
        f'{one["threshold"]:g}',
        f'{100 * one["coverage"]:.1f}',
        f'{one["score"]:.1f}',
        f'{one["accuracy"]:.1f}',
      ]
      for one in content['withheld']
    ],
  )
  return '\n'.join(lines)


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
  """Formats a table: first column flush left, the others flush right."""
  first, *widths = [max(map(len, x)) for x in zip(header, *rows, strict=True)]
  rule = ['-' * first, *('-' * (width - 1) + ':' for width in widths)]
  lines = []
  for name, *cells in (header, rule, *rows):
    padded = [x.rjust(width) for x, width in zip(cells, widths, strict=True)]
    lines.append(f'| {" | ".join([name.ljust(first), *padded])} |')
  return lines


class Table(NamedTuple):
  """The scores of runs as text."""

  title: str
  header: list[str]
  rows: list[list[str]]
  notes: list[str]


def format_table(summaries: Sequence[dict[str, Any]]) -> str:
  """Formats a Markdown table that is readable in a terminal too.

  Args:
    summaries: As for `make_table`.

  Returns:
    Title, table and notes, without a final newline.
  """
  title, header, rows, notes = make_table(summaries)
  listed = [f'- {note}' for note in notes]
  lines = [title, '', *markdown_table(header, rows)]
  return '\n'.join([*lines, *(['', *listed] if listed else [])])


def make_table(summaries: Sequence[dict[str, Any]]) -> Table:
  """Makes the table of some runs.

  Args:
    summaries: Results of `summarize`, all of one set. One has a line per fold;
      several have two lines per run: mean ± standard deviation and pooled.

  Returns:
    Scores in percent with one decimal and metrics with three. Folds that are
    missing are named in the notes.
  """
  first, measures = summaries[0], _columns(summaries)
  columns = ['records', *measures.values()]
  if len(summaries) == 1:
    title = (
      f'{first["run"]}: {first["set"]} set, data {first["data"]}, '
      f'labels {first["label_version"]}, percent'
    )
    rows = [
      [
        str(fold),
        *_set_cells(first['folds'].get(str(fold)), first['spec'], measures),
      ]
      for fold in first['folds_expected']
    ]
    count = f'{len(first["folds"])} of {len(first["folds_expected"])} folds'
    rows.append([f'mean ± sd, {count}', *_mean_cells(first, measures)])
    pooled = _set_cells(first['pooled'], first['spec'], measures)
    rows.append([f'pooled, {count}', *pooled])
    header = ['fold', *columns]
  else:
    title = f'{len(summaries)} runs: {first["set"]} set, '
    # Where the runs differ in these, a note lists them.
    for field, name in (('data', 'data'), ('label_version', 'labels')):
      if len({summary[field] for summary in summaries}) == 1:
        title += f'{name} {first[field]}, '
    title += 'percent'
    rows = []
    for summary in summaries:
      count = f'{len(summary["folds"])} of {len(summary["folds_expected"])}'
      mean = _mean_cells(summary, measures)
      pooled = _set_cells(summary['pooled'], summary['spec'], measures)
      rows.append([summary['run'], count, 'mean ± sd', *mean])
      rows.append(['', '', 'pooled', *pooled])
    header = ['run', 'folds', 'over', *columns]
  return Table(title, header, rows, _notes(summaries))


def write_summary(
  folder: pathlib.Path, summaries: Sequence[dict[str, Any]]
) -> None:
  """Writes summary.json and summary.md into a folder, each in one step.

  Those of the validation set are validation_summary.json and .md, so that
  they never replace the test scores.

  Args:
    folder: The folder that was summarized.
    summaries: Results of `summarize`. One is written as it is, several (a
      list of runs) as {"runs": [...]}, without their `spec`, which is in
      config.json.

  Raises:
    InputError: The folder is not writable.
  """
  prefix = '' if summaries[0]['set'] == 'test' else f'{summaries[0]["set"]}_'
  kept = [
    {name: value for name, value in summary.items() if name != 'spec'}
    for summary in summaries
  ]
  content = kept[0] if len(kept) == 1 else {'runs': kept}
  files.write_json(folder / f'{prefix}summary.json', content, indent=2)
  files.write_atomically(
    folder / f'{prefix}summary.md', (format_table(summaries) + '\n').encode()
  )

"""Formats tables of scores, and writes summaries."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ecg_jax.datasets import schema
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


def _is_undefined(set_scores: dict[str, Any], measure: str) -> bool:
  """Whether a 0/0 went into a measure."""
  names = [measure.removeprefix('f1_')]
  if measure == 'score':
    names = list(schema.SCORED_CLASSES)
  classes = set_scores['classes']
  return any(classes[name]['undefined'] for name in names if name in classes)


def _set_cells(set_scores: dict[str, Any] | None) -> list[str]:
  """Number of records and the measures of one set; a dagger marks 0/0."""
  if set_scores is None:
    return ['–'] * 7
  cells = [str(set_scores['records'])]
  for measure, value in summary_lib.measures(set_scores).items():
    cells.append(f'{value:.1f}{"†" * _is_undefined(set_scores, measure)}')
  return cells


def _mean_cells(summary: dict[str, Any]) -> list[str]:
  """An empty cell for the records, and the measures as mean ± deviation."""
  if summary['mean'] is None:
    return _set_cells(None)
  deviation = summary['standard_deviation']
  cells = ['']
  for measure, value in summary['mean'].items():
    spread = f'{deviation[measure]:.1f}' if deviation else '–'
    folds = summary['folds'].values()
    undefined = any(_is_undefined(found, measure) for found in folds)
    cells.append(f'{value:.1f} ± {spread}{"†" * undefined}')
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


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
  """Formats a table: first column flush left, the others flush right."""
  first, *widths = [max(map(len, x)) for x in zip(header, *rows, strict=True)]
  rule = ['-' * first, *('-' * (width - 1) + ':' for width in widths)]
  lines = []
  for name, *cells in (header, rule, *rows):
    padded = [x.rjust(width) for x, width in zip(cells, widths, strict=True)]
    lines.append(f'| {" | ".join([name.ljust(first), *padded])} |')
  return lines


def format_table(summaries: Sequence[dict[str, Any]]) -> str:
  """Formats a Markdown table that is readable in a terminal too.

  Args:
    summaries: Results of `summarize`, all of one set. One has a line per fold;
      several have two lines per run: mean ± standard deviation and pooled.

  Returns:
    Title, table and notes, in percent with one decimal, without a final
    newline. Folds that are missing are named.
  """
  first, columns = summaries[0], ['records', 'score']
  columns += [*(f'F1 {name}' for name in schema.CLASSES), 'accuracy']
  if len(summaries) == 1:
    title = (
      f'{first["run"]}: {first["set"]} set, data {first["data"]}, '
      f'labels {first["label_version"]}, percent'
    )
    rows = [
      [str(fold), *_set_cells(first['folds'].get(str(fold)))]
      for fold in first['folds_expected']
    ]
    count = f'{len(first["folds"])} of {len(first["folds_expected"])} folds'
    rows.append([f'mean ± sd, {count}', *_mean_cells(first)])
    rows.append([f'pooled, {count}', *_set_cells(first['pooled'])])
    table = markdown_table(['fold', *columns], rows)
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
      rows.append([summary['run'], count, 'mean ± sd', *_mean_cells(summary)])
      rows.append(['', '', 'pooled', *_set_cells(summary['pooled'])])
    table = markdown_table(['run', 'folds', 'over', *columns], rows)
  notes = [f'- {note}' for note in _notes(summaries)]
  return '\n'.join([title, '', *table, *(['', *notes] if notes else [])])


def write_summary(
  folder: pathlib.Path, summaries: Sequence[dict[str, Any]]
) -> None:
  """Writes summary.json and summary.md into a folder, each in one step.

  Those of the validation set are validation_summary.json and .md, so that
  they never replace the test scores.

  Args:
    folder: The folder that was summarized.
    summaries: Results of `summarize`. One is written as it is, several (a
      list of runs) as {"runs": [...]}.

  Raises:
    InputError: The folder is not writable.
  """
  prefix = '' if summaries[0]['set'] == 'test' else f'{summaries[0]["set"]}_'
  content = summaries[0] if len(summaries) == 1 else {'runs': list(summaries)}
  files.write_json(folder / f'{prefix}summary.json', content, indent=2)
  files.write_atomically(
    folder / f'{prefix}summary.md', (format_table(summaries) + '\n').encode()
  )

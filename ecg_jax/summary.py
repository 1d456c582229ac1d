"""Scores over the folds of a run, read from its artifacts alone; no jax."""

import contextlib
import csv
import json
import math
import os
import pathlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.score import (
  CLASSES,
  bootstrap_interval,
  confusion_matrix,
  scores,
)

# File with the predictions of each set that can be summarised; columns of
# these and of metrics.csv (its validation columns empty where none was made).
PREDICTION_FILES = {
  'test': 'predictions.csv',
  'validation': 'validation_predictions.csv',
}
PREDICTION_COLUMNS = [
  'record',
  'fold',
  'label',
  'predicted',
  *(f'probability_{name}' for name in CLASSES),
]
METRIC_COLUMNS = [
  'phase',
  'epoch',
  'step',
  'train_loss',
  'validation_loss',
  'validation_score',
  'learning_rate',
  'records_per_second',
  'seconds',
]

_HOST = socket.gethostname()


def read_text(path: pathlib.Path) -> str:
  """Text of a UTF-8 file; raises InputError where it cannot be read."""
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      f'{path} cannot be read ({error}); give a complete run folder.'
    ) from error


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step; raises InputError where it cannot."""
  temporary = path.with_name(f'.{path.name}.{_HOST}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise InputError(
      f'{path} cannot be written ({error.strerror}); '
      'make its folder writable or free some space.'
    ) from error


def remove_leftovers(folder: pathlib.Path) -> None:
  """Removes what processes that were killed left of `write_atomically`."""
  for path in folder.glob(f'.*.{_HOST}.*.tmp'):
    process = path.name.split('.')[-2]
    try:
      os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
      path.unlink(missing_ok=True)
    except (ValueError, PermissionError):
      pass


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(read_text(path))
  except json.JSONDecodeError as error:
    raise InputError(
      f'{path} is not valid JSON ({error}); restore it or run again.'
    ) from error


def _read_config(run_folder: pathlib.Path) -> dict[str, Any]:
  path = run_folder / 'config.json'
  content = _read_json(path)
  config = content.get('config') if isinstance(content, dict) else None
  folds = config.get('folds') if isinstance(config, dict) else None
  if (
    not isinstance(folds, list)
    or not folds
    or not all(type(fold) is int for fold in folds)
    or not isinstance(content['config'].get('data'), dict)
  ):
    raise InputError(
      f'{path} has {folds!r} as config.folds, not a list of whole numbers, or '
      'no config.data; give the folder of a training run.'
    )
  return content['config']


class Predictions(NamedTuple):
  """The answers of one fold to one set; n: records."""

  records: list[str]
  """Their names."""
  labels: np.ndarray
  """int64 [n], order N, A, O, ~."""
  predicted: np.ndarray
  """int64 [n]."""
  probabilities: np.ndarray
  """float64 [n, 4]."""


def read_predictions(path: pathlib.Path, fold: int) -> Predictions:
  """Reads the predictions of one fold; raises InputError if damaged."""
  records, labels, predicted, probabilities = [], [], [], []
  lines = csv.reader(read_text(path).splitlines(), strict=True)
  try:
    header = next(lines, [])
    if header != PREDICTION_COLUMNS:
      raise InputError(
        f'{path} has the columns {",".join(header)!r} instead of '
        f'{",".join(PREDICTION_COLUMNS)!r}; score the fold again.'
      )
    for row in lines:
      record, in_fold, label, answer, *cells = row
      if len(row) != len(header) or in_fold != str(fold):
        raise ValueError
      if not all(0 <= float(cell) < math.inf for cell in cells):
        raise ValueError
      records.append(record)
      labels.append(CLASSES.index(label))
      predicted.append(CLASSES.index(answer))
      probabilities.append([float(cell) for cell in cells])
    if len(set(records)) < len(records):
      raise InputError(f'{path} has a record twice; score the fold again.')
  except (ValueError, csv.Error) as error:
    raise InputError(
      f'Line {lines.line_num} of {path} is not a prediction of fold {fold}; '
      'score the fold again.'
    ) from error
  return Predictions(
    records,
    np.array(labels, np.int64),
    np.array(predicted, np.int64),
    np.array(probabilities).reshape(-1, len(CLASSES)),
  )


def measures(set_scores: dict[str, Any]) -> dict[str, float]:
  """The six figures of a table, in percent: score, f1 by class, accuracy."""
  return {
    'score': set_scores['score'],
    **{f'f1_{name}': set_scores['classes'][name]['f1'] for name in CLASSES},
    'accuracy': set_scores['accuracy'],
  }


def _check_agreement(
  path: pathlib.Path, stored: dict[str, Any], found: dict[str, Any]
) -> None:
  """Refuses stored scores that are not those of the predictions in `path`."""
  same = (
    stored['records'] == found['records']
    and stored['confusion'] == found['confusion']
    and np.allclose(
      list(measures(stored).values()),
      list(measures(found).values()),
      rtol=0,
      atol=1e-6,
    )
  )
  if not same:
    raise InputError(
      f'{path} gives a score of {found["score"]:.4f} over {found["records"]} '
      f'records, but scores.json beside it says {stored["score"]:.4f} over '
      f'{stored["records"]} or differs in the counts; score the fold again.'
    )


def _read_fold(
  run_folder: pathlib.Path, fold: int, set_name: str
) -> tuple[dict[str, Any], list[str]] | str:
  """Reads one fold.

  Returns:
    Scores from the predictions with `best`, `label_version` and
    `max_records` of the score file, and the record names; or, for a fold that
    is not finished, why it is not.
  """
  folder = run_folder / f'fold{fold}'
  score_file = folder / 'scores.json'
  path = folder / PREDICTION_FILES[set_name]
  if not folder.is_dir():
    return 'not started'
  if not score_file.exists():
    return 'unfinished, no scores.json'
  content = _read_json(score_file)
  try:
    if content['fold'] != fold:
      raise ValueError(f'fold is {content["fold"]!r}')
    if set_name not in content['sets']:
      return f'no {set_name} set in scores.json'
    if not path.exists():
      return f'no {path.name}'
    answers = read_predictions(path, fold)
    found = scores(confusion_matrix(answers.labels, answers.predicted))
    _check_agreement(path, content['sets'][set_name], found)
    found['best'] = {
      key: int(content['best'][key]) for key in ('phase', 'epoch')
    }
    found.update(
      {key: content[key] for key in ('label_version', 'max_records')}
    )
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(
      f'{score_file} is no score file of fold {fold} '
      f'({type(error).__name__}: {error}); score the fold again.'
    ) from error
  return found, answers.records


def find_runs(folder: pathlib.Path) -> list[pathlib.Path]:
  """Finds the runs of a folder.

  Args:
    folder: The folder of one run, or of a list of runs (NAME/seedS in it).

  Returns:
    Folders with a config.json: `folder` itself, then those of its NAME/seedS,
    by name and then by seed.

  Raises:
    InputError: There is no such folder, or no run in it.
  """
  if not folder.is_dir():
    raise InputError(
      f'There is no folder {folder}; give the --workdir of a training run.'
    )
  own = [folder] if (folder / 'config.json').exists() else []
  runs = [path.parent for path in folder.glob('*/seed*/config.json')]
  if not own and not runs:
    raise InputError(
      f'There is no config.json in {folder}, nor in any NAME/seedS in it; '
      'give the --workdir of a training run.'
    )
  # seed10 comes after seed9.
  runs.sort(key=lambda run: (run.parent, len(run.name), run.name))
  return own + runs


def summarize_folders(
  folders: Sequence[pathlib.Path], set_name: str = 'test'
) -> dict[pathlib.Path, dict[pathlib.Path, dict[str, Any]]]:
  """Summarises all runs in some folders; writes nothing.

  Args:
    folders: Folders of runs or of lists of runs.
    set_name: A key of `PREDICTION_FILES`.

  Returns:
    By folder, by folder of a run in it: the result of `summarize`. Runs of one
    name are called by their whole paths.

  Raises:
    InputError: A folder is not that of a run, or is damaged.
  """
  found = {
    folder: {run: summarize(run, set_name) for run in find_runs(folder)}
    for folder in folders
  }
  summaries = [item for runs in found.values() for item in runs.items()]
  names = [summary['run'] for _, summary in summaries]
  for run, summary in summaries:
    if names.count(summary['run']) > 1:
      summary['run'] = str(run)
  return found


def write_summaries(
  found: Mapping[pathlib.Path, Mapping[pathlib.Path, dict[str, Any]]],
) -> None:
  """Writes what `summarize_folders` found into each run and list of runs.

  Raises:
    InputError: A folder is not writable.
  """
  for folder, runs in found.items():
    for run, summary in runs.items():
      write_summary(run, [summary])
    if folder not in runs:
      write_summary(folder, list(runs.values()))


def summarize(
  run_folder: pathlib.Path, set_name: str = 'test'
) -> dict[str, Any]:
  """Summarises the finished folds of one run; writes nothing.

  All scores are computed from the predictions, and must be those that
  scores.json states.

  Args:
    run_folder: Folder with config.json and foldK/.
    set_name: A key of `PREDICTION_FILES`.

  Returns:
    Values ready for JSON:
      `run`: name of the folder, NAME/seedS for one of a list of runs;
      `set`, `data`, `label_version`, `max_records`, `max_epochs`: what was
        scored, and what limits it (None: nothing);
      `folds_expected`: the folds of config.json;
      `missing`: by fold, why it is not in the figures;
      `folds`: by fold, the result of `score.scores` and `best`, the
        {phase, epoch} whose weights were scored;
      `mean`, `standard_deviation` (ddof 1): `measures` over these folds, None
        with fewer than one and two of them;
      `pooled`: `score.scores` over the predictions of these folds, or None;
      `pooled_interval`: 95 % of the pooled score over resampled records,
        [low, high] in percent, or None;
      `repeated_records`: predictions in `pooled` of records that it has
        already: always 0 for test sets, which are disjoint, while the
        validation sets of two folds may share records.

  Raises:
    InputError: An artifact is damaged, contradicts another, or is not of
      this fold; the test sets of two folds share a record; or the folds are
      scored with different labels or limits.
  """
  config = _read_config(run_folder)
  expected = sorted(set(config['folds']))
  folds: dict[str, Any] = {}
  missing: dict[str, str] = {}
  pooled = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
  seen: set[str] = set()
  repeated = 0
  for fold in expected:
    result = _read_fold(run_folder, fold, set_name)
    if isinstance(result, str):
      missing[str(fold)] = result
      continue
    folds[str(fold)], records = result
    pooled += np.array(folds[str(fold)]['confusion'])
    repeated += len(seen.intersection(records))
    seen.update(records)
  if set_name == 'test' and repeated:
    raise InputError(
      f'{repeated} records are in the test predictions of two folds of '
      f'{run_folder}; use folds without common records and score them again.'
    )
  data = config['data']
  limits = {
    'label_version': config.get('label_version'),
    'max_records': data.get('max_records'),
  }
  for key in limits:
    values = {fold: found.pop(key) for fold, found in folds.items()}
    if len(set(map(str, values.values()))) > 1:
      raise InputError(
        f'The folds of {run_folder} were not scored with one {key} ({values}); '
        'score them again in one way.'
      )
    limits[key] = next(iter(values.values()), limits[key])
  rows = [list(measures(found).values()) for found in folds.values()]
  names = list(measures(scores(pooled)))
  full = run_folder.resolve()
  return {
    'run': (
      f'{full.parent.name}/{full.name}'
      if full.name.startswith('seed')
      else full.name
    ),
    'set': set_name,
    'data': data.get('name'),
    **limits,
    'max_epochs': config.get('max_epochs'),
    'folds_expected': expected,
    'missing': missing,
    'folds': folds,
    'mean': (
      dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
      if folds
      else None
    ),
    'standard_deviation': (
      dict(zip(names, np.std(rows, axis=0, ddof=1).tolist(), strict=True))
      if len(folds) > 1
      else None
    ),
    'pooled': scores(pooled) if folds else None,
    'pooled_interval': list(bootstrap_interval(pooled)) if folds else None,
    'repeated_records': repeated,
  }


def read_set(run_folder: pathlib.Path, set_name: str) -> dict[int, Predictions]:
  """The predictions of each finished fold, in ascending order.

  Raises:
    InputError: The run has no finished fold or is damaged.
  """
  found = summarize(run_folder, set_name)  # Checks all artifacts.
  if not found['folds']:
    raise InputError(
      f'{run_folder} has no finished fold with {set_name} predictions: train'
      ' one first.'
    )
  name = PREDICTION_FILES[set_name]
  return {
    fold: read_predictions(run_folder / f'fold{fold}' / name, fold)
    for fold in map(int, found['folds'])
  }


def _is_undefined(set_scores: dict[str, Any], measure: str) -> bool:
  """Whether a 0/0 went into a measure."""
  names = 'NAO' if measure == 'score' else [measure.removeprefix('f1_')]
  classes = set_scores['classes']
  return any(classes[name]['undefined'] for name in names if name in classes)


def _set_cells(set_scores: dict[str, Any] | None) -> list[str]:
  """Records and the six measures of one set; a dagger marks 0/0."""
  if set_scores is None:
    return ['–'] * 7
  return [
    str(set_scores['records']),
    *(
      f'{value:.1f}{"†" if _is_undefined(set_scores, measure) else ""}'
      for measure, value in measures(set_scores).items()
    ),
  ]


def _mean_cells(summary: dict[str, Any]) -> list[str]:
  """Nothing for the records, and the six measures as mean ± deviation."""
  if summary['mean'] is None:
    return _set_cells(None)
  deviation = summary['standard_deviation']
  cells = ['']
  for measure, value in summary['mean'].items():
    spread = f'{deviation[measure]:.1f}' if deviation else '–'
    undefined = any(
      _is_undefined(found, measure) for found in summary['folds'].values()
    )
    cells.append(f'{value:.1f} ± {spread}{"†" if undefined else ""}')
  return cells


def _notes(summaries: Sequence[dict[str, Any]]) -> list[str]:
  """What a reader has to know before the figures are compared."""
  runs: dict[str, list[str]] = {}  # Those that share a note, by its text.
  for summary in summaries:
    texts = []
    if summary['pooled_interval']:
      low, high = summary['pooled_interval']
      texts.append(
        'of the pooled score, 95 % of what its records give if drawn anew '
        f'with replacement: {low:.1f} to {high:.1f}.'
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
  """Lines of a table, first column to the left, the others to the right."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

  def line(cells: list[str]) -> str:
    padded = [cells[0].ljust(widths[0])]
    padded += [
      cell.rjust(n) for cell, n in zip(cells[1:], widths[1:], strict=True)
    ]
    return f'| {" | ".join(padded)} |'

  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  return [line(header), line(rule), *map(line, rows)]


def format_table(summaries: Sequence[dict[str, Any]]) -> str:
  """Formats a Markdown table that reads well in a terminal too.

  Args:
    summaries: Results of `summarize`, all of one set. One gives a line a
      fold, several give two lines a run: mean ± standard deviation and pooled.

  Returns:
    Title, table and notes, in percent with one decimal, without a final
    newline. Folds that are missing are named.
  """
  first, columns = summaries[0], ['records', 'score']
  columns += [*(f'F1 {name}' for name in CLASSES), 'accuracy']
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
    folder: The folder that was summarised.
    summaries: Results of `summarize`. One is written as it is, several (a
      list of runs) as {"runs": [...]}.

  Raises:
    InputError: The folder is not writable.
  """
  prefix = '' if summaries[0]['set'] == 'test' else f'{summaries[0]["set"]}_'
  content = summaries[0] if len(summaries) == 1 else {'runs': list(summaries)}
  write_atomically(
    folder / f'{prefix}summary.json',
    (json.dumps(content, indent=2) + '\n').encode(),
  )
  write_atomically(
    folder / f'{prefix}summary.md', (format_table(summaries) + '\n').encode()
  )

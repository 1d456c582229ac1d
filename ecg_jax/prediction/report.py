"""Formats results of recordings: a table, CSV, JSON, answers.txt."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from ecg_jax.evaluation import calibration
from ecg_jax.prediction import heartbeats
from ecg_jax.prediction.aggregation import (
  Prediction,
  Summary,
  clock,
  percent,
)
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.prediction.heartbeats import HeartRate
from ecg_jax.prediction.predictor import RecordingResult, Settings

_GAP = 'a gap or a flat line'

_EPISODES_SHOWN = 10
"""Episodes listed on the terminal; the JSON lists all."""

_HEART_RATE = {
  'beats': ('beats', 0),
  'beats_per_minute': ('beats/min', 0),
  'rr_median_seconds': ('RR', 2),
  'rr_interquartile_seconds': ('spread', 2),
}
"""Column of each field of a `HeartRate` -> its head and decimals in the table.
"""


def columns(classes: Sequence[str]) -> list[str]:
  """Columns of the output."""
  return [
    'recording',
    'lead',
    'start_seconds',
    'end_seconds',
    'predicted',
    *(f'probability_{name}' for name in classes),
    'agreement',
    'status',
    *_HEART_RATE,
  ]


def rows(result: RecordingResult) -> list[dict[str, Any]]:
  """The rows of a recording in the output, by `columns`.

  A row per window of a long recording and one for the whole of it, or a single
  row for a failure. Columns without a value are None.
  """
  kind = 'window' if result.windowed else 'answered'
  found = [
    _row(result, x.start, x.end, kind, x.answer, heartbeats.measure([x]))
    for x in result.windows
  ]
  found += [_row(result, *gap, f'window with {_GAP}') for gap in result.gaps]
  found.sort(key=lambda row: row['start_seconds'])
  if result.summary is not None:
    headline = result.summary.headline
    status = f'{headline}; ' if headline else ''
    status += _describe_mean(result, result.summary)
    if result.gaps:
      count = len(result.gaps)
      status += f'; {count} window{"s" * (count > 1)} with {_GAP} left out'
    whole = status, result.summary.answer, result.heart_rate
    found.append(_row(result, 0.0, result.seconds, *whole))
  if found:
    last = found[-1]
    last['status'] = '; '.join([last['status'], *result.warnings])
  if result.failure is not None:
    status = f'failed: {result.failure}'
    found.append(_row(result, 0.0, result.seconds, status))
  return found


def _row(
  result: RecordingResult,
  start: float,
  end: float,
  status: str,
  answer: Prediction | None = None,
  rate: HeartRate | None = None,
) -> dict[str, Any]:
  """The columns of a part of a recording; None where there is no value."""
  probabilities = answer and map(float, answer.probabilities)
  values = [
    result.name,
    result.lead,
    round(start, 3),
    round(end, 3),
    answer and answer.predicted,
    *(probabilities or [None] * result.spec.num_classes),
    answer and (None if math.isnan(answer.agreement) else answer.agreement),
    status,
    *(x and round(x, 4) for x in rate or [None] * len(_HEART_RATE)),
  ]
  return dict(zip(columns(result.spec.classes), values, strict=True))


def _describe_mean(result: RecordingResult, summary: Summary) -> str:
  """What the prediction for a long recording is the mean of."""
  count, noise = len(result.windows), result.spec.noise_class
  if noise is None:
    return f'mean of {count} windows'
  word = result.spec.class_names[result.spec.classes.index(noise)]
  if all(window.answer.chosen == noise for window in result.windows):
    return f'mean of {count} windows, all {word}'
  return f'mean of the {summary.used} of {count} windows that are not {word}'


def format_table(
  results: Sequence[RecordingResult], classes: Sequence[str]
) -> str:
  """A line per recording; below a long one its episodes, and time by class."""
  table = [heads(classes), *map(cells, results)]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  widths[-1] = 0
  below = [[], *map(describe, results)]
  lines = []
  for line, texts in zip(table, below, strict=True):
    padded = [x.ljust(width) for x, width in zip(line, widths, strict=True)]
    lines.append('  '.join(padded).rstrip())
    lines += [f'  {text}' for text in texts]
  return '\n'.join(lines)


def heads(classes: Sequence[str]) -> list[str]:
  """Heads of the columns of the table; that of the notes has none."""
  numbers = [head for head, _ in _numbers(classes).values()]
  return ['recording', 'lead', 'seconds', 'prediction', *numbers, '']


def cells(result: RecordingResult) -> list[str]:
  """A recording's line of the table.

  With episodes, the prediction is the share of time in them, then the mean's.
  """
  row = rows(result)[-1]
  predicted = row['predicted'] or ''
  status = row['status'].removeprefix('answered').removeprefix('; ')
  if result.failure is not None:
    status = 'no answer: see below'
  if result.summary is not None and (headline := result.summary.headline):
    share = percent(result.summary.episode_share)
    predicted = f'{result.summary.episode_class} {share}, mean {predicted}'
    status = status.removeprefix(f'{headline}; ')  # `describe` says it.
  return [
    ' '.join(result.name.split()),  # It may have line ends.
    result.lead,
    f'{result.seconds:.1f}',
    predicted,
    *(
      '' if row[name] is None else f'{row[name]:.{decimals}f}'
      for name, (_, decimals) in _numbers(result.spec.classes).items()
    ),
    status,
  ]


def _numbers(classes: Sequence[str]) -> dict[str, tuple[str, int]]:
  """Column of the output -> its head and decimals in the table."""
  probabilities = {f'probability_{name}': (name, 3) for name in classes}
  return {**probabilities, 'agreement': ('agreement', 3), **_HEART_RATE}


def describe(result: RecordingResult) -> list[str]:
  """A long recording's episodes if it has any, and time by class, in lines."""
  summary = result.summary
  if summary is None:
    return []
  shares = ', '.join(
    f'{name} {percent(share)}' for name, share in summary.shares.items()
  )
  lines = [f'share of {clock(summary.answered_seconds)}: {shares}']
  if summary.episode_class is None:
    return lines
  if not summary.episodes:
    return [*lines, f'no episode of {summary.episode_class}']
  shown = ', '.join(
    f'{clock(start)} to {clock(end)}'
    for start, end in summary.episodes[:_EPISODES_SHOWN]
  )
  more = len(summary.episodes) - _EPISODES_SHOWN
  shown += f' and {more} more' if more > 0 else ''
  return [f'{summary.headline}: {shown}', *lines]


def to_csv(results: Sequence[RecordingResult], classes: Sequence[str]) -> str:
  """The rows of all recordings as CSV."""
  text = io.StringIO()
  writer = csv.DictWriter(text, columns(classes), lineterminator='\n')
  writer.writeheader()
  for result in results:
    writer.writerows(rows(result))
  return text.getvalue()


def to_json(
  results: Sequence[RecordingResult], model: Ensemble, settings: Settings
) -> str:
  """The rows of each recording with its warnings and summary, as JSON."""
  content = {
    'run_folder': str(model.run_folder),
    'folds': model.folds,
    'temperature': calibration.read(model.run_folder, model.folds),
    'settings': dataclasses.asdict(settings),
    'recordings': [
      {
        'recording': result.name,
        'rows': rows(result),
        'headline': None if result.failure else result.headline,
        'warnings': result.warnings,
        'failure': result.failure,
        'summary': result.summary and _summary_json(result.summary),
      }
      for result in results
    ],
  }
  return json.dumps(content, indent=1) + '\n'


def _summary_json(summary: Summary) -> dict[str, Any]:
  content: dict[str, Any] = {
    'share_of_time': summary.shares,
    'answered_seconds': summary.answered_seconds,
  }
  if (name := summary.episode_class) is not None:
    content[f'episodes_of_{name}'] = summary.episodes
    content[f'longest_episode_of_{name}'] = summary.longest_episode
  return content


def to_answers(results: Sequence[RecordingResult]) -> str:
  """The challenge's format: a line record,label per recording with a class."""
  lasts = [(rows(result)[-1], result.spec) for result in results]
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(
    (row['recording'], row['predicted'])
    for row, spec in lasts
    if row['predicted'] in spec.classes
  )
  return text.getvalue()

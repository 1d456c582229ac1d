"""What is told of answered recordings: a table, CSV, JSON, answers.txt."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

from ecg_jax.datasets import schema
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import aggregation, predictor
from ecg_jax.prediction.ensemble import TrainedFolds

COLUMNS = [
  'recording',
  'lead',
  'start_seconds',
  'end_seconds',
  'predicted',
  *(f'probability_{name}' for name in schema.CLASSES),
  'agreement',
  'status',
]

_EPISODES_SHOWN = 10
"""On the terminal; the JSON has all."""


def rows(outcome: predictor.Outcome) -> list[dict[str, Any]]:
  """What a recording adds to the output, by COLUMNS.

  A row for each window of a long recording and one for the whole of it, or one
  alone for what it failed at. Columns without a value are None.
  """
  parts: list[tuple[float, float, aggregation.Answer | None, str]] = []
  kind = 'window' if outcome.windowed else 'answered'
  for start, end, answer in outcome.stretches:
    parts.append((start, end, answer, kind))
  for start, end in outcome.gaps:
    parts.append((start, end, None, 'window with a gap'))
  parts.sort(key=lambda part: part[0])
  if outcome.summary is not None:
    status = (
      f'mean of {len(outcome.stretches)} windows, all noise'
      if all(x.answer.chosen == '~' for x in outcome.stretches)
      else f'mean of the {outcome.summary.used} of {len(outcome.stretches)}'
      ' windows that are not noise'
    )
    if outcome.gaps:
      count = len(outcome.gaps)
      status += f'; {count} window{"s" * (count > 1)} with a gap left out'
    parts.append((0.0, outcome.seconds, outcome.summary.answer, status))
  if parts:
    start, end, last, status = parts[-1]
    status = '; '.join([status, *outcome.warnings()])
    parts[-1] = (start, end, last, status)
  if outcome.failure is not None:
    parts.append((0.0, outcome.seconds, None, f'failed: {outcome.failure}'))
  return [
    dict(
      zip(
        COLUMNS,
        [
          outcome.name,
          outcome.lead,
          round(start, 3),
          round(end, 3),
          *(
            [None] * 6
            if answer is None
            else [
              answer.predicted,
              *map(float, answer.probabilities),
              answer.agreement,
            ]
          ),
          status,
        ],
        strict=True,
      )
    )
    for start, end, answer, status in parts
  ]


def format_table(outcomes: Sequence[predictor.Outcome]) -> str:
  """A line a recording; under a long one its time by class and its AF."""
  table = [
    ['recording', 'lead', 'seconds', 'says', *schema.CLASSES, 'agree', '']
  ]
  below: dict[int, list[str]] = {}
  for outcome in outcomes:
    row = rows(outcome)[-1]
    *_, says, n, a, o, noise, agreement, status = row.values()
    if outcome.failure is not None:
      status = 'no answer: see below'
    table.append(
      [
        ' '.join(outcome.name.split()),  # It may have line ends.
        outcome.lead,
        f'{outcome.seconds:.1f}',
        says or '',
        *('' if x is None else f'{x:.3f}' for x in (n, a, o, noise, agreement)),
        status.removeprefix('answered').removeprefix('; '),
      ]
    )
    if outcome.summary is not None:
      below[len(table) - 1] = _describe(outcome.summary)
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  widths[-1] = 0
  lines = []
  for number, line in enumerate(table):
    cells = [x.ljust(width) for x, width in zip(line, widths, strict=True)]
    lines.append('  '.join(cells).rstrip())
    lines += [f'  {text}' for text in below.get(number, [])]
  return '\n'.join(lines)


def _describe(whole: aggregation.Summary) -> list[str]:
  shares = ', '.join(
    f'{name} {100 * share:.1f} %' for name, share in whole.shares.items()
  )
  lines = [f'share of {_clock(whole.answered_seconds)}: {shares}']
  longest = whole.longest_episode
  if longest is None:
    return [*lines, 'no episode of A']
  shown = ', '.join(
    f'{_clock(start)} to {_clock(end)}'
    for start, end in whole.episodes[:_EPISODES_SHOWN]
  )
  more = len(whole.episodes) - _EPISODES_SHOWN
  plural = 's' if len(whole.episodes) > 1 else ''
  return [
    *lines,
    f'{len(whole.episodes)} episode{plural} of A, the longest'
    f' {_clock(longest[1] - longest[0])} from {_clock(longest[0])}: {shown}'
    + (f' and {more} more' if more > 0 else ''),
  ]


def _clock(seconds: float) -> str:
  whole = round(seconds)
  return f'{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}'


def to_csv(outcomes: Sequence[predictor.Outcome]) -> str:
  """The rows of all recordings."""
  text = io.StringIO()
  writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
  writer.writeheader()
  for outcome in outcomes:
    writer.writerows(rows(outcome))
  return text.getvalue()


def to_json(
  outcomes: Sequence[predictor.Outcome],
  folds: TrainedFolds,
  settings: predictor.Settings,
) -> str:
  """The rows of each recording, with all else that was found out."""
  content = {
    'run_folder': str(folds.run_folder),
    'folds': folds.folds,
    'temperature': calibration.read(folds.run_folder, folds.folds),
    'settings': dataclasses.asdict(settings),
    'recordings': [
      {
        'recording': outcome.name,
        'rows': rows(outcome),
        'warnings': outcome.warnings(),
        'failure': outcome.failure,
        'summary': outcome.summary
        and {
          'share_of_time': outcome.summary.shares,
          'answered_seconds': outcome.summary.answered_seconds,
          'episodes_of_A': outcome.summary.episodes,
          'longest_episode_of_A': outcome.summary.longest_episode,
        },
      }
      for outcome in outcomes
    ],
  }
  return json.dumps(content, indent=1) + '\n'


def to_answers(outcomes: Sequence[predictor.Outcome]) -> str:
  """As the challenge takes them: a line record,label for each that has one."""
  lasts = [rows(outcome)[-1] for outcome in outcomes]
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(
    (row['recording'], row['predicted'])
    for row in lasts
    if row['predicted'] in schema.CLASSES
  )
  return text.getvalue()

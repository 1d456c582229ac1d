"""What comes first of a long recording: its episodes, whatever the mean is."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.prediction import aggregation, ensemble, predictor, report


def long_result(predicted, *, spec=CHALLENGE, seconds=30, abstain=0.0):
  """The result of windows of these classes; of '?' the model is not sure."""
  result = predictor.RecordingResult('holter', spec, windowed=True)
  for index, name in enumerate(predicted):
    chosen = spec.classes.index('N' if name == '?' else name)
    probabilities = np.full(4, 0.2 if name == '?' else 0.02)
    probabilities[chosen] = 1 - 3 * probabilities[0]
    answer = aggregation.Prediction(
      spec.classes[chosen], probabilities, 1.0, name != '?'
    )
    start = index * seconds
    window = aggregation.WindowPrediction(start, start + seconds, answer)
    result.windows.append(window)
  result.seconds = seconds * len(predicted)
  result.summary = aggregation.summarize(result.windows, spec, abstain=abstain)
  return result


@pytest.mark.parametrize(
  ('predicted', 'mean', 'words'),
  [
    # As half an hour with a third of it in three episodes.
    (
      'O' * 10 + 'A' * 10 + 'O' * 10 + 'A' * 5 + 'O' * 15 + 'A' * 5 + 'O' * 5,
      'O',
      'A in 33.3 % of 0:30:00: 3 episodes, the longest 0:05:00 from 0:05:00',
    ),
    (
      'NNNANN',
      'N',
      'A in 16.7 % of 0:03:00: 1 episode, the longest 0:00:30 from 0:01:30',
    ),
    (
      'AAAAAN',
      'A',
      'A in 83.3 % of 0:03:00: 1 episode, the longest 0:02:30 from 0:00:00',
    ),
    (
      'ANANAA',
      'A',
      'A in 66.7 % of 0:03:00: 3 episodes, the longest 0:01:00 from 0:02:00',
    ),
    (
      '~~~~~A',
      'A',
      'A in 16.7 % of 0:03:00: 1 episode, the longest 0:00:30 from 0:02:30',
    ),
    (
      '??A???',
      'N',
      'A in 16.7 % of 0:03:00: 1 episode, the longest 0:00:30 from 0:01:00',
    ),
    (
      'N' * 2879 + 'A',
      'N',
      'A in 0.03 % of 24:00:00: 1 episode, the longest 0:00:30 from 23:59:30',
    ),
    ('NNNNNN', 'N', ''),
    ('OO~~NO', 'O', ''),
    ('~~~~~~', '~', ''),
    ('??????', 'N', ''),
  ],
)
def test_episodes_come_first(predicted, mean, words, small_run):
  result = long_result(predicted)
  assert result.summary.headline == words
  assert result.headline == (words or mean)
  assert result.predicted == mean
  # The table: the prediction, and the first line below.
  header, line, *below = report.format_table(
    [result], CHALLENGE.classes
  ).splitlines()
  cell = line[header.index('prediction') :]
  share = words.split(' of ')[0].replace(' in', '')
  assert cell.startswith(f'{share}, mean {mean} ' if words else f'{mean} ')
  assert below[0].startswith(f'  {words}: ' if words else '  share of ')
  assert line.count(words or 'no words') == 0
  # The row of the whole recording in CSV and JSON.
  last = list(
    csv.DictReader(report.to_csv([result], CHALLENGE.classes).splitlines())
  )[-1]
  assert last['status'].startswith(f'{words}; mean of ' if words else 'mean of')
  assert last['predicted'] == mean
  model = ensemble.load(small_run)
  written = json.loads(report.to_json([result], model, predictor.Settings()))
  [recording] = written['recordings']
  assert recording['headline'] == (words or mean)
  assert report.to_answers([result]) == f'holter,{mean}\n'


def test_many_episodes_are_listed_to_a_limit():
  result = long_result('NA' * 25)
  table = report.format_table([result], CHALLENGE.classes)
  [line] = [x for x in table.splitlines() if 'episodes' in x]
  assert line.startswith('  A in 50.0 % of 0:25:00: 25 episodes, the longest')
  assert line.count(' to ') == 10
  assert line.endswith(' and 15 more')


def test_short_recordings_and_failures_have_no_episodes(small_run):
  answer = aggregation.Prediction('A', np.array([0, 1, 0, 0.0]), 1.0)
  short = predictor.RecordingResult('a', CHALLENGE, seconds=30)
  short.windows.append(aggregation.WindowPrediction(0, 30, answer))
  failed = predictor.RecordingResult('b', CHALLENGE, failure='It is broken.')
  table = report.format_table([short, failed], CHALLENGE.classes)
  assert 'episode' not in table
  assert short.headline == 'A'
  model = ensemble.load(small_run)
  written = json.loads(
    report.to_json([short, failed], model, predictor.Settings())
  )
  assert [x['headline'] for x in written['recordings']] == ['A', None]


def test_an_undecided_mean_is_said_after_the_episodes():
  result = long_result('AAANNO', abstain=0.99)
  assert result.predicted == aggregation.UNDECIDED
  table = report.format_table([result], CHALLENGE.classes)
  assert '  A 50.0 %, mean undecided  ' in table


def test_a_dataset_without_an_episode_class_has_no_headline():
  spec = dataclasses.replace(CHALLENGE, episode_class=None)
  result = long_result('AAANNN', spec=spec)
  assert result.summary.headline == ''
  assert 'episode' not in report.format_table([result], spec.classes)

"""Heart rates are those of the beats; what has none is said to have none."""

import csv
import itertools
import json

import numpy as np
import pytest

import ecg_jax
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.prediction import ensemble, heartbeats, predictor, report
from ecg_jax.prediction.aggregation import Prediction, WindowPrediction
from ecg_jax.recordings import resampling
from tests.beats_test import ecg

ANSWER = Prediction('N', np.array([0.7, 0.1, 0.1, 0.1]), 1.0)


@pytest.fixture(scope='module')
def model(small_run):
  return ecg_jax.load(small_run)


def windows_of(beats, seconds, window, stride):
  """Windows of a recording with these beats."""
  return [
    WindowPrediction(
      start, end, ANSWER, beats[(start <= beats) & (beats < end)]
    )
    for start, end in resampling.window_times(seconds, window, stride)
  ]


def sine(frequency, seconds=30):
  time = np.arange(300 * seconds) / 300
  return np.round(500 * np.sin(2 * np.pi * frequency * time)).astype(np.int16)


@pytest.mark.parametrize(
  ('window', 'stride'), [(200, 1), (30, 30), (30, 10), (30, 7.3), (10, 1)]
)
def test_beats_and_intervals_count_once(window, stride):
  rr = np.random.default_rng(0).uniform(0.4, 1.2, 140)
  rr[60:90] = 0.3  # Counted twice they would weigh more than others.
  beats = 0.5 + np.cumsum(rr)
  seconds = float(beats[-1]) + 0.5
  windows = windows_of(beats, seconds, window, stride)
  found = heartbeats.measure(windows)
  assert found.beats == len(rr)
  inside = [
    any(x.start <= first and last < x.end for x in windows)
    for first, last in itertools.pairwise(beats)
  ]
  if stride < window:
    assert all(inside)
  low, middle, high = np.percentile(np.diff(beats)[inside], [25, 50, 75])
  assert found.rr_median == pytest.approx(middle)
  assert found.per_minute == pytest.approx(60 / middle)
  assert found.rr_interquartile == pytest.approx(high - low)


@pytest.mark.parametrize('number', [0, 1, 2, 3])
def test_few_beats_have_no_rate(number):
  window = WindowPrediction(60, 90, ANSWER, 61 + 2.0 * np.arange(number))
  found = heartbeats.measure([window])
  rate = (30, 2, 0) if number == 3 else (None, None, None)
  assert found == (number, *rate)


def test_a_recording_at_any_rate_has_its_heart_rate(model):
  rr = np.tile([0.7, 0.8, 0.9], 12)
  signal, times = ecg(rr, sampling_rate=500)
  found = model.predict(signal, sampling_rate=500, units='uV')
  assert found.heart_rate.beats == len(rr)
  assert found.heart_rate.rr_median == pytest.approx(0.8, abs=0.01)
  assert found.heart_rate.per_minute == pytest.approx(75, abs=1)
  assert found.heart_rate.rr_interquartile == pytest.approx(0.2, abs=0.02)
  assert 'rhythm' not in str(found.warnings)
  [window] = found.windows
  np.testing.assert_allclose(window.beats, times / 500, atol=0.01)


def test_windows_of_a_long_recording_have_their_own(model):
  """Half a minute at 100 beats a minute, at 50, and of a sine."""
  parts = [ecg(np.full(49, 0.6))[0][:9000], ecg(np.full(25, 1.2))[0][:9000]]
  signal = np.concatenate([*parts, sine(4.8)])
  settings = predictor.Settings(window=15, stride=5)
  found = model.predict(
    signal, sampling_rate=300, units='counts', settings=settings
  )
  rates = [heartbeats.measure([window]) for window in found.windows]
  for place, expected in ((0, 100), (6, 50), (9, 50)):
    assert rates[place].per_minute == pytest.approx(expected, abs=1)
  # The last five are of the sine, the first of these with a third of beats.
  assert rates[11:] == [(0, None, None, None)] * 5
  assert found.heart_rate.beats == pytest.approx(30 / 0.6 + 27.5 / 1.2, abs=2)
  [warning] = [x for x in found.warnings if 'no QRS complexes' in x]
  assert warning.endswith('(in 5 of 16 windows)')
  # The files have the figures of each window and of the whole.
  text = report.to_csv([found], CHALLENGE.classes)
  rows = list(csv.DictReader(text.splitlines()))
  assert [row['beats'] for row in rows[11:16]] == ['0'] * 5
  assert [row['beats_per_minute'] for row in rows[11:16]] == [''] * 5
  assert float(rows[6]['rr_median_seconds']) == pytest.approx(1.2, abs=0.01)
  assert float(rows[6]['rr_interquartile_seconds']) < 0.02
  assert int(rows[16]['beats']) == found.heart_rate.beats


@pytest.mark.parametrize('frequency', [2.5, 4.8, 10, 50])
def test_a_sine_has_no_rhythm(model, frequency):
  """Which changes no probability."""
  signal = sine(frequency)
  found = model.predict(signal, sampling_rate=300, units='counts')
  assert found.warnings[0].startswith('no QRS complexes stand out')
  assert found.heart_rate == (0, None, None, None)
  logits = model.folds.logits([signal])[0, 0]
  odds = np.exp(logits) / np.exp(logits).sum()
  assert list(found.probabilities.values()) == pytest.approx(list(odds))


@pytest.mark.parametrize(
  ('beats', 'words'),
  [
    (0, '0 beats found in 30.0 s: too few'),
    (1, '1 beat found in 30.0 s: too few'),
    (9, '9 beats found in 30.0 s: too few'),
    (10, ''),
  ],
)
def test_few_beats_are_no_rhythm(beats, words):
  positions = np.arange(beats)
  same, found = heartbeats.check(positions, 0.2, 30.0, windowed=False)
  assert ''.join(found).startswith(words)
  assert bool(found) == bool(words)
  np.testing.assert_array_equal(same, positions)
  _, found = heartbeats.check(positions, 0.2, 30.0, windowed=True)
  assert bool(found) == bool(words)
  assert '30' not in ''.join(found)  # The same whatever the window.


def test_a_single_beat_has_empty_figures(model, small_run):
  step = np.arange(9000, dtype=np.int16) // 4500
  found = model.predict(step, sampling_rate=300, units='counts')
  assert found.warnings[0].startswith('1 beat found in 30.0 s')
  header, line = report.format_table([found], CHALLENGE.classes).splitlines()
  cells = line[header.index('beats') : header.index('spread') + 6]
  assert cells.split() == ['1']
  text = report.to_json([found], ensemble.load(small_run), predictor.Settings())
  [row] = json.loads(text)['recordings'][0]['rows']
  assert list(row)[-5:] == [
    *('status', 'beats', 'beats_per_minute'),
    *('rr_median_seconds', 'rr_interquartile_seconds'),
  ]
  assert list(row.values())[-4:] == [1, None, None, None]

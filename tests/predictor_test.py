"""Recordings of any length and kind are answered as their windows would be."""

import dataclasses
import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import aggregation, ensemble, predictor, report
from ecg_jax.prediction.ensemble import TrainedFolds
from ecg_jax.recordings import lead

SETTINGS = predictor.Settings()


@pytest.fixture(scope='module')
def model(small_run):
  """A run with fold 1; its longest record is taken to be short."""
  return dataclasses.replace(ensemble.load(small_run), longest_samples=1500)


def signal(seed, samples):
  rng = np.random.default_rng(seed)
  return np.cumsum(rng.normal(0, 40, samples)).astype(np.int16)


def opener(counts, **fields):
  recording = lead.from_array(
    counts, sampling_rate=300, units='counts', name='r'
  )
  return lambda: dataclasses.replace(recording, **fields)


def direct(model, windows):
  """Answers without anything in between."""
  logits = model.logits(windows)
  return [
    aggregation.combine(logits[:, k], temperature=1.0)
    for k in range(len(windows))
  ]


def check_answers(found, expected):
  assert [x.predicted for x in found] == [x.predicted for x in expected]
  for one, two in zip(found, expected, strict=True):
    np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-5)


@given(
  seconds=st.floats(1, 500),
  window=st.floats(1, 100),
  stride=st.floats(1, 100),
)
def test_windows_cover_what_strides_do(seconds, window, stride):
  times = predictor.window_times(seconds, window, stride)
  assert times[0][0] == 0
  assert times[-1][1] == pytest.approx(seconds)
  length = min(window, seconds)
  for start, end in times:
    assert end - start == pytest.approx(length)
  steps = np.diff([start for start, _ in times])
  assert np.all(steps > 0)
  assert np.all(steps <= stride + 1e-6)
  assert steps[:-1] == pytest.approx(stride)


@pytest.mark.parametrize('chunk_samples', [1, 2000, 10**6])
def test_recordings_are_answered_together_as_alone(
  model, monkeypatch, chunk_samples
):
  monkeypatch.setattr(predictor, '_CHUNK_SAMPLES', chunk_samples)
  parts = {'a': signal(0, 900), 'b': signal(1, 4000), 'c': signal(2, 1500)}
  settings = predictor.Settings(window=3, stride=2)
  found = predictor.predict_recordings(
    model, {name: opener(counts) for name, counts in parts.items()}, settings
  )
  assert [x.name for x in found] == ['a', 'b', 'c']
  assert [x.windowed for x in found] == [False, True, False]
  for outcome in found:
    counts = parts[outcome.name]
    if outcome.windowed:
      starts = [0, 600, 1200, 1800, 2400, 3000, 3100]
      windows = [counts[start : start + 900] for start in starts]
      assert [round(300 * x.start) for x in outcome.stretches] == starts
      assert repr(outcome.summary) == repr(
        aggregation.summarize(outcome.stretches)
      )
    else:
      windows = [counts]
      assert outcome.summary is None
    check_answers([x.answer for x in outcome.stretches], direct(model, windows))


def test_what_cannot_be_read_leaves_the_others_alone(model):
  def broken():
    raise InputError('b is broken.')

  def cut_off(start, stop):
    if stop > 2000:
      raise InputError('d was cut off.')
    return np.zeros(stop - start)

  openers = {
    'a': opener(signal(0, 900)),
    'b': broken,
    'c': opener(signal(1, 63)),
    'd': opener(signal(2, 4000), read=cut_off),
    'e': opener(np.full(900, np.nan)),
    'f': opener(np.full(3000, np.nan)),
    'g': opener(signal(3, 900)),
  }
  found = predictor.predict_recordings(
    model, openers, predictor.Settings(window=3, stride=3)
  )
  failures = {x.name: x.failure for x in found if x.failure}
  assert failures.keys() == {'b', 'c', 'd', 'e', 'f'}
  assert failures['b'] == 'b is broken.'
  assert '63 samples at 300 Hz (0.21 s), less than the 64' in failures['c']
  assert 'no samples at 0.00 s' in failures['e']
  assert 'gap in each of its 4 windows' in failures['f']
  for outcome in found[1:6]:  # Of d two windows could be read.
    assert outcome.summary is None
    assert [outcome.stretches, outcome.gaps, outcome.warnings()] == [[], [], []]
    [row] = report.rows(outcome)
    assert row['status'] == f'failed: {outcome.failure}'
  check_answers(
    [found[0].stretches[0].answer, found[6].stretches[0].answer],
    direct(model, [signal(0, 900), signal(3, 900)]),
  )


def test_a_window_shorter_than_a_spectrum_is_refused_at_once(model):
  """Before anything is read; a window of the length that is told is not."""
  spectrogram = dataclasses.replace(
    model.network.spectrogram, window_samples=400
  )
  network = dataclasses.replace(model.network, spectrogram=spectrogram)
  long = dataclasses.replace(model, network=network)
  with pytest.raises(InputError, match=r'--window is 1\.33 s.* least 1\.34\.'):
    predictor.predict_recordings(
      long, {'a': pytest.fail}, predictor.Settings(window=1.33)
    )
  given = []

  class Answering(TrainedFolds):
    def logits(self, windows):
      given.extend(map(len, windows))
      return np.zeros((1, len(windows), 4), np.float32)

  predictor.predict_recordings(
    Answering(**vars(long)),
    {'a': opener(signal(0, 4000))},
    predictor.Settings(window=1.34, stride=1.005),
  )
  assert min(given) >= 400


def test_windows_with_a_gap_are_left_out(model):
  counts = signal(0, 4500).astype(float)
  counts[1000:1100] = np.nan
  [found] = predictor.predict_recordings(
    model, {'a': opener(counts)}, predictor.Settings(window=3, stride=3)
  )
  assert found.failure is None
  assert found.gaps == [(3.0, 6.0)]
  assert [x.start for x in found.stretches] == [0, 6, 9, 12]
  assert found.summary.answered_seconds == pytest.approx(12)


def record(small_data, *, in_fold):
  """A record of the data that is in the test set of a fold."""
  name = small_data.table['folds'][str(in_fold)]['test'][0]
  [index] = small_data.dataset.find([name])
  start = small_data.dataset.offsets[index]
  end = start + small_data.dataset.lengths[index]
  return name, small_data.dataset.signal[start:end]


@pytest.mark.parametrize('bandpass', [False, True])
def test_no_fold_answers_for_what_it_learnt_from(model, small_data, bandpass):
  """The model has but fold 1."""
  settings = predictor.Settings(bandpass=bandpass)
  _, counts = record(small_data, in_fold=1)
  [found] = predictor.predict_recordings(model, {'a': opener(counts)}, settings)
  assert found.failure is None
  assert 'fold' not in str(found.warnings())
  name, counts = record(small_data, in_fold=0)
  [found] = predictor.predict_recordings(model, {'a': opener(counts)}, settings)
  assert f'{name} of the training set' in found.failure
  assert '(fold 1) learnt from it' in found.failure
  assert not found.stretches
  allowed = dataclasses.replace(settings, allow_leak=True)
  [found] = predictor.predict_recordings(model, {'a': opener(counts)}, allowed)
  assert found.failure is None
  assert f'fold 1 learnt from it as {name}' in found.warnings()[0]
  counts = counts + np.int16(1)
  [found] = predictor.predict_recordings(model, {'a': opener(counts)}, settings)
  assert found.failure is None
  assert 'fold' not in str(found.warnings())


def test_only_folds_that_did_not_learn_from_it_answer(model, small_data):
  """Two folds, the second of which says the opposite."""
  name, counts = record(small_data, in_fold=1)
  digest = hashlib.sha256(counts.astype('<i2').tobytes()).hexdigest()
  alone = model.logits([counts])

  class Both(TrainedFolds):
    def logits(self, windows):
      return np.concatenate([-alone, alone])

  learnt = ({digest: name}, model.learnt[0])
  both = Both(**{**vars(model), 'folds': (0, 1), 'learnt': learnt})
  [found] = predictor.predict_recordings(both, {'a': opener(counts)}, SETTINGS)
  assert f'fold 1 alone answered, the others learnt from it as {name}' in str(
    found.warnings()
  )
  check_answers([found.stretches[0].answer], direct(model, [counts]))
  leaking = predictor.Settings(allow_leak=True)
  [found] = predictor.predict_recordings(both, {'a': opener(counts)}, leaking)
  assert found.stretches[0].answer.agreement == 0.5
  # As one of two records with the same samples, in two folds' test sets.
  neither = dataclasses.replace(both, learnt=({digest: name}, {digest: 'b'}))
  [found] = predictor.predict_recordings(
    neither, {'a': opener(counts)}, SETTINGS
  )
  assert '(folds 0, 1) learnt from it' in found.failure


def test_settings_reach_the_answer(model, monkeypatch):
  openers = {'a': opener(signal(0, 900)), 'b': opener(signal(1, 3000))}
  sure = predictor.Settings(abstain=1.0, window=3, stride=3)
  for found in predictor.predict_recordings(model, openers, sure):
    assert {x.answer.predicted for x in found.stretches} == {
      aggregation.UNDECIDED
    }
  assert found.summary.answer.predicted == aggregation.UNDECIDED
  given = []
  combine = aggregation.combine
  monkeypatch.setattr(
    aggregation, 'combine', lambda x, **k: given.append(k) or combine(x, **k)
  )
  monkeypatch.setattr(calibration, 'read', lambda *_: 1.7)
  predictor.predict_recordings(
    model, openers, predictor.Settings(vote=True, abstain=0.2)
  )
  assert given[0] == {'temperature': 1.7, 'vote': True, 'abstain': 0.2}


@pytest.mark.parametrize(
  'field',
  [
    {'window': 0},
    {'window': -5.0},
    {'window': float('nan')},
    {'window': 3601},
    {'window': '30'},
    {'stride': 0},
    {'stride': -3},
    {'stride': None},
    {'abstain': -0.1},
    {'abstain': 1.1},
    {'abstain': np.nan},
  ],
)
def test_settings_out_of_range_are_refused(field):
  [(name, value)] = field.items()
  with pytest.raises(InputError, match=f'{name} is .*, not from') as info:
    predictor.Settings(**field)
  assert repr(value) in str(info.value)


def test_warnings_count_the_windows(model):
  counts = signal(0, 6000)
  counts[:900] = 0
  openers = {'a': opener(counts), 'b': opener(np.zeros(900, np.int16))}
  long, short = predictor.predict_recordings(
    model, openers, predictor.Settings(window=10, stride=10)
  )
  assert not [x for x in long.warnings() if 'shorter' in x]
  [said] = [x for x in short.warnings() if 'amplitude' in x]
  assert said.endswith('of training records')
  long, _ = predictor.predict_recordings(
    model, openers, predictor.Settings(window=3, stride=3)
  )
  [said] = [x for x in long.warnings() if 'amplitude below' in x]
  assert said.endswith('(in 1 of 7 windows)')


def test_memory_does_not_grow_with_the_recording(model, monkeypatch):
  """Of a recording that would take 40 times what is allowed."""
  monkeypatch.setattr(predictor, '_CHUNK_SAMPLES', 20_000)
  monkeypatch.setattr(
    TrainedFolds,
    'logits',
    lambda self, windows: np.zeros((1, len(windows), 4), np.float32),
  )
  seconds, rate = 3000, 1000
  longest = 0

  def read(start, stop):
    nonlocal longest
    longest = max(longest, stop - start)
    return np.zeros(stop - start)

  empty = lead.from_array(np.zeros(9), sampling_rate=rate, units='mV')
  recording = dataclasses.replace(empty, num_samples=seconds * rate, read=read)
  settings = predictor.Settings(window=10, stride=10)
  predictor.predict_recordings(model, {'a': opener(signal(0, 900))}, settings)
  tracemalloc.start()
  [found] = predictor.predict_recordings(
    model, {'a': lambda: recording}, settings
  )
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert len(found.stretches) == seconds // 10
  assert longest < 11 * rate
  assert peak < seconds * rate * 8 / 10

"""Recordings of any length and kind are classified as their windows are."""

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
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.recordings import lead, resampling
from tests.beats_test import ecg


@pytest.fixture(scope='module')
def model(small_run):
  """A run with fold 1; its longest record is taken to be short."""
  found = ensemble.load(small_run)
  spec = dataclasses.replace(found.spec, longest_samples=1500)
  return dataclasses.replace(found, spec=spec)


def signal(seed, samples):
  rng = np.random.default_rng(seed)
  return np.cumsum(rng.normal(0, 40, samples)).astype(np.int16)


def opener(counts, **fields):
  stated = {'sampling_rate': 300, 'units': 'counts', 'name': 'r'}
  recording = lead.from_array(counts, counts_per_millivolt=1000.0, **stated)
  return lambda: dataclasses.replace(recording, **fields)


def predict(model, recordings, **fields):
  """Results of recordings: arrays, or functions that open them, by name."""
  openers = {k: x if callable(x) else opener(x) for k, x in recordings.items()}
  settings = predictor.Settings(**fields)
  return predictor.predict_recordings(model, openers, settings)


def predict_one(model, recording, **settings):
  [result] = predict(model, {'a': recording}, **settings)
  return result


def check_windows(result, model, windows):
  """The predictions are those of the windows, without anything in between."""
  logits = model.logits(windows)
  assert len(result.windows) == len(windows)
  for index, window in enumerate(result.windows):
    one = window.answer
    two = aggregation.combine(
      logits[:, index], model.spec.classes, temperature=1.0
    )
    assert one.predicted == two.predicted
    np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-5)


def with_logits(model, compute, **fields):
  """The ensemble with other logits of some windows."""

  class Other(Ensemble):
    def logits(self, windows):
      return compute(windows)

  return Other(**{**vars(model), **fields})


@given(
  seconds=st.floats(1, 500), window=st.floats(1, 100), stride=st.floats(1, 100)
)
def test_windows_cover_what_strides_do(seconds, window, stride):
  times = resampling.window_times(seconds, window, stride)
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
def test_recordings_are_classified_together_as_alone(
  model, monkeypatch, chunk_samples
):
  monkeypatch.setattr(predictor, '_CHUNK_SAMPLES', chunk_samples)
  parts = {'a': signal(0, 900), 'b': signal(1, 4000), 'c': signal(2, 1500)}
  a, b, c = found = predict(model, parts, window=3, stride=2)
  assert [x.name for x in found] == ['a', 'b', 'c']
  assert [x.windowed for x in found] == [False, True, False]
  for result in (a, c):
    check_windows(result, model, [parts[result.name]])
    assert result.summary is None
  starts = [0, 600, 1200, 1800, 2400, 3000, 3100]
  assert [round(300 * x.start) for x in b.windows] == starts
  check_windows(b, model, [parts['b'][k : k + 900] for k in starts])
  assert repr(b.summary) == repr(aggregation.summarize(b.windows, model.spec))


def test_what_cannot_be_read_leaves_the_others_alone(model):
  def broken():
    raise InputError('b is broken.')

  def cut_off(start, stop):
    if stop > 2000:
      raise InputError('d was cut off.')
    return np.arange(start, stop) % 7.0

  recordings = {
    'a': signal(0, 900),
    'b': broken,
    'c': signal(1, 63),
    'd': opener(signal(2, 4000), read=cut_off),
    'e': np.full(900, np.nan),
    'f': np.full(3000, np.nan),
    'g': np.where(np.arange(3000) % 100 < 50, np.nan, 1.0),
    'h': signal(3, 900),
  }
  first, *failed, last = predict(model, recordings, window=3, stride=3)
  reasons = (
    'b is broken.',
    '63 samples at 300 Hz (0.21 s), less than the 64',
    'd was cut off.',  # Two of its windows could be read.
    'no samples of lead 0 from 0.00 to 3.00 s: export it again.',
    'no samples of lead 0 at all: export it again.',
    'a gap or a flat line in each of its 4 windows',
  )
  for result, words in zip(failed, reasons, strict=True):
    assert words in result.failure
    assert result.summary is None
    assert [result.windows, result.gaps, result.warnings] == [[], [], []]
    [row] = report.rows(result)
    assert row['status'] == f'failed: {result.failure}'
  for result in (first, last):
    check_windows(result, model, [recordings[result.name]])


def test_a_window_shorter_than_a_spectrum_is_refused_at_once(model):
  """Before anything is read; a window of the reported length is not."""
  spectrogram = model.network.spectrogram
  spectrogram = dataclasses.replace(spectrogram, window_samples=400)
  network = dataclasses.replace(model.network, spectrogram=spectrogram)
  long = dataclasses.replace(model, network=network)
  with pytest.raises(InputError, match=r'--window is 1\.33 s.* least 1\.34\.'):
    predict(long, {'a': pytest.fail}, window=1.33)
  lengths = []

  def compute(windows):
    lengths.extend(map(len, windows))
    return np.zeros((1, len(windows), 4), np.float32)

  predict_one(
    with_logits(long, compute), signal(0, 4000), window=1.34, stride=1.005
  )
  assert min(lengths) >= 400


def test_windows_with_a_gap_are_left_out(model):
  counts = signal(0, 4500).astype(float)
  counts[1000:1100] = np.nan
  found = predict_one(model, counts, window=3, stride=3)
  assert found.failure is None
  assert found.gaps == [(3.0, 6.0)]
  assert [x.start for x in found.windows] == [0, 6, 9, 12]
  assert found.summary.answered_seconds == pytest.approx(12)


def record(small_data, *, in_fold):
  """A record of the data that is in the test set of a fold."""
  name = small_data.table['folds'][str(in_fold)]['test'][0]
  [index] = small_data.dataset.find([name])
  start = small_data.dataset.offsets[index]
  end = start + small_data.dataset.lengths[index]
  return name, small_data.dataset.signal[start:end]


@pytest.mark.parametrize('bandpass', [False, True])
def test_no_fold_classifies_what_it_was_trained_on(model, small_data, bandpass):
  """The model has only fold 1."""
  _, unseen = record(small_data, in_fold=1)
  name, counts = record(small_data, in_fold=0)
  for other in (unseen, counts + np.int16(1)):
    found = predict_one(model, other, bandpass=bandpass)
    assert found.failure is None
    assert 'fold' not in str(found.warnings)
  found = predict_one(model, counts, bandpass=bandpass)
  assert f'{name} of the training set' in found.failure
  assert '(fold 1) learned from it' in found.failure
  assert not found.windows
  found = predict_one(model, counts, bandpass=bandpass, allow_leak=True)
  assert found.failure is None
  assert f'fold 1 learned from it as {name}' in found.warnings[0]


def test_only_folds_not_trained_on_a_record_classify_it(model, small_data):
  """Two folds, the second of which predicts the opposite."""
  name, counts = record(small_data, in_fold=1)
  digest = hashlib.sha256(counts.astype('<i2').tobytes()).hexdigest()
  alone = model.logits([counts])
  both = with_logits(
    model,
    lambda windows: np.concatenate([-alone, alone]),
    folds=(0, 1),
    trained_on=({digest: name}, model.trained_on[0]),
  )
  found = predict_one(both, counts)
  words = f'fold 1 alone answered, the others learned from it as {name}'
  assert words in str(found.warnings)
  check_windows(found, model, [counts])
  assert predict_one(both, counts, allow_leak=True).agreement == 0.5
  # As one of two records with the same samples, in two folds' test sets.
  trained_on = ({digest: name}, {digest: 'b'})
  neither = dataclasses.replace(both, trained_on=trained_on)
  failure = predict_one(neither, counts).failure
  assert '(folds 0, 1) learned from it' in failure


def test_settings_reach_the_prediction(model, monkeypatch):
  recordings = {'a': signal(0, 900), 'b': signal(1, 3000)}
  for found in predict(model, recordings, abstain=1.0, window=3, stride=3):
    assert {x.answer.predicted for x in found.windows} == {'undecided'}
  assert found.predicted == aggregation.UNDECIDED == 'undecided'
  options = []
  combine = aggregation.combine
  monkeypatch.setattr(
    aggregation,
    'combine',
    lambda *x, **k: options.append(k) or combine(*x, **k),
  )
  monkeypatch.setattr(calibration, 'read', lambda *_: 1.7)
  predict(model, recordings, vote=True, abstain=0.2)
  assert options[0] == {'temperature': 1.7, 'vote': True, 'abstain': 0.2}


@pytest.mark.parametrize(
  ('name', 'values'),
  [
    ('window', [0, -5.0, float('nan'), 3601, '30']),
    ('stride', [0, -3, None]),
    ('abstain', [-0.1, 1.1, np.nan]),
  ],
)
def test_settings_out_of_range_are_refused(name, values):
  for value in values:
    with pytest.raises(InputError, match=f'{name} is .*, not from') as info:
      predictor.Settings(**{name: value})
    assert repr(value) in str(info.value)


def test_warnings_count_the_windows(model):
  counts = signal(0, 6000)
  low = np.arange(900, dtype=np.int16) % 2
  counts[:900] = low
  parts = {'a': counts, 'b': low}
  long, short = predict(model, parts, window=10, stride=10)
  assert not [x for x in long.warnings if 'shorter' in x]
  [text] = [x for x in short.warnings if 'amplitude' in x]
  assert text.endswith('of training records')
  long, _ = predict(model, parts, window=3, stride=3)
  [text] = [x for x in long.warnings if 'amplitude below' in x]
  assert text.endswith('(in 1 of 7 windows)')


def test_nothing_is_compared_with_records_that_were_not_measured(model):
  low = ecg(np.full(4, 0.5))[0] // 10
  assert predict_one(model, low).warnings
  spec = dataclasses.replace(model.spec, ranges=None)
  assert not predict_one(dataclasses.replace(model, spec=spec), low).warnings


def test_memory_does_not_grow_with_the_recording(model, monkeypatch):
  """A recording that would take 40 times what is allowed."""
  monkeypatch.setattr(predictor, '_CHUNK_SAMPLES', 20_000)
  fast = with_logits(
    model, lambda windows: np.zeros((1, len(windows), 4), np.float32)
  )
  seconds, rate = 3000, 1000
  longest = 0

  def read(start, stop):
    nonlocal longest
    longest = max(longest, stop - start)
    return np.arange(start, stop) % 7.0

  empty = lead.from_array(
    np.zeros(9), sampling_rate=rate, units='mV', counts_per_millivolt=1000.0
  )
  recording = dataclasses.replace(empty, num_samples=seconds * rate, read=read)
  predict_one(fast, signal(0, 900), window=10, stride=10)
  tracemalloc.start()
  found = predict_one(fast, lambda: recording, window=10, stride=10)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert len(found.windows) == seconds // 10
  assert longest < 11 * rate
  assert peak < seconds * rate * 8 / 10

"""The Python API predicts as the command does."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import ecg_jax
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import predictor

_, COUNTS, _ = generator.generate_record(0, 3)


@pytest.fixture(scope='module')
def model(small_run):
  return ecg_jax.load(str(small_run))


def test_a_signal_is_classified_by_the_folds(model):
  found = model.predict(COUNTS / 1000, sampling_rate=300, units='mV')
  [expected] = calibration.softmax(model.folds.logits([COUNTS])[0], 1.0)
  probabilities = list(found.probabilities.values())
  np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
  assert list(found.probabilities) == list(CHALLENGE.classes)
  assert found.predicted == CHALLENGE.classes[expected.argmax()]
  assert np.isnan(found.agreement)  # Of a fold alone.
  shown = f'<signal: {found.predicted} (N {found.probabilities["N"]:.3f}, A '
  assert repr(found).startswith(shown)
  [window] = found.windows
  assert (window.start, window.end) == (0, len(COUNTS) / 300)
  assert window.answer.predicted == found.predicted
  assert found.summary is None


def test_units_rate_and_lead_do_not_change_it(model):
  first = model.predict(COUNTS, sampling_rate=300, units='counts')
  for signal, rate, units, lead in (
    (COUNTS / 1e6, 300, 'V', None),
    (np.stack([0 * COUNTS, COUNTS]), 300, 'uV', '1'),
    ([[0] * len(COUNTS), list(COUNTS)], np.int64(300), 'counts', 1),
  ):
    other = model.predict(signal, sampling_rate=rate, units=units, lead=lead)
    assert other.probabilities == pytest.approx(first.probabilities, abs=1e-6)


def test_a_long_signal_has_a_summary(model):
  found = model.predict(
    np.resize(COUNTS, 20_000),
    sampling_rate=300,
    units='counts',
    settings=predictor.Settings(window=10, stride=10, abstain=1.0),
  )
  assert len(found.windows) == 7
  assert found.predicted == 'undecided'
  assert found.summary.answered_seconds == pytest.approx(20_000 / 300)


@pytest.mark.parametrize(
  ('signal', 'fields', 'message'),
  [
    (COUNTS[:50], {}, 'signal has 50 samples'),
    (COUNTS, {'units': 'furlongs'}, "units is 'furlongs', not a known"),
    (COUNTS, {'sampling_rate': 0}, 'sampling rate of 0 Hz'),
    (COUNTS, {'sampling_rate': '300'}, "sampling_rate is '300', not a number"),
    (COUNTS, {'sampling_rate': None}, 'sampling_rate is None, not a number'),
    (COUNTS, {'units': 3}, 'units is 3, not a known voltage'),
    (COUNTS, {'units': None}, 'units is None, not a known voltage'),
    (COUNTS, {'lead': 1}, "no lead '1'"),
    (COUNTS, {'lead': -1}, "no lead '-1'"),
    (COUNTS, {'lead': 0.5}, "no lead '0.5'"),
    (COUNTS.reshape(1, 1, -1), {}, 'signal'),
    ([[1, 2], [3]], {}, 'signal cannot be converted to an array'),
    (None, {}, 'signal has object'),
    ('a.csv', {}, 'signal is the path a.csv, not an array: read it first'),
    (pathlib.Path('a'), {}, 'signal is the path a, not an array'),
    (0 * COUNTS + 700, {}, 'signal is a flat line: lead 0 varies by less than'),
    (np.zeros(30_000), {'units': 'mV'}, 'signal is a flat line'),
    (np.full(7500, 29.9), {'sampling_rate': 250, 'units': 'mV'}, 'a flat line'),
    (COUNTS / 1000, {'units': 'nV'}, 'flat line: lead 0 varies by less than'),
    (np.ma.masked_less(np.arange(9000), 100), {}, 'no samples at 0.00 s'),
  ],
)
def test_what_cannot_be_used_is_refused(model, signal, fields, message):
  given = {'sampling_rate': 300, 'units': 'counts', **fields}
  with pytest.raises(InputError, match=message):
    model.predict(signal, **given)


def test_a_masked_sample_is_a_missing_one(model):
  mask = np.arange(len(COUNTS)) % 100 == 50
  missing = np.where(mask, np.nan, COUNTS)
  spiked = np.ma.masked_array(np.where(mask, 9999, COUNTS), mask)
  stated = {'sampling_rate': 300, 'units': 'counts'}
  one, two = (model.predict(x, **stated) for x in (missing, spiked))
  assert one.probabilities == two.probabilities


def test_the_package_is_imported_without_jax():
  code = 'import sys, ecg_jax; assert "jax" not in sys.modules; ecg_jax.load'
  subprocess.run([sys.executable, '-c', code], check=True)

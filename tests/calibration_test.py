"""The temperature, the measures of calibration and calibration.json."""

import json
import math

import numpy as np
import pytest

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration, score


def honest(rng, records, spread=2.0):
  """Probabilities and labels drawn from them: calibrated by construction."""
  logits = spread * rng.normal(size=(records, 4))
  probabilities = calibration.softmax(logits, 1.0)
  draws = rng.random((records, 1))
  labels = (probabilities.cumsum(axis=1)[:, :3] < draws).sum(axis=1)
  return probabilities, labels


@pytest.mark.parametrize('temperature', [0.2, 0.7, 1.0, 3.0])
def test_temperature_changes_the_confidence_but_no_answer(temperature):
  rng = np.random.default_rng(0)
  logits = 5 * rng.normal(size=(2, 300, 4))
  before = calibration.softmax(logits, 1.0)
  after = calibration.softmax(logits, temperature)
  np.testing.assert_allclose(after.sum(axis=-1), 1)
  np.testing.assert_array_equal(after.argmax(-1), before.argmax(-1))
  np.testing.assert_array_equal(after.argsort(-1), before.argsort(-1))
  surer = np.sign(after.max(-1) - before.max(-1))
  assert np.all(surer == np.sign(1 - temperature)) or temperature == 1
  # Log-probabilities serve as logits.
  np.testing.assert_allclose(calibration.rescale(before, temperature), after)


def test_impossible_classes_and_huge_logits_stay_probabilities():
  found = calibration.rescale(np.array([[0.0, 0.25, 0.75, 0.0]]), 2.0)
  np.testing.assert_allclose(found, [[0, 0.366, 0.634, 0]], atol=1e-3)
  huge = calibration.softmax(np.array([1e5, 0, -1e5, 0], np.float32), 0.1)
  np.testing.assert_array_equal(huge, [1, 0, 0, 0])
  sure = calibration.loss(np.array([[1.0, 0, 0, 0]]), np.array([1]))
  assert 50 < sure < math.inf


@pytest.mark.parametrize('planted', [0.4, 1.0, 1.7, 5.0])
def test_fit_recovers_a_planted_temperature(planted):
  probabilities, labels = honest(np.random.default_rng(1), 20_000)
  distorted = calibration.rescale(probabilities, 1 / planted)
  found = calibration.fit(distorted, labels)
  assert found == pytest.approx(planted, rel=0.04)
  best = calibration.loss(calibration.rescale(distorted, found), labels)
  for other in (0.9 * found, 1.1 * found):
    rescaled = calibration.rescale(distorted, other)
    assert calibration.loss(rescaled, labels) > best


def test_fit_stays_within_bounds_where_all_is_right_or_all_is_wrong():
  probabilities = np.full((10, 4), 0.1) + 0.6 * np.eye(4)[0]
  assert 0.1 <= calibration.fit(probabilities, np.zeros(10, int)) < 0.11
  assert 9 < calibration.fit(probabilities, np.ones(10, int)) <= 10


def test_error_is_near_zero_for_honest_answers_and_the_gap_for_others():
  probabilities, labels = honest(np.random.default_rng(2), 50_000)
  error = calibration.expected_calibration_error
  assert error(probabilities, labels) < 0.01
  for temperature in (0.5, 2.0):
    boasting = calibration.rescale(probabilities, temperature)
    assert error(boasting, labels) > 0.05
  sure = np.eye(4)[np.zeros(10, int)]
  labels = np.array([0] * 7 + [1] * 3)
  assert error(sure, labels) == pytest.approx(0.3)
  assert calibration.brier_score(sure, labels) == pytest.approx(0.6)


def test_a_bin_of_confidence_includes_its_upper_edge():
  edges = np.array([5, 6, 9, 10, 12])
  confidence = edges / calibration.BINS
  rest = np.repeat((1 - confidence)[:, None] / 3, 3, axis=1)
  table = calibration.reliability(
    np.column_stack([confidence, rest]), np.zeros(5, int)
  )
  np.testing.assert_array_equal(np.flatnonzero(table.records), edges - 1)


def test_reliability_counts_each_answer_once_in_its_bin():
  probabilities, labels = honest(np.random.default_rng(3), 2000)
  probabilities[0], labels[0] = [1, 0, 0, 0], 0
  table = calibration.reliability(probabilities, labels)
  assert table.records.sum() == 2000
  confidence = probabilities.max(axis=1)
  right = probabilities.argmax(axis=1) == labels
  for index, records in enumerate(table.records):
    low, high = index / calibration.BINS, (index + 1) / calibration.BINS
    inside = (low < confidence) & (confidence <= high)
    assert records == inside.sum()
    if records:
      assert low < table.confidence[index] <= high + 1e-12
      assert table.accuracy[index] == pytest.approx(right[inside].mean())
    else:
      assert np.isnan(table.confidence[index])
  # No confidence of four classes is below a quarter.
  assert not table.records[: int(calibration.BINS / 4)].any()


def test_what_is_withheld_is_not_scored():
  probabilities, labels = honest(np.random.default_rng(4), 3000)
  found = [
    calibration.withhold(probabilities, labels, threshold, CHALLENGE)
    for threshold in (0.0, 0.5, 0.7, 0.9)
  ]
  coverages = [one.coverage for one in found]
  assert coverages[0] == 1
  assert coverages == sorted(coverages, reverse=True)
  # Honest confidence: the surer, the better.
  accuracies = [one.accuracy for one in found]
  assert accuracies == sorted(accuracies)
  kept = probabilities.max(axis=1) >= 0.7
  confusion = np.zeros((4, 4), int)
  for row, label in zip(probabilities[kept], labels[kept], strict=True):
    confusion[label, row.argmax()] += 1
  assert found[2].coverage == pytest.approx(kept.mean())
  assert found[2].score == pytest.approx(
    score.scores(confusion, CHALLENGE)['score']
  )
  nothing = calibration.withhold(probabilities, labels, 1.1, CHALLENGE)
  assert nothing.coverage == 0
  assert math.isnan(nothing.score)


def test_temperature_is_read_as_it_was_written(tmp_path):
  assert calibration.read(tmp_path, (0, 2)) == 1.0
  calibration.write(tmp_path, {'temperature': 1.3125, 'folds': [0, 2]})
  assert calibration.read(tmp_path, (0, 2)) == 1.3125
  assert [path.name for path in tmp_path.iterdir()] == ['calibration.json']
  added = {'temperature': 1.5, 'folds': [0, 2], 'added': {'by': 'a newer one'}}
  calibration.write(tmp_path, added)
  assert calibration.read(tmp_path, (0, 2)) == 1.5
  calibration.write(tmp_path, {'temperature': 2.0})
  assert json.loads((tmp_path / calibration.FILE).read_text()) == {
    'temperature': 2.0
  }


@pytest.mark.parametrize(
  'content',
  [
    *('', '[]', '{}', '{"temperature": 1.0}', '{"folds": [1]}', '\x00'),
    *(
      f'{{"temperature": {value}, "folds": [1]}}'
      for value in (
        *('"warm"', 'null', '[1]', 'true', '0', '-1', '0.09', '10.1'),
        *('NaN', 'Infinity'),
      )
    ),
  ],
)
def test_damaged_file_gets_one_sentence(tmp_path, content):
  (tmp_path / calibration.FILE).write_text(content)
  with pytest.raises(InputError, match=r'calibration\.json is damaged') as info:
    calibration.read(tmp_path, (1,))
  assert str(info.value).endswith('calibrate.py again.')


@pytest.mark.parametrize('folds', [(0,), (0, 1, 2), (1, 2), ()])
def test_temperature_of_other_folds_is_refused(tmp_path, folds):
  calibration.write(tmp_path, {'temperature': 1.5, 'folds': [0, 1]})
  assert calibration.read(tmp_path, (0, 1)) == 1.5
  with pytest.raises(InputError, match=r'fitted to the folds \[0, 1\]') as info:
    calibration.read(tmp_path, folds)
  assert str(info.value).endswith('run tools/calibrate.py again.')

"""The challenge score against a plain reference over label pairs."""

import json

import numpy as np
import pytest

from ecg_jax.evaluation import score


def _reference(pairs):
  """Challenge score, accuracy and F1 counted pair by pair; None is 0/0."""
  f1 = {}
  for name in 'NAO~':
    correct = sum(actual == predicted == name for actual, predicted in pairs)
    mentions = sum((a == name) + (p == name) for a, p in pairs)
    f1[name] = 200 * correct / mentions if mentions else None
  total = ((f1['N'] or 0) + (f1['A'] or 0) + (f1['O'] or 0)) / 3
  return total, 100 * sum(a == p for a, p in pairs) / len(pairs), f1


def _confusion(pairs):
  confusion = np.zeros((4, 4), np.int64)
  for actual, predicted in pairs:
    confusion['NAO~'.index(actual), 'NAO~'.index(predicted)] += 1
  return confusion


def test_agrees_with_reference_on_random_labels():
  rng = np.random.default_rng(0)
  undefined = 0
  for _ in range(3000):
    # Few letters to draw from, so that classes are absent in every way.
    actual = rng.choice(list('NAO~'), rng.integers(1, 5), replace=False)
    predicted = rng.choice(list('NAO~'), rng.integers(1, 5), replace=False)
    number = rng.integers(1, 40)
    pairs = rng.choice(actual, number), rng.choice(predicted, number)
    pairs = list(zip(*pairs, strict=True))
    found = score.scores(_confusion(pairs))
    total, accuracy, f1 = _reference(pairs)
    assert found['records'] == number
    assert found['score'] == pytest.approx(total)
    assert found['accuracy'] == pytest.approx(accuracy)
    for name, values in found['classes'].items():
      assert values['f1'] == pytest.approx(f1[name] or 0)
      assert values['undefined'] == (f1[name] is None)
      undefined += f1[name] is None
      assert values['actual'] == sum(a == name for a, _ in pairs)
      assert values['predicted'] == sum(p == name for _, p in pairs)
      assert values['correct'] == sum(a == p == name for a, p in pairs)
      if values['correct']:
        precision, recall = values['precision'], values['recall']
        harmonic = 2 * precision * recall / (precision + recall)
        assert values['f1'] == pytest.approx(harmonic)
  assert undefined > 100


def test_noise_counts_only_through_the_errors_of_others():
  confusion = np.diag([10, 10, 10, 0])
  right = score.scores(confusion + np.diag([0, 0, 0, 5]))
  wrong = score.scores(confusion + np.eye(4, dtype=int)[[3, 1, 2, 0]] * 5)
  assert right['score'] == 100
  assert wrong['classes']['~']['f1'] == 0
  assert 0 < wrong['score'] < 100


def test_result_is_plain_json_and_an_empty_set_scores_zero():
  for confusion in (np.zeros((4, 4), np.int32), np.full((4, 4), 7.0)):
    found = score.scores(confusion)
    assert json.loads(json.dumps(found)) == found
  empty = score.scores(np.zeros((4, 4), np.int32))
  assert empty['score'] == empty['accuracy'] == empty['records'] == 0
  assert all(values['undefined'] for values in empty['classes'].values())


def test_wrong_shape_is_refused():
  with pytest.raises(ValueError, match=r'\(3, 4\)'):
    score.scores(np.zeros((3, 4), np.int32))


def test_interval_is_that_of_records_drawn_with_replacement():
  confusion = np.array(
    [[60, 1, 9, 1], [2, 20, 3, 0], [9, 2, 30, 1], [1, 0, 1, 5]]
  )
  low, high = score.bootstrap_interval(confusion)
  assert (low, high) == score.bootstrap_interval(confusion)
  cells = np.repeat(np.arange(16), confusion.ravel())
  rng = np.random.default_rng(1)
  found = []
  for _ in range(2000):
    drawn = rng.choice(cells, len(cells))
    again = np.bincount(drawn, minlength=16).reshape(4, 4)
    found.append(score.scores(again)['score'])
  expected = np.quantile(found, [0.025, 0.975])
  np.testing.assert_allclose([low, high], expected, atol=0.5)
  assert low + 5 < score.scores(confusion)['score'] < high - 2
  half = score.bootstrap_interval(confusion, share=0.5)
  assert low < half[0] < half[1] < high


def test_interval_of_perfect_predictions_is_a_point():
  assert score.bootstrap_interval(np.eye(4, dtype=int) * 9) == (100.0, 100.0)

"""The challenge score against a plain reference over label pairs."""

import json

import numpy as np
import pytest
from scipy import stats

from ecg_jax.datasets.schema import CHALLENGE, DatasetSpec
from ecg_jax.errors import ConfigError, InputError
from ecg_jax.evaluation import calibration, score


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
    found = score.scores(_confusion(pairs), CHALLENGE)
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
  right = score.scores(confusion + np.diag([0, 0, 0, 5]), CHALLENGE)
  wrong = score.scores(
    confusion + np.eye(4, dtype=int)[[3, 1, 2, 0]] * 5, CHALLENGE
  )
  assert right['score'] == 100
  assert wrong['classes']['~']['f1'] == 0
  assert 0 < wrong['score'] < 100


def test_result_is_plain_json_and_an_empty_set_scores_zero():
  for confusion in (np.zeros((4, 4), np.int32), np.full((4, 4), 7.0)):
    found = score.scores(confusion, CHALLENGE)
    assert json.loads(json.dumps(found)) == found
  empty = score.scores(np.zeros((4, 4), np.int32), CHALLENGE)
  assert empty['score'] == empty['accuracy'] == empty['records'] == 0
  assert all(values['undefined'] for values in empty['classes'].values())


def test_wrong_shape_is_refused():
  with pytest.raises(ValueError, match=r'\(3, 4\)'):
    score.scores(np.zeros((3, 4), np.int32), CHALLENGE)


def test_interval_is_that_of_records_drawn_with_replacement():
  confusion = np.array(
    [[60, 1, 9, 1], [2, 20, 3, 0], [9, 2, 30, 1], [1, 0, 1, 5]]
  )
  low, high = score.bootstrap_interval(confusion, CHALLENGE)
  assert (low, high) == score.bootstrap_interval(confusion, CHALLENGE)
  cells = np.repeat(np.arange(16), confusion.ravel())
  rng = np.random.default_rng(1)
  found = []
  for _ in range(2000):
    drawn = rng.choice(cells, len(cells))
    again = np.bincount(drawn, minlength=16).reshape(4, 4)
    found.append(score.scores(again, CHALLENGE)['score'])
  expected = np.quantile(found, [0.025, 0.975])
  np.testing.assert_allclose([low, high], expected, atol=0.5)
  assert low + 5 < score.scores(confusion, CHALLENGE)['score'] < high - 2
  half = score.bootstrap_interval(confusion, CHALLENGE, share=0.5)
  assert low < half[0] < half[1] < high


def test_interval_of_perfect_predictions_is_a_point():
  assert score.bootstrap_interval(np.eye(4, dtype=int) * 9, CHALLENGE) == (
    100.0,
    100.0,
  )


THREE = DatasetSpec(
  classes=('a', 'b', 'c'), scored_classes=('c', 'a'), sampling_rate=100
)


def test_score_is_the_mean_of_the_scored_classes_of_any_dataset():
  confusion = np.array([[8, 1, 0], [2, 3, 1], [0, 0, 4]])
  found = score.scores(confusion, THREE)
  f1 = {name: values['f1'] for name, values in found['classes'].items()}
  assert list(f1) == ['a', 'b', 'c']
  assert found['score'] == (f1['c'] + f1['a']) / 2
  low, high = score.bootstrap_interval(confusion, THREE)
  assert low < found['score'] < high
  perfect_but_b = np.array([[9, 0, 0], [0, 0, 0], [0, 0, 9]])
  ends = score.bootstrap_interval(perfect_but_b, THREE)
  assert ends == (100.0, 100.0)


def test_kappa_is_the_agreement_beyond_chance():
  # The example of Cohen (1960), table 1 in shares of 200.
  confusion = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
  assert score.kappa(confusion) == pytest.approx(0.492, abs=5e-4)
  assert score.kappa(np.diag([3, 4, 5])) == 1
  assert score.kappa(np.outer([2, 1], [3, 6])) == pytest.approx(0)
  assert np.isnan(score.kappa(np.zeros((3, 3), int)))
  assert np.isnan(score.kappa(np.diag([3, 0, 0])))


def _predictions(number=50):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, number).astype(np.int32)
  return labels, rng.dirichlet(np.ones(3), number).astype(np.float32)


def test_metrics_get_what_their_parameters_name():
  labels, probabilities = _predictions()
  seen = {}

  def all_of_it(spec, probabilities, predicted, labels, confusion):
    seen.update(locals())
    labels[:] = 0  # It may change what it gets.
    return np.float32(0.25)

  metrics = {
    'all_of_it': all_of_it,
    'kappa': score.kappa,
    'first': lambda labels: int(labels[0]),
    'not_a_number': lambda: np.nan,
    'infinite': lambda: -np.inf,
    'brier_score': calibration.brier_score,
  }
  found = score.measure(metrics, labels, probabilities, THREE)
  predicted = probabilities.argmax(axis=1)
  confusion = score.confusion_matrix(labels, predicted, 3)
  assert found == {
    'all_of_it': 0.25,
    'kappa': score.kappa(confusion),
    'first': labels[0],
    'not_a_number': None,
    'infinite': None,
    'brier_score': calibration.brier_score(
      probabilities.astype(np.float64), labels
    ),
  }
  assert json.loads(json.dumps(found)) == found
  assert seen['spec'] is THREE
  for name, expected in (
    ('probabilities', probabilities),
    ('predicted', predicted),
    ('confusion', confusion),
  ):
    np.testing.assert_array_equal(seen[name], expected)
    kind = np.float64 if name == 'probabilities' else np.int64
    assert seen[name].dtype == kind


@pytest.mark.parametrize(
  ('name', 'metric', 'message'),
  [
    ('mine', lambda confusion, beta: 0, "'mine' has the parameter 'beta': use"),
    ('mine', lambda *args: 0, "'mine' has the parameter 'args'"),
    ('mine', 3, "'mine' is no function"),
    ('mine', lambda labels: labels, "'mine' returned .*no number"),
    ('mine', lambda: '0.5', "'mine' returned '0.5', no number"),
    ('mine', lambda: None, "'mine' returned None, no number"),
    ('mine', lambda labels: 1 // 0, r"'mine' failed \(ZeroDivisionError"),
    ('loss', lambda: 0, "'loss' is called like a column"),
    ('score', lambda: 0, "'score' is called like a column"),
    ('f1_a', lambda: 0, "'f1_a' is called like a column"),
  ],
)
def test_metric_that_cannot_be_used_is_named(name, metric, message):
  with pytest.raises(InputError, match=message) as error:
    score.measure({name: metric}, *_predictions(), THREE)
  assert str(error.value).endswith('.')
  assert '\n' not in str(error.value)
  is_defect = 'failed' in message
  assert isinstance(error.value, ConfigError) == is_defect


@pytest.mark.parametrize(
  ('hits', 'total'), [(0, 1), (1, 1), (0, 40), (37, 54), (957, 1016)]
)
def test_wilson_interval_is_that_of_scipy(hits, total):
  expected = stats.binomtest(hits, total).proportion_ci(method='wilson')
  found = score.wilson_interval(hits, total)
  assert found == pytest.approx(
    (100 * expected.low, 100 * expected.high), abs=1e-4
  )

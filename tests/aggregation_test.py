import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ecg_jax.datasets.schema import CHALLENGE, DatasetSpec
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import aggregation
from ecg_jax.prediction.aggregation import Prediction, WindowPrediction

logits = arrays.arrays(
  np.float32,
  st.tuples(st.integers(1, 6), st.just(4)),
  elements=st.floats(-9, 9, width=32),
)


def combine(folds, **options):
  return aggregation.combine(folds, CHALLENGE.classes, **options)


def summarize(windows, **options):
  return aggregation.summarize(windows, CHALLENGE, **options)


def logits_of(*probabilities):
  """Logits of folds with these probabilities."""
  return np.log(np.array(probabilities, np.float32))


def test_the_mean_of_the_folds_decides_or_their_vote():
  folds = logits_of(
    [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.05, 0.9, 0.04, 0.01]
  )
  mean = combine(folds, temperature=1.0)
  np.testing.assert_allclose(
    mean.probabilities, [0.85 / 3, 0.5, 0.44 / 3, 0.07], atol=1e-6
  )
  assert mean.predicted == 'A'
  assert mean.agreement == pytest.approx(1 / 3)
  vote = combine(folds, temperature=1.0, vote=True)
  assert vote.predicted == 'N'
  assert vote.agreement == pytest.approx(2 / 3)
  np.testing.assert_array_equal(vote.probabilities, mean.probabilities)


def test_of_equal_votes_the_higher_mean_decides():
  for first, second, expected in ((0.5, 0.6, 'O'), (0.6, 0.5, 'N')):
    folds = logits_of(
      [first, (1 - first) / 2, (1 - first) / 2, 0.01],
      [(1 - second) / 2, (1 - second) / 2, second, 0.01],
    )
    found = combine(folds, temperature=1.0, vote=True)
    assert found.predicted == expected


@given(logits, st.floats(0.2, 5), st.booleans(), st.floats(0, 1))
def test_a_prediction_is_undecided_below_the_threshold(
  folds, heat, vote, least
):
  found = combine(folds, temperature=heat, vote=vote, abstain=least)
  plain = combine(folds, temperature=heat, vote=vote)
  assert found.probabilities.sum() == pytest.approx(1)
  confidence = plain.probabilities[CHALLENGE.classes.index(plain.predicted)]
  assert found.predicted == (
    plain.predicted if confidence >= least else aggregation.UNDECIDED
  )
  each = calibration.softmax(folds, heat)
  votes = each.argmax(axis=1) == CHALLENGE.classes.index(plain.predicted)
  expected = votes.mean() if len(folds) > 1 else np.nan
  np.testing.assert_equal(plain.agreement, expected)


def window_of(start, end, predicted):
  sure = predicted in CHALLENGE.classes
  chosen = predicted if sure else 'N'
  share = np.full(4, 0.1)
  share[CHALLENGE.classes.index(chosen)] = 0.7
  return WindowPrediction(start, end, Prediction(chosen, share, 1.0, sure))


@given(
  st.lists(
    st.tuples(
      st.integers(1, 40), st.sampled_from([*CHALLENGE.classes, 'undecided'])
    ),
    min_size=1,
    max_size=12,
  ),
  st.integers(10, 40),
)
def test_each_instant_counts_for_the_nearest_middle(steps, window):
  """Against a count of half seconds, one by one, there and back."""
  starts = np.cumsum([step for step, _ in steps])
  windows = [
    window_of(start, start + window, predicted)
    for start, (_, predicted) in zip(starts, steps, strict=True)
  ]
  halves = {}  # Of a second -> class; edges are multiples of one.
  for half in range(2 * windows[-1].end):
    middle = (half + 0.5) / 2
    near = min(windows, key=lambda x: abs(x.start + window / 2 - middle))
    if near.start < middle < near.end:
      halves[half] = near.answer.predicted
  found = summarize(windows)
  assert 2 * found.answered_seconds == len(halves)
  for name, share in found.shares.items():
    expected = list(halves.values()).count(name) / len(halves)
    assert share == pytest.approx(expected)
  inside = [range(int(2 * a), int(2 * b)) for a, b in found.episodes]
  assert [half for half, x in halves.items() if x == 'A'] == [
    half for part in inside for half in part
  ]
  for one, two in itertools.pairwise(found.episodes):
    assert one[1] < two[0]
  longest = found.longest_episode or (0, 0)
  assert 2 * (longest[1] - longest[0]) == max(map(len, inside), default=0)
  back = summarize(
    [WindowPrediction(-x.end, -x.start, x.answer) for x in windows[::-1]]
  )
  assert back.shares == pytest.approx(found.shares)
  assert back.episodes == [
    (-end, -start) for start, end in found.episodes[::-1]
  ]


def test_noise_counts_only_where_all_is_noise():
  noisy = [window_of(k, k + 1, '~') for k in range(5)]
  found = summarize([*noisy, window_of(5, 6, 'O')])
  assert (found.answer.predicted, found.used) == ('O', 1)
  assert found.answer.agreement == 1
  assert found.shares['~'] == pytest.approx(5 / 6)
  found = summarize(noisy)
  assert (found.answer.predicted, found.used) == ('~', 5)


def test_a_dataset_may_have_neither_episodes_nor_noise():
  spec = DatasetSpec(classes=('a', 'b'), sampling_rate=100)
  windows = [
    WindowPrediction(k, k + 1, aggregation.combine(x, 'ab', temperature=1.0))
    for k, x in enumerate(np.eye(2, dtype=np.float32)[[0, 1, 1], None])
  ]
  found = aggregation.summarize(windows, spec)
  assert (found.used, found.answer.chosen) == (3, 'b')
  assert found.episodes == []
  assert found.longest_episode is None
  assert found.shares == pytest.approx({'a': 1 / 3, 'b': 2 / 3, 'undecided': 0})
  named = dataclasses.replace(spec, episode_class='b', noise_class='a')
  found = aggregation.summarize(windows, named)
  assert (found.used, found.episodes) == (2, [(1.0, 3.0)])


@given(
  arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.integers(1, 3), st.just(4)),
    elements=st.floats(-3, 3, width=32),
  ),
  st.booleans(),
  st.floats(0, 1),
)
def test_a_summary_is_the_mean_and_abstention_changes_what_is_reported(
  each, vote, least
):
  def summarized(abstain):
    options = {'temperature': 1.0, 'vote': vote, 'abstain': abstain}
    windows = [
      WindowPrediction(k, k + 1, combine(folds, **options))
      for k, folds in enumerate(each)
    ]
    return windows, summarize(windows, abstain=abstain)

  (windows, plain), (_, found) = summarized(0.0), summarized(least)
  answers = [window.answer for window in windows]
  answers = [x for x in answers if x.predicted != '~'] or answers
  mean = np.mean([x.probabilities for x in answers], axis=0)
  np.testing.assert_array_equal(plain.answer.probabilities, mean)
  assert plain.answer.predicted == CHALLENGE.classes[mean.argmax()]
  np.testing.assert_array_equal(
    found.answer.probabilities, plain.answer.probabilities
  )
  assert found.used == plain.used
  assert found.answer.agreement == plain.answer.agreement
  assert found.answer.predicted == (
    plain.answer.predicted
    if plain.answer.probabilities.max() >= least
    else aggregation.UNDECIDED
  )

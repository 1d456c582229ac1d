"""Sums over batches against NumPy over the union."""

import jax
import numpy as np
import pytest

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.evaluation import score, sums

add = jax.jit(sums.Sums.add)


def _examples(number, seed=0):
  rng = np.random.default_rng(seed)
  return (
    rng.dirichlet(np.ones(4), number).astype(np.float32),
    rng.choice(4, number, p=[0.6, 0.1, 0.28, 0.02]).astype(np.int32),
    rng.exponential(size=number).astype(np.float32),
    rng.random(number) < 0.7,
  )


def test_sums_and_scores_are_those_of_the_rows_in_the_mask():
  probabilities, labels, losses, mask = _examples(500)
  assert set(labels) == {0, 1, 2, 3}
  found = add(sums.Sums.empty(4), probabilities, labels, losses, mask)
  confusion = score.confusion_matrix(
    labels[mask], probabilities.argmax(axis=1)[mask], 4
  )
  np.testing.assert_array_equal(found.confusion, confusion)
  assert found.loss == pytest.approx(losses[mask].sum(), rel=1e-5)
  assert found.records == mask.sum()
  fields = sums.finalise(jax.device_get(found), CHALLENGE)
  assert fields.pop('loss') == pytest.approx(losses[mask].mean(), rel=1e-5)
  assert fields == score.scores(confusion, CHALLENGE)


def test_not_even_nan_counts_in_a_masked_row():
  probabilities, labels, losses, mask = _examples(20)
  expected = add(sums.Sums.empty(4), probabilities, labels, losses, mask)
  probabilities[~mask], losses[~mask] = np.nan, np.nan
  found = add(sums.Sums.empty(4), probabilities, labels, losses, mask)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_merged_sums_are_those_of_the_union():
  batches = [_examples(40, seed) for seed in range(5)]
  one_by_one = sums.Sums.empty(4)
  for batch in batches:
    one_by_one = add(one_by_one, *batch)
  parts = [add(sums.Sums.empty(4), *batch) for batch in batches]
  merged = jax.tree.map(lambda *sums: sum(sums), *parts)
  union = [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]
  whole = add(sums.Sums.empty(4), *union)
  for found in one_by_one, merged:
    np.testing.assert_array_equal(found.confusion, whole.confusion)
    assert found.loss == pytest.approx(float(whole.loss), rel=1e-5)
    assert found.records == whole.records
  merged, whole = (sums.finalise(x, CHALLENGE) for x in (merged, whole))
  assert merged['score'] == whole['score']


def test_no_example_scores_zero():
  fields = sums.finalise(sums.Sums.empty(4), CHALLENGE)
  assert (fields['records'], fields['loss'], fields['score']) == (0, 0.0, 0.0)

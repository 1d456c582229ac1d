"""Trees score as scikit-learn's do."""

import dataclasses

import jax
import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from ecg_jax.fields.training import TreesFields
from ecg_jax.models import trees
from ecg_jax.training import boosting

FIELDS = TreesFields(
  rounds=8, leaves=7, least_leaf_records=3, learning_rate=0.5
)


def examples(rng, count, classes):
  """Features, some missing or alike, and classes that depend on them."""
  features = rng.normal(size=(count, 6)).astype(np.float32)
  features[:, 3:5] = features[:, 3:5].round()
  features[:, 5] = 1
  features[rng.random(features.shape) < 0.2] = np.nan
  known = np.nan_to_num(features, nan=-1)
  scores = known @ rng.normal(size=(6, classes))
  scores += rng.normal(size=scores.shape)
  return features, scores.argmax(axis=1)


def fitted(monkeypatch, features, labels, fields=FIELDS, *, num_classes):
  """Trees, and scikit-learn's model that they are of."""
  models = []
  fit = HistGradientBoostingClassifier.fit

  def record(model, *args, **kwargs):
    models.append(model)
    return fit(model, *args, **kwargs)

  monkeypatch.setattr(HistGradientBoostingClassifier, 'fit', record)
  found = boosting.fit(
    features, labels, fields, num_classes=num_classes, key=(0, 1)
  )
  return found, models


@pytest.mark.parametrize('num_classes', [2, 3, 4])
@pytest.mark.parametrize('leaves', [2, 7, 40])
def test_probabilities_are_those_of_scikit_learn(
  monkeypatch, num_classes, leaves
):
  rng = np.random.default_rng(num_classes)
  features, labels = examples(rng, 300, num_classes)
  fields = dataclasses.replace(FIELDS, leaves=leaves)
  found, [model] = fitted(
    monkeypatch, features, labels, fields, num_classes=num_classes
  )
  others, _ = examples(rng, 500, num_classes)
  # Also what lies on a threshold.
  splits = found.splits
  used = splits.node >= 0
  at = others[rng.integers(500, size=used.sum())]
  at[np.arange(len(at)), splits.feature[used]] = splits.threshold[used]
  above = np.nextafter(at, np.float32(np.inf))
  asked = np.concatenate([features, others, at, above])
  probabilities = jax.nn.softmax(jax.jit(trees.logits)(found, asked))
  expected = model.predict_proba(asked)
  assert used.any()
  assert np.ptp(expected, axis=0).min() > 0.2
  np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('present', [[2], [1, 3], [0, 2, 3]])
def test_a_class_without_records_has_no_probability(monkeypatch, present):
  rng = np.random.default_rng(0)
  features, labels = examples(rng, 100, len(present))
  classes = np.array(present)[labels]
  found, models = fitted(monkeypatch, features, classes, num_classes=4)
  probabilities = jax.nn.softmax(trees.logits(found, features))
  expected = np.zeros((100, 4))
  expected[:, present] = 1
  for model in models:
    expected[:, present] = model.predict_proba(features)
  np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-6)


def test_trees_do_not_depend_on_threads(monkeypatch):
  rng = np.random.default_rng(0)
  features, labels = examples(rng, 300, 4)
  found = []
  for threads in (1, 3):
    with threadpoolctl.threadpool_limits(threads, user_api='openmp'):
      found.append(fitted(monkeypatch, features, labels, num_classes=4)[0])
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_record_has_the_same_scores_in_any_company(monkeypatch):
  rng = np.random.default_rng(0)
  features, labels = examples(rng, 300, 4)
  found, _ = fitted(monkeypatch, features, labels, num_classes=4)
  score = jax.jit(trees.logits)
  together = np.asarray(score(found, features))
  alone = [np.asarray(score(found, row[None]))[0] for row in features[:9]]
  np.testing.assert_allclose(alone, together[:9], rtol=0, atol=1e-6)


@given(st.floats(-1e38, 1e38))
def test_a_rounded_threshold_decides_alike(threshold):
  rounded = boosting.round_down(np.array([threshold]))[0]
  assert rounded.dtype == np.float32
  assert rounded <= np.float64(threshold)
  above = np.nextafter(rounded, np.float32(np.inf))
  assert above > np.float64(threshold)

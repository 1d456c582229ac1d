"""Scores of one class in another dataset, and their intervals."""

import json

import numpy as np
import pytest

from ecg_jax.evaluation import detection

CLASSES = ('N', 'A', 'O')
GROUPS = ('AFIB', 'FLUTTER', 'NSR', 'PACED', 'MIXED')
MEANING = {'AFIB': 'A', 'FLUTTER': 'A', 'NSR': 'N', 'PACED': 'O'}


def make(count=120, patients=9, seed=0, labels=GROUPS):
  """Records of patients, and made-up probabilities of each, with ties."""
  rng = np.random.default_rng(seed)
  patient = np.arange(count) * patients // count
  label = rng.choice(labels, count)
  weights = np.where([MEANING.get(x) == 'A' for x in label], 3, 1)
  alpha = np.stack([np.ones(count), weights, np.ones(count)], axis=1)
  probabilities = rng.gamma(alpha)
  probabilities /= probabilities.sum(axis=1, keepdims=True)
  names = [f'p{number}' for number in patient]
  records = [f'{name}@{k}-{k + 1}' for k, name in enumerate(names)]
  truth = detection.Truth(records, names, names, label.tolist(), MEANING, 'A')
  return truth, np.round(probabilities, 2)


def of_all(truth, probabilities):
  """The measures, pair by pair and threshold by threshold."""
  found = probabilities.argmax(axis=1) == 1
  kinds = np.array([truth.kind(label) for label in truth.labels])
  positive, negative = kinds == 'positive', kinds == 'negative'
  pairs = probabilities[positive, 1][:, None] - probabilities[negative, 1]
  expected = {
    'auroc': np.mean((pairs > 0) + (pairs == 0) / 2),
    'sensitivity': 100 * found[positive].mean(),
    'specificity': 100 * (1 - found[negative].mean()),
  }
  for least in (95, 99):
    expected[f'specificity_at_{least}'] = max(
      100 * (probabilities[negative, 1] < threshold).mean()
      for threshold in probabilities[positive, 1]
      if 100 * (probabilities[positive, 1] >= threshold).mean() >= least
    )
  return expected


def test_measures_are_those_counted_one_by_one():
  truth, probabilities = make()
  scores = detection.score(truth, probabilities, CLASSES, GROUPS)
  for name, value in of_all(truth, probabilities).items():
    assert scores[name]['value'] == pytest.approx(value), name
  labels = np.array(truth.labels)
  predicted = probabilities.argmax(axis=1)
  assert list(scores['groups']) == list(GROUPS)
  for name, group in scores['groups'].items():
    members = labels == name
    assert group['records'] == members.sum()
    assert group['patients'] == len(set(np.array(truth.patients)[members]))
    assert list(group['predicted'].values()) == [
      np.sum(predicted[members] == k) for k in range(3)
    ]
    share = np.mean(predicted[members] == 1)
    assert group['found']['value'] == pytest.approx(100 * share)
  assert json.loads(json.dumps(scores)) == scores


def test_intervals_are_those_of_patients_drawn_with_replacement(monkeypatch):
  truth, probabilities = make(patients=5)
  monkeypatch.setattr(detection, 'RESAMPLES', 40)
  scores = detection.score(truth, probabilities, CLASSES, GROUPS)
  rng = np.random.default_rng(0)
  names = sorted(set(truth.patients))
  members = [np.flatnonzero(np.array(truth.patients) == x) for x in names]
  drawn = []
  for _ in range(40):
    counts = rng.multinomial(5, np.full(5, 1 / 5))
    rows = np.concatenate(
      [np.tile(members[k], n) for k, n in enumerate(counts)]
    )
    resampled = truth._replace(labels=[truth.labels[k] for k in rows])
    drawn.append(of_all(resampled, probabilities[rows]))
  for name in drawn[0]:
    low, high = np.quantile([one[name] for one in drawn], [0.025, 0.975])
    assert scores[name]['interval'] == pytest.approx([low, high]), name
    assert low < high


def test_a_draw_without_such_records_does_not_count():
  truth, probabilities = make(patients=3)
  labels = ['AFIB' if patient == 'p0' else 'NSR' for patient in truth.patients]
  only = truth._replace(labels=labels)
  scores = detection.score(only, probabilities, CLASSES, GROUPS)
  expected = of_all(only, probabilities)['sensitivity']
  # One patient has all of them, however often drawn.
  interval = scores['sensitivity']['interval']
  assert interval == pytest.approx([expected, expected])
  assert scores['groups']['AFIB']['patients'] == 1


def test_what_separates_all_is_perfect():
  truth, _ = make()
  positive = [truth.kind(label) == 'positive' for label in truth.labels]
  perfect = np.where(
    np.array(positive)[:, None], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]
  )
  scores = detection.score(truth, perfect, CLASSES, GROUPS)
  for name in ('sensitivity', 'specificity_at_95', 'specificity_at_99'):
    assert scores[name] == {'value': 100, 'interval': [100, 100]}
  assert scores['auroc'] == {'value': 1, 'interval': [1, 1]}


def test_recordings_count_their_records():
  truth, probabilities = make()
  predicted = [CLASSES[k] for k in probabilities.argmax(axis=1)]
  counts = detection.by_recording(truth, predicted)
  assert sum(
    kind['records'] for kinds in counts.values() for kind in kinds.values()
  ) == len(truth.records)
  kinds = [truth.kind(label) for label in truth.labels]
  rows = list(zip(truth.recordings, kinds, predicted, strict=True))
  assert counts['p3']['negative']['records'] == sum(
    row[:2] == ('p3', 'negative') for row in rows
  )
  assert counts['p3']['not_scored']['found'] == rows.count(
    ('p3', 'not_scored', 'A')
  )

"""Divisions by patient, folds of others, and what of folds is doubtful."""

import collections
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ecg_jax.datasets import division, doubts, folds, schema
from ecg_jax.errors import InputError
from ecg_jax.runtime import files

PATIENTS = st.lists(
  st.lists(st.sampled_from('ab'), min_size=1, max_size=8),
  min_size=12,
  max_size=40,
)
"""The classes of each one's records."""


def of_patients(patients):
  """Record -> class, and record -> patient."""
  labels, owners = {}, {}
  for number, classes in enumerate(patients):
    for index, label in enumerate(classes):
      labels[f'{number:02}_{index}'] = label
      owners[f'{number:02}_{index}'] = f'p{number}'
  return labels, owners


@hypothesis.given(PATIENTS, st.integers(2, 5), st.integers(0, 99))
def test_a_patient_is_in_one_part_and_classes_are_even(patients, parts, seed):
  labels, owners = of_patients(patients)
  divided = division.divide_by_patient(labels, owners, parts, seed)
  assert sorted(itertools.chain(*divided)) == sorted(labels)
  places = [{owners[record] for record in part} for part in divided]
  assert sum(map(len, places)) == len(patients)
  for name, total in collections.Counter(labels.values()).items():
    counts = [sum(labels[x] == name for x in part) for part in divided]
    assert max(counts) - min(counts) <= 2 * 8 + 0.2 * total
  shuffled = dict(reversed(labels.items()))
  assert division.divide_by_patient(shuffled, owners, parts, seed) == divided


def test_division_by_patient_is_frozen_and_seeded():
  """As runs draw it again; its classes are within 3 % of a fifth."""
  rng = np.random.default_rng(0)
  labels, owners = of_patients(
    [
      rng.choice(['a', 'b', 'c'], 4, p=rng.dirichlet([1, 1, 1]))
      for _ in range(60)
    ]
  )
  one, other = (
    division.divide_by_patient(labels, owners, 5, seed) for seed in (14, 15)
  )
  assert one != other
  assert files.digest(one).startswith('2e5de5ba1d8a')
  totals = collections.Counter(labels.values())
  for part in one:
    shares = collections.Counter(labels[record] for record in part)
    for name, total in totals.items():
      assert shares[name] / total == pytest.approx(0.2, abs=0.03)


SPEC = schema.DatasetSpec(
  classes=('a', 'b'), num_folds=3, by_patient=True, sampling_rate=100
)


def test_sets_of_published_folds_share_no_patient():
  labels, owners = of_patients([['a', 'a', 'b'], ['b'], ['a']] * 6)
  table = folds.published(labels, SPEC, owners)
  folds.check_table(table, labels)
  for sets in table['folds'].values():
    named = [{owners[record] for record in sets[name]} for name in sets]
    assert sum(map(len, named)) == 18
    for records in sets.values():
      assert {labels[record] for record in records} == {'a', 'b'}


def test_too_few_patients_of_a_class_are_refused():
  labels, owners = of_patients([['a']] * 9 + [['b'] * 20] * 2)
  with pytest.raises(InputError, match="no record of class 'b', which 2 pat"):
    folds.published(labels, SPEC, owners)


def test_command_divides_a_table_of_labels_by_patient(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  labels, owners = of_patients([['a', 'a', 'b'], ['b'], ['a']] * 6)
  lines = [f'{x},{labels[x]},{owners[x]}\n' for x in labels]
  (tmp_path / 'labels.csv').write_text(
    'record,label,patient\n' + ''.join(lines)
  )
  arguments = ['--labels=labels.csv', '--num_folds=3', '--out=folds.json']
  assert folds.main(arguments) == 0
  found = folds.read_table('folds.json')
  assert found == folds.published(labels, SPEC, owners)


def test_parts_of_others_become_folds(tmp_path, monkeypatch, refusal):
  monkeypatch.chdir(tmp_path)
  rows = [f'A{k:05},x/A{k:05}.mat,{k % 3 + 1}\n' for k in range(1, 8)]
  text = 'record_name,signal_path,fold\n' + ''.join(rows)
  (tmp_path / 'parts.csv').write_text(text)
  arguments = ['--parts=parts.csv', '--out=folds.json']
  assert folds.main(arguments) == 0
  table = folds.read_table('folds.json')
  folds.check_table(table, [row.partition(',')[0] for row in rows])
  assert {
    fold: {name: [int(x[1:]) for x in sets[name]] for name in sets}
    for fold, sets in table['folds'].items()
  } == {
    '0': {'test': [3, 6], 'validation': [1, 4, 7], 'train': [2, 5]},
    '1': {'test': [1, 4, 7], 'validation': [2, 5], 'train': [3, 6]},
    '2': {'test': [2, 5], 'validation': [3, 6], 'train': [1, 4, 7]},
  }
  for changed, message in (
    (text.replace('fold', 'part'), 'has the columns'),
    (text.replace(',2\n', ',x\n'), "its fold, 'x': correct it"),
    (text + rows[0], 'Line 9 of parts.csv has the record'),
    (text.replace(',3\n', ',2\n'), '2 parts make no train, validation and'),
  ):
    (tmp_path / 'parts.csv').write_text(changed)
    assert message in refusal(folds.main, *arguments)


def test_same_samples_in_two_sets_are_told():
  sets = {'train': ['a', 'b'], 'validation': ['c'], 'test': ['d']}
  digests = {'a': '1', 'b': '1', 'c': '2', 'd': '3', 'e': '3'}
  assert not doubts.same_samples({'0': sets}, digests)
  [told] = doubts.same_samples({'0': sets}, digests | {'d': '1'})
  assert told.startswith('3 records have the samples of another one in another')
  assert 'like d (test) and a (train) of fold 0' in told


def test_patients_with_half_of_a_class_are_told():
  labels, owners = of_patients([['a'], ['a'], ['a', 'b', 'b'], ['b']])
  [told] = doubts.large_patients(labels, owners)
  assert told.startswith("Patient p2 has 2 of the 3 records of class 'b'")
  assert not doubts.large_patients(labels, {})

import collections
import hashlib
import json
import zipfile

import hypothesis
import hypothesis.strategies as st
import pytest

from ecg_jax.datasets import division, folds, schema
from ecg_jax.errors import InputError

CLASSES = schema.CHALLENGE.classes

label_maps = st.dictionaries(
  st.text('0123456789', min_size=4, max_size=4),
  st.sampled_from(CLASSES),
  max_size=60,
)


def some_labels(records: int = 120) -> dict[str, str]:
  return {f'A{i:05d}': 'NNNNAAOOO~'[i % 10] for i in range(records)}


@hypothesis.given(
  label_maps, st.integers(1, 7), st.integers(0, 99), st.randoms()
)
def test_divide_partitions_every_class_evenly(labels, parts, seed, random):
  divided = division.divide(labels, CLASSES, parts, seed)
  assert sorted(r for part in divided for r in part) == sorted(labels)
  assert all(part == sorted(part) for part in divided)
  for name in CLASSES:
    counts = [sum(labels[r] == name for r in part) for part in divided]
    assert max(counts) - min(counts) <= 1
  # Whatever the order of the labels.
  items = list(labels.items())
  random.shuffle(items)
  assert division.divide(dict(items), CLASSES, parts, seed) == divided


def test_seed_changes_the_division():
  labels = some_labels()
  one, other = (division.divide(labels, CLASSES, 5, seed) for seed in (14, 15))
  assert one != other


@pytest.mark.parametrize('holdout', [False, True])
@pytest.mark.parametrize(('num_folds', 'parts'), [(2, 2), (5, 6), (3, 4)])
def test_folds_test_every_record_once(num_folds, parts, holdout):
  labels = some_labels()
  table = folds.make_folds(
    labels, num_folds=num_folds, train_validation_parts=parts, holdout=holdout
  )
  folds.check_table(table, labels)
  tested = [r for sets in table['folds'].values() for r in sets['test']]
  assert sorted(tested + table['holdout']) == sorted(labels)
  left_out = len(table['holdout'])
  # One of num_folds + 1 parts, up to one record for each class.
  share = len(labels) / (num_folds + 1) if holdout else 0
  assert abs(left_out - share) <= 4
  for sets in table['folds'].values():
    rest = len(sets['train']) + len(sets['validation'])
    assert abs(len(sets['validation']) - rest / parts) <= 4


TWO = schema.DatasetSpec(
  classes=('sinus', 'other rhythm'), num_folds=3, sampling_rate=100
)


def test_a_datasets_own_folds_have_its_classes_and_number():
  labels = {f'r{i:03d}': TWO.classes[i % 5 == 0] for i in range(60)}
  table = folds.published(labels, TWO)
  assert list(table['folds']) == ['0', '1', '2']
  assert table['algorithm'].startswith('by class in the order sinus other')
  folds.check_table(table, labels)
  for sets in table['folds'].values():
    assert [labels[r] for r in sets['test']].count('other rhythm') == 4


def test_published_folds(real_data):
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    text = archive.read('training2017/REFERENCE.csv').decode()
  labels = folds.parse_labels(text, source='REFERENCE.csv')
  table = folds.make_folds(labels)
  published = json.loads((real_data / 'splits.sha256.json').read_text())
  for fold, sets in published['folds'].items():
    for name, expected in sets.items():
      lines = ''.join(f'{r}\n' for r in table['folds'][fold][name])
      assert hashlib.sha256(lines.encode()).hexdigest() == expected
  sizes = {k: len(v) for k, v in table['folds']['4'].items()}
  assert sizes == {'train': 5685, 'validation': 1139, 'test': 1704}
  digest = hashlib.sha256(text.encode()).hexdigest()
  assert table['labels_sha256'] == digest


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'num_folds': 1}, 'at least 2'),
    ({'train_validation_parts': 1}, 'at least 2'),
    ({'seed': -1}, 'Seed -1'),
    ({'seed': 2**32}, 'Seed 4294967296'),
    ({'num_folds': 100}, 'test set of fold'),
  ],
)
def test_impossible_folds_are_refused(arguments, message):
  with pytest.raises(InputError, match=message):
    folds.make_folds(some_labels(), **arguments)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('A1,N\nA2,X\n', "Line 2 of labels is 'A2,X'"),
    ('A1\n', "Line 1 of labels is 'A1'"),
    (',N\n', 'Line 1'),
    ('A1,N\nA1,N\n', 'names record A1 a second time'),
  ],
)
def test_malformed_labels_are_refused(text, message):
  with pytest.raises(InputError, match=message):
    folds.parse_labels(text, source='labels')


def test_labels_have_the_classes_of_their_dataset():
  found = folds.parse_labels(
    'a,other rhythm\n', source='labels', classes=TWO.classes
  )
  assert found == {'a': 'other rhythm'}
  with pytest.raises(InputError, match='a class of sinus, other rhythm'):
    folds.parse_labels('a,N\n', source='labels', classes=TWO.classes)


def test_labels_are_joined_by_name_whatever_their_line_ends():
  expected = {'A1': 'N', 'A2': '~'}
  for text in ['A1,N\nA2,~\n', 'A1,N\r\nA2,~\r\n', 'A2,~\nA1,N']:
    assert folds.parse_labels(text, source='labels') == expected


def add(name, record_of):
  """Adds a record to a set of fold 1."""

  def change(table):
    fold = table['folds']['1']
    fold[name].append(record_of(table, fold))

  return change


SPOILERS = {
  'in the train set of fold 1 and already in the train': add(
    'train', lambda table, fold: fold['train'][0]
  ),
  'in the test set of fold 1 and already in the train': add(
    'test', lambda table, fold: fold['train'][0]
  ),
  'in the holdout set of fold 1 and already in the test': add(
    'test', lambda table, fold: table['holdout'][0]
  ),
  'Record A99999 in the validation set of fold 1 is not': add(
    'validation', lambda table, fold: 'A99999'
  ),
  'in neither the train, the validation, the test set of fold 1': (
    lambda table: table['folds']['1']['validation'].pop()
  ),
  'in the test set of fold 1 and already in that of fold 0': (
    lambda table: table['folds'].update({'1': table['folds']['0']})
  ),
}


@pytest.mark.parametrize('message', SPOILERS)
def test_unfit_tables_are_refused(message):
  labels = some_labels()
  table = folds.make_folds(labels, num_folds=3, holdout=True)
  folds.check_table(table, labels)
  SPOILERS[message](table)
  with pytest.raises(InputError, match=message):
    folds.check_table(table, labels)


def test_fields_of_other_types_are_refused(tmp_path):
  path = tmp_path / 'folds.json'
  table = folds.make_folds(some_labels(), num_folds=2)
  fold = table['folds']['0']
  wrong = [
    ('is not a JSON object', []),
    ("no field 'holdout'", {**table, 'holdout': None}),
    ("a 'holdout' that is not a list", {**table, 'holdout': [1]}),
    (r'folds named \[\]', {**table, 'folds': {}}),
    (r"folds named \['1'\]", {**table, 'folds': {'1': fold}}),
    ('without exactly', {**table, 'folds': {'0': {'train': ['A1']}}}),
    ('without exactly', {**table, 'folds': {'0': {**fold, 'more': ['A1']}}}),
    ('test set of fold 0', {**table, 'folds': {'0': {**fold, 'test': []}}}),
    ('test set of fold 0', {**table, 'folds': {'0': {**fold, 'test': [3]}}}),
  ]
  contents = [(message, json.dumps(x).encode()) for message, x in wrong]
  contents += [('not JSON', b'{"folds": '), ('not UTF-8', b'\xff')]
  for message, content in contents:
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
      folds.read_table(path)
  with pytest.raises(InputError, match='No such file'):
    folds.read_table(tmp_path / 'none.json')


@pytest.fixture
def labels_file(tmp_path, monkeypatch):
  """Writes labels to labels.csv of the current folder."""
  monkeypatch.chdir(tmp_path)
  lines = [f'{record},{label}\n' for record, label in some_labels().items()]
  (tmp_path / 'labels.csv').write_text(''.join(lines))


def test_command_writes_the_table_it_was_asked_for(tmp_path, labels_file):
  arguments = ['--labels', 'labels.csv', '--num_folds', '3', '--holdout']
  arguments += ['--train_validation_parts', '4', '--seed', '7']
  assert folds.main([*arguments, '--out', 'folds.json']) == 0
  assert folds.read_table('folds.json') == folds.make_folds(
    some_labels(), num_folds=3, train_validation_parts=4, seed=7, holdout=True
  )
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['folds.json', 'labels.csv']


def test_command_takes_other_classes(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  labels = {f'r{i:03d}': TWO.classes[i % 2] for i in range(40)}
  lines = [f'{record},{label}\n' for record, label in labels.items()]
  (tmp_path / 'labels.csv').write_text(''.join(lines))
  arguments = ['--labels', 'labels.csv', '--num_folds', '3']
  arguments += ['--classes', 'sinus,other rhythm', '--out', 'folds.json']
  assert folds.main(arguments) == 0
  assert folds.read_table('folds.json') == folds.published(labels, TWO)


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    (['--labels', 'none.csv'], 'none.csv cannot be read (No such file'),
    (['--num_folds', '1'], 'at least 2'),
    (['--num_folds', 'x'], 'invalid int value'),
    (['--out', 'none/folds.json'], 'Cannot write none/folds.json'),
    (['--fold', '3', '--what'], 'nrecognized arguments'),
  ],
)
def test_command_reports_errors_in_one_line(
  tmp_path, capsys, labels_file, changed, message
):
  arguments = ['--labels', 'labels.csv', '--out', 'folds.json', *changed]
  assert folds.main(arguments) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert message in lines[0]
  assert [p.name for p in tmp_path.iterdir()] == ['labels.csv']
  assert folds.main([*arguments, '--debug']) == 2
  assert 'Traceback' in capsys.readouterr().err


def test_classes_have_the_same_share_everywhere():
  labels = some_labels(600)
  table = folds.make_folds(labels)
  for sets in table['folds'].values():
    for members in sets.values():
      shares = collections.Counter(labels[r] for r in members)
      for name, share in zip('NAO~', [0.4, 0.2, 0.3, 0.1], strict=True):
        assert shares[name] / len(members) == pytest.approx(share, abs=0.05)

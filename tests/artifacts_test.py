import csv
import dataclasses
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from ecg_jax import registry
from ecg_jax.configs import crnn
from ecg_jax.datasets import folds
from ecg_jax.datasets.schema import CHALLENGE, DatasetSpec
from ecg_jax.datasets.training_range import Ranges
from ecg_jax.errors import InputError
from ecg_jax.runs import artifacts, predictions
from ecg_jax.runtime import files
from tests.helpers import ROOT

COLUMNS = predictions.columns(CHALLENGE.classes)

DIGESTS = {
  'dataset': '1' * 64,
  'labels': {'v1': '2' * 64, 'v3': '3' * 64},
  'folds': '4' * 64,
  'records': {'A00001': '5' * 64},
}


def begin_run(folder, config, digests=DIGESTS, spec=CHALLENGE):
  artifacts.begin_run(folder, config, digests, spec)


def config_with(**fields):
  config = crnn.get_config()
  config.update(fields)
  return config


def files_of(folder):
  return sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.name != '.lock'
  )


def read(folder):
  return json.loads((folder / 'config.json').read_text())


@pytest.mark.parametrize('failing', ['write_bytes', 'replace'])
def test_a_write_that_fails_leaves_the_old_file_alone(
  tmp_path, monkeypatch, failing
):
  path = tmp_path / 'scores.json'
  artifacts.write_scores(path, {'fold': 0})
  before = path.read_bytes()

  def fail(path, content):
    if failing == 'write_bytes':
      with path.open('wb') as file:
        file.write(content[: len(content) // 2])
    raise OSError(28, 'No space left on device')

  owner = pathlib.Path if failing == 'write_bytes' else os
  monkeypatch.setattr(owner, failing, fail)
  with pytest.raises(InputError, match=r'scores\.json .*No space left'):
    artifacts.write_scores(path, {'fold': 1})
  assert path.read_bytes() == before
  assert files_of(tmp_path) == ['scores.json']


HOLD = """
import pathlib, sys
from ecg_jax.runtime import files
with files.locked(pathlib.Path(sys.argv[1]), wait=False):
  print('held', flush=True)
  sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path):
  folder = tmp_path / 'run' / 'fold0'
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
  holder = [sys.executable, '-c', HOLD, str(folder)]
  with subprocess.Popen(holder, cwd=ROOT, text=True, **pipes) as process:
    assert process.stdout.readline() == 'held\n'
    with (
      pytest.raises(InputError, match=f'in use by process {process.pid} on '),
      files.locked(folder, wait=False),
    ):
      pass
    # The one that was refused has not put its own name there.
    assert f'process {process.pid} ' in (folder / '.lock').read_text()
    process.kill()
  with files.locked(folder, wait=False):
    holder = f'process {os.getpid()} on {socket.gethostname()}\n'
    assert (folder / '.lock').read_text() == holder
  assert (folder / '.lock').read_text() == ''


def test_what_killed_processes_left_half_written_goes_with_the_lock(tmp_path):
  ended = subprocess.Popen([sys.executable, '-c', ''])
  ended.wait()
  host = socket.gethostname()
  left = [f'.a.csv.{host}.{ended.pid}.tmp']
  others = [
    f'.a.csv.{host}.{os.getpid()}.tmp',
    f'.a.csv.another-{host}.{ended.pid}.tmp',
    '.x.tmp',
  ]
  for name in left + others:
    (tmp_path / name).touch()
  with files.locked(tmp_path, wait=False):
    found = {path.name for path in tmp_path.iterdir()}
  assert found == {'.lock', *others}


def test_folders_that_cannot_be_written_to(tmp_path, monkeypatch):
  file = tmp_path / 'file'
  file.write_text('in the way')
  dangling = tmp_path / 'link'
  dangling.symlink_to(tmp_path / 'nowhere')
  too_long = tmp_path / ('a' * 300)
  none = pathlib.Path('/proc/none')
  message = r'cannot be written to .*--workdir'
  for base in (file, dangling, too_long, none):
    for folder in (base, base / 'run'):
      with pytest.raises(InputError, match=message):
        files.check_writable(folder)
  for folder in (file, file / 'run'):
    with pytest.raises(InputError, match=message):
      files.locked(folder, wait=False).__enter__()
  # A folder created for a moment would be lost to a process that needs it.
  monkeypatch.setattr(pathlib.Path, 'mkdir', None)
  files.check_writable(tmp_path / 'a' / 'b')
  assert files_of(tmp_path) == ['file', 'link']


def test_config_json_is_written_once_but_for_the_folds(tmp_path):
  run = tmp_path / 'run'
  begin_run(run, config_with(folds=(3,)))
  first = read(run)
  assert first['digests'] == DIGESTS
  assert set(first) == {*('config', 'versions', 'commit', 'digests', 'dataset')}
  assert {'python', 'jax', 'numpy'} <= set(first['versions'])
  assert all(first['versions'].values())
  later = config_with(folds=(1, 3), tensorboard=False)
  later.data.data_dir = '/elsewhere'
  begin_run(run, later)
  expected = {**first, 'config': {**first['config'], 'folds': [1, 3]}}
  assert read(run) == expected
  begin_run(run, config_with(folds=(1,)))
  assert read(run) == expected
  assert files_of(run) == ['config.json']


def test_another_config_is_refused_with_its_fields(tmp_path):
  artifacts.check_config(tmp_path, config_with(seed=1))
  begin_run(tmp_path, config_with(seed=1))
  before = (tmp_path / 'config.json').read_bytes()
  other = config_with(seed=2, folds=(0,))
  other.model.lstm_units = 100
  for refuse in (artifacts.check_config, begin_run):
    with pytest.raises(InputError) as caught:
      refuse(tmp_path, other)
    message = str(caught.value)
    assert 'seed: 2 here, 1 there' in message
    assert 'model.lstm_units: 100 here, 200 there' in message
    assert 'folds' not in message
  assert (tmp_path / 'config.json').read_bytes() == before


@pytest.mark.parametrize('name', DIGESTS)
def test_other_data_are_refused_by_name(tmp_path, name):
  begin_run(tmp_path, config_with())
  before = (tmp_path / 'config.json').read_bytes()
  other = {'v1': 'x'} if isinstance(DIGESTS[name], dict) else 'x' * 64
  with pytest.raises(InputError, match=f'whose {name} had other content'):
    begin_run(tmp_path, config_with(), {**DIGESTS, name: other})
  assert (tmp_path / 'config.json').read_bytes() == before


def test_a_run_without_digests_of_single_records_is_compared_too(tmp_path):
  """As those in results/ are."""
  path = tmp_path / 'config.json'
  begin_run(tmp_path, config_with())
  run = read(tmp_path)
  del run['digests']['records']
  path.write_text(json.dumps(run))
  before = path.read_bytes()
  begin_run(tmp_path, config_with())
  with pytest.raises(InputError, match='whose dataset had other content'):
    begin_run(tmp_path, config_with(), {**DIGESTS, 'dataset': 'x'})
  assert path.read_bytes() == before


FOLD_0 = '{"config": {"folds": [0]}, "digests": '
COMPLETE = json.dumps(DIGESTS)


@pytest.mark.parametrize(
  'content',
  [
    '',
    '{',
    '[]',
    '3',
    '{}',
    f'{{"config": 3, "digests": {COMPLETE}}}',
    f'{{"config": {{}}, "digests": {COMPLETE}}}',
    f'{{"config": {{"folds": 3}}, "digests": {COMPLETE}}}',
    FOLD_0 + '3}',
    FOLD_0 + '{}}',
    FOLD_0 + COMPLETE.replace('dataset', 'data') + '}',
    FOLD_0 + COMPLETE.replace('{"A00001"', '3, "x": {"A00001"') + '}',
    FOLD_0 + COMPLETE.replace('{"v1"', '3, "x": {"v1"') + '}',
  ],
)
def test_a_damaged_config_json_is_refused(tmp_path, content):
  path = tmp_path / 'config.json'
  path.write_text(content)
  with pytest.raises(InputError, match=r'config\.json is damaged'):
    artifacts.read_run(tmp_path)
  with pytest.raises(InputError, match=r'config\.json is damaged'):
    begin_run(tmp_path, config_with())
  assert path.read_text() == content


def test_a_folder_of_something_else_is_no_run(tmp_path):
  with pytest.raises(InputError, match=r'no run folder.*config\.json'):
    artifacts.read_run(tmp_path)
  (tmp_path / 'config.json').mkdir()
  with pytest.raises(InputError, match=r'config\.json cannot be read'):
    artifacts.read_run(tmp_path)


def test_digest_is_that_of_the_content_in_any_order():
  assert files.digest({'a': 1, 'b': [2]}) == files.digest({'b': [2], 'a': 1})
  values = [{'a': [1, 2]}, {'a': [2, 1]}, {'a': [12]}, {'b': [1, 2]}]
  assert len({files.digest(value) for value in values}) == len(values)


def test_predictions_are_sorted_and_exact(tmp_path):
  rng = np.random.default_rng(0)
  probabilities = rng.dirichlet(np.ones(4), 5).astype(np.float32)
  records = ['A00003', 'A00001', 'A00005', 'A00002', 'A00004']
  labels = ['N', 'A', 'O', '~', 'N']
  path = tmp_path / 'fold2' / 'predictions.csv'
  predictions.write(
    path,
    records=records,
    labels=labels,
    probabilities=probabilities,
    fold=2,
    classes=CHALLENGE.classes,
  )
  text = path.read_text()
  header, *rows = csv.reader(text.splitlines())
  assert header == [
    *('record', 'fold', 'label', 'predicted'),
    *('probability_N', 'probability_A', 'probability_O', 'probability_~'),
  ]
  for row, record in zip(rows, sorted(records), strict=True):
    index = records.index(record)
    predicted = 'NAO~'[probabilities[index].argmax()]
    cells = [repr(float(p)) for p in probabilities[index]]
    assert row == [record, '2', labels[index], predicted, *cells]
  assert text.endswith('\n')
  assert '\r' not in text
  assert files_of(path.parent) == ['predictions.csv']


@pytest.fixture
def two_predictions(tmp_path):
  """A file with two predictions."""
  path = tmp_path / predictions.FILES['test']
  predictions.write(
    path,
    records=['A1', 'A2'],
    labels=['A', '~'],
    probabilities=np.eye(4, dtype=np.float32)[[1, 0]],
    fold=0,
    classes=CHALLENGE.classes,
  )
  return path


def test_predictions_are_what_the_summary_reads(two_predictions):
  header, *lines = two_predictions.read_text().splitlines()
  assert header == ','.join(COLUMNS)
  # Columns that another version added are skipped.
  lines = [f'more,{header},last', *(f'x,{line},"1,5"' for line in lines)]
  for text in (two_predictions.read_text(), '\n'.join(lines)):
    two_predictions.write_text(text)
    found = predictions.read(two_predictions, 0, CHALLENGE.classes)
    assert found.records == ['A1', 'A2']
    assert found.labels.tolist() == [1, 3]
    assert found.predicted.tolist() == [1, 0]
    assert found.probabilities.tolist() == np.eye(4)[[1, 0]].tolist()


@pytest.mark.parametrize('column', COLUMNS)
def test_predictions_without_a_column_are_refused(two_predictions, column):
  text = two_predictions.read_text().replace(column, 'another')
  two_predictions.write_text(text)
  with pytest.raises(InputError, match=f'the columns .*another.*{column}.*ore'):
    predictions.read(two_predictions, 0, CHALLENGE.classes)


def test_labels(tmp_path):
  labels = {
    'v2': {'A2': 'O', 'A1': 'N'},
    'v1': {'A1': 'A', 'A2': '~'},
    'v3': {'A1': 'N', 'A2': 'N'},
  }
  artifacts.write_labels(tmp_path / 'labels.csv', labels)
  expected = 'record,v1,v2,v3\nA1,A,N,N\nA2,~,O,N\n'
  assert (tmp_path / 'labels.csv').read_text() == expected


def test_scores_are_read_as_written_and_damage_is_reported(tmp_path):
  path = tmp_path / 'scores.json'
  scores = {'fold': 1, 'sets': {'test': {'score': 100 / 3}}}
  artifacts.write_scores(path, scores)
  assert artifacts.read_scores(path) == scores
  for content in ['', '{"fold":', '3']:
    path.write_text(content)
    with pytest.raises(InputError, match=r'scores\.json is damaged'):
      artifacts.read_scores(path)


def test_the_commit_is_that_of_this_repository():
  inside = subprocess.run(
    ['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True
  )
  if inside.returncode:
    assert artifacts.commit() is None
  else:
    assert artifacts.commit().removesuffix('-dirty') == inside.stdout.strip()


def test_predictions_with_a_negative_probability_are_refused(tmp_path):
  path = tmp_path / 'predictions.csv'
  predictions.write(
    path,
    records=['A00001'],
    labels=['N'],
    probabilities=np.array([[1.5, -0.25, -0.25, 0]], np.float32),
    fold=0,
    classes=CHALLENGE.classes,
  )
  with pytest.raises(InputError, match='Line 2 of'):
    predictions.read(path, 0, CHALLENGE.classes)


# What the dataset is.

OTHER = DatasetSpec(
  classes=('a', 'b', 'c'),
  scored_classes=('a', 'b'),
  episode_class='b',
  label_versions=('first',),
  sampling_rate=500,
  counts_per_millivolt=200.0,
  longest_samples=5000,
  ranges=Ranges(
    seconds=(5.0, 10.0),
    millivolt=(0.5, 4.0),
    power_above_40_hz=(1e-4, 0.1),
  ),
)


def test_a_run_keeps_what_its_dataset_is(tmp_path):
  begin_run(tmp_path, config_with(), spec=OTHER)
  assert artifacts.read_spec(tmp_path) == OTHER
  before = read(tmp_path)
  assert before['dataset']['classes'] == ['a', 'b', 'c']
  measured = dataclasses.replace(OTHER, longest_samples=6000, ranges=None)
  begin_run(tmp_path, config_with(), spec=measured)
  assert read(tmp_path) == before


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('classes', ('a', 'b', 'd')),
    ('classes', ('b', 'a', 'c')),
    ('scored_classes', ('a',)),
    ('sampling_rate', 250),
    ('counts_per_millivolt', 1000.0),
  ],
)
def test_another_kind_of_dataset_is_refused(tmp_path, field, value):
  begin_run(tmp_path, config_with(), spec=OTHER)
  other = dataclasses.replace(OTHER, **{field: value})
  with pytest.raises(InputError, match='another dataset') as error:
    begin_run(tmp_path, config_with(), spec=other)
  words = f'{field}: {value!r} here, {getattr(OTHER, field)!r} there'
  assert words in str(error.value)


def edit(folder, **changes):
  """Changes keys of config.json, or removes those that are None."""
  run = {**read(folder), **changes}
  run = {name: value for name, value in run.items() if value is not None}
  (folder / 'config.json').write_text(json.dumps(run))


@pytest.mark.parametrize('data', ['physionet2017', 'synthetic_ecg'])
def test_a_run_of_an_older_version_is_of_the_challenge(tmp_path, data):
  config = config_with()
  config.data.name = data
  begin_run(tmp_path, config)
  edit(tmp_path, dataset=None)
  found = artifacts.read_spec(tmp_path)
  described = found.description == CHALLENGE.description
  assert described == (data == 'physionet2017')
  undescribed = dataclasses.replace(CHALLENGE, description=found.description)
  assert found == undescribed
  begin_run(tmp_path, config)
  assert 'dataset' not in read(tmp_path)


def test_what_a_newer_version_adds_to_a_run_is_accepted(tmp_path):
  begin_run(tmp_path, config_with(), spec=OTHER)
  more = {**read(tmp_path)['dataset'], 'patients': 20}
  edit(tmp_path, dataset=more, host='a', digests={**DIGESTS, 'more': '6'})
  before = read(tmp_path)
  assert artifacts.read_spec(tmp_path) == OTHER
  begin_run(tmp_path, config_with(), spec=OTHER)
  assert read(tmp_path) == before
  path = tmp_path / 'scores.json'
  artifacts.write_scores(path, {'fold': 1, 'added': [2]})
  assert artifacts.read_scores(path) == {'fold': 1, 'added': [2]}


@pytest.mark.parametrize(
  'dataset',
  [
    *(3, [], {}, 'x', {'classes': ['a', 'b']}),
    {'classes': ['a'], 'sampling_rate': 300},
    {**OTHER.to_json(), 'ranges': {'seconds': [1, 2]}},
  ],
)
def test_a_damaged_description_is_refused(tmp_path, dataset):
  begin_run(tmp_path, config_with())
  edit(tmp_path, dataset=dataset)
  with pytest.raises(InputError, match=r'config\.json is damaged'):
    artifacts.read_spec(tmp_path)


def test_columns_that_a_newer_version_adds_to_labels_are_skipped(tmp_path):
  labels = {'v1': {'A1': 'N', 'A2': 'O'}, 'v2': {'A1': 'A', 'A2': 'A'}}
  digest = folds.labels_digest(labels['v1'])
  begin_run(tmp_path, config_with(), {**DIGESTS, 'labels': {'v1': digest}})
  path = tmp_path / 'labels.csv'
  artifacts.write_labels(path, labels)
  header, *lines = path.read_text().splitlines()
  text = [f'{header},age', *(f'{line},"4,5"' for line in lines)]
  path.write_text('\n'.join(text))
  assert artifacts.read_labels(tmp_path, 'v1') == labels['v1']


def test_labels_with_a_comma_are_read_as_written(tmp_path):
  labels = {'v1': {'A1': 'flutter, atrial', 'A2': '"O"'}}
  digest = folds.labels_digest(labels['v1'])
  begin_run(tmp_path, config_with(), {**DIGESTS, 'labels': {'v1': digest}})
  artifacts.write_labels(tmp_path / 'labels.csv', labels)
  assert artifacts.read_labels(tmp_path, 'v1') == labels['v1']


def test_predictions_of_other_classes_have_their_columns(tmp_path):
  path = tmp_path / 'predictions.csv'
  probabilities = np.array([[0.5, 0.25, 0.25]], np.float32)
  classes = ('a', 'b, c', 'd')
  predictions.write(
    path,
    records=['R1'],
    labels=['b, c'],
    probabilities=probabilities,
    fold=0,
    classes=classes,
  )
  found = predictions.read(path, 0, classes)
  assert (found.labels.tolist(), found.predicted.tolist()) == ([1], [0])
  assert found.probabilities.tolist() == probabilities.tolist()
  with pytest.raises(InputError, match='probability_N'):
    predictions.read(path, 0, CHALLENGE.classes)


# Files that a config names.

SOURCES = {'/a/model.py:Model': '7' * 64, '/a/metric.py:mine': '8' * 64}


def test_a_changed_file_of_ones_own_is_refused_by_its_name(tmp_path):
  begin = functools.partial(begin_run, tmp_path, config_with())
  begin({**DIGESTS, 'sources': SOURCES})
  begin({**DIGESTS, 'sources': SOURCES})
  changed = SOURCES | {'/a/model.py:Model': '9' * 64}
  with pytest.raises(InputError, match=r'uses /a/model\.py:Model') as error:
    begin({**DIGESTS, 'sources': changed})
  assert 'digest 777777777777 there, 999999999999 here' in str(error.value)
  assert 'restore that file' in str(error.value)
  # Metrics may change between starts.
  begin({**DIGESTS, 'sources': {'/a/model.py:Model': '7' * 64}})
  begin({**DIGESTS, 'sources': SOURCES | {'/a/metric.py:other': '9' * 64}})
  begin(DIGESTS)


def test_a_missing_file_of_ones_own_is_refused_by_its_name(tmp_path):
  begin_run(tmp_path, config_with(), {**DIGESTS, 'sources': SOURCES})
  run = artifacts.read_run(tmp_path)
  artifacts.check_sources(tmp_path, run, {**SOURCES, 'kappa': None})
  missing = {**SOURCES, '/a/metric.py:mine': None}
  with pytest.raises(
    InputError, match=r'metric\.py:mine, which does not exist'
  ):
    artifacts.check_sources(tmp_path, run, missing)


def test_a_later_start_keeps_its_metrics_and_their_files(tmp_path):
  """Scores are computed from predictions, so that a metric may change."""
  file = tmp_path / 'metric.py'
  name = f'{file}:kappa'
  for content in ('kappa = 1', 'kappa = 2'):
    file.write_text(content)
    begin_run(tmp_path / 'run', config_with(metrics=(name,)))
    run = read(tmp_path / 'run')
    assert run['config']['metrics'] == [name]
    assert run['metric_sources'] == registry.source_digests([name])
  begin_run(tmp_path / 'run', config_with(metrics=()))
  run = read(tmp_path / 'run')
  assert (run['config']['metrics'], run['metric_sources']) == ([], {})

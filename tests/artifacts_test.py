import csv
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from ecg_jax.configs import crnn
from ecg_jax.errors import InputError
from ecg_jax.runs import artifacts, predictions
from ecg_jax.runtime import files
from tests.helpers import ROOT

DIGESTS = {
  'dataset': '1' * 64,
  'labels': {'v1': '2' * 64, 'v3': '3' * 64},
  'folds': '4' * 64,
  'records': {'A00001': '5' * 64},
}


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
  artifacts.begin_run(run, config_with(folds=(3,)), DIGESTS)
  first = read(run)
  assert first['digests'] == DIGESTS
  assert set(first) == {'config', 'versions', 'commit', 'digests'}
  assert {'python', 'jax', 'numpy'} <= set(first['versions'])
  assert all(first['versions'].values())
  later = config_with(folds=(1, 3), tensorboard=False)
  later.data.data_dir = '/elsewhere'
  artifacts.begin_run(run, later, DIGESTS)
  expected = {**first, 'config': {**first['config'], 'folds': [1, 3]}}
  assert read(run) == expected
  artifacts.begin_run(run, config_with(folds=(1,)), DIGESTS)
  assert read(run) == expected
  assert files_of(run) == ['config.json']


def test_another_config_is_refused_with_its_fields(tmp_path):
  artifacts.check_config(tmp_path, config_with(seed=1))
  artifacts.begin_run(tmp_path, config_with(seed=1), DIGESTS)
  before = (tmp_path / 'config.json').read_bytes()
  other = config_with(seed=2, folds=(0,))
  other.model.lstm_units = 100
  begin = functools.partial(artifacts.begin_run, digests=DIGESTS)
  for refuse in (artifacts.check_config, begin):
    with pytest.raises(InputError) as caught:
      refuse(tmp_path, other)
    message = str(caught.value)
    assert 'seed: 2 here, 1 there' in message
    assert 'model.lstm_units: 100 here, 200 there' in message
    assert 'folds' not in message
  assert (tmp_path / 'config.json').read_bytes() == before


@pytest.mark.parametrize('name', DIGESTS)
def test_other_data_are_refused_by_name(tmp_path, name):
  artifacts.begin_run(tmp_path, config_with(), DIGESTS)
  before = (tmp_path / 'config.json').read_bytes()
  other = {'v1': 'x'} if isinstance(DIGESTS[name], dict) else 'x' * 64
  with pytest.raises(InputError, match=f'whose {name} had other content'):
    artifacts.begin_run(tmp_path, config_with(), {**DIGESTS, name: other})
  assert (tmp_path / 'config.json').read_bytes() == before


def test_a_run_without_digests_of_single_records_is_compared_too(tmp_path):
  """As those in results/ are."""
  path = tmp_path / 'config.json'
  artifacts.begin_run(tmp_path, config_with(), DIGESTS)
  run = read(tmp_path)
  del run['digests']['records']
  path.write_text(json.dumps(run))
  before = path.read_bytes()
  artifacts.begin_run(tmp_path, config_with(), DIGESTS)
  with pytest.raises(InputError, match='whose dataset had other content'):
    artifacts.begin_run(tmp_path, config_with(), {**DIGESTS, 'dataset': 'x'})
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
    artifacts.begin_run(tmp_path, config_with(), DIGESTS)
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
    path, records=records, labels=labels, probabilities=probabilities, fold=2
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
  )
  return path


def test_predictions_are_what_the_summary_reads(two_predictions):
  header, *lines = two_predictions.read_text().splitlines()
  assert header == ','.join(predictions.COLUMNS)
  # Columns that another version added are skipped.
  lines = [f'more,{header},last', *(f'x,{line},"1,5"' for line in lines)]
  for text in (two_predictions.read_text(), '\n'.join(lines)):
    two_predictions.write_text(text)
    found = predictions.read(two_predictions, 0)
    assert found.records == ['A1', 'A2']
    assert found.labels.tolist() == [1, 3]
    assert found.predicted.tolist() == [1, 0]
    assert found.probabilities.tolist() == np.eye(4)[[1, 0]].tolist()


@pytest.mark.parametrize('column', predictions.COLUMNS)
def test_predictions_without_a_column_are_refused(two_predictions, column):
  text = two_predictions.read_text().replace(column, 'another')
  two_predictions.write_text(text)
  with pytest.raises(InputError, match=f'the columns .*another.*{column}.*ore'):
    predictions.read(two_predictions, 0)


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
  )
  with pytest.raises(InputError, match='Line 2 of'):
    predictions.read(path, 0)

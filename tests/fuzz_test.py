"""Readers of files meet anything: they read it or say in a sentence why not."""

import io
import json
import pathlib
import struct
import tempfile
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecg_jax.datasets import folds, schema
from ecg_jax.datasets.physionet2017 import source
from ecg_jax.datasets.recordings_folder import table
from ecg_jax.evaluation import summary, tables
from ecg_jax.recordings import wfdb_annotations
from ecg_jax.runs import artifacts, checkpoint
from ecg_jax.training import train_state
from tests import helpers, made_up_run
from tests.helpers import accepts_or_explains, fuzzed, mutated


def _official():
  with zipfile.ZipFile(helpers.DUMMY / 'training2017.zip') as archive:
    return {
      name.rpartition('/')[2]: archive.read(name)
      for name in archive.namelist()
      if not name.endswith('/')
    }


OFFICIAL = _official()
RECORD = next(name[:-4] for name in sorted(OFFICIAL) if name.endswith('.mat'))


@fuzzed
@given(
  mutated(OFFICIAL[f'{RECORD}.mat'])
  | st.binary(max_size=100)
  | st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 5).map(
    lambda numbers: struct.pack('<5i', *numbers) + b'val\0' + bytes(64)
  )
)
def test_records(content):
  accepts_or_explains(lambda: source.parse_signal(content, record='A1'))


@fuzzed
@given(mutated(OFFICIAL[f'{RECORD}.hea']) | st.binary(max_size=200))
def test_headers(content):
  accepts_or_explains(
    lambda: source.check_header(content, record=RECORD, samples=9000)
  )


ANNOTATIONS = (
  struct.pack('<2H', 28 << 10 | 18, 63 << 10 | 5)
  + b'(AFIB\0'
  + struct.pack('<6H', 1 << 10 | 300, 59 << 10, 1, 2, 5 << 10, 0)
)
"""Of a rhythm and two beats, the second after a long interval."""


@fuzzed
@given(mutated(ANNOTATIONS) | st.binary(max_size=100))
def test_annotations(content):
  accepts_or_explains(
    lambda: wfdb_annotations.parse_annotations(content, name='100.atr')
  )


@fuzzed
@given(mutated(OFFICIAL['REFERENCE.csv'][:120]) | st.binary(max_size=100))
def test_labels(content):
  text = content.decode('ascii', errors='replace')
  found = {}
  if accepts_or_explains(
    lambda: found.update(folds.parse_labels(text, source='labels.csv'))
  ):
    assert set(found.values()) <= {*schema.CHALLENGE.classes}


def _archive():
  """A small archive, stored and deflated."""
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as archive:
    for number, name in enumerate(['../A00001.mat', '/x/A00001.hea', 'A.txt']):
      info = zipfile.ZipInfo(name)
      info.compress_type = zipfile.ZIP_DEFLATED if number else 0
      archive.writestr(info, OFFICIAL[f'{RECORD}.hea'] * 3)
  return content.getvalue()


@fuzzed
@given(
  mutated(b'record;label;start_seconds\n"a";N;0,5\nb;A;\n')
  | st.binary(max_size=100)
)
def test_tables_of_labels(folder, content):
  path = folder / 'labels.csv'
  path.write_bytes(content)

  def read():
    table.classes(table.read(path), (), path)

  accepts_or_explains(read)


@fuzzed
@given(mutated(_archive()))
def test_archives(content):
  accepts_or_explains(
    lambda: source.FILES._read_archive(io.BytesIO(content), name='a.zip')
  )


LABELS = {f'A{i:05d}': schema.CHALLENGE.classes[i % 4] for i in range(16)}
TABLE = json.dumps(
  folds.make_folds(LABELS, num_folds=2, train_validation_parts=2)
).encode()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('fuzz')


@fuzzed
@given(
  content=mutated(TABLE)
  | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
  ).map(lambda value: json.dumps(value).encode())
)
def test_fold_tables(folder, content):
  path = folder / 'folds.json'
  path.write_bytes(content)

  def read():
    folds.check_table(folds.read_table(path), LABELS)

  accepts_or_explains(read)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder with a checkpoint, and the content of its manifest."""
  folder = tmp_path_factory.mktemp('saved')
  variables = {'params': {'a': jnp.ones(3)}, 'batch_stats': {}}
  with checkpoint.Checkpoints(folder, {'fold': 0}) as checkpoints:
    state = train_state.begin_phase(variables, 0, None, ('a',), averaged=True)
    checkpoints.save(state.saved(), variables, {'epoch': 1})
  return folder, (folder / '0' / 'manifest.json').read_bytes()


@fuzzed
@given(data=st.data())
def test_manifests(saved, data):
  folder, whole = saved
  content = data.draw(mutated(whole))
  (folder / '0' / 'manifest.json').write_bytes(content)
  try:
    if accepts_or_explains(lambda: checkpoint._find_intact(folder, False)):
      # Only white space was changed.
      assert json.loads(content) == json.loads(whole)
  finally:
    (folder / '0' / 'manifest.json').write_bytes(whole)


RUN = json.dumps(
  {
    'config': {'seed': 0, 'folds': [0], 'model': {'name': 'crnn'}},
    'versions': {},
    'commit': None,
    'digests': {'labels': {'v1': 'ab'}},
  }
).encode()


@fuzzed
@given(content=mutated(RUN) | mutated(b'[[[[{"config": {}}'))
def test_configs_of_runs(folder, content):
  (folder / 'config.json').write_bytes(content)
  accepts_or_explains(lambda: artifacts.read_run(folder))


def _finished_fold():
  """The files of a fold that summarize reads."""
  sets = {'test': ([f'A{k:05d}' for k in range(4)], np.arange(4), np.eye(4))}
  with tempfile.TemporaryDirectory() as folder:
    made_up_run.write_fold(pathlib.Path(folder), 0, sets)
    fold = pathlib.Path(folder) / 'fold0'
    return [
      (fold / name).read_bytes() for name in ('scores.json', 'predictions.csv')
    ]


SCORES, PREDICTIONS = _finished_fold()


@fuzzed
@given(
  mutated(SCORES).map(lambda scores: (scores, PREDICTIONS))
  | mutated(PREDICTIONS).map(lambda rows: (SCORES, rows))
)
def test_finished_folds(folder, files):
  run = folder / 'run'
  (run / 'fold0').mkdir(parents=True, exist_ok=True)
  (run / 'config.json').write_bytes(RUN)
  (run / 'fold0' / 'scores.json').write_bytes(files[0])
  (run / 'fold0' / 'predictions.csv').write_bytes(files[1])

  def read():
    tables.format_table([summary.summarize(run, 'test')])

  accepts_or_explains(read)

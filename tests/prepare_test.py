import concurrent.futures
import errno
import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from ecg_jax.datasets import folds, prepare, schema
from ecg_jax.datasets.physionet2017 import physionet2017_dataset_builder, source
from ecg_jax.datasets.synthetic_ecg import (
  generator,
  synthetic_ecg_dataset_builder,
)
from ecg_jax.errors import InputError
from tests.helpers import DUMMY, run_python, use_dummy_as_official


@pytest.fixture
def records(monkeypatch):
  """The dummy records, taken for the official ones."""
  return source.verify(use_dummy_as_official(monkeypatch))


@pytest.fixture
def no_network(monkeypatch):
  def refuse():
    raise InputError('there is no network')

  monkeypatch.setattr(source, 'download', refuse)


def datasets_in(folder):
  return [path for path in folder.glob('physionet2017/*') if path.is_dir()]


def prepare_real(data_dir, manual_dir=DUMMY, name='physionet2017'):
  """Prepares the real set, by default from the dummy files."""
  source_folder = None if manual_dir is None else str(manual_dir)
  return prepare.prepare(name, manual_dir=source_folder, data_dir=str(data_dir))


def assert_holds(builder, records):
  """A prepared dataset has these records, divided into the published folds."""
  table = folds.make_folds({r.name: r.labels['v2'] for r in records})['folds']
  by_name = {record.name: record for record in records}
  seen = []
  for fold, sets in table.items():
    examples = list(builder.as_data_source(f'fold{fold}'))
    names = [example['record'].decode() for example in examples]
    assert names == sets['test']
    seen += names
    for name, example in zip(names, examples, strict=True):
      record = by_name[name]
      assert example['signal'].dtype == np.int16
      assert np.array_equal(example['signal'], record.signal)
      assert example['sampling_rate'] == 300
      for version in ('v1', 'v2', 'v3'):
        label = schema.CLASSES[example[f'label_{version}']]
        assert label == record.labels[version]
      for other, other_sets in table.items():
        membership = schema.SETS[example['fold_membership'][f'fold{other}']]
        assert name in other_sets[membership]
  assert sorted(seen) == sorted(by_name)
  both = table['0']['test'] + table['3']['test']
  assert len(builder.as_data_source('fold0+fold3')) == len(both)


def test_prepared_records_are_those_of_the_files(records, no_network, tmp_path):
  prepare_real(tmp_path)
  assert_holds(prepare_real(tmp_path, None), records)


def test_synthetic_records_are_those_of_the_generator(
  no_network, monkeypatch, tmp_path
):
  builder_class = synthetic_ecg_dataset_builder.Builder
  monkeypatch.setattr(builder_class, 'NUM_RECORDS', 200)
  builder = prepare.prepare(
    'synthetic_ecg', manual_dir=None, data_dir=str(tmp_path)
  )
  assert builder.name == 'synthetic_ecg'
  records = [
    schema.Record(name, signal, dict.fromkeys(schema.LABEL_VERSIONS, label))
    for name, signal, label in generator.generate(200)
  ]
  assert_holds(builder, records)


def test_real_set(real_data, tmp_path):
  builder = prepare_real(tmp_path, real_data)
  sizes = {name: s.num_examples for name, s in builder.info.splits.items()}
  expected = [1707, 1706, 1706, 1705, 1704]
  assert sizes == {f'fold{k}': size for k, size in enumerate(expected)}
  published = json.loads((real_data / 'splits.sha256.json').read_text())
  examples = builder.as_data_source('+'.join(sizes))
  members: dict[tuple[str, str], list[str]] = {}
  for example in examples:
    for fold, membership in example['fold_membership'].items():
      key = fold[-1], schema.SETS[membership]
      members.setdefault(key, []).append(example['record'].decode())
  assert len(members) == 15
  for (fold, name), names in members.items():
    lines = ''.join(f'{record}\n' for record in sorted(names))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == published['folds'][fold][name]


def test_missing_and_empty_folders_are_refused(
  no_network, monkeypatch, tmp_path
):
  (tmp_path / 'empty').mkdir()
  monkeypatch.chdir(tmp_path)
  for folder, message in [
    ('none', 'none does not exist'),
    ('empty', 'is empty: put the source files there'),
    # Not the current folder, as pathlib would have it.
    ('', 'is empty: name one'),
  ]:
    with pytest.raises(InputError, match=message):
      prepare_real(tmp_path / 'data', folder)
  with pytest.raises(InputError, match=r'physionet2018.*physionet2017, synth'):
    prepare_real(tmp_path / 'data', name='physionet2018')
  with pytest.raises(InputError, match=r'--config\.data\.data_dir'):
    prepare_real(pathlib.Path('/proc/none'))
  assert not (tmp_path / 'data').exists()


def test_folder_is_never_supplemented_from_the_network(
  records, monkeypatch, tmp_path
):
  monkeypatch.setattr(source, 'download', lambda: source.read_folder(DUMMY))
  manual_dir = tmp_path / 'manual'
  manual_dir.mkdir()
  shutil.copy(DUMMY / 'training2017.zip', manual_dir)
  with pytest.raises(InputError, match=r'REFERENCE-v3\.csv is missing'):
    prepare_real(tmp_path, manual_dir)
  assert not datasets_in(tmp_path)
  prepare_real(tmp_path, None)
  assert [path.name for path in datasets_in(tmp_path)] == ['1.0.0']


def test_failure_leaves_nothing_and_the_next_try_succeeds(
  records, no_network, tmp_path
):
  data_dir = tmp_path / 'data'
  manual_dir = tmp_path / 'manual'
  shutil.copytree(DUMMY, manual_dir)
  archive = manual_dir / 'training2017.zip'
  whole = archive.read_bytes()
  archive.write_bytes(whole[:5000])
  for folder, message in [(manual_dir, 'damaged'), (None, 'no network')]:
    with pytest.raises(InputError, match=message):
      prepare_real(data_dir, folder)
    assert not datasets_in(data_dir)
    assert not any(
      p.stat().st_size for p in data_dir.rglob('*.*') if p.is_file()
    )
  archive.write_bytes(whole)
  prepare_real(data_dir, manual_dir)
  assert [path.name for path in datasets_in(data_dir)] == ['1.0.0']


@pytest.mark.parametrize(
  'error',
  [OSError(errno.ENOSPC, 'No space left'), RuntimeError('No space left')],
)
def test_full_disk_is_one_sentence_and_leaves_nothing(
  records, monkeypatch, tmp_path, error
):
  def write_then_fail(self, *arguments):
    yield 'A00001', next(generate(self, *arguments))[1]
    raise error

  builder_class = physionet2017_dataset_builder.Builder
  generate = builder_class._generate_examples
  monkeypatch.setattr(builder_class, '_generate_examples', write_then_fail)
  with pytest.raises(InputError, match='No space left'):
    prepare_real(tmp_path)
  assert not datasets_in(tmp_path)


def test_prepared_dataset_that_lost_a_file_is_refused(records, tmp_path):
  builder = prepare_real(tmp_path)
  for pattern in ['*fold3*array_record*', 'dataset_info.json']:
    next(pathlib.Path(builder.data_dir).glob(pattern)).unlink()
    with pytest.raises(InputError, match='incomplete: delete that folder'):
      prepare_real(tmp_path, None)


TWO_AT_ONCE = """
import pathlib, sys, time
import pytest
from ecg_jax.datasets.physionet2017 import source
from tests.helpers import use_dummy_as_official
from tests.prepare_test import prepare_real

folder, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
use_dummy_as_official(pytest.MonkeyPatch())
verify = source.verify
def slow(files):
  print('builds', file=sys.__stdout__, flush=True)
  # The other process has started, and finds no dataset, before this one ends.
  while not (folder / other).exists():
    time.sleep(0.01)
  time.sleep(0.3)
  return verify(files)
source.verify = slow
(folder / me).touch()
builder = prepare_real(folder / 'data')
print(sum(len(s) for s in builder.as_data_source().values()))
"""


def test_two_processes_at_once_build_it_once(tmp_path):
  with concurrent.futures.ThreadPoolExecutor() as pool:
    started = [
      pool.submit(run_python, TWO_AT_ONCE, tmp_path, *names)
      for names in ('ab', 'ba')
    ]
  outputs = sorted(process.result().stdout for process in started)
  assert outputs == ['24\n', 'builds\n24\n']


def test_description_is_complete():
  builder_class = physionet2017_dataset_builder.Builder
  metadata = builder_class.get_metadata()
  assert '8,528' in metadata.description
  assert '10.22489/CinC.2017.065-469' in metadata.citation
  assert set(metadata.tags) <= {
    tag.split(' ')[0] for tag in dataset_metadata.valid_tags()
  }
  registered = builder_class.url_infos[source.LABELS_URL]
  assert registered.checksum == source.LABEL_DIGESTS['v3']
  assert registered.filename == 'REFERENCE-v3.csv'


def test_mock_data_for_users_of_tfds(tmp_path):
  with tfds.testing.mock_data(num_examples=3):
    builder = physionet2017_dataset_builder.Builder(
      data_dir=str(tmp_path), file_format='array_record'
    )
    examples = list(builder.as_data_source('fold0'))
  assert [example['signal'].dtype for example in examples] == [np.int16] * 3

import concurrent.futures
import dataclasses
import errno
import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from ecg_jax import registry
from ecg_jax.datasets import folds, prepare, schema
from ecg_jax.datasets.physionet2017 import physionet2017_dataset_builder, source
from ecg_jax.datasets.synthetic_ecg import (
  generator,
  synthetic_ecg_dataset_builder,
)
from ecg_jax.errors import ConfigError, InputError
from ecg_jax.fields.data import DataFields
from ecg_jax.input_pipeline import dataset as dataset_lib
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
  return prepare.prepare(
    DataFields(name=name, manual_dir=source_folder, data_dir=str(data_dir))
  )


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
        label = schema.CHALLENGE.classes[example[f'label_{version}']]
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
    DataFields(name='synthetic_ecg', manual_dir=None, data_dir=str(tmp_path))
  )
  assert builder.name == 'synthetic_ecg'
  records = [
    schema.Record(
      name, signal, dict.fromkeys(schema.CHALLENGE.label_versions, label)
    )
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
  with pytest.raises(
    InputError, match="physionet2018': use 'physionet2017', or"
  ):
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


OWN = """
import numpy as np

from ecg_jax.datasets import ecg_builder, schema

class Hearts(ecg_builder.EcgBuilder):
  SPEC = schema.DatasetSpec(
    classes=('sinus', 'other rhythm'),
    num_folds=3,
    sampling_rate=100,
    counts_per_millivolt=200.0,
  )

  def make_records(self, dl_manager):
    rng = np.random.default_rng(SEED)
    return [
      schema.Record(
        f'h{index:02d}',
        rng.integers(-300, 300, 500 + index).astype(np.int16),
        {'v1': self.SPEC.classes[index % 2]},
      )
      for index in range(40)
    ]

class Unspecified(ecg_builder.EcgBuilder):
  def make_records(self, dl_manager):
    return []
"""


@pytest.fixture
def prepare_own(tmp_path, monkeypatch):
  """Prepares a dataset of the current folder's own.py, as in a new process."""
  monkeypatch.chdir(tmp_path)

  def call(content=None, name='own.py:Hearts'):
    if content is not None:
      (tmp_path / 'own.py').write_text(content)
      registry._import_file.cache_clear()
    return prepare.prepare(
      DataFields(name=name, manual_dir=None, data_dir=str(tmp_path / 'data'))
    )

  return call


def test_a_builder_of_an_own_file_is_prepared_and_loaded(prepare_own):
  builder = prepare_own(OWN.replace('SEED', '1'))
  in_memory, stored = (
    dataset_lib.load(builder, in_memory=x) for x in (True, False)
  )
  assert in_memory.spec == builder.SPEC
  assert in_memory.records == tuple(f'h{index:02d}' for index in range(40))
  np.testing.assert_array_equal(in_memory.lengths, 500 + np.arange(40))
  np.testing.assert_array_equal(in_memory.classes['v1'], np.arange(40) % 2)
  labels = in_memory.labels('v1')
  assert labels['h01'] == 'other rhythm'
  assert in_memory.all_labels() == {'v1': labels}
  expected = np.random.default_rng(1).integers(-300, 300, 500)
  np.testing.assert_array_equal(in_memory.signal[:500], expected)
  tested = folds.published(labels, builder.SPEC)['folds']
  for fold in range(3):
    examples = list(builder.as_data_source(f'fold{fold}'))
    names = [example['record'].decode() for example in examples]
    assert names == tested[str(fold)]['test']
    assert {example['sampling_rate'] for example in examples} == {100}
  # What the spec leaves open is measured, wherever the samples are.
  spec = in_memory.measured_spec()
  assert spec.longest_samples == 539
  assert spec.ranges.seconds == (5.0, 5.39)
  assert spec.ranges.millivolt[1] == pytest.approx(3.0, rel=0.01)
  assert stored.measured_spec() == spec
  fields = json.loads(json.dumps(spec.to_json()))
  assert schema.DatasetSpec.from_json(fields | {'later': 1}) == spec


def test_files_may_have_builders_of_the_same_name(prepare_own, tmp_path):
  content = OWN.replace('SEED', '1').replace('Hearts', 'Builder')
  (tmp_path / 'more-hearts.py').write_text(content + '# Another dataset.')
  one = prepare_own(content, 'own.py:Builder')
  other = prepare_own(name='more-hearts.py:Builder')
  assert [one.name, other.name] == ['own', 'more-hearts']
  assert one.data_dir != other.data_dir
  named = content.replace('  SPEC =', "  name = 'hearts'\n  SPEC =", 1)
  assert prepare_own(named, 'own.py:Builder').name == 'hearts'


def test_datasets_whose_records_may_differ_are_kept_apart(
  prepare_own, tmp_path, monkeypatch
):
  """Though TFDS has one name for them, or their files one content."""
  other = OWN[OWN.index('class Hearts') :].replace('Hearts', 'HEarts')
  one = prepare_own(OWN.replace('SEED', '1') + other.replace('SEED', '2'))
  folders = {one.data_dir, prepare_own(name='own.py:HEarts').data_dir}
  (tmp_path / 'source').mkdir()
  (tmp_path / 'source' / 'file').touch()
  named = prepare.prepare(
    DataFields(
      name='own.py:Hearts', manual_dir='source', data_dir=str(tmp_path / 'data')
    )
  )
  folders.add(named.data_dir)
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  shutil.copy('own.py', elsewhere)
  copied = prepare.prepare(
    DataFields(
      name='elsewhere/own.py:Hearts',
      manual_dir=None,
      data_dir=str(tmp_path / 'data'),
    )
  )
  folders.add(copied.data_dir)
  # A spec may come from elsewhere.
  spec = dataclasses.replace(type(one).SPEC, classes=('other rhythm', 'sinus'))
  monkeypatch.setattr(type(one), 'SPEC', spec)
  folders.add(prepare_own().data_dir)
  assert len(folders) == 5


def test_a_folder_that_is_needed_and_not_named_is_asked_for(
  prepare_own, tmp_path
):
  content = OWN.replace('SEED', 'len(list(dl_manager.manual_dir.iterdir()))')
  with pytest.raises(InputError, match='name it with --config'):
    prepare_own(content)
  (tmp_path / 'source').mkdir()
  (tmp_path / 'source' / 'file').touch()
  found = prepare.prepare(
    DataFields(
      name='own.py:Hearts', manual_dir='source', data_dir=str(tmp_path / 'data')
    )
  )
  assert found.data_path.exists()


@pytest.mark.parametrize('error', ['OSError("no disk")', 'KeyError("x")'])
def test_an_error_of_a_user_defined_builder_is_not_one_of_the_disk(
  prepare_own, error
):
  content = OWN.replace('rng = np.random.default_rng(SEED)', f'raise {error}')
  with pytest.raises(ConfigError, match='make_records of the dataset hearts'):
    prepare_own(content)


def test_a_changed_file_is_another_dataset(prepare_own):
  digests = []
  for content in (OWN.replace('SEED', '1'), OWN.replace('SEED', '2')):
    builder = prepare_own(content)
    # The second time it is loaded.
    assert prepare_own().data_dir == builder.data_dir
    dataset = dataset_lib.load(builder, in_memory=True)
    digests.append((builder.data_dir, dataset.record_digests()['h00']))
  assert len({folder for folder, _ in digests}) == 2
  assert len({digest for _, digest in digests}) == 2
  again = prepare_own(OWN.replace('SEED', '1'))
  assert again.data_dir == digests[0][0]


RECORDS = {
  'sorted or occur twice: sort them by name': [
    ("'h{index:02d}'", "'h{40 - index:02d}'"),
    ("'h{index:02d}'", "'h{index // 2:02d}'"),
  ],
  r'Record h00 has a signal of (float64|int32|int16) \[.*\]: make it int16': [
    ('.astype(np.int16)', '.astype(np.float64)'),
    ('.astype(np.int16)', '.astype(np.int32)'),
    ('.astype(np.int16)', '.astype(np.int16)[None]'),
    ('.astype(np.int16)', '.astype(np.int16)[:0]'),
  ],
  r'make it int16 \[samples\], in counts of 1/200 mV': [
    ('.astype(np.int16)', ''),
  ],
  r"Record h00 has labels of the versions \[.*\]: .* in each of \['v1'\]": [
    ("{'v1': ", "{'v2': "),
    ("{'v1': ", "{'v2': 'sinus', 'v1': "),
  ],
  "Record h00 has the labels {'v1': 'N'}: use the classes .*'other rhythm'": [
    ('self.SPEC.classes[index % 2]', "'N'"),
  ],
  'A dataset describes itself wrongly, num_folds is 1: use at least 2': [
    ('num_folds=3', 'num_folds=1'),
  ],
}


@pytest.mark.parametrize('message', RECORDS)
def test_records_that_contradict_their_spec_are_refused(
  prepare_own, tmp_path, message
):
  for old, new in RECORDS[message]:
    assert old in OWN
    with pytest.raises(InputError, match=message):
      prepare_own(OWN.replace('SEED', '1').replace(old, new))
    assert not list(tmp_path.glob('data/**/*.array_record*'))


def test_a_builder_without_a_spec_is_refused(prepare_own):
  with pytest.raises(InputError, match='is no dataset: name a class that'):
    prepare_own(OWN.replace('SEED', '1'), 'own.py:Unspecified')

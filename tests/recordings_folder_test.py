"""A folder of recordings with a table of labels, from its table to a model."""

import csv
import json
import re

import jax
import numpy as np
import pytest

from ecg_jax import evaluate, export, main, predict
from ecg_jax.datasets import prepare, schema
from ecg_jax.datasets.physionet2017 import source as challenge
from ecg_jax.datasets.recordings_folder import source, table
from ecg_jax.errors import InputError
from ecg_jax.fields.data import DataFields
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.recordings import lead, resampling
from ecg_jax.runtime import startup
from tests import helpers, recording_files
from tools import calibrate, summarize

HEADER = 'record,label,patient,start_seconds,end_seconds\n'
SEGMENTS = [
  ('a', 'AF', 'p 1', 0.0, 10.5),
  ('a', 'not, AF', 'p 1', 10.5, np.inf),
  ('b', 'AF', 'b', 0.0, np.inf),
]
PLAIN = f'{HEADER}a,AF,p 1,,10.5\na,"not, AF",p 1,10.5,\nb,AF,,,\n'
GERMAN = PLAIN.replace(',', ';').replace('10.5', '10,5').replace('t; A', 't, A')


ARGUMENTS = [
  'main', '--config=ecg_jax:cnn',
  '--config.model.width=4', '--config.model.growth=4',
  '--config.model.blocks=1', '--config.model.layers_per_block=1',
  '--config.buckets.training=1', '--config.buckets.evaluation=1',
  '--config.augmentation.resampling=false', '--config.chunk_steps=2',
  '--config.max_epochs=1', '--config.batch_size=6', '--config.folds=(0,)',
  '--config.tensorboard=false', '--config.data.name=recordings_folder',
  '--config.data.manual_dir=mine',
  '--config.data.num_folds=2', '--workdir=run',
]  # fmt: skip


@pytest.mark.parametrize(
  'content',
  [
    PLAIN.encode(),
    PLAIN.encode('utf-8-sig'),
    PLAIN.replace('\n', '\r\n').encode('utf-16'),
    GERMAN.encode(),
    GERMAN.replace('\n', ';;\n').encode(),
    PLAIN.replace('10.5', '"10,5"').encode(),
    PLAIN.replace(',', '\t').replace('t\t A', 't, A').encode(),
    PLAIN.replace(',', ' ,  ').replace('"not ,   AF"', '"not, AF"').encode(),
    f'\n{PLAIN.replace("record", "Record")}\n , \n'.encode(),
    ''.join(PLAIN.splitlines(keepends=True)[k] for k in (0, 3, 2, 1)).encode(),
  ],
)  # fmt: skip
def test_tables_that_say_the_same(tmp_path, content):
  (tmp_path / 'labels.csv').write_bytes(content)
  found = table.read(tmp_path / 'labels.csv')
  assert [
    (line.recording, line.label, line.patient, line.start, line.end)
    for line in found.lines
  ] == SEGMENTS
  assert found.by_patient
  assert list(found.labels()) == ['a@0-10.5', 'a@10.5-', 'b']


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'Line 1 of .* is missing: write the columns record,label'),
    ('a,N\nb,A\n', "Line 1 of .* is 'a,N', no names of columns"),
    ('record,lable\na,N\n', "unknown column 'lable': use label, or remove it"),
    ('record,patient\na,N\n', "has no column 'label'"),
    ('record,label,label\na,N,N\n', "has the column 'label' twice"),
    ('record,label\n', 'labels no recording'),
    ('record,label\na,\n', 'Line 2 of .* has no label: write it'),
    ('record,label\n,N\n', 'Line 2 of .* has no record'),
    ('record,label\na,N,1\n', 'Line 2 of .* has 3 cells, not 2'),
    ('record,label\na,"N\nb,A', 'Line 2 of .* has a quote that is not closed'),
    ('record,label\na,"N' + 2**17 * 'N', 'Line 2 of .* is not CSV'),
    ('record,label\na,N\nb,A\na,A\n', 'Line 4 .* labels a again, after line 2'),
    ('record,label\na\a,N\n', "has the cell 'a.x07': write one that is short"),
    (f'{HEADER}a,N,,x,\n', "Line 2 of .* has the start_seconds 'x'"),
    (f'{HEADER}a,N,,-1,\n', "has the start_seconds '-1'"),
    (f'{HEADER}a,N,,5,5\n', 'ends at 5 s, and starts at 5 s'),
    (
      f'{HEADER}a,N,,0,9\na,A,,8.5,\n',
      'Line 3 of .* labels a part of a@8.5- again, after line 2',
    ),
    (f'{HEADER}a,N,,5,9\na@5-9,A,,,\n', 'Line 3 .* names a@5-9, as the segm'),
    (f'{HEADER}a,N,,5,9\na,A,,,\n', 'labels a part of a again, after line 2'),
  ],
)
def test_tables_that_are_refused(tmp_path, text, message):
  (tmp_path / 'labels.csv').write_text(text)
  with pytest.raises(InputError, match=message) as caught:
    table.read(tmp_path / 'labels.csv')
  assert '\n' not in str(caught.value)


def write_folder(folder, *, classes=('N', 'A'), count=6, by_patient=False):
  """Noise of a random strength, `count` recordings of each class.

  By patient, each patient has a recording of each class.
  """
  folder.mkdir()
  rng = np.random.default_rng(0)
  lines = ['record,label,sampling_rate,units,patient']
  for index in range(count * len(classes)):
    np.save(
      folder / f'r{index:02}.npy', rng.normal(0, rng.uniform(0.1, 1), 500)
    )
    patient, label = divmod(index, len(classes))
    patient = f'p{patient}' if by_patient else ''
    lines.append(f'r{index:02},{classes[label]},100,mV,{patient}')
  (folder / 'labels.csv').write_text('\n'.join(lines))
  return folder


def read_folder(folder, **fields):
  """The prepared dataset."""
  fields = {'num_folds': 2} | fields
  builder = prepare.prepare(
    DataFields(
      name='recordings_folder',
      manual_dir=str(folder),
      data_dir=str(folder.with_name('data')),
      **fields,
    )
  )
  return dataset_lib.load(builder, in_memory=True)


def signals_of(dataset):
  ends = dataset.offsets + dataset.lengths
  return {
    name: dataset.signal[start:end]
    for name, start, end in zip(
      dataset.records, dataset.offsets, ends, strict=True
    )
  }


def test_segments_of_several_formats_are_those_that_predict_reads(
  tmp_path, capsys
):
  folder = tmp_path / 'mine'
  (folder / 'sub').mkdir(parents=True)
  counts = recording_files.COUNTS
  recording_files.write_csv(folder / 'sub', counts)
  recording_files.write_mat(folder, counts, 'M1')
  recording_files.write_mat(folder, counts, 'M2').unlink()
  recording_files.write_edf(folder, {'ECG': (counts, 'uV')})
  np.save(folder / 'x.npy', counts / 500)
  (folder / 'README.txt').write_text('Not a recording.\n')
  lines = [
    'record;label;patient;start_seconds;end_seconds;sampling_rate;units',
    *('M1.mat;N;p;;;;', 'sub/a;A;p;1,5;4;;mV', 'sub/a;N;p;4;;;mV'),
    *('a.edf;A;q;2;5;;', 'M2;A;q;;;;', 'x;N;r;;;150;mV'),
    'x.npy;A;r;;;150;mV',
  ]
  (folder / 'labels.csv').write_text('\n'.join(lines[:-1]))
  rate = 250
  dataset = read_folder(
    folder, sampling_rate=rate, classes=('N', 'A'), folds_file='own.json'
  )
  found = signals_of(dataset)
  encoding = lead.Encoding(rate, 1000.0)

  def cut(path, start=0, seconds=np.inf, **reading):
    recording = lead.open_recording(folder / path, encoding, **reading)
    return resampling.window_counts(recording, encoding, start, seconds)

  expected = {
    'M1.mat': cut('M1.hea'),
    'M2': cut('M2.mat'),
    'a.edf@2-5': cut('a.edf', 2, 3),
    'sub/a@1.5-4': cut('sub/a.csv', 1.5, 2.5, units='mV'),
    'sub/a@4-': cut('sub/a.csv', 4, units='mV'),
    'x': cut('x.npy', sampling_rate=150, units='mV'),
  }
  assert list(found) == list(expected)
  for name, signal in expected.items():
    np.testing.assert_array_equal(found[name], signal)
  assert dataset.labels('v3') == dict(zip(found, 'NAAANN', strict=True))
  assert dataset.patients == ('p', 'q', 'q', 'p', 'p', 'r')
  assert dataset.spec.classes == ('N', 'A')
  told = capsys.readouterr().err.splitlines()
  assert 'no header: taken to have 250 samples a second (1 records)' in told
  # Two spellings of a name.
  (folder / 'labels.csv').write_text('\n'.join(lines))
  with pytest.raises(InputError, match='1 lines or recordings'):
    read_folder(folder, folds_file='own.json')


@pytest.mark.parametrize('count', [24, 400])
def test_challenge_records_as_a_folder_are_those_of_the_challenge(
  count, tmp_path, monkeypatch, request
):
  if count == 400:
    files = challenge.read_folder(request.getfixturevalue('real_data'))
  else:
    files = helpers.use_dummy_as_official(monkeypatch)
  records = challenge.verify(files)[:count]
  folder = tmp_path / 'mine'
  folder.mkdir()
  lines = ['record,label']
  for record in records:
    lines.append(f'{record.name},{record.labels["v3"]}')
    for ending in ('.mat', '.hea'):
      content = files[record.name + ending]
      (folder / f'{record.name}{ending}').write_bytes(content)
  (folder / 'labels.csv').write_text('\n'.join(lines))
  classes = schema.CHALLENGE.classes
  dataset = read_folder(folder, classes=classes, folds_file='own.json')
  found = signals_of(dataset)
  assert list(found) == [record.name for record in records]
  for record in records:
    np.testing.assert_array_equal(found[record.name], record.signal)
    assert dataset.labels('v3')[record.name] == record.labels['v3']
  assert dataset.spec.classes == classes
  assert not dataset.spec.by_patient


def rewrite(folder, *changes):
  path = folder / 'labels.csv'
  text = path.read_text()
  for old, new in changes:
    assert old in text
    text = text.replace(old, new)
  path.write_text(text)


def test_what_cannot_be_used_is_told_line_by_line(tmp_path, capsys, caplog):
  folder = write_folder(tmp_path / 'mine')
  rewrite(folder, ('r00,N', 'r99,N'))
  with pytest.raises(InputError, match='2 lines or recordings of '):
    read_folder(folder)
  told = [x.partition('mine/')[2] for x in capsys.readouterr().err.split('\n')]
  assert told == [
    'labels.csv names r99, which is no recording there: correct the name, or'
    ' add the file.',
    'r00.npy has no line in labels.csv: label it, or move it to another'
    ' folder.',
    '',
  ]
  (folder / 'r00.npy').unlink()
  rewrite(
    folder,
    ('patient', 'end_seconds'),
    ('r01,A,100,mV', 'r01,A,,mV'),
    ('r02,N,100,mV', 'r02,N,100,'),
    ('r04,N,100,mV,', 'r04,N,100,mV,5.1'),
  )
  (folder / 'r03.npy').write_bytes(b'damaged')
  dataset = read_folder(folder, skip_unreadable=True)
  assert dataset.records == tuple(f'r{k:02}' for k in range(5, 12))
  told = capsys.readouterr().err
  for part in (
    'Line 3 of labels.csv: ',
    'does not say its sampling rate: give the column sampling_rate of labels',
    'does not say the units of lead 0: give the column units of labels.csv',
    'Line 5 of labels.csv: ',
    'Line 6 of labels.csv: r04@0-5.1 is behind the end of',
    'which has 5 s: correct its seconds',
  ):
    assert part in told
  assert 'all' in told.splitlines()[-1].split()[:2]
  # Told again when what was prepared is only loaded.
  caplog.clear()
  read_folder(folder, skip_unreadable=True)
  assert 'does without 5 lines or recordings' in caplog.text
  datasets = [*tmp_path.glob('data/own_*/recordings_folder/*')]
  assert [path.name for path in datasets] == ['1.0.0']


@pytest.mark.parametrize(
  ('field', 'changes', 'message'),
  [
    ("classes=('N', 'B')", [], "has the label 'A': use 'N' or 'B' of"),
    ("classes=('N', 'A', 'B')", [], "has 'B', which no line of"),
    ("scored_classes=('B',)", [], "'B' is none of"),
    ('num_folds=7', [], 'of fold 6 is empty, 12 records are too few'),
    (
      'num_folds=6',
      [('r01,A', 'r01,N')],
      "class 'A', which 5 patients .* of three sets each: ask for 5 folds, or",
    ),
    ('num_folds=2', [(',A,', ',N,')], "All records of .* have the label 'N'"),
    ('num_folds=2', [(',A,', ',undecided,')], "label 'undecided': rename"),
  ],
)
def test_classes_that_cannot_be_used_are_refused_before_files_are_read(
  tmp_path, refusal, monkeypatch, field, changes, message
):
  monkeypatch.chdir(tmp_path)
  folder = write_folder(tmp_path / 'mine')
  rewrite(folder, *changes)
  for path in folder.glob('*.npy'):
    path.unlink()
  arguments = [*ARGUMENTS, '--config.data.data_dir=data']
  arguments.append(f'--config.data.{field}')
  found = refusal(main.main, *arguments)
  assert re.search(message, found)
  arguments.remove('--workdir=run')
  assert refusal(prepare.main, *arguments) == found
  assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_folder_that_is_missing_or_of_another_dataset_is_refused(tmp_path):
  fields = {'data_dir': str(tmp_path / 'data'), 'num_folds': 2}
  for manual_dir, message in (
    (None, 'needs a folder of recordings: name it with --config.data.manual'),
    (str(tmp_path), 'There is no .*labels.csv: write that table'),
  ):
    with pytest.raises(InputError, match=message):
      prepare.prepare(
        DataFields(name='recordings_folder', manual_dir=manual_dir, **fields)
      )
  with pytest.raises(InputError, match='num_folds is 2, which is for a record'):
    prepare.prepare(DataFields(name='synthetic_ecg', manual_dir=None, **fields))
  assert not (tmp_path / 'data').exists()


def test_whatever_changes_the_records_prepares_them_again(tmp_path):
  folder = write_folder(tmp_path / 'mine')
  places = {}

  def place(name, **fields):
    data = DataFields(
      name='recordings_folder', manual_dir=str(folder), num_folds=2, **fields
    )
    places[name] = prepare.own_folder(prepare.find_builder(data), data)

  place('first')
  place('of other classes', classes=('N', 'A'))
  place('of another rate', sampling_rate=250)
  place('without some', skip_unreadable=True)
  rewrite(folder, ('r00,N', 'r00,A'), ('r01,A', 'r01,N'))
  place('of other labels')
  (folder / 'r00.npy').write_bytes((folder / 'r01.npy').read_bytes())
  place('of other samples')
  assert len({*places.values()}) == len(places)
  folder.rename(tmp_path / 'moved')
  folder = tmp_path / 'moved'
  place('elsewhere', scored_classes=('N',))
  assert places['elsewhere'] == places['of other samples']


def test_what_is_stopped_leaves_nothing_and_starts_again(tmp_path, monkeypatch):
  folder = write_folder(tmp_path / 'mine')
  left = tmp_path / 'data'

  def stop(*arguments):
    for record in read(*arguments):
      yield record
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    read = source.read
    patch.setattr(source, 'read', stop)
    with pytest.raises(KeyboardInterrupt):
      read_folder(folder)
  assert [*left.rglob('*.array_record*')] == []
  [place] = left.glob('own_*/recordings_folder')
  # What one that is killed leaves.
  (place / 'incomplete.ABCDEF_1.0.0').mkdir()
  assert len(read_folder(folder).records) == 12
  assert [path.name for path in place.iterdir()] == ['1.0.0']


@pytest.mark.parametrize('count', [2, 3, 7])
def test_any_number_of_classes_goes_the_whole_way(
  count, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(startup, 'enable_compilation_cache', lambda: None)
  first = jax.devices()[:1]
  monkeypatch.setattr(jax, 'devices', lambda: first)
  classes = [f'class {k}' for k in range(count)]
  by_patient = count == 3
  folder = tmp_path / 'mine'
  write_folder(folder, classes=classes, count=4, by_patient=by_patient)
  data_dir = f'--config.data.data_dir={tmp_path}/data'
  assert main.main([*ARGUMENTS, data_dir]) == 0
  assert f'F1 {classes[-1]}' in capsys.readouterr().out
  run = tmp_path / 'run'
  columns = (run / 'labels.csv').read_text().partition('\n')[0]
  assert columns == 'record,v1,v2,v3' + ',patient' * by_patient
  scores = json.loads((run / 'fold0' / 'scores.json').read_text())
  assert [*scores['sets']['test']['classes']] == classes
  assert np.shape(scores['sets']['test']['confusion']) == (count, count)
  monkeypatch.chdir('/')  # The folder is found from anywhere.
  assert evaluate.main([str(run)]) == 0
  assert calibrate.main([str(run)]) == 0
  plots = count == 7  # Which take seconds.
  assert summarize.main([str(run), *['--plot'] * plots]) == 0
  [_, line, *_] = (run / 'fold0' / 'predictions.csv').read_text().splitlines()
  tested = line.partition(',')[0]
  path = folder / f'{tested}.npy'
  options = ['--sampling_rate=100', '--units=mV', f'--out={tmp_path}/out.csv']
  options += [f'--plot={tmp_path}/plots'] * plots
  assert predict.main(['--run', str(run), str(path), *options]) == 0
  [row] = csv.DictReader((tmp_path / 'out.csv').read_text().splitlines())
  values = [float(row[f'probability_{name}']) for name in classes]
  assert sum(values) == pytest.approx(1, abs=1e-5)
  assert export.main([str(run), f'--out={tmp_path}/exported']) == 0

"""The command: from a user's files to a table, CSV, JSON, answers, pictures."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import pathlib

import numpy as np
import pytest

from ecg_jax import predict
from ecg_jax.datasets.schema import CHALLENGE, DatasetSpec
from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.errors import InputError
from ecg_jax.prediction import (
  aggregation,
  attribution,
  ensemble,
  outputs,
  pictures,
  predictor,
  report,
)
from tests import recordings_test

_, COUNTS, _ = generator.generate_record(0, 3)
COUNTS = COUNTS[: len(COUNTS) // 300 * 300]
STATED = ('--sampling_rate', 300, '--units', 'counts')
MILLIVOLT = ('--sampling_rate', 300, '--units', 'mV')


@pytest.fixture
def call(small_run, capsys):
  """Runs the command; returns exit code, output and errors."""

  def run(*arguments):
    code = predict.main(['--run', str(small_run), *map(str, arguments)])
    return code, *capsys.readouterr()

  return run


@pytest.fixture
def refused(refusal, small_run):
  """Runs the command, which refuses its arguments; returns the sentence."""
  return functools.partial(refusal, predict.main, '--run', small_run)


@pytest.fixture
def attributed(monkeypatch):
  """What is attributed, in place of computing it: folds, counts, answer."""
  calls = []

  def gradients(model, counts, answer):
    calls.append((model.folds, counts, answer))
    return np.zeros(-(-len(counts) // 60), np.float32)

  monkeypatch.setattr(attribution, 'integrated_gradients', gradients)
  return calls


def read_csv(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def probabilities_of(row):
  return np.array([float(row[f'probability_{x}']) for x in CHALLENGE.classes])


def write_all(folder):
  """One recording in every format, each by another name."""
  folder.mkdir()
  paths = [
    recordings_test.write_mat(folder, COUNTS),
    recordings_test.write_wfdb(folder, COUNTS, 'wfdb'),
    recordings_test.write_edf(folder, {'ECG': (COUNTS, 'uV')}),
    recordings_test.write_csv(folder, COUNTS),
    recordings_test.write_npy(folder, COUNTS / 1000),
  ]
  for path in paths[2:]:
    path.rename(folder / f'{path.suffix[1:]}{path.suffix}')
  return ['A1', 'csv', 'edf', 'npy', 'wfdb']


def test_every_format_gets_the_same_answer(call, tmp_path):
  names = write_all(tmp_path / 'all')
  out, answers = tmp_path / 'new' / 'o.csv', tmp_path / 'answers.txt'
  outputs = ('--out', out, '--answers', answers)
  code, printed, _ = call(tmp_path / 'all', *outputs, *MILLIVOLT)
  assert code == 0
  rows = read_csv(out)
  assert list(rows[0]) == report.columns(CHALLENGE.classes)
  assert [row['recording'] for row in rows] == names
  shown = [line.split() for line in printed.splitlines()]
  assert [line[0] for line in shown] == ['recording', *names]
  assert shown[0][3::5] == ['prediction', 'agreement']
  first = probabilities_of(rows[0])
  assert sum(first) == pytest.approx(1)
  for row in rows:
    np.testing.assert_allclose(probabilities_of(row), first, atol=1e-3)
    assert row['predicted'] == CHALLENGE.classes[np.argmax(first)]
    assert row['status'].startswith('answered')
    assert float(row['end_seconds']) == len(COUNTS) / 300
  assert answers.read_text() == ''.join(
    f'{name},{rows[0]["predicted"]}\n' for name in names
  )


def test_broken_files_leave_the_others_alone(call, tmp_path):
  names = write_all(tmp_path / 'all')
  for name in ('broken.edf', 'broken.csv', 'broken.hea'):
    (tmp_path / 'all' / name).write_bytes(b'junk')
  out, answers = tmp_path / 'o.json', tmp_path / 'answers.txt'
  outputs = ('--out', out, '--answers', answers)
  code, printed, errors = call(tmp_path / 'all', *outputs, *MILLIVOLT)
  assert code == 3
  assert printed.count('no answer') == 3
  lines = errors.splitlines()
  for name in ('broken.edf', 'broken.csv', 'broken.hea'):
    assert sum(name in line for line in lines) == 1
  assert lines[-1] == 'No answer for 3 of 8 recordings.'
  written = json.loads(out.read_text())
  assert written['folds'] == [1]
  assert written['temperature'] == 1.0
  failed = [x for x in written['recordings'] if x['failure']]
  assert len(failed) == 3
  for recording in failed:
    [row] = recording['rows']
    assert row['status'] == f'failed: {recording["failure"]}'
    assert row['predicted'] is None
  assert len(answers.read_text().splitlines()) == len(names)


@pytest.fixture(scope='module')
def long(tmp_path_factory):
  """Seventy seconds, of which two are missing."""
  counts = np.resize(COUNTS, 21_000).astype(np.float32)
  counts[7000:7600] = np.nan
  return recordings_test.write_npy(tmp_path_factory.mktemp('long'), counts)


@pytest.mark.parametrize('options', [(), ('--bandpass',)])
def test_a_flat_part_of_a_long_recording_has_no_answer(call, tmp_path, options):
  counts = np.resize(COUNTS, 21_000)
  counts[:9000] = 40
  path = recordings_test.write_npy(tmp_path, counts)
  options = (*STATED, *options, '--out', tmp_path / 'o.csv')
  code, printed, _ = call(path, *options)
  assert code == 0
  assert 'share of 0:00:40' in printed
  rows = read_csv(tmp_path / 'o.csv')
  assert [bool(row['predicted']) for row in rows] == [False, True, True, True]
  assert rows[0]['status'] == 'window with a gap or a flat line'


def test_what_is_left_out_of_a_folder_is_named(call, tmp_path):
  write_all(tmp_path / 'x')
  write_all(tmp_path / 'x' / 'sub')
  (tmp_path / 'x' / 'pictures').mkdir()
  (tmp_path / 'x' / 'zip').mkdir()
  (tmp_path / 'x' / 'zip' / '._y.edf').touch()  # As macOS leaves.
  (tmp_path / 'link').symlink_to(tmp_path / 'x')
  (tmp_path / 'x' / 'notes.txt').write_text('as they were told')
  expected = [
    f'Left out: 3 files without a sampling rate and unit, such as'
    f' {tmp_path}/x/csv.csv: --explain says what each lacks; recordings are'
    ' read with --sampling_rate and --units.',
    f'Left out: 1 subfolder with recordings, such as {tmp_path}/x/sub: name'
    ' them too.',
  ]
  out = tmp_path / 'x' / 'o.csv'  # Of a second call too, not a recording.
  for _ in range(2):
    code, _, errors = call(tmp_path / 'x', tmp_path / 'link', '--out', out)
    assert (code, errors.splitlines()) == (0, expected)
  code, _, errors = call(tmp_path / 'x', tmp_path / 'x' / 'sub')
  assert (code, errors.count('subfolder')) == (0, 0)
  code, _, errors = call(tmp_path / 'x' / 'csv.csv', *STATED)
  assert (code, errors) == (0, '')


def test_a_long_recording_is_answered_by_window_and_as_a_whole(
  call, tmp_path, long
):
  code, printed, _ = call(long, *STATED, '--out', tmp_path / 'o.csv')
  assert code == 0
  rows = read_csv(tmp_path / 'o.csv')
  times = [(row['start_seconds'], row['end_seconds']) for row in rows]
  assert times == [
    ('0.0', '30.0'), ('30.0', '60.0'), ('40.0', '70.0'), ('0.0', '70.0')
  ]  # fmt: skip
  assert rows[0]['status'] == 'window with a gap or a flat line'
  assert not rows[0]['predicted']
  assert rows[1]['status'] == 'window'
  assert rows[3]['status'].startswith('mean of the 2 of 2 windows')
  assert '; 1 window with a gap or a flat line left out' in rows[3]['status']
  one, two, mean = (probabilities_of(row) for row in rows[1:])
  np.testing.assert_allclose(mean, (one + two) / 2)
  assert 'share of 0:00:40: ' in printed
  assert 'of A' in printed
  windows = ('--window', 10, '--stride', 5, '--bandpass', '--vote')
  call(long, *STATED, *windows, '--out', tmp_path / 'o.json')
  [recording] = json.loads((tmp_path / 'o.json').read_text())['recordings']
  starts = [row['start_seconds'] for row in recording['rows']]
  assert starts == [*range(0, 65, 5), 0]
  summary = recording['summary']
  assert sum(summary['share_of_time'].values()) == pytest.approx(1)
  assert summary['answered_seconds'] == 60  # 20 to 25 s is in a later window.


def test_pictures_show_the_window_that_is_the_most_certain(
  call, tmp_path, long, attributed
):
  whole = recordings_test.write_mat(tmp_path, COUNTS)
  broken = tmp_path / 'broken.edf'
  broken.write_bytes(b'junk')
  plots = tmp_path / 'new' / 'plots'
  options = ('--out', tmp_path / 'o.csv', '--plot', plots)
  assert call(whole, long, broken, *STATED, *options)[0] == 3
  names = {path.name for path in plots.iterdir()}
  stems = (whole.stem, long.stem)
  assert names == {f'{x}.{kind}' for x in stems for kind in ('png', 'svg')}
  (_, first, _), (folds, second, answer) = attributed
  np.testing.assert_array_equal(first, COUNTS)
  assert folds == (1,)
  rows = [row for row in read_csv(tmp_path / 'o.csv') if row['predicted']]
  windows = [row for row in rows if row['status'] == 'window']
  [mean] = [row for row in rows if row['status'].startswith('mean')]
  likeliest = probabilities_of(mean).argmax()
  row = max(windows, key=lambda row: probabilities_of(row)[likeliest])
  start, end = (
    round(300 * float(row[f'{x}_seconds'])) for x in ('start', 'end')
  )
  np.testing.assert_array_equal(second, np.load(long)[start:end])
  assert answer == probabilities_of(row).argmax()
  svg = (plots / f'{long.stem}.svg').read_text()
  assert f'{start // 300} to {end // 300} s' in svg


def test_a_picture_of_a_recording_with_episodes_shows_one(
  small_run, attributed
):
  """Though the mean is another class."""
  model = ensemble.load(small_run)
  result = predictor.RecordingResult('r', model.spec, windowed=True)
  for index, name in enumerate('NNAN'):
    chosen = model.spec.classes.index(name)
    answer = aggregation.Prediction(name, np.eye(4)[chosen], 1.0)
    start, counts = 30.0 * index, np.full(9000, index, np.int16)
    window = predictor.Window(0, start, start + 30, counts, model.folds)
    prediction = aggregation.WindowPrediction(start, start + 30, answer)
    result.windows.append(prediction)
    result.examples[chosen] = window, prediction
  result.summary = aggregation.summarize(result.windows, model.spec)
  assert result.predicted == 'N'
  pictures.draw(model, result)
  [(_, counts, answer)] = attributed
  assert (counts[0], answer) == (2, model.spec.classes.index('A'))


def test_undecided_recordings_are_in_no_answers(call, tmp_path):
  path = recordings_test.write_mat(tmp_path, COUNTS)
  answers = tmp_path / 'answers.txt'
  code, printed, _ = call(path, '--abstain', 1, '--answers', answers)
  assert code == 0
  assert 'undecided' in printed
  assert answers.read_text() == ''


def test_a_tilde_stands_for_the_home_folder(
  call, small_run, tmp_path, monkeypatch
):
  path = recordings_test.write_mat(tmp_path, COUNTS)
  home = tmp_path / 'home'
  home.mkdir()
  (home / 'run').symlink_to(small_run)
  monkeypatch.setenv('HOME', str(home))
  monkeypatch.chdir(tmp_path)
  code, _, errors = call(path, '--run=~/run', '--out=~/o.csv')
  assert code == 0, errors
  assert call(path, '--answers=~/a.txt')[0] == 0
  assert {'o.csv', 'a.txt'} <= {file.name for file in home.iterdir()}
  assert not (tmp_path / '~').exists()
  code, _, errors = call(path, '--run=~/run', '--out=~/run/o.csv')
  assert code == 2
  assert 'is in the run folder' in errors


def test_odd_names_lose_nothing(call, tmp_path, attributed):
  (tmp_path / 'all').mkdir()
  odd = (b'M\xfcller', b'a,b', b'line\nend', b'x' * 250, '心'.encode() * 80)
  for name in odd:
    content = recordings_test.write_npy(tmp_path, COUNTS).read_bytes()
    (tmp_path / 'all' / os.fsdecode(name + b'.npy')).write_bytes(content)
  (tmp_path / 'all' / os.fsdecode(b'\xfc.npy')).write_bytes(b'junk')
  outputs = ('--answers', tmp_path / 'a.txt', '--out', tmp_path / 'o.csv')
  plots = tmp_path / 'plots'
  with contextlib.redirect_stdout(
    io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  ) as printed:
    code, _, errors = call(tmp_path / 'all', *STATED, *outputs, '--plot', plots)
  assert code == 3, errors
  assert 'udcfc.npy' in errors
  printed.seek(0)
  table = printed.read()
  assert 'M\\udcfcller' in table
  assert table.count('\n') == 2 + len(odd)
  with (tmp_path / 'a.txt').open(newline='') as file:
    names = {name for name, _ in csv.reader(file)}
  expected = [name.decode(errors='backslashreplace') for name in odd]
  assert names == {'M\\udcfcller', *expected[1:]}
  assert 'udcfc.npy' in (tmp_path / 'o.csv').read_text()
  assert len(list(plots.iterdir())) == 2 * len(odd)


def test_results_are_printed_though_a_picture_fails(
  call, tmp_path, monkeypatch
):
  def fail(*_):
    raise InputError('No picture.')

  monkeypatch.setattr(attribution, 'integrated_gradients', fail)
  path = recordings_test.write_mat(tmp_path, COUNTS)
  (tmp_path / 'b.edf').write_bytes(b'junk')
  plots = ('--plot', tmp_path / 'plots')
  code, printed, errors = call(path, tmp_path / 'b.edf', *plots)
  assert code == 2
  assert printed.count('\n') == 3
  assert 'b.edf' in errors.splitlines()[0]
  assert errors.splitlines()[1] == 'No picture.'


@pytest.mark.parametrize(
  ('paths', 'expected'),
  [
    (['a/A1.hea', 'b/A2.hea'], ['A1', 'A2']),
    (['a/A1.hea', 'b/A1.hea', 'a/A2.hea'], ['a/A1.hea', 'b/A1.hea', 'A2']),
    # The name of the last is the path of the first.
    (['x.csv', 'x.npy', 'x.csv.npy'], ['x.csv', 'x.npy', 'x.csv.npy']),
  ],
)
def test_recordings_of_one_name_are_told_apart(paths, expected):
  assert outputs.names([pathlib.Path(path) for path in paths]) == expected


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ((), 'arguments are required'),
    (('nothing.csv',), 'nothing.csv does not exist'),
    (('.',), 'has no recordings'),
    (('.', '--out', 'o.xlsx'), 'o.xlsx ends neither'),
    (('A1.hea', '--window', '0'), 'window is 0.0, not from 1 to 3600'),
    (('A1.hea', ''), 'FILE: an empty path'),
    (('A1.hea', '--run', ''), '--run: an empty path'),
    (('.', '--units', 'furlongs'), 'furlongs'),
    (('A1.hea', '--run', 'nowhere'), 'nowhere is no run folder'),
    (('A1.hea', '--out', 'A1.hea/o.csv'), 'cannot be written'),
    (('a.csv', '--out', 'a.csv'), '--out a.csv would replace a recording'),
    (('a.csv', '--answers', '../x/a.csv'), 'would replace a recording'),
    (('A1.hea', '--answers', 'A1.mat'), 'A1.mat would replace a recording'),
    (('A1.hea', '--out', 'o.csv', '--answers', './o.csv'), 'another output'),
    (('A1.hea', '--out', 'o.csv', '--plot', 'o.csv'), 'another output'),
    (('A1.hea', '--out', 'empty.csv'), 'empty.csv is a folder'),
    (('A1.hea', '--answers', 'empty'), 'empty is a folder'),
    (('A1.hea', '--plot', 'A1'), 'A1 cannot be written'),
    (('A1.hea', '--report', 'r.htm'), 'r.htm does not end in .html'),
    (('A1.hea', '--report', 'empty.html'), 'empty.html is a folder'),
    (('A1.hea', '--report', 'A1/r.html'), 'cannot be written'),
  ],
)
def test_mistakes_are_explained(
  refused, tmp_path, monkeypatch, arguments, words
):
  folder = tmp_path / 'x'
  for name in ('', 'empty', 'empty.csv', 'empty.html'):
    (folder / name).mkdir()
  recordings_test.write_mat(folder, COUNTS)
  recordings_test.write_csv(folder, COUNTS)
  (folder / 'A1').touch()
  monkeypatch.chdir(folder / 'empty' if '.' in arguments else folder)
  assert words in refused(*arguments)


@pytest.mark.parametrize('rate', [(), ('--sampling_rate', 300)])
@pytest.mark.parametrize(
  ('option', 'name'),
  [('--out', 'a.csv'), ('--answers', 'a.csv'), ('--answers', 'b.txt')],
)
def test_no_recording_of_a_folder_is_replaced(
  refused, tmp_path, option, name, rate
):
  """Not even one that is not read since no rate is given."""
  recordings_test.write_mat(tmp_path, COUNTS)
  recordings_test.write_csv(tmp_path, COUNTS)
  (tmp_path / 'b.txt').write_text('1\n2\n')
  before = (tmp_path / name).read_bytes()
  sentence = refused(tmp_path, option, tmp_path / name, *rate)
  assert f'{name} would replace a recording' in sentence
  assert (tmp_path / name).read_bytes() == before


def test_answers_among_the_recordings_are_replaced_by_new_ones(call, tmp_path):
  recordings_test.write_mat(tmp_path, COUNTS)
  outputs = ['--out', tmp_path / 'a.csv', '--answers', tmp_path / 'a.txt']
  for _ in range(2):
    code, _, errors = call(tmp_path, *outputs)
    assert code == 0, errors
    assert (tmp_path / 'a.csv').read_text().count('\n') == 2
    assert (tmp_path / 'a.txt').read_text().count('\n') == 1


@pytest.mark.parametrize(
  ('option', 'names'),
  [
    ('--out', ['config.json', 'fold1/new.csv', 'new.json']),
    ('--answers', ['config.json', 'fold1/new.csv', '.']),
    ('--plot', ['config.json', 'fold1/new.csv', '.']),
    ('--report', ['new.html', 'fold1/new.html']),
  ],
)
def test_the_run_is_not_written_to(refused, small_run, tmp_path, option, names):
  path = recordings_test.write_mat(tmp_path, COUNTS)
  (tmp_path / 'link').symlink_to(small_run)
  before = (small_run / 'config.json').read_bytes()
  for name in names:
    sentence = refused(path, option, tmp_path / 'link' / name)
    assert 'is in the run folder' in sentence
  assert (small_run / 'config.json').read_bytes() == before


def test_an_unknown_lead_fails_with_those_there(call, tmp_path):
  path = recordings_test.write_wfdb(
    tmp_path, np.stack([COUNTS, COUNTS], 1), names=('MLII', 'V5')
  )
  code, _, errors = call(path, '--lead', 'V1')
  assert code == 3
  assert "no lead 'V1': it has 0 MLII, 1 V5" in errors
  code, printed, _ = call(path, '--lead', 'V5')
  assert code == 0
  assert ' V5 ' in printed


def test_a_dataset_without_roles_has_plain_summaries(small_run):
  spec = DatasetSpec(classes=('a', 'b'), sampling_rate=100)
  answer = aggregation.Prediction('b', np.array([0.25, 0.75]), 1.0)
  result = predictor.RecordingResult('r', spec, seconds=60, windowed=True)
  for k in (0, 30):
    result.windows.append(aggregation.WindowPrediction(k, k + 30, answer))
  result.summary = aggregation.summarize(result.windows, spec)
  assert result.probabilities == {'a': 0.25, 'b': 0.75}
  assert report.rows(result)[-1]['status'] == 'mean of 2 windows'
  table = report.format_table([result], spec.classes)
  assert table.splitlines()[0].split() == [
    *('recording', 'lead', 'seconds', 'prediction', 'a', 'b', 'agreement'),
    *('beats', 'beats/min', 'RR', 'spread'),
  ]
  assert 'episode' not in table
  text = report.to_csv([result], spec.classes)
  assert text.splitlines()[0].split(',')[5:7] == [
    *('probability_a', 'probability_b')
  ]
  assert report.to_answers([result]) == 'r,b\n'
  model = ensemble.load(small_run)
  settings = predictor.Settings()
  [written] = json.loads(report.to_json([result], model, settings))[
    'recordings'
  ]
  assert written['summary'].keys() == {'share_of_time', 'answered_seconds'}
  result.spec = dataclasses.replace(spec, episode_class='b', noise_class='a')
  result.summary = aggregation.summarize(result.windows, result.spec)
  headline = (
    'b in 100.0 % of 0:01:00: 1 episode, the longest 0:01:00 from 0:00:00'
  )
  status = f'{headline}; mean of the 2 of 2 windows that are not a'
  assert report.rows(result)[-1]['status'] == status
  table = report.format_table([result], spec.classes)
  assert headline in table
  [written] = json.loads(report.to_json([result], model, settings))[
    'recordings'
  ]
  assert written['summary']['episodes_of_b'] == [[0, 60]]
  assert written['summary']['longest_episode_of_b'] == [0, 60]


def test_noise_alone_is_called_so():
  noise = aggregation.Prediction('~', np.array([0.1, 0.1, 0.1, 0.7]), 1.0)
  result = predictor.RecordingResult('a', CHALLENGE, seconds=90, windowed=True)
  for k in (0, 30, 60):
    window = aggregation.WindowPrediction(k, k + 30, noise)
    result.windows.append(window)
  result.summary = aggregation.summarize(result.windows, CHALLENGE)
  last = report.rows(result)[-1]
  assert last['predicted'] == '~'
  assert last['status'] == 'mean of 3 windows, all noise'

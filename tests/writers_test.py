import csv
import re

import numpy as np
import pytest

from ecg_jax.errors import InputError
from ecg_jax.runs import metrics_csv
from ecg_jax.training import writers
from tests.helpers import run_python


def row(phase, epoch, validated=True):
  return {
    'phase': phase,
    'epoch': epoch,
    'step': 10 * epoch,
    'train_loss': 1 / (3 + epoch),
    'validation_loss': 2 / (3 + epoch) if validated else None,
    'validation_score': 50.0 + epoch if validated else None,
    'learning_rate': 1e-3,
    'records_per_second': 12.3456,
    'seconds': 7.5,
  }


def rows_of(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def written(rows):
  return [
    {key: '' if v is None else repr(v) for key, v in row.items()}
    for row in rows
  ]


def test_rows_have_exactly_the_columns_and_exact_numbers(tmp_path):
  path = tmp_path / 'fold0' / 'metrics.csv'
  rows = [row(0, 1, validated=False), row(0, 2), row(1, 1)]
  file = metrics_csv.MetricsFile(path, 0, 0, enabled=True)
  for epoch in rows:
    file.append(epoch)
  assert path.read_text().splitlines()[0] == ','.join(row(0, 1))
  assert rows_of(path) == written(rows)
  assert [p.name for p in path.parent.iterdir()] == ['metrics.csv']
  with pytest.raises(ValueError, match='speed'):  # It is no column.
    file.append({**row(1, 2), 'speed': 3})


@pytest.mark.parametrize(
  ('phase', 'epochs', 'kept'), [(0, 0, 0), (0, 2, 2), (1, 0, 3), (1, 1, 4)]
)
def test_a_restart_replaces_the_rows_after_where_it_goes_on(
  tmp_path, phase, epochs, kept
):
  path = tmp_path / 'metrics.csv'
  rows = [row(0, epoch, validated=epoch != 2) for epoch in (1, 2, 3)]
  rows += [row(1, 1), row(1, 2)]
  file = metrics_csv.MetricsFile(path, 0, 0, enabled=True)
  for epoch in rows:
    file.append(epoch)
  new = {**row(phase, epochs + 1), 'train_loss': 9.0}
  metrics_csv.MetricsFile(path, phase, epochs, enabled=True).append(new)
  assert rows_of(path) == written([*rows[:kept], new])


def bar(done=0):
  return writers.ProgressBar(
    'fold 3', total=200, done=done, position=0, enabled=True
  )


def test_plain_lines_when_the_output_is_no_terminal(capsys):
  progress = bar()
  progress.advance(50, where='phase 0', loss=1.0, best=40.0)
  progress.advance(50, where='phase 0', loss=0.5, best=40.0)
  progress.end_epoch(row(0, 1), where='phase 0, epoch 1', best=51.0)
  progress.end_epoch(row(0, 2, validated=False), where='there', best=51.0)
  progress.skip(100)
  progress.end_epoch(row(0, 3), where='at the end', best=51.0)
  progress.close()
  out, err = capsys.readouterr()
  first, second, third = out.splitlines()
  assert err == ''
  assert re.fullmatch(
    r'fold 3, phase 0, epoch 1: loss 0\.2500, validation loss 0\.5000 score'
    r' 51\.0 \(best 51\.0\), 12\.3 records/s, \d+:\d\d:\d\d left',
    first,
  )
  assert 'validation' not in second
  assert third.endswith('0:00:00 left')
  assert not re.search('[\r\x1b]', out)


def test_a_bar_on_a_terminal(capsys, monkeypatch):
  monkeypatch.setattr('sys.stderr.isatty', lambda: True)
  progress = bar(done=100)
  progress.count_programs(2, 7)
  progress.advance(40, where='phase 2', loss=0.5, best=61.5)
  progress._bar.refresh()
  progress.count_programs(7, 7)
  progress.advance(10, where='phase 2', loss=0.25, best=61.5)
  progress.end_epoch(row(0, 1), where='phase 2', best=61.5)
  progress.skip(50)
  progress._bar.refresh()
  progress.close()
  out, err = capsys.readouterr()
  assert out == ''
  assert 'left, 2 of 7 programs compiled' in err
  assert 'loss 0.5000, best validation 61.5, 2 of 7 programs compiled' in err
  assert '7 of 7' not in err
  assert 'fold 3' in err
  assert 'phase 2, loss 0.2500, best validation 61.5' in err
  assert '50%' in err
  assert '100%' in err


def test_tensorboard_is_written_unless_switched_off(tmp_path):
  for enabled in (True, False):
    folder = tmp_path / str(enabled)
    board = writers.TensorBoard(folder, next_step=0, enabled=enabled)
    board.write(row(0, 1, validated=False))
    board.write(row(0, 2))
    board.close()
    assert folder.exists() is enabled
  (events,) = (tmp_path / 'True').iterdir()
  content = events.read_bytes()
  for column in set(metrics_csv.COLUMNS) - {'step'}:
    assert column.encode() in content


@pytest.mark.parametrize('when', ['opened', 'written'])
def test_training_goes_on_where_tensorboard_cannot_be_written(tmp_path, when):
  """In a process of its own: it ends without a word from anything else."""
  script = f"""
import pathlib, resource, signal
from ecg_jax.training import writers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(size):
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
if {when!r} == 'opened':
  pathlib.Path('board').touch()
board = writers.TensorBoard(pathlib.Path('board'), next_step=0, enabled=True)
row = dict(step=1, train_loss=0.5, validation_loss=None)
limit(100)
board.write(row)
limit(resource.RLIM_INFINITY)
for _ in range(9):
  board.write(row)
board.close()
print('done')
"""
  done = run_python(script, cwd=tmp_path)
  assert done.stdout == 'done\n'
  said = [line for line in done.stderr.splitlines() if 'board' in line.lower()]
  assert len(said) == 1
  assert said[0].startswith('board cannot be written (')
  assert said[0].endswith('without TensorBoard files.')
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda text: text[:-1] + ',1\n', 'Line 2 of .* is not a row'),
    (lambda text: text.rpartition(',')[0] + '\n', 'Line 2 of .* is not a row'),
    (lambda text: text.replace('\n0,1', '\n0,one'), 'Line 2 of .*'),
    (lambda text: text.replace('\n0,1', '\n0,'), 'Line 2 of .*'),
    (lambda text: text.replace('0.001', 'slow'), 'Line 2 of .*'),
    (lambda text: text.replace('phase', 'phrase'), 'has the columns'),
    (lambda text: text.replace('phase', 'phase,phase'), 'has the columns'),
    (lambda text: text.replace(',seconds', ''), 'has the columns'),
    (lambda _: '', 'has the columns'),
    (lambda _: 'xxxxxxxxxx', 'has the columns'),
    (lambda text: text.replace('\n0,1', '\n0,2'), r'has the epochs \[\]'),
    (lambda text: text.partition('\n')[0], r'has the epochs \[\]'),
    (
      lambda text: text + text.partition('\n')[2],
      r'epochs \[1, 1\] of phase 0 instead of 1 to 1',
    ),
  ],
)
def test_a_damaged_file_is_refused_before_training_resumes(
  tmp_path, change, message
):
  path = tmp_path / 'metrics.csv'
  metrics_csv.MetricsFile(path, 0, 0, enabled=True).append(row(0, 1))
  metrics_csv.MetricsFile(path, 0, 1, enabled=True)
  path.write_text(change(path.read_text()))
  with pytest.raises(InputError, match=rf'{message}.*train the fold again'):
    metrics_csv.MetricsFile(path, 0, 1, enabled=True)
  # Both readers share the parser; only the epochs are the writer's concern.
  if 'epochs' not in message:
    with pytest.raises(InputError, match=message):
      metrics_csv.read(path)


def test_columns_of_another_version_are_accepted_and_preserved(tmp_path):
  path = tmp_path / 'metrics.csv'
  metrics_csv.MetricsFile(path, 0, 0, enabled=True).append(row(0, 1))
  plain = metrics_csv.read(path)
  assert list(plain) == list(metrics_csv.COLUMNS)
  header, line = path.read_text().splitlines()
  path.write_text(f'speed,{header},note\n2.5,{line},good\n')
  assert metrics_csv.read(path) == plain
  metrics_csv.MetricsFile(path, 0, 1, enabled=True).append(row(0, 2))
  extra = {'speed': '2.5', 'note': 'good'}
  first, second = written([row(0, 1), row(0, 2)])
  none = dict.fromkeys(extra, '')
  assert rows_of(path) == [first | extra, second | none]


def test_only_the_process_that_reports_writes_rows(tmp_path):
  path = tmp_path / 'metrics.csv'
  metrics_csv.MetricsFile(path, 0, 0, enabled=False).append({'epoch': 1})
  assert not path.exists()


def test_metrics_have_columns_of_their_own(tmp_path):
  path = tmp_path / 'metrics.csv'
  names = ('kappa', 'mine')
  values = {'validation_kappa': 0.625, 'validation_mine': None}
  rows = [row(0, 1) | values, row(0, 2, validated=False)]
  file = metrics_csv.MetricsFile(path, 0, 0, enabled=True, metrics=names)
  for epoch in rows:
    file.append(epoch)
  header = path.read_text().splitlines()[0].split(',')
  assert header == [*row(0, 1), 'validation_kappa', 'validation_mine']
  found = metrics_csv.read(path)
  assert list(found) == header
  np.testing.assert_array_equal(found['validation_kappa'], [0.625, np.nan])
  np.testing.assert_array_equal(found['validation_mine'], [np.nan, np.nan])
  # A start without them keeps the columns, one with another adds its own.
  file = metrics_csv.MetricsFile(path, 0, 1, enabled=True, metrics=('new',))
  file.append(row(0, 2) | {'validation_new': 2.0})
  found = metrics_csv.read(path)
  np.testing.assert_array_equal(found['validation_new'], [np.nan, 2.0])
  np.testing.assert_array_equal(found['validation_kappa'], [0.625, np.nan])
  path.write_text(path.read_text().replace('0.625', 'high'))
  with pytest.raises(InputError, match='Line 2 of'):
    metrics_csv.read(path)

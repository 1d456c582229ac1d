"""The summary over folds and its command, on run folders made here."""

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys

import numpy as np
import pytest

from ecg_jax.evaluation import summary, tables
from ecg_jax.runs import metrics_csv
from tests import made_up_run
from tools import summarize

MEASURES = ('score', 'f1_N', 'f1_A', 'f1_O', 'f1_~', 'accuracy')


def _make_run(folder, folds=(0, 1, 2), letters='NAO~', **fields):
  """Writes a complete run of random predictions; returns its label pairs."""
  rng = np.random.default_rng(7)
  version = fields.get('label_version', 'v3')
  most = fields.pop('max_records', None)
  data = {'name': 'synthetic_ecg', 'max_records': most}
  made_up_run.write_config(folder, folds, data=data, **fields)
  pairs = {}
  for fold in folds:
    sets = {}
    for name, first in (('test', 1000 * fold), ('validation', 90000)):
      number = int(rng.integers(30, 60))
      labels = rng.choice(list(letters), number)
      wrong = rng.choice(list(letters), number)
      predicted = np.where(rng.random(number) < 0.7, labels, wrong)
      records = [f'S{first + index:05d}' for index in range(number)]
      classes = np.array(['NAO~'.index(label) for label in labels])
      chosen = predicted[:, None] == list('NAO~')
      sets[name] = records, classes, np.where(chosen, 0.7, 0.1)
      pairs[name, fold] = list(zip(labels, predicted, strict=True))
    made_up_run.write_fold(
      folder, fold, sets, label_version=version, max_records=most
    )
    rows = [','.join(metrics_csv.COLUMNS)]
    for phase, epoch in itertools.product((0, 1), range(1, 8 + fold)):
      validation = f'{1 / epoch},{100 - 50 / epoch}' if epoch % 5 == 0 else ','
      row = f'{phase},{epoch},{10 * epoch},{2 / epoch},{validation}'
      rows.append(f'{row},0.001,50.0,1.5')
    text = '\n'.join(rows) + '\n'
    (folder / f'fold{fold}' / 'metrics.csv').write_text(text)
  return pairs


def _f1(pairs, name):
  correct = sum(label == answer == name for label, answer in pairs)
  mentions = sum((a == name) + (b == name) for a, b in pairs)
  return 200 * correct / mentions if mentions else 0.0


def _six(pairs):
  by_class = [_f1(pairs, name) for name in 'NAO~']
  accuracy = 100 * sum(a == b for a, b in pairs) / len(pairs)
  return [sum(by_class[:3]) / 3, *by_class, accuracy]


@pytest.mark.parametrize('set_name', ['test', 'validation'])
def test_figures_are_those_of_the_label_pairs(tmp_path, set_name):
  pairs = _make_run(tmp_path / 'run')
  found = summary.summarize(tmp_path / 'run', set_name)
  folds = [_six(pairs[set_name, fold]) for fold in range(3)]
  for fold in range(3):
    values = summary.measures(found['folds'][str(fold)])
    assert list(values.values()) == pytest.approx(folds[fold])
  for i, measure in enumerate(MEASURES):
    column = [values[i] for values in folds]
    assert found['mean'][measure] == pytest.approx(statistics.mean(column))
    deviation = found['standard_deviation'][measure]
    assert deviation == pytest.approx(statistics.stdev(column))
  everything = [pair for fold in range(3) for pair in pairs[set_name, fold]]
  pooled = list(summary.measures(found['pooled']).values())
  assert pooled == pytest.approx(_six(everything))
  assert found['pooled']['records'] == len(everything)
  # All validation sets here begin with the same record, test sets share none.
  assert (found['repeated_records'] > 0) == (set_name == 'validation')
  assert found['missing'] == {}
  assert json.loads(json.dumps(found)) == found


def test_table_has_a_line_a_fold_with_one_decimal(tmp_path):
  _make_run(tmp_path / 'run')
  found = summary.summarize(tmp_path / 'run')
  lines = tables.format_table([found]).splitlines()
  rows = [[c.strip() for c in line.split('|')[1:-1]] for line in lines[4:9]]
  assert [row[0] for row in rows[:3]] == ['0', '1', '2']
  sets = [*found['folds'].values(), None, found['pooled']]
  for row, values in zip(rows, sets, strict=True):
    if values:
      expected = [f'{v:.1f}' for v in summary.measures(values).values()]
      assert row[1:] == [str(values['records']), *expected]
  mean, deviation = found['mean'], found['standard_deviation']
  assert rows[3][2:] == [f'{mean[m]:.1f} ± {deviation[m]:.1f}' for m in mean]
  assert len({len(line) for line in lines[2:9]}) == 1


@pytest.mark.parametrize(
  ('remove', 'reason'),
  [
    ('scores.json', 'unfinished, no scores.json'),
    ('predictions.csv', 'no predictions.csv'),
    ('*', 'not started'),
  ],
)
def test_missing_fold_is_named_and_left_out(tmp_path, remove, reason):
  run = tmp_path / 'run'
  pairs = _make_run(run)
  for path in (run / 'fold1').glob(remove):
    path.unlink()
  if remove == '*':
    (run / 'fold1').rmdir()
  found = summary.summarize(run)
  assert found['missing'] == {'1': reason}
  expected = statistics.mean(_six(pairs['test', fold])[0] for fold in (0, 2))
  assert found['mean']['score'] == pytest.approx(expected)
  other = tmp_path / 'other'
  _make_run(other)
  for found_list in ([found], [found, summary.summarize(other)]):
    text = tables.format_table(found_list)
    assert '2 of 3' in text
    assert f'run: fold 1 is not included ({reason}).' in text


def test_one_fold_has_no_deviation_and_no_fold_has_no_figures(tmp_path):
  run = tmp_path / 'run'
  _make_run(run, folds=(4,))
  found = summary.summarize(run)
  assert found['standard_deviation'] is None
  assert f'{found["mean"]["score"]:.1f} ± –' in tables.format_table([found])
  (run / 'fold4' / 'scores.json').unlink()
  found = summary.summarize(run)
  assert found['mean'] is None
  assert found['pooled'] is None
  assert '0 of 1 folds' in tables.format_table([found])


def test_undefined_f1_counts_as_zero_and_is_marked(tmp_path):
  _make_run(tmp_path / 'run', letters='NO~')
  found = summary.summarize(tmp_path / 'run')
  assert found['mean']['f1_A'] == 0
  lines = tables.format_table([found]).splitlines()
  for line in lines[4:9]:
    cells = [cell.strip() for cell in line.split('|')[2:-1]]
    # The score and F1 of A, which is part of it; nothing else.
    marked = [cell.endswith('†') for cell in cells]
    assert marked == [False, True, False, True, False, False, False]
  assert lines[-1].startswith('- † ')


def test_footer_says_what_limits_a_comparison(tmp_path):
  """Once, where runs share it."""
  limits = {'max_records': 60, 'max_epochs': 1}
  _make_run(tmp_path / 'a', **limits)
  _make_run(tmp_path / 'b', **limits)
  _make_run(tmp_path / 'c', label_version='v2')
  found = [summary.summarize(tmp_path / name) for name in 'abc']
  text = tables.format_table(found)
  assert '- a, b: data.max_records = 60: ' in text
  assert '- a, b: max_epochs = 1: ' in text
  assert 'differ, scores do not compare: a v3, b v3, c v2.' in text
  assert '- Each run: max_epochs = 1: ' in tables.format_table(found[:2])
  assert '- a: max_epochs = 1: ' in tables.format_table(found[:1])
  alone = tables.format_table(found[2:])
  assert 'labels v2' in alone
  assert 'max_' not in alone
  assert 'differ' not in alone


def test_command_writes_what_it_prints(tmp_path, capsys):
  run = tmp_path / 'run'
  _make_run(run)
  assert summarize.main([str(run)]) == 0
  printed = capsys.readouterr().out
  assert (run / 'summary.md').read_text(encoding='utf-8') == printed
  content = json.loads((run / 'summary.json').read_text())
  assert content == summary.summarize(run)
  # The validation set never replaces the test scores.
  assert summarize.main([str(run), '--set', 'validation']) == 0
  assert json.loads((run / 'summary.json').read_text()) == content
  other = json.loads((run / 'validation_summary.json').read_text())
  assert other['set'] == 'validation'
  assert not list(run.glob('.*'))


def test_list_of_runs_has_a_row_a_seed(tmp_path, capsys):
  names = ['cnn/seed0', 'crnn/seed2', 'crnn/seed10']
  for name in names:
    _make_run(tmp_path / name)
  assert summarize.main([str(tmp_path)]) == 0
  printed = capsys.readouterr().out
  rows = [line.split('|')[1].strip() for line in printed.splitlines()[4:10]]
  assert rows[::2] == names
  assert (tmp_path / 'summary.md').read_text(encoding='utf-8') == printed
  runs = json.loads((tmp_path / 'summary.json').read_text())['runs']
  assert runs == [summary.summarize(tmp_path / name) for name in names]
  for name in names:
    assert (tmp_path / name / 'summary.md').exists()


def test_runs_of_one_name_are_told_apart(tmp_path, capsys):
  folders = [str(tmp_path / name / 'run') for name in 'ab']
  for folder in folders:
    _make_run(pathlib.Path(folder))
  assert summarize.main(folders) == 0
  printed = capsys.readouterr().out
  assert all(folder in printed for folder in folders)


def test_needs_no_jax_and_runs_from_anywhere(tmp_path):
  _make_run(tmp_path / 'run')
  for name in ('jax', 'flax', 'orbax', 'scipy', 'ml_collections'):
    (tmp_path / f'{name}.py').write_text('raise ImportError')
  environment = {**os.environ, 'PYTHONPATH': str(tmp_path)}
  command = [sys.executable, summarize.__file__, 'run', '--plot']
  out = subprocess.check_output(command, cwd=tmp_path, env=environment)
  assert b'pooled, 3 of 3 folds' in out


def test_plots_are_written_where_asked(tmp_path):
  for name in 'ab':
    _make_run(tmp_path / name)
  # A fold that is being trained, one that has just started, one without.
  (tmp_path / 'a' / 'fold1' / 'scores.json').unlink()
  metrics = tmp_path / 'a' / 'fold1' / 'metrics.csv'
  metrics.write_text('\n'.join(metrics.read_text().splitlines()[:2]))
  (tmp_path / 'a' / 'fold2' / 'metrics.csv').unlink()
  assert summarize.main([str(tmp_path / 'a'), '--plot']) == 0
  both = [str(tmp_path / 'a'), str(tmp_path / 'b')]
  assert summarize.main([*both, '--plot', str(tmp_path / 'plots')]) == 0
  names = ['confusion.png', 'learning_curves.png', 'score_over_time.png']
  plots = [tmp_path / 'a' / name for name in names]
  plots += [tmp_path / 'plots' / f'{run}_{x}' for run in 'ab' for x in names]
  assert len(list((tmp_path / 'plots').iterdir())) == 6
  for path in plots:
    assert path.read_bytes().startswith(b'\x89PNG')


def _drop_column(text):
  return '\n'.join(','.join(r.split(',')[:-1]) for r in text.splitlines())


def _drop_line(text):
  return ''.join(text.splitlines(keepends=True)[:-1])


def _edit_scores(**changes):
  return lambda text: json.dumps({**json.loads(text), **changes})


def _one_more_correct(text):
  content = json.loads(text)
  content['sets']['test']['confusion'][0][0] += 1
  return json.dumps(content)


@pytest.mark.parametrize(
  ('name', 'damage', 'words'),
  [
    ('config.json', lambda text: text[:-5], 'not valid JSON'),
    ('config.json', lambda text: '{"config": {}}', 'None as config.folds'),
    ('config.json', lambda text: text.replace('[0, 1', '["0", 1'), "'0'"),
    ('fold1/scores.json', lambda text: text[:-5], 'not valid JSON'),
    ('fold1/scores.json', lambda text: '[]', 'no score file of fold 1'),
    ('fold1/scores.json', _edit_scores(fold=2), 'fold is 2'),
    ('fold1/scores.json', _edit_scores(sets=None), 'no score file'),
    ('fold1/scores.json', _edit_scores(label_version='v2'), 'label_version'),
    ('fold1/scores.json', _edit_scores(max_records=9), 'max_records'),
    ('fold1/scores.json', _one_more_correct, 'gives a score of'),
    ('fold1/predictions.csv', _drop_column, 'has the columns'),
    ('fold1/predictions.csv', lambda text: '', 'has the columns'),
    ('fold1/predictions.csv', lambda text: text[:-9], 'is not a prediction'),
    ('fold1/predictions.csv', lambda t: t.replace(',1,N', ',1,Q'), 'Line '),
    ('fold1/predictions.csv', lambda t: t.replace(',1,N', ',2,N'), 'Line '),
    ('fold1/predictions.csv', lambda t: t.replace('0.7', 'nan'), 'Line 2 '),
    ('fold1/predictions.csv', lambda t: t.replace('1001', '1002'), 'twice'),
    ('fold1/predictions.csv', lambda t: t.replace('S01', 'S00'), 'two folds'),
    ('fold1/predictions.csv', _drop_line, 'gives a score of'),
    ('fold1/metrics.csv', _drop_column, 'has the columns'),
    ('fold1/metrics.csv', lambda t: t.replace('0.001', 'x'), 'Line 2 '),
    ('fold1/metrics.csv', lambda t: t[:-10], 'is not a row'),
  ],
)
def test_damage_gets_one_sentence_and_writes_nothing(
  tmp_path, capsys, refusal, name, damage, words
):
  run = tmp_path / 'run'
  _make_run(run)
  path = run / name
  before = path.read_text()
  path.write_text(damage(before))
  assert path.read_text() != before
  files = sorted(run.rglob('*'))
  assert words in refusal(summarize.main, run, '--plot')
  assert sorted(run.rglob('*')) == files
  assert summarize.main([str(run), '--plot', '--debug']) == 2
  assert 'Traceback' in capsys.readouterr().err


def test_wrong_folders_get_one_sentence(tmp_path, refusal):
  _make_run(tmp_path / 'run')
  (tmp_path / 'empty').mkdir()
  run, empty = tmp_path / 'run', tmp_path / 'empty'
  for arguments, words in (
    ([tmp_path / 'none'], 'There is no folder'),
    ([run, empty], 'There is no config.json'),
    (['--plot', run, empty], 'put --plot after'),
  ):
    assert words in refusal(summarize.main, *arguments)
  arguments = [run, '--plot', run / 'config.json']
  sentence = refusal(summarize.main, *arguments, prints=True)
  assert 'cannot be written' in sentence

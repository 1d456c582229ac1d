"""The summary over folds and its command, on run folders made here."""

import html
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import numpy as np
import pytest

from ecg_jax import registry, stored_config, summarize
from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.evaluation import score, summary, tables
from ecg_jax.runs import metrics_csv
from ecg_jax.runtime import figures
from tests import made_up_run
from tests.helpers import ROOT

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


def _without_spec(found):
  """As it is written."""
  return {name: value for name, value in found.items() if name != 'spec'}


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
  kept = _without_spec(found)
  assert json.loads(json.dumps(kept)) == kept


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


def test_a_report_is_one_page_of_all_runs(tmp_path, capsys):
  for name in ('a', '<i>'):
    _make_run(tmp_path / name)
  runs = [str(tmp_path / name) for name in ('a', '<i>')]
  out = tmp_path / 'new' / 'page.html'
  assert summarize.main([*runs, '--report', str(out)]) == 0
  printed = capsys.readouterr().out
  content = out.read_text()
  cells = re.findall(r'<t[hd](?: .*?)?>(.*?)</t[hd]>', content)
  assert [html.unescape(cell) for cell in cells] == [
    cell.strip()
    for line in printed.splitlines()
    if line.startswith('|') and '---' not in line
    for cell in line.split('|')[1:-1]
  ]
  for note in re.findall('^- (.*)$', printed, re.MULTILINE):
    assert html.escape(note) in content
  assert content.count('<img alt="') == 6
  assert content.count('src="data:image/png;base64,iVBOR') == 6
  assert '<i>' not in content
  assert "--workdir 'runs/<i>'" in html.unescape(content)
  assert not list(out.parent.glob('.*'))


@pytest.mark.parametrize('name', ['crnn_fast', 'fold0/small_crnn/seed0'])
def test_the_config_of_a_report_repeats_the_run(name, monkeypatch):
  monkeypatch.setattr(summarize, 'plot', lambda *_: {})
  run = ROOT / 'results' / name
  content = summarize.encode_report({run: summary.summarize(run)}).decode()
  config, commands = re.findall(r'<pre.*?>(.*?)</pre>', content, re.DOTALL)
  defined = {}
  exec(html.unescape(config), defined)
  kept = json.loads((run / 'config.json').read_text())
  expected = stored_config.from_json(kept['config'])
  found = defined['get_config']()
  assert stored_config.differences(found, expected) == []
  assert found.folds == expected.folds
  assert f'git checkout {kept["commit"]}' in commands
  assert '/' not in config


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('page.htm', 'page.htm is no .html file'),
    ('folder.html', 'folder.html is no .html file'),
    ('file/page.html', 'cannot be written'),
  ],
)
def test_a_report_that_cannot_be_written_is_refused(
  refusal, tmp_path, name, words
):
  _make_run(tmp_path / 'run')
  (tmp_path / 'folder.html').mkdir()
  (tmp_path / 'file').touch()
  arguments = [tmp_path / 'run', '--report', tmp_path / name]
  assert words in refusal(summarize.main, *arguments)
  assert not (tmp_path / 'run' / 'summary.md').exists()


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
  assert content == _without_spec(summary.summarize(run))
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
  found = [summary.summarize(tmp_path / name) for name in names]
  assert runs == [_without_spec(one) for one in found]
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
  tool = ROOT / 'tools' / 'summarize.py'
  command = [sys.executable, tool, 'run', '--plot']
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


# Other datasets, and user-defined metrics.

THREE = DatasetSpec(
  classes=('a', 'b', 'c'), scored_classes=('a', 'c'), sampling_rate=100
)
METRIC = """
import numpy as np

def misses(labels, predicted):
  return float(np.sum(labels != predicted))

def none(labels):
  return np.nan
"""


@pytest.fixture
def metric_file(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(METRIC)
  return path


@pytest.fixture
def measured_run(tmp_path, metric_file):
  """A run with two folds of three classes, and three metrics."""
  names = ['kappa', f'{metric_file}:misses', f'{metric_file}:none']
  run = tmp_path / 'run'
  made_up_run.write_config(run, (0, 1), THREE, metrics=names)
  content = json.loads((run / 'config.json').read_text())
  content['metric_sources'] = registry.source_digests(names)
  (run / 'config.json').write_text(json.dumps(content))
  metrics = {
    name.rpartition(':')[2]: registry.find('metrics', name, registry.METRICS)
    for name in names
  }
  rng = np.random.default_rng(0)
  for fold in (0, 1):
    sets = {}
    for name in ('test', 'validation'):
      records = [f'{name}{fold}{k:02}' for k in range(30)]
      probabilities = rng.dirichlet(np.ones(3), 30).astype(np.float32)
      sets[name] = records, rng.integers(0, 3, 30), probabilities
    made_up_run.write_fold(run, fold, sets, spec=THREE, metrics=metrics)
  return run


def _wrong(found):
  return found['records'] - int(np.trace(found['confusion']))


def test_metrics_are_in_the_summary_and_the_table(measured_run, capsys):
  found = summary.summarize(measured_run)
  assert found['spec'] == THREE
  assert 'lost_metrics' not in found
  wrong = [_wrong(found['folds'][fold]) for fold in '01']
  for fold, count in zip('01', wrong, strict=True):
    scores = found['folds'][fold]
    kappa = score.kappa(np.array(scores['confusion']))
    expected = {'kappa': kappa, 'misses': count, 'none': None}
    assert scores['metrics'] == expected
  assert found['mean']['misses'] == statistics.mean(wrong)
  deviation = found['standard_deviation']
  assert deviation['misses'] == pytest.approx(statistics.stdev(wrong))
  assert found['mean']['none'] is deviation['none'] is None
  assert found['pooled']['metrics']['misses'] == sum(wrong)
  assert summarize.main([str(measured_run)]) == 0
  header, _, first, *_, mean, pooled = (
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in capsys.readouterr().out.splitlines()[2:8]
  )
  assert header == [
    *('fold', 'records', 'score', 'F1 a', 'F1 b', 'F1 c', 'accuracy'),
    *('kappa', 'misses', 'none'),
  ]
  kappa = found['folds']['0']['metrics']['kappa']
  assert first[-3:] == [f'{kappa:.3f}', f'{wrong[0]:.3f}', '–']
  spread = f'{statistics.mean(wrong):.3f} ± {statistics.stdev(wrong):.3f}'
  assert mean[-2:] == [spread, '–']
  assert pooled[-2:] == [f'{sum(wrong):.3f}', '–']
  kept = json.loads((measured_run / 'summary.json').read_text())
  assert kept == _without_spec(found)


def test_a_metric_that_is_not_what_it_was_is_computed_anew_and_said(
  measured_run,
):
  """It may have been corrected since, or draw random numbers."""
  before = summary.summarize(measured_run)
  path = measured_run / 'fold1' / 'scores.json'
  content = json.loads(path.read_text())
  content['sets']['test']['metrics']['misses'] += 1
  path.write_text(json.dumps(content))
  found = summary.summarize(measured_run)
  assert found['folds'] == before['folds']
  [reason] = found['lost_metrics'].values()
  assert 'computed anew' in reason
  assert f'misses: {reason}.' in tables.format_table([found])


def _change(path):
  path.write_text(path.read_text() + '\n')


def _break(path):
  path.write_text('1 / 0')


@pytest.mark.parametrize(
  ('lose', 'reason'),
  [
    (pathlib.Path.unlink, 'changed since or does not exist'),
    (_change, 'has been changed since'),
  ],
)
def test_metric_that_is_lost_keeps_the_values_of_the_folds(
  measured_run, metric_file, lose, reason
):
  before = summary.summarize(measured_run)
  lose(metric_file)
  found = summary.summarize(measured_run)
  assert found['folds'] == before['folds']
  assert found['mean'] == before['mean']
  assert found['pooled']['metrics']['misses'] is None
  kappa = before['pooled']['metrics']['kappa']
  assert found['pooled']['metrics']['kappa'] == kappa
  assert found['lost_metrics'].keys() == {'misses', 'none'}
  text = tables.format_table([found])
  assert f'run: misses: not computed over all folds ({metric_file}' in text
  assert reason in text


@pytest.mark.parametrize(
  ('lose', 'reason'), [(pathlib.Path.unlink, 'no file'), (_break, 'ZeroDivisi')]
)
def test_metric_of_unknown_content_is_lost_if_it_cannot_be_imported(
  measured_run, metric_file, lose, reason
):
  """Of a run that keeps no digests."""
  path = measured_run / 'config.json'
  content = json.loads(path.read_text())
  del content['metric_sources']
  path.write_text(json.dumps(content))
  other = metric_file.with_name('other.py')
  path.write_text(path.read_text().replace(str(metric_file), str(other)))
  other.touch()
  lose(other)
  found = summary.summarize(measured_run)
  assert reason in found['lost_metrics']['misses']
  assert found['mean']['misses'] > 0


def test_folds_of_starts_with_other_metrics_are_summarized(measured_run):
  path = measured_run / 'fold0' / 'scores.json'
  content = json.loads(path.read_text())
  metrics = content['sets']['test']['metrics']
  metrics['another'] = 3.0
  missing = metrics.pop('misses')
  path.write_text(json.dumps(content))
  found = summary.summarize(measured_run)
  assert found['folds']['0']['metrics']['misses'] == missing
  assert 'another' not in found['folds']['0']['metrics']


def test_runs_of_several_datasets_are_in_one_table(measured_run, tmp_path):
  _make_run(tmp_path / 'other')
  runs = [tmp_path / 'other', measured_run]
  text = tables.format_table([summary.summarize(run) for run in runs])
  rows = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in text.splitlines()
    if line.startswith('|')
  ]
  header, _, other, _, run, _ = rows
  assert header[3:] == [
    *('records', 'score', 'F1 N', 'F1 A', 'F1 O', 'F1 ~', 'F1 a', 'F1 b'),
    *('F1 c', 'accuracy', 'kappa', 'misses', 'none'),
  ]
  columns = {name: place for place, name in enumerate(header)}
  for name in ('F1 a', 'kappa'):
    assert other[columns[name]] == '–'
    assert '±' in run[columns[name]]
  assert run[columns['F1 N']] == '–'


def test_learning_curves_have_a_panel_for_each_metric(
  measured_run, monkeypatch
):
  figures_drawn = []
  monkeypatch.setattr(
    figures, 'encode', lambda figure, **_: figures_drawn.append(figure)
  )
  columns = [*metrics_csv.COLUMNS, 'validation_kappa', 'host']
  rows = ['0,1,10,1.0,0.9,50.0,1e-3,9.0,1.5,0.25,a', '0,2,20,0.8,,,1e-3,9,1,,a']
  text = '\n'.join([','.join(columns), *rows])
  (measured_run / 'fold0' / 'metrics.csv').write_text(text)
  found = summary.summarize(measured_run)
  assert 'learning_curves.png' in summarize.plot(measured_run, found)
  axes = figures_drawn[0].axes
  assert [panel.get_ylabel() for panel in axes] == [
    *('train loss', 'validation loss', 'validation score (%)'),
    'validation kappa',
  ]
  drawn = [line.get_ydata() for line in axes[-1].lines if len(line.get_ydata())]
  assert [values.tolist() for values in drawn] == [[0.25]]
  confusion = figures_drawn[-1].axes[0]
  assert [x.get_text() for x in confusion.get_xticklabels()] == ['a', 'b', 'c']


def test_what_a_newer_version_adds_is_skipped(tmp_path):
  """In config.json, scores.json and the CSV files."""
  _make_run(tmp_path / 'run')
  before = summary.summarize(tmp_path / 'run')
  for name in ('config.json', 'fold0/scores.json'):
    path = tmp_path / 'run' / name
    content = json.loads(path.read_text())
    content['added'] = {'by': 'a newer version'}
    for scores in content.get('sets', {}).values():
      scores['added'] = 1
      scores['classes']['N']['added'] = 2
    path.write_text(json.dumps(content))
  for name in ('predictions.csv', 'metrics.csv'):
    path = tmp_path / 'run' / 'fold0' / name
    header, *lines = path.read_text().splitlines()
    text = [f'{header},added', *(f'{line},"x,y"' for line in lines)]
    path.write_text('\n'.join(text))
  assert summary.summarize(tmp_path / 'run') == before
  assert len(summarize.plot(tmp_path / 'run', before)) == 3

"""The runs kept in `results/`, and what README and docs state of them."""

import csv
import json
import pathlib
import sys

import numpy as np
import pytest

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.evaluation import calibration, detection, summary, tables
from ecg_jax.runs import predictions

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'results'
RUNS = sorted(path.parent for path in RESULTS.glob('**/config.json'))
FIVE_FOLDS = {
  '`configs/crnn_beats.py`, labels v3': 'crnn_beats',
  '`configs/crnn_fast.py`, labels v3': 'crnn_fast',
  '`configs/crnn_fast.py`, labels v2': 'crnn_fast_v2',
}
"""Runs of all folds, by the heads of their tables."""

README = (ROOT / 'README.md').read_text()
PAGE = (ROOT / 'docs' / 'results.md').read_text()
TRUST = (ROOT / 'docs' / 'trust.md').read_text()


def _prose(text):
  """The page in one line, wherever its lines are broken."""
  return ' '.join(text.split())


@pytest.fixture(params=RUNS, ids=lambda run: str(run.relative_to(RESULTS)))
def run(request):
  return request.param


def _rounded(text):
  """Numbers to 1e-9: the last bits differ between versions of NumPy."""
  return json.loads(text, parse_float=lambda number: round(float(number), 9))


def test_kept_summary_is_that_of_the_predictions(run):
  for set_name in predictions.FILES:
    assert not summary.summarize(run, set_name)['missing']
  kept = _rounded((run / 'summary.json').read_text())
  found = summary.summarize(run)
  del found['spec']  # It is not written.
  computed = _rounded(json.dumps(found))
  # Drawn at random, which each version may do in its own way.
  interval = kept.pop('pooled_interval')
  assert computed.pop('pooled_interval') == pytest.approx(interval, abs=0.1)
  assert computed | {'run': kept['run']} == kept


def _tables(text):
  """Tables of a page: lists of rows of cells, the first row is the header."""
  tables, lines = [], [*text.splitlines(), '']
  rows = []
  for line in lines:
    if line.startswith('|'):
      rows.append([cell.strip() for cell in line.strip('|').split('|')])
    elif rows:
      tables.append([rows[0], *rows[2:]])
      rows = []
  return tables


def _row(fold, tested, validated):
  """Cells of a fold: validation and test score, F1 of each class."""
  classes = tested['folds'][fold]['classes']
  found = [
    validated['folds'][fold]['score'],
    tested['folds'][fold]['score'],
    *(classes[label]['f1'] for label in 'NAO~'),
  ]
  return [f'{number:.1f}' for number in found]


def _mean_cells(tested):
  """Mean ± deviation of the score, in bold, and of the F1 of each class."""
  score, *f1 = (
    f'{tested["mean"][key]:.1f} ± {tested["standard_deviation"][key]:.1f}'
    for key in ('score', 'f1_N', 'f1_A', 'f1_O', 'f1_~')
  )
  return [f'**{score}**', *f1]


def _pooled(run):
  """Pooled score and its interval, as they were kept."""
  kept = json.loads((run / 'summary.json').read_text())
  low, high = kept['pooled_interval']
  return kept['pooled']['score'], low, high


def _epochs(run, fold):
  with (run / f'fold{fold}' / 'metrics.csv').open() as file:
    return list(csv.DictReader(file))


def _minutes(run, fold):
  """Minutes of training steps, in all and until validation is above 79.2."""
  rows = _epochs(run, fold)
  spent = np.cumsum([float(row['seconds']) for row in rows]) / 60
  scores = np.array([float(row['validation_score'] or 0) for row in rows])
  above = np.argmax(scores > 79.2)
  return f'{spent[-1]:.0f}', f'{spent[above]:.0f}', f'{above + 1}'


@pytest.mark.parametrize('head', FIVE_FOLDS)
def test_tables_are_those_of_the_runs(head):
  """Every row of the table of all folds, with every figure."""
  run = RESULTS / FIVE_FOLDS[head]
  tested, validated = (
    summary.summarize(run, name) for name in ('test', 'validation')
  )
  [table] = [t for t in _tables(PAGE) if t[0][0] == head]
  header, *rows = table
  assert header[1:7] == ['validation', 'test', 'N', 'A', 'O', '~']
  expected = [[fold, *_row(fold, tested, validated)] for fold in '01234']
  mean = f'{validated["mean"]["score"]:.1f}'
  expected.append(['mean ± deviation', mean, *_mean_cells(tested)])
  assert [row[:7] for row in rows] == expected
  for row in rows[:-1]:
    if row[7:]:
      total, until, epochs = _minutes(run, row[0])
      assert row[7].split(',')[0] == total
      assert row[8] in (f'{until} minutes', f'{epochs} epochs')
  score, low, high = _pooled(run)
  stated = f'pooled score is {score:.1f} (95 % {low:.1f} to {high:.1f}'
  assert stated in _prose(PAGE)


def test_rows_of_single_folds_are_those_of_the_runs():
  """Also of the recipe, which stands above the runs that depart from it."""
  tables = [t for t in _tables(PAGE) if t[0][:2] == ['run', 'validation']]
  rows = [row for table in tables for row in table[1:]]
  named = {}
  for name, *cells in rows:
    path = name.strip('`') if '`' in name else 'crnn_fast'
    assert path in named or (RESULTS / path).is_dir()
    run = RESULTS / path
    tested, validated = (
      summary.summarize(run, set_name) for set_name in ('test', 'validation')
    )
    assert cells == _row('0', tested, validated), name
    named[path] = cells
  single = {str(r.relative_to(RESULTS)) for r in RUNS if 'seed' in r.name}
  assert named.keys() == single | {'crnn_fast'}


def test_readme_table_is_that_of_the_runs():
  [table] = [t for t in _tables(README) if t[0][-1] == 'pooled score (95 %)']
  rows = {row[0]: row[1:] for row in table[1:]}
  for head, name in FIVE_FOLDS.items():
    run = RESULTS / name
    mean, *f1 = _mean_cells(summary.summarize(run))
    score, low, high = _pooled(run)
    assert rows.pop(head) == [
      *f1, mean, f'{score:.1f} ({low:.1f} to {high:.1f})',
    ]  # fmt: skip
  # What was published stands on both pages.
  [published] = [t for t in _tables(PAGE) if t[0][0] == 'published']
  for name, cells in rows.items():
    model = name.removesuffix(', as published')
    assert [f'{model}, with augmentation', *cells[:-1]] in published


def test_figures_in_the_text_are_those_of_the_runs():
  run, text = RESULTS / 'crnn_fast', _prose(PAGE)
  confusion = np.array(summary.summarize(run)['pooled']['confusion'])
  wrong = confusion.sum() - np.trace(confusion)
  assert (
    f'Of {wrong:,} mistakes, {confusion[2, 0]} are O classified as N and'
    f' {confusion[0, 2]} are N classified as O.'
  ) in text
  found = summary.summarize(RESULTS / 'crnn_beats')
  after = np.array(found['pooled']['confusion'])
  assert f'the mean of the folds is {found["mean"]["score"]:.2f}' in text
  assert (
    f'Of {after.sum() - np.trace(after):,} mistakes, {after[2, 0]} are O'
    f' classified as N ({confusion[2, 0]} without trees), {after[0, 2]} are N'
    f' classified as O ({confusion[0, 2]}) and {after[2, 1]} are O classified'
    f' as A ({confusion[2, 1]}).'
  ) in text
  rates = [
    np.median([float(row['records_per_second']) for row in _epochs(run, fold)])
    for fold in (0, 1)
  ]
  assert f'trains {min(rates):.0f} to {max(rates):.0f} records a second' in text
  plain = RESULTS / 'fold0' / 'no_resampling' / 'seed0'
  _, low, high = _pooled(plain)
  assert f'({low:.1f} to {high:.1f} for the lowest)' in text
  losses = [float(_epochs(r, 0)[-1]['train_loss']) for r in (plain, run)]
  assert f'(training loss {losses[0]:.2f} instead of {losses[1]:.2f})' in text
  scores = [float(x['validation_score'] or 0) for x in _epochs(plain, 0)]
  assert (
    f'best after {1 + int(np.argmax(scores))} epochs and down to'
    f' {scores[-1]:.1f} after {len(scores)}.'
  ) in text


@pytest.mark.parametrize('folder', sorted(RESULTS.glob('*/mitdb')))
def test_tables_of_another_dataset_are_those_of_the_predictions(folder):
  kept = json.loads((folder / 'scores.json').read_text())
  with (folder / 'predictions.csv').open() as file:
    rows = [x for x in csv.DictReader(file) if x['upside_down'] == '0']
  columns = ('record', 'recording', 'patient', 'label')
  truth = detection.Truth(
    *([row[name] for row in rows] for name in columns),
    kept['meaning'],
    kept['positive'],
  )
  probabilities = np.array(
    [[row[f'probability_{name}'] for name in kept['classes']] for row in rows],
    np.float32,
  )
  together = kept['weights'][detection.TOGETHER]['upright']
  groups = list(together['groups'])
  found = detection.score(truth, probabilities, kept['classes'], groups)
  assert list(found) == list(together)
  for name in found:
    if name != 'groups':
      value = together[name]['value']
      assert found[name]['value'] == pytest.approx(value, abs=1e-6)
  assert [x['predicted'] for x in found['groups'].values()] == [
    x['predicted'] for x in together['groups'].values()
  ]
  # That of the recordings is in its own summary only.
  for table in _tables(detection.format_tables(kept))[:2]:
    assert table in _tables(PAGE)


def test_calibration_is_that_of_the_run(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'tools')
  import calibrate

  test, validation = (
    list(summary.read_set(RESULTS / 'crnn_beats', name).values())
    for name in ('test', 'validation')
  )
  labels = np.concatenate([fold.labels for fold in test])
  before = np.concatenate([fold.probabilities for fold in test])
  after = calibrate.rescale_test(test, validation)
  [table] = [t for t in _tables(TRUST) if t[0][0].startswith('temperature')]
  header, *rows = table
  assert header[0] == (
    f'temperature {calibrate.fit(validation):.3f}; test sets,'
    f' {len(labels):,} records'
  )
  figures = [calibration.measures(x, labels) for x in (before, after)]
  for (name, *cells), key in zip(rows, tables.CALIBRATION, strict=True):
    assert name.startswith(tables.CALIBRATION[key])
    assert cells == [f'{found[key]:.4f}' for found in figures]
  kept = {
    x: calibration.withhold(after, labels, x, CHALLENGE)
    for x in (0.0, 0.7, 0.9)
  }
  assert (
    f'{100 * kept[0.7].coverage:.0f} % at 0.7 with a score of'
    f' {kept[0.7].score:.1f} instead of {kept[0.0].score:.1f},'
    f' {100 * kept[0.9].coverage:.0f} % at 0.9 with {kept[0.9].score:.1f}'
  ) in _prose(TRUST)
  sys.modules.pop('calibrate')

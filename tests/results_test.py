"""The runs kept in `results/`, and what the README says of them."""

import json
import pathlib

import pytest

from ecg_jax.evaluation import summary
from ecg_jax.runs import predictions

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'results'
RUNS = sorted(path.parent for path in RESULTS.glob('**/config.json'))


@pytest.fixture(params=RUNS, ids=lambda run: str(run.relative_to(RESULTS)))
def run(request):
  return request.param


def _row(name, cells):
  numbers = (c if isinstance(c, str) else f'{c:.1f}' for c in cells)
  return f'\n| {" | ".join([name, *numbers])} |'


def _readme_says(run):
  """The rows and figures that the README has to have of a run."""
  told = summary.summarize(run)
  validation = summary.summarize(run, 'validation')
  rows = {
    fold: [
      validation['folds'][fold]['score'],
      scores['score'],
      *(scores['classes'][label]['f1'] for label in 'NAO~'),
    ]
    for fold, scores in told['folds'].items()
  }
  if len(rows) == 1:
    (cells,) = rows.values()
    return [_row(f'`{run.relative_to(RESULTS)}`', cells)]
  score, *f1 = (
    f'{told["mean"][key]:.1f} ± {told["standard_deviation"][key]:.1f}'
    for key in ('score', 'f1_N', 'f1_A', 'f1_O', 'f1_~')
  )
  kept = json.loads((run / 'summary.json').read_text())
  low, high = kept['pooled_interval']
  return [
    *(_row(str(fold), cells) for fold, cells in rows.items()),
    _row(
      'mean ± deviation', [validation['mean']['score'], f'**{score}**', *f1]
    ),
    f'{told["pooled"]["score"]:.1f} (95 % {low:.1f} to {high:.1f}',
  ]


@pytest.mark.parametrize('set_name', predictions.FILES)
def test_predictions_give_the_stated_scores(run, set_name):
  assert not summary.summarize(run, set_name)['missing']


def _rounded(text):
  """Numbers to 1e-9: the last bits differ between versions of NumPy."""
  return json.loads(text, parse_float=lambda number: round(float(number), 9))


def test_kept_summary_is_that_of_the_predictions(run):
  kept = _rounded((run / 'summary.json').read_text())
  computed = _rounded(json.dumps(summary.summarize(run)))
  # Drawn at random, which each version may do in its own way.
  interval = kept.pop('pooled_interval')
  assert computed.pop('pooled_interval') == pytest.approx(interval, abs=0.1)
  assert computed | {'run': kept['run']} == kept


def test_readme_states_these_scores(run):
  readme = (ROOT / 'README.md').read_text()
  assert [says for says in _readme_says(run) if says not in readme] == []

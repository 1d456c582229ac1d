"""How well one class is found in the records of another dataset; no jax.

A record is positive if its label means that class of the run, negative if it
means another one, and not scored if it means none. Intervals are of resampled
patients. n: records, C: classes of the run, G: classes of the dataset.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ecg_jax.evaluation import tables

RESAMPLES = 2000
"""Number of times that patients are drawn with replacement."""

SENSITIVITIES = (95, 99)
"""Percent; specificity is also told at the threshold that reaches each."""

TOGETHER = 'folds together'
"""Name of the mean of the folds' probabilities among the weights."""

_MEASURES = {
  'auroc': 'AUROC',
  'sensitivity': 'sensitivity',
  'specificity': 'specificity',
} | {
  f'specificity_at_{x}': f'specificity at {x} % sensitivity'
  for x in SENSITIVITIES
}


class Truth(NamedTuple):
  """What the records of a dataset are."""

  records: Sequence[str]
  """Names [n]."""
  recordings: Sequence[str]
  """Recording that each was cut from [n]."""
  patients: Sequence[str]
  """Person that each is of [n]."""
  labels: Sequence[str]
  """Class of each in the dataset [n]."""
  meaning: Mapping[str, str]
  """Class of the dataset -> class of the run; those of the others are not
  scored."""
  positive: str
  """The class of the run that is to be found."""

  def kind(self, label: str) -> str:
    """'positive', 'negative' or 'not_scored'."""
    if label not in self.meaning:
      return 'not_scored'
    is_positive = self.meaning[label] == self.positive
    return 'positive' if is_positive else 'negative'


class _Ranked(NamedTuple):
  """Scored records by falling probability of the positive class."""

  order: np.ndarray
  """int64 [scored], positions of the records."""
  positive: np.ndarray
  """bool [scored]."""
  ends: np.ndarray
  """int64, last place of each probability that occurs."""


def score(
  truth: Truth,
  probabilities: np.ndarray,
  classes: Sequence[str],
  groups: Sequence[str],
) -> dict[str, Any]:
  """Scores what a model says of the records.

  Args:
    truth: What they are; at least one is positive, and one negative.
    probabilities: Float [n, C].
    classes: Names of the classes of the run.
    groups: Names of the classes of the dataset.

  Returns:
    Values ready for JSON:
      `groups`: by class of the dataset that occurs, `records`, `patients`,
        `predicted` (class of the run -> number of records) and `found`, the
        percentage whose predicted class is the positive one;
      `auroc`: from 0 to 1;
      `sensitivity`, `specificity`: of the predicted class, in percent;
      `specificity_at_95`, `specificity_at_99`: at the highest threshold of the
        probability whose sensitivity on these records is at least that.
    `found` and the last four are {'value', 'interval'}: the interval, [low,
    high], has 95 % of the values over resampled patients, of those draws that
    have such records.
  """
  names = [name for name in groups if name in set(truth.labels)]
  group = np.array([names.index(label) for label in truth.labels])
  _, patient = np.unique(np.array(truth.patients), return_inverse=True)
  predicted = probabilities.argmax(axis=1)
  target = classes.index(truth.positive)
  kinds = np.array([truth.kind(name) for name in names])
  ranked = _rank(probabilities[:, target], kinds[group])

  def measure(weights: np.ndarray) -> np.ndarray:
    total = np.bincount(group, weights, len(names))
    found = np.bincount(group, weights * (predicted == target), len(names))
    is_positive, is_negative = kinds == 'positive', kinds == 'negative'
    with np.errstate(invalid='ignore', divide='ignore'):
      sensitivity = found[is_positive].sum() / total[is_positive].sum()
      alarms = found[is_negative].sum() / total[is_negative].sum()
      curve = _curve(ranked, weights)
      decided = 100 * sensitivity, 100 * (1 - alarms)
      return np.array([*(100 * found / total), curve[0], *decided, *curve[1:]])

  rng = np.random.default_rng(0)
  people = patient.max() + 1
  drawn = np.array(
    [
      measure(rng.multinomial(people, np.full(people, 1 / people))[patient])
      for _ in range(RESAMPLES)
    ]
  )
  limits = np.nanquantile(drawn, [0.025, 0.975], axis=0).T.tolist()
  values = measure(np.ones(len(group))).tolist()
  measured = [
    {'value': value, 'interval': interval}
    for value, interval in zip(values, limits, strict=True)
  ]
  described = {}
  for number, name in enumerate(names):
    members = group == number
    counts = np.bincount(predicted[members], minlength=len(classes)).tolist()
    described[name] = {
      'records': int(members.sum()),
      'patients': len(set(patient[members].tolist())),
      'predicted': dict(zip(classes, counts, strict=True)),
      'found': measured[number],
    }
  overall = zip(_MEASURES, measured[len(names) :], strict=True)
  return {'groups': described, **dict(overall)}


def _rank(probability: np.ndarray, kinds: np.ndarray) -> _Ranked:
  (scored,) = np.nonzero(kinds != 'not_scored')
  order = scored[np.argsort(-probability[scored], kind='stable')]
  falls = np.diff(probability[order]) != 0
  ends = np.append(np.flatnonzero(falls), len(order) - 1)
  return _Ranked(order, kinds[order] == 'positive', ends)


def _curve(ranked: _Ranked, weights: np.ndarray) -> list[float]:
  """Area under the ROC curve, and the specificities in percent."""
  weights = weights[ranked.order]
  found = np.cumsum(weights * ranked.positive)[ranked.ends]
  alarms = np.cumsum(weights * ~ranked.positive)[ranked.ends]
  found, alarms = (np.append(0, x) / x[-1] for x in (found, alarms))
  curve = [float(np.trapezoid(found, alarms))]
  for least in SENSITIVITIES:
    reached = found >= least / 100 - 1e-9  # By none if none is positive.
    fewest = alarms[reached.argmax()] if reached.any() else np.nan
    curve.append(float(100 * (1 - fewest)))
  return curve


def by_recording(
  truth: Truth, predicted: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
  """Counts the records of each recording.

  Args:
    truth: What they are.
    predicted: Class of the run [n].

  Returns:
    Recording -> 'positive', 'negative', 'not_scored' -> number of `records` of
    that kind, and of those that are `found`: whose predicted class is the
    positive one.
  """
  counts: dict[str, dict[str, dict[str, int]]] = {}
  rows = zip(truth.recordings, truth.labels, predicted, strict=True)
  for recording, label, answer in rows:
    kinds = ('positive', 'negative', 'not_scored')
    empty = {kind: {'records': 0, 'found': 0} for kind in kinds}
    count = counts.setdefault(recording, empty)[truth.kind(label)]
    count['records'] += 1
    count['found'] += answer == truth.positive
  return counts


def format_tables(found: Mapping[str, Any], *, short: bool = False) -> str:
  """Formats scores.json of a run on another dataset as Markdown.

  The tables are those of the groups, of the weights, and, where recordings have
  several records and it need not be short, of the recordings.
  """
  folds = f'fold{"s" * (len(found["folds"]) > 1)} '
  folds += ', '.join(map(str, found['folds']))
  title = (
    f'{found["run"]} on {found["dataset"]}: {found["positive"]} in'
    f' {found["records"]:,} records of {found["patients"]:,} patients, percent'
    f' (95 % of resampled patients), {folds} together'
  )
  lines = [title, '', *_group_table(found), '', *_weights_table(found)]
  if len(found['recordings']) < found['records'] and not short:
    lines += ['', *_recording_table(found)]
  return '\n'.join(lines)


def _group_table(found: Mapping[str, Any]) -> list[str]:
  positive, ways = found['positive'], found['weights'][TOGETHER]
  others = [name for name in found['classes'] if name != positive]
  header = ['records', 'taken for', 'number', 'patients']
  header += [f'predicted {positive}', *others, f'{positive}, upside down']
  rows = []
  for name, group in ways['upright']['groups'].items():
    total, predicted = group['records'], group['predicted']
    rows.append(
      [
        name,
        found['meaning'].get(name, 'not scored'),
        f'{total:,}',
        f'{group["patients"]:,}',
        _cell(group['found']),
        *(f'{100 * predicted[other] / total:.1f}' for other in others),
        _cell(ways['upside down']['groups'][name]['found']),
      ]
    )
  return tables.markdown_table(header, rows)


def _weights_table(found: Mapping[str, Any]) -> list[str]:
  rows = [
    [
      name if way == 'upright' else f'{name}, {way}',
      *(_cell(scores[measure], measure) for measure in _MEASURES),
    ]
    for name, ways in found['weights'].items()
    for way, scores in ways.items()
  ]
  return tables.markdown_table(['weights', *_MEASURES.values()], rows)


def _recording_table(found: Mapping[str, Any]) -> list[str]:
  positive = found['positive']
  header = ['recording', positive, 'found', f'not {positive}', 'false alarms']
  header += ['not scored', f'predicted {positive}']
  rows = [
    [name, *(str(n) for counts in kinds.values() for n in counts.values())]
    for name, kinds in found['recordings'].items()
  ]
  return tables.markdown_table(header, rows)


def _cell(measured: Mapping[str, Any], name: str = '') -> str:
  low, high = measured['interval']
  digits = 3 if name == 'auroc' else 1
  return (
    f'{measured["value"]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'
  )

"""The card of a model: what it is for, how it was made, and how well it does.

All figures are those of the run's own files.
"""

import json
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecg_jax.evaluation import calibration, detection, score, summary, tables
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.runs import artifacts, released
from ecg_jax.runtime import files as files_lib

_FOLDER = pathlib.Path(__file__).parent


def write(
  model: Ensemble,
  temperature: float,
  use: str,
  further: Mapping[str, Any],
  *,
  attribution: str = '',
) -> str:
  """Writes the card of a run, from its own files.

  Args:
    model: The run.
    temperature: Of its probabilities.
    use: What is described as its use: 'programs' (`exporter`) or 'package'
      (`released`).
    further: What the text about the use needs beside the fields below.
    attribution: Whom the training data are of, and their license.
  """
  config, run_folder, spec = model.config, model.run_folder, model.spec
  run = artifacts.read_run(run_folder)
  found = summary.summarize(run_folder)
  start = thinned = trees = by_record = ''
  if config.init_from is not None:
    start = (
      f' Training started from the weights of the run {config.init_from},'
      ' which was trained on records of its own.'
    )
  if config.data.max_records is not None:
    most = config.data.max_records
    thinned = f', of which each set was thinned to {most}'
  if model.has_trees:
    trees = (
      ' A fold averages the probabilities of its network with those of its'
      f' {config.trees.rounds} rounds of gradient-boosted trees on features of'
      ' the beats; its logits are their logarithms.'
    )
  if not spec.by_patient:
    by_record = (
      ' The folds are by record, not by patient: records of a person may be in'
      ' the training and the test set of a fold, which flatters the scores.'
    )
  fields = {
    'name': released.name_of(run_folder),
    'model': config.model.name,
    'run': found['run'],
    'data': spec.description or f'the dataset `{config.data.name}`',
    'classes': _listed(_named_classes(model), 'or'),
    'order': ', '.join(spec.classes),
    'num_classes': spec.num_classes,
    'scored': _listed(spec.scored_classes, 'and'),
    'labels': config.label_version,
    'start': start,
    'thinned': thinned,
    'trees': trees,
    'by_record': by_record,
    'attribution': f'\n\n{attribution}' if attribution else '',
    'folds': ', '.join(map(str, model.folds)),
    'count': len(model.folds),
    'scores': tables.format_table([found]),
    'detected': _detection_table(found['pooled']['confusion'], spec.classes),
    'confusion': _confusion_table(found['pooled']['confusion'], spec.classes),
    'other': _other_data(model),
    'calibration': _calibration(model, temperature),
    'longest': _longest(model),
    'limits': limits(model),
    'trained_with': run['versions'].get('jax'),
    'commit': run['commit'],
  }
  path = _FOLDER / f'model_card_{use}.md'
  text = string.Template(path.read_text()).substitute(fields, **further)
  card = string.Template((_FOLDER / 'model_card.md').read_text())
  return card.substitute(fields, use=text.strip())


def limits(model: Ensemble) -> str:
  """What the predictions must not be taken for, a Markdown list."""
  text = (_FOLDER / 'limits.md').read_text()
  return string.Template(text.strip()).substitute(
    num_classes=model.spec.num_classes, longest=_longest(model)
  )


def _longest(model: Ensemble) -> str:
  """Seconds of the longest record trained on."""
  return f'{model.longest_samples / model.spec.sampling_rate:.0f}'


def _named_classes(model: Ensemble) -> list[str]:
  """'atrial fibrillation (A)' and so on."""
  return [
    name if words == name else f'{words} ({name})'
    for name, words in zip(
      model.spec.classes, model.spec.class_names, strict=True
    )
  ]


def _detection_table(
  confusion: Sequence[Sequence[int]], classes: Sequence[str]
) -> str:
  """How well each class is told from all others."""
  counts = np.array(confusion)
  rows = []
  for place, name in enumerate(classes):
    hits = counts[place, place]
    actual, predicted = counts[place].sum(), counts[:, place].sum()
    others = counts.sum() - actual
    rejected = others - (predicted - hits)
    shares = (hits, actual), (rejected, others), (hits, predicted)
    rows.append([name, f'{actual:,}', *(_share(*x) for x in shares)])
  header = ['class', 'records', 'sensitivity', 'specificity', 'precision']
  return '\n'.join(tables.markdown_table(header, rows))


def _share(hits: int, total: int) -> str:
  """A percentage with its interval."""
  if not total:
    return '–'
  low, high = score.wilson_interval(hits, total)
  return f'{100 * hits / total:.1f} ({low:.1f} to {high:.1f})'


def _confusion_table(
  confusion: Sequence[Sequence[int]], classes: Sequence[str]
) -> str:
  rows = [
    [name, *map(str, row)] for name, row in zip(classes, confusion, strict=True)
  ]
  return '\n'.join(tables.markdown_table(['', *classes], rows))


def _other_data(model: Ensemble) -> str:
  """The tables of `ecg_jax.evaluate --on`, of these folds."""
  texts = []
  for folder in sorted(model.run_folder.iterdir(), key=lambda x: x.name):
    if folder.name.startswith('evaluation_on_'):
      found = json.loads(files_lib.read_text(folder / 'scores.json'))
      if found['folds'] == list(model.folds):
        texts.append(detection.format_tables(found, short=True))
  return '\n\n'.join(texts) or 'It has not been tested on any other data.'


def _calibration(model: Ensemble, temperature: float) -> str:
  path = model.run_folder / calibration.FILE
  if not path.is_file():
    return 'It was not calibrated; the temperature is 1.'
  content = json.loads(files_lib.read_text(path))
  return (
    f'Logits are divided by the temperature {temperature:.4g}, fitted to'
    f' {content["validation_records"]:,} validation predictions, before the'
    ' softmax. The tables are of the test sets, each calibrated without its own'
    f' records.\n\n{tables.format_calibration(content)}'
  )


def _listed(names: Sequence[str], word: str) -> str:
  """Names in words: 'a, b and c'."""
  *first, last = names
  return f'{", ".join(first)} {word} {last}' if first else last

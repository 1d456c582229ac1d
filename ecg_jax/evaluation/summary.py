"""Scores over the folds of a run, read from its artifacts alone; no jax."""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import numpy as np

from ecg_jax import registry
from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.errors import InputError
from ecg_jax.evaluation import score
from ecg_jax.runs import predictions, released, run_spec
from ecg_jax.runtime import files


class _Run(NamedTuple):
  """What config.json says of a run."""

  config: dict[str, Any]
  spec: DatasetSpec
  metrics: dict[str, Callable[..., Any] | None]
  """The config's metrics by name; None for one that cannot be computed."""
  lost: dict[str, str]
  """Why one cannot be, or is not what scores.json has."""


def _read_json(path: Traversable) -> Any:
  try:
    return json.loads(files.read_text(path))
  except json.JSONDecodeError as error:
    raise InputError(
      f'{path} is not valid JSON ({error}); restore it or run again.'
    ) from error


def _read_run(run_folder: Traversable) -> _Run:
  path = run_folder / 'config.json'
  folds = None
  run = _read_json(path)
  match run:
    case {'config': {'folds': folds, 'data': {}} as config}:
      if folds and isinstance(folds, list) and {*map(type, folds)} == {int}:
        try:
          spec = run_spec.of_run(run)
          sources = dict(run.get('metric_sources', {}))
          names = [str(name) for name in config.get('metrics', ())]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
          raise InputError(
            f'{path} is damaged ({error}): restore it.'
          ) from error
        return _Run(config, spec, *_find_metrics(names, sources))
    case {'config': {'folds': folds}}:
      pass
  raise InputError(
    f'{path} has {folds!r} as config.folds, not a list of whole numbers, or no'
    ' config.data; give the folder of a training run.'
  )


def _find_metrics(
  names: Sequence[str], sources: Mapping[str, str]
) -> tuple[dict[str, Callable[..., Any] | None], dict[str, str]]:
  """The metrics that a config names, and why one cannot be computed."""
  metrics: dict[str, Callable[..., Any] | None] = {}
  lost = {}
  for name in names:
    short = name.rpartition(':')[2]
    metrics[short] = None
    expected = sources.get(name)
    try:
      if expected not in (None, registry.source_digests([name]).get(name)):
        raise InputError(f'{name} has been changed since or does not exist')
      metrics[short] = registry.find('metrics', name, registry.METRICS)
    except InputError as error:
      reason = str(error).removesuffix('.')
      lost[short] = f'not computed over all folds ({reason})'
  return metrics, lost


def measures(set_scores: dict[str, Any]) -> dict[str, float | None]:
  """The columns of a table.

  Args:
    set_scores: Scores of a set.

  Returns:
    Score, F1 of each class and accuracy, in percent, and the metrics.
  """
  f1 = {f'f1_{k}': found['f1'] for k, found in set_scores['classes'].items()}
  return {
    'score': set_scores['score'],
    **f1,
    'accuracy': set_scores['accuracy'],
    **set_scores.get('metrics', {}),
  }


def _check_agreement(
  path: Traversable, stored: dict[str, Any], found: dict[str, Any]
) -> None:
  """Checks that stored scores are those of the predictions in `path`."""
  own = found.get('metrics', {})  # `_score` compares these.
  stated, computed = (
    np.array([v for k, v in measures(scores).items() if k not in own], float)
    for scores in (stored | {'metrics': {}}, found)
  )
  if (
    stored['records'] != found['records']
    or stored['confusion'] != found['confusion']
    or not np.allclose(stated, computed, rtol=0, atol=1e-6)
  ):
    raise InputError(
      f'{path} gives a score of {found["score"]:.4f} over {found["records"]} '
      f'records, but scores.json beside it has {stored["score"]:.4f} over '
      f'{stored["records"]} or differs in the counts; score the fold again.'
    )


def _read_fold(
  run_folder: Traversable, run: _Run, fold: int, set_name: str
) -> tuple[dict[str, Any], predictions.Predictions] | str:
  """Reads one fold.

  Returns:
    Scores from the predictions with `best`, `label_version` and
    `max_records` of the score file, and the predictions; or, for a fold that
    is not finished, why it is not. A metric that cannot be computed has the
    value of the score file.
  """
  folder = run_folder / f'fold{fold}'
  score_file = folder / 'scores.json'
  path = folder / predictions.FILES[set_name]
  if not folder.is_dir():
    return 'not started'
  if not score_file.is_file():
    return 'unfinished, no scores.json'
  content = _read_json(score_file)
  try:
    if content['fold'] != fold:
      raise ValueError(f'fold is {content["fold"]!r}')
    if set_name not in content['sets']:
      return f'no {set_name} set in scores.json'
    if not path.is_file():
      return f'no {path.name}'
    read = predictions.read(path, fold, run.spec.classes)
    stored = content['sets'][set_name]
    found = _score([read], run, dict(stored.get('metrics', {})))
    _check_agreement(path, stored, found)
    best = content['best']
    found['best'] = {key: int(best[key]) for key in ('phase', 'epoch')}
    for key in ('label_version', 'max_records'):
      found[key] = content[key]
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(
      f'{score_file} is no score file of fold {fold} '
      f'({type(error).__name__}: {error}); score the fold again.'
    ) from error
  return found, read


def _score(
  read: Sequence[predictions.Predictions],
  run: _Run,
  stored: Mapping[str, float | None],
) -> dict[str, Any]:
  """Scores predictions together, with metrics if the config has any.

  Args:
    read: Predictions.
    run: Whose they are.
    stored: Values of the metrics in scores.json, if they are of a fold.
  """
  labels, predicted, probabilities = (
    np.concatenate([getattr(one, name) for one in read])
    for name in ('labels', 'predicted', 'probabilities')
  )
  spec = run.spec
  confusion = score.confusion_matrix(labels, predicted, spec.num_classes)
  found = score.scores(confusion, spec)
  if run.metrics:
    found['metrics'] = values = {x: stored.get(x) for x in run.metrics}
  for name, metric in run.metrics.items():
    if metric is None:
      continue
    try:
      one = score.measure({name: metric}, labels, probabilities, spec)
    except InputError as error:
      run.lost[name] = f'not computed ({str(error).removesuffix(".")})'
      continue
    values |= one
    before, now = np.array([stored.get(name, one[name]), one[name]], float)
    if not np.isclose(before, now, rtol=1e-9, equal_nan=True):
      run.lost[name] = 'computed anew, since scores.json has another value'
  return found


def find_runs(folder: pathlib.Path) -> list[pathlib.Path]:
  """Finds the runs of a folder.

  Args:
    folder: The folder of one run, or of a list of runs (NAME/seedS in it).

  Returns:
    Folders with a config.json: `folder` itself, then those of its NAME/seedS,
    by name and then by seed.

  Raises:
    InputError: There is no such folder, or no run in it.
  """
  if not folder.is_dir():
    raise InputError(
      f'There is no folder {folder}; give the --workdir of a training run.'
    )
  own = [folder] if (folder / 'config.json').exists() else []
  runs = [path.parent for path in folder.glob('*/seed*/config.json')]
  if not own and not runs:
    raise InputError(
      f'There is no config.json in {folder}, nor in any NAME/seedS in it; '
      'give the --workdir of a training run.'
    )
  # seed10 comes after seed9.
  runs.sort(key=lambda run: (run.parent, len(run.name), run.name))
  return own + runs


def summarize_folders(
  folders: Sequence[pathlib.Path], set_name: str = 'test'
) -> dict[pathlib.Path, dict[pathlib.Path, dict[str, Any]]]:
  """Summarizes all runs in some folders; writes nothing.

  Args:
    folders: Folders of runs or of lists of runs.
    set_name: A key of `predictions.FILES`.

  Returns:
    By folder, by folder of a run in it: the result of `summarize`. Runs of one
    name are called by their whole paths.

  Raises:
    InputError: A folder is not that of a run, or is damaged.
  """
  found = {
    folder: {run: summarize(run, set_name) for run in find_runs(folder)}
    for folder in folders
  }
  summaries = [item for runs in found.values() for item in runs.items()]
  names = [summary['run'] for _, summary in summaries]
  for run, summary in summaries:
    if names.count(summary['run']) > 1:
      summary['run'] = str(run)
  return found


def summarize(
  run_folder: Traversable, set_name: str = 'test'
) -> dict[str, Any]:
  """Summarizes the finished folds of one run; writes nothing.

  All scores are computed from the predictions, and must agree with those in
  scores.json.

  Args:
    run_folder: Folder with config.json and foldK/, or a `released` run.
    set_name: A key of `predictions.FILES`.

  Returns:
    `spec`, the DatasetSpec of the run, and values ready for JSON:
      `run`: name of the folder, NAME/seedS for one of a list of runs;
      `set`, `data`, `label_version`, `max_records`, `max_epochs`: what was
        scored, and its limits (None: no limit);
      `folds_expected`: the folds of config.json;
      `missing`: by fold, why it is not in the figures;
      `folds`: by fold, the result of `score.scores`, `metrics` if the config
        names any (`score.measure`), and `best`, the {phase, epoch} whose
        weights were scored;
      `mean`, `standard_deviation` (ddof 1): `measures` over these folds, None
        with fewer than one and two of them;
      `pooled`: the same over the predictions of these folds, or None; a
        metric that cannot be computed is None;
      `pooled_interval`: 95 % of the pooled score over resampled records,
        [low, high] in percent, or None;
      `repeated_records`: predictions in `pooled` of records that it contains
        already: always 0 for test sets, which are disjoint, while the
        validation sets of two folds may share records;
      `lost_metrics`: by name, why a metric is not computed or not what it was,
        if there is one.

  Raises:
    InputError: An artifact is damaged, contradicts another, or is not of
      this fold; the test sets of two folds share a record; or the folds are
      scored with different labels or limits.
  """
  run = _read_run(run_folder)
  config = run.config
  expected = sorted(set(config['folds']))
  folds: dict[str, Any] = {}
  missing: dict[str, str] = {}
  read: list[predictions.Predictions] = []
  for fold in expected:
    result = _read_fold(run_folder, run, fold, set_name)
    if isinstance(result, str):
      missing[str(fold)] = result
    else:
      folds[str(fold)] = result[0]
      read.append(result[1])
  records = [record for one in read for record in one.records]
  repeated = len(records) - len(set(records))
  if set_name == 'test' and repeated:
    raise InputError(
      f'{repeated} records are in the test predictions of two folds of '
      f'{run_folder}; use folds without common records and score them again.'
    )
  name = released.name_of(run_folder)
  if name.startswith('seed') and isinstance(run_folder, pathlib.Path):
    name = f'{run_folder.resolve().parent.name}/{name}'
  return {
    'spec': run.spec,
    'run': name,
    'set': set_name,
    'data': config['data'].get('name'),
    **_limits(run_folder, config, folds),
    'max_epochs': config.get('max_epochs'),
    'folds_expected': expected,
    'missing': missing,
    'folds': folds,
    **_over_folds(list(folds.values()), read, run),
    'repeated_records': repeated,
    **({'lost_metrics': run.lost} if run.lost else {}),
  }


def _limits(
  run_folder: Traversable, config: dict[str, Any], folds: dict[str, Any]
) -> dict[str, Any]:
  """Moves what all folds must agree on out of them; the config's if none."""
  limits = {
    'label_version': config.get('label_version'),
    'max_records': config['data'].get('max_records'),
  }
  for key in limits:
    values = {fold: scores.pop(key) for fold, scores in folds.items()}
    if len(set(map(str, values.values()))) > 1:
      raise InputError(
        f'The folds of {run_folder} were not scored with one {key} ({values}); '
        'score them again in one way.'
      )
    limits[key] = next(iter(values.values()), limits[key])
  return limits


def _over_folds(
  folds: list[dict[str, Any]],
  read: Sequence[predictions.Predictions],
  run: _Run,
) -> dict[str, Any]:
  """Mean, deviation and pooled scores; None where there are too few folds."""
  names = ('mean', 'standard_deviation', 'pooled', 'pooled_interval')
  found: dict[str, Any] = dict.fromkeys(names)
  if folds:
    measured = [measures(scores) for scores in folds]
    rows = np.array([list(values.values()) for values in measured], float)
    found['mean'] = _by_name(measured[0], np.mean(rows, axis=0))
    found['pooled'] = _score(read, run, {})
    confusion = np.array(found['pooled']['confusion'])
    interval = score.bootstrap_interval(confusion, run.spec)
    found['pooled_interval'] = list(interval)
  if len(folds) > 1:
    deviation = np.std(rows, axis=0, ddof=1)
    found['standard_deviation'] = _by_name(measured[0], deviation)
  return found


def _by_name(
  names: Iterable[str], values: np.ndarray
) -> dict[str, float | None]:
  """Values by name; None for one that is NaN."""
  found = [None if np.isnan(value) else float(value) for value in values]
  return dict(zip(names, found, strict=True))


def read_spec(run_folder: pathlib.Path) -> DatasetSpec:
  """Reads what a run's dataset is.

  Raises:
    InputError: The folder is not that of a run, or is damaged.
  """
  return _read_run(run_folder).spec


def read_set(
  run_folder: Traversable, set_name: str
) -> dict[int, predictions.Predictions]:
  """The predictions of each finished fold, in ascending order.

  Raises:
    InputError: The run has no finished fold or is damaged.
  """
  found = summarize(run_folder, set_name)  # Checks all artifacts.
  if not found['folds']:
    raise InputError(
      f'{run_folder} has no finished fold with {set_name} predictions: train'
      ' one first.'
    )
  name = predictions.FILES[set_name]
  return {
    fold: predictions.read(
      run_folder / f'fold{fold}' / name, fold, found['spec'].classes
    )
    for fold in map(int, found['folds'])
  }

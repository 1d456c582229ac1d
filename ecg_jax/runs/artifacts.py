"""The files of a run that others read: config.json, scores.json, labels.csv.

Each is complete or absent: written to a temporary name and renamed.
"""

import csv
import functools
import importlib.metadata
import io
import json
import operator
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

import ml_collections

from ecg_jax import registry, stored_config
from ecg_jax.datasets import folds as folds_lib
from ecg_jax.datasets import schema
from ecg_jax.errors import InputError
from ecg_jax.runs import run_spec
from ecg_jax.runtime import files

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'tensorflow-datasets',
  'ml_collections',
  'numpy',
  'scikit-learn',
)

_RESTORE = 'restore the original'

_DIGESTS = {'dataset', 'labels', 'folds'}
"""What each config.json has; `records`, of which `dataset` is the digest, is
left out of the runs in results/."""


@functools.cache
def versions() -> dict[str, str]:
  """Versions of Python and of the libraries that decide the result."""
  packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **packages}


@functools.cache
def commit() -> str | None:
  """Commit of this code, with '-dirty' if changed; None outside of git."""
  root = pathlib.Path(__file__).resolve().parents[2]
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*'],
      cwd=root,
      # An installed package may lie within a repository of something else.
      env={**os.environ, 'GIT_CEILING_DIRECTORIES': str(root.parent)},
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


def read_run(workdir: Traversable) -> dict[str, Any]:
  """Reads a run's config.json.

  Raises:
    InputError: It does not exist, cannot be read or is damaged.
  """
  path = workdir / 'config.json'
  if not (path.is_file() or path.is_dir()):
    advice = 'name the --workdir of a run'
    runs: list[pathlib.Path] = []
    if isinstance(workdir, pathlib.Path):
      runs = sorted(workdir.glob('*/seed*/config.json'))
    if runs:
      advice = f'name one of the runs in it, like {runs[0].parent}'
    raise InputError(
      f'{workdir} is no run folder: it has no config.json; {advice}.'
    )
  try:
    run = json.loads(files.read_text(path))
    stored_config.from_json(run['config'])
    list(run['config']['folds'])
    run_spec.of_run(run)
    digests = run['digests']
    if missing := _DIGESTS - digests.keys():
      raise KeyError(min(missing))
    for name in ('labels', 'records', 'sources'):
      dict(digests.get(name, {}))
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    reason = f'no {error}' if isinstance(error, KeyError) else error
    raise InputError(
      f'{path} is damaged ({reason}): restore it or start in another folder.'
    ) from error
  return run


def read_spec(run_folder: Traversable) -> schema.DatasetSpec:
  """Reads what a run's dataset is.

  Raises:
    InputError: Its config.json does not exist, cannot be read or is damaged.
  """
  return run_spec.of_run(read_run(run_folder))


def check_config(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Checks that a folder does not hold a run of another config.

  Raises:
    InputError: Names each field that decides the result and differs.
  """
  if not (workdir / 'config.json').exists():
    return
  existing = stored_config.from_json(read_run(workdir)['config'])
  if differing := stored_config.differences(config, existing):
    raise InputError(
      f'{workdir} holds a run of another config ({"; ".join(differing)}): name'
      ' another folder with --workdir, or give these fields its values.'
    )


def begin_run(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  digests: Mapping[str, Any],
  spec: schema.DatasetSpec,
) -> None:
  """Writes config.json, or this start's folds and metrics into it.

  Args:
    workdir: Folder of the run.
    config: Its config.
    digests: Digests of the dataset, labels, folds, of each record and of
      source files.
    spec: What the records are; an existing one stays.

  Raises:
    InputError: The folder holds a run of other data or another config, or is
      not writable.
  """
  with files.locked(workdir, wait=True):
    check_config(workdir, config)
    path = workdir / 'config.json'
    run: dict[str, Any] = {
      'config': stored_config.to_json(config),
      'versions': versions(),
      'commit': commit(),
      'digests': dict(digests),
      'dataset': spec.to_json(),
    }
    if metric_sources := registry.source_digests(config.metrics):
      run['metric_sources'] = metric_sources
    if path.exists():
      run = read_run(workdir)
      check_spec(workdir, run, spec)
      check_digests(workdir, run, digests)
      before = json.dumps(run)
      folds, metrics = run['config']['folds'], list(config.metrics)
      if not {*config.folds} <= {*folds}:
        run['config']['folds'] = sorted({*folds, *config.folds})
      if metrics != run['config'].get('metrics', []):
        run['config']['metrics'] = metrics
      if metric_sources != run.get('metric_sources', {}):
        run['metric_sources'] = metric_sources
      if json.dumps(run) == before:
        return
    files.write_json(path, run)


def check_digests(
  workdir: Traversable, run: Mapping[str, Any], digests: Mapping[str, Any]
) -> None:
  """Checks that data are those of the run in a folder.

  Args:
    workdir: The folder.
    run: Its config.json, from `read_run`.
    digests: Digests of the data.

  Raises:
    InputError: Names what differs: a source file, the dataset, labels, folds or
      records.
  """
  check_sources(workdir, run, digests.get('sources', {}))
  for name, digest in digests.items():
    if name == 'sources':
      continue
    expected = run['digests'].get(name, digest)
    if expected != digest:
      raise InputError(
        f'{workdir} holds a run whose {name} had other content (digest'
        f' {_short(expected)} there, {_short(digest)} here): use the same data,'
        ' or name another folder with --workdir.'
      )


def check_sources(
  workdir: Traversable, run: Mapping[str, Any], found: Mapping[str, str | None]
) -> None:
  """Checks that files that a config names are as they were for a run.

  Args:
    workdir: The folder of the run.
    run: Its config.json, from `read_run`.
    found: Name in the config -> SHA-256 of its file, None if it is missing.

  Raises:
    InputError: Names a file that was changed or is missing.
  """
  sources = run['digests'].get('sources', {})
  for name, digest in found.items():
    expected = sources.get(name, digest)
    if expected == digest:
      continue
    problem = 'which does not exist any more'
    if digest is not None:
      problem = (
        f'which has been changed since (digest {_short(expected)} there,'
        f' {_short(digest)} here)'
      )
    raise InputError(
      f'{workdir} holds a run that uses {name}, {problem}: restore that file,'
      ' or train again in another folder.'
    )


def check_spec(
  workdir: Traversable, run: Mapping[str, Any], spec: schema.DatasetSpec
) -> None:
  """Checks that a dataset is like that of the run in a folder.

  Args:
    workdir: The folder.
    run: Its config.json, from `read_run`.
    spec: What the dataset's records are.

  Raises:
    InputError: Names what differs: classes, rate or unit.
  """
  if differing := run_spec.differences(spec, run_spec.of_run(run)):
    raise InputError(
      f'{workdir} holds a run of another dataset ({"; ".join(differing)}): use'
      ' the same data, or name another folder with --workdir.'
    )


def _short(value: Any) -> str:
  return value[:12] if isinstance(value, str) else files.digest(value)[:12]


def read_scores(path: Traversable) -> dict[str, Any]:
  """Reads a scores.json; raises InputError if that fails."""
  try:
    return dict(json.loads(files.read_text(path)))
  except (ValueError, TypeError) as error:
    raise InputError(
      f'{path} is damaged ({error}): delete it to have the fold finished again.'
    ) from error


def write_scores(path: pathlib.Path, scores: Mapping[str, Any]) -> None:
  """Writes scores.json, which marks the fold as finished."""
  files.write_json(path, dict(scores))


def write_labels(
  path: pathlib.Path,
  labels: Mapping[str, Mapping[str, str]],
  patients: Mapping[str, str] | None = None,
) -> None:
  """Writes labels.csv: each record, its class by label version, its patient."""
  columns = {version: labels[version] for version in sorted(labels)}
  if patients is not None:
    columns['patient'] = patients
  lines = [['record', *columns]]
  for record in sorted(next(iter(labels.values()))):
    lines.append([record, *(column[record] for column in columns.values())])
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(lines)
  files.write_atomically(path, text.getvalue().encode())


def read_labels(run_folder: Traversable, version: str) -> dict[str, str]:
  """Reads record -> class from a run's labels.csv.

  Raises:
    InputError: It cannot be read, or is not as the run wrote it.
  """
  path = run_folder / 'labels.csv'
  labels = _read_column(path, version)
  expected = read_run(run_folder)['digests']['labels'].get(version)
  if folds_lib.labels_digest(labels) != expected:
    raise InputError(
      f'{path} has been changed since the run wrote it: {_RESTORE}.'
    )
  return labels


def read_patients(run_folder: Traversable) -> dict[str, str]:
  """Reads record -> patient from the labels.csv of a run that has patients.

  Raises:
    InputError: It cannot be read.
  """
  return _read_column(run_folder / 'labels.csv', 'patient')


def _read_column(path: Traversable, name: str) -> dict[str, str]:
  """Record -> cell of a column."""
  columns = ('record', name)
  parse = operator.itemgetter(*columns)
  kind = 'a record with its labels'
  return dict(files.read_csv(path, columns, parse, kind=kind, advice=_RESTORE))

"""The files of a run that others read: config.json, scores, predictions.

Each is whole or absent: written to a temporary name and renamed.
"""

import csv
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import ml_collections

from ecg_jax import configuration
from ecg_jax.datasets import folds as folds_lib
from ecg_jax.errors import InputError
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
)


@functools.cache
def versions() -> dict[str, str]:
  """Versions of Python and of the libraries that decide the result."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **found}


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


def read_run(workdir: pathlib.Path) -> dict[str, Any]:
  """The content of a run's config.json.

  Raises:
    InputError: There is none, or it cannot be read.
  """
  path = workdir / 'config.json'
  if not path.exists():
    raise InputError(
      f'{workdir} is no run folder: it has no config.json; name the --workdir'
      ' of a run.'
    )
  try:
    run = json.loads(files.read_text(path))
    configuration.from_json(run['config'])
    list(run['config']['folds'])
    run['digests']['records'].items()
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    reason = f'no {error}' if isinstance(error, KeyError) else error
    raise InputError(
      f'{path} is damaged ({reason}): restore it or start in another folder.'
    ) from error
  return run


def check_config(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Refuses a folder that holds a run of another config.

  Raises:
    InputError: Names each field that decides the result and differs.
  """
  if not (workdir / 'config.json').exists():
    return
  kept = configuration.from_json(read_run(workdir)['config'])
  differing = configuration.differences(config, kept)
  if differing:
    raise InputError(
      f'{workdir} holds a run of another config ({"; ".join(differing)}): name'
      ' another folder with --workdir, or set these fields alike.'
    )


def begin_run(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  digests: Mapping[str, Any],
) -> None:
  """Writes config.json, or adds this start's folds to the one that is there.

  Args:
    workdir: Folder of the run.
    config: Its config.
    digests: Of the dataset, labels, folds and of each record.

  Raises:
    InputError: The folder holds a run of other data or another config, or
      cannot be written to.
  """
  with files.locked(workdir, wait=True):
    check_config(workdir, config)
    path = workdir / 'config.json'
    run: dict[str, Any] = {
      'config': configuration.to_json(config),
      'versions': versions(),
      'commit': commit(),
      'digests': dict(digests),
    }
    if path.exists():
      run = read_run(workdir)
      check_digests(workdir, run, digests)
      folds = {*run['config']['folds'], *config.folds}
      if folds == set(run['config']['folds']):
        return
      run['config']['folds'] = sorted(folds)
    text = json.dumps(run, indent=1) + '\n'
    files.write_atomically(path, text.encode())


def check_digests(
  workdir: pathlib.Path, run: Mapping[str, Any], digests: Mapping[str, Any]
) -> None:
  """Refuses data that are not those of the run in a folder.

  Raises:
    InputError: Names what differs: the dataset, labels, folds or records.
  """
  for name, value in digests.items():
    if run['digests'].get(name) != value:
      raise InputError(
        f'{workdir} holds a run whose {name} had other content (digest'
        f' {_short(run["digests"].get(name))} there, {_short(value)} here):'
        ' use the same data, or name another folder with --workdir.'
      )


def read_scores(path: pathlib.Path) -> dict[str, Any]:
  """The content of a scores.json; InputError where it cannot be read."""
  try:
    return dict(json.loads(files.read_text(path)))
  except (ValueError, TypeError) as error:
    raise InputError(
      f'{path} is damaged ({error}): delete it to have the fold finished again.'
    ) from error


def _short(value: Any) -> str:
  return value[:12] if isinstance(value, str) else files.digest(value)[:12]


def write_labels(
  path: pathlib.Path, labels: Mapping[str, Mapping[str, str]]
) -> None:
  """Writes labels.csv: record and its class in each label version."""
  versions_ = sorted(labels)
  lines = [','.join(['record', *versions_])]
  for record in sorted(labels[versions_[0]]):
    lines.append(','.join([record, *(labels[v][record] for v in versions_)]))
  files.write_atomically(path, ('\n'.join(lines) + '\n').encode())


def read_labels(run_folder: pathlib.Path, version: str) -> dict[str, str]:
  """Record -> class letter, of a run's labels.csv.

  Raises:
    InputError: It cannot be read, or does not hold what it did.
  """
  path = run_folder / 'labels.csv'
  rows = csv.DictReader(files.read_text(path).splitlines())
  labels = {str(row.get('record')): str(row.get(version)) for row in rows}
  expected = read_run(run_folder)['digests']['labels'][version]
  if folds_lib.labels_digest(labels) != expected:
    raise InputError(
      f'{path} has been changed since the run wrote it: put the original back.'
    )
  return labels


def write_scores(path: pathlib.Path, scores: Mapping[str, Any]) -> None:
  """Writes scores.json, which says that the fold is finished."""
  text = json.dumps(dict(scores), indent=1) + '\n'
  files.write_atomically(path, text.encode())

"""Writes a run's finished folds as one file that can ship in the package.

    python tools/release_weights.py RUN_FOLDER

writes NAME.zip into `ecg_jax/released`, with its SHA-256 beside it in
NAME.zip.sha256, and MODEL_CARD.md; NAME is that of the run folder. What the
file holds is in `ecg_jax/runs/released.py`. The same run gives the same bytes.

Before, the test set of each fold is classified with the weights as they are in
the file, which needs the run's data, and each answer is compared with that of
the end of training in predictions.csv.
"""

import argparse
import csv
import hashlib
import io
import json
import pathlib
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import _path  # noqa: F401 - makes ecg_jax importable
import numpy as np

from ecg_jax import cli, stored_config
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration, summary
from ecg_jax.runs import artifacts, predictions, released, trees_file
from ecg_jax.runtime import files

MAX_BYTES = 18_000_000
"""Of the file, at most."""

MAX_CHANGED = 5
"""Answers that may be another class than at the end of training."""

ATTRIBUTION = {
  'physionet2017': (
    'The records are those of Clifford GD, Liu C, Moody B, Lehman LH, Silva I,'
    ' Li Q, Johnson AE, Mark RG: *AF classification from a short single lead'
    ' ECG recording: the PhysioNet/Computing in Cardiology Challenge 2017*'
    ' (doi:10.22489/CinC.2017.065-469), from PhysioNet, under the Open Data'
    ' Commons Attribution License (ODC-BY) 1.0. The weights contain none of'
    ' them.'
  )
}
"""Dataset -> whom its records are of, and their license."""


class Comparison(NamedTuple):
  """Answers of the file beside those of the end of training."""

  answers: int
  """Number of records in the test sets of the folds."""
  changed: list[str]
  """Records whose most probable class is another one."""
  difference: float
  """The largest of a probability."""


def release(
  run_folder: pathlib.Path,
  out: pathlib.Path,
  *,
  kernels: str,
  only: Sequence[int] | None = None,
  manual_dir: pathlib.Path | None = None,
  data_dir: pathlib.Path | None = None,
) -> Comparison:
  """Writes the file, its digest and its card, or nothing.

  Args:
    run_folder: The run.
    out: The file, replaced if it exists.
    kernels: 'float16' or 'float32', of arrays of two axes and more; the others,
      which are few, are float32.
    only: Folds to write; None for all that are finished.
    manual_dir: Folder of the source files; None for the run's.
    data_dir: Folder of the prepared datasets; None for the run's.

  Returns:
    How the answers of the file compare.

  Raises:
    InputError: The run or its data cannot be loaded, the file would be too
      large, too many answers change, or it cannot be written.
  """
  files.check_writable(out.parent, '--out')
  from ecg_jax.prediction import ensemble, model_card  # They import JAX.

  content = pack(collect(run_folder, kernels, only))
  if len(content) > MAX_BYTES:
    raise InputError(
      f'{out} would have {len(content):,} bytes, more than {MAX_BYTES:,}: write'
      ' less, with --kernels float16 or fewer --folds.'
    )
  digest = f'{hashlib.sha256(content).hexdigest()}  {out.name}\n'.encode()
  with tempfile.TemporaryDirectory() as temporary:
    trial = pathlib.Path(temporary) / out.name
    trial.write_bytes(content)
    released.digest_file(trial).write_bytes(digest)
    comparison = compare(run_folder, trial, manual_dir, data_dir)
    if len(comparison.changed) > MAX_CHANGED:
      raise InputError(
        f'{len(comparison.changed)} of {comparison.answers:,} answers change'
        f' ({", ".join(comparison.changed)}), more than {MAX_CHANGED}: write'
        ' --kernels float32, and fewer --folds if that is too large.'
      )
    model = ensemble.load(trial)
    temperature = calibration.read(model.run_folder, model.folds)
    manifest = json.loads((model.run_folder / released.MANIFEST).read_text())
    card = model_card.write(
      model,
      temperature,
      'package',
      {'stored': _stored(len(content), kernels, comparison)},
      attribution=manifest['attribution'],
    )
  files.write_atomically(out, content)
  files.write_atomically(released.digest_file(out), digest)
  files.write_atomically(out.with_name('MODEL_CARD.md'), card.encode())
  return comparison


def collect(
  run_folder: pathlib.Path, kernels: str, only: Sequence[int] | None
) -> dict[str, bytes]:
  """Name in the file -> content.

  Args:
    run_folder: The run.
    kernels: As in `release`.
    only: As in `release`.

  Raises:
    InputError: The run cannot be loaded, lacks one of these folds or is
      calibrated with others, or a weight is too large for float16.
  """
  from ecg_jax.prediction import ensemble

  model = ensemble.load(run_folder)
  if missing := sorted({*(only or ())} - {*model.folds}):
    raise InputError(
      f'--folds names fold {missing[0]}, and the finished folds of {run_folder}'
      f' are {_listed(model.folds)}: name some of these.'
    )
  places = [
    place for place, x in enumerate(model.folds) if only is None or x in only
  ]
  folds = [model.folds[place] for place in places]
  temperature = calibration.read(run_folder, model.folds)
  if len(folds) < len(model.folds) and (run_folder / calibration.FILE).exists():
    raise InputError(
      f'{run_folder} was calibrated with all its folds, {_listed(model.folds)}:'
      f' leave out --folds, or delete {calibration.FILE}.'
    )
  run = artifacts.read_run(run_folder)
  found: dict[str, bytes] = {}
  for place, fold in zip(places, folds, strict=True):
    names = ['scores.json', predictions.FILES['test']]
    names += [trees_file.FILE] if model.has_trees else []
    for name in names:
      path = f'fold{fold}/{name}'
      found[path] = (run_folder / path).read_bytes()
    weights = {
      name: model.variables[place][name] for name in ('params', 'batch_stats')
    }
    path = f'fold{fold}/{released.WEIGHTS}'
    found[path] = _weights(weights, kernels, f'{run_folder}, fold {fold}')
  for pattern in (calibration.FILE, 'evaluation_on_*/scores.json'):
    for file in run_folder.glob(pattern):
      found[str(file.relative_to(run_folder))] = file.read_bytes()
  trained_on = [model.trained_on[place] for place in places]
  found[released.TRAINED_ON] = _trained_on(folds, trained_on)
  found['config.json'] = _json(_portable(run, folds))
  found[released.MANIFEST] = _json(
    {
      'format': released.FORMAT,
      'run': released.name_of(run_folder),
      'kernels': kernels,
      'temperature': temperature,
      'attribution': ATTRIBUTION.get(run['config']['data'].get('name'), ''),
      **_scores(run_folder, folds),
    }
  )
  return found


def _listed(folds: Sequence[int]) -> str:
  return ', '.join(map(str, folds))


def _weights(variables: Mapping[str, Any], kernels: str, name: str) -> bytes:
  """The weights of a fold as a .npz file."""
  from ecg_jax.models.variables import by_path

  arrays: dict[str, Any] = {}
  for path, leaf in by_path(variables).items():
    array = np.asarray(leaf)
    if array.ndim > 1:
      with np.errstate(over='ignore'):
        array = array.astype(kernels)
    if not np.isfinite(array).all():
      raise InputError(
        f'{name} has weights in {path} that {kernels} cannot hold: write them'
        ' with --kernels float32.'
      )
    arrays[path] = array
  archive = io.BytesIO()
  np.savez(archive, **arrays)
  return archive.getvalue()


def _trained_on(
  folds: Sequence[int], trained_on: Sequence[Mapping[str, str]]
) -> bytes:
  """The table of `released.COLUMNS`, in the order of the names."""
  shaped: dict[tuple[str, str], list[str]] = {}
  for fold, records in zip(folds, trained_on, strict=True):
    for digest, record in records.items():
      shaped.setdefault((record, digest), []).append(str(fold))
  lines = [released.COLUMNS]
  for (record, digest), numbers in sorted(shaped.items()):
    lines.append((digest, record, ' '.join(numbers)))
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(lines)
  return text.getvalue().encode()


def _portable(run: Mapping[str, Any], folds: Sequence[int]) -> dict[str, Any]:
  """config.json without paths of a machine and the records' digests."""
  defaults = stored_config.defaults(run['config']['model']['name'])
  data = {name: defaults[f'data.{name}'] for name in ('manual_dir', 'data_dir')}
  config = {**run['config'], 'folds': [*folds]}
  config['data'] = {**config['data'], **data}
  digests = {k: x for k, x in run['digests'].items() if k != 'records'}
  return {**run, 'config': config, 'digests': digests}


def _scores(run_folder: pathlib.Path, folds: Sequence[int]) -> dict[str, Any]:
  """What the manifest says of the test sets, in percent."""
  found = summary.summarize(run_folder)
  scores = {str(fold): found['folds'][str(fold)]['score'] for fold in folds}
  return {
    'label_version': found['label_version'],
    'folds': [*folds],
    'scores': scores,
    'mean_score': float(np.mean([*scores.values()])),
  }


def _json(content: Mapping[str, Any]) -> bytes:
  return f'{json.dumps(content, indent=1)}\n'.encode()


def pack(members: Mapping[str, bytes]) -> bytes:
  """A ZIP archive of these files, which says nothing of when and where."""
  archive = io.BytesIO()
  with zipfile.ZipFile(archive, 'w', compresslevel=9) as out:
    for name in sorted(members):
      entry = zipfile.ZipInfo(name)  # Of 1980.
      entry.compress_type = zipfile.ZIP_DEFLATED
      entry.create_system = 3  # Unix, wherever it is written.
      entry.external_attr = 0o644 << 16
      out.writestr(entry, members[name])
  return archive.getvalue()


def compare(
  run_folder: pathlib.Path,
  path: pathlib.Path,
  manual_dir: pathlib.Path | None,
  data_dir: pathlib.Path | None,
) -> Comparison:
  """Classifies the test sets with the weights of a file.

  Args:
    run_folder: The run that it is of.
    path: The file, which has its digest beside it.
    manual_dir: As in `release`.
    data_dir: As in `release`.

  Raises:
    InputError: The data cannot be loaded, or are not those of the run.
  """
  from ecg_jax.evaluation import rescore

  run = artifacts.read_run(run_folder)['config']['data']
  with tempfile.TemporaryDirectory() as temporary:
    out = rescore.evaluate_run(
      path,
      set_name='test',
      out=pathlib.Path(temporary),
      manual_dir=manual_dir or run['manual_dir'],
      data_dir=data_dir or run['data_dir'],
    )
    after = summary.read_set(out, 'test')
    before = summary.read_set(run_folder, 'test')
  changed, differences, answers = [], [0.0], 0
  for fold, now in after.items():
    then = before[fold]
    assert then.records == now.records  # Both are sorted by record.
    moved = np.abs(then.probabilities - now.probabilities)
    differences.append(float(moved.max()))
    answers += len(now.records)
    other = then.predicted != now.predicted
    changed += [now.records[place] for place in np.flatnonzero(other)]
  return Comparison(answers, changed, max(differences))


def _stored(size: int, kernels: str, comparison: Comparison) -> str:
  """How the weights are stored, and what that changes, in words."""
  return (
    f'The file has {size:,} bytes, with kernels as {kernels}. Of'
    f' {comparison.answers:,} test records'
    f' {len(comparison.changed) or "none"} get another class than at the end of'
    ' training, and no probability differs by more than'
    f' {comparison.difference:.1g}.'
  )


def _folds(text: str) -> list[int]:
  """Parses --folds."""
  try:
    return sorted({int(x) for x in text.split(',')})
  except ValueError as error:
    raise argparse.ArgumentTypeError(f'{text!r} is no list like 0,1') from error


@cli.command(cli.FREE_MEMORY)
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = cli.ArgumentParser(
    prog='release_weights',
    description='Writes the finished folds of a run as one file for the'
    ' package.',
  )
  path = cli.path_argument
  parser.add_argument('run_folder', metavar='RUN_FOLDER', type=path)
  parser.add_argument(
    '--out', type=path, metavar='FILE',
    help='default: NAME_OF_RUN.zip in ecg_jax/released',
  )  # fmt: skip
  parser.add_argument(
    '--kernels', choices=('float16', 'float32'), default='float16'
  )
  parser.add_argument(
    '--folds', type=_folds, help='like 0,1; default: all that are finished'
  )
  parser.add_argument(
    '--manual_dir', type=path, help="source files; default: the run's"
  )
  parser.add_argument(
    '--data_dir', type=path, help="prepared datasets; default: the run's"
  )
  options = parser.parse_args(arguments)
  name = f'{released.name_of(options.run_folder)}.zip'
  out = options.out or released.FOLDER / name
  found = release(
    options.run_folder,
    out,
    kernels=options.kernels,
    only=options.folds,
    manual_dir=options.manual_dir,
    data_dir=options.data_dir,
  )
  print(f'{out}: {_stored(out.stat().st_size, options.kernels, found)}')
  if found.changed:
    print(f'Changed: {", ".join(found.changed)}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

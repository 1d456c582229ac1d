"""Scores a run on another dataset, of which it has learned nothing."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import tqdm

from ecg_jax.datasets import prepare, schema
from ecg_jax.datasets.ecg_builder import EcgBuilder
from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration, detection
from ecg_jax.fields.data import DataFields
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.prediction import ensemble
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.runs import artifacts, released
from ecg_jax.runtime import files

_BLOCK = 256  # records that are classified together


def evaluate_on(
  run_folder: Traversable,
  name: str,
  *,
  meaning: str | None = None,
  positive: str | None = None,
  label_version: str | None = None,
  out: pathlib.Path | None = None,
  manual_dir: pathlib.Path | None = None,
  data_dir: pathlib.Path | None = None,
) -> str:
  """Scores how well a run finds one class in another dataset.

  Every record is classified as `ecg_jax.predict` does, by each finished fold
  and by all together, and once more upside down. Nothing is fitted.

  Args:
    run_folder: The run, as `released.open_run` takes it.
    name: The dataset, as in `data.name`.
    meaning: What its classes are taken for, like 'AFIB=A,NSR=N'; None for
      those of its builder, or the classes of the same name.
    positive: The class of the run that is to be found; None for the one that
      the run's dataset has episodes of.
    label_version: Labels of the dataset; None for the last.
    out: Folder for scores.json, predictions.csv and summary.md; None for
      `evaluation_on_DATASET` in `released.output_folder`.
    manual_dir: Folder of the dataset's source files, or None.
    data_dir: Folder of the prepared datasets; None for the run's.

  Returns:
    The tables of summary.md.

  Raises:
    InputError: The run has no finished fold, learned from a record of the
      dataset, or has other classes, rate or unit; or the dataset cannot be
      prepared.
  """
  model = ensemble.load(run_folder)
  resampled = name == 'recordings_folder'
  builder = prepare.prepare(
    DataFields(
      name=name,
      manual_dir=None if manual_dir is None else str(manual_dir),
      data_dir=str(data_dir or model.config.data.data_dir),
      sampling_rate=model.spec.sampling_rate if resampled else None,
    )
  )
  dataset = dataset_lib.load(builder, in_memory=True)
  _check_encoding(builder.name, dataset.spec, model)
  version = label_version or dataset.spec.label_versions[-1]
  truth = _read_truth(
    builder.name,
    dataset,
    version,
    _parse_meaning(meaning, builder, model.spec),
    _choose_positive(positive, model.spec),
  )
  digests = dataset.record_digests()
  _check_leak(model, builder.name, digests)
  temperature = calibration.read(model.run_folder, model.folds)
  answers = {
    way: calibration.softmax(logits, temperature)
    for way, logits in _logits(model, dataset).items()
  }
  means = {
    way: each.mean(axis=0).astype(np.float32) for way, each in answers.items()
  }
  found = _scores(model, dataset.spec, truth, answers, means)
  found |= {
    'dataset': builder.name,
    'dataset_digest': files.digest(digests),
    'label_version': version,
    'temperature': temperature,
    'versions': artifacts.versions(),
    'commit': artifacts.commit(),
  }
  text = detection.format_tables(found)
  folder_name = f'evaluation_on_{builder.name}'
  out = out or released.output_folder(model.run_folder) / folder_name
  path = out / 'predictions.csv'
  _write_predictions(path, model.spec.classes, truth, means)
  files.write_json(out / 'scores.json', found)
  files.write_atomically(out / 'summary.md', f'{text}\n'.encode())
  return text


def _check_encoding(name: str, spec: DatasetSpec, model: Ensemble) -> None:
  """Refuses records of another rate or unit than those trained on."""
  there, here = (
    f'{x.sampling_rate} samples a second and'
    f' {x.counts_per_millivolt:g} counts a mV'
    for x in (spec, model.spec)
  )
  if there != here:
    raise InputError(
      f'{name} has {there}, and {model.run_folder} was trained on {here}:'
      ' name a dataset of that rate and unit.'
    )


def _parse_meaning(
  text: str | None, builder: EcgBuilder, run: DatasetSpec
) -> dict[str, str]:
  """What classes of a dataset are taken for, from 'AFIB=A,NSR=N' or None."""
  spec = builder.SPEC
  if text is None:
    found = {x: x for x in spec.classes if x in run.classes}
    if {*builder.MEANING.values()} <= {*run.classes}:
      found = {**builder.MEANING} or found
  else:
    pairs = [pair.strip().partition('=') for pair in text.split(',')]
    found = {label.strip(): meant.strip() for label, _, meant in pairs}
  problem = 'they have no name in common' if not found else ''
  for label, meant in found.items():
    if label not in spec.classes:
      problem = f'{label!r} is none of the first'
    elif meant not in run.classes:
      problem = f'{label} is taken for {meant!r}, which is none of the second'
  if problem:
    raise InputError(
      f'{builder.name} has the classes {", ".join(spec.classes)}, and the run'
      f' {", ".join(run.classes)}, but {problem}: say what the first are taken'
      f' for with --map, like --map {spec.classes[0]}={run.classes[0]}.'
    )
  return found


def _choose_positive(positive: str | None, run: DatasetSpec) -> str:
  """The class of the run that is to be found."""
  if positive is None and run.episode_class is not None:
    return run.episode_class
  if positive not in run.classes:
    given = 'is not given' if positive is None else f'is {positive!r}'
    raise InputError(
      f'--positive {given}: name the class of the run that is to be found, one'
      f' of {", ".join(run.classes)}.'
    )
  return positive


def _read_truth(
  name: str,
  dataset: Dataset,
  version: str,
  meaning: Mapping[str, str],
  positive: str,
) -> detection.Truth:
  """What the records are; refused if none is positive, or none negative."""
  if version not in dataset.spec.label_versions:
    raise InputError(
      f'--label_version is {version!r}: use one of {name},'
      f' {", ".join(dataset.spec.label_versions)}.'
    )
  recordings = [schema.recording_of(record) for record in dataset.records]
  truth = detection.Truth(
    dataset.records,
    recordings,
    dataset.patients or recordings,
    list(dataset.labels(version).values()),
    meaning,
    positive,
  )
  kinds = {truth.kind(label) for label in truth.labels}
  for kind, wanted in (('positive', ''), ('negative', 'another class than ')):
    if kind not in kinds:
      raise InputError(
        f'No record of {name} is taken for {wanted}{positive}: say'
        ' which of its classes are with --map, or what is to be found with'
        ' --positive.'
      )
  return truth


def _check_leak(model: Ensemble, name: str, digests: Mapping[str, str]) -> None:
  """Refuses records that a fold learned from."""
  for fold, records in zip(model.folds, model.trained_on, strict=True):
    known = [record for record in digests if digests[record] in records]
    if known:
      raise InputError(
        f'Fold {fold} of {model.run_folder} learned from {len(known)} of the'
        f' {len(digests)} records of {name}, such as {known[0]}: score the run'
        ' on its own test sets, without --on.'
      )


def _logits(model: Ensemble, dataset: Dataset) -> dict[str, np.ndarray]:
  """Logits of the records, float32 [folds, n, C], upright and upside down."""
  ends = dataset.offsets + dataset.lengths
  places = list(zip(dataset.offsets, ends, strict=True))
  upright, inverted = [], []
  blocks = range(0, len(places), _BLOCK)
  for first in tqdm.tqdm(blocks, unit=' blocks', disable=None):
    block = places[first : first + _BLOCK]
    counts = [dataset.signal[start:end] for start, end in block]
    upright.append(model.logits(counts))
    # int16 has no 32768.
    opposite = [-np.maximum(x, -np.iinfo(np.int16).max) for x in counts]
    inverted.append(model.logits(opposite))
  return {
    'upright': np.concatenate(upright, axis=1),
    'upside down': np.concatenate(inverted, axis=1),
  }


def _scores(
  model: Ensemble,
  spec: DatasetSpec,
  truth: detection.Truth,
  answers: Mapping[str, np.ndarray],
  means: Mapping[str, np.ndarray],
) -> dict[str, Any]:
  """Most of scores.json.

  Args:
    model: The run.
    spec: The dataset's description of itself.
    truth: What its records are.
    answers: Way -> probabilities, float64 [folds, n, C].
    means: Way -> their means, float32 [n, C].
  """
  classes = model.spec.classes

  def score(probabilities: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
      way: detection.score(truth, found, classes, spec.classes)
      for way, found in probabilities.items()
    }

  weights = {detection.TOGETHER: score(means)}
  each = model.folds if len(model.folds) > 1 else ()
  for place, fold in enumerate(each):
    own = {way: found[place] for way, found in answers.items()}
    weights[f'fold {fold}'] = score(own)
  predicted = [classes[k] for k in means['upright'].argmax(axis=1)]
  return {
    'run': released.name_of(model.run_folder),
    'folds': list(model.folds),
    'positive': truth.positive,
    'classes': list(classes),
    'meaning': dict(truth.meaning),
    'records': len(truth.records),
    'patients': len(set(truth.patients)),
    'weights': weights,
    'recordings': detection.by_recording(truth, predicted),
  }


def _write_predictions(
  path: pathlib.Path,
  classes: Sequence[str],
  truth: detection.Truth,
  means: Mapping[str, np.ndarray],
) -> None:
  """Writes what all folds together say of each record, in both ways."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  header = ['record', 'recording', 'patient', 'label', 'upside_down']
  writer.writerow(
    [*header, 'predicted', *(f'probability_{name}' for name in classes)]
  )
  facts = list(zip(*truth[:4], strict=True))
  for way, probabilities in means.items():
    for fact, row in zip(facts, probabilities, strict=True):
      predicted = classes[int(row.argmax())]
      # The shortest text that is this float32.
      writer.writerow([*fact, int(way != 'upright'), predicted, *map(str, row)])
  files.write_atomically(path, text.getvalue().encode())

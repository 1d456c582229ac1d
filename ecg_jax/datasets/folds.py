"""Stratified cross-validation folds, determined by labels and a seed.

  python -m ecg_jax.datasets.folds --labels REFERENCE.csv --num_folds 5 \
    --train_validation_parts 6 --seed 14 --out folds.json
  python -m ecg_jax.datasets.folds --labels FOLDER/labels.csv --out folds.json
  python -m ecg_jax.datasets.folds --parts folds.csv --out folds.json

A table of folds is a dictionary, written as JSON:
  algorithm: name of the algorithm that drew it.
  seed: seed of that algorithm.
  labels_sha256: SHA-256 of the lines `record,label` in record order.
  holdout: sorted records that are in no set of any fold; usually none.
  folds: {'0': {'train': [...], 'validation': [...], 'test': [...]}, ...},
    each set a list of records.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ecg_jax import cli
from ecg_jax.datasets import division, parts, schema
from ecg_jax.datasets.recordings_folder import table as table_lib
from ecg_jax.errors import InputError
from ecg_jax.runtime import files

_ADVICE = 'name a file that can be read'

_ALGORITHM = (
  'by class in the order {}: sorted ids, RandomState(seed).shuffle, '
  'array_split; validation = part 1 of the division of what is not test'
)

_ALGORITHM_BY_PATIENT = (
  'sorted patients, RandomState(seed).shuffle, those with most of a class of {}'
  ' first, each to the part where it adds least to the sum of squared shares of'
  ' classes; validation = part 1 of the division of what is not test'
)


def parse_labels(
  text: str, *, source: str, classes: Sequence[str] = schema.CHALLENGE.classes
) -> dict[str, str]:
  """Reads lines `record,label`.

  Args:
    text: content of a label file, one record a line.
    source: name of the file, for messages.
    classes: names of the classes.

  Returns:
    Record -> class, in the order of the file.

  Raises:
    InputError: a line is malformed, names an unknown class or a record again.
  """
  labels: dict[str, str] = {}
  for number, line in enumerate(text.splitlines(), 1):
    record, _, label = line.partition(',')
    if not record or label not in classes:
      raise InputError(
        f'Line {number} of {source} is {line!r}: write record,class with a '
        f'class of {", ".join(classes)}.'
      )
    if record in labels:
      raise InputError(
        f'Line {number} of {source} names record {record} a second time: '
        'keep one of the two lines.'
      )
    labels[record] = label
  return labels


def make_folds(
  labels: Mapping[str, str],
  *,
  patients: Mapping[str, str] | None = None,
  classes: Sequence[str] = schema.CHALLENGE.classes,
  num_folds: int = 5,
  train_validation_parts: int = 6,
  seed: int = 14,
  holdout: bool = False,
) -> dict[str, Any]:
  """Draws a table of folds; the defaults on labels v2 give the published one.

  Args:
    labels: record -> class.
    patients: record -> patient, to keep each in one set; None if not known.
    classes: names of the classes.
    num_folds: number of folds; every record is in exactly one test set.
    train_validation_parts: number of parts that the records outside of the test
      set are divided into; one of them is the validation set.
    seed: seed of every division, 0 to 2**32 - 1.
    holdout: whether to divide the records into one part more than there are
      folds first, and leave the last part out of all folds.

  Returns:
    The table, as the module describes it.

  Raises:
    InputError: a number is out of range, or so large that a set is empty, or
      by patient has none of a class.
  """
  if num_folds < 2 or train_validation_parts < 2:
    raise InputError(
      f'{num_folds} folds and {train_validation_parts} parts of train and '
      'validation make no split: use at least 2 of each.'
    )
  if not 0 <= seed < 2**32:
    raise InputError(f'Seed {seed} is out of range: use 0 to {2**32 - 1}.')

  def draw(labels: Mapping[str, str], count: int) -> list[list[str]]:
    if patients is None:
      return division.divide(labels, classes, count, seed)
    return division.divide_by_patient(labels, patients, count, seed)

  left_out = draw(labels, num_folds + 1)[-1] if holdout else []
  rest = _without(labels, left_out)
  folds = {}
  for fold, test in enumerate(draw(rest, num_folds)):
    remaining = _without(rest, test)
    count = train_validation_parts
    if patients is not None:
      # More would leave the validation set without a class that few have.
      fewest = min(division.patients_of_classes(remaining, patients).values())
      count = max(2, min(count, fewest))
    divided = draw(remaining, count)
    validation = divided.pop(1)
    train = sorted(record for part in divided for record in part)
    folds[str(fold)] = {'train': train, 'validation': validation, 'test': test}
  for number, sets in folds.items():
    for name, records in sets.items():
      if not records:
        raise InputError(
          f'The {name} set of fold {number} is empty, {len(labels)} records '
          'are too few: ask for fewer folds or parts.'
        )
  algorithm = _ALGORITHM if patients is None else _ALGORITHM_BY_PATIENT
  if patients is not None:
    check_classes(folds, labels, patients)
  return {
    'algorithm': algorithm.format(' '.join(classes)),
    'seed': seed,
    'labels_sha256': labels_digest(labels),
    'holdout': left_out,
    'folds': folds,
  }


def check_classes(
  folds: Mapping[str, Mapping[str, Sequence[str]]],
  labels: Mapping[str, str],
  patients: Mapping[str, str],
) -> None:
  """Refuses folds of which a set has none of a class.

  Args:
    folds: those of a table.
    labels: record -> class.
    patients: record -> patient, or the record itself.

  Raises:
    InputError: names the set, and the class with the number of its patients.
  """
  counts = division.patients_of_classes(labels, patients)
  for number, sets in folds.items():
    for name, records in sets.items():
      missing = counts.keys() - {labels[record] for record in records}
      if missing:
        rarest = min(missing, key=lambda label: (counts[label], label))
        count = counts[rarest]
        advice = 'merge classes, or add recordings of it'
        if 3 <= count < len(folds):
          advice = f'ask for {count} folds, or {advice}'
        raise InputError(
          f'The {name} set of fold {number} has no record of class'
          f' {rarest!r}, which {count} patients or recordings have, too few for'
          f' {len(folds)} folds of three sets each: {advice}.'
        )


def published(
  labels: Mapping[str, str],
  spec: schema.DatasetSpec,
  patients: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """The table of a dataset's own folds, which runs use unless told otherwise.

  Args:
    labels: record -> class in the version of `spec.folds_label_version`.
    spec: the dataset's description.
    patients: record -> patient where `spec.by_patient`, else None.
  """
  return make_folds(
    labels, patients=patients, classes=spec.classes, num_folds=spec.num_folds
  )


def labels_digest(labels: Mapping[str, str]) -> str:
  """Returns the SHA-256 of the lines `record,label` in record order."""
  lines = ''.join(f'{record},{labels[record]}\n' for record in sorted(labels))
  return hashlib.sha256(lines.encode()).hexdigest()


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a table of folds; `check_table` compares it with the records.

  Args:
    path: a JSON file as this module writes it.

  Returns:
    The table, as the module describes it.

  Raises:
    InputError: the file cannot be read or is not such a table.
  """
  try:
    table = json.loads(files.read_text(pathlib.Path(path), _ADVICE))
    problem = _structure_problem(table)
  except json.JSONDecodeError as error:
    problem = f'is not JSON ({error})'
  if problem:
    raise InputError(
      f'The table of folds {path} {problem}: write it with '
      'python -m ecg_jax.datasets.folds.'
    )
  return table


def check_table(table: Mapping[str, Any], records: Collection[str]) -> None:
  """Checks that a table divides exactly these records.

  In each fold every record is once in train, validation, test or the holdout,
  which is the same for all folds, and no two folds test the same record.

  Args:
    table: a table of folds.
    records: the names of all records of the dataset.

  Raises:
    InputError: a record is unknown, missing or doubled.
  """
  known = set(records)
  tested: dict[str, str] = {}
  for fold, sets in table['folds'].items():
    places: dict[str, str] = {}
    for name, members in [*sets.items(), ('holdout', table['holdout'])]:
      here = f'the {name} set of fold {fold}'
      for record in members:
        if record not in known:
          raise InputError(
            f'Record {record} in {here} is not in the dataset: remove it from '
            'the table of folds.'
          )
        if record in places:
          raise InputError(
            f'Record {record} is in {here} and already in {places[record]}: '
            'keep it in one set of the fold.'
          )
        places[record] = here
    if missing := known - places.keys():
      raise InputError(
        f'Record {min(missing)} is in neither the train, the validation, the '
        f'test set of fold {fold} nor the holdout ({len(missing)} such '
        'records): add it to one of them.'
      )
    for record in sets['test']:
      if record in tested:
        raise InputError(
          f'Record {record} is in the test set of fold {fold} and already in '
          f'that of fold {tested[record]}: keep it in one of them.'
        )
      tested[record] = fold


def write_table(table: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
  """Writes a table of folds as JSON, all of it or nothing.

  Args:
    table: a table of folds.
    path: the file to write.

  Raises:
    InputError: the file cannot be written, or its folder does not exist.
  """
  target = pathlib.Path(path)
  if not target.parent.is_dir():
    raise InputError(
      f'Cannot write {path} (there is no folder {target.parent}): name a file'
      ' in a folder that exists.'
    )
  files.write_json(target, table)


def _without(
  labels: Mapping[str, str], records: Collection[str]
) -> dict[str, str]:
  """The labels of all records but these."""
  gone = set(records)
  return {r: label for r, label in labels.items() if r not in gone}


def _structure_problem(table: Any) -> str:
  """What is wrong with the structure of a table of folds; '' if nothing is."""
  if not isinstance(table, dict):
    return 'is not a JSON object'
  texts = dict.fromkeys(('algorithm', 'labels_sha256'), str)
  fields = {**texts, 'seed': int, 'holdout': list, 'folds': dict}
  for field, kind in fields.items():
    if not isinstance(table.get(field), kind):
      return f'has no field {field!r} of type {kind.__name__}'
  if not _is_list_of_text(table['holdout']):
    return "has a 'holdout' that is not a list of record names"
  folds = table['folds']
  if not folds or list(folds) != [str(k) for k in range(len(folds))]:
    return f'has folds named {list(folds)} in place of 0, 1, 2 and so on'
  for fold, sets in folds.items():
    if not isinstance(sets, dict) or sorted(sets) != sorted(schema.SETS):
      names = ', '.join(schema.SETS)
      return f'has a fold {fold} without exactly the sets {names}'
    for name, members in sets.items():
      if not members or not _is_list_of_text(members):
        return f'has a {name} set of fold {fold} that lists no record names'
  return ''


def _is_list_of_text(value: Any) -> bool:
  """Whether a JSON value is a list of strings."""
  return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _draw(args: argparse.Namespace) -> dict[str, Any]:
  """The table of folds of --labels."""
  text = files.read_text(args.labels, _ADVICE)
  classes, patients = schema.CHALLENGE.classes, None
  if args.classes:
    classes = tuple(args.classes.split(','))
  is_table = 'label' in text.partition('\n')[0].lower()
  if is_table:
    table = table_lib.read(args.labels)
    given = classes if args.classes else ()
    classes = table_lib.classes(table, given, args.labels)
    labels = table.labels()
    patients = table.patients() if table.by_patient else None
  else:
    labels = parse_labels(text, source=str(args.labels), classes=classes)
  drawn = make_folds(
    labels,
    patients=patients,
    classes=classes,
    num_folds=args.num_folds,
    train_validation_parts=args.train_validation_parts,
    seed=args.seed,
    holdout=args.holdout,
  )
  if is_table:
    check_classes(drawn['folds'], labels, table.patients())
  return drawn


@cli.command()
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = cli.ArgumentParser(
    prog='ecg_jax.datasets.folds', description=__doc__
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    '--labels',
    type=cli.path_argument,
    help='csv of record,class, or the labels.csv of a folder of recordings',
  )
  source.add_argument(
    '--parts',
    type=cli.path_argument,
    help='csv with the columns record (or record_name) and fold, of others',
  )
  parser.add_argument(
    '--classes',
    help="names of the classes, like 'normal,other'; default: those of"
    f' labels.csv, or {",".join(schema.CHALLENGE.classes)}',
  )
  parser.add_argument('--num_folds', type=int, default=5)
  parser.add_argument('--train_validation_parts', type=int, default=6)
  parser.add_argument('--seed', type=int, default=14)
  parser.add_argument('--holdout', action='store_true')
  parser.add_argument(
    '--out', type=cli.path_argument, required=True, help='JSON file to write'
  )
  args = parser.parse_args(arguments)
  table = parts.to_folds(parts.read(args.parts)) if args.parts else _draw(args)
  write_table(table, args.out)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

"""What makes scores doubtful that folds were drawn for: told, not refused."""

import collections
from collections.abc import Mapping, Sequence


def same_samples(
  folds: Mapping[str, Mapping[str, Sequence[str]]], digests: Mapping[str, str]
) -> list[str]:
  """Says whether recordings with the same samples are in two sets of a fold.

  Args:
    folds: those of a table.
    digests: record -> digest of its samples.

  Returns:
    A sentence, or nothing.
  """
  alike = collections.defaultdict(list)
  for record in sorted(digests):
    alike[digests[record]].append(record)
  doubled = [records for records in alike.values() if len(records) > 1]
  found, example = set(), ''
  for number, sets in folds.items():
    place = {record: name for name in sets for record in sets[name]}
    for records in doubled:
      # One record of each set.
      shown = {place[x]: x for x in reversed(records) if x in place}
      if len(shown) > 1:
        found.update(records)
        pair = ' and '.join(f'{shown[x]} ({x})' for x in sorted(shown))
        example = example or f'{pair} of fold {number}'
  if not found:
    return []
  return [
    f'{len(found)} records have the samples of another one in another set of a'
    f' fold, like {example}: the score may be too good.'
  ]


def large_patients(
  labels: Mapping[str, str], patients: Mapping[str, str]
) -> list[str]:
  """Says which patients have at least half of the records of a class.

  Args:
    labels: record -> class.
    patients: record -> patient, or nothing where they are not known.

  Returns:
    Sentences.
  """
  totals = collections.Counter(labels.values())
  counts = collections.Counter((labels[r], patients[r]) for r in patients)
  return [
    f'Patient {patient} has {count} of the {totals[label]} records of class'
    f' {label!r}, so folds cannot divide it evenly: compare their scores.'
    for (label, patient), count in sorted(counts.items())
    if 2 * count >= totals[label]
  ]

"""Divides records into parts in which every class has its share."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np


def divide(
  labels: Mapping[str, str], classes: Sequence[str], parts: int, seed: int
) -> list[list[str]]:
  """Divides records into parts in which every class has its share.

  Args:
    labels: record -> class.
    classes: names of the classes, in the order in which they are divided.
    parts: number of parts.
    seed: seed of NumPy's RandomState, whose stream is frozen.

  Returns:
    The parts, each a sorted list of records.
  """
  divided: list[list[str]] = [[] for _ in range(parts)]
  for class_name in classes:
    records = np.array(sorted(r for r, c in labels.items() if c == class_name))
    np.random.RandomState(seed).shuffle(records)
    shares = np.array_split(records, parts)
    for part, share in zip(divided, shares, strict=True):
      part.extend(share.tolist())
  return [sorted(part) for part in divided]


def divide_by_patient(
  labels: Mapping[str, str],
  patients: Mapping[str, str],
  parts: int,
  seed: int,
) -> list[list[str]]:
  """Divides records into parts, all of a patient into one of them.

  Classes are as even as a greedy division of whole patients makes them, like
  that of scikit-learn's StratifiedGroupKFold. It is written out because a run
  draws its folds again when it is read: they must not change with a library.

  Args:
    labels: record -> class.
    patients: record -> patient, of these records and possibly others.
    parts: number of parts.
    seed: seed of NumPy's RandomState, whose stream is frozen.

  Returns:
    The parts, each a sorted list of records.
  """
  records: dict[str, list[str]] = {}
  for record in sorted(labels):
    records.setdefault(patients[record], []).append(record)
  totals = collections.Counter(labels.values())

  def shares(members: Sequence[str]) -> list[float]:
    counts = collections.Counter(labels[record] for record in members)
    return [counts[name] / totals[name] for name in sorted(totals)]

  order = np.array(sorted(records))
  np.random.RandomState(seed).shuffle(order)
  divided: list[list[str]] = [[] for _ in range(parts)]
  filled = [[0.0] * len(totals) for _ in range(parts)]
  for patient in sorted(order.tolist(), key=lambda x: -max(shares(records[x]))):
    added = shares(records[patient])
    # Of the square of a sum only this depends on the part.
    costs = [sum(a * b for a, b in zip(x, added, strict=True)) for x in filled]
    part = min(range(parts), key=lambda k: (costs[k], len(divided[k])))
    divided[part] += records[patient]
    filled[part] = [a + b for a, b in zip(filled[part], added, strict=True)]
  return [sorted(part) for part in divided]


def patients_of_classes(
  labels: Mapping[str, str], patients: Mapping[str, str]
) -> dict[str, int]:
  """Counts the patients of each class.

  Args:
    labels: record -> class.
    patients: record -> patient.
  """
  pairs = {(patients[record], label) for record, label in labels.items()}
  return collections.Counter(label for _, label in pairs)

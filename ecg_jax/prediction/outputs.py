"""The outputs of the predict command: table, files, pictures, page.

JAX is imported only to write: paths are checked before, in an instant.
"""

import collections
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from ecg_jax import cli
from ecg_jax.errors import InputError, PartialFailure
from ecg_jax.recordings import find
from ecg_jax.recordings.lead import Recording
from ecg_jax.runs import artifacts
from ecg_jax.runtime import files

if TYPE_CHECKING:
  from ecg_jax.prediction.ensemble import Ensemble
  from ecg_jax.prediction.predictor import RecordingResult, Settings

_SIGNAL_SUFFIXES = {
  *find.DEVICE_SUFFIXES,
  *('.dat', '.npy', '.npz', '.h5', '.hdf5'),
}
"""Endings that no output may have."""


@dataclasses.dataclass(frozen=True)
class Outputs:
  """Where to write; None for an output that is not wanted."""

  out: pathlib.Path | None
  """The .csv or .json file."""
  answers: pathlib.Path | None
  """The file of record,label lines."""
  plot: pathlib.Path | None
  """The folder of the pictures."""
  report: pathlib.Path | None
  """The .html file."""

  def __post_init__(self) -> None:
    """Raises InputError where --out or --report has an unknown ending."""
    if self.out is not None and self.out.suffix not in ('.csv', '.json'):
      raise InputError(f'--out {self.out} ends neither in .csv nor in .json.')
    if self.report is not None and self.report.suffix != '.html':
      raise InputError(f'--report {self.report} does not end in .html.')

  def check(
    self, run_folder: Traversable, inputs: list[pathlib.Path]
  ) -> list[pathlib.Path]:
    """Refuses outputs that are not writable or would replace other files.

    Args:
      run_folder: The run, which is not written to.
      inputs: The files and folders of the recordings, and all files found.

    Returns:
      Files in the folders that may be recordings too, but are not among the
      inputs.

    Raises:
      InputError: An output cannot be used; the message says which, and why. Or
        the run cannot.
    """
    # Arrays in a folder are not read without a rate, but not replaced either.
    beside = find.find(inputs, with_arrays=True)
    classes = artifacts.read_spec(run_folder).classes
    known = {os.path.realpath(path) for path in inputs}
    left_out = [
      path
      for path in beside
      if os.path.realpath(path) not in known and not _is_output(path, classes)
    ]
    recordings = [*inputs, *left_out]
    protected = {os.path.realpath(x) for x in recordings if not x.is_dir()}
    run = pathlib.Path(os.path.realpath(str(run_folder)))
    taken: set[str] = set()
    for name, output in vars(self).items():
      if output is None:
        continue
      place = os.path.realpath(output)
      replaces = place in protected or output.suffix.lower() in _SIGNAL_SUFFIXES
      inside = pathlib.Path(place).is_relative_to(run)
      outside = f'in the run folder {run_folder}: name a place outside of it.'
      for wrong, reason in (
        (replaces, 'would replace a recording: name another file.'),
        (inside, f'is {outside}'),
        (place in taken, 'is named for another output too: name another.'),
        (name != 'plot' and output.is_dir(), 'is a folder: name a file.'),
      ):
        if wrong:
          raise InputError(f'--{name} {output} {reason}')
      taken.add(place)
      folder = output if name == 'plot' else output.parent
      files.check_writable(folder, f'--{name}')
    return left_out

  def write(
    self,
    results: Sequence['RecordingResult'],
    model: 'Ensemble',
    settings: 'Settings',
    openers: Mapping[str, Callable[[], Recording]],
  ) -> None:
    """Writes the files and prints the table, the latter even if a file fails.

    Args:
      results: The result of each recording.
      model: What classified them.
      settings: How.
      openers: Name -> function that opens the recording.

    Raises:
      PartialFailure: A recording has no prediction; each of these has its
        sentence on stderr.
      InputError: A file cannot be written.
    """
    from ecg_jax.prediction import report

    failures = [x.failure for x in results if x.failure is not None]
    try:
      if self.out is not None:
        text = (
          report.to_csv(results, model.spec.classes)
          if self.out.suffix == '.csv'
          else report.to_json(results, model, settings)
        )
        files.write_atomically(self.out, _encode(text))
      if self.answers is not None:
        text = report.to_answers(results)
        files.write_atomically(self.answers, _encode(text))
      if self.plot is not None:
        from ecg_jax.prediction import pictures  # Matplotlib takes a second.

        pictures.write(self.plot, model, results)
      if self.report is not None:
        from ecg_jax.prediction import html_report

        content = html_report.encode(model, results, openers, settings)
        files.write_atomically(self.report, content)
    finally:
      table = report.format_table(results, model.spec.classes)
      cli.print_text(table)
      for failure in failures:
        print(_encode(failure).decode(), file=sys.stderr)
    if failures:
      raise PartialFailure(
        f'No answer for {len(failures)} of {len(results)}'
        f' recording{"s" * (len(results) > 1)}.'
      )


def names(paths: Sequence[pathlib.Path]) -> list[str]:
  """Unique names of files: without their endings, or paths where needed."""
  counts = collections.Counter(path.stem for path in paths)
  whole = [_encode(str(path)).decode() for path in paths]
  short = [
    _encode(path.stem).decode() if counts[path.stem] == 1 else name
    for path, name in zip(paths, whole, strict=True)
  ]
  # The stem of x.csv.npy may be the path of another.
  return short if len(set(short)) == len(short) else whole


def _is_output(path: pathlib.Path, classes: Sequence[str]) -> bool:
  """Whether --out or --answers wrote a file, and may replace it."""
  try:
    with path.open(encoding='utf-8', errors='replace') as file:
      line = file.readline(4096).strip()
  except OSError:
    return False
  answer = '|'.join(map(re.escape, classes))
  return re.match(f'recording,lead,|.+,({answer})$', line) is not None


def _encode(text: str) -> bytes:
  """UTF-8; bytes of a file name that are not UTF-8 become escapes."""
  return text.encode(errors='backslashreplace')

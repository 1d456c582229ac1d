"""Released weights: the finished folds of a run in one file; no jax.

The file is a ZIP archive of what prediction needs of a run folder, and is read
as if it were that folder: config.json, scores.json, predictions.csv and
trees.npz as the run wrote them, but in place of the checkpoints a weights.npz
of each fold, and in place of the digests of all records trained_on.csv, which
has those that shaped a fold. `tools/release_weights.py` writes it.

Beside it lies a text file with its SHA-256, as `sha256sum` writes it. A file
that is another one, or damaged, is not read.
"""

import functools
import hashlib
import io
import json
import pathlib
import zipfile
from importlib.resources.abc import Traversable

import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.runtime import files

FOLDER = pathlib.Path(__file__).parents[1] / 'released'
"""Where the package has its released weights."""

PREFIX = 'ecg_jax:'
"""Of a name: `ecg_jax:NAME` is NAME.zip in that folder."""

DEFAULT = f'{PREFIX}crnn_beats'
"""What predicts if no run is named."""

FORMAT = 1
"""Incremented when older versions cannot read the file any more."""

MANIFEST = 'release.json'
WEIGHTS = 'weights.npz'
"""In the folder of a fold: path of an array -> its values."""
TRAINED_ON = 'trained_on.csv'
COLUMNS = ('sha256', 'record', 'folds')
"""Of TRAINED_ON: digest of a record's samples, its name, and the folds that it
shaped, with spaces between them."""


class ReleasedRun(zipfile.Path):
  """The inside of a released file, a folder of a run that is in memory."""

  def __str__(self) -> str:
    """The file's name, without the slash that ends a folder."""
    return super().__str__().rstrip('/')


def open_run(run: str | Traversable | None) -> Traversable:
  """Finds a run: its folder, or what is like it in a released file.

  Args:
    run: A folder or a released file, or `ecg_jax:NAME`, one of the package;
      None for its DEFAULT.

  Returns:
    The folder, which need not exist, or the inside of the file.

  Raises:
    InputError: The package has no such file, or it is not what was released.
  """
  if isinstance(run, ReleasedRun):
    return run
  name = DEFAULT if run is None else str(run)
  path = pathlib.Path(name).expanduser()
  if name.startswith(PREFIX):
    path = FOLDER / f'{name.removeprefix(PREFIX)}.zip'
    if not path.is_file():
      raise InputError(
        f'This copy of ecg_jax has no released weights {name} (no file {path}):'
        ' name the folder of a trained run, on the command line with --run.'
      )
  elif not path.is_file():
    return path
  return _read(path, name)


def digest_file(path: pathlib.Path) -> pathlib.Path:
  """The text file beside a released file, which has its SHA-256."""
  return path.with_name(f'{path.name}.sha256')


def _read(path: pathlib.Path, name: str) -> ReleasedRun:
  """Reads a released file into memory; messages call it by the name."""
  beside = digest_file(path)
  if not beside.is_file():
    raise InputError(
      f'{path} is no run folder, and no released file either, which would have'
      f' its SHA-256 beside it in {beside.name}: name another, or restore that.'
    )
  expected = files.read_text(beside, 'restore it').partition(' ')[0].strip()
  try:
    content = path.read_bytes()
  except OSError as error:
    raise InputError(
      f'{path} cannot be read ({error.strerror}): make it readable.'
    ) from error
  found = hashlib.sha256(content).hexdigest()
  if found != expected:
    raise InputError(
      f'{path} is damaged or another file than was released: its SHA-256 is'
      f' {found}, not {expected} as in {beside.name}; restore both, for example'
      ' by installing ecg_jax again.'
    )
  try:
    archive = zipfile.ZipFile(io.BytesIO(content))
    manifest = json.loads(archive.read(MANIFEST))
    version = manifest['format']
  except (zipfile.BadZipFile, LookupError, ValueError, TypeError) as error:
    raise InputError(
      f'{path} has no released weights in it: name a file that'
      ' tools/release_weights.py wrote, or a run folder.'
    ) from error
  if version != FORMAT:
    raise InputError(
      f'{path} has the format {version}, and this version of ecg_jax reads'
      f' {FORMAT}: use the version that it came with.'
    )
  archive.filename = name
  return ReleasedRun(archive)


def name_of(run: Traversable) -> str:
  """Name of a run, by its folder or file."""
  if isinstance(run, pathlib.Path):
    return run.resolve().name
  return run.name.removeprefix(PREFIX).removesuffix('.zip')


def output_folder(run: Traversable) -> pathlib.Path:
  """Where results go by default: the run folder, or here for a file."""
  return run if isinstance(run, pathlib.Path) else pathlib.Path()


def is_of_package(run: ReleasedRun) -> bool:
  """Whether the file came with this copy of the package."""
  return str(run).startswith(PREFIX)


def read_weights(run: ReleasedRun, fold: int) -> dict[str, np.ndarray]:
  """Path of an array among `params` and `batch_stats` -> its float32 values."""
  content = (run / f'fold{fold}' / WEIGHTS).read_bytes()
  with np.load(io.BytesIO(content)) as archive:
    return {path: x.astype(np.float32) for path, x in archive.items()}


def read_trained_on(run: ReleasedRun, fold: int) -> dict[str, str]:
  """SHA-256 of each record that shaped a fold -> its name."""
  return {sha: name for sha, name, folds in _table(run) if fold in folds}


@functools.lru_cache(maxsize=1)  # For all folds.
def _table(run: ReleasedRun) -> list[tuple[str, str, set[int]]]:
  """The rows of TRAINED_ON."""
  return files.read_csv(
    run / TRAINED_ON,
    COLUMNS,
    lambda row: (
      row['sha256'],
      row['record'],
      {int(fold) for fold in row['folds'].split()},
    ),
    kind='a record and the folds that it shaped',
    advice='restore the file',
  )

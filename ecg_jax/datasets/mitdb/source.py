"""Downloads, verifies and reads the MIT-BIH Arrhythmia Database.

Source: https://physionet.org/content/mitdb/1.0.0/
"""

import hashlib
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ecg_jax.datasets import official_files
from ecg_jax.errors import InputError
from ecg_jax.recordings import lead, wfdb_annotations

ZIP_URL = (
  'https://physionet.org/static/published-projects/mitdb/'
  'mit-bih-arrhythmia-database-1.0.0.zip'
)

CONTENT_DIGEST = (
  'e6915b467b22a593a25302d01541dce2c503ac9d9818d166e1cc99bc7023faaa'
)
"""SHA-256 of the lines `100.atr <SHA-256 of 100.atr>` of all .atr, .dat and
.hea, in the order of their names."""

NUM_RECORDS = 48

SAMPLING_RATE = 360
"""Hz."""

ONE_PATIENT = {'202': '201'}
"""Record -> another one of the same patient."""

FILES = official_files.OfficialFiles(
  title='the database',
  zip_url=ZIP_URL,
  places=('mitdb', 'mit-bih-arrhythmia-database-1.0.0'),
  wanted=re.compile(r'\d{3}\.(atr|dat|hea)'),
  sources=f'the file {ZIP_URL} (or what is in it)',
  largest_file=2**21,  # The official files have 1,950,000 each,
  largest_total=2**27,  # and 93,857,066 together.
)


class AnnotatedRecord(NamedTuple):
  """The first lead of a record, and what experts said of it."""

  name: str
  """Such as '100'."""
  millivolt: np.ndarray
  """float32 [samples] at SAMPLING_RATE."""
  beats: np.ndarray
  """int64 [n], samples at which the beats are, ascending."""
  symbols: np.ndarray
  """Text of one character [n], what kind of beat each is, such as 'N'."""
  rhythms: tuple[tuple[int, str], ...]
  """Sample at which each rhythm begins, and its name, such as 'AFIB'."""

  @property
  def patient(self) -> str:
    """Who was recorded."""
    return ONE_PATIENT.get(self.name, self.name)


def read_records(folder: pathlib.Path | None) -> Iterator[AnnotatedRecord]:
  """Reads all records, after verifying the files.

  Args:
    folder: Holds the archive of PhysioNet, as mitdb.zip or by its own name, or
      what is in it; None to download it.

  Yields:
    The records, in the order of their names.

  Raises:
    InputError: The files are not the official ones, cannot be read or
      downloaded.
  """
  files = FILES.download() if folder is None else FILES.read_folder(folder)
  verify(files, folder)
  names = sorted({name.partition('.')[0] for name in files})
  with tempfile.TemporaryDirectory() as unpacked:
    for name in names:
      yield _read_record(name, files, pathlib.Path(unpacked))


def verify(files: Mapping[str, bytes], folder: pathlib.Path | None) -> None:
  """Accepts exactly the official files.

  Args:
    files: Name -> content.
    folder: Where they are from, for messages.

  Raises:
    InputError: A file is missing, one too many or altered.
  """
  if not files:
    raise InputError(
      f'The folder {folder} holds no records, neither in mitdb.zip nor'
      f' unpacked: put {FILES.sources} there.'
    )
  digests = {name: hashlib.sha256(files[name]).hexdigest() for name in files}
  lines = ''.join(f'{name} {digests[name]}\n' for name in sorted(files))
  digest = hashlib.sha256(lines.encode()).hexdigest()
  if digest != CONTENT_DIGEST:
    raise InputError(
      f'{len(files)} files of the database are there, where {3 * NUM_RECORDS}'
      f' belong to it, or one is not the official one: their digest is {digest}'
      f' in place of {CONTENT_DIGEST}: {FILES.get_again}'
    )


def _read_record(
  name: str, files: Mapping[str, bytes], unpacked: pathlib.Path
) -> AnnotatedRecord:
  """Reads a record; its files are unpacked for the reader of all recordings."""
  for ending in ('dat', 'hea'):
    (unpacked / f'{name}.{ending}').write_bytes(files[f'{name}.{ending}'])
  recording = lead.open_recording(
    unpacked / f'{name}.hea', lead.Encoding(SAMPLING_RATE, 1000.0), lead='0'
  )
  millivolt = recording.millivolt(0, recording.num_samples)
  annotations = wfdb_annotations.parse_annotations(
    files[f'{name}.atr'], name=f'{name}.atr'
  )
  beats = [x for x in annotations if x.symbol in wfdb_annotations.BEATS]
  return AnnotatedRecord(
    name,
    millivolt,
    np.array([beat.sample for beat in beats], np.int64),
    np.array([beat.symbol for beat in beats]),
    tuple(
      (x.sample, x.text.removeprefix('('))
      for x in annotations
      if x.symbol == wfdb_annotations.RHYTHM
    ),
  )

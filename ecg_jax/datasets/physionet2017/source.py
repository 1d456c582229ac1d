"""Downloads, verifies and parses the official files of the Challenge.

Sources: https://physionet.org/content/challenge-2017/1.0.0/ and the MATLAB
level 4 and WFDB header formats it uses.
"""

import hashlib
import pathlib
import re
import struct
from collections.abc import Mapping

import numpy as np

from ecg_jax.datasets import folds, official_files, schema
from ecg_jax.errors import InputError

ADDRESS = 'https://physionet.org/files/challenge-2017/1.0.0'

ZIP_URL = f'{ADDRESS}/training2017.zip'

LABELS_URL = f'{ADDRESS}/REFERENCE-v3.csv'

LABEL_FILES = {
  'v1': 'REFERENCE-original.csv',
  'v2': 'REFERENCE.csv',
  'v3': 'REFERENCE-v3.csv',
}
"""Label version -> file; v1 and v2 are in the archive, v3 is beside it."""

LABEL_DIGESTS = {
  'v1': 'bb80d19c91239fc4272bd86815504ceeb35031c5cec0f6e55e4c001afdb97a81',
  'v2': '995a380d29f7aa45eb50fd907462bf2f7a3492e0f7ed33870f023753463f79fd',
  'v3': 'ae517e474b0bc89a7517ad876b5b4dadc6c94f680d0665c04746db9432df855b',
}
"""Label version -> SHA-256 of its file with LF line ends (mirrors differ)."""

CONTENT_DIGEST = (
  '1762d6df568df3d3f96c3d4f5d9a43d86b367392d044ae432a9878ceeaf9b507'
)
"""SHA-256 of the lines `A00001 <SHA-256 of A00001.mat>` in record order."""

FILES = official_files.OfficialFiles(
  title='the Challenge',
  zip_url=ZIP_URL,
  places=('training2017',),
  wanted=re.compile(r'A\d{5}\.(mat|hea)|REFERENCE(-original|-v3)?\.csv'),
  sources=f'the files {ZIP_URL} and {LABELS_URL}',
  largest_file=2**20,  # The official files have less than 80,000 each,
  largest_total=2**29,  # and 167,393,618 together.
)


def download() -> dict[str, bytes]:
  """Downloads the official files from PhysioNet.

  Returns:
    Name -> content of the records, headers and label files.

  Raises:
    InputError: a file cannot be downloaded, or the archive is damaged.
  """
  # The small file first: without a network this fails at once.
  labels = FILES.download_file(LABELS_URL)
  return {**FILES.download(), LABEL_FILES['v3']: labels}


def read_folder(folder: pathlib.Path) -> dict[str, bytes]:
  """Reads the official files from a folder, and downloads none.

  Args:
    folder: holds REFERENCE-v3.csv, and training2017.zip, a folder training2017
      or the files of that folder.

  Returns:
    Name -> content of the records, headers and label files.

  Raises:
    InputError: the folder has no records, or a file cannot be read.
  """
  files = FILES.read_folder(folder)
  if not any(name.endswith('.mat') for name in files):
    raise InputError(
      f'The folder {folder} holds no records, neither in training2017.zip nor '
      f'unpacked: put the files {ZIP_URL} and {LABELS_URL} there.'
    )
  return files


def verify(files: Mapping[str, bytes]) -> list[schema.Record]:
  """Parses the official files and accepts exactly the official records.

  Args:
    files: name -> content of the records, headers and label files.

  Returns:
    All records, sorted by name.

  Raises:
    InputError: a file is missing, one too many, malformed or altered.
  """
  labels = {version: _read_labels(files, version) for version in LABEL_FILES}
  names = sorted(labels['v3'])
  stems = {name.removesuffix('.mat') for name in files if name[-4:] == '.mat'}
  for name in sorted(stems ^ set(names)):
    problem = 'missing' if name in labels['v3'] else 'one too many'
    raise InputError(
      f'Record {name} is {problem}, {len(names)} were expected and '
      f'{len(stems)} are there: {FILES.get_again}'
    )
  records = []
  digest = hashlib.sha256()
  for name in names:
    content = files[f'{name}.mat']
    signal = parse_signal(content, record=name)
    if f'{name}.hea' not in files:
      raise InputError(f'The header {name}.hea is missing: {FILES.get_again}')
    check_header(files[f'{name}.hea'], record=name, samples=len(signal))
    digest.update(f'{name} {hashlib.sha256(content).hexdigest()}\n'.encode())
    of_record = {version: labels[version][name] for version in labels}
    records.append(schema.Record(name, signal, of_record))
  if digest.hexdigest() != CONTENT_DIGEST:
    raise InputError(
      f'The {len(names)} records {names[0]} to {names[-1]} are present, but not'
      f' all of them are the official ones: the digest of their .mat files is'
      f' {digest.hexdigest()} in place of {CONTENT_DIGEST}: {FILES.get_again}'
    )
  return records


def parse_signal(content: bytes, *, record: str) -> np.ndarray:
  """Reads a MATLAB level 4 file with the one int16 row vector `val`.

  Args:
    content: the file.
    record: name of the record, for messages.

  Returns:
    int16 [samples], in 1/1000 mV, a view of the content.

  Raises:
    InputError: the file is anything else, or its length is wrong.
  """
  # Five little-endian integers (30: a full matrix of little-endian int16;
  # rows; columns; no imaginary part; length of the name), then the name.
  samples = (len(content) - 24) // 2
  expected = struct.pack('<5i4s', 30, 1, max(samples, 0), 0, 4, b'val\0')
  if samples < 1 or len(content) % 2 or content[:24] != expected:
    raise InputError(
      f'The file {record}.mat ({len(content)} bytes) is damaged or not a MATLAB'
      f' level 4 file with one int16 row {"val"!r}: {FILES.get_again}'
    )
  return np.frombuffer(content, '<i2', offset=24)


def check_header(content: bytes, *, record: str, samples: int) -> None:
  """Checks that a WFDB header describes this record.

  Args:
    content: the .hea file.
    record: name of the record.
    samples: number of samples in the .mat file.

  Raises:
    InputError: name, number of samples, sampling rate, format or unit differ.
  """
  lines = content.decode('ascii', errors='replace').splitlines()
  found = [*lines[0].split()[:4], *lines[1].split()[:3]] if lines[1:] else []
  expected = [record, '1', str(schema.CHALLENGE.sampling_rate), str(samples)]
  expected += [f'{record}.mat', '16+24', '1000/mV']
  if found != expected:
    raise InputError(
      f'The header {record}.hea reads {" ".join(found)!r} where its record '
      f'needs {" ".join(expected)!r}: {FILES.get_again}'
    )


def _read_labels(files: Mapping[str, bytes], version: str) -> dict[str, str]:
  """Record -> class of one label version, after verifying its digest."""
  name = LABEL_FILES[version]
  url = LABELS_URL if version == 'v3' else ZIP_URL
  if name not in files:
    raise InputError(
      f'The label file {name} is missing: get it from {url} and put it beside '
      'the records.'
    )
  content = files[name].replace(b'\r\n', b'\n')
  digest = hashlib.sha256(content).hexdigest()
  if digest != LABEL_DIGESTS[version]:
    raise InputError(
      f'The label file {name} is not the official one, its SHA-256 is {digest} '
      f'in place of {LABEL_DIGESTS[version]}: get it again from {url}.'
    )
  return folds.parse_labels(content.decode('ascii'), source=name)

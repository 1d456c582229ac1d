"""Downloads, verifies and parses the official files of the Challenge.

Everything stays in memory until it is verified: a file is a name and its
bytes, so nothing of an archive can be written outside the folder it belongs in.

Sources: https://physionet.org/content/challenge-2017/1.0.0/ and the MATLAB
level 4 and WFDB header formats it uses.
"""

import hashlib
import http.client
import io
import pathlib
import re
import struct
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import tqdm

from ecg_jax.datasets import folds, schema
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

ATTEMPTS = 3

TIMEOUT = 8.0
"""Seconds without a response; ATTEMPTS of these end within about 30 s."""

_LARGEST_FILE = 2**20
"""Bytes; the official files have less than 80,000 each."""

_LARGEST_TOTAL = 2**29
"""Bytes of all files; the official files have 167,393,618."""

_WANTED = re.compile(r'A\d{5}\.(mat|hea)|REFERENCE(-original|-v3)?\.csv')

_GET_AGAIN = f'get it again from {ZIP_URL}.'


def download() -> dict[str, bytes]:
  """Downloads the official files from PhysioNet.

  Returns:
    Name -> content of the records, headers and label files.

  Raises:
    InputError: a file cannot be downloaded, or the archive is damaged.
  """
  # The small file first: without a network this fails at once.
  labels = _download_file(LABELS_URL)
  files = _read_archive(io.BytesIO(_download_file(ZIP_URL)), name=ZIP_URL)
  return {**files, LABEL_FILES['v3']: labels}


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
  archive = folder / 'training2017.zip'
  unpacked = folder / 'training2017'
  try:
    files = _read_files(folder)
    if archive.is_file():
      with archive.open('rb') as file:
        files.update(_read_archive(file, name=str(archive)))
    elif unpacked.is_dir():
      files.update(_read_files(unpacked))
  except OSError as error:
    raise InputError(
      f'Cannot read {error.filename or folder} ({error.strerror}): make the '
      'files readable.'
    ) from error
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
      f'{len(stems)} are there: {_GET_AGAIN}'
    )
  records = []
  digest = hashlib.sha256()
  for name in names:
    content = files[f'{name}.mat']
    signal = parse_signal(content, record=name)
    if f'{name}.hea' not in files:
      raise InputError(f'The header {name}.hea is missing: {_GET_AGAIN}')
    check_header(files[f'{name}.hea'], record=name, samples=len(signal))
    digest.update(f'{name} {hashlib.sha256(content).hexdigest()}\n'.encode())
    of_record = {version: labels[version][name] for version in labels}
    records.append(schema.Record(name, signal, of_record))
  if digest.hexdigest() != CONTENT_DIGEST:
    raise InputError(
      f'The {len(names)} records {names[0]} to {names[-1]} are present, but not'
      f' all of them are the official ones: the digest of their .mat files is'
      f' {digest.hexdigest()} in place of {CONTENT_DIGEST}: {_GET_AGAIN}'
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
      f' level 4 file with one int16 row {"val"!r}: {_GET_AGAIN}'
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
      f'needs {" ".join(expected)!r}: {_GET_AGAIN}'
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


def _read_files(folder: pathlib.Path) -> dict[str, bytes]:
  """Name -> content of the official files directly in a folder."""
  files: dict[str, bytes] = {}
  total = 0
  for path in folder.iterdir():
    if _WANTED.fullmatch(path.name):
      if not path.is_file():
        raise InputError(f'{path} is not a regular file: {_GET_AGAIN}')
      total = _add_size(total, path.stat().st_size, name=str(path))
      files[path.name] = path.read_bytes()
  return files


def _add_size(total: int, size: int, *, name: str) -> int:
  """Adds the bytes of a file; refuses one that would fill the memory."""
  if size > _LARGEST_FILE:
    raise InputError(
      f'{name} has {size:,} bytes, and no file of the Challenge more than'
      f' {_LARGEST_FILE:,}: {_GET_AGAIN}'
    )
  if total + size > _LARGEST_TOTAL:
    raise InputError(
      f'The files up to {name} have more than {_LARGEST_TOTAL:,} bytes, which'
      f' is more than all of the Challenge: {_GET_AGAIN}'
    )
  return total + size


def _read_archive(file: BinaryIO, *, name: str) -> dict[str, bytes]:
  """Name without its folder -> content of the official files in a zip."""
  files: dict[str, bytes] = {}
  total = 0
  member = 'its directory'
  try:
    with zipfile.ZipFile(file) as archive:
      for info in archive.infolist():
        base = pathlib.PurePosixPath(info.filename).name
        if not _WANTED.fullmatch(base):
          continue
        # A name can contain anything, line breaks too.
        member = info.filename.encode('unicode_escape').decode()
        if base in files:
          raise InputError(
            f'The archive {name} holds {base} twice: {_GET_AGAIN}'
          )
        where = f'{member} in {name}'
        total = _add_size(total, info.file_size, name=where)
        files[base] = archive.read(info)  # Not more than file_size.
  # Everything that zipfile raises for damaged, encrypted or unknown contents.
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
  ) as error:
    raise InputError(
      f'The archive {name} is damaged at {member} ({error}): {_GET_AGAIN}'
    ) from error
  return files


# pooch starts over when a connection breaks: of a server that sends 60 % at a
# time it got no file in three attempts, where this needs two. It also needs a
# digest, and the archive has none: mirrors pack it differently.
def _download_file(url: str) -> bytes:
  """Downloads a file, resuming where a connection broke."""
  content = bytearray()
  reason: object = 'the connection was closed early'
  for attempt in range(ATTEMPTS):
    time.sleep(attempt)
    request = urllib.request.Request(url)
    if content:
      request.add_header('Range', f'bytes={len(content)}-')
    try:
      with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
          content.clear()
        total = len(content) + int(response.headers.get('Content-Length', 0))
        with tqdm.tqdm(
          desc=url.rpartition('/')[2],
          total=total,
          initial=len(content),
          unit='B',
          unit_scale=True,
          disable=None,
        ) as bar:
          while block := response.read1(2**20):
            content += block
            bar.update(len(block))
      if len(content) >= total:
        return bytes(content)
    except (OSError, http.client.HTTPException) as error:
      reason = error
  raise InputError(
    f'Cannot download {url} ({reason}): put the files {ZIP_URL} and '
    f'{LABELS_URL} in a folder and name it with --config.data.manual_dir.'
  )

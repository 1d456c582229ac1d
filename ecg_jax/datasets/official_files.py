"""Downloads and reads the files of a dataset as its publisher has them.

Everything stays in memory until it is verified: a file is a name and its
bytes, so nothing of an archive can be written outside the folder it belongs in.
"""

import dataclasses
import http.client
import io
import pathlib
import re
import time
import urllib.request
import zipfile
import zlib
from typing import BinaryIO

import tqdm

from ecg_jax.errors import InputError

ATTEMPTS = 3

TIMEOUT = 8.0
"""Seconds without a response; ATTEMPTS of these end within about 30 s."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfficialFiles:
  """Which files a dataset has, and where they are."""

  title: str
  """Name of the dataset in a sentence, such as 'the Challenge'."""
  zip_url: str
  """Address of the archive that holds the records."""
  places: tuple[str, ...]
  """Names that the archive, without its ending, or the folder with what is in
  it may have."""
  wanted: re.Pattern[str]
  """Names of the files that are read, the others are not."""
  sources: str
  """What to put in a folder, such as 'the file URL'."""
  largest_file: int
  """Bytes that no file of the dataset has."""
  largest_total: int
  """Bytes that all files of the dataset do not have together."""

  @property
  def get_again(self) -> str:
    """Advice about a damaged file."""
    return f'get it again from {self.zip_url}.'

  def download(self) -> dict[str, bytes]:
    """Downloads the archive; returns name -> content of its files.

    Raises:
      InputError: It cannot be downloaded, or is damaged.
    """
    content = io.BytesIO(self.download_file(self.zip_url))
    return self._read_archive(content, name=self.zip_url)

  def read_folder(self, folder: pathlib.Path) -> dict[str, bytes]:
    """Reads the files from a folder, and downloads none.

    Args:
      folder: Holds the files, and the archive or a folder with what is in it,
        of one of the names `places`.

    Returns:
      Name -> content.

    Raises:
      InputError: A file cannot be read.
    """
    try:
      files = self._read_files(folder)
      for place in self.places:
        archive, unpacked = folder / f'{place}.zip', folder / place
        if archive.is_file():
          with archive.open('rb') as file:
            files.update(self._read_archive(file, name=str(archive)))
          break
        if unpacked.is_dir():
          files.update(self._read_files(unpacked))
          break
    except OSError as error:
      raise InputError(
        f'Cannot read {error.filename or folder} ({error.strerror}): make the '
        'files readable.'
      ) from error
    return files

  def _read_files(self, folder: pathlib.Path) -> dict[str, bytes]:
    """Name -> content of the official files directly in a folder."""
    files: dict[str, bytes] = {}
    total = 0
    for path in folder.iterdir():
      if self.wanted.fullmatch(path.name):
        if not path.is_file():
          raise InputError(f'{path} is not a regular file: {self.get_again}')
        total = self._add_size(total, path.stat().st_size, name=str(path))
        files[path.name] = path.read_bytes()
    return files

  def _add_size(self, total: int, size: int, *, name: str) -> int:
    """Adds the bytes of a file; refuses one that would fill the memory."""
    if size > self.largest_file:
      raise InputError(
        f'{name} has {size:,} bytes, and no file of {self.title} more than'
        f' {self.largest_file:,}: {self.get_again}'
      )
    if total + size > self.largest_total:
      raise InputError(
        f'The files up to {name} have more than {self.largest_total:,} bytes,'
        f' which is more than all of {self.title}: {self.get_again}'
      )
    return total + size

  def _read_archive(self, file: BinaryIO, *, name: str) -> dict[str, bytes]:
    """Name without its folder -> content of the official files in a zip."""
    files: dict[str, bytes] = {}
    total = 0
    member = 'its directory'
    try:
      with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
          base = pathlib.PurePosixPath(info.filename).name
          if not self.wanted.fullmatch(base):
            continue
          # A name can contain anything, line breaks too.
          member = info.filename.encode('unicode_escape').decode()
          if base in files:
            raise InputError(
              f'The archive {name} holds {base} twice: {self.get_again}'
            )
          where = f'{member} in {name}'
          total = self._add_size(total, info.file_size, name=where)
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
        f'The archive {name} is damaged at {member} ({error}): {self.get_again}'
      ) from error
    return files

  # pooch starts over when a connection breaks: of a server that sends 60 % at
  # a time it got no file in three attempts, where this needs two. It also needs
  # a digest, and an archive has none: mirrors pack it differently.
  def download_file(self, url: str) -> bytes:
    """Downloads a file, resuming where a connection broke.

    Raises:
      InputError: It cannot be downloaded.
    """
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
      f'Cannot download {url} ({reason}): put {self.sources} in a folder and'
      ' name it with --config.data.manual_dir.'
    )

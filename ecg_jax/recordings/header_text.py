"""Text in the headers of recordings, and the files that they name."""

import codecs
import math
import os
import pathlib
import unicodedata

from ecg_jax.errors import InputError


def decode(content: bytes) -> str:
  """Decodes text of an unknown encoding.

  That is UTF-16 after its byte order mark, or UTF-8 where the bytes are valid
  UTF-8, as others hardly ever are, else Latin-1, which names every byte.
  """
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    return content.decode('utf-16', 'replace')
  try:
    return content.removeprefix(codecs.BOM_UTF8).decode()
  except UnicodeDecodeError:
    return content.decode('latin-1')


def field(content: bytes) -> str:
  """A field of a fixed width, decoded, without its padding."""
  return decode(content).replace('\0', ' ').strip()


def number(text: str) -> float | None:
  """The finite number that a text states, or None.

  Some programs write the decimal mark of the computer's country.
  """
  try:
    value = float(text.replace(',', '.'))
  except ValueError:
    return None
  return value if math.isfinite(value) and '_' not in text else None


def beside(path: pathlib.Path, name: str) -> pathlib.Path:
  """The file that a header names.

  Its name may differ in case, as on systems that ignore it, and in how accents
  are composed, as between systems.

  Raises:
    InputError: The name is an address, or one in an archive.
  """
  if '://' in name or '::' in name or '\0' in name:
    raise InputError(
      f'{path} names a file that is not beside it ({name[:80]}): give a copy'
      ' with all its files in one folder.'
    )
  exact = path.parent / name
  if os.path.lexists(exact):
    return exact
  wanted = _caseless(exact.name)
  folder = exact.parent
  files = folder.iterdir() if folder.is_dir() else ()
  alike = [file for file in files if _caseless(file.name) == wanted]
  return alike[0] if len(alike) == 1 else exact


def _caseless(name: str) -> str:
  return unicodedata.normalize('NFC', name).casefold()

"""Text in the headers of binary files."""

import codecs
import math


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

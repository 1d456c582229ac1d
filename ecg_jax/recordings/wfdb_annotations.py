"""Reads WFDB annotation files, such as 100.atr, in the format MIT."""

from typing import NamedTuple

import numpy as np

from ecg_jax.errors import InputError

_SYMBOLS = ' NLRaVFJASEj/Q~ | sT*D"=pB^t+u?![]en@xf()r'
"""Symbol of each code, as the format defines them; a blank for none."""

BEATS = frozenset('NLRaVFJASEj/QB?enfr')
"""Symbols of beats."""

RHYTHM = '+'
"""Symbol where the rhythm changes, to that which the text names."""

_SKIP, _TEXT = 59, 63
"""Codes of a long interval, and of a text; those between are fields of the
annotation before them, which are not read."""


class Annotation(NamedTuple):
  """An annotation."""

  sample: int
  """Position, in samples from the start of the record."""
  symbol: str
  text: str
  """Such as '(AFIB' of a rhythm."""


def parse_annotations(content: bytes, *, name: str) -> list[Annotation]:
  """Parses an annotation file.

  Args:
    content: The file.
    name: Its name, for messages.

  Returns:
    Its annotations, in the order of the file.

  Raises:
    InputError: It was cut off, or is no such file.
  """
  words = np.frombuffer(content[: len(content) // 2 * 2], '<u2').tolist()
  found: list[Annotation] = []
  sample, at = 0, 0
  try:
    while words[at]:
      code, value = divmod(words[at], 2**10)
      at += 1
      if code == _SKIP:
        interval = words[at] * 2**16 + words[at + 1]
        sample += interval - 2**32 * (interval >= 2**31)
        at += 2
      elif code == _TEXT:
        text = content[2 * at : 2 * at + value].rstrip(b'\0').decode('latin-1')
        at += -(-value // 2)
        found[-1] = found[-1]._replace(text=text)
      elif code < _SKIP:
        sample += value
        symbol = _SYMBOLS[code : code + 1].strip()
        found.append(Annotation(sample, symbol, ''))
  except IndexError as error:
    raise InputError(
      f'{name} ({len(content)} bytes) was cut off or is no WFDB annotation'
      ' file: get it again.'
    ) from error
  return found

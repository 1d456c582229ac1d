"""Units of voltage and time, in every spelling that files and users have."""

import contextlib
import functools
import itertools
import re
import unicodedata

_MICRO = 'µμ'
"""The micro sign and the Greek letter, U+00B5 and U+03BC."""

_WRITTEN = ('utf-8', 'latin-1', 'cp437', 'iso8859-7', 'shift-jis', 'gbk',
            'big5', 'euc-kr')  # fmt: skip
"""Encodings in which devices write the micro sign."""

_READ = ('utf-8', 'latin-1', 'cp1252', 'mac-roman', 'cp437', 'cp1251', 'ascii')
"""Encodings in which programs read text whose encoding they do not know."""

_VOLT = r'(v|volte?s?|volten|voltios?|wolt\w{,2}|в|вольт\w?|伏特?|ボルト)'

_PREFIXES = (
  (1e3, ''),
  (1.0, 'm|mill?i|м|милли|毫|ミリ'),
  (1e-3, 'u|mc|mk|mi[ck]ro|мк|микро|微|マイクロ'),
  (1e-6, 'n|nano|н|нано|纳|ナノ'),
)
"""Factor to mV, and the prefixes of a volt that have it."""


_TIME_UNITS = {
  's': 1.0, 'sec': 1.0, 'secs': 1.0, 'second': 1.0, 'seconds': 1.0,
  'sekunden': 1.0, 'secondes': 1.0, 'segundos': 1.0, 'ms': 1e-3,
  'msec': 1e-3, 'msecs': 1e-3, 'millisec': 1e-3, 'millis': 1e-3,
  'millisecond': 1e-3, 'milliseconds': 1e-3, 'us': 1e-6, 'usec': 1e-6,
  'µs': 1e-6, 'μs': 1e-6, 'microsec': 1e-6, 'micros': 1e-6,
  'microseconds': 1e-6, 'ns': 1e-9, 'nsec': 1e-9, 'nanoseconds': 1e-9,
  'min': 60.0, 'mins': 60.0, 'minutes': 60.0, 'h': 3600.0, 'hr': 3600.0,
  'hour': 3600.0, 'hours': 3600.0, 'hrs': 3600.0, 'day': 86_400.0,
  'days': 86_400.0,
}  # fmt: skip
"""Unit of time -> seconds."""


def _plain(text: str) -> str:
  """A unit in lower case without blanks, NULs, brackets and quotes."""
  text = unicodedata.normalize('NFKC', text).lower()
  text = re.sub(r'[\s\0\ufeff\u200b]', '', text)
  text = re.sub(r'(?<=[oi])[-_](?=v)', '', text)  # micro-volt
  return text.replace('(s)', 's').strip('[](){}<>"\'`.,;:')


def _misread_micro() -> set[str]:
  """What the micro sign looks like where its encoding was not known."""
  found = {*_MICRO, '?', '??'}
  for sign, written, read in itertools.product(_MICRO, _WRITTEN, _READ):
    with contextlib.suppress(UnicodeEncodeError):
      found.add(sign.encode(written).decode(read, 'replace'))
  # Some programs do this twice.
  twice = {x.encode('utf-8').decode('latin-1') for x in found}
  twice |= {x.encode('utf-8').decode('cp1252', 'replace') for x in found}
  return {_plain(sign) for sign in found | twice}


_MISREAD_MICRO = _misread_micro() - {''}
"""None is a prefix of another unit: those are ASCII letters."""


@functools.lru_cache
def to_millivolt(text: str | None) -> float | None:
  """Factor from a unit to mV.

  The spelling is that of a file or a user: `mV`, `MV`, `uVolt`, `[µV]`,
  `microvolts`, `milivoltios`, `мкВ`, with a micro sign in any encoding, even
  one that a program decoded wrongly, padded with blanks or NULs.

  Args:
    text: The unit, None where none is stated.

  Returns:
    The factor, or None for everything that is not a voltage: other
    quantities, counts, products such as `uV/bit`.
  """
  plain = _plain(text or '')
  for factor, prefixes in _PREFIXES:
    if re.fullmatch(f'({prefixes}){_VOLT}', plain):
      return factor
  misread = re.sub(f'{_VOLT}$', '', plain)
  return 1e-3 if misread != plain and misread in _MISREAD_MICRO else None


def to_hertz(period: float) -> float:
  """Samples per second, a whole number if six digits of a period allow it.

  Args:
    period: Seconds from one sample to the next, above 0.
  """
  rate = 1 / period
  return float(round(rate)) if abs(round(rate) / rate - 1) < 1e-5 else rate


@functools.lru_cache
def to_seconds(text: str) -> float | None:
  """Seconds in a unit of time, such as `ms`, `[sec]`, `s/256`, `0.002 sec`.

  Returns:
    Seconds above 0, or None for everything else.
  """
  plain = text.strip().strip('[]()').strip().lower().rstrip('.')
  if part := re.fullmatch(r's(?:ec)?/(\d+)', plain):  # Of a sample.
    return 1 / max(1, int(part[1]))
  if part := re.fullmatch(r'(\d*[.,]?\d+(?:e[+-]?\d+)?) ?(\D+)', plain):
    one, count = _TIME_UNITS.get(part[2]), float(part[1].replace(',', '.'))
    return 1 / to_hertz(one * count) if one and 0 < count < 1e9 else None
  return _TIME_UNITS.get(plain)

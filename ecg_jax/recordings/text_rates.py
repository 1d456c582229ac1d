"""Sampling rates in header lines."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from ecg_jax.recordings import text_lines
from ecg_jax.recordings.units import to_hertz, to_seconds

_NOT_SAMPLING = re.compile(
  r'filt|notch|cut.?off|pass\b|\bband|mains|netz|secteur|\bhum\b|heart|puls|'
  r'herz[ -]?(freq|rate|schl)|card[ií]a|bpm|\bresp|\bacc|gyro|\bimu\b|ppg|spo2|'
  r'\bmag|nyquist|update|display|refresh|clock|baud|bit ?rate|r-?r\b|'
  r'フィルタ|滤波|濾波|心率|心拍|脈拍',
  re.IGNORECASE,
)
"""Frequencies of something else than ECG samples."""

_SAMPLING = (
  r'(?:sampl\w*[ _-]*(?:rate|freq\w*|frekv\w*|speed)|\bfs\b|\bsfreq\b|'
  r'(?:rate|freq\w*) of sampling|samples? ?(?:/|per) ?s(?:ec(?:ond)?)?\b|'
  r'abtast(?:rate|freq\w*)|mess-?(?:rate|freq\w*)|chantillonnage|muestreo|'
  r'campionamento|amostragem|bemonster\w*|meetfrequentie|meetsnelheid|'
  r'målefrekvens|näytteenot\w*|próbkowani\w*|vzorkov\w*|örnekleme\w*|'
  r'mintavétel\w*|дискретизаци\w*|サンプル(?:レート|周波数)|'
  r'サンプリング(?:レート|周波数)|采样率|采样频率|採樣率|取样率|取樣率|샘플링\w*)'
)
"""Words for a sampling rate."""

_HERTZ = (
  r'(?:hz|hertz|hercios?|hertzi|hert\w*|гц|герц\w*|ヘルツ|赫兹|赫茲|헤르츠|'
  r'sps\b|samples? ?(?:/|per) ?s(?:ec(?:ond)?)?\b)'
)

NUMBER = r'\d+(?:[.,]\d+)?(?:e[+-]?\d+)?'

_INTERVAL = re.compile(
  r'^\W*(?:interval|(?:sampl\w*|scan|time)[ _-]*(?:interval\w*|period\w*|step)|'
  r'dt|abtastintervall|intervalle d.?\w*chantillonnage)'
  r'\s*(?:[(\[](?P<before>[a-zµμ]*)[)\]])?[\s:=,;\t"]+'
  rf'(?P<number>{NUMBER})\s*(?P<unit>[a-zµμ]*)'
)
"""A line with the time from one sample to the next."""


@dataclasses.dataclass(frozen=True)
class Stated:
  """A fact and where it is stated."""

  value: Any
  place: str
  """Such as 'header line 7'."""
  limit: float | None = None
  """Samples beyond which the unit cannot be true, None if there is none."""


def value_of(text: str) -> float:
  """A number with either decimal mark."""
  return float(text.replace(',', '.'))


def _hertz(text: str) -> float:
  """A rate with either decimal mark, or with one between thousands."""
  value = value_of(text)
  grouped = re.fullmatch(r'[1-9]\d?[.,]\d{3}', text)
  return 1000 * value if grouped and value < 50 else value


def rates(above: Sequence[str], delimiter: str) -> list[Stated]:
  """Sampling rates that header lines state, each once."""
  found: dict[float, Stated] = {}
  ecg: dict[float, Stated] = {}
  for number, line in enumerate(above, 1):
    for rate in rates_in(line, delimiter):
      stated = Stated(rate, f'header line {number}')
      found.setdefault(rate, stated)
      if re.search('ecg|ekg', line, re.IGNORECASE):
        ecg.setdefault(rate, stated)
  return list((ecg or found).values())


def rates_in(line: str, delimiter: str) -> list[float]:
  """Sampling rates that a header line states, in Hz."""
  text = line.lower()[:2000]
  per_sample = re.search(rf'({NUMBER})\s*(\w+)\s*(?:/|per)\s*sample\b', text)
  if per_sample and (seconds := to_seconds(per_sample[2])):
    return _inverse(value_of(per_sample[1]) * seconds)
  if _NOT_SAMPLING.search(text):
    return []
  if interval := _INTERVAL.search(text):
    seconds = to_seconds(interval['unit']) or to_seconds(
      interval['before'] or ''
    )
    return _inverse(value_of(interval['number']) * (seconds or 0.0))
  hertz = re.findall(rf'({NUMBER})\s*"?[\t,;]?\s*(k?){_HERTZ}', text)
  named = re.search(_SAMPLING, text)
  found = [_hertz(x) * (1000 if kilo else 1) for x, kilo in hertz]
  if found and (named or re.search(r'sampl|\brate\b|samples', text)):
    return found if named else [rate for rate in found if rate >= 100]
  if not named:
    return []
  key, *rest = re.split(
    r'\s*[:=]+|[,;\t](?=[^,;\t])', text[named.end() :], maxsplit=1
  )
  if not rest and re.fullmatch(rf'[\s"]+{NUMBER}[\s"]*', key):
    rest = [key]
  if not rest or re.search(r'\d', key):
    return []
  sign = next((x for x in '\t;' if x in rest[0]), ',')
  fields = [x for x in text_lines.split(rest[0], sign) if x]
  if sign == ',' and delimiter not in ('', ',') and len(fields) == 2:
    fields = [rest[0].strip()]  # A decimal comma.
  if not all(re.fullmatch(NUMBER, field) for field in fields):
    return []
  scale = 1000 if 'khz' in text else 1
  return [_hertz(field) * scale for field in fields]


def _inverse(seconds: float) -> list[float]:
  return [round(to_hertz(seconds), 9)] if seconds > 0 else []

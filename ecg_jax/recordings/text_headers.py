"""What the lines above a table of numbers state: names, units, rates.

Of other lines, such as a person's name, nothing is kept.
"""

import dataclasses
import re
from collections.abc import Sequence

from ecg_jax.recordings import column_names, text_formats, text_lines, units
from ecg_jax.recordings.text_rates import Stated, rates, rates_in

_UNIT_KEY = re.compile(
  r'units?|einheit(en)?|unités?|unidad(es)?|unità|eenheid|eenheden|unidades?|'
  r'enhet(er)?|enhed(er)?|yksikkö|jednostka|jednotka|birim|egység|'
  r'единиц[аы]|единица измерения|単位|单位|單位|단위|'
  r'(ecg|voltage|amplitude|signal|data) ?units?',
  re.IGNORECASE,
)

_LEAD_KEY = re.compile(
  r'leads?|ableitung|dérivation|derivación|derivazione|afleiding|derivação|'
  r'avledning|afledning|kytkentä|odprowadzenie|svod|elvezetés|отведение|'
  r'誘導|导联|導聯|유도',
  re.IGNORECASE,
)

_OTHER_UNIT = re.compile(
  r'%|bpm|mmhg|cmh2o|k?pa|[ckm]?hz|°?c|deg\w*|g|m/s.*|l(/\w+)?|ohms?|[kµu]?ω|'
  r'µs|us|u?siemens|a\.?u\.?|no.?units?|unitless|none|n\.?a\.?|counts?|adc\w*|'
  r'cal|raw|adu|bits?|digits?|ticks?|-+|kg|n|rpm|[hms:.]+|\w*volts?\w*|lsb|nu|arb\w*|dimensionless|date|'
  r'hh:mm.*|mm:ss.*|yyyy.*',
  re.IGNORECASE,
)
"""Words in a row of units, beside those of voltage and time."""

_LABCHART = re.compile(
  r'\s*"?(range|unitname|topvalue|bottomvalue|interval|timeformat|dateformat|'
  r'exceldatetime)=',
  re.IGNORECASE,
)
"""Lines of LabChart below its names."""

_COMMENT = re.compile(r'^\s*(?:[#%!]+|//+|;+|\'+ )\s*')


@dataclasses.dataclass(frozen=True)
class Header:
  """What lines above a table state."""

  names: tuple[str, ...]
  """Of each column, '' where there is none."""
  units: tuple[Stated | None, ...]
  """str, of each column."""
  rates: tuple[Stated, ...]
  """Hz, of the whole file."""


def with_unit(name: str) -> tuple[str, str]:
  """A column's name without its unit, and the unit, '' if it has none.

  Both are there in 'ECG (mV)', 'Time [s/256]', 'ecg_uV', 'ECG, mV'.
  """
  if found := re.fullmatch(
    r'(.*?)[\s_,/-]*[\[({<]\s*([^\])}>]+)\s*[\])}>]', name
  ):
    inside = found[2].strip()
    if _is_unit(inside):
      return found[1].strip() or name, inside
    return name, ''
  found = re.fullmatch(r'(.*?)(?:,\s*|\s*/\s*|[ _.-])([^\W\d_]+)', name)
  if found and found[1]:
    base, unit = found[1].strip(), found[2]
    if ', ' in name and _is_unit(unit):
      return base, unit
    if units.to_millivolt(unit) is not None and len(unit) > 1:
      return base, unit
    if units.to_seconds(unit) and column_names.role(base) == 'time':
      return base, unit
  alone = units.to_seconds(name) and name.lower() not in ('h', 'hr')
  return name, name if alone else ''


def _is_unit(text: str) -> bool:
  return (
    units.to_millivolt(text) is not None
    or units.to_seconds(text) is not None
    or bool(_OTHER_UNIT.fullmatch(text.strip('[](){} ')))
  )


def read_header(above: Sequence[str], delimiter: str, width: int) -> Header:
  """Reads the lines above a table.

  Args:
    above: The lines.
    delimiter: Of the table.
    width: Columns of the table.
  """
  names, unit_row = _names(above, delimiter, width)
  known = text_formats.read(above, width, names)
  if known.names:
    names = tuple(
      f'{new} ({old})' if new and old and new != old else new or old
      for old, new in zip(names, known.names, strict=True)
    )
  names, own = zip(*map(with_unit, names), strict=True)
  stated: list[Stated | None] = [
    Stated(unit, f'name of column {k}') if unit else None
    for k, unit in enumerate(own)
  ]
  if unit_row is not None:
    number, row = unit_row
    stated = [
      old or (Stated(unit, f'header line {number}') if unit else None)
      for old, unit in zip(stated, row, strict=True)
    ]
  if known.units:
    pairs = zip(stated, known.units, strict=True)
    stated = [old or new for old, new in pairs]
  of_all = _unit_of_all(above)
  stated = [unit or of_all for unit in stated]
  if width == 1 and not names[0]:
    names = (_lead_of_all(above),)
  return Header(
    tuple(names),
    tuple(stated),
    known.rates or tuple(rates(above, delimiter)),
  )


def _names(
  above: Sequence[str], delimiter: str, width: int
) -> tuple[tuple[str, ...], tuple[int, tuple[str, ...]] | None]:
  """Names of the columns, and the number and fields of a row of units.

  The units are below the names, or right above them.
  """
  names, unit_row = None, None
  for number in range(len(above), 0, -1):
    line = re.sub(
      r'^\s*"?channeltitle="?', '', above[number - 1], flags=re.IGNORECASE
    )
    row = _row(line, delimiter, width)
    filled = [x for x in row or () if x]
    if not _COMMENT.sub('', line).strip() or _LABCHART.match(line):
      continue
    if row is None:
      break
    if _is_unit_row(filled, width):
      unit_row = unit_row or (number, tuple(x.strip('[]() ') for x in row))
      if names is None:
        continue
    if names is not None:
      break
    if all(text_lines.kind(x) in ('number', 'missing') for x in filled):
      continue  # Numbers of columns, counts of samples.
    if all(re.fullmatch('cal|raw|uncal', x, re.IGNORECASE) for x in filled):
      continue  # Shimmer.
    values = sum(text_lines.kind(x) in ('number', 'quantity') for x in filled)
    if filled[1:] == [str(k + 1) for k in range(len(filled) - 1)]:
      values = 0  # Names that are numbers.
    alone = width == 1 and not _is_single_name(row[0])
    if is_keyed(line) or 2 * values >= len(filled) or alone:
      break
    names = tuple(row)
  return names or ('',) * width, unit_row


def _is_unit_row(filled: Sequence[str], width: int) -> bool:
  """Whether all fields of a row are units, one of them of voltage or time."""
  return all(map(_is_unit, filled)) and any(
    units.to_millivolt(x) is not None
    or (width > 1 and units.to_seconds(x) is not None)
    for x in filled
  )


def _row(line: str, delimiter: str, width: int) -> list[str] | None:
  """Fields of a header line, one for each column, or None."""
  plain = _COMMENT.sub('', line)
  for text, signs in (
    (line, [delimiter]),
    (plain, [delimiter, ',', '\t', ' ']),  # As numpy.savetxt has it.
  ):
    for sign in signs:
      if (sign != delimiter and plain == line) or (not delimiter and sign):
        continue
      row = text_lines.split(text, sign)
      if len(row) == width:
        return row
      if len(row) == width + 1 and not row[0]:
        return row[1:]
      # LabVIEW names a column of comments that rows may lack.
      if len(row) == width + 1 and row[-1] in ('', 'Comment'):
        return row[:-1]
      if len(row) == width - 1 and width > 2:
        return ['', *row]  # R names no column of row names.
  return None


def is_keyed(line: str) -> bool:
  """Whether a line states a value for a key rather than names of columns."""
  key = re.split(r'[:=,;\t]', _COMMENT.sub('', line), maxsplit=1)[0]
  key = key.strip().strip('"\'')
  fields = [field.strip().strip('"') for field in re.split('[,;\t]', line)]
  prefixes = {field.partition(': ')[0] for field in fields}
  if len(fields) > 1 and len(prefixes) == 1 and all(': ' in x for x in fields):
    return False  # Vernier names its columns `Latest: Time (s)`.
  return bool(
    re.match(r'[^,;\t]*[^,;\t\s][:=](\s|$)', line)
    or (_UNIT_KEY.fullmatch(key) and any(map(_is_unit, fields[1:])))
    or (_LEAD_KEY.fullmatch(key) and any(map(column_names.is_ecg, fields[1:])))
    or rates_in(line, '')
  )


def _is_single_name(text: str) -> bool:
  """Whether a line above a single column is its name, not a person's."""
  plain, _ = with_unit(text)
  return bool(
    column_names.is_ecg(plain)
    or column_names.role(plain)
    or re.fullmatch(
      r'(signal|value|voltage|potential|data|amplitude|channel|ch|col|sensor|'
      r'x|y|v|val|lead|raw|adc)s?[ _]?[a-h\d]*', plain, re.IGNORECASE
    )
  )  # fmt: skip


def _unit_of_all(above: Sequence[str]) -> Stated | None:
  """The unit that one line states for all columns."""
  for number, line in enumerate(above, 1):
    key, *rest = re.split(r'[:=,;\t]', _COMMENT.sub('', line), maxsplit=1)
    if rest and _UNIT_KEY.fullmatch(key.strip().strip('"\'')):
      unit = rest[0].strip(' "\',;\t')
      if unit and not re.search(r'[,;\t]', unit):
        return Stated(unit, f'header line {number}')
  return None


def _lead_of_all(above: Sequence[str]) -> str:
  """The lead that one line states for the only column."""
  for line in above:
    key, *rest = re.split(r'[:=,;\t]', _COMMENT.sub('', line), maxsplit=1)
    if rest and _LEAD_KEY.fullmatch(key.strip().strip('"\'')):
      name = rest[0].strip(' "\',;\t')
      if len(name) < 30 and (
        _is_single_name(name) or re.search(r'\b(I{1,3}|V\d)\b', name)
      ):
        return name
  return ''

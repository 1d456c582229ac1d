"""Exports in every layout of text: read back, or refused for the right cause.

Each file is written from a known signal by a writer that knows nothing of the
reader. Reading it must give the samples within the rounding of the file, at the
rate and at the times that they were written with, or a sentence that names the
cause. Anything else is a wrong answer without a warning.
"""

import collections
import dataclasses
import json
import os

import numpy as np
import pytest

from ecg_jax.errors import InputError
from ecg_jax.recordings import lead as lead_lib

ENCODING = lead_lib.Encoding(300, 1000.0)
FULL = bool(os.environ.get('ECG_JAX_FULL_TESTS'))
FILES = 3000 if FULL else 300


def ecg(rate, seconds, rng):
  """mV: P, QRS and T waves, a wandering baseline and a little noise."""
  time = np.arange(round(rate * seconds)) / rate + rng.uniform(0, 0.8)
  phase = time % 0.8
  waves = ((0.1, 0.15, 0.025), (1.0, 0.3, 0.012), (0.25, 0.55, 0.05))
  signal = sum(a * np.exp(-(((phase - b) / c) ** 2)) for a, b, c in waves)
  wander = 0.1 * np.sin(2 * np.pi * 0.3 * time)
  return signal + wander + rng.normal(0, 0.01, len(time))


@dataclasses.dataclass
class Export:
  """A file, how it is to be opened, and what is right."""

  content: str
  right: np.ndarray
  """mV, NaN in gaps."""
  rate: float
  rounding: float
  """mV."""
  name: str = 'a.csv'
  lead: str | None = None
  states_rate: bool = False
  states_unit: bool = False
  unit: str = 'mV'
  gain: float = 4000.0
  """Counts per mV, where the unit is counts."""
  refusals: tuple[str, ...] = ()
  """Words of the refusals that are right, too."""
  encoding: str = 'utf-8'


FACTORS = {'V': 1e-3, 'mV': 1.0, 'uV': 1e3}


class Maker:
  """Draws how a file is written."""

  def __init__(self, seed):
    self.rng = rng = np.random.default_rng(seed)
    rates = [128, 130, 200, 250, 256, 300, 360, 500, 512, 1000]
    self.rate = float(rng.choice([*rates, 511.422, 130.2]))
    self.unit = self.pick('mV', 'uV', 'V')
    self.decimal = self.pick('.', ',')
    self.delimiter = self.pick('\t', ';', ',', ' ')
    if self.decimal == ',' and self.delimiter == ',':
      self.delimiter = self.pick('\t', ';')
    self.seconds = float(rng.uniform(10, 25))
    places = {'mV': (3, 4, 5), 'uV': (0, 1, 3), 'V': (6, 7)}[self.unit]
    self.places = int(rng.choice(places))
    self.signal = ecg(self.rate, self.seconds, rng)
    self.gaps = bool(rng.random() < 0.25)

  def pick(self, *options):
    return options[self.rng.integers(len(options))]

  def chance(self, share):
    return bool(self.rng.random() < share)

  def number(self, value, places=None):
    """A number of the file, in its unit."""
    places = self.places if places is None else places
    if np.isnan(value):
      return ''
    return f'{value:.{places}f}'.replace('.', self.decimal)

  @property
  def rounding(self):
    return 0.51 * 10.0**-self.places / FACTORS[self.unit] + 2e-6

  def kept_rows(self):
    """Rows that are written: all, or those outside gaps."""
    count = len(self.signal)
    if not self.gaps:
      return np.arange(count)
    first = int(self.rng.integers(count // 3, count // 2))
    length = int(self.rng.integers(int(self.rate), int(3 * self.rate)))
    rows = np.arange(count)
    return rows[(rows < first) | (rows >= first + length)]

  def right(self, rows):
    """The samples, NaN where no row is written."""
    right = np.full(len(self.signal), np.nan)
    right[rows] = self.signal[rows]
    return right

  def preamble(self):
    """Header text of 0 to 200 kB, of persons, devices and free words."""
    size = self.pick(0, 0, 200, 3_000, 65_536, 200_000)
    lines, length = [], 0
    while length < size:
      line = self.pick(
        'Patient: Jane Doe', 'Date of birth: 02.01.1970', 'Notch: 50 Hz',
        'Filter,0.5-40 Hz', 'Comment: recorded at rest, 25 degrees',
        'Device;X7;serial 12345', 'Heart rate: 72 bpm', '-' * 40,
        'Battery 87 %', 'Number of samples: 5120', 'Version 1.2.3',
        'Recorded 2024-05-06 07:08:09', 'Gain\t12', 'x' * 300,
      )  # fmt: skip
      prefix = (
        self.pick('', '# ') if not lines else lines[0][:2] == '# ' and '# '
      )
      line = f'{prefix or ""}{line}'
      lines.append(line)
      length += len(line) + 1
    return lines


def table(maker, columns, names, rows, *, units=None):
  """Header rows and rows of text: columns are functions of a row number."""
  sign = maker.delimiter
  lines = []
  if names:
    quoted = maker.chance(0.2) and sign != ' '
    lines.append(sign.join(f'"{x}"' if quoted else x for x in names))
  if units:
    lines.append(sign.join(units))
  return lines + [sign.join(column(k) for column in columns) for k in rows]


def time_column(maker, unit, rows_of):
  """Text of the time of a row."""
  per = {'s': 1.0, 'ms': 1e3, 'us': 1e6, 'ns': 1e9}[unit]
  places = {'s': 6, 'ms': 3, 'us': 0, 'ns': 0}[unit]
  start = maker.pick(0.0, 12.5, 3600.0)
  return lambda k: maker.number((start + k / maker.rate) * per, places)


def clock_column(maker, form):
  """Text of the time of day of a row."""
  start = maker.pick(8 * 3600, 86_400 - 5)

  def text(k):
    time = (start + k / maker.rate) % 86_400
    hours, minutes, seconds = time // 3600, time // 60 % 60, time % 60
    point = '.' if form != 'comma' else ','
    day = '2026-01-02 ' if form == 'date' and start < 80_000 else ''
    return f'{day}{hours:02.0f}:{minutes:02.0f}:{seconds:09.6f}'.replace(
      '.', point
    )

  return text


def plain_table(maker):
  """Columns with names: a time or none, leads, others."""
  rows = maker.kept_rows()
  scale = FACTORS[maker.unit]
  lead = maker.pick(
    'ECG', 'ecg', 'EKG', 'Lead I', 'II', 'MLII', 'V5', 'ecg_raw'
  )
  value = lambda k: maker.number(maker.signal[k] * scale)  # noqa: E731
  in_name = maker.pick('', '', ' (%s)', ' [%s]', '_%s', '/%s')
  if maker.delimiter == ' ':
    in_name = in_name.strip().replace('(%s)', '').replace('[%s]', '')
    lead = lead.replace(' ', '_')
  unit = maker.pick('uV', 'µV', 'μV') if maker.unit == 'uV' else maker.unit
  if unit == 'V' and in_name in ('_%s', '/%s'):
    in_name = ''
  columns, names, units, states = [], [], [], False
  kind = maker.pick('none', 'time', 'clock', 'index', 'time', 'unnamed index')
  time_unit = maker.pick('s', 'ms', 'us', 'ns')
  if kind == 'time':
    columns.append(time_column(maker, time_unit, rows))
    names.append(maker.pick('time', 'Time', f'Time ({time_unit})',
                            f'time_{time_unit}', 't', 'timestamp'))  # fmt: skip
    if maker.delimiter == ' ':
      names[-1] = names[-1].replace(' (', '_').replace(')', '')
    units.append(time_unit)
    # A step of one may be a row.
    alone = time_unit == 'ms' and maker.rate == 1000
    states = not alone or time_unit in names[-1]
  elif kind == 'clock' and maker.delimiter != ' ':
    columns.append(clock_column(maker, maker.pick('plain', 'date')))
    names.append(maker.pick('Time', 'timestamp', 'Date and time'))
    units.append('hh:mm:ss')
    states = True
  elif 'index' in kind:
    columns.append(lambda k: str(k))
    names.append('' if 'unnamed' in kind else maker.pick('sample', 'index'))
    if maker.delimiter == ' ':
      names[-1] = 'row'
    units.append('')
  elif maker.gaps:
    maker.gaps = False
    rows = np.arange(len(maker.signal))
  own = in_name % unit if in_name else ''
  columns.append(value)
  names.append(lead + own)
  units.append(unit)
  for _ in range(maker.pick(0, 0, 1, 3)):
    other = maker.pick('HR', 'Resp', 'SpO2', 'marker', 'Accel X', 'label')
    other = other.replace(' ', '_') if maker.delimiter == ' ' else other
    texts = {
      'HR': lambda k: str(60 + k // 500),
      'marker': lambda k: str(int(k % 700 == 3)),
      'label': lambda k: 'NA'[k // 1000 % 2],
    }
    wave = lambda k: maker.number(np.sin(k / 80), 3)  # noqa: E731
    columns.append(texts.get(other, wave))
    names.append(other)
    units.append('')
  row_of_units = not own and maker.delimiter not in ' ' and maker.chance(0.3)
  if '' in units and maker.chance(0.5):
    units = [x or '-' for x in units]
  lines = maker.preamble() + table(
    maker, columns, names, rows, units=units if row_of_units else None
  )
  return Export(
    '\n'.join(lines) + '\n',
    maker.right(rows),
    maker.rate,
    maker.rounding,
    states_rate=states,
    states_unit=bool(own or row_of_units),
    unit=maker.unit,
    lead=maker.pick(None, lead),
  )


def bare_table(maker):
  """Numbers only: one column, or a time and one."""
  scale = FACTORS[maker.unit]
  timed = maker.chance(0.5)
  maker.gaps &= timed
  rows = maker.kept_rows()
  value = lambda k: maker.number(maker.signal[k] * scale)  # noqa: E731
  columns = [value]
  if timed:
    columns.insert(0, time_column(maker, 's', rows))
  lines = maker.preamble() + table(maker, columns, None, rows)
  return Export(
    '\n'.join(lines) + '\n',
    maker.right(rows),
    maker.rate,
    maker.rounding,
    states_rate=False,
    unit=maker.unit,
    name=maker.pick('a.csv', 'a.txt', 'a.tsv'),
    # Two columns of integers look the same as decimals with a comma.
    refusals=('comma',) if maker.delimiter == ',' and timed else (),
  )


APPLE = (
  ('Name', 'Date of Birth', 'Recorded Date', 'Classification', 'Device',
   'Sample Rate', 'hertz', 'Lead', 'Lead I', 'Unit'),
  ('Name', 'Geburtsdatum', 'Aufnahmedatum', 'Klassifizierung', 'Gerät',
   'Messrate', 'Hertz', 'Ableitung', 'Ableitung I', 'Einheit'),
  ('Nom', 'Date de naissance', 'Date d’enregistrement', 'Classification',
   'Appareil', 'Fréquence d’échantillonnage', 'hertz', 'Dérivation',
   'Dérivation I', 'Unité'),
  ('Nombre', 'Fecha de nacimiento', 'Fecha de registro', 'Clasificación',
   'Dispositivo', 'Frecuencia de muestreo', 'hercios', 'Derivación',
   'Derivación I', 'Unidad'),
  ('Nome', 'Data di nascita', 'Data di registrazione', 'Classificazione',
   'Dispositivo', 'Frequenza di campionamento', 'hertz', 'Derivazione',
   'Derivazione I', 'Unità'),
  ('Naam', 'Geboortedatum', 'Registratiedatum', 'Classificatie', 'Apparaat',
   'Bemonsteringsfrequentie', 'hertz', 'Afleiding', 'Afleiding I', 'Eenheid'),
  ('名前', '生年月日', '記録日', '分類', 'デバイス', 'サンプルレート', 'ヘルツ',
   '誘導', '誘導I', '単位'),
)  # fmt: skip


def apple_watch(maker):
  words = maker.pick(*APPLE)
  name, birth, recorded, label, device, sampling, hertz, lead, one, unit = words
  maker.unit, maker.places, maker.gaps = 'uV', maker.pick(0, 3, 3), False
  rate = maker.number(maker.rate, 3 if maker.rate % 1 else 0)
  minus = maker.pick('-', '-', '\u2212')
  head = [
    f'{name},Jane Doe', f'{birth},"Jan 2, 1970"',
    f'{recorded},2026-03-14 09:15:00 +0100', f'{label},Sinus', 'Symptoms,',
    f'{device},"Watch6,7"', f'{sampling},{rate} {hertz}', '', '',
    f'{lead},{one}', f'{unit},µV', '',
  ]  # fmt: skip
  rows = np.arange(len(maker.signal))
  body = [maker.number(maker.signal[k] * 1e3).replace('-', minus) for k in rows]
  return Export(
    '\n'.join(head + body) + '\n',
    maker.signal,
    maker.rate,
    maker.rounding,
    name='ecg.csv',
    states_rate=True,
    states_unit=True,
    unit='uV',
  )


def opensignals(maker):
  maker.gaps = False
  rate = int(maker.rate)
  maker.rate = float(rate)
  maker.signal = ecg(rate, maker.seconds, maker.rng)
  header = {
    '00:07:80:79:6F:DB': {
      'sensor': ['ECG', 'EDA'], 'device name': '00:07:80:79:6F:DB',
      'column': ['nSeq', 'DI', 'CH1', 'CH2'], 'sync interval': 2,
      'time': '10:29:43.249', 'comments': '', 'channels': [1, 2],
      'date': '2018-7-5', 'digital IO': [0, 1], 'firmware version': 773,
      'sampling rate': rate, 'label': ['CH1', 'CH2'], 'resolution': [16, 16],
    }
  }  # fmt: skip
  lines = ['# OpenSignals Text File Format. Version 1',
           f'# {json.dumps(header)}', '# EndOfHeader']  # fmt: skip
  counts = np.rint(maker.signal * 4000 + 32768)
  period = maker.pick(16, 65536)
  lines += [f'{k % period}\t0\t{int(v)}\t15000\t' for k, v in enumerate(counts)]
  return Export(
    '\n'.join(lines) + '\n',
    maker.signal + 32768 / 4000,
    maker.rate,
    0.51 / 4000,
    name='opensignals.txt',
    states_rate=True,
    unit='counts',
    lead=maker.pick(None, 'ECG', 'CH1'),
  )


def labchart(maker):
  maker.delimiter, maker.places = '\t', maker.pick(5, 6)
  maker.unit = 'mV'
  rows = maker.kept_rows()
  decimal = maker.decimal
  seconds = f'{1 / maker.rate:.9g}'.replace('.', decimal)
  head = [f'Interval=\t{seconds} s', 'ExcelDateTime=\t4.57e+004\t01/05/2025',
          'TimeFormat=\tStartOfBlock', 'DateFormat=\t',
          'ChannelTitle=\tECG\tHR',
          'Range=\t10.000 mV\t200.0 bpm'.replace('.', decimal)]  # fmt: skip
  time = time_column(maker, 's', rows)
  body = [
    f'{time(k)}\t{maker.number(maker.signal[k])}\t60'
    + ('\t#1 stimulus' if n == 100 and maker.chance(0.5) else '')
    for n, k in enumerate(rows)
  ]
  return Export(
    '\n'.join(head + body) + '\n',
    maker.right(rows),
    maker.rate,
    maker.rounding,
    name='labchart.txt',
    states_rate=True,
    states_unit=True,
    lead=maker.pick(None, 'ECG'),
  )


def acqknowledge(maker):
  maker.unit, maker.places, maker.decimal = 'mV', 5, '.'
  maker.gaps = False
  count, sign = len(maker.signal), maker.pick('\t', ',')
  timed = maker.pick('sec', 'milliSec', 'min', None)
  end = maker.pick('', sign)
  head = ['rest.acq', f'{1000 / maker.rate:.9g} msec/sample', '2 channels',
          'ECG - ECG100C', 'mV', 'RSP', 'Volts']  # fmt: skip
  names = ['CH1', 'CH2']
  counts = [str(count)] * 2
  per = {'sec': 1.0, 'milliSec': 1e3, 'min': 1 / 60, None: 0.0}[timed]
  if timed:
    names, counts = [timed, *names], ['', *counts]
  head += [sign.join(names) + end, sign.join(counts) + end]
  places = {'sec': 6, 'milliSec': 3, 'min': 9, None: 0}[timed]
  body = [
    (f'{k / maker.rate * per:.{places}f}{sign}' if timed else '')
    + f'{v:.5f}{sign}{np.sin(k / 99):.4f}{end}'
    for k, v in enumerate(maker.signal)
  ]
  return Export(
    '\n'.join(head + body) + '\n',
    maker.signal,
    maker.rate,
    maker.rounding,
    name='rest.txt',
    states_rate=True,
    states_unit=True,
    lead=maker.pick(None, 'CH1'),
  )


def openbci(maker):
  maker.unit, maker.places, maker.gaps = 'uV', 4, False
  maker.decimal = '.'
  start = 1.7e9
  head = [
    '%OpenBCI Raw EXG Data', '%Number of channels = 2',
    f'%Sample Rate = {maker.rate:g} Hz', '%Board = OpenBCI_GUI$BoardCyton',
    'Sample Index, EXG Channel 0, EXG Channel 1, Accel Channel 0, Other,'
    ' Timestamp, Timestamp (Formatted)',
  ]  # fmt: skip
  arrival = maker.chance(0.5)  # Packets of ten share their time.
  body = []
  for k, v in enumerate(maker.signal):
    time = (k // 10 * 10 if arrival else k) / maker.rate
    body.append(
      f'{k % 256}.0, {v * 1e3:.4f}, 12.5, {np.sin(k / 50):.3f}, 0.0,'
      f' {start + time:.6f}, 2026-01-01 08:00:{time:09.6f}'
    )
  return Export(
    '\n'.join(head + body) + '\n',
    maker.signal,
    maker.rate,
    maker.rounding,
    name='OpenBCI-RAW.txt',
    states_rate=True,
    states_unit=True,
    unit='uV',
    lead=maker.pick('1', 'EXG Channel 0'),
  )


def polar(maker):
  maker.unit, maker.places, maker.rate, maker.gaps = 'uV', 0, 130.0, False
  maker.signal = ecg(130, maker.seconds, maker.rng)
  head = ['Phone timestamp;sensor timestamp [ns];timestamp [ms];ecg [uV]']
  body = []
  for k, v in enumerate(maker.signal):
    phone = k // 73 * 73 / 130 + 0.04
    body.append(
      f'2026-01-01T08:00:{phone:06.3f};{599616876_000 + k * 1e9 / 130:.0f};'
      f'{k * 1e3 / 130:.2f};{v * 1e3:.0f}'
    )
  return Export(
    '\n'.join(head + body) + '\n',
    maker.signal,
    130.0,
    maker.rounding,
    name='polar.txt',
    states_rate=True,
    states_unit=True,
    unit='uV',
  )


def shimmer(maker):
  maker.unit, maker.places = 'mV', 6
  rows = maker.kept_rows()
  sign = maker.pick('\t', ',')
  maker.decimal = '.'
  head = [
    f'sep={sign}',
    sign.join(['Shimmer_5E8F_Timestamp_Unix_CAL',
               'Shimmer_5E8F_ECG_LL-RA_24BIT_CAL',
               'Shimmer_5E8F_Battery_CAL']),
    sign.join(['CAL', 'CAL', 'CAL']),
    sign.join(['ms', 'mV', 'mV']),
  ]  # fmt: skip
  if maker.chance(0.5):
    del head[2]
  body = [
    f'{1.7e12 + k * 1e3 / maker.rate:.4f}{sign}{maker.signal[k]:.6f}{sign}'
    f'{3700 + np.sin(k / 300):.2f}'
    for k in rows
  ]
  return Export(
    '\n'.join(head + body) + '\n',
    maker.right(rows),
    maker.rate,
    maker.rounding,
    name='shimmer.csv',
    states_rate=True,
    states_unit=True,
  )


def mindware(maker):
  maker.unit, maker.places, maker.decimal = 'mV', 4, '.'
  maker.gaps = False
  head = [f'Sample Rate:\t{maker.rate}', 'Time (s)\tECG (mV)\tdZ/dt']
  body = [
    f'{k / maker.rate:.6f}\t{v:.4f}\t{np.cos(k / 70):.4f}'
    for k, v in enumerate(maker.signal)
  ]
  return Export(
    '\n'.join(head + body) + '\n',
    maker.signal,
    maker.rate,
    maker.rounding,
    name='mindware.txt',
    states_rate=True,
    states_unit=True,
  )


def physionet(maker):
  maker.unit, maker.places, maker.decimal = 'mV', 3, '.'
  rows = maker.kept_rows()
  lines = ["'Elapsed time','MLII','V5'", "'hh:mm:ss.mmm','mV','mV'"]
  for k in rows:
    time = k / maker.rate
    lines.append(
      f"'{time // 60:.0f}:{time % 60:06.3f}',{maker.signal[k]:.3f},-0.065"
    )
  return Export(
    '\n'.join(lines) + '\n',
    maker.right(rows),
    maker.rate,
    maker.rounding,
    states_rate=True,
    states_unit=True,
  )


def pandas_frame(maker):
  """DataFrame.to_csv: an index with or without gaps, names that are numbers."""
  rows = maker.kept_rows()
  maker.unit = 'mV'
  named = maker.chance(0.5)
  lines = [',ecg' if named else ',0']
  lines += [f'{k},{float(maker.signal[k])!r}' for k in rows]
  return Export(
    '\n'.join(lines) + '\n',
    maker.right(rows),
    maker.rate,
    2e-6,
    unit='mV',
  )


def matlab(maker):
  """A matrix of leads without names; the lead is asked for by its number."""
  maker.gaps = False
  scale = FACTORS[maker.unit]
  lines = maker.preamble() + [
    maker.delimiter.join(
      maker.number(v) for v in (x * scale, -x * scale, x * scale / 2)
    )
    for x in maker.signal
  ]
  return Export(
    '\n'.join(lines) + '\n',
    maker.signal,
    maker.rate,
    maker.rounding,
    unit=maker.unit,
    lead='0',
    refusals=('comma',) if maker.delimiter == ',' else (),
  )


def ambiguous(maker):
  """Numbers with little that says how they are written, or nothing."""
  rng, sign = maker.rng, maker.pick(',', ',', ';', '\t', ' ')
  decimal = maker.pick('.', ',')
  counts = maker.chance(0.4)
  per_millivolt = float(maker.pick(20, 100, 409.6, 1000)) if counts else 1.0
  offset = float(maker.pick(0, 0, 512, 2048) if counts else maker.pick(0, 5))
  zeroed = not offset and maker.chance(0.5)
  places = int(rng.integers(1, 6))
  number = (
    (lambda v: f'{v:.0f}')
    if counts
    else maker.pick(
      lambda v: f'{v:.{places}f}', lambda v: f'{v:.{places + 1}g}',
      lambda v: repr(round(float(v), places + 1)), lambda v: f'{v:.{places}e}',
    )
  )  # fmt: skip
  first = maker.signal - maker.signal[0] * zeroed
  leads = [first, -first / 2, np.roll(first, 40)][: maker.pick(1, 1, 2, 3)]
  columns = [[number(v * per_millivolt + offset) for v in x] for x in leads]
  step, start = 1 / maker.rate, maker.pick(0, 1, 7, 1000)
  before = maker.pick(
    None, None, lambda k: f'{k + start}', lambda k: f'{k * step:.3f}',
    lambda k: f'{(start + k) * step:.9g}', lambda k: '1',
    lambda k: f'{1000 * k * step:.0f}', lambda k: f'{k % 250}',
    lambda k: f'{k * step:.4f} s', lambda k: f'{k * step // 60:.0f}:'
    f'{k * step % 60:06.3f}',
  )  # fmt: skip
  if before:
    columns.insert(0, [before(k) for k in range(len(first))])
  if maker.chance(0.3):
    columns.append([str(int(k % 640 == 9)) for k in range(len(first))])
  quoted = maker.pick('', '', '"') if sign != ' ' else ''
  rows = [
    sign.join(f'{quoted}{x.replace(".", decimal)}{quoted}' for x in row)
    for row in zip(*columns, strict=True)
  ]
  width = len(columns)
  head = []
  if maker.chance(0.5):
    first_number = maker.pick(0, 1)
    head = [sign.join(str(k + first_number) for k in range(width))]
    # A single number, or one that the first row goes on from, may be a sample.
    begin = float(columns[0][0].partition(' ')[0].partition(':')[0])
    goes_on = 0 < begin - first_number <= 1
    if width == 1 or goes_on or maker.chance(0.4):
      head = [sign.join(f'c{k}' for k in range(width))]
  written = np.array([*map(float, columns[before is not None])])
  return Export(
    '\n'.join([*head, *rows]) + '\n',
    written / per_millivolt,
    maker.rate,
    2e-6 + 1e-7 * abs(written).max() / per_millivolt,
    name=maker.pick('a.csv', 'a.txt'),
    lead=maker.pick(*3 * (str(int(before is not None)),), None),
    unit='counts' if counts else 'mV',
    gain=per_millivolt,
    refusals=('',),
  )


WRITERS = (
  plain_table, plain_table, plain_table, bare_table, apple_watch, opensignals,
  labchart, acqknowledge, openbci, polar, shimmer, mindware, physionet,
  pandas_frame, matlab, ambiguous, ambiguous, ambiguous,
)  # fmt: skip


def write(maker, export, path):
  """Writes the text in an encoding and with ends of lines of its own."""
  text = export.content
  codec = maker.pick('utf-8', 'utf-8', 'utf-8-sig', 'utf-16', 'latin-1',
                     'utf-16-le', 'cp1252')  # fmt: skip
  try:
    text.encode(codec)
  except UnicodeEncodeError:
    codec = 'utf-8'
  end = maker.pick('\n', '\n', '\r\n', '\r', '\r\r\n')
  text = text.replace('\n', end)
  if maker.chance(0.1):
    text = text.rstrip('\r\n')
  path.write_bytes(text.encode(codec))
  return codec, end


def outcome(path, export, give):
  """'read', or 'refused'; raises AssertionError where it is wrong."""
  options = {'lead': export.lead}
  if give or not export.states_rate:
    options['sampling_rate'] = export.rate
  if export.unit == 'counts':
    options['gain'] = export.gain
  elif give or not export.states_unit:
    options['units'] = export.unit
  try:
    recording = lead_lib.open_recording(path, ENCODING, **options)
    found = recording.millivolt(0, recording.num_samples).astype(float)
  except InputError as error:
    message = str(error)
    assert any(words in message for words in export.refusals), message
    return 'refused'
  assert abs(recording.sampling_rate / export.rate - 1) < 1e-3
  assert len(found) == len(export.right), (len(found), len(export.right))
  missing = np.isnan(export.right)
  np.testing.assert_array_equal(np.isnan(found), missing)
  far = np.abs(found - export.right)[~missing].max()
  assert far <= export.rounding, far
  return 'read'


def describe(maker, writer, codec, end):
  kept = {k: v for k, v in vars(maker).items() if k not in ('rng', 'signal')}
  return f'{writer.__name__} {kept} {codec} {end!r}'


@pytest.mark.parametrize('part', range(10))
def test_exports_are_read_back_or_refused(tmp_path, part):
  counts = collections.Counter()
  for seed in range(part, FILES, 10):
    maker = Maker(seed)
    writer = WRITERS[maker.rng.integers(len(WRITERS))]
    export = writer(maker)
    path = tmp_path / export.name
    codec, end = write(maker, export, path)
    give = maker.chance(0.3)
    try:
      counts[outcome(path, export, give)] += 1
    except AssertionError as error:
      raise AssertionError(
        f'seed {seed}: {describe(maker, writer, codec, end)}:'
        f' {export.content[:300]!r}: {error}'
      ) from error
    path.unlink()
  print(dict(counts))
  assert counts['read'] >= 0.85 * counts.total()

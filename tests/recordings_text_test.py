"""Tables of numbers: layouts, headers, clocks, and what is refused."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ecg_jax.errors import InputError
from ecg_jax.recordings import formats
from tests.exports_test import ecg
from tests.recording_files import open_recording

RATE = 500.0
ECG = ecg(RATE, 6, np.random.default_rng(0))
COUNT = len(ECG)
GAP = range(1200, 1700)
WITH_GAP = np.where(np.isin(np.arange(COUNT), GAP), np.nan, ECG)


def comma(text):
  """A decimal comma in place of the point."""
  return text.replace('.', ',')


def write(folder, head, row, rows=range(COUNT), name='a.csv', **encoding):
  """Writes lines above a table, and the row of each sample."""
  lines = [head, *(row(k, ECG[k]) for k in rows)]
  path = folder / name
  text = '\n'.join(lines[not head :]) + '\n'
  path.write_text(text, newline='', **encoding or {'encoding': 'utf-8'})
  return path


def check(path, right=ECG, tolerance=1e-3, rate=RATE, **options):
  """Reads a file and compares it; returns the recording."""
  recording = open_recording(path, **options)
  assert abs(recording.sampling_rate / rate - 1) < 1e-4
  found = recording.millivolt(0, recording.num_samples)
  assert_allclose(found, right, atol=tolerance)
  return recording


@pytest.mark.parametrize(
  ('text', 'lead', 'expected'),
  [
    ('1\n2\n3\n', None, [1, 2, 3]),
    ('\ufeffecg\r\n1\r\n2\r\n', None, [1, 2]),
    ('time,ecg\n0.1,5\n0.2,\n0.3,7\n', None, [5, np.nan, 7]),
    ('a;b\n1,5;2,5\n3,5;4,5\n', 'b', [2.5, 4.5]),
    ('0.0 7\n0.1 8\n', '1', [7, 8]),
    ('0\t7\n1\t8\n\n', '1', [7, 8]),
    ('# by me, 2020\nLead 1\n1\n2\n', None, [1, 2]),
    ('Age,35\n\n0:00.0  7\n0:00.1  8\n', '1', [7, 8]),
    ("'Elapsed time','MLII'\n'mm:ss','mV'\n'0:00',-0.5\n", None, [-0.5]),
    ('Name,Ann\nSample Rate,512 hertz\n\n\n-3.5\n4e2\nnan\n', None,
     [-3.5, 400, np.nan]),
    ('1\n\n3\n  \n5\n\n \n', None, [1, np.nan, 3, np.nan, 5]),
    ('1\r\n\r\n3\r\n\r\n', None, [1, np.nan, 3]),
    ('t,ecg\n0,1\n\n1,2\n\n', None, [1, np.nan, 2]),
    ('0 1\n\n1 2\n', '1', [1, np.nan, 2]),
    ('1\n' + '\n' * 9, None, [1]),
    ('ECG export,v1\nx,y\n\n1,2\n3,4\n', 'y', [2, 4]),
    ('Patient,V2\ntime,II\n1,2\n3,4\n', 'II', [2, 4]),
    ('time,II\ns,[mV]\n1,2\n3,4\n', 'II', [2, 4]),
    ('t;ecg\n0;0\n0,5;-0,25\n1;1\n', None, [0, -0.25, 1]),
    ('t;ecg\n0;0\n0.5;-0.25\n', None, [0, -0.25]),
    ('Page 1\fof 1\ntime,ecg\n1,2\n3,4\n', None, [2, 4]),
    ('Ann\u2028V2\nII\n2\n4\n', None, [2, 4]),
    ('time,ecg\r\n1,2\r\n3,4\r\n\f\r\n', None, [2, 4]),
    ('1\r2\r\r', None, [1, 2]),
  ],
)  # fmt: skip
def test_texts(tmp_path, text, lead, expected):
  path = tmp_path / 'a.txt'
  path.write_text(text, encoding='utf-8', newline='')
  recording = open_recording(path, lead=lead, sampling_rate=300, units='mV')
  assert_allclose(recording.millivolt(0, recording.num_samples), expected)


@pytest.mark.parametrize(
  ('head', 'row', 'units'),
  [
    # The first samples are whole numbers.
    ('t;ecg', lambda k, v: f'{2 * k};'
     + (str(round(1000 * v)) if k < 60 else comma(f'{1000 * v:.1f}')), 'uV'),
    ('', lambda k, v: str(round(1000 * v)) if k < 60 else (
      comma(f'{1000 * v:.1f}')), 'uV'),
    ('EKG', lambda k, v: comma(f'{1000 * v:.3f}'), 'uV'),
    ('EKG', lambda k, v: comma(f'{v:.4f}'), 'mV'),
    ('EKG\t', lambda k, v: comma(f'{v:.4f}\t'), 'mV'),
    ('', lambda k, v: comma(f'{v / 1000:.6e}'), 'V'),
    ('', lambda k, v: f'"{comma(f"{v:.4f}")}"', 'mV'),
    ('t ecg', lambda k, v: comma(f'{k / 500:.3f} {v:.4f}'), 'mV'),
    # Groups of digits look like thousands.
    ('', lambda k, v: comma(f'{k / 500:.3f} {1000 * v:.3f}'), 'uV'),
    ('"t","ecg"', lambda k, v: '"{}","{}"'.format(
      comma(f'{k / 500:.3f}'), comma(f'{v:.4f}')), 'mV'),
    ('"Time, s","ECG, mV"', lambda k, v: f'{k / 500:.3f},{v:.4f}', 'mV'),
    ('t|ecg', lambda k, v: f'{k / 500:.3f}|{v:.4f}', 'mV'),
    ('t , ecg ', lambda k, v: f' {k / 500:9.3f} , {v:9.4f} ', 'mV'),
    ('sep=;\nt;ecg', lambda k, v: f'{k / 500:.3f};{v:.4f}', 'mV'),
    # Words in other columns, some with digits.
    ('t,ecg,label', lambda k, v: f'{k / 500:.3f},{v:.4f},N', 'mV'),
    ('t,ecg,event', lambda k, v: f'{k / 500:.3f},{v:.4f},'
     + ('rest 1' if k < 3 else ''), 'mV'),
    ('ecg label', lambda k, v: comma(f'{v:.4f} N{k % 3}'), 'mV'),
    # Signs and digits of other regions.
    ('ECG', lambda k, v: f'{v:.4f}'.replace('-', '−'), 'mV'),
    ('ECG', lambda k, v: f'{v:.4f}'.translate(
      {46: 0x66B} | {48 + x: 0x660 + x for x in range(10)}), 'mV'),
    ('t;ecg', lambda k, v: f'{k};{1000 * v + 5000:,.2f}'.translate(
      {44: '.', 46: ','}), '5'),
    ('t,ecg', lambda k, v: f'{k},"{1000 * v + 5000:,.2f}"', '5'),
    ('t;ecg', lambda k, v: f'{k};{1000 * v + 5000:,.2f}'.replace(',', "'"),
     '5'),
    ('t;ecg', lambda k, v: comma(f'{k};{1000 * v + 5000:,.2f}'.replace(
      ',', '\u202f')), '5'),
  ],
)  # fmt: skip
def test_marks_are_taken_from_all_rows(tmp_path, head, row, units):
  """Kind: delimiter, decimal mark or groups judged by one line."""
  offset = 5.0 * (units == '5')
  units = 'uV' if offset else units
  path = write(tmp_path, head, row)
  check(path, ECG + offset, units=units, sampling_rate=RATE)


@pytest.mark.parametrize(
  ('head', 'row', 'words'),
  [
    ('t,ecg', lambda k, v: comma(f'{k / 500:.3f}') + comma(f',{v:.4f}'),
     'a comma both as decimal mark and between columns'),
    ('ecg', lambda k, v: f'{round(1000 * v + 3000):,}', 'may be thousands'),
    ('t;ecg', lambda k, v: f'{k};{round(1000 * v + 900):,}'.replace(',', '.'),
     'decimals or thousands'),
    ('t;ecg', lambda k, v: f'{k / 500:.3f};{comma(f"{v:.4f}")}',
     'different decimal marks'),
    ('', lambda k, v: f'{round(50 * v + 512)},{round(50 * v + 400)}',
     'may be a decimal mark or delimit two columns'),
    ('t,ecg', lambda k, v: '***,##' if k == 30 else f'{k / 500:.3f},{v:.4f}',
     r"Line 32 of .* has '\*\*\*,##' where"),
    ('t,ecg', lambda k, v: 'pause' if k == 900 else f'{k / 500:.3f},{v:.4f}',
     "Line 902 of .* has 'pause' where"),
    ('t,ecg', lambda k, v: f'{k / 500:.3f},{v:.4f}' + ',1' * (k == 900),
     'Line 902 of .* has 3 columns, not 2'),
    ('t,ecg', lambda k, v: 'End' if k == COUNT - 1 else f'{k / 500:.3f},{v}',
     f"Line {COUNT + 1} of .* has 'End' where"),
    ('t ecg b', lambda k, v: f'{k / 500:.3f} {v:.4f}' + ' 1' * (k != 900),
     'Line 902 of .* has 2 columns, not 3'),
    ('', lambda k, v: '1,2,3' if k < 400 else f'{k / 500:.3f},{v:.4f}',
     r"Line 50 of .* has 3 columns, not 2 \('1,2,3'\)"),
    ('1\t2\n3\t4\n[Data]', lambda k, v: f'{k / 500:.3f}\t{v:.4f}',
     r"Line 3 of .* has '\[Data\]' where"),
    ('', lambda k, v: f'{k / 500:.3f}', 'no ECG but time'),
    ('', lambda k, v: f'{k}', 'no ECG but row number'),
  ],
)  # fmt: skip
def test_what_cannot_be_known_is_refused(tmp_path, head, row, words):
  path = write(tmp_path, head, row)
  lead = '0' if 'no ECG' in words else None
  with pytest.raises(InputError, match=words):
    check(path, units='mV', sampling_rate=RATE, lead=lead)


@pytest.mark.parametrize('length', [0, 65_536, 200_000, 1_500_000])
@pytest.mark.parametrize(
  'line', ['Patient: Jane Doe', '# note 3, value 7', 'gain,12', 'x' * 5000]
)
def test_a_header_may_have_any_length(tmp_path, length, line):
  """Kind: a header cut off at a buffer, half a line of which is data."""
  lines = [line] * (length // len(line)) + ['time,ecg,label']
  path = write(tmp_path, '\n'.join(lines), lambda k, v: f'{k / 500},{v:.4f},N')
  recording = check(path, units='mV')
  assert recording.lead == 'ecg'


@pytest.mark.parametrize(
  ('head', 'row'),
  [
    ('500', lambda k, v: f'{v:.4f}'),
    ('500\n3000', lambda k, v: f'{v:.4f}'),
    ('0,1,2', lambda k, v: f'{k / 500:.3f},{v:.4f},{-v:.4f}'),
    ('1\t2', lambda k, v: f'{k / 500:.3f}\t{v:.4f}'),
    (',0', lambda k, v: f'{k},{v:.4f}'),
    (',0,1', lambda k, v: f'{k},{v:.4f},{-v:.4f}'),
    ('CH1\tCH2\n3000\t3000', lambda k, v: f'{v:.4f}\t{-v:.4f}'),
    ('sec,CH1,CH2,\n,3000,3000,', lambda k, v: f'{k / 500:.3f},{v:.4f},0.1,'),
    ('Sample Rate:\t500.0\nTime (s)\tECG', lambda k, v: f'{k / 500}\t{v:.4f}'),
    ("'sample #','MLII'", lambda k, v: f'{k},{v:.4f}'),
    ('', lambda k, v: f'{k % 256},{v:.4f}'),
    ('timestamp,ecg', lambda k, v: f'{1.7e9 + k / 500:.3f},{v:.4f}'),
    ('ts,ecg', lambda k, v: f'{17 * 10**17 + k * 2_000_000},{v:.4f}'),
    (',timestamp,ecg', lambda k, v: f'{k},2026-01-01 8:00:{k / 500:06.3f},{v}'),
    ('time,ecg', lambda k, v: f'{k},{v:.4f}'),
  ],
)  # fmt: skip
def test_counts_rates_and_clocks_are_no_samples(tmp_path, head, row):
  """Kind: what stands above or beside the samples, taken for them."""
  path = write(tmp_path, head, row)
  lead = 'CH1' if 'CH1' in head else '1' if '-' in row(1, 1.0) else None
  lead = None if 'timestamp' in head else lead
  check(path, units='mV', sampling_rate=RATE, lead=lead)


@pytest.mark.parametrize('form', ['{:g}', '{:.5g}', '{:.15g}', '{:.3g} '])
@pytest.mark.parametrize('offset', [0, 1e-3, 1e-2])
@pytest.mark.parametrize('zeros', [1, 2, 5])
def test_a_first_sample_may_be_written_as_0(tmp_path, form, offset, zeros):
  """Kind: a first row taken for a header, or a header for a sample."""
  right = np.where(np.arange(COUNT) < zeros, 0.0, ECG - ECG[zeros] + offset)
  lines = [form.format(v) for v in right]
  path = write(tmp_path, '', lambda k, v: lines[k])
  check(path, right, tolerance=0.006, units='mV', sampling_rate=RATE)
  path = write(tmp_path, '', lambda k, v: f'{lines[k].strip()}\t{lines[-k]}')
  check(path, right, tolerance=0.006, units='mV', sampling_rate=RATE, lead='0')


@pytest.mark.parametrize('form', ['{:.4f}', '{!r}', '{:.6e}', '{:.2f}'])
@pytest.mark.parametrize('head', ['0', '500', '3000', '0\n500', '500\n3000'])
def test_a_number_above_samples_with_decimals_is_no_sample(
  tmp_path, form, head
):
  path = write(tmp_path, head, lambda k, v: form.format(float(v - ECG[0])))
  check(path, ECG - ECG[0], tolerance=0.006, units='mV', sampling_rate=RATE)


def test_a_first_row_may_lack_its_last_fields(tmp_path):
  path = write(tmp_path, 't,ecg,resp', lambda k, v: f'{k / 500},{v:.4f}'
               + ',0.3' * (k % 3 > 0))  # fmt: skip
  check(path, units='mV')


def test_a_comma_behind_a_time_is_no_decimal_mark(tmp_path):
  """In a file of so many rows that only some of them are looked at."""
  signal = np.tile(ECG, 3)
  lines = [f'{7 * k},{round(1e4 * v + 9e3)}' for k, v in enumerate(signal)]
  path = tmp_path / 'a.csv'
  path.write_text('\n'.join(lines), newline='\r\n')
  check(path, signal + 0.9, sampling_rate=RATE, gain=1e4)


def test_a_first_row_that_is_passed_over_is_noted(tmp_path):
  path = write(tmp_path, '500', lambda k, v: f'{v:.4f}')
  recording = check(path, units='mV', sampling_rate=RATE)
  assert recording.notes == ('line 1 taken for a header line',)


@pytest.mark.parametrize(
  'head',
  [
    'Sample Rate,500 hertz', 'Messrate,500 Hertz', 'Abtastrate: 500 Hz',
    'Fréquence d’échantillonnage,500 hertz', 'サンプルレート,500ヘルツ',
    'Frecuencia de muestreo,500 hercios', 'Taxa de amostragem,500 hertz',
    'Frequenza di campionamento,"500,000 hertz"', '采样率,500赫兹',
    'Bemonsteringsfrequentie,500 hertz', 'Частота дискретизации: 500 Гц',
    'Sampling Rate (Hz):= 500.00', 'fs=500', 'Samples per second: 500',
    'Sampling frequency: 0.5 kHz', '2 msec/sample', 'Interval=\t0.002 s',
    'Sampling interval (ms): 2', '%Sample Rate = 500 Hz',
    'Output rate:\t500\tSamples/sec.', 'sample rate;500;500',
    'ECG sample rate: 500 Hz\nACC sample rate: 50 Hz',
    'Notch: 50 Hz\nHeart rate: 72\nSample rate: 500\nLow pass: 150 Hz',
    'Number of samples: 3000\nRecorded: 2026-01-02 03:04\nSample rate: 500',
  ],
)  # fmt: skip
def test_header_lines_state_the_rate(tmp_path, head):
  path = write(tmp_path, head + '\nUnit: mV\nECG', lambda k, v: f'{v:.4f}')
  recording = check(path)
  assert recording.rate_from.startswith('header line ')


@pytest.mark.parametrize(
  ('head', 'words'),
  [
    ('Notch: 50 Hz\nHigh pass: 0.05 Hz\nHeart rate: 72', 'does not say its'),
    ('Number of samples: 3000\nSamples: 3000', 'does not say its sampling'),
    ('Rate: 75', 'does not say its sampling rate'),
    ('Sample rate A: 500 Hz\nSample rate B: 50 Hz', '500 Hz in header line 1'),
    ('Sample rate: 12 Hz', 'a sampling rate of 12 Hz'),
  ],
)  # fmt: skip
def test_other_frequencies_are_not_the_rate(tmp_path, head, words):
  path = write(tmp_path, head + '\nUnit: mV\nECG', lambda k, v: f'{v:.4f}')
  with pytest.raises(InputError, match=words):
    check(path)


@pytest.mark.parametrize(
  ('head', 'scale', 'codec'),
  [
    ('t;ECG (mV)', 1, 'utf-8'), ('t;ECG [uV]', 1e3, 'utf-8'),
    ('t;ECG, mV', 1, 'utf-8'), ('t;ecg_uV', 1e3, 'utf-8'),
    ('t;ECG (µV)', 1e3, 'utf-8'), ('t;ECG (μV)', 1e3, 'utf-8'),
    ('t;ECG (µV)', 1e3, 'latin-1'), ('t;ECG (µV)', 1e3, 'mac_roman'),
    ('t;ECG (μV)', 1e3, 'cp932'), ('t;ECG (µV)', 1e3, 'utf-16'),
    ('t;ECG (microvolts)', 1e3, 'utf-8'), ('t;ECG (uVolt)', 1e3, 'utf-8'),
    ('t;ECG (V)', 1e-3, 'utf-8'), ('t;ECG\ns;mV', 1, 'utf-8'),
    ('t;ECG\n(ms);(uV)\n', 1e3, 'utf-8'), ('Einheit;µV\nt;ECG', 1e3, 'utf-8'),
    ('Units: mV\nt;ECG', 1, 'utf-8'), ('ECG [mV];HR [bpm]', 1, 'utf-8'),
  ],
)  # fmt: skip
def test_names_and_header_lines_state_the_unit(tmp_path, head, scale, codec):
  def row(k, v):
    time = f'{k / 500:.3f}' if '\ns;' in head else f'{2 * k}'
    value = f'{scale * v:.9g}'
    return f'{value};72' if 'HR' in head else f'{time};{value}'

  recording = check(
    write(tmp_path, head, row, encoding=codec), sampling_rate=RATE
  )
  assert recording.lead.upper() == 'ECG'
  assert recording.unit_from.startswith(('header line', 'name of column'))


@pytest.mark.parametrize('sign', [',', ';', '\t'])
@pytest.mark.parametrize('decimal', ['.', ','])
@pytest.mark.parametrize('unit', ['mV', ' mV', ' uV', 'µV', ' volts'])
def test_fields_state_the_unit(tmp_path, sign, decimal, unit):
  """Kind: numbers with a unit behind them, a few of them missing."""
  scale = {'mV': 1, 'volts': 1e-3}.get(unit.strip(), 1e3)

  def row(k, v):
    fields = (f'{2 * k} ms', f'{scale * v:.7f}{unit}' if k % 99 else 'NaN')
    fields = [x.replace('.', decimal) for x in fields]
    both = sign == decimal
    return sign.join(f'"{x}"' if both else x for x in fields)

  path = write(tmp_path, f'Time{sign}ECG', row)
  right = np.where(np.arange(COUNT) % 99, ECG, np.nan)
  assert check(path, right).unit_from == 'fields of column 1'


def test_fields_of_another_unit_are_refused(tmp_path):
  path = write(tmp_path, 'ECG', lambda k, v: f'{v:.4f} ' + 'mu'[k == 900] + 'V')
  with pytest.raises(InputError, match=r"Line 902 of .* uV' where a number"):
    check(path, sampling_rate=RATE)


def test_an_unknown_unit_is_named_and_units_decide(tmp_path):
  path = write(tmp_path, 't,ECG [adu]', lambda k, v: f'{k / 500},{v:.4f}')
  with pytest.raises(InputError, match="is in 'adu', not a known voltage"):
    check(path)
  assert check(path, units='mV').notes == (
    'states adu: taken as --units mV says',
  )


@pytest.mark.parametrize(
  ('head', 'time'),
  [
    ('time,ecg', lambda t: f'{t:.3f}'),
    ('Time (ms),ecg', lambda t: f'{1000 * t:.0f}'),
    ('time_us,ecg', lambda t: f'{1e6 * t:.0f}'),
    ('timestamp,ecg', lambda t: f'{1.7e12 + 1000 * t:.0f}'),
    ('min,ecg', lambda t: f'{t / 60:.9f}'),
    ('time [s/500],ecg', lambda t: f'{500 * t:.0f}'),
    ('', lambda t: f'{t:.3f}'),
    ('time,ecg', lambda t: f'08:00:{t:06.3f}'),
    ('time,ecg', lambda t: f'2026-01-02T08:00:{t:06.3f}Z'),
    ('time,ecg', lambda t: f'02.01.2026 08:00:{t:06.3f}'),
    ('time,ecg', lambda t: f'1/2/2026 8:00:{t:06.3f} PM'),
    ('time,ecg', lambda t: f'08:00:{t:06.3f}'.replace('.', ':')),
    ('time,ecg', lambda t: f'{(86_398 + int(t)) // 3600 % 24:02}:'
     f'{(86_398 + int(t)) // 60 % 60:02}:{(58 + t) % 60:06.3f}'),
    ("'Elapsed time',ecg", lambda t: f"'0:{t:06.3f}'"),
    # As MATLAB writes durations and times.
    ('Time,ecg', lambda t: f'{t:.3f} sec'),
    ('Time,ecg', lambda t: f'{t / 60:.15g} min'),
    ('Time,ecg', lambda t: f'{1000 * t:.6g}ms'),
    ('Time,ecg', lambda t: f'{1e6 * t:.0f} µs'),
    ('Time (h),ecg', lambda t: f'{t:.3f} s'),
    ('', lambda t: f'{t:.3f} seconds'),
    ('time,ecg', lambda t: f'03-May-2022 10:30:{t:06.3f}'),
    ('time,ecg', lambda t: f'"May 3, 2022 10:30:{t:06.3f} AM"'),
    ('time,ecg', lambda t: '{}-2022 23:59:59.{:03}'.format(*(
      ('31-May', round(1000 * t)) if t < 1 else ('', 0))) if t < 1 else
     f'01-Jun-2022 00:00:{t - 1:06.3f}'),
    # As rdsamp writes the number of a sample, and units.
    ('n,ecg\n(0.002 sec),(mV)', lambda t: f'{500 * t:.0f}'),
    ('seconds,mV\ntime,ecg', lambda t: f'{t:.3f}'),
    ("'hh:mm:ss.mmm','mV'\n'Elapsed time','ecg'", lambda t: f"'0:{t:06.3f}'"),
    ("'Elapsed time','ecg'\n'seconds','mV'", lambda t: f'{t:.3f}'),
    ('date,time,ecg', lambda t: f'2026-01-02,08:00:{t:06.3f}'),
  ],
)  # fmt: skip
@pytest.mark.parametrize('gap', [False, True])
def test_a_time_column_tells_the_rate_and_the_gaps(tmp_path, head, time, gap):
  rows = [k for k in range(COUNT) if not (gap and k in GAP)]
  path = write(
    tmp_path, head, lambda k, v: f'{time(round(k / 500, 6))},{v:.4f}', rows
  )
  recording = check(path, WITH_GAP if gap else ECG, units='mV')
  assert recording.rate_from.startswith('time column')
  assert any('500 samples are missing' in x for x in recording.notes) == gap


@pytest.mark.parametrize(
  ('row', 'words'),
  [
    (lambda k, v: f'{k % 1500 / 500:.3f},{v:.4f}', 'goes back in time'),
    (lambda k, v: f'{k / 500 + 3e7 * (k > 900):.3f},{v:.4f}', 'jumps by 3e'),
  ],
)
def test_times_that_are_not_of_one_recording_are_refused(tmp_path, row, words):
  path = write(tmp_path, 'time,ecg', row)
  for rate in (None, RATE):
    with pytest.raises(InputError, match=words):
      check(path, units='mV', sampling_rate=rate)


@pytest.mark.parametrize(
  ('head', 'row', 'words'),
  [
    # Rows are numbered anew, of equal recordings or not.
    ('sample,ecg', lambda k, v: f'{k % 1500},{v:.4f}', 'anew at row 1501'),
    ('sample,ecg', lambda k, v: f'{(k + 500) % 2900},{v:.4f}', 'row 2401'),
    ('sample,ecg', lambda k, v: f'{k % 1500 + 1},{v:.4f}', 'anew at row 1501'),
    ('sample,ecg', lambda k, v: f'{k - 2990 * (k > 2992)},{v}', 'row 2994'),
    (',ecg', lambda k, v: f'{k % 1000},{v:.4f}', 'anew at row 1001'),
    ('', lambda k, v: f'{k % 2048};{v:.4f}', 'anew at row 2049'),
    # Times, in a unit that is known or not, more than half a day ago.
    ('x,ecg', lambda k, v: f'{8 * (k % 1500)},{v:.4f}', 'anew at row 1501'),
    ('time_ms,ecg', lambda k, v: f'{2 * (k % 999)},{v:.4f}', 'time at row'),
    ('Time (s),ecg', lambda k, v: f'{k / 500 + 5e4 * (k < 1500)},{v:.4f}',
     'time at row 1501'),
    ('Time,ecg', lambda k, v: f'{k % 1500 / 500:.3f} sec,{v:.4f}',
     'time at row 1501'),
    # Keys of a recording, a person, a device, a lead.
    ('FitbitEcgKey,Participant,Value', lambda k, v: f'a{k // 1500},P,{v:.4f}',
     'column FitbitEcgKey says from row 1501'),
    ('record_id,ecg', lambda k, v: f'{k // 2999},{v:.4f}', 'from row 3000 on'),
    ('Subject,ecg', lambda k, v: f'{k // 80 % 2 if k > 5 else ""},{v:.4f}',
     'from row 81 on'),
    ('patient,ecg', lambda k, v: f'{[31, 7, 9][k // 1000]},{v:.4f}', '1001'),
    ('ecg,ecg_id', lambda k, v: f'{v:.4f},{k // 1500}', 'from row 1501 on'),
    ('ecg,file', lambda k, v: f'{v:.4f},{"ab"[k > 2000]}.txt', 'from row 2002'),
    ('lead,value', lambda k, v: f'{["I", "II"][k % 2]},{v:.4f}', 'from row 2'),
    ('sensor;value', lambda k, v: f'{"ab"[k // 9 % 2]};{v:.4f}', 'from row 10'),
    # The header again.
    ('t,ecg', lambda k, v: 't,ecg' if k == 1500 else f'{k / 500},{v:.4f}',
     'Line 1502 of .* is one of its header'),
    ('Name,Jane\nECG', lambda k, v: 'Name,Jane' if k == 50 else f'{v:.4f}',
     'Line 53 of .* is one of its header'),
  ],
)  # fmt: skip
def test_several_recordings_in_a_file_are_refused(tmp_path, head, row, words):
  """Kind: another recording that begins within the file, read as its rest."""
  path = write(tmp_path, head, row)
  with pytest.raises(InputError, match='own') as info:
    check(path, units='mV', sampling_rate=RATE)
  info.match(words)


@pytest.mark.parametrize(
  ('head', 'row'),
  [
    ('sample,ecg', lambda k, v: f'{k % 256},{v:.4f}'),
    ('sample,ecg', lambda k, v: f'{k % 201},{v:.4f}'),
    ('sample,ecg', lambda k, v: f'{(k + 64_000) % 65_536},{v:.4f}'),
    ('stamp,ecg', lambda k, v: f'{64 * k % 2**16},{v:.4f}'),
    ('stamp,ecg', lambda k, v: f'{(2**32 - 999_000 + 2000 * k) % 2**32},{v}'),
    ('micros,ecg', lambda k, v: f'{(2**32 - 999_000 + 2000 * k) % 2**32},{v}'),
  ],
)
@pytest.mark.parametrize('gap', [False, True])
def test_counters_of_few_bits_show_gaps(tmp_path, head, row, gap):
  rows = [k for k in range(COUNT) if not (gap and 1200 <= k < 1300)]
  right = ECG.copy()
  right[1200 : 1300 if gap else 1200] = np.nan
  check(write(tmp_path, head, row, rows), right, units='mV', sampling_rate=RATE)


def test_keys_of_rows_and_a_single_key_are_no_recordings(tmp_path):
  for name, field in (
    ('id', lambda k: f'6f{k * 7919 % 10007:05}x'),
    ('participant', lambda k: 'P1' if k % 9 else ''),
    ('event id', lambda k: str(int(k % 700 < 9))),
    ('EXG channel 3', lambda k: '0' if k < 2000 else '7'),
  ):
    path = write(
      tmp_path, f'{name},ecg', lambda k, v, f=field: f'{f(k)},{v:.4f}'
    )
    check(path, units='mV', sampling_rate=RATE)


@pytest.mark.parametrize(
  ('head', 'options', 'note'),
  [
    ('', {'sampling_rate': 250}, 'states 500 Hz itself'),
    ('Sample rate: 250 Hz\n', {}, 'header line 1 states 250 Hz, but'),
    ('Sample rate: 500 Hz\n', {}, None),
    ('', {'sampling_rate': 500}, None),
  ],
)  # fmt: skip
def test_a_contradiction_about_the_rate_is_noted(tmp_path, head, options, note):
  path = write(tmp_path, f'{head}time,ecg', lambda k, v: f'{k / 500},{v:.4f}')
  notes = check(path, units='mV', **options).notes
  assert [x[: len(note)] for x in notes] == [note] if note else not notes


@pytest.mark.parametrize('unit', ['', ' sec'])
@pytest.mark.parametrize('gap', [0, 5000])
@pytest.mark.parametrize('digits', [5, 6])
@pytest.mark.parametrize('start', [0, 960, 9950])
def test_times_of_few_digits_are_coarser_later(
  tmp_path, unit, gap, digits, start
):
  """Kind: as %g writes them, 50 rows to a time beyond 1,000 s."""
  signal = np.tile(ECG, 10)
  rows = [k for k in range(len(signal)) if not 15_000 <= k < 15_000 + gap]
  lines = [f'{start + k / 500:.{digits}g}{unit},{signal[k]:.3f}' for k in rows]
  path = tmp_path / 'a.csv'
  path.write_text('\n'.join(['Time,ecg', *lines]))
  recording = open_recording(path, units='mV')
  assert recording.sampling_rate == RATE
  assert abs(recording.num_samples - len(signal)) <= (510 if gap else 0)
  assert len(recording.notes) == (gap > 0)


def test_samples_that_an_index_has_not_are_missing(tmp_path):
  """As pandas writes a frame from which rows were dropped."""
  rows = [k for k in range(COUNT) if k not in GAP]
  path = write(tmp_path, ',ecg', lambda k, v: f'{k},{v:.4f}', rows)
  check(path, WITH_GAP, units='mV', sampling_rate=RATE)


def _received(times, size, rng):
  """When packets of about so many samples arrive."""
  ends = np.cumsum(rng.integers(size // 2, size + size // 2, len(times)))
  last = np.searchsorted(ends, np.arange(len(times)), 'right')
  index = np.minimum(ends[last], len(times) - 1)
  return np.maximum.accumulate(times[index] + rng.uniform(0, 0.03, len(times))[
    index])  # fmt: skip


@pytest.mark.parametrize('jitter', ['samples', 'packets of 8', 'packets of 60'])
@pytest.mark.parametrize(
  ('head', 'text'),
  [
    ('timestamp (ms),ecg', lambda t: f'{1e3 * t:.0f}'),
    ('Time,ecg', lambda t: f'10:{t // 60:02.0f}:{t % 60:06.3f}'),
    ('seconds,ecg', lambda t: f'{1.7e9 + t:.6f}'),
  ],
)
@pytest.mark.parametrize('lost', [0, 2000])
def test_times_that_jitter_tell_the_mean_rate(
  tmp_path, jitter, head, text, lost
):
  """As a telephone stamps what it receives, with a gap or without."""
  rng = np.random.default_rng(0)
  signal = ecg(RATE, 20, rng)
  rows = [k for k in range(len(signal)) if not 6000 <= k < 6000 + lost]
  times = np.array(rows) / RATE
  if jitter == 'samples':
    times = np.sort(times + rng.uniform(0, 0.02, len(times)))
  else:
    times = _received(times, int(jitter.split()[-1]), rng)
  lines = [
    f'{text(t)},{signal[k]:.4f}' for t, k in zip(times, rows, strict=True)
  ]
  path = tmp_path / 'a.csv'
  path.write_text('\n'.join([head, *lines]))
  recording = open_recording(path, units='mV')
  assert abs(recording.sampling_rate / RATE - 1) < 0.012
  assert 'differ: their mean' in str(recording.notes)
  found = recording.millivolt(0, recording.num_samples)
  gap = np.isnan(found)
  assert_allclose(found[~gap], signal[rows], atol=1e-4)
  assert (gap.sum() > 0) == (lost > 0)
  assert abs(gap.sum() - lost) < 120
  assert np.isnan(found[6000 : 6000 + lost - 120]).all()


@pytest.mark.parametrize('clock', ['ecg_timestamp', 'ppg_timestamp'])
def test_of_two_clocks_that_of_the_lead_is_taken(tmp_path, clock):
  path = write(
    tmp_path,
    'ecg_timestamp,ecg,ppg_timestamp,ppg_ir',
    lambda k, v: f'{2 * k},{v:.4f},{10 * k},1234{k % 7}',
  )
  rate = 500.0 if clock == 'ecg_timestamp' else 100.0
  lead = 'ecg' if clock == 'ecg_timestamp' else 'ppg_ir'
  recording = open_recording(path, lead=lead, units='mV')
  assert recording.sampling_rate == rate
  assert recording.rate_from.startswith(f'time column {clock}, ')


LABVIEW = """LabVIEW Measurement
Decimal_Separator\t{decimal}
X_Columns\t{columns}
***End_of_Header***\t
Channels\t2
Samples\t3000\t3000
Y_Unit_Label\t{unit}\t{unit}
X_Dimension\tTime\tTime
X0\t0{decimal}0E+0\t0
Delta_X\t0{decimal}002000\t2E-3
***End_of_Header***
"""


@pytest.mark.parametrize('decimal', ['.', ','])
@pytest.mark.parametrize('columns', ['No', 'One', 'Multi'])
@pytest.mark.parametrize('comment', [True, False])
@pytest.mark.parametrize(
  ('unit', 'scale'), [('Volts', 1e-3), ('mV', 1), ('uV', 1e3)]
)
def test_labview(tmp_path, decimal, columns, comment, unit, scale):
  """A rate and units in lines of the header, and rows without comments."""
  head = LABVIEW.format(decimal=decimal, columns=columns, unit=unit)
  x = 'X_Value\t' if columns == 'Multi' else ''
  names = f'X_Value\tResp\t{x}ECG' + '\tComment' * comment
  time = '' if columns == 'No' else '{:.6f}'
  form = f'{time}\t0.5\t{time}\t{{:.7f}}' if x else f'{time}\t0.5\t{{:.7f}}'

  def row(k, v):
    times = [k / 500] * form.count('6f')
    text = form.format(*times, scale * v).replace('.', decimal)
    return text + '\tstart' * (comment and k == 7)

  recording = check(write(tmp_path, head + names, row, name='a.lvm'))
  assert recording.unit_from == 'header line 7'
  rows = '\n'.join(row(k, v) for k, v in enumerate(ECG))
  path = tmp_path / 'a.lvm'
  path.write_text(path.read_text() + head + names + '\n' + rows)
  with pytest.raises(InputError, match='where another recording begins'):
    check(path)


def test_labels_above_the_table_are_names(tmp_path):
  """As LabSystem Pro writes them; its samples are counts."""
  head = '[Header]\n Sample Rate: 500Hz\n' + ''.join(
    f' Channel #: {k}\n Label: {x}\n Range: 5mv \n' for k, x in
    enumerate(('RA 1-2', 'II', 'V1'), 1)
  ) + '\n[Data]'  # fmt: skip
  path = write(tmp_path, head, lambda k, v: f'{k % 9},{round(6554 * v)},-1')
  assert check(path, gain=6554).lead == 'II'


@pytest.mark.parametrize(
  ('head', 'row', 'lead'),
  [
    ('Timestamp (ms),Samples', lambda k, v: f'{2 * k},{v:.4f}', None),
    ('Timestamp (ms);sample', lambda k, v: f'{2 * k};{v:.4f}', None),
    ('nSeq\tValue', lambda k, v: f'{k % 16}\t{v:.4f}', None),
    ('Time,1,2', lambda k, v: f'{k / 500},{v:.4f},{-v:.4f}', '1'),
    ('Time,1,2', lambda k, v: f'{k / 500},{-v:.4f},{v:.4f}', '2'),
    ('128,1,2', lambda k, v: f'{v:.4f},{-v:.4f},{v:.4f}', '0'),
    ('n,lead,3', lambda k, v: f'{k},{v:.4f},1', None),
  ],
)
def test_a_name_alone_makes_no_row_numbers(tmp_path, head, row, lead):
  path = write(tmp_path, head, row)
  check(path, units='mV', sampling_rate=RATE, lead=lead)


def test_several_samples_in_a_row_are_refused(tmp_path):
  names = ','.join(f'Sample{k}' for k in range(4))
  path = write(tmp_path, f'time,{names}', lambda k, v: f'{k},{v},{v},{v},{v}')
  with pytest.raises(InputError, match='4 samples in each row, Sample0 to'):
    check(path, units='mV', sampling_rate=RATE, lead='Sample1')


@pytest.mark.parametrize('sign', [',', ';', '\t', ' '])
@pytest.mark.parametrize('names', [None, ('I', 'II', 'aVR')])
def test_rows_may_be_leads(tmp_path, sign, names):
  rows = np.stack([ECG, ECG / 2, -ECG])
  lines = [sign.join(f'{v:.4f}' for v in row) for row in rows]
  if names:
    lines = [f'{a}{sign}{b}' for a, b in zip(names, lines, strict=True)]
  path = tmp_path / 'a.txt'
  path.write_text('\n'.join(lines) + '\n')
  for lead in (0, 1, 2):
    check(path, rows[lead], sampling_rate=RATE, units='mV',
          lead=names[lead] if names else str(lead))  # fmt: skip


def test_rows_of_leads_have_one_length(tmp_path):
  lines = [','.join(['0.1'] * count) for count in (300, 301)]
  path = tmp_path / 'a.csv'
  path.write_text('\n'.join(lines))
  with pytest.raises(InputError, match='2 rows of different lengths'):
    check(path, sampling_rate=RATE, units='mV', lead='0')


@pytest.mark.parametrize(
  'codec',
  ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'cp1252',
   'utf-32-be', 'cp932'],
)  # fmt: skip
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r', '\r\r\n'])
def test_encodings_and_ends_of_lines(tmp_path, codec, end):
  rows = [f'{k / 500}\t{v:.4f}' for k, v in enumerate(ECG)]
  lines = ['time\tECG (mV)', *rows]
  for last in ('', end, 3 * end):
    path = tmp_path / 'a.tsv'
    path.write_bytes((end.join(lines) + last).encode(codec))
    check(path)


def test_facts_name_no_person(tmp_path):
  head = 'Name: Jane Doe\nDate of birth: 1970-01-02\n\nJane Doe'
  path = write(tmp_path, head, lambda k, v: f'{v:.4f}')
  file = formats.read_channels(path)
  assert dict(file.facts) == {
    'format': 'text',
    'encoding': 'utf-8',
    'delimiter': 'none: one column',
    'decimal mark': 'point',
    'numbers begin': 'line 5',
  }
  assert 'Jane' not in repr((file.channels, file.facts))


@pytest.mark.parametrize('kind', ['jpeg', 'zip', 'edf'])
def test_what_is_no_text_is_refused(tmp_path, kind):
  content = {
    'jpeg': b'\xff\xd8\xff\xe0' + bytes(range(256)) * 40,
    'zip': b'PK\x03\x04' + bytes(range(7)) * 400,
    'edf': b'0'.ljust(600) + np.arange(5000, dtype='<i2').tobytes(),
  }[kind]
  path = tmp_path / 'a.csv'
  path.write_bytes(content)
  with pytest.raises(InputError, match='is not text'):
    check(path)


def test_a_gain_is_for_counts_and_noted_where_it_is_not_used(tmp_path):
  counts = write(tmp_path, 'ECG', lambda k, v: f'{round(200 * v)}')
  recording = check(counts, tolerance=0.003, sampling_rate=RATE, gain=200)
  assert (recording.unit_from, recording.notes) == ('--gain', ())
  stated = write(tmp_path, 'ECG (mV)', lambda k, v: f'{v:.4f}')
  recording = check(stated, sampling_rate=RATE, gain=200)
  assert recording.notes == ('states mV itself: --gain 200 not used',)


@pytest.mark.parametrize(
  ('per_second', 'notes'),
  [(1, []), (1e3, ['time column time taken to be in ms']),
   (1e6, ['time column time taken to be in us'])],
)  # fmt: skip
def test_a_unit_of_time_that_is_assumed_is_noted(tmp_path, per_second, notes):
  path = write(
    tmp_path, 'time,ecg', lambda k, v: f'{k / 500 * per_second:.6g},{v:.4f}'
  )
  assert list(check(path, units='mV').notes) == notes

"""What is understood of a file, shown before a prediction is made of it."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.io

from ecg_jax import predict
from ecg_jax.recordings import explain, lead
from tests import recording_files
from tests.helpers import ROOT

ENCODING = lead.Encoding(300, 1000.0)
COUNTS = recording_files.COUNTS
RATE = recording_files.RATE


def facts(path, **options):
  """Name -> values of each fact."""
  found = {}
  for name, text in explain.explain(path, ENCODING, **options).facts:
    found.setdefault(name, []).append(text)
  return found


def write_two(folder):
  both = np.stack([COUNTS, COUNTS // 2], 1)
  return recording_files.write_wfdb(folder, both, names=('MLII', 'V5'))


def test_of_channels_the_lead_its_rate_and_unit(tmp_path):
  found = facts(write_two(tmp_path), lead='V5')
  assert found['format'] == ['WFDB']
  assert found['channel 0'] == [f"'MLII', in mV (header), {RATE} Hz (header)"]
  assert found['lead'] == ["1, 'V5'"]
  assert found['sampling rate'] == [f'{RATE} Hz (header)']
  assert found['unit'] == ['mV (header)']
  assert found['samples'] == [f'{len(COUNTS):,}, {len(COUNTS) / RATE:.2f} s']
  assert found['gaps'] == ['none']
  half = COUNTS // 2 / 1000
  assert found['range'] == [f'{half.min():.3f} to {half.max():.3f} mV']


@pytest.mark.parametrize(
  ('options', 'unit', 'scale'),
  [
    ({'units': 'counts'}, 'counts of 1/1000 mV (--units)', 1e-3),
    ({'units': 'uV'}, 'uV (--units)', 1e-3),
    ({'units': 'V'}, 'V (--units)', 1e3),
    ({'gain': 409.6}, 'counts of 1/409.6 mV (--gain)', 1 / 409.6),
  ],
)
def test_of_an_array_the_options_decide(tmp_path, options, unit, scale):
  path = recording_files.write_npy(tmp_path, np.array([COUNTS, COUNTS]))
  found = facts(path, sampling_rate=500, lead='1', **options)
  assert found['channel 1'] == ['without a name']
  assert found['sampling rate'] == ['500 Hz (--sampling_rate)']
  assert found['unit'] == [unit]
  values = COUNTS * scale
  assert found['range'] == [f'{values.min():.3f} to {values.max():.3f} mV']


@pytest.mark.parametrize(
  ('missing', 'gaps'),
  [
    ([], 'none'),
    ([(0, 1)], '1, 0.00 s together, the longest 0.00 s from 0.00 s'),
    ([(300, 900)], '1, 2.00 s together, the longest 2.00 s from 1.00 s'),
    (
      [(0, 3), (30, 60), (990, 1000)],
      '3, 0.14 s together, the longest 0.10 s from 0.10 s',
    ),
    # Blocks of 256 begin and end within, before and after these.
    ([(250, 262)], '1, 0.04 s together, the longest 0.04 s from 0.83 s'),
    ([(256, 512)], '1, 0.85 s together, the longest 0.85 s from 0.85 s'),
    ([(511, 513), (999, 1000)], '2, 0.01 s together, the longest 0.01 s from'),
    ([(100, 1000)], '1, 3.00 s together, the longest 3.00 s from 0.33 s'),
    ([(0, 1000)], '1, 3.33 s together, the longest 3.33 s from 0.00 s'),
  ],
)
def test_gaps_are_counted_in_any_block(tmp_path, monkeypatch, missing, gaps):
  monkeypatch.setattr(explain, '_BLOCK', 256)
  values = np.sin(np.arange(1000.0))
  for start, stop in missing:
    values[start:stop] = np.nan
  path = recording_files.write_npy(tmp_path, values)
  found = facts(path, sampling_rate=300, units='mV')
  [shown] = found['gaps']
  assert shown.startswith(gaps)
  assert ('range' in found) == (not np.isnan(values).all())


def test_a_long_recording_is_read_in_blocks(tmp_path, monkeypatch):
  monkeypatch.setattr(explain, '_BLOCK', 1000)
  lengths = []
  read = lead.Recording.millivolt

  def millivolt(recording, start, stop):
    lengths.append(stop - start)
    return read(recording, start, stop)

  monkeypatch.setattr(lead.Recording, 'millivolt', millivolt)
  path = recording_files.write_npy(tmp_path, np.zeros(2500))
  facts(path, sampling_rate=300, units='mV')
  assert lengths == [1000, 1000, 500]


def test_what_is_not_known_is_refused_after_what_is(tmp_path):
  path = recording_files.write_npy(tmp_path, COUNTS)
  found = facts(path)
  assert 'does not say its sampling rate' in found['refused'][0]
  assert found['channel 0'] == ['without a name']
  assert 'lead' not in found
  found = facts(path, sampling_rate=300)
  assert 'does not say the units' in found['refused'][0]
  path = tmp_path / 'b.edf'
  path.write_bytes(b'junk')
  assert list(facts(path)) == ['refused']
  path = recording_files.write_npy(tmp_path, np.full(2500, 0.7))
  found = facts(path, sampling_rate=300, units='mV')
  assert 'varies by less than 0.001 mV' in found['refused'][0]
  assert found['range'] == ['0.700 to 0.700 mV']


def test_notes_are_shown(tmp_path):
  scipy.io.savemat(tmp_path / 'a.mat', {'val': COUNTS[None]})
  found = facts(tmp_path / 'a.mat')
  assert any('300 samples a second' in note for note in found['note'])
  assert found['sampling rate'] == ['300 Hz (assumed)']
  assert found['unit'] == ['counts of 1/1000 mV (assumed)']
  found = facts(write_two(tmp_path), gain=200.0, sampling_rate=99)
  assert 'states mV itself: --gain 200 not used' in found['note']
  assert f'states {RATE} Hz itself: --sampling_rate 99 not used' in str(found)
  assert found['unit'] == ['mV (header)']


def test_names_do_not_control_the_terminal(tmp_path):
  source = recording_files.write_npy(tmp_path, np.array([COUNTS, COUNTS]))
  path = tmp_path / 'c\x1b[31m\n.npy'
  source.rename(path)
  text = str(explain.explain(path, ENCODING))
  assert '\x1b' not in text
  assert text.splitlines()[0].endswith('c\\x1b[31m .npy')


def test_many_channels_are_listed_to_a_limit(tmp_path):
  path = recording_files.write_npy(tmp_path, np.zeros((150, 300)))
  found = facts(path, sampling_rate=300, units='mV', lead='3')
  assert 'channel 99' in found
  assert 'channel 100' not in found
  assert found['channels'] == ['and 50 more']


@pytest.fixture
def call(capsys):
  """Runs the command; returns exit code, output and errors."""

  def run(*arguments):
    code = predict.main([*map(str, arguments)])
    return code, *capsys.readouterr()

  return run


def test_the_command_explains_each_file_without_a_run(call, tmp_path):
  good = write_two(tmp_path)
  bad = recording_files.write_npy(tmp_path, COUNTS)
  code, printed, errors = call('--explain', good, bad, '--lead', '0')
  assert code == 3
  first, second = printed.split(str(bad), 1)
  assert first.startswith(f'{good}\n  format')
  assert "\n  lead           0, 'MLII'\n" in first
  assert '\n  refused' in second
  assert errors == 'No answer for 1 of 2 recordings: see "refused".\n'
  assert call('--explain', good, '--lead', 'V5')[0] == 0


def test_counts_are_those_of_the_run(call, small_run, tmp_path):
  path = recording_files.write_npy(tmp_path, COUNTS)
  stated = ('--sampling_rate', 300, '--units', 'counts')
  _, plain, _ = call('--explain', path, *stated)
  code, of_run, _ = call('--explain', path, *stated, '--run', small_run)
  assert code == 0
  assert of_run == plain
  code, _, errors = call('--explain', path, '--run', tmp_path)
  assert code == 2
  assert 'is no run folder' in errors


@pytest.mark.parametrize('output', ['--out', '--answers', '--plot', '--report'])
def test_nothing_is_written(refusal, tmp_path, output):
  path = recording_files.write_npy(tmp_path, COUNTS)
  target = tmp_path / 'o.csv'
  sentence = refusal(predict.main, '--explain', path, output, target)
  assert sentence.startswith(f'{output} is for predictions, which --explain')
  assert not target.exists()


def test_no_network_is_loaded(tmp_path):
  path = recording_files.write_npy(tmp_path, COUNTS)
  script = (
    'import sys; from ecg_jax import predict;'
    ' code = predict.main(sys.argv[1:]);'
    ' sys.exit(9 if "jax" in sys.modules else code)'
  )
  options = ['--explain', str(path), '--sampling_rate=300', '--units=mV']
  done = subprocess.run(
    [sys.executable, '-c', script, *options],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, '')


PRIVATE = ('Jane', 'Mustermann', '1970', 'Kowalska', '12345678')
"""What no output may repeat of the headers below."""

WATCH = """Name,Jane Mustermann
Date of Birth,"Jan 1, 1970"
Recorded Date,2024-01-01 10:00:00 +0100
Device,"Watch6,2"
Sample Rate,512 hertz

Lead,Lead I
Unit,µV

"""

UHR = """Name;Jane Mustermann
Geburtsdatum;01.01.1970
Patient;12345678
Messrate;512 Hertz

Ableitung;Ableitung I
Einheit;µV

"""

COMMENTS = """# Patient: Anna Kowalska, born 1970
# Jane
Time (s)\tIndex\tECG (mV)
"""


def watch(comma='.'):
  values = 0.987 * COUNTS
  return ''.join(f'{value:.3f}\n'.replace('.', comma) for value in values)


def table(separator='\t'):
  rows = enumerate(COUNTS[:3000])
  return ''.join(
    f'{k / 512:.5f}{separator}{k}{separator}{value / 1000:.4f}\n'
    for k, value in rows
    if not 1000 <= k < 1512
  )


def shimmer():
  names = ('Timestamp_Unix', 'ECG_LL-RA_24BIT', 'ECG_LA-RA_24BIT', 'Status1')
  head = ''.join(f'Shimmer_{name}_CAL\t' for name in names)
  rows = ''.join(
    f'{1.7e12 + k * 1000 / 512:.4f}\t{value / 1000}\t{value / 1500:.6f}\t128\t'
    '\n'
    for k, value in enumerate(COUNTS[:3000])
  )
  return f'"sep=\t"\n{head}\nms\tmV\tmV\tno_units\t\n{rows}'


TEXTS = {
  'shimmer': (
    shimmer(),
    {
      'numbers begin': 'line 4',
      'lead': "1, 'Shimmer_ECG_LL-RA_24BIT_CAL'",
      'note': 'lead Shimmer_ECG_LL-RA_24BIT_CAL taken, not'
      ' Shimmer_ECG_LA-RA_24BIT_CAL',
      'sampling rate': '512 Hz (time column Shimmer_Timestamp_Unix_CAL)',
      'unit': 'mV (header line 3)',
      'gaps': 'none',
    },
  ),
  'watch': (
    WATCH + watch(),
    {
      'decimal mark': 'point',
      'numbers begin': 'line 10',
      'sampling rate': '512 Hz (header line 5)',
      'unit': 'µV (header line 8)',
      'gaps': 'none',
    },
  ),
  'uhr': (
    UHR + watch(','),
    {
      'decimal mark': 'comma',
      'numbers begin': 'line 9',
      'sampling rate': '512 Hz (header line 4)',
      'unit': 'µV (header line 7)',
      'gaps': 'none',
    },
  ),
  'comments': (
    COMMENTS + table(),
    {
      'delimiter': 'tab',
      'decimal mark': 'point',
      'numbers begin': 'line 4',
      'channel 0': "'Time', in s (name of column 0), 512 Hz (time column Time),"
      ' taken for: time',
      'channel 1': "'Index', 512 Hz (time column Time), taken for: row number",
      'lead': "2, 'ECG'",
      'sampling rate': '512 Hz (time column Time)',
      'unit': 'mV (name of column 2)',
      'samples': '3,000, 5.86 s',
      'gaps': '1, 1.00 s together, the longest 1.00 s from 1.95 s',
    },
  ),
}


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('name', TEXTS)
def test_of_a_text_what_its_layout_and_header_are(tmp_path, name, encoding):
  text, expected = TEXTS[name]
  path = tmp_path / 'a.csv'
  path.write_text(text, encoding=encoding)
  found = facts(path)
  assert found['format'] == ['text']
  assert {key: found[key][0] for key in expected} == expected
  shown = str(explain.explain(path, ENCODING))
  assert not [word for word in PRIVATE if word in shown]


@pytest.mark.parametrize('name', TEXTS)
def test_no_output_has_what_a_header_says_of_a_person(
  capsys, small_run, tmp_path, name
):
  """Of a file that is read, and of one that states too little."""
  text, _ = TEXTS[name]
  (tmp_path / 'a.csv').write_text(text)
  for stated in ('512 hertz', '512 Hertz', 'µV', '(mV)', 'Time (s)', '\tmV'):
    text = text.replace(stated, '')
  (tmp_path / 'b.csv').write_text(text)
  files = [tmp_path / 'a.csv', tmp_path / 'b.csv']
  assert predict.main(['--explain', *map(str, files)]) == 3
  options = ['--run', small_run, '--plot', tmp_path / 'plots']
  outs = [tmp_path / 'o.json', tmp_path / 'o.csv']
  for out in outs:
    predict.main([*map(str, [*options, '--out', out, *files])])
  texts = [path.read_text() for path in outs]
  texts += [path.read_text() for path in (tmp_path / 'plots').glob('*.svg')]
  texts += capsys.readouterr()
  assert len(texts) == 4 + (name != 'comments')
  assert not [word for word in PRIVATE for text in texts if word in text]

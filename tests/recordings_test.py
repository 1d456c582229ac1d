"""Readers, leads and windows: the same samples from any file, or a sentence."""

import os
import pathlib
import pickle
import re
import stat
import struct
import zipfile

import edfio
import h5py
import numpy as np
import pytest
import scipy.io
import scipy.signal
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ecg_jax.errors import InputError
from ecg_jax.recordings import find, formats, resampling
from ecg_jax.recordings import lead as lead_lib
from tests import helpers
from tests.recording_files import (
  COUNTS,
  ENCODING,
  RATE,
  STATED,
  counts_of,
  labchart,
  open_recording,
  recording_of,
  window_counts,
  write_atc,
  write_bdf,
  write_brainvision,
  write_csv,
  write_dicom,
  write_edf,
  write_hdf5,
  write_ishne,
  write_mat,
  write_mat5,
  write_npy,
  write_npz,
  write_segments,
  write_wfdb,
)


def check_all_formats(folder, counts):
  """The same samples in every format, WFDB and .mat exactly."""
  header = write_mat(folder, counts)
  assert_array_equal(counts_of(header), counts)
  bare = folder / 'bare.mat'
  (folder / 'A1.mat').rename(bare)
  assert_array_equal(counts_of(bare), counts)
  for fmt in ('16', '24', '32'):
    path = write_wfdb(folder, counts, fmt=fmt)
    assert_array_equal(counts_of(path), counts)
  whole = len(counts) // RATE * RATE
  path = write_edf(folder, {'ECG': (counts, 'uV')})
  assert np.abs(counts_of(path) - counts[:whole]).max() <= 1
  for path, units in (
    (write_csv(folder, counts), 'mV'),
    (write_npy(folder, counts.astype(np.float32) / 1e6), 'V'),
  ):
    found = counts_of(path, sampling_rate=300.0, units=units)
    assert np.abs(found - counts).max() <= 1


def test_all_formats_hold_the_same_samples(tmp_path):
  check_all_formats(tmp_path, COUNTS)


def test_real_records_in_all_formats(tmp_path, real_data):
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    for record in ('A00001', 'A00004', 'A02345', 'A08528'):
      for suffix in ('mat', 'hea'):
        content = archive.read(f'training2017/{record}.{suffix}')
        (tmp_path / f'{record}.{suffix}').write_bytes(content)
      counts = scipy.io.loadmat(tmp_path / f'{record}.mat')['val'][0]
      [path] = find.find([tmp_path], with_arrays=False)
      assert_array_equal(counts_of(path), counts)
      folder = tmp_path / record
      folder.mkdir()
      check_all_formats(folder, counts)
      path.unlink()
      path.with_suffix('.mat').unlink()


def test_tables_that_state_rate_and_unit_are_found(tmp_path):
  """Without options; others of a folder may be tables of anything."""
  samples = ''.join(f'{value / 1000}\n' for value in COUNTS[:3000])
  texts = {
    'watch.csv': f'Sample Rate,512 Hz\nUnit,mV\n\n{samples}',
    'watch.tsv': f'Sample Rate\t512 Hz\nUnit\tmV\n\n{samples}',
    'unit.csv': f'Unit,mV\n\n{samples}',
    'rate.txt': f'Sample Rate: 512 Hz\n\n{samples}',
    'slow.csv': f'Sample Rate,1 Hz\nUnit,mV\n\n{samples}',
    'notes.txt': 'Nothing of note.\n',
    'out.csv': 'recording,lead,start_seconds\na,ECG,0\nb,ECG,0\n',
  }
  for name, text in texts.items():
    (tmp_path / name).write_text(text)
  found = find.find([tmp_path], with_arrays=False)
  assert [path.name for path in found] == ['watch.csv', 'watch.tsv']
  found = find.find([tmp_path], with_arrays=True)
  assert [path.name for path in found] == sorted(texts)


def test_what_is_found(tmp_path):
  header = write_mat(tmp_path, COUNTS)
  csv, npy = write_csv(tmp_path, COUNTS), write_npy(tmp_path, COUNTS)
  (tmp_path / 'RECORDS').write_text('A1\n')
  assert find.find([tmp_path], with_arrays=False) == [header]
  assert find.find([tmp_path], with_arrays=True) == [header, csv, npy]
  for name in ('._A1.hea', '._A1.mat', '._b.edf', '._c.csv'):
    (tmp_path / name).write_bytes(b'\0\5\x16\7\0\2\0\0Mac OS X' + bytes(99))
  assert find.find([tmp_path], with_arrays=True) == [header, csv, npy]
  lost = tmp_path / 'lost.edf'
  lost.symlink_to(tmp_path / 'nowhere.edf')
  (tmp_path / 'lost.txt').symlink_to(tmp_path / 'nowhere.txt')
  assert find.find([tmp_path], with_arrays=False) == [header, lost]
  assert find.find([lost], with_arrays=False) == [lost]
  lost.unlink()
  named = [tmp_path / 'A1.mat', tmp_path / 'A1', csv, header]
  assert find.find(named, with_arrays=False) == [header, csv]
  link = tmp_path / 'link.csv'
  link.symlink_to(csv)
  spellings = [csv, link, tmp_path / '..' / tmp_path.name / csv.name]
  assert find.find(spellings, with_arrays=True) == [csv]


@pytest.mark.parametrize('units', ['uV', 'uv', 'µV', 'μV', 'counts', 'mV', 'V'])
def test_units(units):
  scale = {'mV': 1e-3, 'V': 1e-6}.get(units, 1.0)
  recording = recording_of(COUNTS * scale, units=units)
  assert not recording.notes
  assert_array_equal(window_counts(recording), COUNTS)


def _wave(rate, seconds, frequency=7.3):
  """A tone of 1 mV and an offset of 3 mV."""
  times = np.arange(round(rate * seconds)) / rate
  return 3 + np.sin(2 * np.pi * frequency * times)


@pytest.mark.parametrize('rate', [100, 128, 250, 257, 360, 500, 999.5, 1000])
def test_resampling_keeps_a_tone_and_its_time(rate):
  found = window_counts(recording_of(_wave(rate, 20), rate), 5, 10)
  assert found.shape == (3000,)
  expected = 1000 * _wave(300, 20)[1500:4500]
  assert np.abs(found - expected).max() < 4


@pytest.mark.parametrize('wanted', [50, 100, 250, 500])
@pytest.mark.parametrize('unit', [200.0, 1000.0])
def test_windows_have_the_rate_and_unit_of_the_model(wanted, unit):
  """Band-passed too, where the band would end above half of the rate."""
  encoding = lead_lib.Encoding(wanted, unit)
  recording = recording_of(_wave(360, 20), 360)
  found = resampling.window_counts(recording, encoding, 5, 10)
  expected = unit * _wave(wanted, 20)[5 * wanted : 15 * wanted]
  assert_allclose(found, expected, atol=0.006 * unit)
  assert resampling.num_counts(recording, wanted) == 20 * wanted
  filtered = resampling.window_counts(recording, encoding, 5, 10, bandpass=True)
  assert_allclose(filtered, expected - 3 * unit, atol=0.05 * unit)


def test_counts_and_a_mat_without_header_are_as_the_models_records(tmp_path):
  scipy.io.savemat(tmp_path / 'a.mat', {'val': COUNTS[None]}, format='4')
  encoding = lead_lib.Encoding(500, 200.0)
  recording = lead_lib.open_recording(tmp_path / 'a.mat', encoding)
  assert recording.notes == (
    'no header: taken to have 500 samples a second',
    'no header: taken to be in units of 1/200 mV',
  )
  assert recording.sampling_rate == 500
  found = resampling.window_counts(recording, encoding)
  assert_array_equal(found, COUNTS)
  again = lead_lib.from_array(COUNTS, counts_per_millivolt=200.0, **STATED)
  assert_allclose(again.millivolt(0, 9), COUNTS[:9] / 200, rtol=1e-6)


def test_resampling_takes_away_what_300_hz_cannot_hold():
  recording = recording_of(_wave(1000, 20, 190) - 3, 1000)
  assert np.abs(window_counts(recording, 2, 16)).max() <= 1


@pytest.mark.parametrize('bandpass', [False, True])
@given(
  rate=st.sampled_from([128.0, 250.0, 256.41, 300.0, 360.0, 1000.0]),
  start=st.floats(0, 29),
  seconds=st.floats(0.3, 20),
)
def test_a_window_does_not_depend_on_how_it_was_cut(
  bandpass, rate, start, seconds
):
  rng = np.random.default_rng(0)
  recording = recording_of(rng.normal(0, 1, round(30 * rate)), rate)
  whole = window_counts(recording, bandpass=bandpass)
  assert len(whole) == resampling.num_counts(recording, RATE)
  found = window_counts(recording, start, seconds, bandpass=bandpass)
  at = round(start * 300)
  expected = whole[at : at + round(seconds * 300)].astype(int)
  assert len(found) == len(expected)
  assert np.abs(found - expected).max(initial=0) <= 1


@given(
  rate=st.sampled_from([250.0, 300.0, 1000.0]),
  seconds=st.floats(1, 20),
  gap=st.integers(1, 12),
  behind=st.integers(0, 40),
)
def test_a_bridged_gap_behind_a_window_is_no_matter_of_the_cut(
  rate, seconds, gap, behind
):
  rng = np.random.default_rng(0)
  samples = rng.normal(0, 10, round(30 * rate))
  first = round(seconds * rate) + behind
  samples[first : first + gap] = np.nan
  recording = recording_of(samples, rate)
  whole = window_counts(recording)
  found = window_counts(recording, 0, seconds)
  np.testing.assert_array_equal(found, whole[: len(found)])


def test_bandpass_keeps_the_heart_and_takes_the_rest():
  times = np.arange(9000) / 300
  for frequency, least, most in ((0.05, 0, 20), (8, 970, 1030), (100, 0, 40)):
    recording = recording_of(np.sin(2 * np.pi * frequency * times))
    found = window_counts(recording, 10, 10, bandpass=True)
    assert least <= np.abs(found).max() <= most


def test_short_gaps_are_bridged_and_long_ones_refused():
  signal = np.arange(9000.0) / 1000
  signal[1000:1015] = np.nan
  signal[3000] = np.inf
  recording = recording_of(signal)
  assert_array_equal(window_counts(recording), np.arange(9000))
  signal[5000:5016] = np.nan
  recording = recording_of(signal)
  with pytest.raises(InputError, match=r'at 16\.67 s'):
    window_counts(recording)
  window_counts(recording, 0, 5000 / 300)
  window_counts(recording, 5016 / 300, 10)
  for part in ((0, 5001 / 300), (5015 / 300, 10)):
    with pytest.raises(InputError, match='no samples'):
      window_counts(recording, *part)


@pytest.mark.parametrize('count', [1, 3, 900])
def test_nothing_but_gaps_is_refused_with_the_name(tmp_path, count):
  """A path, since several of one name may be read together."""
  path = write_npy(tmp_path, np.full(count, np.nan))
  with pytest.raises(resampling.GapError) as error:
    counts_of(path, **STATED)
  assert str(error.value).startswith(f'{path} has no samples of lead 0 from 0')
  assert str(error.value).endswith('s: export it again.')


def test_a_lead_without_samples_of_several_is_named(tmp_path):
  both = np.stack([np.full(9000, -(2**15)), COUNTS[:9000]], axis=1)
  path = write_wfdb(tmp_path, both, names=('I', 'II'))
  with pytest.raises(resampling.NoSamplesError) as error:
    window_counts(open_recording(path, lead='I'))
  assert str(error.value) == (
    f'{path} has no samples of lead I from 0.00 to 30.00 s: choose another with'
    ' --lead.'
  )
  assert_array_equal(counts_of(path, lead='II'), COUNTS[:9000])


@pytest.mark.parametrize('shape', [(3, 9000), (9000, 3)])
def test_the_longer_axis_of_an_array_is_time(shape):
  array = np.zeros(shape)
  rows = array if shape[0] == 3 else array.T
  rows[1] = np.arange(9000)
  recording = lead_lib.from_array(
    array, lead='1', counts_per_millivolt=1000.0, **STATED
  )
  assert_array_equal(window_counts(recording), np.arange(9000))


@pytest.mark.parametrize(
  ('name', 'given', 'notes'),
  [
    ('a.mat', {}, ['no header', 'no header']),
    ('a.mat', STATED, []),
    ('a.hea', {'sampling_rate': 300, 'units': 'mV'}, []),
    ('a.hea', {'sampling_rate': 1000, 'units': 'V'},
     ['states 300 Hz itself', 'states mV itself']),
  ],
)  # fmt: skip
def test_what_is_assumed_or_not_used_is_noted(tmp_path, name, given, notes):
  write_wfdb(tmp_path, COUNTS)
  scipy.io.savemat(tmp_path / 'a.mat', {'val': COUNTS})
  recording = open_recording(tmp_path / name, **given)
  assert [note.split(':')[0] for note in recording.notes] == notes
  assert_array_equal(window_counts(recording), COUNTS)


def test_numbers_out_of_range_are_clipped_and_not_missing(tmp_path):
  found = window_counts(recording_of(np.array([1e30, -1e30, 0.0])))
  assert found.tolist() == [32767, -32768, 0]
  (tmp_path / 'a.csv').write_text('1e300\n-1e300\n0\n')
  write_npy(tmp_path, [1e300, -1e300, 0])
  for name in ('a.csv', 'a.npy'):
    found = counts_of(tmp_path / name, sampling_rate=300, units='V')
    assert found.tolist() == [32767, -32768, 0]


@pytest.mark.parametrize('rate', [300, 250, 1000])
@pytest.mark.parametrize(
  'constant', [-45.0, 45.0, 33.0, -300.0, 187.5, 32.0, -1000.0, 2.0**15]
)
def test_a_constant_is_removed_where_it_would_cut_samples_off(rate, constant):
  """Electrode offsets, the middle of unsigned words."""
  wave = _wave(rate, 20) - 3
  expected = window_counts(recording_of(wave, rate)).astype(int)
  recording = recording_of(wave + constant, rate)
  found, removed, _ = resampling.read_window(recording, ENCODING)
  assert abs(removed - constant) < 1
  difference = found - expected
  # Float32 has 24 bits for the constant and the wave.
  assert np.ptp(difference) <= 2 + abs(constant) * 1000 / 2**22
  assert abs(np.median(found)) <= 30
  part, *_ = resampling.read_window(recording, ENCODING, 5, 10)
  assert np.ptp(part - expected[1500:4500]) <= 2 + abs(constant) / 4000
  filtered = window_counts(recording, 5, 10, bandpass=True)
  assert_allclose(
    filtered, window_counts(recording_of(wave, rate), 5, 10, bandpass=True),
    atol=3 + abs(constant) / 100,
  )  # fmt: skip


@pytest.mark.parametrize(
  'signal',
  [
    [20.0, 0.0, 1.0, 2.0],
    [32.767, 32.0, 32.5, 30.0],
    [-32.768, -32.0, -32.0, -31.0],
    [40.0, 0.0, 0.0, -40.0],
    [1e9, 0.0, 0.0, 0.1],
  ],
)
def test_no_constant_is_removed_otherwise(signal):
  found, removed, _ = resampling.read_window(recording_of(signal), ENCODING)
  assert removed == 0
  expected = np.clip(np.rint(np.multiply(signal, 1000)), -32768, 32767)
  assert_array_equal(found, expected)


def test_unsigned_words_are_not_cut_off():
  words = (COUNTS.astype(int) + 2**15).astype(np.uint16)
  found, removed, _ = resampling.read_window(
    recording_of(words, units='counts'), ENCODING
  )
  assert removed > 32
  assert np.ptp(found - COUNTS.astype(int)) <= 1


def _npy_header(text, claimed=None):
  body = text.encode() + b'\n'
  size = struct.pack('<I', claimed or len(body))
  return b'\x93NUMPY\x02\x00' + size + body


def broken_files(folder):
  """Kind -> path of a file that cannot be read, in a folder of its own."""
  whole = folder / 'whole'
  whole.mkdir()
  write_mat(whole, COUNTS)
  mat = (whole / 'A1.mat').read_bytes()
  edf = write_edf(whole, {'ECG': (COUNTS, 'mV')}).read_bytes()
  npy = write_npy(whole, COUNTS).read_bytes()
  bdf = write_bdf(whole, COUNTS).read_bytes()
  ishne = write_ishne(whole, COUNTS[None]).read_bytes()
  atc = write_atc(whole, COUNTS[None]).read_bytes()
  npz = write_npz(whole, ecg=COUNTS).read_bytes()
  hdf5 = write_hdf5(whole, ecg=COUNTS).read_bytes()
  dicom = write_dicom(whole, COUNTS[None]).read_bytes()
  note = edfio.EdfAnnotation(1, None, 'a')
  none = {'EEG Cz': (COUNTS, 'uV'), 'Flow': (COUNTS, 'l/s')}
  shape = "{'descr': '<f8', 'fortran_order': False, 'shape': (%d,)}"
  line = 'a.mat 16+24 1000/mV 16 0 -127 0 0 ECG\n'

  def header(text):
    def write(path):
      path.write_text(text)
      path.with_suffix('.mat').write_bytes(mat)

    return 'a.hea', write

  def array(values):
    return 'a.npy', lambda path: np.save(path, values, allow_pickle=True)

  def variables(**content):
    return 'a.mat', lambda path: scipy.io.savemat(path, content)

  junk = bytes(range(1, 256)) * 40
  anyhow = {'empty': b'', 'junk': junk, 'folder': pathlib.Path.mkdir}
  files = {
    f'{kind} {suffix}': (f'a{suffix}', content)
    for suffix in formats.SUFFIXES
    for kind, content in anyhow.items()
  } | {
    'truncated .edf': ('a.edf', edf[:-700]),
    'truncated .edf header': ('a.edf', edf[:300]),
    'truncated .mat': ('a.mat', mat[:5000]),
    'truncated .npy': ('a.npy', npy[:-700]),
    'a short signal file': header(f'a 1 300 {len(COUNTS) + 9}\n{line}'),
    'no signal file': header('a 1 300 9000\nb.dat 16 200/mV 16 0 0 0 0 ECG\n'),
    'a signal file elsewhere': header('a 1 300 9\nhttp://b/c.dat 16 200/mV\n'),
    'a signal file in another': header(f'a 1 300 9\na.mat::{line}'),
    'a huge length': header(f'a 1 300 {10**15}\n{line}'),
    'a large length': header(f'a 1 300 {10**10}\n{line}'),
    'a negative length': header(f'a 1 300 -9000\n{line}'),
    'a rate of zero': header(f'a 1 0 9000\n{line}'),
    'a negative rate': header(f'a 1 -300 9000\n{line}'),
    'a rate of NaN': header(f'a 1 nan 9000\n{line}'),
    'a huge rate': header(f'a 1 1e300 9000\n{line}'),
    'a huge frame': header('a 1 300 9000\na.mat 16x999999999+24 1000/mV\n'),
    'no lines of signals': header('a 3 300 9000\n'),
    'no signal': header('a 0 300 9000\n'),
    'an unknown format': header(
      'a 1 300 9000\na.mat 17 1000/mV 16 0 0 0 0 ECG\n'
    ),
    'another unit': header('a 1 300 9000\na.mat 16+24 10/mmHg 16 0 0 0 0 A\n'),
    'missing segments': header('a/2 1 300 9000\nb 4500\nc 4500\n'),
    'itself as a segment': header('a/1 1 300 9000\na 9000\n'),
    'segments that are gaps': header('a/1 1 300 9000\n~ 9000\n'),
    'a .dat without header': ('a.dat', COUNTS.tobytes()),
    'a word in the middle': ('a.csv', b'1\n2\nthree\n4\n'),
    'a word in its column': ('a.csv', b't,ecg\n1,2\n1,x\n'),
    'a row too long': ('a.csv', b't,ecg\n1,2\n\n3,4,5\n'),
    'a row too long, late': ('a.csv', b'1\n' * 2_000_000 + b'3 4\n'),
    'a text': ('a.txt', b'It was a dark and stormy night.\n' * 50),
    'columns without a name': ('a.csv', b'1,2\n3,4\n'),
    'an endless line': ('a.csv', b'x' * 300_000),
    'complex numbers': array(np.ones(9000, np.complex64)),
    'three axes': array(np.ones((2, 3, 4))),
    'no samples': array(np.ones(0)),
    'times': array(np.ones(9000, 'M8[s]')),
    'strings': array(np.full(900, 'a')),
    'records': array(np.zeros(900, [('a', 'f4')])),
    'truths': array(np.ones(900, bool)),
    'objects': array(np.array([_Trap()], object)),
    'a pickle': ('a.npy', pickle.dumps(_Trap())),
    'a huge array': ('a.npy', _npy_header(shape % 10**15)),
    'a huge header': ('a.npy', _npy_header(shape % 9, 2**31)),
    'a program': ('a.npy', _npy_header('__import__("os").abort()')),
    'a damaged .mat of version 7.3': ('a.mat', _save_hdf5),
    'two signals': variables(ecg=COUNTS, ppg=COUNTS),
    'no signal in a .mat': variables(fs=300, name='Ann'),
    'truncated .bdf': ('a.bdf', bdf[:-7]),
    'truncated .ecg': ('a.ecg', ishne[:-8]),
    'truncated .ecg header': ('a.ecg', ishne[:400]),
    'annotations in .ecg': ('a.ecg', b'ANN  1.0' + ishne[8:]),
    'truncated .atc': ('a.atc', atc[:-7]),
    'an .atc without leads': ('a.atc', atc[:308]),
    'an .atc without a format': ('a.atc', atc[:288] + atc[308:]),
    'truncated .npz': ('a.npz', npz[:-700]),
    'truncated .h5': ('a.h5', hdf5[:-7000]),
    'truncated .dcm': ('a.dcm', dicom[:-700]),
    'a .dcm without waveforms': ('a.dcm', dicom[:132]),
    'a file of macOS': ('._a.edf', b'\0\5\x16\7' + bytes(4000)),
    'a dangling link': ('a.edf', lambda x: x.symlink_to('b.edf')),
    'a text as val': variables(val='abc'),
    'a sparse val': variables(val=scipy.sparse.csc_matrix(COUNTS)),
    'a cell as val': variables(val=np.array([COUNTS, 1], object)),
    'a struct as val': variables(val={'a': 1}),
    'complex val': variables(val=COUNTS * 1j),
    'three axes of val': variables(val=np.ones((2, 3, 4))),
    'a huge val': ('a.mat', struct.pack('<5i', 0, 2**30, 2, 0, 4) + b'val\0'),
    'an EDF without ECG': ('a.edf', lambda x: write_edf(x.parent, none)),
    'annotations only': ('a.edf', edfio.Edf([], annotations=[note]).write),
    'a rate of zero in EDF': ('a.edf', edf[:244] + b'0       ' + edf[252:]),
    'a discontinuous EDF': ('a.edf', edf[:192] + b'EDF+D' + edf[197:]),
    'a huge count in EDF': ('a.edf', edf[:236] + b'99999999' + edf[244:]),
    'many signals in EDF': ('a.edf', edf[:252] + b'9999' + edf[256:]),
    'no suffix': ('a', b'1\n2\n'),
    'another suffix': ('a.xlsx', b'1\n2\n'),
  }
  paths = {kind: folder / kind / name for kind, (name, _) in files.items()}
  for kind, (_, content) in files.items():
    (folder / kind).mkdir()
    if isinstance(content, bytes):
      paths[kind].write_bytes(content)
    else:
      content(paths[kind])
  return paths


def _save_hdf5(path):
  with h5py.File(path, 'w', userblock_size=512) as file:
    file['val'] = COUNTS
  content = bytearray(path.read_bytes())
  content[:128] = b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM'
  path.write_bytes(content[:1200])


class _Trap:
  """Unpickling it makes a file."""

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path('unpickled'),)


WORDS = {
  'truncated .mat': 'is damaged or not what its name says',
  'two signals': 'choose with --variable; it has ecg (',
  'no signal in a .mat': 'has no variable with samples',
  'annotations in .ecg': 'has the annotations of an ISHNE Holter recording',
  'an .atc without leads': 'has no signal',
  'an .atc without a format': 'does not state its sampling rate',
  'a file of macOS': 'what macOS stores beside a file on other disks',
  'a dangling link': 'is a link to b.edf, which does not exist',
  'a sparse val': 'has csc_matrix, not an array of real numbers',
  'a row too long': 'has 3 columns, not 2',
  'a word in its column': "has '1,x' where a number belongs",
}
"""Part of the sentence about some of the files."""


def test_broken_files_are_explained(tmp_path, monkeypatch):
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  broken = broken_files(tmp_path)
  assert len(broken) > 60
  for kind, path in broken.items():
    print(kind)  # Shown if it is read after all.
    with pytest.raises(InputError) as raised:
      counts_of(path, **STATED)
    error = str(raised.value)
    assert path.stem in error, (kind, error)
    assert WORDS.get(kind, '') in error
    assert re.fullmatch(r'.{,598}\.', error), (kind, error)
  assert not list(pathlib.Path().iterdir())  # Nothing was unpickled.


@pytest.mark.parametrize('rate', [0.0, -1.0, np.nan, np.inf, 49.0, 1e9])
def test_impossible_rates_are_refused(rate, tmp_path):
  with pytest.raises(InputError, match='sampling rate of'):
    recording_of(COUNTS, rate)
  path = write_npy(tmp_path, COUNTS)
  with pytest.raises(InputError, match=r'a\.npy has a sampling rate of'):
    open_recording(path, sampling_rate=rate, units='mV')


def test_what_a_file_does_not_state_has_to_be_given(tmp_path):
  path = write_npy(tmp_path, COUNTS)
  for options in ({}, {'units': 'mV'}):
    with pytest.raises(InputError, match='--sampling_rate'):
      open_recording(path, **options)
  for units in (None, 'furlong'):
    with pytest.raises(InputError, match='--units'):
      open_recording(path, sampling_rate=300, units=units)


@pytest.mark.skipif(os.getuid() == 0, reason='root reads everything')
def test_an_unreadable_file_is_explained(tmp_path):
  path = write_csv(tmp_path, COUNTS)
  path.chmod(0)
  with pytest.raises(InputError, match=str(path)):
    counts_of(path, **STATED)
  path.chmod(stat.S_IRWXU)


def test_missing_files_and_empty_folders_are_explained(tmp_path):
  for path in (tmp_path, tmp_path / 'nothing.csv'):
    with pytest.raises(InputError, match=str(path)):
      find.find([path], with_arrays=True)
  with pytest.raises(InputError, match=r'x cannot be searched \(File name'):
    find.find([pathlib.Path('x' * 5000)], with_arrays=True)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Suffix -> file that is mutated, and the folder they are written to."""
  folder = tmp_path_factory.mktemp('whole')
  counts = COUNTS[:600]
  (folder / 'labchart').mkdir()
  blocks = [(counts[:9], counts[:50])] * 2
  return folder, {
    'hea': write_mat(folder, counts, 'a').read_bytes(),
    'mat': (folder / 'a.mat').read_bytes(),
    'edf': write_edf(folder, {'ECG': (counts, 'mV')}).read_bytes(),
    'csv': write_csv(folder, counts[:50]).read_bytes(),
    'npy': write_npy(folder, counts).read_bytes(),
    'segments': write_segments(folder).read_bytes(),
    'bdf': write_bdf(folder, counts).read_bytes(),
    'ecg': write_ishne(folder, counts[None]).read_bytes(),
    'atc': write_atc(folder, counts[None]).read_bytes(),
    'npz': write_npz(folder, ecg=counts[:50]).read_bytes(),
    'h5': write_hdf5(folder, ecg=counts[:50]).read_bytes(),
    'dcm': write_dicom(folder, counts[None]).read_bytes(),
    'vhdr': write_brainvision(folder, counts[None], 'v').read_bytes(),
    'labchart': write_mat5(
      folder / 'labchart', **labchart(blocks, times=(0, 99))
    ).read_bytes(),
  }


@pytest.mark.parametrize(
  'kind',
  [
    *('hea', 'mat', 'edf', 'csv', 'npy', 'segments'),
    *('bdf', 'ecg', 'atc', 'npz', 'h5', 'dcm', 'vhdr', 'labchart'),
  ],
)
@helpers.fuzzed
@given(data=st.data())
def test_accidents_are_explained(whole, kind, data):
  folder, files = whole
  content = data.draw(
    helpers.mutated(files[kind]) | helpers.mutated(files[kind][:256])
  )
  name = {'segments': 's.hea', 'labchart': 'l.mat'}.get(kind, f'a.{kind}')
  path = folder / name
  path.write_bytes(content)
  try:
    helpers.accepts_or_explains(lambda: counts_of(path, **STATED))
  finally:
    path.write_bytes(files[kind])

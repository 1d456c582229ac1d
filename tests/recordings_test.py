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
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.errors import InputError
from ecg_jax.recordings import find, formats, resampling, wfdb_files
from ecg_jax.recordings import lead as lead_lib
from tests import helpers

RATE = 300
ENCODING = lead_lib.Encoding(RATE, 1000.0)
STATED = {'sampling_rate': 300.0, 'units': 'counts'}
_, COUNTS, _ = generator.generate_record(0, 3)


def write_mat(folder, counts, name='A1'):
  """A record as the challenge has them, with its header."""
  scipy.io.savemat(folder / f'{name}.mat', {'val': counts[None]}, format='4')
  (folder / f'{name}.hea').write_text(
    f'{name} 1 300 {len(counts)} 05:05:15 1/05/2000 \n'
    f'{name}.mat 16+24 1000/mV 16 0 -127 0 0 ECG \n'
  )
  return folder / f'{name}.hea'


def write_wfdb(folder, counts, name='a', fmt='16', names=('MLII',)):
  wfdb.wrsamp(
    name,
    fs=RATE,
    units=['mV'] * len(names),
    sig_name=list(names),
    d_signal=np.atleast_2d(counts.T).T.astype(np.int64),
    fmt=[fmt] * len(names),
    adc_gain=[1000.0] * len(names),
    baseline=[0] * len(names),
    write_dir=str(folder),
  )
  return folder / f'{name}.hea'


def write_raw(folder, text, counts=COUNTS, name='a'):
  """A WFDB header as it stands here, and its .dat."""
  counts.astype('<i2').tofile(folder / f'{name}.dat')
  path = folder / f'{name}.hea'
  path.write_text(text)
  return path


def write_edf(folder, channels, seconds=1, **fields):
  """channels: name -> (counts, unit)."""
  edf = edfio.Edf(
    [
      edfio.EdfSignal.from_digital(
        counts[: len(counts) // RATE * RATE].astype(np.int16),
        RATE,
        label=label,
        physical_dimension=unit,
        physical_range=(-32768, 32767),
      )
      for label, (counts, unit) in channels.items()
    ],
    **fields,
  )
  edf.write(folder / 'a.edf')
  return folder / 'a.edf'


def write_csv(folder, counts):
  (folder / 'a.csv').write_text(
    'time,ecg\n'
    + ''.join(f'{k / RATE:.4f},{v / 1000}\n' for k, v in enumerate(counts))
  )
  return folder / 'a.csv'


def write_npy(folder, array):
  np.save(folder / 'a.npy', array)
  return folder / 'a.npy'


def open_recording(path, **options):
  return lead_lib.open_recording(path, ENCODING, **options)


def window_counts(recording, *part, **options):
  return resampling.window_counts(recording, ENCODING, *part, **options)


def counts_of(path, **options):
  return window_counts(open_recording(path, **options))


def recording_of(signal, sampling_rate=300, units='mV'):
  return lead_lib.from_array(
    signal,
    sampling_rate=sampling_rate,
    units=units,
    counts_per_millivolt=ENCODING.counts_per_millivolt,
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


ECG_LINE = 'a.dat 16 1000/mV 16 0 0 0 0 ECG\n'
PLAIN = ('a 1 300 5', 'a.bin 16+4 1000/mV 16 0 0 0 0 ECG')


@pytest.mark.parametrize(
  ('record', 'signal', 'plain'),
  [
    (*PLAIN, True),
    ('a 1 360.5 5 05:05:15 1/05/2000', 'a.bin 16+4 200.5(0)/uV 11 0 -7 9 0 V 5',
     True),
    ('a 1 300 5', 'a.bin 16+4 1000(7)/mV 16 0 0 0 0 ECG', False),
    ('a 1 300 5', 'a.bin 16+4 1000/mV 16 3 0 0 0 ECG', False),
    ('a 1 300 5', 'a.bin 16+4 0/mV 16 0 0 0 0 ECG', False),
    ('a 1 300 5', 'a.bin 16+4 1000 16 0 0 0 0 ECG', False),
    ('a 1 300 5', 'a.bin 61+4 1000/mV 16 0 0 0 0 ECG', False),
    ('a 1 300 2', 'a.bin 16x2+4 1000/mV 16 0 0 0 0 ECG', False),
    ('a 1 300/300 5', PLAIN[1], False),
  ],
)  # fmt: skip
def test_plain_wfdb_is_read_as_the_package_reads_it(
  tmp_path, record, signal, plain
):
  samples = np.array([5, -3, -(2**15), 2**15 - 1, 12], '<i2')
  (tmp_path / 'a.bin').write_bytes(b'head' + samples.tobytes())
  path = tmp_path / 'a.hea'
  path.write_text(f'{record}\n{signal}\n# a comment\n')
  assert (wfdb_files._read_plain_wfdb(path) is not None) == plain
  found = formats.read_channels(path)
  expected = wfdb.rdrecord(str(tmp_path / 'a'), smooth_frames=False)
  assert found.names == tuple(expected.sig_name)
  assert found.units == tuple(expected.units)
  [frames] = expected.samps_per_frame
  assert found.rates == (frames * expected.fs,)
  channel = found.open(0)
  assert channel.num_samples == frames * expected.sig_len
  [values] = expected.e_p_signal
  assert_array_equal(channel.read(0, len(values)), values)
  assert_array_equal(channel.read(1, 4), values[1:4])


@pytest.mark.parametrize(
  'signal',
  [PLAIN[1].replace('a.bin', name) for name in ('b.bin', '../a.bin', '~')],
)
def test_plain_wfdb_of_another_size_or_place_is_the_packages(tmp_path, signal):
  for record, size in ((PLAIN[0], 13), (PLAIN[0], 15), ('a 1 300 0', 4)):
    (tmp_path / 'a.bin').write_bytes(bytes(size))
    (tmp_path / 'a.hea').write_text(f'{record}\n{PLAIN[1]}\n')
    assert wfdb_files._read_plain_wfdb(tmp_path / 'a.hea') is None
  (tmp_path / 'a.bin').write_bytes(bytes(14))
  (tmp_path / 'a.hea').write_text(f'{PLAIN[0]}\n{signal}\n')
  assert wfdb_files._read_plain_wfdb(tmp_path / 'a.hea') is None


def test_samples_of_wfdb_formats_and_multiplied_rates(tmp_path):
  """Format 212, and a channel that is faster than its record."""
  small = (COUNTS // 8).astype(np.int16)
  path = write_wfdb(tmp_path, small, fmt='212')
  assert_array_equal(counts_of(path), small)
  wfdb.wrsamp(
    'b',
    fs=150,
    units=['mmHg', 'mV'],
    sig_name=['ABP', 'ECG'],
    e_d_signal=[small[: len(small) // 2], small[: len(small) // 2 * 2]],
    samps_per_frame=[1, 2],
    fmt=['16', '16'],
    adc_gain=[10.0, 1000.0],
    baseline=[0, 0],
    write_dir=str(tmp_path),
  )
  recording = open_recording(tmp_path / 'b.hea')
  assert (recording.lead, recording.sampling_rate) == ('ECG', 300)
  assert_array_equal(window_counts(recording, 3.01, 2), small[903:1503])


def test_a_wfdb_header_without_a_length_is_read_to_the_files_end(tmp_path):
  path = write_raw(tmp_path, f'a 1 300\n{ECG_LINE}')
  recording = open_recording(path)
  assert_array_equal(window_counts(recording), COUNTS)
  found = window_counts(recording, 5, 10)
  assert_array_equal(found, COUNTS[1500:4500])


@pytest.mark.parametrize('comment', ['', ' # from the ward'])
def test_a_wfdb_header_without_a_rate_needs_one(tmp_path, comment):
  """It is not the format's default of 250 Hz, nor the word of a comment."""
  path = write_raw(tmp_path, f'a 1{comment}\n{ECG_LINE}')
  with pytest.raises(InputError, match=r'a\.hea does not say its sampling rat'):
    counts_of(path)
  recording = open_recording(path, sampling_rate=300)
  assert (recording.sampling_rate, recording.notes) == (300, ())
  assert_array_equal(window_counts(recording), COUNTS)
  path = write_raw(tmp_path, f'a 1 300{comment}\n{ECG_LINE}')
  assert_array_equal(counts_of(path), COUNTS)


@pytest.mark.parametrize('gain', ['', ' 0', ' 0/mV 16', ' 0(0)/mV 16 0 0 0 0'])
def test_a_wfdb_gain_that_is_assumed_is_noted(tmp_path, gain):
  record = f'a 1 300 {len(COUNTS)}\na.dat 16'
  path = write_raw(tmp_path, f'{record}{gain}\n', COUNTS // 8)
  recording = open_recording(path)
  assert recording.notes == ('no gain stated: taken to be 200 a mV',)
  found = window_counts(recording)
  assert_array_equal(found, COUNTS // 8 * 5)
  path.write_text(f'{record} 200\n')
  assert not open_recording(path).notes


@pytest.mark.parametrize(
  ('layout', 'segment', 'noted'),
  [('200/mV', '0/mV', True), ('0/mV', '1000/mV', False), (None, '0/mV', True)],
)
def test_gain_is_that_of_the_segments_not_of_their_layout(
  tmp_path, layout, segment, noted
):
  counts = COUNTS[:3000]
  for name in ('s1', 's2'):
    text = f'{name} 1 300 3000\n{name}.dat 16 {segment} 16 0 0 0 0 ECG\n'
    write_raw(tmp_path, text, counts, name)
  first = '' if layout is None else 'layout 0\n'
  (tmp_path / 'layout.hea').write_text(
    f'layout 1 300 0\n~ 0 {layout} 0 0 0 0 0 ECG\n'
  )
  path = tmp_path / 's.hea'
  path.write_text(f's/{2 + bool(first)} 1 300 6000\n{first}s1 3000\ns2 3000\n')
  recording = open_recording(path)
  notes = [note.partition(':')[0] for note in recording.notes]
  assert notes == noted * ['no gain stated']
  expected = np.tile(counts * (5 if noted else 1), 2)
  assert_array_equal(window_counts(recording), expected)


def write_segments(folder):
  """Ten seconds of V5 beside MLII, a gap of four, five seconds of V5."""
  both = np.stack([COUNTS, COUNTS // 2], axis=1)
  write_wfdb(folder, both[:3000], 's1', names=('MLII', 'V5'))
  write_wfdb(folder, COUNTS[3000:4500], 's2', names=('V5',))
  (folder / 's_layout.hea').write_text(
    's_layout 2 300 0\n~ 0 1000/mV 0 0 0 0 0 MLII\n~ 0 1000/mV 0 0 0 0 0 V5\n'
  )
  (folder / 's.hea').write_text(
    's/4 2 300 5700\ns_layout 0\ns1 3000\n~ 1200\ns2 1500\n'
  )
  return folder / 's.hea'


def test_segments_of_a_recording_are_one(tmp_path):
  path = write_segments(tmp_path)
  assert find.find([tmp_path], with_arrays=False) == [path]
  recording = open_recording(path, lead='v5')
  assert (recording.lead, recording.num_samples) == ('V5', 5700)
  found = recording.millivolt(2000, 5000) * 1000
  assert_allclose(found[:1000], COUNTS[2000:3000] // 2, atol=1e-3)
  assert np.isnan(found[1000:2200]).all()
  assert_allclose(found[2200:], COUNTS[3000:3800], atol=1e-3)
  assert_array_equal(window_counts(recording, 14, 5), COUNTS[3000:4500])
  with pytest.raises(InputError, match=r'no samples at 10\.00 s'):
    window_counts(recording, 9, 3)
  lost = open_recording(path, lead='MLII')
  with pytest.raises(InputError, match='no samples'):
    window_counts(lost, 14, 5)


def test_what_is_found(tmp_path):
  header = write_mat(tmp_path, COUNTS)
  csv, npy = write_csv(tmp_path, COUNTS), write_npy(tmp_path, COUNTS)
  (tmp_path / 'RECORDS').write_text('A1\n')
  assert find.find([tmp_path], with_arrays=False) == [header]
  assert find.find([tmp_path], with_arrays=True) == [header, csv, npy]
  named = [tmp_path / 'A1.mat', tmp_path / 'A1', csv, header]
  assert find.find(named, with_arrays=False) == [header, csv]
  link = tmp_path / 'link.csv'
  link.symlink_to(csv)
  spellings = [csv, link, tmp_path / '..' / tmp_path.name / csv.name]
  assert find.find(spellings, with_arrays=True) == [csv]


@pytest.mark.parametrize(
  ('names', 'units', 'wanted', 'chosen'),
  [
    (('ECG',), (None,), None, 0),
    (('anything',), (None,), None, 0),
    (('RESP', 'ABP', 'II', 'V'), ('pm', 'mmHg', 'mV', 'mV'), None, 2),
    (('EEG Fpz', 'EKG'), ('uV', 'uV'), None, 1),
    (('EEG Fpz', 'EEG Cz', 'x'), ('uV', 'uV', 'mV'), None, 2),
    (('time', 'Lead I'), (None, None), None, 1),
    (('MLII', 'V5'), ('mV', 'mV'), None, 0),
    (('V5', 'MLII'), ('mV', 'mV'), 'mlii', 1),
    (('a', 'b'), ('mV', 'mV'), '1', 1),
    (('1', '0'), ('mV', 'mV'), '0', 1),
    (('ECG HR', 'aVF'), ('bpm', 'mV'), None, 1),
  ],
)
def test_the_lead_that_is_chosen(names, units, wanted, chosen):
  assert lead_lib.choose_lead('f', names, units, wanted) == chosen


@pytest.mark.parametrize(
  ('names', 'units', 'wanted'),
  [
    (('a', 'b'), (None, None), None),
    (('EEG', 'Flow'), ('uV', 'l/s'), None),
    (('SpO2',), ('%',), None),
    (('II', 'V'), ('mV', 'mV'), 'V1'),
    (('II', 'V'), ('mV', 'mV'), '2'),
    (('II', 'V'), ('mV', 'mV'), '-1'),
  ],
)
def test_an_unknown_lead_is_refused_with_those_there(names, units, wanted):
  with pytest.raises(InputError) as error:
    lead_lib.choose_lead('a.edf', names, units, wanted)
  assert 'a.edf' in str(error.value)
  for name in names:
    assert name in str(error.value)


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
  assert str(error.value).startswith(f'{path} has no samples at 0.00 s')


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


@pytest.mark.parametrize('kind', ['physical', 'digital'])
@pytest.mark.parametrize(
  ('low', 'high', 'words'),
  [
    ('7', '7', 'both 7'),
    ('', '', 'not two numbers'),
    ('-1', '', 'not two numbers'),
    ('nan', '1', 'not two numbers'),
  ],
)
def test_an_edf_without_a_scale_is_refused(tmp_path, kind, low, high, words):
  """Of the lead that is read; another one's does not matter."""
  leads = {'ECG': (COUNTS, 'uV'), 'V5': (COUNTS, 'uV')}
  path = write_edf(tmp_path, leads)
  content = bytearray(path.read_bytes())
  # After a label, a transducer and a unit of each of the two leads.
  start = 256 + 2 * (16 + 80 + 8) + 2 * 16 * (kind == 'digital')
  content[start : start + 8] = low.ljust(8).encode()
  content[start + 16 : start + 24] = high.ljust(8).encode()
  path.write_bytes(content)
  with pytest.raises(InputError) as error:
    counts_of(path)
  for word in (str(path), f'{kind} minimum', 'lead ECG', words):
    assert word in str(error.value)
  assert np.abs(counts_of(path, lead='V5')).max() > 100


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
    for suffix in ('.hea', '.mat', '.edf', '.csv', '.npy')
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
    'a .mat of version 7.3': ('a.mat', _save_hdf5),
    'no val': variables(ecg=COUNTS),
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
  path.write_bytes(content)


class _Trap:
  """Unpickling it makes a file."""

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path('unpickled'),)


WORDS = {
  'truncated .mat': 'is damaged or not what its name says',
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
  return folder, {
    'hea': write_mat(folder, counts, 'a').read_bytes(),
    'mat': (folder / 'a.mat').read_bytes(),
    'edf': write_edf(folder, {'ECG': (counts, 'mV')}).read_bytes(),
    'csv': write_csv(folder, counts[:50]).read_bytes(),
    'npy': write_npy(folder, counts).read_bytes(),
    'segments': write_segments(folder).read_bytes(),
  }


@pytest.mark.parametrize(
  'kind', ['hea', 'mat', 'edf', 'csv', 'npy', 'segments']
)
@helpers.fuzzed
@given(data=st.data())
def test_accidents_are_explained(whole, kind, data):
  folder, files = whole
  content = data.draw(
    helpers.mutated(files[kind]) | helpers.mutated(files[kind][:256])
  )
  suffix = 'hea' if kind == 'segments' else kind
  path = folder / f'{"s" if kind == "segments" else "a"}.{suffix}'
  path.write_bytes(content)
  try:
    helpers.accepts_or_explains(lambda: counts_of(path, **STATED))
  finally:
    path.write_bytes(files[kind])

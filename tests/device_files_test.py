"""Files of devices: ISHNE Holter, ATC of Kardia, DICOM, BrainVision."""

import sys
import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecg_jax.errors import InputError
from ecg_jax.recordings import find, formats
from tests.recording_files import (
  COUNTS,
  counts_of,
  open_recording,
  window_counts,
  write_atc,
  write_brainvision,
  write_dicom,
  write_ishne,
)

LEADS = np.stack([COUNTS, COUNTS // 2, -COUNTS])
LEAD_NAMES = [
  *('I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6'),
]
WRITERS = {'ishne': write_ishne, 'atc': write_atc, 'dicom': write_dicom}


@pytest.mark.parametrize('form', WRITERS)
@pytest.mark.parametrize('leads', [1, 2, 3])
def test_a_device_states_all_itself(tmp_path, form, leads):
  path = WRITERS[form](tmp_path, LEADS[:leads])
  assert find.find([tmp_path], with_arrays=False) == [path]
  for number in range(leads):
    recording = open_recording(path, lead=str(number))
    assert (recording.sampling_rate, recording.notes) == (300, ())
    assert recording.num_samples == len(COUNTS)
    assert_array_equal(window_counts(recording), LEADS[number])
    assert_array_equal(window_counts(recording, 3, 4), LEADS[number][900:2100])
  found = formats.read_channels(path)
  for secret in ('Ann', 'Example', '2010', '15:54'):
    assert secret not in str(found.facts) + str(found.channels)


@pytest.mark.parametrize(
  ('numbers', 'names'),
  [
    ([5, 6, 7], ['I', 'II', 'III']),
    ([8, 9, 10], ['aVR', 'aVL', 'aVF']),
    ([11, 14, 16], ['V1', 'V4', 'V6']),
    ([2, 3, 4], ['ECG X', 'ECG Y', 'ECG Z']),
    ([17, 18, 19], ['ECG ES', 'ECG AS', 'ECG AI']),
    ([0, 1, -9], ['ECG 1', 'ECG 2', 'ECG 3']),
  ],
)
def test_leads_of_an_ishne_file(tmp_path, numbers, names):
  path = write_ishne(tmp_path, LEADS, leads=numbers)
  assert [x.name for x in formats.read_channels(path).channels] == names


@pytest.mark.parametrize('resolution', [1, 500, 2500, 32767])
def test_resolutions_of_an_ishne_file(tmp_path, resolution):
  counts = COUNTS // 40
  path = write_ishne(tmp_path, counts[None], resolutions=[resolution])
  found = open_recording(path).millivolt(0, len(counts))
  assert_allclose(found, counts * (resolution / 1e6), rtol=1e-6)


def test_what_an_ishne_file_does_not_state_has_to_be_given(tmp_path):
  path = write_ishne(tmp_path, LEADS, rate=0)
  with pytest.raises(InputError, match='--sampling_rate'):
    counts_of(path)
  assert_array_equal(counts_of(path, sampling_rate=300), COUNTS)
  path = write_ishne(tmp_path, LEADS, resolutions=[0, -9, 1000])
  with pytest.raises(InputError, match='--units'):
    counts_of(path, lead='1')
  assert_array_equal(counts_of(path, lead='1', units='counts'), LEADS[1])


@pytest.mark.parametrize(
  ('leads', 'claimed', 'read', 'noted'),
  [
    (1, 9000, 9000, False),
    (3, 9000, 9000, False),
    (3, 27000, 9000, False),
    (3, 27002, 9000, False),
    (3, 0, 9000, False),
    (3, -1, 9000, False),
    (1, 8000, 8000, True),
    (3, 8000, 8000, True),
    (1, 9001, None, False),
    (3, 9001, None, False),
    (2, 20000, None, False),
    (3, 30000, None, False),
  ],
)
def test_lengths_of_an_ishne_file(tmp_path, leads, claimed, read, noted):
  """Of a lead or of all; samples beyond what it states are not read."""
  path = write_ishne(tmp_path, LEADS[:leads, :9000], claimed=claimed)
  if read is None:
    with pytest.raises(InputError, match='was cut off'):
      open_recording(path)
    return
  recording = open_recording(path)
  assert recording.num_samples == read
  assert bool(recording.notes) == noted
  assert_array_equal(window_counts(recording), COUNTS[:read])


@pytest.mark.parametrize(('checksum', 'noted'), [(0, 0), (7, 1)])
def test_checksums_of_an_ishne_file(tmp_path, checksum, noted):
  path = write_ishne(tmp_path, LEADS, checksum=checksum)
  notes = open_recording(path).notes
  assert (
    notes == ('the checksum of the header is wrong: it may be damaged',)[:noted]
  )


def test_missing_samples_of_an_ishne_file(tmp_path):
  counts = LEADS[:, :3000].copy()
  counts[0, 1000:1100] = -(2**15)
  recording = open_recording(write_ishne(tmp_path, counts))
  assert np.isnan(recording.millivolt(1000, 1100)).all()
  assert np.isfinite(recording.millivolt(0, 1000)).all()


@pytest.mark.parametrize('leads', [1, 6, 12])
@pytest.mark.parametrize(('resolution', 'rate'), [(500, 300), (1000, 600)])
def test_leads_of_an_atc_file(tmp_path, leads, resolution, rate):
  each = np.stack([COUNTS // (k + 1) for k in range(leads)])
  path = write_atc(tmp_path, each, resolution=resolution, rate=rate)
  names = [
    'I',
    'II',
    'III',
    'aVR',
    'aVL',
    'aVF',
    'V1',
    'V2',
    'V3',
    'V4',
    'V5',
    'V6',
  ][:leads]
  found = formats.read_channels(path)
  assert [x.name for x in found.channels] == names
  for number, name in enumerate(names):
    recording = open_recording(path, lead=name)
    assert recording.sampling_rate == rate
    values = recording.millivolt(0, recording.num_samples)
    assert_allclose(values, each[number] * (resolution / 1e6), rtol=1e-6)


@pytest.mark.parametrize(
  ('checksum', 'noted'), [(sum, False), (zlib.crc32, False), (len, True)]
)
def test_checksums_of_an_atc_file(tmp_path, checksum, noted):
  recording = open_recording(write_atc(tmp_path, LEADS, checksum=checksum))
  damaged = 'the checksum of lead I is wrong: it may be damaged'
  assert list(recording.notes) == [damaged] * noted


def test_an_atc_file_of_another_format_is_refused(tmp_path):
  path = write_atc(tmp_path, LEADS, encoding=2)
  with pytest.raises(InputError, match='samples of format 2'):
    open_recording(path)


@pytest.mark.parametrize(
  ('fields', 'factor', 'offset'),
  [
    ({'unit': 'uV'}, 1e-3, 0),
    ({'unit': 'mV', 'sensitivity': 0.001}, 1e-3, 0),
    ({'unit': 'uV', 'sensitivity': 4.88}, 4.88e-3, 0),
    ({'unit': 'uV', 'sensitivity': 2.5, 'correction': 2}, 5e-3, 0),
    ({'unit': 'uV', 'baseline': 40}, 1e-3, 0.04),
    ({'unit': 'nV', 'sensitivity': 1000}, 1e-3, 0),
  ],
)
def test_units_of_dicom_waveforms(tmp_path, fields, factor, offset):
  path = write_dicom(tmp_path, LEADS, **fields)
  recording = open_recording(path, lead='1')
  assert recording.lead == 'Lead II (Einthoven)'
  values = recording.millivolt(0, recording.num_samples)
  assert_allclose(values, LEADS[1] * factor + offset, rtol=1e-5, atol=1e-6)


def test_dicom_counts_without_a_unit_need_one(tmp_path):
  path = write_dicom(tmp_path, LEADS, unit=None)
  with pytest.raises(InputError, match='--units'):
    open_recording(path, lead='0')
  assert_array_equal(counts_of(path, lead='0', units='uV'), COUNTS)


def test_padding_of_dicom_waveforms_is_missing(tmp_path):
  counts = LEADS[:, :3000].copy()
  counts[0, 1000:1100] = -30000
  recording = open_recording(write_dicom(tmp_path, counts, padding=-30000))
  assert np.isnan(recording.millivolt(1000, 1100)).all()
  assert np.isfinite(recording.millivolt(0, 1000)).all()


def test_dicom_without_its_package_names_the_extra(tmp_path, monkeypatch):
  path = write_dicom(tmp_path, LEADS)
  monkeypatch.setitem(sys.modules, 'pydicom', None)
  with pytest.raises(InputError, match=r'install ecg_jax\[devices\] to read'):
    open_recording(path)


def test_another_kind_of_ecg_file_is_named_as_such(tmp_path):
  (tmp_path / 'a.ecg').write_bytes(b'MUSE 7' + bytes(900))
  with pytest.raises(InputError, match='does not begin as an ISHNE Holter'):
    open_recording(tmp_path / 'a.ecg')


@pytest.mark.parametrize('order', ['MULTIPLEXED', 'VECTORIZED'])
@pytest.mark.parametrize(
  ('form', 'big'),
  [('INT_16', False), ('INT_16', True), ('INT_32', True),
   ('IEEE_FLOAT_32', False), ('ASCII', False)],
)  # fmt: skip
def test_brainvision(tmp_path, order, form, big):
  path = write_brainvision(tmp_path, LEADS, form=form, order=order, big=big)
  assert find.find([tmp_path], with_arrays=False) == [path]
  for number, name in enumerate(('ECG', 'Fp1', 'F,z')):
    recording = open_recording(path, lead=name)
    assert (recording.sampling_rate, recording.unit) == (300, 'µV')
    found = recording.millivolt(100, recording.num_samples)
    assert_allclose(found, LEADS[number][100:] / 2000, atol=1e-6)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'DataPoints': 10**6}, r'claims 3 channels of 1000000 .* a\.eeg has 3 of'),
    ({'NumberOfChannels': 0}, "has '0' as numberofchannels"),
    ({'SamplingInterval': 'x'}, "has 'x' as samplinginterval"),
    ({'form': 'INT_12'}, "'INT_12', which is unknown: export it as INT_16"),
    ({'DataFile': 'b.eeg'}, r'b\.eeg: No such file'),
    ({'DataType': 'FREQUENCYDOMAIN'}, 'has spectra'),
    ({'Ch1': 'ECG,,1,C'}, "is in 'C', not a voltage"),
  ],
)
def test_brainvision_that_cannot_be_read_is_explained(tmp_path, fields, words):
  path = write_brainvision(tmp_path, LEADS, **{'DataFormat': 'BINARY'} | fields)
  with pytest.raises(InputError, match=words):
    counts_of(path, lead='0')


def test_brainvision_of_several_segments_is_refused(tmp_path):
  path = write_brainvision(tmp_path, LEADS)
  marks = [
    'Mk1=New Segment,,1,1,0,20240102030405000000',
    'Mk2=Stimulus,S1,9,1,0',
  ]
  for more, refused in (([], False), (['Mk3=New Segment,,4001,1,0'], True)):
    (tmp_path / 'a.vmrk').write_text('\n'.join([*marks, *more]))
    if refused:
      with pytest.raises(InputError, match='has 2 segments'):
        counts_of(path, lead='0')
    else:
      counts_of(path, lead='0')

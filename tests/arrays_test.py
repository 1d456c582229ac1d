"""Variables of MATLAB, NumPy and HDF5 files: the signal, of any name."""

import sys

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.testing import assert_array_equal

from ecg_jax.errors import InputError
from ecg_jax.recordings import formats
from tests.recording_files import (
  COUNTS,
  STATED,
  counts_of,
  labchart,
  open_recording,
  write_mat5,
)

ROW = COUNTS[None].astype(np.float64) / 1000
MILLIVOLT = {'sampling_rate': 300.0, 'units': 'mV'}


def write_compressed(folder, **variables):
  scipy.io.savemat(folder / 'a.mat', variables, do_compression=True)
  return folder / 'a.mat'


def write_npz(folder, **variables):
  np.savez_compressed(folder / 'a.npz', **variables)
  return folder / 'a.npz'


def _fill(group, variables, matlab):
  for name, value in variables.items():
    if isinstance(value, dict):
      _fill(group.create_group(name), value, matlab)
    elif matlab and np.asarray(value).dtype.kind == 'U':
      texts = np.atleast_1d(value).tolist()
      rows = [text.ljust(max(map(len, texts))) for text in texts]
      codes = np.array([[ord(x) for x in row] for row in rows], np.uint16)
      group[name] = codes.T
      group[name].attrs['MATLAB_class'] = np.bytes_('char')
    else:
      # MATLAB stores columns first.
      transposed = matlab and isinstance(value, np.ndarray)
      group[name] = value.T if transposed else value


def write_hdf5(folder, **variables):
  with h5py.File(folder / 'a.h5', 'w') as file:
    _fill(file, variables, matlab=False)
  return folder / 'a.h5'


def write_mat73(folder, **variables):
  path = folder / 'a.mat'
  with h5py.File(path, 'w', userblock_size=512) as file:
    _fill(file, variables, matlab=True)
  content = bytearray(path.read_bytes())
  content[:128] = b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM'
  path.write_bytes(content)
  return path


WRITERS = [write_mat5, write_compressed, write_npz, write_hdf5, write_mat73]
NESTING = [write_mat5, write_hdf5, write_mat73]


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize(
  ('variables', 'chosen'),
  [
    ({'ecg': ROW}, 'ecg'),
    ({'x': ROW.T}, 'x'),
    ({'data': ROW[0]}, 'data'),
    ({'val': ROW, 'other': ROW * 2}, 'val'),
    ({'ecg': ROW, 'fs': 300}, 'ecg'),
    ({'ecg': ROW, 'age': np.ones((1, 1)), 'peaks': np.ones((1, 7))}, 'ecg'),
    ({'ecg': ROW, 'name': 'Ann'}, 'ecg'),
    ({'ecg': ROW.astype(np.float32)}, 'ecg'),
    ({'ECG_signal': ROW, 'cube': np.ones((60, 60, 2))}, 'ECG_signal'),
  ],
)
def test_the_only_variable_of_numbers_is_the_signal(
  tmp_path, write, variables, chosen
):
  path = write(tmp_path, **variables)
  assert formats.read_channels(path).facts['variable'] == chosen
  assert np.abs(counts_of(path, **MILLIVOLT) - COUNTS).max() <= 1


@pytest.mark.parametrize('write', NESTING)
@pytest.mark.parametrize(
  ('variables', 'wanted'),
  [
    ({'ECG': {'data': ROW, 'sex': 'Male', 'age': 74}}, None),
    ({'ECG': {'data': ROW}, 'PPG': {'data': ROW * 2}}, 'ECG.data'),
    ({'a': {'b': {'c': ROW}}}, None),
    ({'a': {'b': {'c': ROW, 'd': ROW * 2}}}, 'A.B.C'),
  ],
)
def test_fields_of_structures_are_variables(tmp_path, write, variables, wanted):
  path = write(tmp_path, **variables)
  found = counts_of(path, variable=wanted, **MILLIVOLT)
  assert np.abs(found - COUNTS).max() <= 1


@pytest.mark.parametrize('write', WRITERS)
def test_several_variables_are_listed(tmp_path, write):
  path = write(tmp_path, ecg=ROW, ppg=ROW * 2, fs=300)
  with pytest.raises(InputError) as error:
    open_recording(path, **MILLIVOLT)
  for words in ('a.', '--variable', 'ecg (', 'ppg (', f'{len(COUNTS)}'):
    assert words in str(error.value)
  for wanted in ('ecg', 'ECG', ' ecg '):
    assert counts_of(path, variable=wanted, **MILLIVOLT).max() > 0
  with pytest.raises(InputError, match=r"no variable 'eeg'.*it has ecg"):
    open_recording(path, variable='eeg', **MILLIVOLT)


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize(
  ('variables', 'words'),
  [
    ({'name': 'Ann'}, 'a.'),
    ({'fs': 300, 'age': 70}, 'no variable with samples'),
    ({'ecg': np.ones((60, 60, 2)), 'fs': 3}, 'no variable with samples'),
    ({'ecg': ROW * 1j, 'fs': 300}, 'no variable with samples'),
  ],
)
def test_no_signal_is_explained(tmp_path, write, variables, words):
  path = write(tmp_path, **variables)
  with pytest.raises(InputError) as error:
    open_recording(path, **MILLIVOLT)
  assert words in str(error.value)


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize(
  ('others', 'rate'),
  [
    ({'fs': 300}, 300),
    ({'Fs': 257.5}, 257.5),
    ({'SampleRate': np.array([[500]])}, 500),
    ({'sampling_rate': 1000.0}, 1000),
    ({'sfreq': 128}, 128),
    ({'isi': 2.0, 'isi_units': 'ms'}, 500),
    ({'isi': 0.004, 'isi_units': 's'}, 250),
    ({'fs': 300, 'Fs_ecg': 250}, None),
    ({'fs': -1}, None),
    ({'n': 300}, None),
    ({'fs': 'fast'}, None),
    ({}, None),
  ],
)
def test_a_rate_beside_the_signal_is_that_of_the_signal(
  tmp_path, write, others, rate
):
  path = write(tmp_path, ecg=ROW, **others)
  [channel] = formats.read_channels(path).channels
  assert channel.rate == rate
  if rate is None:
    with pytest.raises(InputError, match='--sampling_rate'):
      open_recording(path, units='mV')
  else:
    assert open_recording(path, units='mV').sampling_rate == rate
    assert channel.rate_from.startswith('variable ')


@pytest.mark.parametrize('write', WRITERS)
def test_a_unit_beside_the_signal_is_that_of_the_signal(tmp_path, write):
  path = write(tmp_path, ecg=COUNTS[None], units='uV', fs=300)
  [channel] = formats.read_channels(path).channels
  assert channel.unit == 'uV'
  assert_array_equal(counts_of(path), COUNTS)
  path = write(tmp_path, ecg=COUNTS[None], units='furlong', fs=300)
  assert formats.read_channels(path).channels[0].unit is None


def test_attributes_of_hdf5_count_too(tmp_path):
  path = write_hdf5(tmp_path, group={'ecg': COUNTS})
  with h5py.File(path, 'a') as file:
    file['group/ecg'].attrs['units'] = 'µV'
    file['group'].attrs['sampling_rate'] = 300.0
  [channel] = formats.read_channels(path).channels
  assert (channel.rate, channel.unit) == (300, 'µV')


def test_names_of_several_leads(tmp_path):
  path = write_npz(
    tmp_path,
    ecg=np.concatenate([ROW, 2 * ROW]),
    labels=np.array(['I', 'II']),
    fs=300,
    units=np.array(['mV', 'mV']),
  )
  recording = open_recording(path, lead='II')
  assert recording.lead == 'II'
  assert np.abs(recording.millivolt(0, 9) - 2 * ROW[0, :9]).max() < 1e-5


@pytest.mark.parametrize('write', [write_hdf5, write_mat73])
@pytest.mark.parametrize('shape', ['rows', 'columns'])
def test_hdf5_is_read_in_pieces(tmp_path, write, shape):
  leads = np.stack([COUNTS, -COUNTS, COUNTS // 2])
  path = write(tmp_path, ecg=leads if shape == 'rows' else leads.T)
  found = formats.read_channels(path)
  assert len(found.channels) == 3
  for number, lead in enumerate(leads):
    channel = found.open(number)
    assert channel.num_samples == len(lead)
    assert_array_equal(channel.read(1000, 1010), lead[1000:1010])


@pytest.mark.parametrize('write', [write_hdf5, write_mat73])
def test_hdf5_without_its_package_names_the_extra(tmp_path, write, monkeypatch):
  path = write(tmp_path, ecg=ROW)
  monkeypatch.setitem(sys.modules, 'h5py', None)
  with pytest.raises(InputError, match=r'install ecg_jax\[devices\] to read'):
    open_recording(path, **MILLIVOLT)


def test_only_val_is_taken_for_a_record_of_the_challenge(tmp_path):
  recording = open_recording(write_mat5(tmp_path, val=COUNTS))
  assert len(recording.notes) == 2
  path = write_mat5(tmp_path, val=COUNTS, fs=250)
  recording = open_recording(path)
  assert (recording.sampling_rate, len(recording.notes)) == (250, 1)
  for options in ({}, {'units': 'mV'}):
    with pytest.raises(InputError, match='--sampling_rate'):
      open_recording(write_mat5(tmp_path, ecg=COUNTS), **options)
  assert_array_equal(
    counts_of(write_mat5(tmp_path, ecg=COUNTS), **STATED), COUNTS
  )


def test_a_npz_that_would_fill_the_memory_is_refused(tmp_path):
  """Zeros take a thousandth of their size in the file."""
  path = write_npz(tmp_path, ecg=np.zeros(2**27 + 2**17, np.int64))
  assert path.stat().st_size < 2**24
  with pytest.raises(InputError, match='more than 1 GiB'):
    open_recording(path, **STATED)


def test_objects_of_a_npz_are_not_unpickled(tmp_path):
  path = write_npz(tmp_path, a=np.array([{}], object), ecg=COUNTS)
  assert_array_equal(counts_of(path, **STATED), COUNTS)


HALF = len(COUNTS) // 2


@pytest.mark.parametrize('pause', [0.0, 10.0, 3600.0])
@pytest.mark.parametrize('breath', [0, 1000, HALF])
@pytest.mark.parametrize('write', NESTING[::2])
def test_blocks_of_labchart(tmp_path, pause, breath, write):
  parts = COUNTS[:HALF] / 1000, COUNTS[HALF:] / 1000
  blocks = [(np.ones(breath), part) for part in parts]
  times = 0.0, HALF / 300 + pause
  path = write(tmp_path, **labchart(blocks, times=times))
  found = formats.read_channels(path)
  assert found.facts['format'] == 'MATLAB of LabChart'
  assert [x.name for x in found.channels] == ['Breath', 'ECG lead']
  assert [x.unit for x in found.channels] == ['V', 'mV']
  recording = open_recording(path, lead='ECG lead')
  gap = round(pause * 300)
  assert recording.num_samples == len(COUNTS) + gap
  values = recording.millivolt(0, recording.num_samples)
  assert np.isnan(values[HALF : HALF + gap]).all()
  joined = np.concatenate([values[:HALF], values[HALF + gap :]])
  np.testing.assert_allclose(joined, COUNTS / 1000, atol=1e-6)


@pytest.mark.parametrize(
  ('others', 'words'),
  [
    ({'dataend': np.full((2, 1), 1e9)}, 'has blocks beyond its'),
    ({'datastart': np.full((3, 1), 1.0)}, '2 titles and 3 values'),
    ({'blocktimes': np.zeros((1, 7))}, 'does not state when its 1 blocks'),
    ({'data': np.array(['x'])}, 'has blocks beyond'),
  ],
)
def test_what_does_not_fit_in_a_labchart_file_is_explained(
  tmp_path, others, words
):
  variables = labchart([(COUNTS, COUNTS)], **others)
  path = write_mat5(tmp_path, **variables)
  with pytest.raises(InputError, match=words):
    open_recording(path, lead='1')


@pytest.mark.parametrize('times', [(0.0, 1.0), (100.0, 0.0), (0.0, 1e9)])
def test_impossible_times_of_labchart_are_refused(tmp_path, times):
  blocks = [(COUNTS, COUNTS)] * 2
  path = write_mat5(tmp_path, **labchart(blocks, times=times))
  with pytest.raises(InputError, match='export one of them'):
    open_recording(path, lead='1')


@pytest.mark.parametrize('kind', [0, 8, 10, 19, 25, 200, 2**15])
def test_types_that_would_end_the_process_are_explained(tmp_path, kind):
  """SciPy takes an unknown type of data for an address in memory."""
  path = write_mat5(tmp_path, **labchart([(COUNTS[:9], COUNTS[:50])]))
  whole = path.read_bytes()
  places = [k for k in range(128, len(whole), 8) if whole[k : k + 4] == (
    b'\t\0\0\0')]  # fmt: skip
  assert len(places) > 5
  for place in places:
    path.write_bytes(
      whole[:place] + kind.to_bytes(4, 'little') + whole[place + 4 :]
    )
    with pytest.raises(InputError, match=f'type {kind} at byte {place}'):
      open_recording(path, lead='1')


@pytest.mark.parametrize('compressed', [False, True])
def test_types_of_structures_are_known(tmp_path, compressed):
  nested = {'ecg': ROW, 'info': {'name': 'x', 'list': [1.5, 'a', {'b': ROW}]}}
  path = tmp_path / 'a.mat'
  scipy.io.savemat(path, {'r': nested, 'cube': np.ones((2, 3, 4), np.int8)},
                   do_compression=compressed)  # fmt: skip
  found = counts_of(path, variable='r.ecg', **MILLIVOLT)
  assert_array_equal(found, COUNTS)


def test_labchart_without_a_unit_needs_one(tmp_path):
  variables = labchart([(COUNTS, COUNTS)], unittextmap=np.full((2, 1), -1.0))
  path = write_mat5(tmp_path, **variables)
  with pytest.raises(InputError, match='--units'):
    open_recording(path, lead='1')
  assert_array_equal(counts_of(path, lead='1', units='uV'), COUNTS)


@pytest.mark.parametrize('write', WRITERS)
def test_where_unit_and_rate_come_from_is_kept(tmp_path, write):
  path = write(tmp_path, ecg=ROW, fs=500.0, units='mV')
  recording = open_recording(path)
  assert recording.unit_from == 'variable of units'
  assert recording.rate_from == 'variable fs'

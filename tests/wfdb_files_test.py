"""WFDB records: one rule, whatever their number of leads and segments."""

import unicodedata

import numpy as np
import pytest
import wfdb
from numpy.testing import assert_allclose, assert_array_equal

from ecg_jax.errors import InputError
from ecg_jax.recordings import find, formats, units, wfdb_signals
from tests.recording_files import (
  COUNTS,
  counts_of,
  open_recording,
  window_counts,
  write_raw,
  write_segments,
  write_wfdb,
)

ECG_LINE = 'a.dat 16 1000/mV 16 0 0 0 0 ECG\n'
NAMES = [
  *('I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6'),
]


def check_as_package(folder, name='a'):
  """Each channel of a record is what the wfdb package reads."""
  found = formats.read_channels(folder / f'{name}.hea')
  expected = wfdb.rdrecord(
    str(folder / name), smooth_frames=False, ignore_skew=True
  )
  assert [x.name for x in found.channels] == expected.sig_name
  assert [x.unit for x in found.channels] == expected.units
  for number, values in enumerate(expected.e_p_signal):
    frames = expected.samps_per_frame[number]
    assert found.channels[number].rate == frames * expected.fs
    channel = found.open(number)
    assert channel.num_samples == frames * expected.sig_len == len(values)
    assert_array_equal(channel.read(0, len(values)), values)
    for start, stop in ((1, 4), (4, 5), (2, len(values)), (3, 3)):
      start, stop = min(start, len(values)), min(stop, len(values))
      assert_array_equal(channel.read(start, stop), values[start:stop])


@pytest.mark.parametrize(
  ('record', 'signal'),
  [
    ('a 1 300 5', 'a.bin 16+4 1000/mV 16 0 0 0 0 ECG'),
    ('a 1 360.5 5 05:05:15 1/05/2000',
     'a.bin 16+4 200.5(0)/uV 11 0 -7 9 0 V 5'),
    ('a 1 300 5', 'a.bin 16+4 1000(7)/mV 16 0 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 16+4 1000(-7)/mV 16 9 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 16+4 1000/mV 16 3 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 16+4 1000.25/mV 16 -300 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 16+4 -1e3/mV 16 0 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 16+4 0/mV 16 0 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 16+4 1000 16 0 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 61+4 1000/mV 16 0 0 0 0 ECG'),
    ('a 1 300 2', 'a.bin 16x2+4 1000/mV 16 0 0 0 0 ECG'),
    ('a 1 300 5', 'a.bin 16:3+4 1000/mV 16 0 0 0 0 ECG'),
    ('a 1 300/300 5', 'a.bin 16+4 1000/mV 16 0 0 0 0 ECG'),
    ('a 1 300/1000(5) 5', 'a.bin 16+4 1000/mV 16 0 0 0 0 ECG'),
  ],
)  # fmt: skip
def test_headers_mean_what_they_mean_to_the_package(tmp_path, record, signal):
  samples = np.array([5, -3, -(2**15), 2**15 - 1, 12], '<i2')
  (tmp_path / 'a.bin').write_bytes(b'head' + samples.tobytes())
  (tmp_path / 'a.hea').write_text(f'{record}\n{signal}\n# a comment\n')
  check_as_package(tmp_path)


@pytest.mark.parametrize('encoding', sorted({*wfdb_signals.FORMATS}))
@pytest.mark.parametrize('frames', [(1,), (1, 1, 1), (2, 2), (1, 3)])
def test_sample_formats_are_those_of_the_package(tmp_path, encoding, frames):
  rng = np.random.default_rng(len(frames))
  content = rng.integers(0, 256, 4000, np.uint8)
  if encoding == '311':  # Of its 32 bits, 30 are used.
    content[3::4] &= 0x3F
  count = 600
  if encoding.startswith('5'):
    if len({*frames}) > 1:
      pytest.skip('FLAC has channels of one rate')
    bits = int(encoding) - 500
    wfdb.wrsamp(
      'a', fs=300, units=['mV'] * len(frames),
      sig_name=NAMES[: len(frames)], fmt=[encoding] * len(frames),
      e_d_signal=[
        rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, count * frame)
        for frame in frames
      ],
      samps_per_frame=list(frames), adc_gain=[100.5] * len(frames),
      baseline=[3] * len(frames), write_dir=str(tmp_path),
    )  # fmt: skip
    (tmp_path / 'a.dat').stat()
  else:
    total = count * sum(frames)
    samples, size = wfdb_signals._PACKED.get(
      encoding, (1, np.dtype(wfdb_signals._DTYPES.get(encoding, 'i1')).itemsize)
    )
    needed = -(-total // samples) * size
    (tmp_path / 'a.dat').write_bytes(np.resize(content, needed).tobytes())
    (tmp_path / 'a.hea').write_text(
      f'a {len(frames)} 300 {count}\n'
      + ''.join(
        f'a.dat {encoding}x{frame} 100.5(3)/mV 12 0 7 0 0 {name}\n'
        for frame, name in zip(frames, NAMES, strict=False)
      )
    )
  check_as_package(tmp_path)


@pytest.mark.parametrize('encoding', ['212', '310', '311', '24'])
@pytest.mark.parametrize('count', range(1, 8))
def test_a_last_group_may_be_incomplete(tmp_path, encoding, count):
  """As other programs write it; the package would read beyond it."""
  bits = {'212': 12, '24': 24}.get(encoding, 10)
  samples, size = wfdb_signals._PACKED[encoding]
  content = np.random.default_rng(1).integers(0, 64, 24, np.uint8).tobytes()
  # Bytes of the samples of an incomplete group.
  last = {'212': (0, 2), '310': (0, 2, 4), '311': (0, 2, 3), '24': (0,)}
  short = count // samples * size + last[encoding][count % samples]
  for name, length in (('a', short), ('b', 24)):
    (tmp_path / f'{name}.dat').write_bytes(content[:length])
    (tmp_path / f'{name}.hea').write_text(
      f'{name} 1 300 {count}\n{name}.dat {encoding} 1/mV {bits} 0 0 0 0 I\n'
    )
  check_as_package(tmp_path, 'b')
  found, expected = (
    formats.read_channels(tmp_path / f'{name}.hea').open(0).read(0, count)
    for name in 'ab'
  )
  assert_array_equal(found, expected)


RECORDS = {
  'a date in words': 'a {n} 300 {length} 05-May-2020 09:49:17',
  'a date with dots': 'a {n} 300 {length} 05:05:15 1.05.2000',
  'a date of another order': 'a {n} 300 {length} 2020-05-05T09:49:17Z',
  'a time with a comma': 'a {n} 300 {length} 05:05:15,5 1/05/2000',
  'the name of the file': 'a.mat {n} 300 {length}',
  'another name': 'someone {n} 300 {length}',
  'a name with blanks': 'a b {n} 300 {length}',
  'a name of an accent': 'Müller {n} 300 {length}',
  'a length of zero': 'a {n} 300 0',
  'no length': 'a {n} 300',
  'tabs': 'a\t{n}\t300\t{length}',
  'blanks around': '  a  {n}  300  {length}  ',
  'comments': '# before\na {n} 300 {length} # behind\n\n# between',
  'a counter frequency': 'a {n} 300/300(0) {length}',
}
SIGNALS = {
  'plain': ('{f}.dat', '16 1000/mV 16 0 0 0 0 {lead}'),
  'another place': ('./{f}.dat', '16 1000/mV 16 0 0 0 0 {lead}'),
  'a folder': ('sub/{f}.dat', '16 1000/mV 16 0 0 0 0 {lead}'),
  'no block size': ('{f}.dat', '16 1000/mV 16 0 0 0 {lead}'),
  'no check sum': ('{f}.dat', '16 1000/mV 16 0 {lead}'),
  'no resolution': ('{f}.dat', '16 1000/mV {lead}'),
  'another unit': ('{f}.dat', '16 1(0)/µV 16 0 0 0 0 {lead}'),
  'unit of Greek': ('{f}.dat', '16 1(0)/μV 16 0 0 0 0 {lead}'),
  'unit in brackets': ('{f}.dat', '16 1(0)/[uV] 16 0 0 0 0 {lead}'),
  'unit in words': ('{f}.dat', '16 1(0)/microvolts 16 0 0 0 0 {lead}'),
}


@pytest.mark.parametrize('leads', [1, 2, 12])
@pytest.mark.parametrize('record', RECORDS)
@pytest.mark.parametrize(
  'encoding', ['utf-8', 'latin-1', 'utf-8-sig', 'utf-16']
)
def test_first_lines_mean_the_same_for_any_number_of_leads(
  tmp_path, leads, record, encoding
):
  counts = COUNTS[:3000]
  name = (
    'a b' if 'blanks' in record else 'Müller' if 'accent' in record else 'a'
  )
  lines = [RECORDS[record].format(n=leads, length=len(counts))]
  lines += [f'{name}.dat 16 1000/mV 16 0 0 0 0 {x}' for x in NAMES[:leads]]
  (tmp_path / f'{name}.hea').write_bytes('\r\n'.join(lines).encode(encoding))
  each = [counts // (k + 1) for k in range(leads)]
  np.stack(each, 1).astype('<i2').tofile(tmp_path / f'{name}.dat')
  for number in range(leads):
    recording = open_recording(tmp_path / f'{name}.hea', lead=NAMES[number])
    assert not recording.notes
    assert_array_equal(window_counts(recording), each[number])


@pytest.mark.parametrize('leads', [1, 3])
@pytest.mark.parametrize('signal', SIGNALS)
@pytest.mark.parametrize('encoding', ['utf-8', 'latin-1', 'shift-jis'])
def test_lines_of_signals_mean_the_same_for_any_number_of_leads(
  tmp_path, leads, signal, encoding
):
  file, rest = SIGNALS[signal]
  counts = COUNTS[:3000]
  text = f'a {leads} 300 3000\n' + ''.join(
    f'{file.format(f="a")} {rest.format(lead=lead)}\n' for lead in NAMES[:leads]
  )
  if encoding == 'latin-1':
    text = text.replace('μ', 'µ')
  if encoding == 'shift-jis':
    text = text.replace('µ', 'μ')
  (tmp_path / 'a.hea').write_bytes(text.encode(encoding))
  (tmp_path / 'sub').mkdir()
  for folder in (tmp_path, tmp_path / 'sub'):
    np.stack([counts] * leads, 1).astype('<i2').tofile(folder / 'a.dat')
  found = formats.read_channels(tmp_path / 'a.hea')
  assert [x.name for x in found.channels] == list(NAMES[:leads])
  for number, channel in enumerate(found.channels):
    factor = 1000 * units.to_millivolt(channel.unit)
    assert_allclose(found.open(number).read(0, 3000) * factor, counts)


@pytest.mark.parametrize(
  ('header', 'named', 'stored'),
  [
    ('A.HEA', 'A.DAT', 'A.DAT'),
    ('A.HEA', 'a.dat', 'A.DAT'),
    ('a.hea', 'A.dat', 'a.dat'),
    ('a.hea', 'Müller.dat', unicodedata.normalize('NFD', 'Müller.dat')),
    ('a.hea', unicodedata.normalize('NFD', 'Müller.dat'), 'Müller.dat'),
    ('Ä ö.hea', 'Ä ö.dat', 'Ä ö.dat'),
  ],
)
@pytest.mark.parametrize('leads', [1, 2])
def test_names_differ_in_case_and_accents(
  tmp_path, leads, header, named, stored
):
  lines = [f'{named} 16 1000/mV 16 0 0 0 0 {x}' for x in NAMES[:leads]]
  text = '\n'.join([f'{header[:-4]} {leads} 300 {len(COUNTS)}', *lines])
  (tmp_path / header).write_text(text)
  np.stack([COUNTS] * leads, 1).astype('<i2').tofile(tmp_path / stored)
  assert_array_equal(counts_of(tmp_path / header), COUNTS)
  assert find.find([tmp_path], with_arrays=False) == [tmp_path / header]
  if header[0] == stored[0]:
    found = find.find([tmp_path / stored], with_arrays=False)
    assert found == [tmp_path / header]


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('a 2 300 {n}\n' + ECG_LINE, 'claims 2 signals and describes 1'),
    ('a 1 300 {n}\n' + ECG_LINE * 2, 'claims 1 signals and describes 2'),
    ('a x 300 {n}\n' + ECG_LINE, 'does not begin with a name and a number'),
    ('a\n' + ECG_LINE, 'does not begin with a name and a number'),
    ('# only this\n', 'has no line'),
    ('a 1 360,5 {n}\n' + ECG_LINE, 'has the sampling rate 360,5'),
    ('a 1 fast {n}\n' + ECG_LINE, 'has the sampling rate fast'),
    ('a 1 300 -5\n' + ECG_LINE, 'has the length -5'),
    ('a 1 300 5.5\n' + ECG_LINE, 'has the length 5.5'),
    ('a 1 300 05:05:15\n' + ECG_LINE, 'has the length 05:05:15'),
    ('a 1 300 {n}\na.dat 16 x/mV 16 0 0 0 0 I\n', 'where a signal is desc'),
    ('a 1 300 {n}\na.dat 16 1e999/mV 16 0 0\n', 'where a signal is described'),
    ('a 1 300 {n}\na.dat 16 1/mV 16 1.5 0\n', 'where a signal is described'),
    ('a 1 300 {n}\na.dat\n', 'where a signal is described'),
    ('a 1 300 {n}\na.dat 17 200/mV 16 0 0 0 0 I\n', 'is in WFDB format 17'),
    ('a 1 300 {n}\na.dat 516 200/mV 16 0 0 0 0 I\n', 'a.hea'),
    ('a 1 300 {n}9\n' + ECG_LINE, 'it was cut off'),
    ('a/2 1 300 {n}\nb 5\n', 'claims 2 segments and describes 1'),
    ('a/1 1 300 {n}\nb\n', 'does not state the length of its segment b'),
  ],
)
def test_a_damaged_header_is_explained(tmp_path, text, words):
  path = write_raw(tmp_path, text.replace('{n}', str(len(COUNTS))))
  with pytest.raises(InputError) as error:
    counts_of(path)
  assert words in str(error.value)
  assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize('fmt', ['16', '212', '80', '24', '32'])
@pytest.mark.parametrize('leads', [1, 2])
def test_checksums_are_verified(tmp_path, fmt, leads):
  counts = np.stack([COUNTS // 10, COUNTS // -20][:leads])
  if fmt == '80':
    counts = np.clip(np.diff(counts, append=0), -99, 99).cumsum(1) % 90
  names = NAMES[:leads]
  path = write_wfdb(tmp_path, counts.T, fmt=fmt, names=names)
  for number in range(leads):
    assert open_recording(path, lead=str(number)).notes == ()
  stated = path.read_text()
  checksums = [line.split()[6] for line in stated.splitlines()[1 : leads + 1]]
  assert '0' not in checksums
  data = path.with_suffix('.dat')
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  notes = [open_recording(path, lead=str(k)).notes for k in range(leads)]
  assert 'the checksum of lead' in str(notes)
  assert sum(map(len, notes)) == 1
  # As the challenge's records, which state none.
  for checksum in checksums:
    stated = stated.replace(f' {checksum} ', ' 0 ')
  path.write_text(stated)
  assert [open_recording(path, lead=str(k)).notes for k in range(leads)] == (
    [()] * leads
  )


def test_more_samples_than_the_header_states_are_noted(tmp_path):
  path = write_raw(tmp_path, f'a 1 300 3000\n{ECG_LINE}')
  recording = open_recording(path)
  assert recording.notes == (
    f'a.dat has {len(COUNTS)} samples, of which the header states 3000: the'
    ' rest is not read',
  )
  assert_array_equal(window_counts(recording), COUNTS[:3000])


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (('s2.hea', '/mV', '/uV'), 'segments in other units'),
    (('s2.hea', ' 300 ', ' 250 '), 'at other sampling rates'),
    (('s.hea', 's2 1500', 's2 1501'), 'claims 1501 samples of segment s2'),
    (('s2.hea', 's2 1', 's2/1 1'), 'is a segment and has some'),
  ],
)
def test_segments_that_do_not_fit_are_refused(tmp_path, change, words):
  path = write_segments(tmp_path)
  file, old, new = change
  text = (tmp_path / file).read_text().replace(old, new, 1)
  if 'has some' in words:
    text = 's2/1 1 300 1500\ns1 1500\n'
  (tmp_path / file).write_text(text)
  with pytest.raises(InputError, match=words):
    window_counts(open_recording(path, lead='V5'), 14, 5)


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

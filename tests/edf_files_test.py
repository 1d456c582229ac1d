"""EDF and BDF: every variant, in pieces, as edfio and the standard have it."""

import itertools

import edfio
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecg_jax.errors import InputError
from ecg_jax.recordings import edf_files, formats, units
from tests.recording_files import (
  COUNTS,
  counts_of,
  open_recording,
  write_edf,
)


def edf_content(
  signals, *, duration=1.0, times=None, bdf=False, claimed=None, **fields
):
  """The bytes of a file, by the standard.

  Args:
    signals: Label -> integers [data records, samples of one].
    duration: Seconds of a data record.
    times: Of the data records of a discontinuous file.
    bdf: Whether samples have 24 bits.
    claimed: Number of data records that the header states.
    fields: Texts of all signals, in place of: unit, low, high.
  """
  width = 3 if bdf else 2
  largest = 2 ** (8 * width - 1) - 1
  parts = {
    label: np.asarray(samples, '<i4').view(np.uint8).reshape(
      len(samples), -1, 4
    )[:, :, :width].reshape(len(samples), -1)
    for label, samples in signals.items()
  }  # fmt: skip
  count = len(next(iter(parts.values())))
  if times is not None:
    texts = [
      f'{t:+.9f}\x14\x14'.encode().ljust(width * 20, b'\0') for t in times
    ]
    clock = np.frombuffer(b''.join(texts), np.uint8).reshape(count, -1)
    parts['BDF Annotations' if bdf else 'EDF Annotations'] = clock
  number = len(parts)

  def column(values, size):
    texts = [x if isinstance(x, bytes) else str(x).encode() for x in values]
    return b''.join(text.ljust(size)[:size] for text in texts)

  variant = ('BDF' if bdf else 'EDF') + ('+D' if times is not None else '')
  header = [
    column([b'\xffBIOSEMI' if bdf else '0', 'Ann', 'x'], 8)[:8],
    column(['Ann', 'Startdate'], 80),
    column(['01.01.20', '10.00.00', 256 * (number + 1)], 8),
    column(['24BIT' if bdf and times is None else variant], 44),
    column([count if claimed is None else claimed, f'{duration:g}'], 8),
    column([number], 4),
    column(parts, 16),
    column([''] * number, 80),
    column([fields.get('unit', 'uV')] * number, 8),
    column([fields.get('low', -largest - 1)] * number, 8),
    column([fields.get('high', largest)] * number, 8),
    column([-largest - 1] * number, 8),
    column([largest] * number, 8),
    column([''] * number, 80),
    column([part.shape[1] // width for part in parts.values()], 8),
    column([''] * number, 32),
  ]
  return b''.join(header) + np.concatenate(list(parts.values()), 1).tobytes()


@pytest.fixture
def read(tmp_path):
  """Writes content, and opens it."""

  def call(content, name='a.edf'):
    (tmp_path / name).write_bytes(content)
    return formats.read_channels(tmp_path / name)

  return call


def check_pieces(found, expected):
  """Samples are the same whatever is read at a time."""
  assert found.num_samples == len(expected)
  assert_array_equal(found.read(0, len(expected)), expected)
  rng = np.random.default_rng(0)
  for _ in range(40):
    start, stop = sorted(rng.integers(0, len(expected) + 1, 2))
    assert_array_equal(found.read(start, stop), expected[start:stop])


@pytest.mark.parametrize('bdf', [False, True])
@pytest.mark.parametrize('ranges', [(-3276.8, 3276.7), (5, -7), (-1, 0.3)])
def test_samples_are_those_of_edfio(tmp_path, bdf, ranges):
  kind = edfio.BdfSignal if bdf else edfio.EdfSignal
  largest = 2 ** (23 if bdf else 15)
  rng = np.random.default_rng(1)
  rates = {'ECG I': 250, 'II': 1000, 'Resp': 25, 'slow': 0.5}
  signals = [
    kind.from_digital(
      rng.integers(-largest, largest, int(rate * 12), f'i{4 if bdf else 2}'),
      rate, label=label,
      physical_dimension='mV', physical_range=ranges,
    )
    for label, rate in rates.items()
  ]  # fmt: skip
  path = tmp_path / ('a.bdf' if bdf else 'a.edf')
  make = edfio.Bdf if bdf else edfio.Edf
  notes = [edfio.EdfAnnotation(k, None, 'x') for k in (1, 5)]
  make(signals, annotations=notes).write(path)
  found = formats.read_channels(path)
  assert [x.name for x in found.channels] == list(rates)
  assert [x.rate for x in found.channels] == list(rates.values())
  assert {x.unit for x in found.channels} == {'mV'}
  for number, signal in enumerate(
    (edfio.read_bdf if bdf else edfio.read_edf)(path).signals
  ):
    check_pieces(found.open(number), signal.data)


@pytest.mark.parametrize('bdf', [False, True])
@pytest.mark.parametrize(
  ('duration', 'samples', 'times', 'starts'),
  [
    (1, 250, [0, 1, 2, 3], [0, 250, 500, 750]),
    (1, 250, [7.5, 8.5, 9.5], [0, 250, 500]),
    (1, 250, [0, 1, 5, 6], [0, 250, 1250, 1500]),
    (1, 250, [0, 1.1, 2.2], [0, 275, 550]),
    (0.5, 128, [0, 0.5, 100, 100.5], [0, 128, 25600, 25728]),
    (10, 3000, [0, 10, 3600], [0, 3000, 1080000]),
    (0.004, 1, [0, 0.004, 0.012, 0.2], [0, 1, 3, 50]),
    (1, 300, [0, 1.0004, 2.0011, 2.9999], [0, 300, 600, 900]),
    (0.1, 25, [-3, -2.9, -2], [0, 25, 250]),
    (1, 250, [0], [0]),
    (2, 257, [0, 2, 6], [0, 257, 771]),
    (1, 250, [0.25, 1.25, 86400.25], [0, 250, 21600000]),
  ],
)  # fmt: skip
def test_gaps_of_a_discontinuous_file_are_missing_samples(
  read, bdf, duration, samples, times, starts
):
  rng = np.random.default_rng(2)
  values = rng.integers(-(2**15), 2**15, (len(times), samples))
  signals = {'ECG': values, 'Temp': values[:, :1]}
  options = {'duration': duration, 'times': times, 'bdf': bdf}
  found = read(edf_content(signals, **options))
  assert [x.name for x in found.channels] == ['ECG', 'Temp']
  assert found.facts['format'] == ('BDF+D' if bdf else 'EDF+D')
  gaps = sum(b - a != samples for a, b in itertools.pairwise(starts))
  assert found.facts['gaps between data records'] == str(gaps)
  expected = np.full(starts[-1] + samples, np.nan)
  for start, record in zip(starts, values, strict=True):
    expected[start : start + samples] = record
  check_pieces(found.open(0), expected)


@pytest.mark.parametrize(
  ('times', 'words'),
  [
    ([0, 1, 1.5], 'has data record 1 at 1 s and the next at 1.5 s'),
    ([0, 2, 1], 'has data record 1 at 2 s and the next at 1 s'),
    ([0, 1, 1e7], 'the next at 1e\\+07 s'),
    ([0, float('nan'), 2], 'does not state when its data record 1 begins'),
  ],
)
def test_impossible_times_are_refused(read, times, words):
  content = edf_content({'ECG': np.zeros((3, 250))}, times=times)
  with pytest.raises(InputError, match=words):
    read(content).open(0)


def test_a_discontinuous_file_without_times_is_refused(read):
  content = edf_content({'ECG': np.zeros((3, 250))})
  with pytest.raises(InputError, match='does not state when its data record 0'):
    read(content[:192] + b'EDF+D' + content[197:])


RECORDS = np.arange(5 * 250).reshape(5, 250)


@pytest.mark.parametrize('bdf', [False, True])
@pytest.mark.parametrize(
  ('claimed', 'more', 'records', 'notes'),
  [
    (5, 0, 5, []),
    (-1, 0, 5, []),
    (0, 0, 5, []),
    (-1, -9, 4, ['ends within a data record: that one is not read']),
    (4, 0, 4, ['holds {record} bytes more than its 4 data records: not read']),
    (5, 7, 5, ['holds 7 bytes more than its 5 data records: not read']),
    (3, 7, 3, ['holds {longer} bytes more than its 3 data records: not read']),
  ],
)
def test_a_file_is_longer_than_its_header_says(
  tmp_path, bdf, claimed, more, records, notes
):
  content = edf_content({'ECG': RECORDS}, bdf=bdf, claimed=claimed)
  content = content[:more] if more < 0 else content + bytes(more)
  path = tmp_path / ('a.bdf' if bdf else 'a.edf')
  path.write_bytes(content)
  size = 250 * (3 if bdf else 2)
  recording = open_recording(path)
  assert list(recording.notes) == [
    note.format(record=size, longer=2 * size + 7) for note in notes
  ]
  found = recording.millivolt(0, recording.num_samples) * 1000
  assert_allclose(found, RECORDS[:records].ravel(), rtol=1e-6)


@pytest.mark.parametrize('bdf', [False, True])
@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ((236, b'6       '), 'claims 6 data records and holds 5: it was cut off'),
    ((236, b'99999999'), 'claims 1e\\+08 data records and holds 5'),
    ((236, b'many    '), 'does not state its number of data records'),
    ((236, b'-7      '), 'does not state its number of data records'),
    ((244, b'0       '), 'data records of 0 s'),
    ((244, b'-1      '), 'does not state how long a data record lasts'),
    ((244, b'        '), 'does not state how long a data record lasts'),
    ((184, b'256     '), 'states a header of 256 bytes'),
    ((252, b'9999'), 'ends within its header of 9999 signals'),
    ((252, b'x   '), 'does not state the number of signals'),
    ((0, b'1       '), 'does not begin as an EDF or BDF file'),
    ((472, b'x       '), 'does not state the samples of signal 0'),
  ],
)
def test_a_damaged_header_is_explained(read, bdf, change, words):
  content = bytearray(edf_content({'ECG': RECORDS}, bdf=bdf))
  at, new = change
  content[at : at + len(new)] = new
  with pytest.raises(InputError, match=words):
    read(bytes(content))


@pytest.mark.parametrize('bdf', [False, True])
@pytest.mark.parametrize(
  'unit',
  [
    *('uV', 'UV', 'microV', 'uVolt', '[uV]', 'uV\0\0\0', b'uV\0\0\0\0\0\0'),
    *(x.encode(y) for x in ('µV', '[µV]') for y in ('utf-8', 'latin-1')),
    *('μV'.encode(x) for x in ('utf-8', 'shift-jis', 'gbk')),
    *('µV'.encode(x) for x in ('cp437', 'mac-roman')),
  ],
)
def test_microvolts_in_every_spelling(read, bdf, unit):
  found = read(edf_content({'ECG': RECORDS}, bdf=bdf, unit=unit))
  assert units.to_millivolt(found.channels[0].unit) == 1e-3


@pytest.mark.parametrize(
  ('low', 'high'), [('-1,5', '1,5'), ('-1.5', '+1.5'), (-1.5, '1.5E0')]
)
def test_ranges_with_the_decimal_mark_of_a_country(read, low, high):
  found = read(edf_content({'ECG': RECORDS}, low=low, high=high))
  expected = -1.5 + 3 * (RECORDS.ravel() + 2**15) / (2**16 - 1)
  assert_allclose(found.open(0).read(0, 1250), expected, atol=1e-12)


def test_only_what_is_asked_for_is_read(read, monkeypatch):
  """Of a file with one data record, which some programs write, too."""
  values = np.arange(2**20)[None] % 2**15
  found = read(edf_content({'a': values, 'ECG': values}, duration=4096)).open(1)
  sizes = []
  read_record = edf_files.EdfSamples._read_record

  def counted(self, content, record, first, count):
    sizes.append(count)
    return read_record(self, content, record, first, count)

  monkeypatch.setattr(edf_files.EdfSamples, '_read_record', counted)
  assert_array_equal(found.read(7000, 7100), np.arange(7000, 7100))
  assert sizes == [100]


def test_names_of_persons_are_no_facts(read):
  found = read(edf_content({'ECG': RECORDS}))
  assert 'Ann' not in str(found.facts) + str(found.channels)


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

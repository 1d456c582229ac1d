"""The MIT-BIH Arrhythmia Database: official files, windows, their groups."""

import collections
import pathlib
import re
import shutil

import numpy as np
import pytest
import wfdb

from ecg_jax.datasets import prepare
from ecg_jax.datasets.mitdb import mitdb_dataset_builder, source, windows
from ecg_jax.errors import InputError
from ecg_jax.fields.data import DataFields
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.recordings import lead, resampling, wfdb_annotations
from tests import mitdb_files
from tests.helpers import ROOT
from tests.mitdb_files import NAMES, SECONDS, WINDOWS

ENCODING = lead.Encoding(300, 1000.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Holds two records, taken for the official ones, both of one patient."""
  mitdb_files.write_database(tmp_path, monkeypatch)
  return tmp_path


def test_annotations_are_what_the_wfdb_package_reads(tmp_path):
  known = wfdb_annotations._SYMBOLS.replace(' ', '')
  steps = np.random.default_rng(0).integers(0, 3000, len(known))
  steps[7] = 10_000_000  # An interval of its own, of 31 bits.
  text = [['', '(N', '(AFIB', 'odd'][k % 4] for k in range(len(known))]
  numbers = np.arange(len(known)) % 3
  wfdb.wrann(
    'a',
    'atr',
    np.cumsum(steps),
    list(known),
    subtype=numbers,
    chan=numbers,
    num=numbers,
    aux_note=text,
    write_dir=str(tmp_path),
  )
  content = (tmp_path / 'a.atr').read_bytes()
  found = wfdb_annotations.parse_annotations(content, name='a.atr')
  expected = wfdb.rdann(str(tmp_path / 'a'), 'atr')
  assert [x.sample for x in found] == expected.sample.tolist()
  assert [x.symbol for x in found] == expected.symbol == list(known)
  assert [x.text for x in found] == text
  for size in range(0, len(content) - 2, 5):
    with pytest.raises(InputError, match=rf'a.atr \({size} bytes\) was cut'):
      wfdb_annotations.parse_annotations(content[:size], name='a.atr')


def record_of(rhythms, beats):
  """A record of these rhythms, and beats by their samples."""
  samples, symbols = map(list, zip(*sorted(beats.items()), strict=True))
  nothing = np.zeros(0, np.float32)
  return source.AnnotatedRecord(
    '100', nothing, np.array(samples), np.array(symbols), tuple(rhythms)
  )


@pytest.mark.parametrize(
  ('rhythms', 'beats', 'group'),
  [
    ([(0, 'N')], {150: 'N'}, 'NSR'),
    ([(0, 'N')], {99: 'V', 100: 'N', 199: 'N', 200: 'V'}, 'NSR'),
    ([(0, 'N')], {100: 'V', 150: 'N'}, 'ECTOPY'),
    ([(0, 'N')], {150: 'N', 199: 'a'}, 'ECTOPY'),
    ([(0, 'N')], {120: 'L', 150: 'V'}, 'BBB'),
    ([(0, 'N')], {120: 'R', 150: 'N'}, 'BBB'),
    ([(0, 'AFIB')], {120: 'L', 150: 'V'}, 'AFIB'),
    ([(0, 'AFL')], {150: 'N'}, 'OTHER'),
    # Annotated after the start: it has begun before.
    ([(130, 'AFIB')], {150: 'N'}, 'AFIB'),
    ([(130, 'N'), (170, 'AFIB')], {150: 'N'}, 'MIXED'),
    ([(0, 'N'), (101, 'AFIB')], {150: 'N'}, 'MIXED'),
    ([(0, 'N'), (100, 'AFIB')], {150: 'N'}, 'AFIB'),
    ([(0, 'N'), (200, 'AFIB')], {150: 'N'}, 'NSR'),
    ([(0, 'AFIB'), (50, 'N'), (150, 'N')], {150: 'N'}, 'NSR'),
  ],
)
def test_group_of_a_window_follows_from_its_annotations(rhythms, beats, group):
  assert windows.group_of(record_of(rhythms, beats), 100, 200) == group


def test_prepared_windows_are_those_that_predict_cuts(folder):
  builder = prepare.prepare(
    DataFields(name='mitdb', manual_dir=str(folder), data_dir=str(folder))
  )
  dataset = dataset_lib.load(builder, in_memory=True)
  labels = dataset.labels('v1')
  members = {name: [f'{name}@{part}' for part in WINDOWS] for name in NAMES}
  assert len(labels) == len(NAMES) * len(WINDOWS)
  for name, windows_of in members.items():
    assert [labels[window] for window in windows_of] == [
      'ECTOPY', *['NSR'] * 4, 'MIXED', *['AFIB'] * 7,
    ]  # fmt: skip
    path = folder / 'mitdb' / f'{name}.hea'
    recording = lead.open_recording(path, ENCODING)
    times = resampling.window_times(SECONDS, 2.0, 2.0)
    for window, (start, end) in zip(windows_of, times, strict=True):
      [at] = dataset.find([window])
      begin = dataset.offsets[at]
      expected = resampling.window_counts(
        recording, ENCODING, start, end - start
      )
      assert len(expected) == 600
      np.testing.assert_array_equal(
        dataset.signal[begin : begin + dataset.lengths[at]], expected
      )
  patients = dataset.patients_of_records()
  found = [patients[f'{name}@0-2'] for name in NAMES]
  assert found == ['201', '201', *NAMES[2:]]


def test_archive_folder_and_files_give_the_same_records(folder, tmp_path):
  whole = tmp_path / 'zipped' / source.FILES.places[1]
  shutil.make_archive(str(whole), 'zip', folder, 'mitdb')
  found = [
    list(source.read_records(place))
    for place in (folder, folder / 'mitdb', tmp_path / 'zipped')
  ]
  for records in found:
    assert [x.name for x in records] == NAMES
    for record, first in zip(records, found[0], strict=True):
      assert record.millivolt.dtype == np.float32
      for one, other in zip(record, first, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_files_are_refused(folder):
  path = folder / 'mitdb' / '202.atr'
  content = path.read_bytes()
  path.unlink()
  with pytest.raises(InputError, match=r'^23 files .* where 144 '):
    list(source.read_records(folder))
  path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
  with pytest.raises(InputError, match=r'^24 files .* or one is not'):
    list(source.read_records(folder))
  nothing = folder / 'nothing'
  nothing.mkdir()
  message = f'holds no records.*{re.escape(source.ZIP_URL)}'
  with pytest.raises(InputError, match=message):
    list(source.read_records(nothing))


GROUPS = {
  'AFIB': 215, 'NSR': 936, 'ECTOPY': 539, 'BBB': 412, 'OTHER': 329,
  'MIXED': 497,
}  # fmt: skip


def test_documentation_has_the_groups_and_what_they_are_taken_for():
  page = (ROOT / 'docs' / 'trust.md').read_text()
  meaning = mitdb_dataset_builder.Builder.MEANING
  assert list(windows.GROUPS) == list(GROUPS)
  for name, count in GROUPS.items():
    meant = meaning.get(name, 'not scored')
    assert f'\n| `{name}` | {count} | {meant} | ' in page


def test_official_windows(real_data: pathlib.Path):
  if not (real_data / 'mitdb.zip').exists():
    pytest.skip('mitdb.zip is not in ECG_JAX_REAL_DATA')
  groups, beats = collections.Counter(), 0
  for record in source.read_records(real_data):
    beats += len(record.beats)
    assert len(record.millivolt) == 650_000
    found = list(windows.cut(record, ENCODING, 30.0))
    assert [len(window.counts) for window in found] == [9000] * 61
    groups.update(window.group for window in found)
  assert beats == 109_494
  assert groups == GROUPS

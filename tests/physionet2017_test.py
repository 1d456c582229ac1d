import collections
import dataclasses
import email.message
import io
import shutil
import struct
import urllib.error
import zipfile

import numpy as np
import pytest

from ecg_jax.datasets import official_files
from ecg_jax.datasets.physionet2017 import source
from ecg_jax.errors import InputError
from tests import helpers


@pytest.fixture
def files(monkeypatch):
  """The dummy files, taken for the official ones."""
  return helpers.use_dummy_as_official(monkeypatch)


@pytest.fixture(scope='module')
def official(real_data):
  return source.verify(source.read_folder(real_data))


def equal(first, second):
  return len(first) == len(second) and all(
    a.name == b.name
    and a.labels == b.labels
    and np.array_equal(a.signal, b.signal)
    for a, b in zip(first, second, strict=True)
  )


def test_official_records(official):
  lengths = np.array([len(record.signal) for record in official])
  assert [r.name for r in official] == [f'A{i:05d}' for i in range(1, 8529)]
  found = lengths.min(), lengths.max(), lengths.sum()
  assert found == (2714, 18286, 83141521)
  assert np.count_nonzero(lengths == 9000) == 5977
  assert np.count_nonzero(lengths == 18000) == 809
  assert min(record.signal.min() for record in official) == -10636
  assert max(record.signal.max() for record in official) == 8318
  for version, counts in {
    'v1': [5154, 771, 2557, 46],
    'v2': [5050, 738, 2456, 284],
    'v3': [5076, 758, 2415, 279],
  }.items():
    letters = collections.Counter(r.labels[version] for r in official)
    assert [letters[name] for name in 'NAO~'] == counts
  assert sum(r.labels['v2'] != r.labels['v3'] for r in official) == 148


def test_records_are_sorted_and_carry_what_the_files_say(files):
  records = source.verify(dict(reversed(files.items())))
  assert [r.name for r in records] == [f'A{i:05d}' for i in range(1, 25)]
  for record in records:
    content = files[f'{record.name}.mat']
    assert record.signal.dtype == np.int16
    assert record.signal.tobytes() == content[24:]
    for version, name in source.LABEL_FILES.items():
      line = f'{record.name},{record.labels[version]}'
      assert line in files[name].decode().splitlines()


def test_zip_and_unpacked_folders_give_the_same_records(files, tmp_path):
  shutil.unpack_archive(helpers.DUMMY / 'training2017.zip', tmp_path)
  (tmp_path / 'training2017' / 'notes.txt').write_text('not read')
  for folder in (tmp_path, tmp_path / 'training2017'):
    shutil.copy(helpers.DUMMY / 'REFERENCE-v3.csv', folder)
    assert source.read_folder(folder) == files


def test_label_files_may_have_either_line_ends(files):
  expected = source.verify(files)
  for name in source.LABEL_FILES.values():
    files[name] = files[name].replace(b'\n', b'\r\n')
  assert equal(source.verify(files), expected)


def alter(name, old, new):
  def change(files):
    assert old in files[name]
    files[name] = files[name].replace(old, new, 1)

  return change


def replace(name, content):
  return lambda files: files.update({name: content})


ROW = struct.pack('<3h', 1, 2, 3)


def alter_a_sample(record):
  def change(files):
    content = bytearray(files[f'{record}.mat'])
    content[40] ^= 1
    files[f'{record}.mat'] = bytes(content)

  return change


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda f: f.pop('A00007.mat'), 'Record A00007 is missing'),
    (lambda f: f.pop('A00007.hea'), 'header A00007.hea is missing'),
    (lambda f: f.pop('REFERENCE.csv'), 'REFERENCE.csv is missing'),
    (lambda f: f.pop('REFERENCE-original.csv'), 'original.csv is missing'),
    (lambda f: f.pop('REFERENCE-v3.csv'), 'v3.csv is missing: .*v3.csv'),
    (replace('A00025.mat', b''), 'Record A00025 is one too many, 24 '),
    (alter('REFERENCE.csv', b'3,N', b'3,A'), 'REFERENCE.csv is not the off'),
    (alter('A00002.hea', b' 300 ', b' 250 '), "A00002.hea reads 'A00002 1 250"),
    (alter('A00002.hea', b'1000/mV', b'200/mV'), 'A00002.hea .* 200/mV'),
    (alter('A00002.hea', b'16+24', b'16'), 'A00002.hea reads'),
    (alter('A00002.hea', b'A00002', b'A00003'), 'A00002.hea reads'),
    (replace('A00002.hea', b'\xff'), 'A00002.hea reads'),
    (lambda f: f.update({'A00002.mat': f['A00003.mat']}), 'A00002.hea reads'),
    (lambda f: f.update({'A00001.mat': f['A00013.mat']}), 'not all of them'),
    (alter_a_sample('A00013'), 'The 24 records A00001 to A00024 .*not all of'),
    (replace('A00004.mat', b''), 'A00004.mat .0 bytes. is damaged'),
    (replace('A00004.mat', ROW), 'A00004.mat .6 bytes. is damaged'),
  ],
)
def test_other_files_are_refused(files, change, message):
  change(files)
  with pytest.raises(InputError, match=message):
    source.verify(files)


def test_an_altered_official_record_is_refused(real_data):
  files = source.read_folder(real_data)
  alter_a_sample('A05432')(files)
  message = '^The 8528 records A00001 to A08528 .*not all of them.*official'
  with pytest.raises(InputError, match=message):
    source.verify(files)


def test_signal_of_any_other_format_is_refused():
  def mat(*header, name=b'val\0', data=ROW):
    return struct.pack('<5i', *header) + name + data

  good = mat(30, 1, 3, 0, 4)
  assert source.parse_signal(good, record='A1').tolist() == [1, 2, 3]
  headers = [(0, 1, 3, 0, 4), (1030, 1, 3, 0, 4), (30, 3, 1, 0, 4)]
  headers += [(30, 1, 4, 0, 4), (30, 1, 3, 1, 4)]
  for content in (
    *(mat(*header) for header in headers),
    mat(30, 1, 3, 0, 4, name=b'vai\0'),
    mat(30, 1, 0, 0, 4, data=b''),
    *(good + b'\0', good + b'\0\0', good[:-1], good[:10]),
  ):
    with pytest.raises(InputError, match=r'A1\.mat'):
      source.parse_signal(content, record='A1')


def test_damaged_archives_are_refused(tmp_path, monkeypatch):
  whole = (helpers.DUMMY / 'training2017.zip').read_bytes()
  with zipfile.ZipFile(io.BytesIO(whole)) as archive:
    info = archive.getinfo('training2017/A00005.mat')
  flipped = bytearray(whole)
  flipped[info.header_offset + 30 + len(info.filename) + 40] ^= 0xFF
  doubled = io.BytesIO(whole)
  with zipfile.ZipFile(doubled, 'a') as archive:
    archive.writestr('other/A00005.mat', b'')
  # A local header before the start of the file: zipfile raises ValueError.
  misplaced = bytearray(whole)
  end = misplaced.rindex(b'PK\5\6')
  misplaced[end + 16 : end + 20] = (len(whole) * 2).to_bytes(4, 'little')

  def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED) as archive:
      for name, data in files.items():
        archive.writestr(name, data)
    return content.getvalue()

  small = dataclasses.replace(source.FILES, largest_total=10_000_000)
  monkeypatch.setattr(source, 'FILES', small)
  many = {f'A{number:05d}.mat': bytes(200_000) for number in range(51)}
  target = tmp_path / 'training2017.zip'
  for content, message in [
    (whole[: len(whole) // 2], 'training2017.zip is damaged'),
    (b'', 'training2017.zip is damaged'),
    (b'no archive', 'training2017.zip is damaged'),
    (flipped, 'is damaged at training2017/A00005.mat'),
    (misplaced, 'training2017.zip is damaged'),
    (doubled.getvalue(), 'holds A00005.mat twice'),
    (zipped({'A00001.mat': bytes(2**21)}), r'mat in .*zip has 2,097,152 bytes'),
    (zipped(many), r'A00050\.mat in .* more than 10,000,000 bytes'),
    (zipped({'../../A00001.txt': b'never read'}), 'holds no records'),
  ]:
    target.write_bytes(content)
    with pytest.raises(InputError, match=message):
      source.read_folder(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
  for number, (make, message) in enumerate(
    [
      (lambda path: path.with_suffix('.txt').touch(), 'zip .*REFERENCE-v3'),
      (lambda path: path.mkdir(), r'A00001\.mat is not a regular file'),
      # Endless, as a file of its own or behind a link.
      (lambda path: path.symlink_to('/dev/zero'), 'is not a regular file'),
      (lambda path: path.write_bytes(bytes(2**21)), 'has 2,097,152 bytes'),
    ]
  ):
    folder = tmp_path / str(number)
    folder.mkdir()
    make(folder / 'A00001.mat')
    with pytest.raises(InputError, match=message):
      source.read_folder(folder)


class Response(io.BytesIO):
  """What urlopen answers: the content from an offset on, cut at a length."""

  def __init__(self, content, *, offset=0, length=None):
    super().__init__(content[offset:][:length])
    self.status = 206 if offset else 200
    self.headers = email.message.Message()
    self.headers['Content-Length'] = str(len(content) - offset)


@pytest.fixture
def serve(monkeypatch):
  """Answers requests by a function; returns (address, timeout, range) of each.

  Pauses between attempts take no time.
  """
  monkeypatch.setattr(official_files.time, 'sleep', lambda seconds: None)
  requests = []

  def start(answer):
    def urlopen(request, timeout):
      start = request.get_header('Range')
      requests.append((request.full_url, timeout, start))
      return answer(request.full_url, int(start[6:-1]) if start else 0)

    request = official_files.urllib.request
    monkeypatch.setattr(request, 'urlopen', urlopen)
    return requests

  return start


def test_without_a_network_both_addresses_and_the_way_out_are_named(serve):
  def unreachable(url, offset):
    raise urllib.error.URLError('Network is unreachable')

  requests = serve(unreachable)
  with pytest.raises(InputError) as caught:
    source.download()
  for part in (
    source.ZIP_URL,
    source.LABELS_URL,
    '--config.data.manual_dir',
    'Network is unreachable',
  ):
    assert part in str(caught.value)
  # The pauses between attempts are 1, 2, ... seconds.
  pauses = sum(range(len(requests)))
  assert sum(timeout for _, timeout, _ in requests) + pauses <= 30


def test_download_gives_the_files_of_the_archive_and_the_labels(files, serve):
  contents = {
    source.ZIP_URL: (helpers.DUMMY / 'training2017.zip').read_bytes(),
    source.LABELS_URL: (helpers.DUMMY / 'REFERENCE-v3.csv').read_bytes(),
  }
  requests = serve(
    lambda url, offset: Response(contents[url], offset=offset, length=9000)
  )
  assert source.download() == files
  assert [start for *_, start in requests] == [None, None, 'bytes=9000-']


def test_download_starts_over_where_resuming_is_not_supported(serve):
  content = bytes(range(256)) * 10
  lengths = iter([1000, None])
  serve(lambda url, offset: Response(content, length=next(lengths)))
  assert source.FILES.download_file(source.ZIP_URL) == content

"""The formats that people keep recordings in: WFDB, EDF, MATLAB, text, NumPy.

Each reader looks at a file's header and gives its channels; the samples of one
of them are read later, a range at a time where the format has ranges (WFDB,
EDF, NumPy; a column of text or a MATLAB matrix is held as float32 or as is).
What the libraries raise of a file that is damaged becomes an InputError.
"""

import contextlib
import functools
import io
import math
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ecg_jax.errors import InputError

ARRAY_SUFFIXES = ('.csv', '.txt', '.npy')
"""Formats that state neither a sampling rate nor units."""

_PLAIN_RECORD = re.compile(r'[^\s/]+ 1 (\d+(?:\.\d+)?) (\d+)(?: .*)?')
"""Name, one signal, Hz, samples."""

_PLAIN_SIGNAL = re.compile(
  r'([^\s/:]+) 16(?:\+(\d+))? (\d+(?:\.\d+)?)(?:\(0\))?/(\S+) \d+ 0'
  r' -?\d+ -?\d+ 0 (.+)'
)
"""File, 16 bits from a byte on, counts a unit, unit, zero at 0, name."""

_PACKED_FORMATS = ('508', '516', '524')
"""WFDB's that hold FLAC."""

_MOST_PACKED = 1000
"""Samples that a byte of FLAC may stand for."""

_LONGEST_HEADER = 2**20
"""Bytes, of a .npy file."""

_SNIFFED = 2**16
"""Characters of a text file in which its numbers must have begun."""


class Samples(NamedTuple):
  """One channel, opened."""

  num_samples: int
  read: Callable[[int, int], np.ndarray]
  """start, stop -> float [stop - start], in the channel's units; NaN where a
  sample is missing."""
  notes: tuple[str, ...] = ()
  """What was assumed."""


class Channels(NamedTuple):
  """What a file holds. A name is '', a unit or rate None where not stated."""

  names: tuple[str, ...]
  units: tuple[str | None, ...]
  rates: tuple[float | None, ...]
  """Hz."""
  open: Callable[[int], Samples]
  """Opens a channel, by its number."""


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
  """Makes an InputError of whatever a library raises of a file."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  except InputError:
    raise
  except Exception as error:  # Each library has its own.
    if isinstance(error, OSError) and error.strerror:  # The system's.
      raise InputError(
        f'{path} cannot be read ({error.filename or path}: {error.strerror}):'
        ' give a readable file with all the files it names beside it.'
      ) from error
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise InputError(
      f'{path} is damaged or not what its name says ({reason}): export it'
      ' again.'
    ) from error


def find(paths: list[pathlib.Path], *, with_arrays: bool) -> list[pathlib.Path]:
  """The recordings among files and in folders.

  A `.dat` or `.mat` with a `.hea` beside it is one recording, of that header.
  The segments of a recording in a folder are none of their own, and a folder's
  sub-folders are not looked into.

  Args:
    paths: Files and folders.
    with_arrays: Whether CSV, TXT and NumPy files of a folder count too. Those
      named themselves always do.

  Returns:
    Files, each once even if named in several ways, in the order given, those
    of a folder by name.

  Raises:
    InputError: Nothing is at a path, or no recording is in a folder.
  """
  found: dict[str, pathlib.Path] = {}
  for path in paths:
    try:
      files = _find_at(path, with_arrays)
    except OSError as error:
      raise InputError(
        f'{str(path)[:200]} cannot be looked for ({error.strerror}): name a'
        ' file or a folder.'
      ) from error
    for file in files:
      found.setdefault(os.path.realpath(file), file)
  return list(found.values())


def _find_at(path: pathlib.Path, with_arrays: bool) -> list[pathlib.Path]:
  if path.is_dir() and path.suffix.lower() not in _READERS:
    inside = _find_inside(path, with_arrays)
    if not inside:
      raise InputError(
        f'The folder {path} holds no recordings (.hea, .edf, .mat; with'
        ' --sampling_rate and --units .csv, .txt and .npy too): name one'
        ' that does.'
      )
    return inside
  if path.exists():
    return [_header_beside(path)]
  header = path.with_name(f'{path.name}.hea')
  if header.exists():  # As WFDB names records.
    return [header]
  raise InputError(f'{path} is not there: name a file or a folder.')


def _find_inside(folder: pathlib.Path, with_arrays: bool) -> list[pathlib.Path]:
  try:
    files = sorted(path for path in folder.iterdir() if path.is_file())
  except OSError as error:
    raise InputError(
      f'The folder {folder} cannot be read ({error.strerror}): make it'
      ' readable.'
    ) from error
  wanted = {'.hea', '.edf', '.mat', *(ARRAY_SUFFIXES if with_arrays else ())}
  segments = {
    folder / f'{name}.hea'
    for path in files
    if path.suffix == '.hea'
    for name in _segment_names(path)
  }
  return [
    path
    for path in files
    if path.suffix.lower() in wanted
    and path not in segments
    and _header_beside(path) == path
  ]


def _header_beside(path: pathlib.Path) -> pathlib.Path:
  header = path.with_suffix('.hea')
  with_header = path.suffix.lower() in ('.dat', '.mat')
  return header if with_header and header.exists() else path


def _header_lines(path: pathlib.Path) -> list[str]:
  """Lines of a WFDB header but for its comments."""
  with path.open(encoding='utf-8', errors='replace') as file:
    text = file.read(2**22)
  lines = (line.partition('#')[0].strip() for line in text.splitlines())
  return [line for line in lines if line]


def _segment_names(path: pathlib.Path) -> list[str]:
  """Names of the segments of a WFDB record; none if it is whole."""
  try:
    lines = _header_lines(path)
  except OSError:  # It is told of when the recording is opened.
    return []
  if not lines or '/' not in lines[0].split()[0]:
    return []
  return [line.split()[0] for line in lines[1:]]


def read_channels(path: pathlib.Path) -> Channels:
  """Looks into a file, without reading its samples.

  Raises:
    InputError: It is none of the formats, or damaged.
  """
  suffix = path.suffix.lower()
  if suffix not in _READERS:
    raise InputError(
      f'{path} is no recording of a known format: give .hea (with .dat or .mat'
      ' beside it), .edf, .mat, .csv, .txt or .npy.'
    )
  with explained(path):
    if not path.is_file():
      raise InputError(f'{path} is not a file: name one.')
    if not path.stat().st_size:
      raise InputError(f'{path} is empty: export it again.')
    channels = _READERS[suffix](path)
    if not channels.names:
      raise InputError(f'{path} has no signal: give one with an ECG.')
    return channels


def _read_plain_wfdb(path: pathlib.Path) -> Channels | None:
  """What `_read_wfdb` gives of the commonest records, ten times as fast.

  These are of one signal of 16 bits, as all of the challenge are; None of any
  other, and of damaged ones.
  """
  lines = _header_lines(path)
  if len(lines) != 2:
    return None
  record = _PLAIN_RECORD.fullmatch(lines[0])
  signal = _PLAIN_SIGNAL.fullmatch(lines[1])
  if record is None or signal is None:
    return None
  rate, count = float(record[1]), int(record[2])
  file, first, gain = path.with_name(signal[1]), int(signal[2] or 0), signal[3]
  if not (
    file.is_file()
    and file.stat().st_size == first + 2 * count
    and count
    and float(gain)
  ):
    return None

  def read(start: int, stop: int) -> np.ndarray:
    counts = np.fromfile(file, '<i2', stop - start, offset=first + 2 * start)
    # The lowest count stands for a missing sample.
    return np.where(counts == -(2**15), np.nan, counts / float(gain))

  return Channels(
    (signal[5],), (signal[4],), (rate,), lambda channel: Samples(count, read)
  )


def _read_wfdb(path: pathlib.Path) -> Channels:
  plain = _read_plain_wfdb(path)
  if plain is not None:
    return plain
  import wfdb  # Brings pandas along: only where it is needed.

  @functools.lru_cache(maxsize=64)
  def header_of(name: str) -> Any:
    file = path.with_name(f'{name}.hea')
    lines = _header_lines(file)
    for line in lines:
      # wfdb would take such a name for an address, or for one in an archive.
      if '://' in line or '::' in line:
        raise InputError(
          f'{file} names a file that is not beside it ({line[:80]}): give a'
          ' copy with all its files in one folder.'
        )
    header = wfdb.rdheader(str(file.with_suffix('')))
    stated = lines[0].split()[2:4]
    # wfdb takes as much of the rate and the length as it can read.
    if stated and float(stated[0].partition('/')[0].partition('(')[0]) != (
      header.fs
    ):
      raise InputError(
        f'{file} has the sampling rate {stated[0]}: correct its first line.'
      )
    if stated[1:] and header.sig_len is None:
      raise InputError(
        f'{file} has the length {stated[1]}: correct its first line.'
      )
    for signal in set(getattr(header, 'file_name', None) or ()) - {'~'}:
      members = [
        k for k, other in enumerate(header.file_name) if other == signal
      ]
      claimed = (header.sig_len or 0) * sum(
        header.samps_per_frame[k] or 1 for k in members
      )
      packed = header.fmt[members[0]] in _PACKED_FORMATS
      size = file.with_name(signal).stat().st_size
      # The others have a byte a sample at least.
      if claimed > size * (_MOST_PACKED if packed else 1):
        raise InputError(
          f'{file} claims {claimed} samples of {signal}, which has {size}'
          ' bytes: it was cut off, so export it again.'
        )
    return header

  header = header_of(path.stem)
  states_rate = len(_header_lines(path)[0].split()) > 2
  if isinstance(header, wfdb.MultiRecord):
    segments = list(zip(header.seg_name, header.seg_len, strict=True))
    named = next((name for name, _ in segments if name != '~'), None)
    if named is None:
      raise InputError(f'{path} has gaps only: give one with an ECG.')
    first = header_of(named)
    if isinstance(first, wfdb.MultiRecord):
      raise InputError(f'{path} has segments of segments: give those.')
  else:
    first = header
    length = header.sig_len
    if length is None and header.n_sig:  # Told by the size of the file only.
      length = wfdb.rdrecord(str(path.with_suffix('')), channels=[0]).sig_len
    segments = [(path.stem, length or 0)]
  names = tuple(first.sig_name or ())
  frames = [count or 1 for count in first.samps_per_frame or ()]
  rate = float(header.fs)
  if sum(frames) * rate > 1e7:
    raise InputError(
      f'{path} claims {sum(frames) * rate:g} samples a second: restore it.'
    )

  @functools.lru_cache(maxsize=1)
  def whole(name: str, number: int, unit: str) -> np.ndarray:
    """A signal whose end wfdb finds only where it reads to it."""
    return read_signal(name, number, unit, 0, None).astype(np.float32)

  def read_signal(
    name: str, number: int, unit: str, start: int, stop: int | None
  ) -> np.ndarray:
    record = wfdb.rdrecord(
      str(path.with_name(name)),
      sampfrom=start,
      sampto=stop,
      channels=[number],
      smooth_frames=False,
      ignore_skew=True,
    )
    if record.units != [unit]:
      raise InputError(
        f'{path} has segments in other units than {unit}: convert them to one.'
      )
    return record.e_p_signal[0]

  def open_channel(channel: int) -> Samples:
    each = frames[channel]
    ends = np.cumsum([count * each for _, count in segments])

    def number_in(own: Any) -> int:
      if own.sig_name == [*names]:  # Two may have one name.
        return channel
      return own.sig_name.index(names[channel])

    def read_segment(name: str, start: int, stop: int) -> np.ndarray:
      own = header_of(name)
      if names[channel] not in (own.sig_name or ()):
        return np.full(stop - start, np.nan)
      number, unit = number_in(own), first.units[channel]
      if own.sig_len is None:
        return whole(name, number, unit)[start:stop]
      read = read_signal(name, number, unit, start // each, -(-stop // each))
      return read[start % each :][: stop - start]

    def read(start: int, stop: int) -> np.ndarray:
      samples = np.full(stop - start, np.nan)
      for (name, count), end in zip(segments, ends, strict=True):
        begin = int(end) - count * each
        low, high = max(start, begin), min(stop, int(end))
        if low < high and name != '~':
          samples[low - start : high - start] = read_segment(
            name, low - begin, high - begin
          )
      return samples

    def states_gain() -> bool:
      """Whether the first segment that has the lead does."""
      for name, count in segments:
        if name == '~' or not count:  # A gap, or a layout.
          continue
        own = header_of(name)
        if names[channel] in (own.sig_name or ()):
          lines = _header_lines(path.with_name(f'{name}.hea'))
          signal = wfdb.io.header.rx_signal.match(lines[1 + number_in(own)])
          return bool(float(signal['adc_gain'] or 0))
      return True

    # The format's default, which wfdb takes.
    assumed = f'no gain stated: taken to be 200 a {first.units[channel]}'
    notes = () if states_gain() else (assumed,)
    return Samples(int(ends[-1]), read, notes)

  return Channels(
    names,
    tuple(first.units or ()),
    # Where none is stated wfdb takes it to be 250 Hz.
    tuple(rate * count if states_rate else None for count in frames),
    open_channel,
  )


def _read_edf(path: pathlib.Path) -> Channels:
  import edfio

  edf = edfio.read_edf(path, lazy_load_data=True, header_encoding='latin-1')
  if edf.reserved.startswith('EDF+D'):
    raise InputError(
      f'{path} is discontinuous (EDF+D), so its times are not known: export it'
      ' as EDF or EDF+C.'
    )
  with path.open('rb') as file:
    claimed = int(file.read(244)[-8:])
  # -1 is what a device leaves that was switched off while recording.
  if claimed not in (-1, edf.num_data_records):
    raise InputError(
      f'{path} claims {claimed} data records and holds {edf.num_data_records}:'
      ' it was cut off, so export it again.'
    )

  def open_channel(channel: int) -> Samples:
    signal = edf.signals[channel]
    rate = signal.sampling_frequency
    # edfio would give the counts where these do not scale them.
    for kind in ('physical', 'digital'):
      wrong = 'not two numbers'
      with contextlib.suppress(ValueError):
        low, high = getattr(signal, f'{kind}_range')
        if math.isfinite(high - low):
          wrong = f'both {low:g}' if low == high else ''
      if wrong:
        raise InputError(
          f'{path} has a {kind} minimum and maximum of lead'
          f' {signal.label.strip() or channel} that are {wrong}, so its units'
          ' are not known: export it again.'
        )

    def read(start: int, stop: int) -> np.ndarray:
      return signal.get_data_slice(start / rate, stop / rate)

    return Samples(signal.samples_per_data_record * edf.num_data_records, read)

  return Channels(
    tuple(signal.label.strip() for signal in edf.signals),
    tuple(signal.physical_dimension.strip() for signal in edf.signals),
    tuple(signal.sampling_frequency for signal in edf.signals),
    open_channel,
  )


def _read_mat(path: pathlib.Path) -> Channels:
  import scipy.io

  content = io.BytesIO(path.read_bytes())  # Reads no more than there is.
  try:
    found = scipy.io.loadmat(content, variable_names=['val'])
  except NotImplementedError as error:
    raise InputError(
      f'{path} is of MATLAB version 7.3 (HDF5), which is not read: save it with'
      " -v7, or give the record's .hea too."
    ) from error
  if 'val' not in found:
    raise InputError(
      f"{path} has no variable 'val': name the signal so, one row a lead."
    )
  return array_channels(path, found['val'])


def _read_npy(path: pathlib.Path) -> Channels:
  with path.open('rb') as file:
    start = file.read(12)
  # NumPy would make room for as long a header as the file claims to have.
  long = start[6:7] > b'\1' and int.from_bytes(start[8:], 'little') > (
    _LONGEST_HEADER
  )
  if start[:6] != b'\x93NUMPY' or long:
    raise InputError(f'{path} is no .npy file: save it with numpy.save.')
  return array_channels(path, np.load(path, mmap_mode='r'))


def array_channels(name: Any, array: np.ndarray) -> Channels:
  """The channels of an array of samples.

  Args:
    name: What to call it in an error.
    array: Real numbers, one axis, or two of which the longer is time.

  Raises:
    InputError: It is of another kind.
  """
  array = np.atleast_1d(array) if isinstance(array, np.ndarray) else array
  if not isinstance(array, np.ndarray) or array.dtype.kind not in 'iuf':
    kind = type(array).__name__  # SciPy's sparse matrices have a dtype, too.
    kind = str(array.dtype) if isinstance(array, np.ndarray) else kind
    raise InputError(
      f'{name} holds {kind}, not an array of real numbers: convert it.'
    )
  if array.ndim > 2 or not array.size:
    raise InputError(
      f'{name} holds an array of shape {array.shape}: give samples, or leads'
      ' and samples.'
    )
  rows = array[None] if array.ndim == 1 else array
  rows = rows if rows.shape[0] <= rows.shape[1] else rows.T

  def open_channel(channel: int) -> Samples:
    def read(start: int, stop: int) -> np.ndarray:
      return np.asarray(rows[channel, start:stop], np.float64)

    return Samples(rows.shape[1], read)

  count = len(rows)
  return Channels(('',) * count, (None,) * count, (None,) * count, open_channel)


def _read_text(path: pathlib.Path) -> Channels:
  with _text(path) as file:
    # As the file is read later; `splitlines` would end some at a form feed.
    lines = list(io.StringIO(file.read(_SNIFFED)))
  start, split = next(
    (
      (index, sign)
      for index, line in enumerate(lines)
      for sign in ('\t', ';', ',', None)
      if (sign or '') in line and _is_data(_fields(line, sign))
    ),
    (None, None),
  )
  if start is None:
    raise InputError(
      f'{path} has no row of numbers near its start: export it as columns of'
      ' numbers, with one header line at most.'
    )
  fields = _fields(lines[start], split)
  above = (_fields(line, split) for line in reversed(lines[:start]))
  names = next(
    (row for row in above if len(row) == len(fields) and not _has_unit(row)),
    [''] * len(fields),
  )
  # The first rows may be whole numbers.
  signed = next((x for x in lines[start:] if ',' in x or '.' in x), '')
  decimal = ',' if split != ',' and ',' in signed else '.'

  def open_channel(channel: int) -> Samples:
    values = _read_column(path, start, split, decimal, channel, len(fields))
    return Samples(len(values), lambda start, stop: values[start:stop])

  count = len(fields)
  return Channels(tuple(names), (None,) * count, (None,) * count, open_channel)


def _text(path: pathlib.Path) -> io.TextIOWrapper:
  return path.open(encoding='utf-8-sig', errors='replace', newline=None)


def _fields(line: str, delimiter: str | None) -> list[str]:
  """Of a line; None for columns that blanks divide."""
  return [field.strip().strip('"\'') for field in line.split(delimiter)]


def _is_number(field: str, decimal: str = '.') -> bool:
  """Whether it is one, or nothing, which is a missing sample."""
  try:
    float(field.replace(decimal, '.') or 'nan')
  except ValueError:
    return False
  return True


def _has_unit(row: list[str]) -> bool:
  """Whether a row above the numbers tells their units, not their names."""
  return any(re.fullmatch(r'\W?[munµμ]v\W?', x, re.IGNORECASE) for x in row)


def _is_data(fields: list[str]) -> bool:
  """Whether a row holds numbers, or a time of day and numbers."""
  if not any(fields):
    return False
  timed = len(fields) > 1 and ':' in fields[0]
  return all(_is_number(field, ',') for field in fields[timed:])


def _read_column(
  path: pathlib.Path,
  start: int,
  delimiter: str | None,
  decimal: str,
  column: int,
  count: int,
) -> np.ndarray:
  """One of `count` columns, float32, of a text with numbers from `start` on.

  An empty line is a missing sample, if numbers follow.
  """
  import pandas

  try:
    with _text(path) as file:
      for _ in range(start):
        next(file)
      parts = [
        to_float32(part[column].to_numpy())
        for part in pandas.read_csv(
          file,
          sep=delimiter or r'\s+',
          header=None,  # And no `usecols`, which lets longer rows pass.
          dtype={column: np.float64},
          decimal=decimal,
          skipinitialspace=True,
          skip_blank_lines=False,
          chunksize=2**20,
        )
      ]
  except ValueError as error:
    with _text(path) as file:
      for number, line in enumerate(file, 1):
        fields = _fields(line, delimiter)
        if number <= start or not line.strip():
          continue
        if len(fields) > count:
          raise InputError(
            f'Line {number} of {path} has {len(fields)} columns, not {count}'
            f' ({line.strip()[:40]!r}): correct or remove it.'
          ) from error
        if len(fields) <= column or not _is_number(fields[column], decimal):
          raise InputError(
            f'Line {number} of {path} has {line.strip()[:40]!r} where a number'
            ' belongs: correct or remove it.'
          ) from error
    raise
  values = np.concatenate(parts)
  return values[: len(values) - _empty_lines_at_end(path)]


def to_float32(samples: np.ndarray) -> np.ndarray:
  """Samples of any dtype as float32, those that are large within +-1e30.

  What is infinite is missing, so that it stays so; a number does not become it.
  """
  return np.where(
    np.isfinite(samples), np.clip(samples, -1e30, 1e30), np.nan
  ).astype(np.float32)


def _empty_lines_at_end(path: pathlib.Path) -> int:
  with path.open('rb') as file:
    file.seek(max(0, path.stat().st_size - _SNIFFED))
    tail = file.read().decode('utf-8', 'replace')
  ends = list(io.StringIO(tail[len(tail.rstrip()) :], newline=None))
  return max(0, len(ends) - 1)  # The first ends the last line not empty.


_READERS = {
  '.hea': _read_wfdb,
  '.edf': _read_edf,
  '.mat': _read_mat,
  '.npy': _read_npy,
  '.csv': _read_text,
  '.txt': _read_text,
}

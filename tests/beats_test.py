"""Beats and their features: found where they are, the same in any batch."""

import dataclasses
import functools
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ecg_jax.beats import features, r_peaks, rhythm, sliding, statistics
from ecg_jax.input_pipeline import device_data
from ecg_jax.training import boosting
from tests import few_features, training_helpers

RATE = 300
SIZE = 15_000  # Samples of the arrays.


_find = jax.jit(r_peaks.find, static_argnames='sampling_rate')


def find(signal, length=None, *, sampling_rate=RATE):
  """Positions of the beats of one recording."""
  length = len(signal) if length is None else length
  # One size and so one program for all recordings at a rate.
  padded = np.pad(signal, (0, 50 * sampling_rate - len(signal)))
  found = _find(padded, length, sampling_rate=sampling_rate)
  return np.asarray(found.positions)[: int(found.number)], found


_program = jax.jit(
  functools.partial(
    features.compute, sampling_rate=RATE, counts_per_millivolt=1000
  )
)


def compute(signal, lengths):
  """Name -> values, of recordings."""
  found = _program(signal, lengths)
  return dict(zip(features.names(), np.asarray(found).T, strict=True))


def compute_one(signal, length):
  """Name -> value, of one recording, by the program of `batch`."""
  padded = np.pad(signal[None], ((0, 4), (0, SIZE - len(signal))))
  found = compute(padded, np.array([length, 0, 0, 0, 0], np.int32))
  return {name: values[0] for name, values in found.items()}


WAVES = {
  'R': (0, 0.012, 1000),
  'P': (-0.16, 0.025, 120),
  'T': (0.28, 0.05, 250),
}
"""Seconds behind the R peak, deviation in seconds, counts."""


def ecg(rr, *, sampling_rate=RATE, seed=0, noise=5, **waves):
  """A recording with R peaks after these seconds, int16, and where they are.

  A wave can be another than that of `WAVES`.
  """
  times = 0.5 + np.cumsum(rr)
  time = np.arange(round((times[-1] + 0.7) * sampling_rate)) / sampling_rate
  signal = sum(
    height * np.exp(-0.5 * ((time[:, None] - times - place) / width) ** 2)
    for place, width, height in (WAVES | waves).values()
  ).sum(axis=1)
  signal += np.random.default_rng(seed).normal(0, noise, len(time))
  return np.round(signal).astype(np.int16), times * sampling_rate


@pytest.mark.parametrize('rate', [128, 250, 300, 500, 1000])
@pytest.mark.parametrize('seconds', [0.35, 0.8, 1.6])
def test_finds_each_beat(rate, seconds):
  rr = seconds * np.random.default_rng(1).uniform(0.85, 1.15, 25)
  signal, times = ecg(rr, sampling_rate=rate)
  found, _ = find(signal, sampling_rate=rate)
  assert len(found) == len(times)
  assert np.abs(found - times).max() <= max(1.5, 0.005 * rate)


def test_an_offset_changes_no_beat():
  signal, _ = ecg(np.full(20, 0.8), noise=40)
  expected, _ = find(signal)
  np.testing.assert_array_equal(find(signal + 3000)[0], expected)


def test_beats_at_both_ends_are_where_they_are():
  """Though the last sample, behind which is no padding, is steeper."""
  signal, times = ecg(np.full(20, 0.8))
  first, last = round(times[0]), round(times[-1])
  signal[-300:] *= 2
  signal = signal[first - 8 : last + 10]
  beats = _find(signal, len(signal), sampling_rate=RATE)
  found = beats.positions[: beats.number]
  np.testing.assert_allclose(found, times - first + 8, atol=2)


def test_beats_of_a_pause_are_not_made_up():
  signal, times = ecg([0.8] * 10 + [5.5] + [0.8] * 10)
  assert len(find(signal)[0]) == len(times)


def test_steep_t_waves_are_no_beats():
  signal, times = ecg(np.full(30, 0.9), T=(0.3, 0.025, 800))
  assert len(find(signal)[0]) == len(times)


def test_a_sine_is_even_and_beats_are_not():
  time = np.arange(30 * RATE) / RATE
  sine = np.round(500 * np.sin(2 * np.pi * 4.8 * time)).astype(np.int16)
  assert find(sine)[1].evenness > 0.9
  assert find(ecg(np.full(30, 0.8))[0])[1].evenness < 0.1


@pytest.mark.parametrize('constant', [0, 32767, -32768])
@pytest.mark.parametrize('length', [0, 1, 30, 64, 700])
def test_a_recording_without_beats(constant, length):
  signal = np.full(9000, constant, np.int16)
  assert len(find(signal, length)[0]) == 0
  found = compute_one(signal, length)
  assert not np.isinf([*found.values()]).any()


def test_the_largest_counts_do_not_overflow():
  square = np.where(np.arange(9000) // 150 % 2, 32767, -32768)
  found, _ = find(square.astype(np.int16))
  steps = np.arange(150, 9000, 150)
  assert np.abs(found[:, None] - steps).min(axis=1).max() <= 0.067 * RATE


@pytest.fixture(scope='module')
def batch():
  """Five recordings of several lengths, and their features."""
  random = np.random.default_rng(0)
  rows = [
    ecg(random.uniform(0.4, 1.2, count), seed=count, noise=60)[0]
    for count in (3, 8, 20, 31, 44)
  ]
  signal = np.stack([np.pad(row, (0, SIZE - len(row))) for row in rows])
  lengths = np.array([len(row) for row in rows], np.int32)
  return signal, lengths, compute(signal, lengths)


def test_nothing_behind_a_length_changes_a_bit(batch):
  signal, lengths, expected = batch
  noise = np.random.default_rng(3).integers(-9000, 9000, signal.shape)
  behind = np.arange(signal.shape[1]) >= lengths[:, None]
  signal = np.where(behind, noise, signal).astype(np.int16)
  for name, value in compute(signal, lengths).items():
    np.testing.assert_array_equal(value, expected[name], name)


@pytest.mark.parametrize('row', [0, 2, 3])
def test_padding_and_batch_change_no_bit(batch, row):
  signal, lengths, expected = batch
  alone = compute(signal[row : row + 1, :9344], lengths[row : row + 1])
  for name, value in alone.items():
    np.testing.assert_array_equal(value[0], expected[name][row], name)


def test_an_exported_program_gives_the_same(batch):
  """To the bit, since a tree may decide by the last one."""
  signal, lengths, expected = batch
  rows, samples = jax.export.symbolic_shape('b, n')
  program = jax.export.export(_program, platforms=('cpu', 'cuda'))(
    jax.ShapeDtypeStruct((rows, samples), np.int16),
    jax.ShapeDtypeStruct((rows,), np.int32),
  )
  found = program.call(signal[2:3, :9344], lengths[2:3])
  for name, value in zip(features.names(), found[0], strict=True):
    np.testing.assert_array_equal(value, expected[name][2], name)


def test_programs_of_several_devices_have_them(small_job, tmp_path):
  job, mesh = small_job(tmp_path), training_helpers.make_group(count=3).mesh
  data = training_helpers.put_data(job, mesh)
  chunks = job.sampler.evaluation_chunks('train')
  inputs = next(iter(device_data.feed(data, chunks, mesh)))
  function = functools.partial(
    boosting.compute_chunk, network=job.network, mesh=mesh.abstract_mesh
  )
  found = jax.eval_shape(function, *inputs)
  assert found.shape[-1] == len(features.names())


def test_the_unit_changes_nothing(batch):
  signal, lengths, _ = batch
  with few_features.instead():
    expected, found = (
      features.compute(
        counts, lengths, sampling_rate=RATE, counts_per_millivolt=unit
      )
      for counts, unit in ((signal, 1000), (signal.astype('f4') / 1000, 1))
    )
  np.testing.assert_array_equal(found, expected)


def test_upside_down_recordings_have_the_same_rhythm(batch):
  signal, lengths, expected = batch
  found = compute(-signal, lengths)
  np.testing.assert_allclose(found['rate'], expected['rate'])
  np.testing.assert_allclose(found['rr_50%'], expected['rr_50%'], atol=0.01)
  np.testing.assert_allclose(found['upward'], -expected['upward'], atol=1e-4)


def test_an_early_beat_is_counted():
  rr = [0.8] * 10 + [0.5, 1.1] + [0.8] * 10
  signal, _ = ecg(rr)
  found = compute_one(signal, len(signal))
  assert found['early'] == found['early_then_late'] == 1
  assert found['main_early_then_late'] == 1
  rate = 60 * len(rr) * RATE / len(signal)
  assert found['rate'] == pytest.approx(rate, rel=1e-6)


def test_p_waves_are_told_from_their_absence():
  found = []
  for height in (120, 0):
    signal, _ = ecg(np.full(20, 0.8), noise=15, P=(-0.16, 0.025, height))
    found.append(compute_one(signal, len(signal)))
  present, absent = found
  assert present['p_likeness_50%'] > 0.8 > absent['p_likeness_50%']
  assert present['p_height'] > 0.08 > 0.04 > absent['p_height']


def test_f_waves_show_between_the_beats():
  signal, _ = ecg(np.full(20, 0.8), P=(0, 1, 0))
  calm = compute_one(signal, len(signal))
  time = np.arange(len(signal)) / RATE
  signal += np.round(60 * np.sin(2 * np.pi * 6 * time)).astype(np.int16)
  found = compute_one(signal, len(signal))
  assert found['tq_frequency'] == 6
  assert found['tq_level'] > calm['tq_level'] + 0.5


arrays = npst.arrays(
  np.float32, 40, elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


PERCENTS = (0, 5, 25, 50, 90, 100)
percentiles = jax.jit(
  lambda x, mask: statistics.percentiles(x, mask, *PERCENTS)
)


@given(arrays, st.integers(1, 40))
def test_percentiles_are_those_of_numpy(x, count):
  found = percentiles(x, np.arange(40) < count)
  expected = np.percentile(x[:count], PERCENTS)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_windows_are_those_of_a_loop():
  sizes, length = (1, 2, 7, 30, 50, 60), 41
  x = np.random.default_rng(0).integers(1, 9, 50, np.int32) * (
    np.arange(50) < length
  )
  sums = sliding.window_sums(jnp.asarray(x), *sizes)
  counts = sliding.window_counts(50, jnp.int32(length), *sizes)
  for size, found, count in zip(sizes, sums, counts, strict=True):
    padded = np.pad(x, (size // 2, size))
    windows = [padded[k : k + size] for k in range(50)]
    np.testing.assert_array_equal(found, [w.sum() for w in windows])
    np.testing.assert_array_equal(count, [(w > 0).sum() for w in windows])


@pytest.mark.parametrize('reach', [1, 5, 7, 50, 72])
def test_neighbors_are_those_of_a_loop(reach):
  x = np.random.default_rng(reach).integers(0, 99, 50, np.int32)
  padded = np.pad(x, reach)
  before, after = sliding.neighbor_maxima(jnp.asarray(x), reach)
  expected = [padded[k : k + reach].max() for k in range(50)]
  np.testing.assert_array_equal(before, expected)
  ends = reach + 1 + np.arange(50)
  expected = [padded[k : k + reach].max() for k in ends]
  np.testing.assert_array_equal(after, expected)


@given(npst.arrays(bool, 30))
def test_longest_run_is_that_of_a_loop(flags):
  runs = ''.join(map(str, flags.astype(int))).split('0')
  found = statistics.longest_run(jnp.asarray(flags))
  assert found == max(map(len, runs))


def test_intervals_measure_what_their_names_say():
  random = np.random.default_rng(2)
  rr = random.normal(0.8, 0.1, 60).astype(np.float32)
  found = jax.jit(rhythm.features)(np.pad(rr, (0, 40)), 60)
  change = np.diff(rr)
  expected = {
    'rr_mean': rr.mean(),
    'rr_deviation': rr.std(),
    'rr_rmssd': np.sqrt((change**2).mean()) / np.median(rr),
    'rr_nn50': (np.abs(change) > 0.0517).mean(),
    'rr_sample_entropy': _sample_entropy(rr, 0.0583),
    'rr_turns': (change[1:] * change[:-1] < 0).mean(),
    'rr_longest': rr.max() / np.median(rr),
    'rate_least': 60 / np.convolve(rr, np.full(5, 0.2), 'valid').max(),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def _sample_entropy(rr, tolerance):
  """Minus the log of the share of alike pairs that go on to be alike."""
  pairs = [(i, j) for i in range(len(rr) - 1) for j in range(len(rr) - 1)]
  alike = [
    abs(rr[i + 1] - rr[j + 1]) < tolerance
    for i, j in pairs
    if i != j and abs(rr[i] - rr[j]) < tolerance
  ]
  return np.log((len(alike) + 1) / (sum(alike) + 1))


@dataclasses.dataclass
class Matches:
  """Beats of two sources that are within 150 ms of one another, and others."""

  both: int = 0
  first: int = 0
  second: int = 0

  def count(self, first, second):
    """Adds the beats of a recording, sorted samples at `RATE`."""
    distance = np.abs(first[:, None] - second[None, :])
    near = (distance <= 0.15 * RATE).any(axis=1)
    self.both += int(near.sum())
    self.first += len(first)
    self.second += len(second)

  @property
  def found(self):
    """Percent of the first source's beats that the second has."""
    return 100 * self.both / self.first

  @property
  def confirmed(self):
    """Percent of the second source's beats that the first has."""
    return 100 * self.both / self.second


def test_agrees_with_the_annotations_of_mit_bih(real_data, tmp_path):
  """Minutes of the first lead, at 300 Hz; the beats that cardiologists saw."""
  with zipfile.ZipFile(real_data / 'mitdb.zip') as archive:
    archive.extractall(tmp_path)
  size = 60 * RATE
  minutes = jax.jit(
    jax.vmap(functools.partial(r_peaks.find, sampling_rate=RATE))
  )
  total, below = Matches(), set()
  for path in sorted(tmp_path.glob('mitdb/1*.hea')):
    record = wfdb.rdrecord(str(path.with_suffix('')), channels=[0])
    notes = wfdb.rdann(str(path.with_suffix('')), 'atr')
    signal = scipy.signal.resample_poly(1000 * record.p_signal[:, 0], 5, 6)
    count = -(-len(signal) // size)
    padded = np.pad(np.round(signal), (0, count * size - len(signal)))
    starts = size * np.arange(count)
    lengths = np.minimum(size, len(signal) - starts)
    beats = minutes(padded.reshape(count, size).astype(np.int16), lengths)
    positions = np.asarray(beats.positions)
    found = (positions + starts[:, None])[positions < size]
    is_beat = np.isin(notes.symbol, list('NLRBAaJSVrFejnE/fQ?'))
    annotated = notes.sample[is_beat] * 5 / 6
    own = Matches()
    own.count(annotated, found)
    total.count(annotated, found)
    if min(own.found, own.confirmed) < 99:
      below.add(path.stem)
  assert min(total.found, total.confirmed) >= 99.5
  assert below == {'104', '105', '106'}

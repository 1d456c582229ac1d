import collections
import io
import pathlib
import zipfile

import numpy as np
import pytest
import scipy.io

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.datasets.synthetic_ecg import generator

SECONDS = 30
RATE = CHALLENGE.sampling_rate
CLASSES = CHALLENGE.classes


@pytest.fixture(scope='module')
def records():
  return list(generator.generate())


def beats_of(label, count=60):
  """Rhythms of a class, with the generators that go on after each."""
  for seed in range(count):
    rng = np.random.default_rng(seed)
    yield rng, generator.make_beats(rng, label, SECONDS)


def test_same_seed_gives_the_same_record_whatever_the_number(records):
  again = list(generator.generate(3))
  alone = generator.generate_record(2017, 2)
  for one, two in zip([*again, alone], [*records[:3], records[2]], strict=True):
    np.testing.assert_equal(one, two)


def test_other_seeds_give_other_signals_labels_and_lengths(records):
  others = list(generator.generate(20, seed=1))
  pairs = list(zip(records[:20], others, strict=True))
  assert all(not np.array_equal(a[1], b[1]) for a, b in pairs)
  assert any(a[2] != b[2] for a, b in pairs)
  assert any(len(a[1]) != len(b[1]) for a, b in pairs)


def test_class_shares_are_those_of_the_real_set(records):
  numbers = range(1, 601)
  assert [name for name, *_ in records] == [f'S{n:05d}' for n in numbers]
  shares = collections.Counter(label for _, _, label in records)
  for label, real in zip(CLASSES, (5076, 758, 2415, 279), strict=True):
    assert shares[label] == pytest.approx(600 * real / 8528, abs=1)


def test_lengths_are_distributed_like_the_real_set(records):
  lengths = np.array([len(signal) for _, signal, _ in records])
  assert lengths.min() >= 2714
  assert lengths.max() <= 18286
  assert np.mean(lengths == 9000) == pytest.approx(0.701, abs=0.005)
  assert np.mean(lengths == 18000) == pytest.approx(0.095, abs=0.005)
  assert np.mean(lengths) == pytest.approx(9749, rel=0.02)
  # They say little about the class.
  for label in CLASSES[:3]:
    lengths = [len(signal) for _, signal, its in records if its == label]
    assert np.mean(lengths) == pytest.approx(9749, rel=0.15)


def test_signals_are_plausible_counts(records):
  for _, signal, _ in records:
    assert signal.dtype == np.int16
    assert signal.ndim == 1
    assert np.abs(signal.astype(int)).max() <= generator.LARGEST
    assert signal.std() > 5


def test_amplitudes_are_like_the_real_ones(records, real_data: pathlib.Path):
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    names = [n for n in sorted(archive.namelist()) if n.endswith('.mat')]
    real = [
      scipy.io.loadmat(io.BytesIO(archive.read(name)))['val'][0]
      for name in names[::20]
    ]
  synthetic = [signal for _, signal, _ in records]
  for percentile in (25, 50, 75):
    for measure in (np.std, lambda x: np.percentile(np.abs(x), 99)):
      expected = np.percentile([measure(x) for x in real], percentile)
      found = np.percentile([measure(x) for x in synthetic], percentile)
      assert found == pytest.approx(expected, rel=0.25)


def test_fibrillation_is_irregular_and_sinus_rhythm_is_not():
  def irregularity(beats):
    steps = np.diff(beats.intervals)
    return np.sqrt(np.mean(steps**2)) / np.mean(beats.intervals)

  sinus = [irregularity(beats) for _, beats in beats_of('N')]
  fibrillation = [irregularity(beats) for _, beats in beats_of('A')]
  assert np.median(sinus) < 0.06
  assert np.median(fibrillation) > 0.2
  assert min(fibrillation) > np.percentile(sinus, 75)


def test_intervals_in_fibrillation_are_independent_and_refractory():
  correlations = []
  for _, beats in beats_of('A'):
    assert beats.intervals.min() >= 0.26
    deviations = beats.intervals - beats.intervals.mean()
    correlations.append(
      np.sum(deviations[1:] * deviations[:-1]) / np.sum(deviations**2)
    )
  assert abs(np.mean(correlations)) < 0.1


def test_sinus_rhythm_breathes_between_50_and_100_a_minute():
  for _, beats in beats_of('N'):
    assert 49 <= 60 / beats.intervals.mean() <= 101
    assert 0.005 < beats.intervals.std() / beats.intervals.mean() < 0.2


@pytest.mark.parametrize('label', CLASSES)
def test_beats_cover_the_record(label):
  for _, beats in beats_of(label):
    assert beats.times[0] < 1.5
    assert beats.times[-1] > SECONDS
    assert np.all(np.diff(beats.times) > 0.2)
    np.testing.assert_allclose(np.diff(beats.times), beats.intervals[1:])


def abnormality(beats):
  """What of the other rhythms is seen within the record, or None."""
  inside = (beats.times > 0) & (beats.times < SECONDS)
  intervals = beats.intervals[inside]
  rate = 60 / intervals.mean()
  waves = beats.p_times[
    (beats.p_times > 0) & (beats.p_times < beats.times[inside][-1])
  ]
  if np.any(beats.ventricular[inside]):
    return 'ventricular ectopic'
  if len(waves) > np.sum(inside) + 1:
    return 'dropped beat'
  if rate < 51 or rate > 99:
    return 'rate'
  after = beats.times[np.searchsorted(beats.times, waves)]
  if np.median((after - waves) / np.sqrt(intervals.mean())) > 0.22:
    return 'long PR'
  if np.min(intervals[1:] / intervals[:-1]) < 0.83:
    return 'premature beat'
  return None


def test_every_other_rhythm_is_abnormal_and_sinus_rhythm_is_not():
  kinds = [abnormality(beats) for _, beats in beats_of('O', 200)]
  assert None not in kinds
  assert set(kinds) == {
    'ventricular ectopic', 'dropped beat', 'rate', 'long PR', 'premature beat',
  }  # fmt: skip
  kinds = [abnormality(beats) for _, beats in beats_of('N', 200)]
  # Strong respiratory arrhythmia may pass for a premature beat.
  assert kinds.count(None) > 180


def wave_before_r(rng, beats):
  """Mean ECG 0.25 to 0.06 s before R above its ends, as a share of R."""
  ecg = generator.draw_waves(rng, beats, SECONDS * RATE)
  offsets = np.arange(-75, 1)
  # Beats with a long diastole: no T wave runs into the time before them.
  long = beats.intervals >= np.quantile(beats.intervals, 0.6)
  peaks = np.rint(beats.times[long] * RATE).astype(int)
  peaks = peaks[(peaks > 75) & (peaks < len(ecg))]
  mean = ecg[peaks[:, None] + offsets].mean(0)
  return (mean[:57].max() - mean[0]) / mean[-1]


def test_sinus_rhythm_has_p_waves_and_fibrillation_has_none():
  sinus = [wave_before_r(*pair) for pair in beats_of('N')]
  fibrillation = [wave_before_r(*pair) for pair in beats_of('A')]
  assert np.median(sinus) > 0.08
  assert np.quantile(fibrillation, 0.9) < 0.02
  for _, beats in beats_of('A'):
    assert len(beats.p_times) == 0

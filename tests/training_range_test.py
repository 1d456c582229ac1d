import dataclasses
import zipfile

import numpy as np
import pytest
import scipy.signal

from ecg_jax.datasets import training_range
from ecg_jax.datasets.schema import CHALLENGE, DatasetSpec


def ecg(seconds=30.0, millivolt=1.0, noise=0.005):
  """A pulse a second and some noise, int16 at 300 Hz."""
  rng = np.random.default_rng(0)
  times = np.arange(round(300 * seconds)) / 300
  pulse = np.exp(-0.5 * ((times % 1 - 0.5) / 0.02) ** 2)
  signal = pulse + noise * rng.normal(size=len(times))
  return np.rint(1000 * millivolt * signal).astype(np.int16)


def departures(counts, spec=CHALLENGE):
  return training_range.departures(
    counts,
    spec.ranges,
    sampling_rate=spec.sampling_rate,
    counts_per_millivolt=spec.counts_per_millivolt,
  )


def test_a_recording_like_those_of_the_training_is_like_them():
  assert departures(ecg()) == []


@pytest.mark.parametrize(
  ('counts', 'phrase'),
  [
    (ecg(seconds=8), 'shorter than the 9 s'),
    (ecg(seconds=62), 'longer than the 61 s'),
    (ecg(millivolt=0.2), 'amplitude below the 0.37 to 7 mV'),
    (ecg(millivolt=12), 'amplitude above'),
    (np.clip(40.0 * ecg(), None, 32767), 'cut off at 32.767 mV'),
    (ecg(noise=0.2), 'more power above 40 Hz'),
    (
      np.rint(1000 * np.sin(np.arange(9000) * np.pi / 75)),
      'less power above 40 Hz',
    ),
  ],
)
def test_what_is_unlike_is_named(counts, phrase):
  [found] = departures(counts)
  assert phrase in found


@pytest.mark.parametrize('level', [0, 500])
def test_a_flat_line_is_unlike(level):
  found = departures(np.full(9000, level, np.int16))
  assert len(found) == 2


def test_mains_are_power_above_40_hz():
  hum = 200 * np.sin(2 * np.pi * 50 * np.arange(9000) / 300)
  [found] = departures(ecg() + hum)
  assert 'more power' in found
  filtered = scipy.signal.sosfiltfilt(
    scipy.signal.butter(4, 35, fs=300, output='sos'), ecg() + hum
  )
  assert 'more power' not in str(departures(filtered))


def test_nearly_all_real_records_are_like_themselves(real_data):
  records = []
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    for name in archive.namelist():
      if name.endswith('.mat'):
        counts = np.frombuffer(archive.read(name)[24:], '<i2')
        records.append(counts)
  assert len(records) == 8528
  unlike = [bool(departures(counts)) for counts in records]
  assert 0.01 < np.mean(unlike) < 0.025
  # What the spec says of them is what they have.
  measured = training_range.measure(
    records, sampling_rate=300, counts_per_millivolt=1000
  )
  np.testing.assert_allclose(
    dataclasses.astuple(measured),
    dataclasses.astuple(CHALLENGE.ranges),
    rtol=0.1,
  )


def test_ranges_are_measured_in_seconds_and_millivolt():
  """At another rate and unit; 99 % of the records are within."""
  rng = np.random.default_rng(0)
  hum = np.sin(2 * np.pi * 45 * np.arange(2000) / 100)
  records = []
  for index in range(1000):
    length = 500 if index == 7 else 1500 if index == 8 else 1000
    wave = rng.normal(0, 1, length) + hum[:length]
    wave *= 50 * (1 + 99 * (index in (1, 2)) + index / 1000)
    records.append(np.rint(wave).astype(np.int16))
  spec = DatasetSpec(
    classes=('a', 'b'), sampling_rate=100, counts_per_millivolt=200
  )
  ranges = training_range.measure(
    iter(records), sampling_rate=100, counts_per_millivolt=200
  )
  assert ranges.seconds == (5.0, 15.0)
  # Two of a thousand are far above; a percentile is not the largest.
  spread = 5.2 * np.hypot(50, 50 / 2**0.5) / 200
  assert ranges.millivolt[0] == pytest.approx(spread, rel=0.15)
  assert ranges.millivolt[1] == pytest.approx(2 * spread, rel=0.15)
  low, high = ranges.power_above_40_hz
  assert 0.2 < low < high < 0.6
  spec = dataclasses.replace(spec, ranges=ranges)
  unlike = [bool(departures(counts, spec)) for counts in records]
  assert unlike[1]
  assert unlike[2]
  assert 2 <= sum(unlike) <= 20

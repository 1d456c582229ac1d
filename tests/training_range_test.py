import zipfile

import numpy as np
import pytest
import scipy.signal

from ecg_jax.recordings import training_range


def ecg(seconds=30.0, millivolt=1.0, noise=0.005):
  """A pulse a second and some noise, int16 at 300 Hz."""
  rng = np.random.default_rng(0)
  times = np.arange(round(300 * seconds)) / 300
  pulse = np.exp(-0.5 * ((times % 1 - 0.5) / 0.02) ** 2)
  signal = pulse + noise * rng.normal(size=len(times))
  return np.rint(1000 * millivolt * signal).astype(np.int16)


def test_a_recording_like_those_of_the_training_is_like_them():
  assert training_range.departures(ecg()) == []


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
  [found] = training_range.departures(counts)
  assert phrase in found


@pytest.mark.parametrize('level', [0, 500])
def test_a_flat_line_is_unlike(level):
  found = training_range.departures(np.full(9000, level, np.int16))
  assert len(found) == 2


def test_mains_are_power_above_40_hz():
  hum = 200 * np.sin(2 * np.pi * 50 * np.arange(9000) / 300)
  [found] = training_range.departures(ecg() + hum)
  assert 'more power' in found
  filtered = scipy.signal.sosfiltfilt(
    scipy.signal.butter(4, 35, fs=300, output='sos'), ecg() + hum
  )
  assert 'more power' not in str(training_range.departures(filtered))


def test_nearly_all_real_records_are_like_themselves(real_data):
  unlike = []
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    for name in archive.namelist():
      if name.endswith('.mat'):
        counts = np.frombuffer(archive.read(name)[24:], '<i2')
        unlike.append(len(training_range.departures(counts)))
  assert len(unlike) == 8528
  assert 0.01 < np.mean(np.array(unlike) > 0) < 0.025

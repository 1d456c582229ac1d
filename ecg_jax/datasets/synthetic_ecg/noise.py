"""Noise of synthetic ECG: muscle, mains, electrode motion, lost contact.

Amplitudes were tuned by hand to percentiles of the Challenge's training set.
"""

import numpy as np

from ecg_jax.datasets.schema import CHALLENGE

_RATE = CHALLENGE.sampling_rate


def usual(rng: np.random.Generator, samples: int) -> np.ndarray:
  """Noise of any record: wander, muscle, mains, a little motion.

  Args:
    rng: Decides on the noise.
    samples: Length of the record.

  Returns:
    float64 (samples,), mV.
  """
  added = rng.lognormal(np.log(0.03), 0.6) * band_noise(rng, samples, 0.1, 0.7)
  muscle = rng.lognormal(np.log(0.004), 0.6)
  added += muscle * band_noise(rng, samples, 5, 40) * rng.uniform(
    0.3, 1
  ) + muscle * _spans(rng, samples, 0.15) * band_noise(rng, samples, 8, 40)
  if rng.random() < 0.1:
    added += rng.uniform(0.001, 0.004) * _mains(rng, samples)
  # Contact settles after the record starts.
  settling = np.exp(-np.arange(samples) / (_RATE * rng.uniform(0.5, 2)))
  added += rng.lognormal(np.log(0.2), 0.9) * settling * _motion(rng, samples)
  if rng.random() < 0.45:
    strength = rng.lognormal(np.log(0.3), 0.8)
    share = rng.uniform(0.02, 0.2)
    added += strength * _spans(rng, samples, share) * _motion(rng, samples)
  return added


def spoil(rng: np.random.Generator, ecg: np.ndarray) -> np.ndarray:
  """Adds noise that hides the rhythm for most of a record.

  Args:
    rng: Decides on the noise.
    ecg: float64 (samples,), mV.

  Returns:
    float64 (samples,), mV.
  """
  samples = len(ecg)
  ecg = rng.uniform(0, 0.8) * ecg
  kinds = rng.choice(
    ('motion', 'muscle', 'mains', 'loss'),
    size=rng.choice((1, 2)),
    replace=False,
    p=(0.6, 0.15, 0.07, 0.18),
  )
  if 'motion' in kinds:
    strength = rng.lognormal(np.log(0.5), 0.5)
    covered = _spans(rng, samples, rng.uniform(0.5, 1))
    ecg += strength * covered * _motion(rng, samples)
  if 'muscle' in kinds:
    strength = rng.lognormal(np.log(0.12), 0.5)
    covered = _spans(rng, samples, rng.uniform(0.6, 1))
    ecg += strength * covered * band_noise(rng, samples, 5, 35)
  if 'mains' in kinds:
    strength = rng.lognormal(np.log(0.15), 0.5)
    ecg += strength * _mains(rng, samples)
  if 'loss' in kinds:
    lost = _spans(rng, samples, rng.uniform(0.4, 0.9)) > 0.5
    # Without contact the amplifier rests at zero or at one of its rails, and
    # swings back through its high-pass filter when contact returns.
    rail = rng.choice((0, 0, 0, 1, -1)) * rng.uniform(1, 4)
    returns = np.flatnonzero(np.diff(lost.astype(int), append=0) == -1)
    age = (np.arange(samples) - returns[:, None]) / _RATE
    swing = np.exp(-np.maximum(age, 0) / rng.uniform(0.2, 0.6)) * (age >= 0)
    height = rng.normal(-0.6 * rail, 0.5, len(returns))
    ecg += (height[:, None] * swing).sum(0)
    ecg = np.where(lost, rail, ecg)
  return ecg


def _motion(rng: np.random.Generator, samples: int) -> np.ndarray:
  """Movement of the electrodes: slow swings with sharp edges, unit height."""
  swing = band_noise(rng, samples, 0.3, rng.uniform(1.5, 5))
  jerk = band_noise(rng, samples, 1, rng.uniform(5, 15))
  burst = _spans(rng, samples, rng.uniform(0.1, 0.4), fastest=1.0)
  return swing + rng.uniform(0.2, 1) * burst * jerk


def _mains(rng: np.random.Generator, samples: int) -> np.ndarray:
  """Hum of the mains at 50 or 60 Hz, unit amplitude, in part of the record."""
  time = np.arange(samples) / _RATE
  hum = np.sin(2 * np.pi * (rng.choice((50, 60)) * time + rng.random()))
  return hum * _spans(rng, samples, rng.uniform(0.5, 1))


def _spans(
  rng: np.random.Generator, samples: int, share: float, *, fastest: float = 0.25
) -> np.ndarray:
  """Weight in [0, 1], near 1 in random spans that cover about `share`."""
  slow = band_noise(rng, samples, 0.02, fastest)
  return 1 / (1 + np.exp(-20 * (slow - np.quantile(slow, 1 - share))))


def band_noise(
  rng: np.random.Generator, samples: int, low: float, high: float
) -> np.ndarray:
  """Gaussian noise of unit variance in a frequency band.

  It is drawn a little too long, so that its end does not meet its start.

  Args:
    rng: Decides on the noise.
    samples: Length of the result.
    low: Lower edge of the band, Hz.
    high: Upper edge, Hz.

  Returns:
    float64 (samples,).
  """
  padded = (samples // 2048 + 1) * 2048
  frequency = np.fft.rfftfreq(padded, 1 / _RATE)
  # Soft edges, as filters have them.
  gain = 1 / np.sqrt(
    (1 + (low / np.maximum(frequency, 1e-6)) ** 4)
    * (1 + (frequency / high) ** 4)
  )
  spectrum = gain * (
    rng.standard_normal(len(gain)) + 1j * rng.standard_normal(len(gain))
  )
  noise = np.fft.irfft(spectrum, padded)[:samples]
  return (noise - noise.mean()) / noise.std()

"""Synthetic single-lead ECG in the four classes of the 2017 challenge.

A beat is a sum of Gaussian events P, Q, R, S, T at fixed angles of the cardiac
cycle: the dynamical model of McSharry, Clifford, Tarassenko and Smith (IEEE
Transactions on Biomedical Engineering 50(3):289-294, 2003,
doi:10.1109/TBME.2003.808805), evaluated in closed form. There the phase
advances by 2 pi per RR interval while the angles of the events shrink with the
square root of the heart rate, so an event's delay from the R peak grows with
the square root of the RR interval; here the delays of P and T do so, and the
QRS complex keeps its width.

Fibrillatory waves are the harmonic sawtooth of Stridh and Sornmo (IEEE
Transactions on Biomedical Engineering 48(1):105-111, 2001,
doi:10.1109/10.900266). Lengths and class shares are those of the training set
of the challenge; amplitudes and noise were tuned to its percentiles by hand.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.datasets.synthetic_ecg import noise

_RATE = CHALLENGE.sampling_rate

BLOCK = 600
"""Classes and lengths are dealt out in blocks of so many records, each with
the shares of the real set."""

CLASS_COUNTS = (5076, 758, 2415, 279)
"""Records of each class in the real set, label version v3."""

SHARE_9000, SHARE_18000 = 5977 / 8528, 809 / 8528
"""Share of the real records with exactly 9,000 and 18,000 samples."""

OTHER_LENGTHS = (
  2714, 3659, 4440, 5361, 6485, 8023, 9513, 10192, 11673, 14777, 18286,
)  # fmt: skip
"""Evenly spaced quantiles (0, 10, ... 100 %) of the length of all others."""

LARGEST = 10_000
"""Counts; the range of the real set is -10,636 to 8,318."""

# Angle in the cardiac cycle (McSharry 2003, table I) and width, radians, and
# typical height as a share of the R wave. Widths and heights are tuned to the
# spectrum of the real records. P waves have times of their own, Beats.p_times.
P_WAVE = (0.0, 0.16, 0.13)
Q_WAVE = (-np.pi / 12, 0.055, -0.12)
R_WAVE = (0.0, 0.06, 1.0)
S_WAVE = (np.pi / 12, 0.065, -0.22)
T_WAVE = (np.pi / 2, 0.36, 0.22)


# Seconds from P to R peak at an RR interval of 1 s, drawn for each person.
_USUAL_DELAYS = (0.12, 0.18)


class Beats(NamedTuple):
  """When the atria and ventricles beat.

  Attributes:
    times: R peaks, float64 (beats,), seconds, ascending, from before the start
      of the record to after its end.
    intervals: RR interval that ends in each beat, float64 (beats,), seconds.
    ventricular: bool (beats,), whether the beat is a ventricular ectopic: wide
      and without a P wave.
    p_times: P peaks, float64 (p_waves,), seconds; empty in fibrillation, more
      than the conducted beats in second-degree block.
  """

  times: np.ndarray
  intervals: np.ndarray
  ventricular: np.ndarray
  p_times: np.ndarray


def generate(
  num_records: int = 600, seed: int = 2017
) -> Iterator[tuple[str, np.ndarray, str]]:
  """Yields records (name, signal, label) as `generate_record` makes them."""
  for index in range(num_records):
    yield generate_record(seed, index)


def generate_record(seed: int, index: int) -> tuple[str, np.ndarray, str]:
  """Makes one record, a function of the seed and its index alone.

  Args:
    seed: Seed of the whole set, not negative.
    index: Number of the record from 0; record 0 is named S00001.

  Returns:
    Name, signal (int16 (samples,), 1/1000 mV at 300 Hz), label (one of
    `CHALLENGE.classes`).
  """
  block, place = divmod(index, BLOCK)
  labels, lengths = _deal_block(_rng(seed, 0, block))
  label, length = labels[place], lengths[place]
  signal = _make_signal(_rng(seed, 1, index), label, length)
  return f'S{index + 1:05d}', signal, label


def make_beats(rng: np.random.Generator, label: str, seconds: float) -> Beats:
  """Draws a rhythm of a class for a record of some duration.

  A noisy record (`~`) may hide any rhythm.

  Args:
    rng: Decides on the rhythm.
    label: One of `CHALLENGE.classes`.
    seconds: Duration of the record.

  Returns:
    The beats, from 2 s or less before the record to after its end.
  """
  if label == '~':
    label = rng.choice(CHALLENGE.scored_classes, p=(0.7, 0.1, 0.2))
  if label == 'N':
    return _sinus_beats(rng, _sinus_intervals(rng, seconds, _usual_rate(rng)))
  if label == 'A':
    return _fibrillation_beats(rng, seconds)
  makers = (
    _atrial_ectopics,
    _ventricular_ectopics,
    functools.partial(_steady_rhythm, rates=(34, 46)),  # bradycardia
    functools.partial(_steady_rhythm, rates=(108, 160)),  # tachycardia
    # First-degree block.
    functools.partial(_steady_rhythm, rates=(50, 90), delays=(0.3, 0.42)),
    _second_degree_block,
  )
  maker = makers[rng.choice(6, p=(0.08, 0.2, 0.18, 0.22, 0.17, 0.15))]
  return maker(rng, seconds)


def _rng(*key: int) -> np.random.Generator:
  return np.random.default_rng(np.random.SeedSequence(key))


def _deal_block(rng: np.random.Generator) -> tuple[list[str], list[int]]:
  """Labels and lengths (samples) of the records of one block, shuffled."""
  ends = np.rint(np.cumsum(CLASS_COUNTS) * BLOCK / sum(CLASS_COUNTS))
  labels = np.repeat(CHALLENGE.classes, np.diff(ends.astype(int), prepend=0))
  num_9000, num_18000 = round(SHARE_9000 * BLOCK), round(SHARE_18000 * BLOCK)
  num_others = BLOCK - num_9000 - num_18000
  others = np.interp(
    (np.arange(num_others) + rng.random(num_others)) / num_others,
    np.linspace(0, 1, len(OTHER_LENGTHS)),
    OTHER_LENGTHS,
  )
  lengths = np.concatenate(
    [np.full(num_9000, 9000), np.full(num_18000, 18000), others]
  )
  return (
    rng.permutation(labels).tolist(),
    rng.permutation(lengths.astype(int)).tolist(),
  )


def _usual_rate(rng: np.random.Generator) -> float:
  return float(np.clip(rng.normal(74, 11), 50, 100))


def _sinus_intervals(
  rng: np.random.Generator, seconds: float, rate: float
) -> np.ndarray:
  """RR intervals (s) of sinus rhythm at `rate` per minute.

  Respiration and the slow (Mayer) waves of blood pressure modulate the rate,
  the two peaks of the RR spectrum in McSharry 2003.
  """
  mean = 60 / rate
  time = mean * np.arange(int((seconds + 4) / mean * 1.3) + 4)
  respiratory = min(rng.lognormal(np.log(0.025), 0.7), 0.13)
  slow = min(rng.lognormal(np.log(0.02), 0.5), 0.08)
  modulation = (
    respiratory
    * np.sin(2 * np.pi * (rng.uniform(0.18, 0.33) * time + rng.random()))
    + slow * np.sin(2 * np.pi * (rng.uniform(0.06, 0.13) * time + rng.random()))
    + rng.normal(0, 0.006, len(time))
  )
  return mean * (1 + modulation)


def _sinus_beats(
  rng: np.random.Generator,
  intervals: np.ndarray,
  *,
  ventricular: np.ndarray | None = None,
  delays: tuple[float, float] = _USUAL_DELAYS,
) -> Beats:
  """Beats at these intervals, each conducted one preceded by a P wave."""
  if ventricular is None:
    ventricular = np.zeros(len(intervals), bool)
  delay = rng.uniform(*delays)
  times = np.cumsum(intervals) - 2
  p_times = times - delay * np.sqrt(np.minimum(intervals, 1.2))
  return Beats(times, intervals, ventricular, p_times[~ventricular])


def _fibrillation_beats(rng: np.random.Generator, seconds: float) -> Beats:
  """Independent gamma-distributed intervals above a refractory period."""
  mean = 60 / np.clip(rng.normal(82, 19), 50, 150)
  refractory = rng.uniform(0.26, 0.34)
  deviation = rng.uniform(0.13, 0.28) * mean
  free = mean - refractory
  intervals = refractory + rng.gamma(
    (free / deviation) ** 2,
    deviation**2 / free,
    int((seconds + 4) / mean * 1.6) + 10,
  )
  times = np.cumsum(intervals) - 2
  return Beats(times, intervals, np.zeros(len(times), bool), np.empty(0))


def _ectopic_places(
  rng: np.random.Generator, intervals: np.ndarray, seconds: float
) -> np.ndarray:
  """Indices of ectopic beats: two at least, no two running, not at the ends.

  They are frequent, so that a small model learns them from few records. One
  record in two has a segment where every second or third beat is ectopic.
  """
  times = np.cumsum(intervals) - 2
  first, last = np.searchsorted(times, (1.5, seconds - 2))
  if rng.random() < 0.5:
    run = int(rng.uniform(0.5, 1) * (last - first))
    start = first + int(rng.integers(last - first - run + 1))
    return np.arange(start, start + run, rng.choice((2, 3)))
  count = 2 + rng.poisson(rng.uniform(0.1, 0.4) * seconds)
  places = np.sort(rng.integers(first, last, count))
  return places[np.diff(places, prepend=-2) > 1]


def _atrial_ectopics(rng: np.random.Generator, seconds: float) -> Beats:
  """Premature beats that reset the sinus node: the pause is short."""
  intervals = _sinus_intervals(rng, seconds, _usual_rate(rng))
  places = _ectopic_places(rng, intervals, seconds)
  intervals[places] *= rng.uniform(0.55, 0.78, len(places))
  intervals[places + 1] *= rng.uniform(1.0, 1.2, len(places))
  return _sinus_beats(rng, intervals)


def _ventricular_ectopics(rng: np.random.Generator, seconds: float) -> Beats:
  """Premature wide beats with a full compensatory pause."""
  intervals = _sinus_intervals(rng, seconds, _usual_rate(rng))
  places = _ectopic_places(rng, intervals, seconds)
  early = rng.uniform(0.55, 0.8) + rng.normal(0, 0.02, len(places))
  ventricular = np.zeros(len(intervals), bool)
  ventricular[places] = True
  intervals[places + 1] += (1 - early) * intervals[places]
  intervals[places] *= early
  return _sinus_beats(rng, intervals, ventricular=ventricular)


def _steady_rhythm(
  rng: np.random.Generator,
  seconds: float,
  *,
  rates: tuple[float, float],
  delays: tuple[float, float] = _USUAL_DELAYS,
) -> Beats:
  """Sinus rhythm with a rate (per minute) and a PR delay in these ranges."""
  intervals = _sinus_intervals(rng, seconds, rng.uniform(*rates))
  return _sinus_beats(rng, intervals, delays=delays)


def _second_degree_block(rng: np.random.Generator, seconds: float) -> Beats:
  """Wenckebach: conduction slows from beat to beat until one is dropped."""
  intervals = _sinus_intervals(rng, seconds, rng.uniform(60, 100))
  p_times = np.cumsum(intervals) - 2
  cycle = int(rng.integers(3, 7))
  place = (np.arange(len(intervals)) + rng.integers(cycle)) % cycle
  slowing = rng.uniform(0.1, 0.22) * (1 - 0.6**place)
  conducted = place < cycle - 1
  times = (p_times + rng.uniform(0.14, 0.2) + slowing)[conducted]
  return Beats(
    times,
    np.diff(times, prepend=times[0] - intervals[0]),
    np.zeros(len(times), bool),
    p_times,
  )


def _make_signal(
  rng: np.random.Generator, label: str, samples: int
) -> np.ndarray:
  """ECG of the class with its noise, int16 (samples,), 1/1000 mV."""
  beats = make_beats(rng, label, samples / _RATE)
  ecg = draw_waves(rng, beats, samples)
  if not len(beats.p_times):
    ecg += _fibrillatory_waves(rng, samples)
  if rng.random() < 0.22:
    ecg = -ecg  # the device is held the wrong way round
  ecg -= ecg.mean()  # the amplifier passes no direct current
  ecg += noise.usual(rng, samples)
  if label == '~':
    ecg = noise.spoil(rng, ecg)
  counts = 1000 * (ecg + 0.0005 * rng.standard_normal(samples))
  return np.rint(np.clip(counts, -LARGEST, LARGEST)).astype(np.int16)


def draw_waves(
  rng: np.random.Generator, beats: Beats, samples: int
) -> np.ndarray:
  """Draws the P, QRS and T waves of one person.

  Args:
    rng: Decides on the shape of the person's waves.
    beats: When the heart beats.
    samples: Length of the record, at `_RATE`.

  Returns:
    ECG without noise, float64 (samples,), mV.
  """
  signal = np.zeros(samples)
  r_height = np.clip(rng.lognormal(np.log(0.7), 0.42), 0.15, 3.0)
  qrs_width = np.clip(rng.lognormal(0, 0.2), 0.7, 1.5)
  if rng.random() < 0.08:
    qrs_width *= 1.7  # bundle branch block
  # The QT interval follows the running mean of RR rather than the last one.
  memory = np.convolve(np.pad(beats.intervals, (2, 0), 'edge'), np.ones(3) / 3)
  time_scale = np.sqrt(np.clip(memory[2 : len(beats.times) + 2], 0.3, 1.4))
  breath = 1 + rng.uniform(0.02, 0.15) * np.sin(
    2 * np.pi * (rng.uniform(0.18, 0.33) * beats.times + rng.random())
  )
  breath *= rng.normal(1, 0.02, len(breath))

  def add(times, event, spread, *, time_scale=1.0, scale=1.0):
    angle, width, height = event
    _add_gaussians(
      signal,
      times + time_scale * angle / (2 * np.pi) * rng.normal(1, 0.06),
      scale * r_height * height * rng.lognormal(0, spread),
      time_scale * width / (2 * np.pi) * rng.lognormal(0, 0.12),
    )

  usual = ~beats.ventricular
  times, usual_time_scale = beats.times[usual], time_scale[usual]
  scale = breath[usual]
  add(beats.p_times, P_WAVE, 0.35)
  add(times, Q_WAVE, 0.6, time_scale=qrs_width, scale=scale)
  add(times, R_WAVE, 0, time_scale=qrs_width, scale=scale)
  add(times, S_WAVE, 0.9, time_scale=qrs_width, scale=scale)
  t_sign = -0.6 if rng.random() < 0.1 else 1.0
  add(times, T_WAVE, 0.5, time_scale=usual_time_scale, scale=t_sign * scale)

  times, wide_time_scale = beats.times[~usual], time_scale[~usual]
  scale = breath[~usual] * rng.choice((-1, 1)) * rng.uniform(0.8, 1.6)
  width = rng.uniform(2.3, 3.5)
  add(times, R_WAVE, 0, time_scale=width, scale=scale)
  add(times, S_WAVE, 0.6, time_scale=width, scale=scale)
  add(times, T_WAVE, 0.3, time_scale=1.1 * wide_time_scale, scale=-1.5 * scale)
  return signal


def _add_gaussians(
  signal: np.ndarray,
  centers: np.ndarray,
  heights: np.ndarray | float,
  widths: np.ndarray | float,
) -> None:
  """Adds a Gaussian at each center (s) to the signal in place.

  `heights` (mV) and `widths` (standard deviation, s) are for all centers or
  one each. Four standard deviations to each side are drawn.
  """
  if not len(centers):
    return
  heights = np.broadcast_to(heights, centers.shape)[:, None]
  widths = np.broadcast_to(widths, centers.shape)[:, None]
  reach = int(4 * widths.max() * _RATE) + 1
  middle = np.rint(centers * _RATE).astype(int)
  index = middle[:, None] + np.arange(-reach, reach + 1)
  away = (index / _RATE - centers[:, None]) / widths
  values = heights * np.exp(-0.5 * away**2)
  inside = (index >= 0) & (index < len(signal))
  np.add.at(signal, index[inside], values[inside])


def _fibrillatory_waves(rng: np.random.Generator, samples: int) -> np.ndarray:
  """Sawtooth of three harmonics, mV; its rate, 4 to 9 Hz, and height drift."""
  rate = rng.uniform(4.3, 8.7) + 0.3 * noise.band_noise(rng, samples, 0.05, 0.8)
  phase = 2 * np.pi * np.cumsum(rate) / _RATE
  sawtooth = sum(np.sin(k * phase) / k for k in (1, 2, 3))
  height = np.clip(rng.lognormal(np.log(0.035), 0.55), 0.01, 0.15)
  drift = np.clip(1 + 0.4 * noise.band_noise(rng, samples, 0.05, 0.6), 0, None)
  return height * drift * sawtooth

"""Predictions of an ensemble for recordings; the Python API `ecg_jax.load`."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import numbers
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from ecg_jax.datasets import training_range
from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import aggregation, ensemble, heartbeats, leak_rule
from ecg_jax.prediction.aggregation import Prediction, WindowPrediction
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.prediction.heartbeats import HeartRate
from ecg_jax.recordings import lead as lead_lib
from ecg_jax.recordings import resampling

_CHUNK_SAMPLES = 2**22
"""Samples of the windows that are evaluated together, at least, if there are
as many."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How recordings are windowed, filtered and classified."""

  window: float = 30.0
  """Length of the windows of a long recording, seconds."""
  stride: float = 30.0
  """Seconds from the start of one window to that of the next."""
  bandpass: bool = False
  """Whether to filter, 0.5 to 40 Hz."""
  vote: bool = False
  """Whether the folds vote, instead of averaging their probabilities."""
  abstain: float = 0.0
  """Least probability of a class that is reported."""
  allow_leak: bool = False
  """Whether folds may classify records that they were trained on."""

  def __post_init__(self) -> None:
    """Raises InputError where a field is not a number or out of range."""
    ranges = {'window': (1, 3600), 'stride': (1, 86400), 'abstain': (0, 1)}
    for name, (least, most) in ranges.items():
      value = getattr(self, name)
      is_real = isinstance(value, numbers.Real)
      if not (is_real and least <= float(value) <= most):
        raise InputError(
          f'{name} is {value!r}, not from {least} to {most}: give a number in'
          ' that range.'
        )


class Window(NamedTuple):
  """A part of a recording, read, to be classified."""

  number: int
  """Position of its recording."""
  start: float
  end: float
  """Seconds."""
  counts: np.ndarray
  """int16, encoded as the records trained on."""
  folds: tuple[int, ...]
  """Folds that may classify it."""
  departures: Sequence[str] = ()
  """Differences from the training records, a phrase each."""


@dataclasses.dataclass(repr=False)
class RecordingResult:
  """The prediction for a recording, with everything that explains it."""

  name: str
  spec: DatasetSpec
  """What the records are that the model was trained on."""
  lead: str = ''
  seconds: float = 0.0
  windowed: bool = False
  """Whether it is longer than the records trained on, so cut into windows."""
  windows: list[WindowPrediction] = dataclasses.field(default_factory=list)
  """The predictions for its windows: one, if it is not `windowed`."""
  gaps: list[tuple[float, float]] = dataclasses.field(default_factory=list)
  """Windows without a prediction, since samples are missing or all alike."""
  notes: list[str] = dataclasses.field(default_factory=list)
  """Assumptions about the file, and folds left out."""
  departures: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  """Difference from the training records -> number of windows that have it."""
  examples: dict[int, tuple[Window, WindowPrediction]] = dataclasses.field(
    default_factory=dict
  )
  """Index of a class in `spec.classes` -> the window with the highest
  probability of that class, and its prediction."""
  summary: aggregation.Summary | None = None
  """The summary over windows of a `windowed` recording."""
  failure: str | None = None
  """Why there is no prediction, in a sentence."""

  def __repr__(self) -> str:
    if not self.windows:
      return f'<{self.name}: no answer>'
    shown = ', '.join(f'{x} {p:.3f}' for x, p in self.probabilities.items())
    return f'<{self.name}: {self.headline} ({shown})>'

  @property
  def answer(self) -> Prediction:
    """The prediction for the whole recording, if it did not fail."""
    return (self.summary or self.windows[0]).answer

  @property
  def headline(self) -> str:
    """Episodes of a long recording that has some, else the predicted class."""
    return (self.summary and self.summary.headline) or self.predicted

  @property
  def predicted(self) -> str:
    """A class, or 'undecided'; for a long recording of the mean of windows."""
    return self.answer.predicted

  @property
  def probabilities(self) -> dict[str, float]:
    """Class -> probability; for a long recording the mean over windows."""
    values = map(float, self.answer.probabilities)
    return dict(zip(self.spec.classes, values, strict=True))

  @property
  def agreement(self) -> float:
    """Share of the folds, or of a long recording's windows, that agree.

    NaN where a fold alone answered.
    """
    return self.answer.agreement

  @property
  def heart_rate(self) -> HeartRate:
    """Beats and RR intervals of all windows, if it did not fail."""
    return heartbeats.measure(self.windows)

  @property
  def warnings(self) -> list[str]:
    """Notes, and differences from the training records, in words."""
    return [*self.notes, *self.differences]

  @property
  def differences(self) -> list[str]:
    """Differences from the training records, in words."""
    count = len(self.windows)
    return [
      f'{what} (in {times} of {count} windows)' if self.windowed else what
      for what, times in self.departures.items()
    ]


def predict_recordings(
  model: Ensemble,
  openers: Mapping[str, Callable[[], lead_lib.Recording]],
  settings: Settings,
) -> list[RecordingResult]:
  """Classifies recordings, in order.

  Windows of several recordings are evaluated together, while the next ones are
  read.

  Args:
    model: The ensemble.
    openers: Name -> function that opens the recording; its InputError is
      reported in the result.
    settings: How to classify.

  Returns:
    The result of each. A recording that fails, at once or midway, has a
    `failure` and no predictions.

  Raises:
    InputError: The calibration of the run is damaged or of other folds, or a
      window is shorter than one spectrum.
  """
  samples = model.network.spectrogram.window_samples
  # Rounded up to hundredths, so that the reported length is accepted.
  least = -(-100 * samples // model.spec.sampling_rate) / 100
  if settings.window < least:
    raise InputError(
      f'--window is {float(settings.window):g} s, shorter than one spectrum:'
      f' give at least {least:g}.'
    )
  temperature = calibration.read(model.run_folder, model.folds)
  results = [RecordingResult(name, model.spec) for name in openers]
  windows = itertools.chain.from_iterable(
    _read(model, number, result, openers[result.name], settings)
    for number, result in enumerate(results)
  )
  with (
    concurrent.futures.ThreadPoolExecutor(1) as reader,
    tqdm.tqdm(
      total=len(results), unit=' recordings', disable=not sys.stderr.isatty()
    ) as bar,
  ):

    def read_chunk() -> list[Window]:
      chunk: list[Window] = []
      samples = 0
      while samples < _CHUNK_SAMPLES and (window := next(windows, None)):
        chunk.append(window)
        samples += len(window.counts)
      return chunk

    coming = reader.submit(read_chunk)
    while chunk := coming.result():
      coming = reader.submit(read_chunk)
      _classify(model, results, chunk, settings, temperature)
      bar.update(chunk[-1].number - bar.n)
    bar.update(len(results) - bar.n)
  for number, result in enumerate(results):
    if result.failure is not None:
      # The windows before the failure do not stand for the recording.
      known = ('name', 'spec', 'lead', 'seconds', 'notes', 'failure')
      results[number] = RecordingResult(**{x: vars(result)[x] for x in known})
    elif result.windowed:
      result.summary = aggregation.summarize(
        result.windows, model.spec, abstain=settings.abstain
      )
  return results


def _read(
  model: Ensemble,
  number: int,
  result: RecordingResult,
  opener: Callable[[], lead_lib.Recording],
  settings: Settings,
) -> Iterator[Window]:
  """Reads windows of a recording; sets its result except for predictions."""
  encoding = model.encoding
  try:
    recording = opener()
    result.lead = recording.lead
    result.notes += recording.notes
    rate = model.spec.sampling_rate
    samples = resampling.num_counts(recording, rate)
    result.seconds = samples / rate
    least = model.network.spectrogram.window_samples
    if samples < least:
      raise InputError(
        f'{result.name} has {samples} samples at {rate} Hz'
        f' ({result.seconds:.2f} s), less than the {least} of one spectrum:'
        ' give a longer one.'
      )
    if samples <= model.longest_samples:
      counts, removed, flat = resampling.read_window(recording, encoding)
      if flat:
        raise resampling.flat_line(recording, encoding)
      allowed, note = leak_rule.allowed_folds(
        model, result.name, counts, allow_leak=settings.allow_leak
      )
      result.notes += [note] if note else []
      if settings.bandpass:
        counts = resampling.window_counts(recording, encoding, bandpass=True)
      unlike = _departures(counts, removed, model.spec)
      yield Window(number, 0.0, result.seconds, counts, allowed, unlike)
      return
    result.windowed = True
    times = resampling.window_times(
      result.seconds, settings.window, settings.stride
    )
    empty: list[str] = []
    num_flat = 0
    for start, end in times:
      try:
        counts, removed, flat = resampling.read_window(
          recording,
          encoding,
          start,
          end - start,
          bandpass=settings.bandpass,
        )
      except resampling.GapError as error:
        result.gaps.append((start, end))
        if isinstance(error, resampling.NoSamplesError):
          empty.append(error.advice)
        continue
      if flat:
        result.gaps.append((start, end))
        num_flat += 1
        continue
      unlike = _departures(counts, removed, model.spec)
      yield Window(number, start, end, counts, model.folds, unlike)
    if len(empty) == len(times):
      raise InputError(
        f'{result.name} has no samples of lead {recording.lead} at all:'
        f' {empty[0]}.'
      )
    if num_flat == len(times):
      raise resampling.flat_line(recording, encoding)
    if len(result.gaps) == len(times):
      raise InputError(
        f'{result.name} has a gap or a flat line in each of its {len(times)}'
        ' windows: give a smaller --window.'
      )
  except InputError as error:
    result.failure = str(error)


def _departures(
  counts: np.ndarray, removed: float, spec: DatasetSpec
) -> list[str]:
  """Differences of a window from the training records, if those are known."""
  offset = 'a constant was removed, such as an electrode offset'
  found = [offset] if removed else []
  if spec.ranges is None:
    return found
  return found + training_range.departures(
    counts,
    spec.ranges,
    sampling_rate=spec.sampling_rate,
    counts_per_millivolt=spec.counts_per_millivolt,
  )


def _classify(
  model: Ensemble,
  results: Sequence[RecordingResult],
  windows: Sequence[Window],
  settings: Settings,
  temperature: float,
) -> None:
  """Classifies windows; adds the predictions to their recordings' results."""
  signals = [window.counts for window in windows]
  logits = model.logits(signals)
  found = model.beats(signals)
  for index, (window, beats) in enumerate(zip(windows, found, strict=True)):
    rows = [model.folds.index(fold) for fold in window.folds]
    answer = aggregation.combine(
      logits[rows, index],
      model.spec.classes,
      temperature=temperature,
      vote=settings.vote,
      abstain=settings.abstain,
    )
    result = results[window.number]
    peaks, no_rhythm = heartbeats.check(
      beats.positions,
      float(beats.evenness),
      window.end - window.start,
      windowed=result.windowed,
    )
    window = window._replace(departures=[*no_rhythm, *window.departures])
    result.departures.update(window.departures)
    times = window.start + peaks / model.spec.sampling_rate
    prediction = WindowPrediction(window.start, window.end, answer, times)
    result.windows.append(prediction)
    for place, probability in enumerate(answer.probabilities):
      best = result.examples.get(place)
      if best is None or probability > best[1].answer.probabilities[place]:
        result.examples[place] = window, prediction


@dataclasses.dataclass(frozen=True)
class Model:
  """The finished folds of a run, to classify arrays with."""

  folds: Ensemble

  def predict(
    self,
    signal: np.ndarray,
    *,
    sampling_rate: float,
    units: str,
    lead: int | str | None = None,
    settings: Settings = Settings(),
  ) -> RecordingResult:
    """Classifies a recording of any length, as `ecg_jax.predict` does.

    Args:
      signal: Real numbers [samples], or [leads, samples] or its transpose; NaN
        or masked where one is missing.
      sampling_rate: Hz.
      units: 'V', 'mV', 'uV', 'nV', in any spelling, or 'counts', as the records
        trained on have them (of 1/1000 mV in the PhysioNet/CinC Challenge
        2017).
      lead: Number of the lead, where there are several.
      settings: Windows of long recordings, filter, vote, abstention, leaks.

    Returns:
      The result: `headline`, `predicted`, `probabilities`, `agreement`,
      `heart_rate`, `windows`, `summary`, `warnings`.

    Raises:
      InputError: The signal cannot be used; the message says why.
    """
    if isinstance(signal, str | os.PathLike):
      raise InputError(
        f'signal is the path {str(signal)[:200]}, not an array: read it first,'
        ' or use python -m ecg_jax.predict.'
      )
    opener = functools.partial(
      lead_lib.from_array,
      signal,
      sampling_rate=sampling_rate,
      units=units,
      counts_per_millivolt=self.folds.spec.counts_per_millivolt,
      lead=lead,
    )
    [result] = predict_recordings(self.folds, {'signal': opener}, settings)
    if result.failure is not None:
      raise InputError(result.failure)
    return result


def load(run_folder: str | pathlib.Path | None = None) -> Model:
  """Loads the finished folds of a run, without its data.

  Args:
    run_folder: Folder of the run, from `ecg_jax.main`, or released weights;
      None for those of the package.

  Raises:
    InputError: There is no such run, none of its folds is finished, or a file
      of it is damaged or missing.
  """
  return Model(ensemble.load(run_folder))

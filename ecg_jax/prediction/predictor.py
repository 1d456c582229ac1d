"""Trained folds for use from Python: `ecg_jax.load`."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import numbers
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from ecg_jax.datasets import schema
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import aggregation, ensemble
from ecg_jax.prediction.ensemble import TrainedFolds
from ecg_jax.recordings import lead as lead_lib
from ecg_jax.recordings import training_range
from ecg_jax.recordings import windows as windows_lib

_CHUNK_SAMPLES = 2**22
"""Of the windows that are answered together, at least, if there are so many."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How recordings are answered."""

  window: float = 30.0
  """Seconds, of recordings longer than any that was trained on."""
  stride: float = 30.0
  """Seconds from one window to the next."""
  bandpass: bool = False
  vote: bool = False
  abstain: float = 0.0
  allow_leak: bool = False

  def __post_init__(self) -> None:
    """Raises InputError where a number is none or out of range."""
    for name, least, most in (
      ('window', 1, 3600),
      ('stride', 1, 86400),
      ('abstain', 0, 1),
    ):
      value = getattr(self, name)
      if not (
        isinstance(value, numbers.Real) and least <= float(value) <= most
      ):
        raise InputError(
          f'{name} is {value!r}, not from {least} to {most}: give a number in'
          ' that range.'
        )


class Window(NamedTuple):
  """A part of a recording that is to be answered."""

  number: int
  """Of its recording."""
  start: float
  end: float
  """Seconds."""
  counts: np.ndarray
  """int16 at 300 Hz."""
  folds: tuple[int, ...]
  """Those that may answer."""


@dataclasses.dataclass
class Outcome:
  """All that is found out about a recording."""

  name: str
  lead: str = ''
  seconds: float = 0.0
  windowed: bool = False
  stretches: list[aggregation.Stretch] = dataclasses.field(default_factory=list)
  gaps: list[tuple[float, float]] = dataclasses.field(default_factory=list)
  """Windows without an answer, since samples are missing."""
  notes: list[str] = dataclasses.field(default_factory=list)
  departures: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  """How many windows are unlike the training records, by how."""
  examples: dict[int, tuple[Window, aggregation.Answer]] = dataclasses.field(
    default_factory=dict
  )
  """By position in the order N, A, O, ~: the window that gives it the highest
  probability, and its answer."""
  summary: aggregation.Summary | None = None
  """Of a recording in windows."""
  failure: str | None = None

  def warnings(self) -> list[str]:
    """Notes, and what is unlike the training records, in words."""
    count = len(self.stretches)
    return [
      *self.notes,
      *(
        f'{what} (in {times} of {count} windows)' if self.windowed else what
        for what, times in self.departures.items()
      ),
    ]


def predict_recordings(
  folds: TrainedFolds,
  openers: Mapping[str, Callable[[], lead_lib.Recording]],
  settings: Settings,
) -> list[Outcome]:
  """Answers recordings, in the order given.

  Windows of as many recordings as it takes go to the device together, while
  those that follow are read.

  Args:
    folds: The trained folds.
    openers: Name -> what opens the recording; its InputError is an outcome.
    settings: How to answer.

  Returns:
    What was found of each. One that failed, at once or midway, says at what,
    and has no answers.

  Raises:
    InputError: The calibration of the run is damaged or of other folds, or a
      window is shorter than one spectrum.
  """
  samples = folds.network.spectrogram.window_samples
  # In hundredths, so that what is told can be given.
  least = -(-100 * samples // training_range.SAMPLING_RATE) / 100
  if settings.window < least:
    raise InputError(
      f'--window is {float(settings.window):g} s, shorter than one spectrum:'
      f' give at least {least:g}.'
    )
  temperature = calibration.read(folds.run_folder, folds.folds)
  outcomes = [Outcome(name) for name in openers]
  windows = itertools.chain.from_iterable(
    _read(folds, number, outcome, openers[outcome.name], settings)
    for number, outcome in enumerate(outcomes)
  )
  with (
    concurrent.futures.ThreadPoolExecutor(1) as reader,
    tqdm.tqdm(
      total=len(outcomes), unit=' recordings', disable=not sys.stderr.isatty()
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
      _answer_windows(folds, outcomes, chunk, settings, temperature)
      bar.update(chunk[-1].number - bar.n)
    bar.update(len(outcomes) - bar.n)
  for number, outcome in enumerate(outcomes):
    if outcome.failure is not None:
      # The windows before it failed are no answer for the recording.
      outcomes[number] = Outcome(
        outcome.name,
        outcome.lead,
        outcome.seconds,
        notes=outcome.notes,
        failure=outcome.failure,
      )
    elif outcome.windowed:
      outcome.summary = aggregation.summarize(
        outcome.stretches, abstain=settings.abstain
      )
  return outcomes


def _read(
  folds: TrainedFolds,
  number: int,
  outcome: Outcome,
  opener: Callable[[], lead_lib.Recording],
  settings: Settings,
) -> Iterator[Window]:
  """Windows of a recording; fills in its outcome but for the answers."""
  try:
    recording = opener()
    outcome.lead = recording.lead
    outcome.notes += recording.notes
    samples = windows_lib.num_counts(recording)
    outcome.seconds = samples / training_range.SAMPLING_RATE
    least = folds.network.spectrogram.window_samples
    if samples < least:
      raise InputError(
        f'{outcome.name} has {samples} samples at'
        f' {training_range.SAMPLING_RATE} Hz ({outcome.seconds:.2f} s), less'
        f' than the {least} of one spectrum: give a longer one.'
      )
    if samples <= folds.longest_samples:
      counts = windows_lib.window_counts(recording)
      allowed = _allowed_folds(folds, outcome, counts, settings)
      if settings.bandpass:
        counts = windows_lib.window_counts(recording, bandpass=True)
      outcome.departures.update(training_range.departures(counts))
      yield Window(number, 0.0, outcome.seconds, counts, allowed)
      return
    outcome.windowed = True
    times = window_times(outcome.seconds, settings.window, settings.stride)
    for start, end in times:
      try:
        counts = windows_lib.window_counts(
          recording, start, end - start, bandpass=settings.bandpass
        )
      except windows_lib.GapError:
        outcome.gaps.append((start, end))
        continue
      outcome.departures.update(training_range.departures(counts))
      yield Window(number, start, end, counts, folds.folds)
    if len(outcome.gaps) == len(times):
      raise InputError(
        f'{outcome.name} has a gap in each of its {len(times)} windows: give a'
        ' smaller --window.'
      )
  except InputError as error:
    outcome.failure = str(error)


def window_times(
  seconds: float, window: float, stride: float
) -> list[tuple[float, float]]:
  """Start and end of the windows of a recording, in seconds.

  The last one is moved back to where the recording ends.

  Args:
    seconds: Of the recording.
    window: Of a window; one that is longer is the whole recording.
    stride: From one start to the next.
  """
  if window >= seconds:
    return [(0.0, seconds)]
  count = int((seconds - window) / stride + 1e-9) + 1
  times = [(k * stride, k * stride + window) for k in range(count)]
  if times[-1][1] < seconds - 1e-6:
    times.append((seconds - window, seconds))
  return times


def _allowed_folds(
  folds: TrainedFolds,
  outcome: Outcome,
  counts: np.ndarray,
  settings: Settings,
) -> tuple[int, ...]:
  """Those of the run's folds that may answer for a recording.

  Raises:
    InputError: None of them, since all learnt from it.
  """
  digest = hashlib.sha256(counts.astype('<i2').tobytes()).hexdigest()
  learnt = {
    fold: records[digest]
    for fold, records in zip(folds.folds, folds.learnt, strict=True)
    if digest in records
  }
  if not learnt:
    return folds.folds
  record = next(iter(learnt.values()))
  unseen = tuple(fold for fold in folds.folds if fold not in learnt)
  if settings.allow_leak:
    outcome.notes.append(
      f'all folds answered, of which {_listed(learnt)} learnt from it as'
      f' {record} of the training set'
    )
    return folds.folds
  if not unseen:
    raise InputError(
      f'{outcome.name} is {record} of the training set, and each finished fold'
      f' of {folds.run_folder} ({_listed(learnt)}) learnt from it, or from a'
      ' record with the same samples: train the fold that has it in its test'
      ' set, or give --allow_leak.'
    )
  outcome.notes.append(
    f'{_listed(unseen)} alone answered, the others learnt from it as {record}'
    ' of the training set'
  )
  return unseen


def _listed(folds: Iterable[int]) -> str:
  """In words."""
  numbers = [str(fold) for fold in folds]
  return f'fold{"s" * (len(numbers) > 1)} {", ".join(numbers)}'


def _answer_windows(
  folds: TrainedFolds,
  outcomes: Sequence[Outcome],
  windows: Sequence[Window],
  settings: Settings,
  temperature: float,
) -> None:
  """Adds the answers for some windows to the outcomes of their recordings."""
  logits = folds.logits([window.counts for window in windows])
  for index, window in enumerate(windows):
    rows = [folds.folds.index(fold) for fold in window.folds]
    found = aggregation.combine(
      logits[rows, index],
      temperature=temperature,
      vote=settings.vote,
      abstain=settings.abstain,
    )
    outcome = outcomes[window.number]
    outcome.stretches.append(
      aggregation.Stretch(window.start, window.end, found)
    )
    for place, probability in enumerate(found.probabilities):
      kept = outcome.examples.get(place)
      if kept is None or probability > kept[1].probabilities[place]:
        outcome.examples[place] = window, found


class Prediction(NamedTuple):
  """What a model says of a recording."""

  predicted: str
  """'N', 'A', 'O', '~', or 'undecided'."""
  probabilities: dict[str, float]
  """Of the classes; of a long recording the mean over its windows."""
  agreement: float
  """Share of the folds, or of a long recording's windows, that say so."""
  windows: list[aggregation.Stretch]
  """Start and end in seconds, and the answer: one, or of a long recording
  each of its windows."""
  summary: aggregation.Summary | None
  """Of a long recording: time by class, episodes of atrial fibrillation."""
  warnings: list[str]
  """What was assumed, and what is unlike the records of the training."""


@dataclasses.dataclass(frozen=True)
class Model:
  """The finished folds of a run."""

  folds: TrainedFolds

  def predict(
    self,
    signal: np.ndarray,
    *,
    sampling_rate: float,
    units: str,
    lead: int | str | None = None,
    settings: Settings = Settings(),
  ) -> Prediction:
    """Classifies a recording of any length, as `ecg_jax.predict` does.

    Args:
      signal: Real numbers [samples], or [leads, samples], either way round;
        NaN or masked where one is missing.
      sampling_rate: Hz.
      units: 'V', 'mV', 'uV', 'nV', or 'counts' of 1/1000 mV.
      lead: Number of the lead, where there are several.
      settings: Windows of long recordings, filter, vote, abstention, leaks.

    Returns:
      What the folds say together.

    Raises:
      InputError: The signal cannot be used; says why.
    """
    [outcome] = predict_recordings(
      self.folds,
      {
        'signal': lambda: lead_lib.from_array(
          signal, sampling_rate=sampling_rate, units=units, lead=lead
        )
      },
      settings,
    )
    if outcome.failure is not None:
      raise InputError(outcome.failure)
    answer = (outcome.summary or outcome.stretches[0]).answer
    return Prediction(
      answer.predicted,
      dict(zip(schema.CLASSES, map(float, answer.probabilities), strict=True)),
      answer.agreement,
      outcome.stretches,
      outcome.summary,
      outcome.warnings(),
    )


def load(run_folder: str | pathlib.Path) -> Model:
  """Loads the finished folds of a run; its data are not needed.

  Args:
    run_folder: As `ecg_jax.main` left it.

  Raises:
    InputError: There is no such run, none of its folds is finished, or a file
      of it is damaged or missing.
  """
  return Model(ensemble.load(run_folder))

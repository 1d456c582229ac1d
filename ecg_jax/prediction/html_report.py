"""The results of recordings as one HTML page to look at.

`html_report.html` beside this file has its templates.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tqdm

from ecg_jax.datasets.schema import UNDECIDED, DatasetSpec
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import (
  aggregation,
  ecg_plot,
  ecg_svg,
  model_card,
  pictures,
  report,
)
from ecg_jax.prediction.aggregation import Summary, clock, percent
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.prediction.heartbeats import HeartRate
from ecg_jax.prediction.predictor import RecordingResult, Settings, Window
from ecg_jax.recordings import lead, resampling
from ecg_jax.runs import released
from ecg_jax.runtime import page
from ecg_jax.runtime.page import Html

MOST_DRAWN = 64
"""Windows of a long recording that are drawn, at most: half an hour of them."""

Opener = Callable[[], lead.Recording]
"""Opens a recording."""

_COLORS = 8
"""Of classes, in the style of pages."""

_FAILED = 'no answer'

_TEMPLATES = page.read_templates(pathlib.Path(__file__).with_suffix('.html'))


def encode(
  model: Ensemble,
  results: Sequence[RecordingResult],
  openers: Mapping[str, Opener],
  settings: Settings,
) -> bytes:
  """Makes the file of the page; reads long recordings once more for it.

  Args:
    model: The ensemble.
    results: The result of each recording.
    openers: By the names of the results.
    settings: How they were classified.

  Raises:
    InputError: A recording cannot be read any more.
  """
  rows, sections = [], []
  bar = tqdm.tqdm(results, unit=' in page', disable=not sys.stderr.isatty())
  for number, result in enumerate(bar):
    name, *cells = report.cells(result)
    place = f'r{number}'
    link = _fill('link', target=place, text=name)
    rows.append([link, *cells[:-1], result.failure or cells[-1]])
    figures = _figures(model, result, place, openers[result.name], settings)
    sections.append(_section(result, place, name, figures))
  *heads, _ = report.heads(model.spec.classes)
  limits = model_card.limits(model).removeprefix('- ').split('\n- ')
  temperature = calibration.read(model.run_folder, model.folds)
  how = [f'folds {" ".join(map(str, model.folds))}']
  how.append(f'temperature {temperature:.4g}')
  how += [
    name if value is True else f'{name} {value:g}'
    for name, value in dataclasses.asdict(settings).items()
    if value
  ]
  body = _fill(
    'page',
    run=released.name_of(model.run_folder),
    how=', '.join(how),
    limits=_each('item', limits),
    kinds=_each('option', [*model.spec.classes, UNDECIDED, _FAILED]),
    table=page.table([*heads, 'notes'], rows),
    sections=page.join(sections),
  )
  many = 's' * (len(results) != 1)
  return page.encode(f'Predictions for {len(results)} recording{many}', body)


def _fill(template: str, **values: object) -> Html:
  return page.fill(_TEMPLATES[template], **values)


def _each(template: str, texts: Iterable[str]) -> Html:
  return page.join(_fill(template, text=text) for text in texts)


def drawn_windows(result: RecordingResult) -> list[int]:
  """Chooses the windows of a recording that are drawn, by their positions.

  Of a long one they are the most certain of each episode, the longest episodes
  first, and of each class; where these are few, then the first of the others.
  """
  windows = range(len(result.windows))
  episodes = result.summary.episodes if result.summary else []
  longest = sorted(episodes, key=lambda episode: episode[0] - episode[1])
  chosen = [window_of(result, episode) for episode in longest]
  if windows:
    chosen += [_surest(result, windows, name) for name in result.spec.classes]
  return sorted([*dict.fromkeys([*chosen, *windows])][:MOST_DRAWN])


def window_of(result: RecordingResult, episode: tuple[float, float]) -> int:
  """Position of the most certain window of an episode."""
  start, end = episode
  inside = [
    index
    for index, window in enumerate(result.windows)
    if start < (window.start + window.end) / 2 < end
  ]
  return _surest(result, inside, str(result.spec.episode_class))


def _surest(result: RecordingResult, windows: Sequence[int], name: str) -> int:
  """Of some windows that with the highest probability of a class."""
  column = result.spec.classes.index(name)
  answers = [window.answer for window in result.windows]
  return max(windows, key=lambda index: answers[index].probabilities[column])


def _section(
  result: RecordingResult, place: str, name: str, figures: Iterable[Html]
) -> Html:
  """A recording: prediction, heart rate, notes, rhythm over time, ECG."""
  spec, summary = result.spec, result.summary
  if result.failure is not None:
    kind, content = _FAILED, _fill('failure', text=result.failure)
  else:
    kind = result.predicted
    headline = _words(spec, kind)
    if summary is not None and summary.episodes:
      kind = str(summary.episode_class)
      headline = f'{summary.headline}; mean {headline}'
    content = _fill(
      'answer',
      headline=headline,
      bars=page.join(
        _fill(
          'bar',
          name=_words(spec, name),
          color=_color(spec, name),
          percent=f'{100 * probability:.1f}',
        )
        for name, probability in result.probabilities.items()
      ),
      heart_rate=_heart_rate(result.heart_rate),
      notes=_each('item', result.warnings),
      rhythm=_rhythm(result, summary, place) if summary else '',
      figures=page.join(figures),
    )
  seconds = result.seconds
  time = clock(seconds) if result.windowed else f'{seconds:.1f} s'
  length = f'lead {result.lead}, {time}' if result.lead else ''
  return _fill(
    'section', place=place, kind=kind, name=name, length=length, content=content
  )


def _words(spec: DatasetSpec, name: str) -> str:
  """A class with its name in words, or UNDECIDED."""
  words = dict(zip(spec.classes, spec.class_names, strict=True)).get(name, name)
  return name if words == name else f'{name}, {words}'


def _color(spec: DatasetSpec, name: str) -> str:
  """Class of the style for a class of the dataset, or for UNDECIDED."""
  return name if name == UNDECIDED else f'c{spec.classes.index(name) % _COLORS}'


def _heart_rate(rate: HeartRate) -> str:
  """Beats, and what is known of the times between them."""
  text = f'{rate.beats} beat{"s" * (rate.beats != 1)}'
  if rate.per_minute is not None:
    text += f', {rate.per_minute:.0f} beats/min, RR {rate.rr_median:.2f} s'
    text += f', spread {rate.rr_interquartile:.2f} s'
  return text


def _rhythm(result: RecordingResult, summary: Summary, place: str) -> Html:
  """The classes of a long recording over time, with links to its windows."""
  spec, drawn = result.spec, drawn_windows(result)
  parts = aggregation.partition(result.windows)
  runs: list[tuple[float, float, str]] = []
  for start, end, name in parts:
    if runs and runs[-1][2] == name and start <= runs[-1][1] + 1e-6:
      start = runs.pop()[0]
    runs.append((start, end, name))
  episodes = Html()
  if summary.episodes:
    episodes = _fill('episodes', links=_episodes(result, summary, place, drawn))
  elif spec.episode_class is not None:
    episodes = _fill('line', text=f'No episode of {spec.episode_class}.')
  return _fill(
    'rhythm',
    answered=clock(summary.answered_seconds),
    legend=page.join(
      _fill('key', color=_color(spec, name), text=f'{name} {percent(share)}')
      for name, share in summary.shares.items()
      if share > 0
    ),
    seconds=f'{result.seconds:g}',
    runs=page.join(
      _segment('run', *run, color=_color(spec, run[2])) for run in runs
    ),
    windows=page.join(
      _segment('window', *parts[index], target=f'{place}w{index}')
      for index in drawn
    ),
    ticks=_each('tick', (clock(result.seconds * k / 4) for k in range(5))),
    episodes=episodes,
    drawn=f'{len(drawn)} of {len(parts)}',
  )


def _episodes(
  result: RecordingResult, summary: Summary, place: str, drawn: Sequence[int]
) -> Html:
  """The episodes of a long recording, with links to their windows."""
  items = []
  for episode in summary.episodes:
    index = window_of(result, episode)
    template = 'link' if index in drawn else 'text'
    text = ' to '.join(map(clock, episode))
    items.append(_fill(template, target=f'{place}w{index}', text=text))
  return _each('item', items)


def _segment(
  template: str, start: float, end: float, name: str, **values: object
) -> Html:
  """A part of the time of a long recording."""
  text = f'{name}, {clock(start)} to {clock(end)}'
  length = f'{end - start:g}'
  return _fill(template, start=f'{start:g}', length=length, text=text, **values)


def _figures(
  model: Ensemble,
  result: RecordingResult,
  place: str,
  opener: Opener,
  settings: Settings,
) -> Iterator[Html]:
  """The windows of a recording that are drawn, with links to the next ones."""
  drawn = drawn_windows(result)
  if not drawn:
    return
  first = _surest(result, drawn, result.answer.chosen)
  if result.summary is not None and result.summary.longest_episode is not None:
    first = window_of(result, result.summary.longest_episode)
  places = [f'{place}w{index}' for index in drawn]
  befores, afters = ['', *places[:-1]], [*places[1:], '']
  most = ecg_plot.LONGEST_SECONDS
  windows = _read(model, result, drawn, opener, settings)
  for index, window, *links in zip(
    drawn, windows, befores, afters, strict=True
  ):
    prediction = result.windows[index]
    answer = prediction.answer
    likeliest = model.spec.classes[int(answer.probabilities.argmax())]
    times = ' to '.join(map(clock, (window.start, window.end)))
    chances = ', '.join(
      f'{name} {100 * chance:.0f} %'
      for name, chance in zip(
        model.spec.classes, answer.probabilities, strict=True
      )
    )
    caption = f'{times}: {answer.predicted} ({chances})'
    yield _fill(
      'figure',
      place=f'{place}w{index}',
      kind='first' if index == first else '',
      caption=caption if result.windowed else '',
      steps=page.join(
        _fill('link', target=target, text=text)
        for target, text in zip(links, ('previous', 'next'), strict=True)
        if target
      ),
      ecg=ecg_svg.draw(
        window.counts,
        model.spec,
        attribution=pictures.attribute(model, window, answer),
        beats=np.asarray(prediction.beats) - window.start,
        description=f'ECG of {result.name}, {times}',
      ),
      lead=result.lead,
      part=f'the first {most} s, ' if window.end - window.start > most else '',
      likeliest=likeliest,
      network=' to the network, without the trees' * model.has_trees,
    )


def _read(
  model: Ensemble,
  result: RecordingResult,
  positions: Sequence[int],
  opener: Opener,
  settings: Settings,
) -> Iterator[Window]:
  """Reads windows of a long recording; that of a short one is kept."""
  if not result.windowed:
    [window, _] = next(iter(result.examples.values()))
    yield window
    return
  recording = opener()
  for index in positions:
    start, end = result.windows[index].start, result.windows[index].end
    counts, _ = resampling.read_window(
      recording,
      model.encoding,
      start,
      end - start,
      bandpass=settings.bandpass,
    )
    yield Window(0, start, end, counts, model.folds)

"""The results of recordings as one HTML page to look at.

`html_report.html` beside this file has its templates.
"""

import collections
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tqdm

from ecg_jax.datasets.schema import UNDECIDED, DatasetSpec
from ecg_jax.evaluation import calibration
from ecg_jax.prediction import (
  aggregation,
  drawn_windows,
  ecg_plot,
  model_card,
  report,
)
from ecg_jax.prediction.aggregation import Summary, clock, percent
from ecg_jax.prediction.drawn_windows import Choice
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.prediction.heartbeats import HeartRate
from ecg_jax.prediction.predictor import RecordingResult, Settings
from ecg_jax.runs import released
from ecg_jax.runtime import page
from ecg_jax.runtime.page import Html

_COLORS = 8
"""Of classes, in the style of pages."""

_FAILED = 'no answer'

_HEADS = {'RR': 'RR (s)', 'spread': 'spread (s)'}
"""Head of a column in the printed table -> that in the page, if it differs."""

_TEMPLATES = page.read_templates(pathlib.Path(__file__).with_suffix('.html'))


def encode(
  model: Ensemble,
  results: Sequence[RecordingResult],
  openers: Mapping[str, drawn_windows.Opener],
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
  choices = [drawn_windows.choose(result) for result in results]
  ecgs = iter(
    tqdm.tqdm(
      drawn_windows.draw(model, results, choices, openers, settings),
      total=sum(len(choice.drawn) for choice in choices),
      unit=' pictures',
      disable=not sys.stderr.isatty(),
    )
  )
  rows, sections = [], []
  for number, (result, choice) in enumerate(zip(results, choices, strict=True)):
    name, *cells = report.cells(result)
    place = f'r{number}'
    link = _fill('link', target=place, text=name)
    rows.append([link, *cells[:-1], result.failure or cells[-1]])
    own = itertools.islice(ecgs, len(choice.drawn))
    figures = _figures(model, result, choice, place, own)
    sections.append(_section(result, choice, place, name, figures))
  next(ecgs, None)  # The bar ends.
  *heads, _ = report.heads(model.spec.classes)
  heads = [_HEADS.get(head, head) for head in heads]
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
    **_kinds(model.spec, results),
    classes=', '.join(model.spec.classes),
    table=page.table([*heads, 'notes'], rows),
    sections=page.join(sections),
  )
  many = 's' * (len(results) != 1)
  return page.encode(f'Predictions for {len(results)} recording{many}', body)


def _fill(template: str, **values: object) -> Html:
  return page.fill(_TEMPLATES[template], **values)


def _each(template: str, texts: Iterable[str]) -> Html:
  return page.join(_fill(template, text=text) for text in texts)


def _kinds(
  spec: DatasetSpec, results: Sequence[RecordingResult]
) -> dict[str, Html]:
  """The menu of predictions, and what they mean with how many have each."""
  counts = collections.Counter(map(_kind, results))
  kinds = [*spec.classes, UNDECIDED, _FAILED]
  return {
    'options': page.join(
      _fill('option', kind=kind, text=_words(spec, kind)) for kind in kinds
    ),
    'counts': page.join(
      _fill(
        'key',
        color=_color(spec, kind),
        text=f'{counts[kind]} {_words(spec, kind)}',
      )
      for kind in kinds
      if kind in spec.classes or counts[kind]
    ),
  }


def _kind(result: RecordingResult) -> str:
  """What it counts as: the class of its episodes, or what is predicted."""
  if result.failure is not None:
    return _FAILED
  if result.summary is not None and result.summary.episodes:
    return str(result.summary.episode_class)
  return result.predicted


def _section(
  result: RecordingResult,
  choice: Choice,
  place: str,
  name: str,
  figures: Iterable[Html],
) -> Html:
  """A recording: prediction, heart rate, notes, rhythm over time, ECG."""
  spec, summary = result.spec, result.summary
  if result.failure is not None:
    content = _fill('failure', text=result.failure)
  else:
    headline = _words(spec, result.predicted)
    if summary is not None and summary.episodes:
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
      notes=_each('item', result.notes),
      differences=_each('item', result.differences),
      rhythm=_rhythm(result, summary, choice, place) if summary else '',
      figures=page.join(figures),
    )
  seconds = result.seconds
  time = clock(seconds) if result.windowed else f'{seconds:.1f} s'
  length = f'lead {result.lead}, {time}' if result.lead else ''
  return _fill(
    'section',
    place=place,
    kind=_kind(result),
    name=name,
    length=length,
    content=content,
  )


def _words(spec: DatasetSpec, name: str) -> str:
  """A class with its name in words; any other text as it is."""
  words = dict(zip(spec.classes, spec.class_names, strict=True)).get(name, name)
  return name if words == name else f'{name}, {words}'


def _color(spec: DatasetSpec, name: str) -> str:
  """Class of the style for a class of the dataset, or for none of them."""
  if name not in spec.classes:
    return 'unknown'
  return f'c{spec.classes.index(name) % _COLORS}'


def _heart_rate(rate: HeartRate) -> str:
  """Beats, and what is known of the times between them."""
  text = f'{rate.beats} beat{"s" * (rate.beats != 1)}'
  if rate.per_minute is not None:
    text += f', {rate.per_minute:.0f} beats/min, RR {rate.rr_median:.2f} s'
    text += f', spread {rate.rr_interquartile:.2f} s'
  return text


def _rhythm(
  result: RecordingResult,
  summary: Summary,
  choice: Choice,
  place: str,
) -> Html:
  """The classes of a long recording over time, with links to its windows."""
  spec = result.spec
  parts = aggregation.partition(result.windows)
  episodes = Html()
  if summary.episodes:
    links = _episodes(summary, choice, place)
    episodes = _fill('episodes', links=links)
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
    runs=_runs(result, parts, choice, place),
    windows=page.join(
      _segment('window', *parts[index], target=f'{place}w{index}')
      for index in choice.drawn
    ),
    ticks=page.join(
      _fill('tick', percent=25 * k, text=clock(result.seconds * k / 4))
      for k in range(5)
    ),
    episodes=episodes,
    drawn=f'{len(choice.drawn)} of {len(parts)}',
  )


def _runs(
  result: RecordingResult,
  parts: Sequence[tuple[float, float, str]],
  choice: Choice,
  place: str,
) -> Html:
  """Times of one class; with links to their most certain window, if drawn."""
  drawn = {*choice.drawn}
  runs: list[list[int]] = []
  for index, (start, _, name) in enumerate(parts):
    last = parts[index - 1]
    if runs and last[2] == name and start <= last[1] + 1e-6:
      runs[-1].append(index)
    else:
      runs.append([index])
  found = []
  for run in runs:
    (start, _, name), (_, end, _) = parts[run[0]], parts[run[-1]]
    rect = _segment('run', start, end, name, color=_color(result.spec, name))
    if inside := [index for index in run if index in drawn]:
      chosen = result.windows[inside[0]].answer.chosen
      index = drawn_windows.surest(result, inside, chosen)
      rect = _fill('run_link', target=f'{place}w{index}', run=rect)
    found.append(rect)
  return page.join(found)


def _episodes(summary: Summary, choice: Choice, place: str) -> Html:
  """The episodes of a long recording, with links to their windows."""
  drawn = {*choice.drawn}
  items = []
  for episode, index in zip(summary.episodes, choice.of_episodes, strict=True):
    template = 'link' if index in drawn else 'no_picture'
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
  choice: Choice,
  place: str,
  ecgs: Iterable[Html],
) -> Iterator[Html]:
  """The windows of a recording that are drawn, with links to the next ones."""
  drawn = choice.drawn
  if not drawn:
    return
  first = drawn_windows.surest(result, drawn, result.answer.chosen)
  if result.summary is not None and result.summary.longest_episode is not None:
    longest = result.summary.episodes.index(result.summary.longest_episode)
    first = choice.of_episodes[longest]
  places = [f'{place}w{index}' for index in drawn]
  befores, afters = ['', *places[:-1]], [*places[1:], '']
  most = ecg_plot.LONGEST_SECONDS
  for index, ecg, *links in zip(drawn, ecgs, befores, afters, strict=True):
    window = result.windows[index]
    answer = window.answer
    likeliest = model.spec.classes[int(answer.probabilities.argmax())]
    chances = ', '.join(
      f'{name} {100 * chance:.0f} %'
      for name, chance in zip(
        model.spec.classes, answer.probabilities, strict=True
      )
    )
    caption = (
      f'{drawn_windows.times_of(window)}: {answer.predicted} ({chances})'
    )
    bars = _fill('unexplained', most=drawn_windows.MOST_EXPLAINED)
    if index in choice.explained:
      trees = _fill('trees') if model.has_trees else ''
      bars = _fill('explained', likeliest=likeliest, trees=trees)
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
      ecg=ecg,
      lead=result.lead,
      part=f'the first {most} s, ' if window.end - window.start > most else '',
      bars=bars,
    )

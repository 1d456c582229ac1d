"""The page of results: it says all, is harmless, and works in a browser."""

import collections
import dataclasses
import functools
import html
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import edfio
import numpy as np
import pytest

from ecg_jax import predict
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.errors import InputError
from ecg_jax.prediction import (
  aggregation,
  attribution,
  drawn_windows,
  ecg_plot,
  ecg_svg,
  ensemble,
  html_report,
  predictor,
  report,
)
from ecg_jax.recordings import lead
from tests import recording_files

EVIL = '"\'&amp;<script>hacked=1</script><img src=x onerror=hacked=1>-->'
BARS = np.resize([1, -0.5, 0.25], 150).astype(np.float32)
TRACE = r'<path class="trace" d="M0 (\S+?)l(.*?)"'
CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None
)


@pytest.fixture(scope='module')
def model():
  """One of the challenge's records, as far as the page asks."""
  spec = dataclasses.replace(CHALLENGE, longest_samples=18_286)
  fields = {'config': None, 'network': None, 'trained_on': ()}
  run = pathlib.Path('runs/<b>mine')
  variables = ({'trees': None},)
  return ensemble.Ensemble(
    run, folds=(0,), variables=variables, spec=spec, **fields
  )


@pytest.fixture(autouse=True)
def attributed(monkeypatch):
  """Bars that need no gradients."""
  monkeypatch.setattr(
    attribution, 'integrated_gradients', lambda *_: BARS.copy()
  )


def counts_of(windows):
  """Half a minute each of a beat a second, of an amplitude of its own."""
  beat = np.exp(-(((np.arange(300) - 150) / 8) ** 2))
  return np.concatenate(
    [np.tile(beat * (600 + 10 * k), 30) for k in range(windows)]
  ).astype(np.int16)


def result_of(model, name, predicted, **fields):
  """A recording with a window for each letter; '?' is undecided."""
  spec = model.spec
  counts = counts_of(len(predicted) or 1)
  result = predictor.RecordingResult(
    name, spec, 'ECG', len(counts) / 300, windowed=len(predicted) > 1, **fields
  )
  for k, letter in enumerate(predicted):
    probabilities = np.full(4, 0.02 + 0.001 * k)
    chosen = spec.classes.index('N' if letter == '?' else letter)
    probabilities[chosen] = 1 - 3 * probabilities[0]
    answer = aggregation.Prediction(
      spec.classes[chosen], probabilities, 1.0, letter != '?'
    )
    times = 30 * k + np.arange(30) + 0.5
    prediction = aggregation.WindowPrediction(
      30.0 * k, 30.0 * (k + 1), answer, times
    )
    result.windows.append(prediction)
  if result.windowed:
    result.summary = aggregation.summarize(result.windows, spec)
  elif predicted:
    window = predictor.Window(0, 0.0, 30.0, counts, model.folds)
    result.examples = dict.fromkeys(range(4), (window, result.windows[0]))
  opener = functools.partial(
    lead.from_array,
    counts,
    sampling_rate=300,
    units='counts',
    counts_per_millivolt=spec.counts_per_millivolt,
  )
  return result, opener


@pytest.fixture(scope='module')
def recordings(model):
  """Results of all kinds, each with a function that opens it."""
  return [
    result_of(model, 'b short', 'O', notes=[f'note {EVIL}']),
    result_of(model, EVIL, '', failure=f'It is broken: {EVIL}.'),
    result_of(model, 'long', 'NNAA?OA~'),
    result_of(
      model,
      'a calm',
      'NNON',
      notes=['just a note'],
      departures=collections.Counter(['something unlike']),
    ),
  ]


def make(model, recordings):
  results = [result for result, _ in recordings]
  openers = {result.name: opener for result, opener in recordings}
  settings = predictor.Settings()
  return html_report.encode(model, results, openers, settings).decode()


class Reader(html.parser.HTMLParser):
  """Elements and text of a page."""

  def __init__(self, content):
    super().__init__()
    self.elements, self.texts = [], []
    self.feed(content)
    self.close()
    self.text = ' '.join(' '.join(self.texts).split())

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.texts.append(data)

  def all(self, tag, **attrs):
    return [
      found
      for name, found in self.elements
      if name == tag and attrs.items() <= found.items()
    ]


@pytest.fixture
def read(model, recordings):
  return Reader(make(model, recordings))


def test_the_page_says_what_the_command_prints(read, recordings):
  for result, _ in recordings:
    said = [*report.cells(result), *result.warnings]
    if result.failure is None:
      said.append(result.headline)
    else:
      said[-1:] = [result.failure]
    if result.summary is not None:
      episodes = result.summary.episodes
      said += [' to '.join(map(aggregation.clock, x)) for x in episodes]
      said += [
        f'{name} {aggregation.percent(share)}'
        for name, share in result.summary.shares.items()
        if share
      ]
    for text in said:
      assert ' '.join(text.split()) in read.text
  assert 'No episode of A.' in read.text
  assert '30 beats, 60 beats/min, RR 1.00 s' in read.text
  assert 'This is not a medical device.' in read.text
  assert 'It knows 4 classes.' in read.text
  assert 'and against it (down) . They explain the neural network' in read.text


def test_classes_are_explained_and_counted(read):
  counts = '1 N, normal rhythm 1 A, atrial fibrillation 1 O, other rhythm'
  assert f'{counts} 0 ~, noise 1 no answer recording' in read.text
  menu = 'all N, normal rhythm A, atrial fibrillation O, other rhythm'
  assert f'Prediction {menu} ~, noise undecided no answer' in read.text
  values = ['', *CHALLENGE.classes, 'undecided', 'no answer']
  assert [x['value'] for x in read.all('option')] == values
  assert 'beats/min RR (s) spread (s) notes' in read.text


def test_a_note_is_no_warning(model, recordings):
  content = make(model, recordings[3:])
  [warnings] = re.findall(
    r'<ul class="warning">\n(.*?)</ul>', content, flags=re.DOTALL
  )
  assert warnings == '<li>something unlike (in 1 of 4 windows)</li>\n'
  assert '<ul>\n<li>just a note</li>\n</ul>' in content


def test_text_of_files_stays_text(read):
  assert len(read.all('script')) == 1
  assert not read.all('img')
  assert not read.all('b')
  assert not [
    name
    for _, attrs in read.elements
    for name in attrs
    if name.startswith('on')
  ]
  assert read.text.count('<script>hacked=1</script>') >= 4


def test_the_page_asks_nothing_of_a_network(model, recordings):
  content = make(model, recordings)
  assert "content=\"default-src 'none'; " in content
  assert not re.search(r'https?://|@import|src=|url\((?!#)', content.replace(
    html.escape(EVIL), ''))  # fmt: skip


def test_what_is_no_utf_8_is_escaped(model):
  content = make(model, [result_of(model, 'M\udcfcller', 'N')])
  assert 'M\\udcfcller' in content


def test_bars_links_and_figures_belong_to_their_recordings(read, recordings):
  sections = read.all('section')
  assert [x['data-kind'] for x in sections] == ['O', 'no answer', 'A', 'N']
  ids = [found['id'] for _, found in read.elements if 'id' in found]
  assert len(set(ids)) == len(ids)
  links = {found['href'][1:] for found in read.all('a')}
  assert links <= {*ids}
  assert {x['id'] for x in sections} <= links
  assert len(read.all('figure')) == 1 + 8 + 4
  # The longest episode is shown first, by its most certain window.
  first = [x['id'] for x in read.all('figure', **{'class': 'first'})]
  assert first == ['r0w0', 'r2w2', 'r3w0']
  widths = [x['style'] for x in read.all('span') if 'style' in x]
  assert widths[:4] == [f'width: {x}%' for x in (2.0, 2.0, 94.0, 2.0)]


def test_of_a_long_recording_each_episode_is_drawn_first(model, monkeypatch):
  result, _ = result_of(model, 'holter', 'N' * 50 + 'OA' * 3 + '~' + 'A' * 20)
  monkeypatch.setattr(drawn_windows, 'MOST_EXPLAINED', 9)
  # An episode has its most certain window, its first here, as each class has.
  all_nine = [0, 1, 2, 50, 51, 53, 55, 56, 57]
  episodes = [51, 53, 55, 57]
  choice = drawn_windows.choose(result)
  assert choice == (all_nine, {*all_nine}, episodes)
  # All episodes and classes are drawn, the longest episodes explained.
  monkeypatch.setattr(drawn_windows, 'MOST_EXPLAINED', 2)
  choice = drawn_windows.choose(result)
  assert choice == ([0, 50, 51, 53, 55, 56, 57], {51, 57}, episodes)
  monkeypatch.setattr(drawn_windows, 'MOST_DRAWN', 3)
  choice = drawn_windows.choose(result)
  assert choice == ([51, 53, 57], {51, 57}, episodes)
  failed, _ = result_of(model, 'failed', '', failure='No.')
  assert drawn_windows.choose(failed) == ([], set(), [])


def test_an_episode_leads_to_its_picture_or_says_that_it_has_none(
  model, monkeypatch
):
  monkeypatch.setattr(drawn_windows, 'MOST_EXPLAINED', 1)
  monkeypatch.setattr(drawn_windows, 'MOST_DRAWN', 2)
  content = make(model, [result_of(model, 'holter', 'ANANAA')])
  [episodes] = re.findall('<ol.*?</ol>', content, flags=re.DOTALL)
  assert [x['href'] for x in Reader(episodes).all('a')] == ['#r0w0', '#r0w4']
  assert '0:01:00 to 0:01:30 no picture' in Reader(episodes).text
  # So does its time in the strip; that of no picture is no link.
  strip = r'(<a href="#r0w\d" tabindex="-1">)?<rect class="c'
  links = ['<a href="#r0w0" tabindex="-1">', '<a href="#r0w4" tabindex="-1">']
  assert re.findall(strip, content) == [links[0], '', '', '', links[1]]
  first, second = re.findall('<figure.*?</figure>', content, flags=re.DOTALL)
  assert 'class="for" d="M' not in first
  assert 'No bars: what speaks for' in first
  assert 'class="for" d="M' in second
  assert 'No bars' not in second


def test_windows_of_a_long_recording_are_read_again(model):
  content = make(model, [result_of(model, 'long', 'NNAA')])
  rows = re.findall(TRACE, content)
  assert len(rows) == 4 * 3
  heights = [np.ptp(levels(*row)) for row in rows[::3]]
  assert heights == [600, 610, 620, 630]


def levels(first, steps):
  """The counts of a path, clipped to the paper, above their median."""
  numbers = np.array(re.findall(r'[+-]?\d+', steps), int)
  assert list(numbers[:2]) == [0, 0]
  assert (numbers[2::2] == 1).all()
  return int(first) + np.cumsum([0, *numbers[3::2]])


@pytest.mark.parametrize('samples', [64, 3001, 9000])
def test_the_trace_is_that_of_the_samples_at_paper_scale(model, samples):
  rng = np.random.default_rng(samples)
  counts = np.cumsum(rng.integers(-9, 10, samples)).astype(np.int16)
  beats = np.arange(0.1, samples / 300)
  svg = ecg_svg.draw(
    counts,
    model.spec,
    attribution=ecg_plot.Attribution(BARS, 0.2),
    beats=beats,
    description=EVIL,
  )
  read = Reader(svg)
  [whole] = read.all('svg')
  assert whole['aria-label'] == EVIL
  seconds = min(10, samples / 300)
  assert whole['width'] == f'{10 + 25 * seconds + 3:g}mm'
  assert whole['viewbox'] == f'0 0 {whole["width"][:-2]} {whole["height"][:-2]}'
  rows = re.findall(TRACE, svg)
  assert len(rows) == -(-samples // 3000)
  drawn = np.concatenate([levels(*row) for row in rows])
  np.testing.assert_array_equal(drawn, counts - round(np.median(counts)))
  assert svg.count(f'scale({25 / 300:.6g} -0.01)') == len(rows)
  marks = [x['d'].count('M') for x in read.all('path', **{'class': 'beat'})]
  assert sum(marks) == len(beats)
  bars = [x['d'].count('M') for x in read.all('path', **{'class': 'for'})]
  assert sum(bars) == np.sum(BARS[: round(samples / 60)] > 0)


def test_what_leaves_the_paper_is_marked(model):
  counts = counts_of(1)
  counts[4000:4005] = 20_000
  svg = ecg_svg.draw(
    counts,
    model.spec,
    attribution=ecg_plot.Attribution(BARS, 0.2),
    beats=np.zeros(0),
    description='',
  )
  cuts = [x['d'] for x in Reader(svg).all('path', **{'class': 'cut'})]
  assert [cut.count('M') for cut in cuts] == [0, 5, 0]
  assert 'M1000 ' in cuts[1]


def test_fifty_recordings_are_small(model):
  noise = np.random.default_rng(0).normal(0, 500, 9000).astype(np.int16)
  svg = ecg_svg.draw(
    noise,
    model.spec,
    attribution=ecg_plot.Attribution(BARS, 0.2),
    beats=np.arange(30.0),
    description='',
  )
  assert 50 * len(svg) < 6e6


def test_of_a_very_long_window_the_beginning_is_drawn_and_said_to_be(
  model, monkeypatch
):
  monkeypatch.setattr(ecg_plot, 'LONGEST_SECONDS', 20)
  content = make(model, [result_of(model, 'short', 'N')])
  assert 'Lead ECG, the first 20 s, 25 mm/s' in content
  assert len(re.findall(TRACE, content)) == 2


def test_a_file_that_is_gone_leaves_no_page(model, recordings):
  long, _ = recordings[2]

  def opener():
    raise InputError('long.edf does not exist any more.')

  with pytest.raises(InputError, match='any more'):
    make(model, [(long, opener)])


def test_the_command_writes_a_page_without_names_of_patients(
  small_run, tmp_path, capsys
):
  (tmp_path / 'in').mkdir()
  path = recording_files.write_edf(
    tmp_path / 'in',
    {'ECG': (recording_files.COUNTS, 'uV')},
    patient=edfio.Patient(name='Jane_Doe', code='P1234'),
  )
  (tmp_path / 'in' / 'broken.csv').write_text('nothing\n')
  out = tmp_path / 'new' / 'page.html'
  arguments = ['--run', small_run, path, tmp_path / 'in/broken.csv']
  assert predict.main([*map(str, arguments), '--report', str(out)]) == 3
  errors = capsys.readouterr().err
  content = out.read_text()
  assert [x.name for x in out.parent.iterdir()] == ['page.html']
  assert 'Jane' not in content
  assert 'P1234' not in content
  assert b'Jane_Doe' in path.read_bytes()
  [failure] = [line for line in errors.splitlines() if 'broken.csv' in line]
  read = Reader(content)
  assert failure in read.text
  assert read.all('figure')


# What someone does with the page, and what then is shown.
STEPS = """
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const names = () => all('tbody tr').filter(row => !row.hidden)
  .map(row => row.querySelector('a').hash.slice(1));
const sections = () => all('section').filter(one => !one.hidden)
  .map(one => one.id);
const figures = () => all('#r2 figure')
  .filter(one => getComputedStyle(one).display !== 'none').map(one => one.id);
const tick = () => new Promise(done => setTimeout(done, 100));
const [words, kind, count] = all('.controls input, .controls select, output');
const heads = all('thead button');
(async () => {
  const found = {start: [names(), count.value, figures()]};
  heads[0].click();
  found.byName = [names(), sections(), heads[0].parentElement.ariaSort];
  heads[4].click();
  found.byN = [names(), heads[4].parentElement.ariaSort];
  heads[4].click();
  found.byNUp = names();
  words.value = 'LONG';
  words.oninput();
  found.long = [names(), sections(), count.value];
  words.value = '';
  kind.value = 'no answer';
  kind.onchange();
  found.failed = [names(), sections()];
  kind.value = '';
  kind.onchange();
  const links = all('.episodes a');
  links[1].focus();
  links[1].click();
  await tick();
  found.episode = [figures(), links.map(link => link.ariaCurrent)];
  all('#r2w6 .steps a')[1].click();
  await tick();
  found.next = figures();
  const box = selector => document.querySelector(selector)
    .getBoundingClientRect();
  const strip = box('#r2 .rhythm');
  found.ticks = all('#r2 .ticks span').map(one => one.getBoundingClientRect())
    .map(one => [one.left, (one.left + one.right) / 2, one.right])
    .map((one, k) => one[[0, 1, 1, 1, 2][k]] - strip.left)
    .map(place => 4 * place / strip.width);
  found.line = box('tr:has(a[href="#r3"])').height / box('thead tr').height;
  found.toA = box('th:nth-child(6)').right - innerWidth;
  found.wide = document.documentElement.scrollWidth - innerWidth;
  found.dark = getComputedStyle(document.body).backgroundColor;
  found.hacked = typeof hacked;
  document.body.dataset.found = JSON.stringify(found);
})();
"""


@pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium')
@pytest.mark.parametrize(('width', 'dark'), [(1300, False), (500, True)])
def test_it_sorts_filters_and_opens_episodes(
  model, recordings, tmp_path, width, dark
):
  path = tmp_path / 'page.html'
  path.write_text(make(model, recordings) + f'<script>{STEPS}</script>')
  done = subprocess.run(
    [
      *(CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu'),
      *('--enable-logging=stderr', '--dump-dom', '--virtual-time-budget=5000'),
      *(
        f'--user-data-dir={tmp_path / "profile"}',
        f'--window-size={width},900',
      ),
      f'--blink-settings=preferredColorScheme={0 if dark else 1}',
      path.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=100,
    check=True,
  )
  assert 'CONSOLE' not in done.stderr
  [written] = re.findall(r'data-found="(.*?)"', done.stdout)
  found = json.loads(html.unescape(written))
  everything = ['r0', 'r1', 'r2', 'r3']
  assert found['start'] == [everything, '4 of 4 shown', ['r2w2']]
  order = ['r1', 'r3', 'r0', 'r2']  # A quote is before letters.
  assert found['byName'] == [order, order, 'ascending']
  # A failure has no probabilities: it is the last both ways.
  assert found['byN'] == [['r3', 'r2', 'r0', 'r1'], 'descending']
  assert found['byNUp'] == ['r0', 'r2', 'r3', 'r1']
  assert found['long'] == [['r2'], ['r2'], '1 of 4 shown']
  assert found['failed'] == [['r1'], ['r1']]
  assert found['episode'] == [['r2w6'], ['false', 'true']]
  assert found['next'] == ['r2w7']
  np.testing.assert_allclose(found['ticks'], range(5), atol=1e-3)
  if width == 500:
    assert found['line'] < 1.5
    assert found['toA'] < 0
  assert found['wide'] <= 0
  background = 'rgb(23, 24, 27)' if dark else 'rgb(255, 255, 255)'
  assert found['dark'] == background
  assert found['hacked'] == 'undefined'

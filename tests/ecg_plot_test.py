"""The picture of a recording: true scale, whole trace, any name and signal."""

import io
import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest

from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.prediction import ecg_plot
from ecg_jax.runtime import figures


def draw(signal, sampling_rate=300.0, **fields):
  segmentes = -(-len(signal) // round(0.2 * sampling_rate))
  given = {
    'name': 'A00001',
    'lead': 'II',
    'classes': dict(zip(CHALLENGE.classes, CHALLENGE.class_names, strict=True)),
    'answer': 'A',
    'probabilities': np.array([0.1, 0.7, 0.15, 0.05]),
    'rhythm': ecg_plot.Rhythm(),
  }
  shares = fields.pop('attribution', np.linspace(-1, 1, segmentes))
  attribution = ecg_plot.Attribution(shares, 0.2)
  return ecg_plot.draw(
    signal, sampling_rate, attribution=attribution, **given | fields
  )


def beats(seconds, sampling_rate=300.0, height=1.0):
  time = np.arange(round(seconds * sampling_rate)) / sampling_rate
  return height * np.exp(-(((time % 0.8 - 0.4) / 0.02) ** 2))


def papers(figure):
  """The axes that hold a trace, in order."""
  return [a for a in figure.axes if a.get_facecolor()[2] not in (0, 1)]


def bars(figure):
  """The bars of the attribution, each with its axes."""
  strips = [axes for axes in figure.axes if axes.get_ylim() == (-1, 1)]
  return [(axes, bar) for axes in strips for bar in axes.patches]


def size_in_millimetres(figure, axes):
  box = axes.get_position()
  width, height = figure.get_size_inches() * 25.4
  return box.width * width, box.height * height


def drawn(axes):
  """Time and mV of the trace on a row."""
  [line] = [x for x in axes.lines if x.get_linewidth() == 0.6
            and x.get_color() == 'black']  # fmt: skip
  return line.get_data()


@pytest.mark.parametrize('height', [0.1, 1.0, 3.0])
@pytest.mark.parametrize(
  ('seconds', 'sampling_rate'), [(3, 300.0), (30, 300.0), (12.5, 128.0)]
)
def test_scale_is_true_and_the_trace_whole(seconds, sampling_rate, height):
  signal = beats(seconds, sampling_rate, height)
  figure = draw(signal, sampling_rate)
  rows = papers(figure)
  assert len(rows) == int(np.ceil(seconds / ecg_plot.ROW_SECONDS))
  for row in rows:
    width, tall = size_in_millimetres(figure, row)
    assert width == pytest.approx(25 * np.diff(row.get_xlim())[0])
    assert tall == pytest.approx(10 * np.diff(row.get_ylim())[0])
    for values, (low, high) in zip(
      drawn(row), (row.get_xlim(), row.get_ylim()), strict=True
    ):
      assert low <= values.min() <= values.max() <= high
  time, trace = map(np.concatenate, zip(*map(drawn, rows), strict=True))
  np.testing.assert_allclose(time, np.arange(len(signal)) / sampling_rate)
  np.testing.assert_allclose(trace, signal - np.median(signal))


@pytest.mark.parametrize(
  ('strongest', 'height'), [(1.5e-8, 0), (0.9e-4, 0), (1.1e-4, 1), (0.15, 1)]
)
def test_rounding_is_not_drawn_as_attribution(strongest, height):
  attribution = strongest * np.linspace(-1, 1, 50)
  found = bars(draw(beats(10), attribution=attribution))
  assert len(found) == 50
  assert max(abs(bar.get_height()) for _, bar in found) == height


def test_attribution_stands_under_its_segment_of_the_trace():
  signal = beats(25)
  attribution = np.zeros(125)
  attribution[[3, 60, 124]] = 1.0, -1.0, 0.5
  figure = draw(signal, attribution=attribution)
  found = {}
  for axes, bar in bars(figure):
    found[round(bar.get_x() / 0.2)] = bar.get_height()
    left, right = axes.get_xlim()
    assert left <= bar.get_x() < bar.get_x() + 0.2 <= right + 0.01
  assert sorted(found) == list(range(125))
  assert {index for index, height in found.items() if height} == {3, 60, 124}
  assert found[60] == -found[3]


def test_what_exceeds_the_paper_is_cut_and_marked():
  signal = beats(20)
  signal[3100:3110] = 8.0
  signal[400:403] = -30.0
  rows = papers(draw(signal))
  low, high = rows[0].get_ylim()
  assert high - low <= ecg_plot.MOST_MILLIVOLT
  marks = [
    np.concatenate([x.get_xdata() for x in row.lines if x.get_color() == 'red'])
    for row in rows
  ]
  np.testing.assert_allclose(marks[0], np.arange(400, 403) / 300)
  np.testing.assert_allclose(marks[1], np.arange(3100, 3110) / 300)


@pytest.mark.parametrize('height', np.arange(0.08, 4, 0.1))
def test_the_paper_holds_a_trace_wherever_it_lies(height):
  for low in np.arange(-1, 1, 0.01):
    below, above = ecg_plot.paper_limits(np.array([low, low + height]))
    assert below <= low + 1e-9
    assert low + height - 1e-9 <= above
    assert above - below <= ecg_plot.MOST_MILLIVOLT


@pytest.mark.parametrize(
  'signal',
  [
    np.zeros(9000),
    np.full(64, 32.767),
    300 + beats(11),
    np.where(np.arange(9000) % 2, 32.767, -32.768),
    1e-4 * beats(10),
  ],
)
def test_any_signal_makes_a_picture(signal):
  figure = draw(signal.astype(np.float32), attribution=np.zeros(150))
  pixels = matplotlib.image.imread(io.BytesIO(figures.encode(figure, dpi=40)))
  assert pixels.shape[0] > 50
  assert pixels.min() < 0.2 < pixels.max() == 1


def test_of_a_long_recording_the_beginning_is_drawn_and_said_to_be():
  figure = draw(beats(600, 50.0), 50.0, attribution=np.ones(3000))
  assert len(papers(figure)) == 12
  texts = [text.get_text() for text in figure.texts]
  assert any('the first 120 s of 600 s' in text for text in texts)


@pytest.mark.parametrize(
  'name', ['心電図 ЭКГ', '$x_{$', 'a\nb\x00\udcff', 'x' * 500, '<&>"']
)
def test_any_name_makes_both_files(name):
  figure = draw(beats(3), name=name, lead=name)
  assert figures.encode(figure, dpi=40).startswith(b'\x89PNG')
  svg = figures.encode(figure, kind='svg')
  text = ''.join(ElementTree.fromstring(svg).itertext())
  shown = ecg_plot._printable(name)
  assert shown in text
  assert len(shown) <= 60
  assert shown == name or not name.isprintable() or len(name) > 60


@pytest.mark.parametrize('count', [2, 9])
def test_any_number_of_classes_is_drawn_above_the_trace(count):
  names = [f'class {k} with quite a long name' for k in range(count)]
  figure = draw(
    beats(5),
    classes=dict(zip(map(str, range(count)), names, strict=True)),
    answer='1',
    probabilities=np.full(count, 1 / count),
  )
  [chances] = [axes for axes in figure.axes if len(axes.get_yticks()) == count]
  shown = [label.get_text() for label in chances.get_yticklabels()]
  assert shown == [f'{name[:23]}…' for name in names]
  [paper] = papers(figure)
  assert chances.get_position().y0 > paper.get_position().y1
  texts = [text.get_text() for text in figure.texts]
  assert '1, class 1 with quite a long name' in texts
  assert any('what speaks for 0 (up)' in text for text in texts)
  plain = draw(beats(5), classes={'a': 'a', 'b': 'b'}, answer='a',
               probabilities=np.array([0.9, 0.1]))  # fmt: skip
  assert 'a' in [text.get_text() for text in plain.texts]


def test_answer_scale_and_probabilities_are_written():
  for answer, said in (('A', 'A, atrial fibrillation'), ('undecided',) * 2):
    figure = draw(beats(5), answer=answer)
    svg = figures.encode(figure, kind='svg')
    assert svg == figures.encode(draw(beats(5), answer=answer), kind='svg')
    text = ''.join(ElementTree.fromstring(svg).itertext())
    for part in (said, 'lead II', '300 Hz', '5.0 s', '25 mm/s, 10 mm/mV'):
      assert part in text
    for percent in ('10 %', '70 %', '15 %', '5 %'):
      assert percent in text


def test_beats_are_marked_above_their_row_and_the_rate_is_written():
  times = np.array([0.4, 9.99, 10.0, 12.4])
  rhythm = ecg_plot.Rhythm(times, 75.4, ['something', 'x' * 200])
  figure = draw(beats(25), rhythm=rhythm)
  marks = [
    [list(x.get_xdata()) for x in row.lines if x.get_marker() == 'v']
    for row in papers(figure)
  ]
  assert marks == [[[0.4, 9.99]], [[10.0, 12.4]], [[]]]
  texts = [text.get_text() for text in figure.texts]
  assert any(', 75 beats/min ' in text for text in texts)
  assert any(text.startswith('something; xxx') for text in texts)
  plain = draw(beats(25))
  assert 'beats/min' not in str([text.get_text() for text in plain.texts])

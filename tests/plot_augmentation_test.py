"""The picture of augmentation shows what training sees."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward
from ecg_jax.runtime import figures
from tools import plot_augmentation

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def make_views(small_config, small_data):
  """Views of a record, with other fields of the augmentation."""

  def make(dataset=small_data.dataset, **fields):
    config = small_config.copy_and_resolve_references()
    config.augmentation.update(fields)
    return plot_augmentation.make_views(dataset, 'S00003', config, 3)

  return make


def signal_of(dataset):
  [index] = dataset.find(['S00003'])
  start = dataset.offsets[index]
  return dataset.signal[start : start + dataset.lengths[index]]


def test_first_view_is_the_record_itself(make_views, small_data):
  views = make_views()
  assert len(views) == 4
  signal = signal_of(small_data.dataset)
  np.testing.assert_array_equal(views[0].signal, signal)
  assert not views[0].dropped.any()
  assert views[0].heart_rate == 80


def test_augmented_views_are_what_the_forward_pass_makes(
  small_config, make_views
):
  """The model in training is given the spectrograms that are drawn."""
  views, model = make_views(), Recorder()
  network = experiment.make_network(small_config, CHALLENGE)
  network = dataclasses.replace(network, model=model)
  lengths = np.array([len(view.signal) for view in views], np.int32)
  forward.train_logits(
    network,
    {},
    Batch(
      signal=np.tile(views[0].signal.astype(np.int16), (4, 1)),
      signal_lengths=np.full(4, lengths[0]),
      lengths=lengths,
      mask=np.ones(4, bool),
      labels=np.zeros(4, np.int32),
      weights=np.zeros(4, np.float32),
    ),
    jax.random.key(small_config.seed),
    samples=int(lengths.max()),
    kind='all',
  )
  features, frames = model.given
  for row, view in enumerate(views[1:], 1):
    np.testing.assert_allclose(
      view.spectrogram, features[row, : frames[row]], atol=1e-5
    )


class Recorder:
  """A model that keeps what it is given."""

  def apply(self, variables, features, frames, **options):
    del variables, options
    self.given = np.asarray(features), np.asarray(frames)
    return np.zeros((len(frames), 4)), {'batch_stats': {}}


def test_record_is_whole_where_resampling_only_squeezes(make_views, small_data):
  views = make_views(slowest_heart_rate=110.0, fastest_heart_rate=120.0)
  assert len(views[0].signal) == len(signal_of(small_data.dataset))
  for view in views[1:]:
    assert 109 < view.heart_rate < 121


def test_dropped_samples_are_zero_and_heart_rates_are_in_range(make_views):
  views = make_views()
  for view in views[1:]:
    assert view.dropped.any()
    assert not view.signal[view.dropped].any()
    assert 59 < view.heart_rate < 121
  assert len({view.heart_rate for view in views[1:]}) == 3
  views = make_views(bursts=False, resampling=False)
  for view in views:
    assert not view.dropped.any()
    np.testing.assert_array_equal(view.signal, views[0].signal)


def test_bursts_are_shown_whole_where_the_record_is_zero_itself(
  make_views, small_data
):
  dataset = small_data.dataset
  flat = dataclasses.replace(dataset, signal=np.zeros_like(dataset.signal))
  for view, flat_view in zip(make_views(), make_views(flat), strict=True):
    np.testing.assert_array_equal(view.dropped, flat_view.dropped)


@pytest.mark.parametrize(
  ('fields', 'highest', 'unit'),
  [
    ({}, 32, '((1/1000 mV)² / Hz)'),
    ({'kept_bins': 20}, 19, '((1/1000 mV)² / Hz)'),
    ({'normalise': 'record'}, 32, '((deviation / 200)² / Hz)'),
  ],
)
def test_axes_of_the_spectrogram_are_true(
  small_config, small_data, monkeypatch, fields, highest, unit
):
  """The middle of the highest row is the frequency of the highest bin."""
  config = small_config.copy_and_resolve_references()
  config.spectrogram.update(fields)
  views = plot_augmentation.make_views(small_data.dataset, 'S00003', config, 1)
  spectrogram = experiment.make_network(config, CHALLENGE).spectrogram
  monkeypatch.setattr(figures, 'encode', lambda figure, dpi: figure)
  figure = plot_augmentation.plot_views(views, 'title', spectrogram, 1, 1000.0)
  panels = [axes for axes in figure.axes if axes.images]
  assert len(panels) == 2
  for panel in panels:
    [image] = panel.images
    bottom, top = image.get_extent()[2:]
    rows = image.get_array().shape[0]
    assert rows == highest + 1
    half = (top - bottom) / rows / 2
    assert bottom + half == pytest.approx(0, abs=1e-9)
    assert top - half == pytest.approx(highest * 300 / 64)
  labels = [axes.get_ylabel() for axes in figure.axes]
  assert f'natural log of power {unit}' in labels


def test_samples_on_the_disk_are_drawn_as_those_in_memory(
  make_views, stored_dataset
):
  """As with `data.placement` host; of a random part of the record, too."""
  views = make_views(max_samples=300)
  others = make_views(stored_dataset, max_samples=300)
  for view, other in zip(views, others, strict=True):
    np.testing.assert_array_equal(view.signal, other.signal)
    np.testing.assert_array_equal(view.spectrogram, other.spectrogram)


@pytest.fixture
def call(monkeypatch, small_data):
  """Runs the command on these data, or on others."""
  monkeypatch.chdir(ROOT)

  def run(*arguments, data=small_data):
    monkeypatch.setattr(experiment, 'load_data', lambda configs: [data])
    given = ['main', '--config', 'configs/quickstart.py']
    return plot_augmentation.main([*given, *arguments])

  return run


def test_command_writes_the_picture(call, tmp_path, capsys):
  out = tmp_path / 'picture.png'
  assert call(f'--out={out}', '--seconds=2') == 0
  assert capsys.readouterr().out == f'{out}\n'
  assert out.read_bytes().startswith(b'\x89PNG')
  for refused in '/proc/none/picture.png', tmp_path:
    assert call(f'--out={refused}') == 2
    message = capsys.readouterr().err
    assert '--out' in message
    assert message.count('\n') == 1


def test_record_of_the_command(call, small_data, tmp_path, monkeypatch, capsys):
  """By default the first in atrial fibrillation; the title says which part."""
  titles = []

  def plot_views(views, title, *rest):
    titles.append(title)
    return b''

  monkeypatch.setattr(plot_augmentation, 'plot_views', plot_views)
  out = f'--out={tmp_path / "picture.png"}'
  labels = small_data.dataset.labels('v3')
  first = next(name for name, label in labels.items() if label == 'A')
  assert call(out, '--seconds=1') == 0
  assert call(out, '--record=S00003', '--seconds=99') == 0
  assert titles[0].startswith(f'Record {first} (class A), the first 1 s of its')
  assert titles[1].startswith('Record S00003')
  assert ', all of its' in titles[1]
  capsys.readouterr()
  assert call(out, '--record=A1') == 2
  assert "no record 'A1': name one from S00001" in capsys.readouterr().err
  classes = {'v3': np.zeros(60, np.int32)}
  dataset = dataclasses.replace(small_data.dataset, classes=classes)
  healthy = dataclasses.replace(small_data, dataset=dataset)
  assert call(out, data=healthy) == 2
  assert 'no record of class A' in capsys.readouterr().err

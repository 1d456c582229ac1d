"""The picture of augmentation shows what training sees."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward
from ecg_jax.runtime import figures
from tools import plot_augmentation

ROOT = pathlib.Path(__file__).parents[1]


def make_views(small_config, small_data, record='S00003', **fields):
  config = small_config.copy_and_resolve_references()
  with config.unlocked():
    config.augmentation.update(fields)
  return config, plot_augmentation.make_views(
    small_data.dataset, record, config, 3
  )


def test_first_view_is_the_record_itself(small_config, small_data):
  _, views = make_views(small_config, small_data)
  assert len(views) == 4
  dataset = small_data.dataset
  [index] = dataset.find(['S00003'])
  start, length = dataset.offsets[index], dataset.lengths[index]
  signal = dataset.signal[start : start + length]
  np.testing.assert_array_equal(views[0].signal, signal)
  assert not views[0].dropped.any()
  assert views[0].heart_rate == 80


def test_augmented_views_are_what_the_forward_pass_makes(
  small_config, small_data
):
  """The model in training is given the spectrograms that are drawn."""
  config, views = make_views(small_config, small_data)
  model = Recorder()
  network = dataclasses.replace(experiment.make_network(config), model=model)
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
    jax.random.key(config.seed),
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


def test_record_is_whole_where_resampling_only_squeezes(
  small_config, small_data
):
  _, views = make_views(
    small_config, small_data, slowest_heart_rate=110.0, fastest_heart_rate=120.0
  )
  [index] = small_data.dataset.find(['S00003'])
  assert len(views[0].signal) == small_data.dataset.lengths[index]
  for view in views[1:]:
    assert 109 < view.heart_rate < 121


def test_dropped_samples_are_zero_and_heart_rates_are_in_range(
  small_config, small_data
):
  _, views = make_views(small_config, small_data)
  for view in views[1:]:
    assert view.dropped.any()
    assert not view.signal[view.dropped].any()
    assert 59 < view.heart_rate < 121
  assert len({view.heart_rate for view in views[1:]}) == 3
  _, views = make_views(
    small_config, small_data, bursts=False, resampling=False
  )
  for view in views:
    assert not view.dropped.any()
    np.testing.assert_array_equal(view.signal, views[0].signal)


def test_bursts_are_shown_whole_where_the_record_is_zero_itself(
  small_config, small_data
):
  _, views = make_views(small_config, small_data)
  dataset = small_data.dataset
  flat = dataclasses.replace(dataset, signal=np.zeros_like(dataset.signal))
  flat_data = dataclasses.replace(small_data, dataset=flat)
  _, flat_views = make_views(small_config, flat_data)
  for view, flat_view in zip(views, flat_views, strict=True):
    np.testing.assert_array_equal(view.dropped, flat_view.dropped)


@pytest.mark.parametrize(
  ('fields', 'highest', 'unit'),
  [
    ({}, 32, '(counts² / Hz)'),
    ({'kept_bins': 20}, 19, '(counts² / Hz)'),
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
  spectrogram = experiment.make_network(config).spectrogram
  monkeypatch.setattr(figures, 'encode', lambda figure, dpi: figure)
  figure = plot_augmentation.plot_views(views, 'title', spectrogram, 1)
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
  small_config, small_data, stored_dataset
):
  """As with `data.placement` host; of a random part of the record, too."""
  stored = dataclasses.replace(small_data, dataset=stored_dataset)
  views, others = (
    make_views(small_config, data, max_samples=300)[1]
    for data in (small_data, stored)
  )
  for view, other in zip(views, others, strict=True):
    np.testing.assert_array_equal(view.signal, other.signal)
    np.testing.assert_array_equal(view.spectrogram, other.spectrogram)


def test_unknown_record_is_refused(small_config, small_data):
  with pytest.raises(InputError, match="no record 'A1': name one from S00001"):
    make_views(small_config, small_data, record='A1')


def test_command_writes_the_picture(
  small_config, small_data, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [small_data])
  out = tmp_path / 'picture.png'
  given = ['main', '--config', 'configs/quickstart.py']
  assert plot_augmentation.main([*given, f'--out={out}', '--seconds=2']) == 0
  assert capsys.readouterr().out == f'{out}\n'
  assert out.read_bytes().startswith(b'\x89PNG')
  for refused in '/proc/none/picture.png', tmp_path:
    assert plot_augmentation.main([*given, f'--out={refused}']) == 2
    message = capsys.readouterr().err
    assert '--out' in message
    assert message.count('\n') == 1


def test_record_of_the_command(small_data, tmp_path, monkeypatch, capsys):
  """By default the first in atrial fibrillation; the title says which part."""
  monkeypatch.chdir(ROOT)
  titles = []

  def plot_views(views, title, *rest):
    titles.append(title)
    return b''

  monkeypatch.setattr(plot_augmentation, 'plot_views', plot_views)
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [small_data])
  given = ['main', '--config', 'configs/quickstart.py']
  given += ['--out', str(tmp_path / 'picture.png')]
  labels = small_data.dataset.labels('v3')
  first = next(name for name, label in labels.items() if label == 'A')
  assert plot_augmentation.main([*given, '--seconds=1']) == 0
  assert (
    plot_augmentation.main([*given, '--record=S00003', '--seconds=99']) == 0
  )
  assert titles[0].startswith(f'Record {first} (class A), the first 1 s of its')
  assert titles[1].startswith('Record S00003')
  assert ', all of its' in titles[1]
  capsys.readouterr()
  assert plot_augmentation.main([*given, '--record=A1']) == 2
  assert "no record 'A1'" in capsys.readouterr().err
  classes = {'v3': np.zeros(60, np.int32)}
  dataset = dataclasses.replace(small_data.dataset, classes=classes)
  healthy = dataclasses.replace(small_data, dataset=dataset)
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [healthy])
  assert plot_augmentation.main(given) == 2
  assert 'no record in atrial fibrillation' in capsys.readouterr().err

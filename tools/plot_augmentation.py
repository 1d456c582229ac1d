"""Draws a record, its log-spectrogram, and random augmentations of both.

    python tools/plot_augmentation.py --config configs/crnn.py --record A00216
      [--config.FIELD VALUE] [--augmentations 3] [--seconds 6] [--out FILE.png]

The functions are those of training: the sampler draws the heart rates,
`ecg_jax.models.forward` resamples, drops bursts and computes the features.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import _path  # noqa: F401 - makes ecg_jax importable
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from ecg_jax import cli, configuration, experiment
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline import heart_rate, sampler
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import forward, preprocessing
from ecg_jax.runtime import figures, files


class View(NamedTuple):
  """A record as the model receives it."""

  signal: np.ndarray
  """float32 [samples], counts."""
  dropped: np.ndarray
  """bool [samples], True where a burst set the signal to zero."""
  spectrogram: np.ndarray
  """float32 [frames, bins], log of the power in counts^2 / Hz, of the signal
  as `spectrogram.normalise` scales it."""
  heart_rate: float
  """Beats per minute that 80 bpm became."""


def make_views(
  dataset: Dataset,
  record: str,
  config: ml_collections.ConfigDict,
  augmentations: int,
) -> list[View]:
  """The record as recorded, then with `augmentations` random augmentations.

  The bursts are those of a training step with the key of the config's seed and
  a batch of these views, the record itself first.

  Raises:
    InputError: The dataset has no such record.
  """
  if record not in dataset.records:
    raise InputError(
      f'There is no record {record!r}: name one from {dataset.records[0]} to'
      f' {dataset.records[-1]} with --record.'
    )
  [index] = dataset.find([record])
  start, own = dataset.offsets[index], dataset.lengths[index]
  resampling = experiment.make_resampling(config)
  longest = own
  if resampling is not None:
    longest = max(own, int(resampling.lengths(own, resampling.slowest)))
  draws = sampler.Sampler(
    lengths=np.array([own]),
    sets={'train': np.zeros(augmentations, np.int32)},
    key=(config.seed, 0),
    repeats=None,
    max_samples=experiment.max_samples(config, dataset.spec),
    resampling=resampling,
    shortest=experiment.make_spectrogram(config, dataset.spec).window_samples,
    training_buckets=1,
    evaluation_buckets=1,
    batch_size=augmentations,
    evaluation_batch_size=1,
    chunk_steps=1,
  )
  [chunk] = draws.training_chunks(phase=0, epoch=1)
  rows = 1 + augmentations
  used = np.array([own, *chunk.signal_lengths[0]], np.int32)
  signal = np.zeros((rows, own), np.int16)
  for row, first in enumerate([0, *chunk.starts[0]]):
    begin = start + first
    part = dataset.signal[begin : begin + used[row]]
    signal[row, : len(part)] = part
  batch = Batch(
    signal=jnp.asarray(signal),
    signal_lengths=jnp.asarray(used),
    lengths=jnp.array([own, *chunk.lengths[0]], jnp.int32),
    mask=jnp.ones(rows, bool),
    labels=jnp.zeros(rows, jnp.int32),
    weights=jnp.zeros(rows),
  )
  network = experiment.make_network(config, dataset.spec)
  key, _ = jax.random.split(jax.random.key(config.seed))  # as train_logits
  signals, lengths = forward.augment(network, batch, key, samples=longest)
  whole = batch.signal[0].astype(signals.dtype)
  signals = signals.at[0, :own].set(whole)
  spectrograms, frames = forward.features_of(network, signals, lengths)
  # A recorded sample may be zero anyway; a one is zero in a burst only.
  ones = batch._replace(signal=jnp.ones_like(batch.signal))
  unburst, _ = forward.augment(network, ones, key, samples=longest)
  dropped = (unburst == 0).at[0].set(False)
  return [
    View(
      signal=np.asarray(signals[row, :samples]),
      dropped=np.asarray(dropped[row, :samples]),
      spectrogram=np.asarray(spectrograms[row, : frames[row]]),
      heart_rate=heart_rate.HEART_RATE * used[row] / samples,
    )
    for row, samples in enumerate(map(int, lengths))
  ]


def plot_views(
  views: Sequence[View],
  title: str,
  spectrogram: preprocessing.Spectrogram,
  seconds: float,
  counts_per_millivolt: float,
) -> bytes:
  """Draws the first seconds of the record in each view, a row per view.

  Args:
    views: Result of `make_views`.
    title: Title of the picture.
    spectrogram: Settings of the views' spectrograms.
    seconds: Seconds of the record to draw; a view is stretched by its heart
      rate.
    counts_per_millivolt: Unit of the views' signals.

  Returns:
    A PNG file.
  """
  sampling_rate = spectrogram.sampling_rate
  hop = spectrogram.hop_samples / sampling_rate
  half_window = spectrogram.window_samples / sampling_rate / 2
  half_bin = sampling_rate / spectrogram.window_samples / 2
  ratios = [heart_rate.HEART_RATE / view.heart_rate for view in views]
  shown = [round(seconds * ratio * sampling_rate) for ratio in ratios]
  powers = [
    view.spectrogram[: max(1, preprocessing.num_frames(samples, spectrogram))]
    for view, samples in zip(views, shown, strict=True)
  ]
  # A few extreme values must not take the whole scale.
  low, high = np.percentile(np.concatenate(powers), [1, 99.5])
  figure = Figure(figsize=(14, 0.8 + 1.8 * len(views)), layout='constrained')
  figure.suptitle(title)
  panels = figure.subplots(
    len(views), 2, sharex=True, sharey='col', squeeze=False
  )
  for row, (view, ratio, samples, power) in enumerate(
    zip(views, ratios, shown, powers, strict=True)
  ):
    left, right = panels[row]
    trace = view.signal[:samples] / counts_per_millivolt
    dropped = view.dropped[:samples]
    time = np.arange(len(trace)) / sampling_rate
    marks = {'color': '#0072b2', 'linestyle': '--', 'linewidth': 1}
    for second in range(int(seconds) + 1):
      label = None if second else "the record's own seconds"
      left.axvline(second * ratio, label=label, **marks)
    left.fill_between(
      time,
      0,
      1,
      where=dropped,
      transform=left.get_xaxis_transform(),
      color='#e69f00',
      alpha=0.5,
      linewidth=0,
      label='set to zero by a burst',
    )
    left.plot(time, trace, color='black', linewidth=0.8)
    left.set_ylabel('mV')
    name = f'as {view.heart_rate:.0f} bpm of {heart_rate.HEART_RATE:.0f}'
    left.set_title(name if row else 'as recorded', loc='left', fontsize=11)
    image = right.imshow(
      power.T,
      origin='lower',
      aspect='auto',
      cmap='cividis',
      vmin=low,
      vmax=high,
      interpolation='nearest',
      extent=(
        half_window - hop / 2,
        half_window + (len(power) - 0.5) * hop,
        -half_bin,
        (2 * spectrogram.bins - 1) * half_bin,
      ),
    )
    right.set_ylabel('Hz')
    for panel in (left, right):
      panel.spines[['top', 'right']].set_visible(False)
  for panel in panels[-1]:
    panel.set_xlabel('seconds')
    panel.set_xlim(0, seconds * max(ratios))
  panels[0, 1].set_title('log-spectrogram', loc='left', fontsize=11)
  panels[0, 0].legend(
    loc='lower right',
    bbox_to_anchor=(1, 1),
    ncols=2,
    frameon=False,
    borderpad=0,
  )
  unit = '(1/1000 mV)²'
  if spectrogram.normalise == 'record':
    unit = f'(deviation / {preprocessing.NORMALISED_DEVIATION:g})²'
  figure.colorbar(
    image,
    ax=list(panels[:, 1]),
    label=f'natural log of power ({unit} / Hz)',
    pad=0.01,
    aspect=45,
  )
  return figures.encode(figure, dpi=100)


@cli.command()
def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  values = configuration.define_flags()
  flags.DEFINE_string(
    'record',
    None,
    "name of the record; default: the dataset's first of its episode class",
    flag_values=values,
  )
  flags.DEFINE_string(
    'out', 'augmentation.png', 'PNG file to write', flag_values=values
  )
  flags.DEFINE_integer(
    'augmentations', 3, 'number of views', lower_bound=1, flag_values=values
  )
  flags.DEFINE_float(
    'seconds',
    6,
    'seconds of the record to draw',
    lower_bound=1,
    flag_values=values,
  )
  config = configuration.parse(values, argv)
  out = pathlib.Path(values.out).expanduser()
  files.check_writable(out.parent, '--out')
  if out.is_dir():
    raise InputError(f'--out {out} is a folder: name a file.')
  [data] = experiment.load_data([config])
  labels = data.dataset.labels(config.label_version)
  record = values.record
  if record is None:
    wanted = data.dataset.spec.episode_class
    usable = [name for name in labels if wanted in (None, labels[name])]
    if not usable:
      raise InputError(
        f'The dataset has no record of class {wanted}: name one of another'
        ' class with --record.'
      )
    record = usable[0]
  views = make_views(data.dataset, record, config, values.augmentations)
  spectrogram = experiment.make_spectrogram(config, data.dataset.spec)
  duration = len(views[0].signal) / spectrogram.sampling_rate
  seconds = min(values.seconds, duration)
  part = 'all' if seconds == duration else f'the first {seconds:g} s'
  title = (
    f'Record {record} (class {labels[record]}), {part} of its {duration:.3g} s,'
    ' as recorded and with the random augmentation of training'
  )
  unit = data.dataset.spec.counts_per_millivolt
  picture = plot_views(views, title, spectrogram, seconds, unit)
  files.write_atomically(out, picture)
  print(out)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))

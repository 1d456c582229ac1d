"""Draws a record, its log-spectrogram, and random augmentations of both.

    python tools/plot_augmentation.py --config configs/crnn.py --record A00004
      [--config.FIELD VALUE] [--augmentations 3] [--seconds 10] [--out FILE.png]

What is drawn comes from the functions that training uses: the sampler draws the
heart rates, `ecg_jax.forward` resamples, drops bursts and makes the features.
"""

import dataclasses
import io
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from absl import flags
from matplotlib.figure import Figure

# So that the package is found without an installation, from any folder.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ecg_jax import (
  artifacts,
  configuration,
  errors,
  experiment,
  forward,
  input_pipeline,
  sampler,
  sharding,
  summary,
)
from ecg_jax.errors import InputError
from ecg_jax.preprocessing import num_frames


class View(NamedTuple):
  """A record as the model is given it."""

  signal: np.ndarray
  """float32 [samples], counts of 1/1000 mV."""
  dropped: np.ndarray
  """bool [samples], set to zero by a burst."""
  spectrogram: np.ndarray
  """float32 [frames, bins], log of the power in counts^2 / Hz."""
  heart_rate: float
  """Beats per minute that 80 became."""


def make_views(
  dataset: input_pipeline.Dataset,
  record: str,
  config: ml_collections.ConfigDict,
  augmentations: int,
) -> list[View]:
  """The record itself, then as so many draws of training see it.

  Raises:
    InputError: There is no such record.
  """
  if record not in dataset.records:
    raise InputError(
      f'There is no record {record!r}: name one from {dataset.records[0]} to'
      f' {dataset.records[-1]} with --record.'
    )
  index = dataset.find([record])
  length = dataset.lengths[index]
  resampling = experiment.make_resampling(config)
  network = experiment.make_network(config)
  longest = int(length[0])
  if resampling is not None:
    longest = int(resampling.lengths(length, resampling.slowest)[0])
  [chunk] = sampler.training_chunks(
    key=(config.seed, 0, 0, 1),
    records=np.repeat(index, augmentations),
    lengths=np.repeat(length, augmentations),
    repeats=None,
    resampling=resampling,
    shortest=config.spectrogram.window_samples,
    bounds=(longest,),
    batch_size=augmentations,
    chunk_steps=1,
  )
  mesh = sharding.make_mesh(jax.local_devices()[:1])
  data = input_pipeline.put_dataset(dataset, config.label_version, mesh)
  arrays, _ = input_pipeline.put_chunk(chunk, mesh)
  batch = input_pipeline.take_batch(data, arrays, 0, int(length[0]))
  own = batch._replace(lengths=batch.signal_lengths)
  key = jax.random.key(config.seed)
  still = dataclasses.replace(network, bursts=None)
  whole, drawn, undropped = (
    forward.augment(which, rows, key, samples=longest)
    for which, rows in ((still, own), (network, batch), (still, batch))
  )
  # All rows of `whole` are the record itself.
  views = []
  for row in range(-1, augmentations):
    signals, lengths = whole if row < 0 else drawn
    spectrograms, frames = forward.features_of(network, signals, lengths)
    samples = int(lengths[row])
    views.append(
      View(
        signal=np.asarray(signals[row, :samples]),
        dropped=np.asarray(signals != undropped[0])[row, :samples]
        if row >= 0
        else np.zeros(samples, bool),
        spectrogram=np.asarray(spectrograms[row, : frames[row]]),
        heart_rate=sampler.HEART_RATE * int(length[0]) / samples,
      )
    )
  return views


def plot_views(
  views: Sequence[View],
  title: str,
  config: ml_collections.ConfigDict,
  seconds: float,
) -> bytes:
  """Draws the first seconds of each view, trace above spectrogram.

  Returns:
    A PNG file.
  """
  spectrogram = experiment.make_network(config).spectrogram
  sampling_rate = spectrogram.sampling_rate
  shown = int(seconds * sampling_rate)
  frames = max(1, num_frames(shown, spectrogram))
  traces = [view.signal[:shown] / 1000 for view in views]
  powers = [view.spectrogram[:frames] for view in views]
  # Few extreme values must not take the whole scale.
  low, high = np.percentile(np.concatenate(powers), [1, 99.5])
  figure = Figure(figsize=(3.4 * len(views), 5.2), layout='constrained')
  figure.suptitle(title)
  panels = figure.subplots(2, len(views), sharex=True, sharey='row')
  for column, (view, trace, power) in enumerate(
    zip(views, traces, powers, strict=True)
  ):
    upper, lower = panels[:, column]
    time = np.arange(len(trace)) / sampling_rate
    upper.plot(time, trace, color='black', linewidth=0.6)
    zeroed = np.where(view.dropped[:shown], 0.0, np.nan)
    upper.plot(time, zeroed, color='#d55e00', linewidth=2.5)
    upper.set_title(
      f'80 bpm become {view.heart_rate:.0f}' if column else 'as recorded',
      fontsize=11,
    )
    upper.grid(alpha=0.25)
    hop = spectrogram.hop_samples / sampling_rate
    first = spectrogram.window_samples / sampling_rate / 2
    half_bin = sampling_rate / spectrogram.window_samples / 2
    lower.imshow(
      power.T,
      origin='lower',
      aspect='auto',
      cmap='cividis',
      vmin=low,
      vmax=high,
      interpolation='nearest',
      extent=(
        first - hop / 2,
        first + (len(power) - 0.5) * hop,
        -half_bin,
        sampling_rate / 2 + half_bin,
      ),
    )
    lower.set_xlabel('seconds')
    lower.set_xlim(0, seconds)
    for panel in (upper, lower):
      panel.spines[['top', 'right']].set_visible(False)
  panels[0, 0].set_ylabel('mV (orange: dropped)')
  panels[1, 0].set_ylabel('Hz')
  figure.colorbar(
    panels[1, 0].images[0],
    ax=list(panels[1]),
    label='log power (counts² / Hz)',
    pad=0.01,
  )
  content = io.BytesIO()
  figure.savefig(content, format='png', dpi=100)
  return content.getvalue()


def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  values = configuration.define_flags()
  flags.DEFINE_string(
    'record',
    None,
    "name of the record; default: the dataset's first in atrial fibrillation",
    flag_values=values,
  )
  flags.DEFINE_string(
    'out', 'augmentation.png', 'file for the picture', flag_values=values
  )
  flags.DEFINE_integer(
    'augmentations', 3, 'how many', lower_bound=1, flag_values=values
  )
  flags.DEFINE_float(
    'seconds', 10, 'how much to draw', lower_bound=1, flag_values=values
  )
  debug = '--debug' in argv
  return errors.run_command(lambda: _run(values, argv), debug=debug)


def _run(values: flags.FlagValues, argv: Sequence[str]) -> int:
  config = configuration.parse(values, argv)
  out = pathlib.Path(values.out).expanduser()
  artifacts.check_writable(out.parent, '--out')
  [data] = experiment.load_data([config])
  labels = data.dataset.labels(config.label_version)
  record = values.record
  if record is None:
    record = next(name for name, label in labels.items() if label == 'A')
  views = make_views(data.dataset, record, config, values.augmentations)
  title = (
    f'Record {record} ({labels[record]}), its first {values.seconds:g} s as'
    f' recorded and as {values.augmentations} steps of training see it'
  )
  summary.write_atomically(
    out, plot_views(views, title, config, values.seconds)
  )
  print(out)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))

"""Exports a run's finished folds as programs that need neither it nor ecg_jax.

`ecg_jax.export` lists the files. B: batch, N: samples.
"""

import io
import os
import pathlib
import tempfile
from collections.abc import Callable
from importlib.resources.abc import Traversable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration
from ecg_jax.models import forward
from ecg_jax.models.variables import by_path
from ecg_jax.prediction import ensemble
from ecg_jax.prediction import model_card as card
from ecg_jax.prediction.ensemble import Ensemble
from ecg_jax.runtime import files as files_lib
from ecg_jax.runtime import sharding

Predict = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""Weights of all folds, signal, lengths -> probabilities."""

PLATFORMS = ('cpu', 'cuda')


def export(run_folder: Traversable, out: pathlib.Path) -> None:
  """Writes the folder, completely or not at all.

  Args:
    run_folder: The run, as `released.open_run` takes it.
    out: A folder that does not exist yet.

  Raises:
    InputError: The run cannot be loaded, or the folder cannot be written.
  """
  if out.exists():
    raise InputError(
      f'{out} exists already: delete it, or name another folder with --out.'
    )
  files_lib.check_writable(out.parent, '--out')
  model = ensemble.load(run_folder)
  temperature = calibration.read(model.run_folder, model.folds)
  weights: dict[str, Any] = stacked_weights(model)
  archive = io.BytesIO()
  np.savez(archive, **weights)
  built = programs(model, temperature)
  files = {f'{name}.bin': program for name, program in built.items()}
  files['MODEL_CARD.md'] = model_card(model, temperature).encode()
  files['weights.npz'] = archive.getvalue()
  out.parent.mkdir(parents=True, exist_ok=True)
  try:
    with tempfile.TemporaryDirectory(
      dir=out.parent, prefix=f'.{out.name}.', suffix='.tmp'
    ) as temporary:
      whole = pathlib.Path(temporary) / 'model'
      whole.mkdir()
      for name, content in files.items():
        (whole / name).write_bytes(content)
      os.rename(whole, out)
  except OSError as error:
    raise InputError(
      f'{out} cannot be written ({error.strerror}): free some space, or name'
      ' another folder with --out.'
    ) from error


def stacked_weights(model: Ensemble) -> dict[str, np.ndarray]:
  """Path -> [folds, ...], each array of all folds."""
  variables = sharding.fetch(model.variables)
  return by_path(jax.tree.map(lambda *arrays: np.stack(arrays), *variables))


def programs(model: Ensemble, temperature: float) -> dict[str, bytes]:
  """Name -> program for any batch and length, serialized by `jax.export`.

  Each takes the weights of `stacked_weights`, a signal [B, N] (int16 counts, or
  float32 mV) with N at least the spectrogram's window, and lengths, int32 [B],
  and returns probabilities, float32 [B, C].
  """
  predict_padded = make_predict(model, temperature)
  counts_per_millivolt = model.spec.counts_per_millivolt
  spectrogram = model.network.spectrogram
  size, hop = spectrogram.window_samples, spectrogram.hop_samples
  # At least two frames, so that there are provably more than one.
  halvings = max(1, model.network.model.config.halvings)
  unit, before = hop * 2**halvings, size - hop

  def predict(weights, signal_BxN, lengths):
    # Padded so that frames halve evenly. Otherwise shapes would need rounding,
    # about which nothing can be proved for an unknown length.
    samples = signal_BxN.shape[1]
    whole = -(-(samples - before) // unit) * unit + before
    padded = jnp.pad(signal_BxN, ((0, 0), (0, whole - samples)))
    return predict_padded(weights, padded, lengths)

  def predict_millivolt(weights, signal, lengths):
    limits = jnp.iinfo(jnp.int16)
    counts = jnp.round(signal * counts_per_millivolt)
    counts = jnp.clip(counts, limits.min, limits.max)
    return predict(weights, counts.astype(jnp.int16), lengths)

  least = f'samples >= {size}'
  batch, samples = jax.export.symbolic_shape(
    'batch, samples', constraints=[least]
  )
  weights = jax.eval_shape(lambda: stacked_weights(model))
  lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
  return {
    name: bytes(
      jax.export.export(jax.jit(function), platforms=PLATFORMS)(
        weights, jax.ShapeDtypeStruct((batch, samples), dtype), lengths
      ).serialize()
    )
    for name, function, dtype in (
      ('predict_int16', predict, jnp.int16),
      ('predict_millivolt', predict_millivolt, jnp.float32),
    )
  }


def make_predict(model: Ensemble, temperature: float) -> Predict:
  """A function from int16 signals to the mean of the folds' probabilities."""
  network = model.network
  structure = jax.tree.structure(model.variables[0])
  paths = list(by_path(model.variables[0]))

  def predict(weights, signal, lengths):
    batch = ensemble.unlabeled_batch(signal, lengths)
    beats = None
    if model.has_trees:  # The same for all folds.
      beats = forward.beat_features_of(network, batch)

    def of_fold(arrays):
      leaves = [arrays[path] for path in paths]
      variables = jax.tree.unflatten(structure, leaves)
      logits = forward.evaluate_logits(
        network, variables, batch, kind='all', beats=beats
      )
      return jax.nn.softmax(logits / temperature)

    return jnp.mean(jax.lax.map(of_fold, weights), axis=0)

  return predict


def model_card(model: Ensemble, temperature: float) -> str:
  """The content of MODEL_CARD.md."""
  spec = model.spec
  return card.write(
    model,
    temperature,
    'programs',
    {
      'rate': spec.sampling_rate,
      'unit': f'1/{spec.counts_per_millivolt:g} mV',
      'shortest': model.network.spectrogram.window_samples,
      'platforms': ' and '.join(PLATFORMS),
      'jax': jax.__version__,
    },
  )

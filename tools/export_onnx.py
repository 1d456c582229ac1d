"""Writes a run's finished folds as one ONNX file.

    pip install --no-deps -r tools/onnx_requirements.txt
    python tools/export_onnx.py RUN_FOLDER --out MODEL.onnx

The model classifies one recording at a time, as long as the longest it was
trained on (of the PhysioNet/CinC Challenge 2017: 61 s, 18,286 samples) or
shorter: `signal`, int16 [1, samples], with any padding; `length`, int32 [1],
its samples; `probabilities`, float32 [1, C]. The file's properties state the
classes in their order, the sampling rate and the unit. The shape is fixed,
since jax2onnx cannot convert this network with a dynamic one; `python -m
ecg_jax.export` writes programs of any shape. The file is written only if its
outputs in ONNX Runtime equal those of the folds.
"""

import importlib.util
import logging
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any
from unittest import mock

import _path  # noqa: F401 - makes ecg_jax importable
import numpy as np

from ecg_jax import cli
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration
from ecg_jax.runtime import files

TOLERANCE = 1e-4
"""Largest accepted difference between a probability and the folds' own."""


def export(run_folder: pathlib.Path, out: pathlib.Path) -> float:
  """Writes the file, whole or not at all.

  Args:
    run_folder: The run.
    out: The file, replaced if it exists.

  Returns:
    The largest difference of a probability from the folds' own.

  Raises:
    InputError: A package is missing, the run cannot be loaded, the file not be
      written, or its answers differ by more than TOLERANCE.
  """
  for package in ('jax2onnx', 'onnxruntime'):
    if importlib.util.find_spec(package) is None:
      raise InputError(
        f'{package} is not installed: run pip install --no-deps -r'
        ' tools/onnx_requirements.txt.'
      )
  files.check_writable(out.parent, '--out')
  from ecg_jax.prediction import ensemble  # Imports JAX.

  folds = ensemble.load(run_folder)
  temperature = calibration.read(folds.run_folder, folds.folds)
  content = convert(folds, temperature)
  difference = compare(content, folds, temperature)
  if difference > TOLERANCE:
    raise InputError(
      f'ONNX Runtime answers up to {difference:.1e} off the folds of'
      f' {run_folder}, more than {TOLERANCE:g}: use ecg_jax.export.'
    )
  files.write_atomically(out, content)
  return difference


def convert(folds: Any, temperature: float) -> bytes:
  """Converts an `ensemble.Ensemble` to the bytes of an ONNX file."""
  # They warn of each optional package and of each shape that is unknown.
  for name in ('jax2onnx', 'onnx_ir'):
    logging.getLogger(name).setLevel(logging.ERROR)

  import jax
  import jax2onnx
  import onnx

  from ecg_jax.beats import features
  from ecg_jax.models.kernels import convolution
  from ecg_jax.prediction import exporter
  from ecg_jax.runtime import platforms

  weights = exporter.stacked_weights(folds)
  predict = exporter.make_predict(folds, temperature)
  # ONNX has the convolution, but not a choice by platform, and jax2onnx fails
  # at the loop over recordings, of which there is one.
  with (
    mock.patch.object(platforms, 'platform', return_value='cpu'),
    mock.patch.object(convolution, 'convolve', convolution.plain),
    mock.patch.object(features, 'one_by_one', _first),
    warnings.catch_warnings(action='ignore'),
  ):
    model = jax2onnx.to_onnx(
      lambda signal, length: predict(
        jax.tree.map(jax.numpy.asarray, weights), signal, length
      ),
      inputs=[
        jax.ShapeDtypeStruct((1, folds.longest_samples), np.int16),
        jax.ShapeDtypeStruct((1,), np.int32),
      ],
      model_name='ecg_jax',
      input_names=['signal', 'length'],
      output_names=['probabilities'],
    )
  spec = folds.spec
  onnx.helper.set_model_props(
    model,
    {
      'classes': ','.join(spec.classes),
      'sampling_rate_hz': str(spec.sampling_rate),
      'unit': f'1/{spec.counts_per_millivolt:g} mV',
      'folds': ','.join(map(str, folds.folds)),
      'temperature': repr(temperature),
      'notice': 'not a medical device',
    },
  )
  return bytes(model.SerializeToString())


def _first(function: Any, *arrays: Any) -> Any:
  """What `features.one_by_one` gives of the first row alone."""
  import jax

  found = function(*(rows[0] for rows in arrays))
  return jax.tree.map(lambda value: value[None], found)


def compare(content: bytes, folds: Any, temperature: float) -> float:
  """Largest difference of a probability from the folds' on random signals.

  The signals have the shortest, a usual and the longest length, and amplitudes
  for which the predictions differ.
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # It warns of everything it removes.
  session = onnxruntime.InferenceSession(content, options)
  rng = np.random.default_rng(0)
  shortest = folds.network.spectrogram.window_samples
  differences = []
  half_a_minute = min(30 * folds.spec.sampling_rate, folds.longest_samples)
  for length in (shortest, half_a_minute, folds.longest_samples):
    for deviation in (3, 30, 300):
      window = rng.normal(0, deviation, length).astype(np.int16)
      signal = np.full((1, folds.longest_samples), 12_345, np.int16)
      signal[0, :length] = window
      [outputs] = session.run(
        ['probabilities'],
        {'signal': signal, 'length': np.array([length], np.int32)},
      )
      each = calibration.softmax(folds.logits([window]), temperature)
      differences.append(np.abs(outputs - each.mean(axis=0)).max())
  return float(max(differences))


@cli.command(cli.FREE_MEMORY)
def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  parser = cli.ArgumentParser(
    prog='export_onnx',
    description='Writes the finished folds of a run as one ONNX file.',
  )
  parser.add_argument(
    'run_folder', metavar='RUN_FOLDER', type=cli.path_argument
  )
  parser.add_argument('--out', required=True, type=cli.path_argument)
  options = parser.parse_args(cli.without_run_flag(arguments))
  difference = export(options.run_folder, options.out)
  print(
    f'{options.out} ({options.out.stat().st_size:,} bytes); probabilities'
    f' differ by {difference:.1e} at most.'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

"""An ONNX file predicts as the folds it comes from."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ecg_jax.beats import features
from ecg_jax.datasets.schema import CHALLENGE
from ecg_jax.evaluation import calibration
from ecg_jax.fields.training import TreesFields
from ecg_jax.prediction import ensemble
from ecg_jax.runs import artifacts, trees_file
from ecg_jax.training import boosting
from tests import made_up_run
from tools import export_onnx

# .ci/run installs it.
NEEDS_ONNX = pytest.mark.skipif(
  importlib.util.find_spec('jax2onnx') is None,
  reason='needs pip install --no-deps -r tools/onnx_requirements.txt',
)


@pytest.fixture(scope='module')
def run_with_trees(trees_run, tmp_path_factory):
  """The run with trees, which are fitted to random values of all features."""
  folder = tmp_path_factory.mktemp('all_features') / 'trees'
  fold = shutil.copytree(trees_run, folder) / 'fold1'
  rng = np.random.default_rng(0)
  trees = boosting.fit(
    rng.normal(0, 10, (60, len(features.names()))),
    rng.integers(4, size=60),
    TreesFields(rounds=4, leaves=4, least_leaf_records=2, learning_rate=0.5),
    num_classes=4,
    key=(0,),
  )
  scores = artifacts.read_scores(fold / 'scores.json')
  scores['trees'] = trees_file.write(fold / trees_file.FILE, trees)
  artifacts.write_scores(fold / 'scores.json', scores)
  return folder


@NEEDS_ONNX
@pytest.mark.parametrize('run', ['small_run', 'run_with_trees'])
def test_the_file_answers_as_the_folds_do(run, tmp_path, request):
  """In a process of its own: jax2onnx changes what it imports."""
  run_folder = request.getfixturevalue(run)
  out = tmp_path / 'model.onnx'
  command = [sys.executable, export_onnx.__file__, run_folder, '--out', out]
  with made_up_run.calibrated(run_folder, 1.7):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert not done.stderr
  assert f'{out} (' in done.stdout

  import onnxruntime

  session = onnxruntime.InferenceSession(out.read_bytes())
  props = session.get_modelmeta().custom_metadata_map
  assert (props['folds'], props['temperature']) == ('1', '1.7')
  rng = np.random.default_rng(0)
  window = rng.normal(0, 300, 777).astype(np.int16)
  signal = np.full((1, CHALLENGE.longest_samples), 12_345, np.int16)
  signal[0, :777] = window
  [found] = session.run(
    None, {'signal': signal, 'length': np.array([777], np.int32)}
  )
  logits = ensemble.load(run_folder).logits([window])
  expected = calibration.softmax(logits[0], 1.7)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.fixture
def converted(monkeypatch):
  """No package is needed: the file has the temperature only."""
  monkeypatch.setattr(export_onnx.importlib.util, 'find_spec', lambda _: 1)
  monkeypatch.setattr(export_onnx, 'convert', lambda _, x: str(x).encode())
  monkeypatch.setattr(export_onnx, 'compare', lambda *_: 0.0)


def test_outputs_that_differ_are_not_written(
  small_run, tmp_path, converted, monkeypatch, refusal
):
  monkeypatch.setattr(export_onnx, 'compare', lambda *_: 0.002)
  arguments = [small_run, '--out', tmp_path / 'x.onnx']
  sentence = refusal(export_onnx.main, *arguments)
  assert 'up to 2.0e-03 off the folds' in sentence
  assert not list(tmp_path.iterdir())


def test_a_tilde_stands_for_the_home_folder(
  small_run, tmp_path, converted, monkeypatch
):
  """In the run, whose calibration counts, and in the output."""
  (tmp_path / 'run').symlink_to(small_run)
  monkeypatch.setenv('HOME', str(tmp_path))
  with made_up_run.calibrated(small_run, 1.7):
    assert export_onnx.main(['--run=~/run', '--out=~/model.onnx']) == 0
    assert (tmp_path / 'model.onnx').read_bytes() == b'1.7'
    export_onnx.export(pathlib.Path('~/run'), tmp_path / 'other.onnx')
  assert (tmp_path / 'other.onnx').read_bytes() == b'1.7'


def test_a_missing_package_is_named(small_run, tmp_path, monkeypatch, refusal):
  monkeypatch.setattr(export_onnx.importlib.util, 'find_spec', lambda _: None)
  arguments = [small_run, '--out', tmp_path / 'x.onnx']
  sentence = refusal(export_onnx.main, *arguments)
  assert 'jax2onnx is not installed: run pip' in sentence

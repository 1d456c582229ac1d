"""The files of docs/extending.md, outside the package, go the whole way."""

import csv
import json
import pathlib
import re
import shutil

import jax
import jax.export
import numpy as np
import pytest

from ecg_jax import evaluate, export, main, predict
from ecg_jax.evaluation import score, summary
from ecg_jax.prediction import ensemble
from ecg_jax.runs import artifacts
from ecg_jax.runtime import startup
from tests.helpers import ROOT
from tools import calibrate, summarize

FILES = dict(
  re.findall(
    r'^```python title="(.+?)"\n(.*?)^```',
    (ROOT / 'docs' / 'extending.md').read_text(),
    re.MULTILINE | re.DOTALL,
  )
)
COMMAND = [
  'main',
  *('--config', 'my_config.py', '--config.model.width', '24'),
  '--config.data.data_dir=data',
]


def run_main(*arguments):
  return main.main([*COMMAND, *arguments])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder with the files, in which all of them are trained with at once."""
  folder = tmp_path_factory.mktemp('outside')
  for name, content in FILES.items():
    (folder / name).write_text(content)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(startup, 'enable_compilation_cache', lambda: None)
    first = jax.devices()[:1]
    patch.setattr(jax, 'devices', lambda: first)
    assert run_main() == 0
  return folder


@pytest.fixture(autouse=True)
def inside(trained, monkeypatch):
  monkeypatch.chdir(trained)
  monkeypatch.setattr(startup, 'enable_compilation_cache', lambda: None)


@pytest.fixture
def run(trained):
  return trained / 'runs' / 'my_config'


@pytest.fixture
def spec(run):
  return artifacts.read_spec(run)


def read_config(run):
  return json.loads((run / 'config.json').read_text())


def read_rows(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def write_recording(path, *, pulses_per_minute, sampling_rate=500):
  """Twelve seconds in mV, at another rate than the dataset's."""
  millivolt = np.random.default_rng(0).normal(0, 0.02, 12 * sampling_rate)
  period = 60 / pulses_per_minute
  phase = np.arange(len(millivolt)) / sampling_rate % period - period / 2
  millivolt += np.exp(-0.5 * (phase / 0.02) ** 2)
  path.write_text('\n'.join(f'{value:.4f}' for value in millivolt))
  return path


# A model


def test_model_has_its_fields_and_its_file_in_the_run(run, trained):
  content = read_config(run)
  model = content['config']['model']
  assert model['name'] == f'{trained}/my_model.py:MyModel'
  assert model['width'] == 24
  assert content['config']['dropout'] == {'hidden': 0.1}
  sources = content['digests']['sources']
  names = {
    pathlib.Path(name).name for name in {**sources, **content['metric_sources']}
  }
  assert names == {
    *(
      'my_model.py:MyModel',
      'my_dataset.py:MyDataset',
      'my_loss.py:focal_loss',
    ),
    *('my_augmentation.py:flip', 'my_metric.py:surprise'),
    'my_metric.py:balanced_accuracy',
  }
  variables = ensemble.load(run).variables[0]
  assert variables['params']['hidden']['kernel'].shape[1] == 24
  assert variables['params']['output']['kernel'].shape == (24, 3)


def test_help_lists_its_fields(capsys):
  assert run_main('--help') == 0
  out = capsys.readouterr().out
  assert '--config.model.width 24\n    Units of the hidden layer.\n' in out
  assert '--config.augmentation.flip_share 0.3\n' in out


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--config.model.widht=3', "use 'model.width'"),
    ('--config.model.width=0', 'model.width is 0: it must be at least 1.'),
    ('--config.dropout.hidden=1.0', 'dropout.hidden is 1.0: it must be'),
    ('--config.label_version=v3', "label_version is 'v3': use 'v1', as"),
    ('--config.folds=(0,2)', 'folds holds 2: my_dataset.py:MyDataset has'),
    ("--config.phases.kinds=('lstm','all')", "phases.kinds holds 'lstm'"),
    ('--config.loss.name=my_loss.py:focal', 'use focal_loss'),
    ('--config.metrics=("kapa",)', "use 'kappa'"),
  ],
)
def test_mistakes_are_refused(argument, message, capsys):
  extra = []
  if 'kinds' in argument:
    extra = ['--config.phases.epochs=(1,1)']
    extra += ['--config.phases.learning_rates=(1e-3,1e-3)']
  assert run_main(argument, *extra, '--workdir=refused') == 2
  error = capsys.readouterr().err
  assert message in error.replace(f'{pathlib.Path.cwd()}/', '')
  assert error.count('\n') == 1
  assert not pathlib.Path('refused').exists()


def test_run_resumes_to_the_same_and_not_with_a_changed_file(
  run, trained, tmp_path, capsys
):
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  before = (copy / 'fold0' / 'predictions.csv').read_bytes()
  for name in ('scores.json', 'predictions.csv'):
    (copy / 'fold0' / name).unlink()
  assert run_main(f'--workdir={copy}') == 0
  assert (copy / 'fold0' / 'predictions.csv').read_bytes() == before
  content = (trained / 'my_model.py').read_text()
  capsys.readouterr()
  try:
    (trained / 'my_model.py').write_text(f'{content}\n')
    assert run_main(f'--workdir={copy}') == 2
    assert 'my_model.py' in capsys.readouterr().err
    assert predict.main(['--run', str(run), 'my_model.py']) == 2
    assert 'my_model.py' in capsys.readouterr().err
    (trained / 'my_model.py').unlink()
    assert export.main([str(run), '--out', str(tmp_path / 'out')]) == 2
    assert 'my_model.py' in capsys.readouterr().err
  finally:
    (trained / 'my_model.py').write_text(content)


# A dataset


def test_dataset_says_what_a_run_is_of(run, spec):
  assert spec.classes == ('slow', 'fast', 'noise')
  assert (spec.sampling_rate, spec.counts_per_millivolt) == (250, 200)
  assert 8 * 250 <= spec.longest_samples < 20 * 250
  low, high = spec.ranges.seconds
  assert 8 <= low < high < 20
  spectrogram = ensemble.load(run).network.spectrogram
  assert spectrogram.window_samples == round(64 * 250 / 300)
  assert spectrogram.hop_samples == round(32 * 250 / 300)
  rows = read_rows(run / 'fold0' / 'predictions.csv')
  assert [name for name in rows[0] if name.startswith('probability')] == [
    *('probability_slow', 'probability_fast', 'probability_noise')
  ]
  assert {row['label'] for row in rows} == {*spec.classes}
  scores = json.loads((run / 'fold0' / 'scores.json').read_text())['sets']
  f1 = {x: scores['test']['classes'][x]['f1'] for x in spec.classes}
  assert scores['test']['score'] == (f1['slow'] + f1['fast']) / 2
  # It is learned: a wrong rate or unit anywhere would show.
  assert scores['test']['score'] > 80


def test_dataset_is_evaluated_calibrated_and_plotted(run, tmp_path, capsys):
  assert evaluate.main([str(run), '--set=validation', '--data_dir=data']) == 0
  assert 'F1 noise' in capsys.readouterr().out
  assert evaluate.main([str(run), '--label_version=v2']) == 2
  assert "'v2'" in capsys.readouterr().err
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  assert calibrate.main([str(copy)]) == 0
  assert (copy / 'calibration.png').exists()
  assert summarize.main([str(copy), '--plot']) == 0
  assert (copy / 'confusion.png').exists()


def test_recordings_are_classified_at_its_rate(run, tmp_path, capsys):
  paths = [
    write_recording(tmp_path / f'{rate}.csv', pulses_per_minute=rate)
    for rate in (40, 80)
  ]
  arguments = ['--sampling_rate=500', '--units=mV', *map(str, paths)]
  out = [f'--out={tmp_path}/out.csv', f'--answers={tmp_path}/answers.txt']
  out += [f'--plot={tmp_path}/plots']
  assert predict.main(['--run', str(run), *arguments, *out]) == 0
  rows = read_rows(tmp_path / 'out.csv')
  assert [row['predicted'] for row in rows] == ['slow', 'fast']
  answers = (tmp_path / 'answers.txt').read_text().splitlines()
  assert answers == ['40,slow', '80,fast']
  assert len(list((tmp_path / 'plots').glob('*.png'))) == 2
  out = capsys.readouterr().out
  assert re.match(
    r'recording +lead +seconds +prediction +slow +fast +noise', out
  )


def test_exported_program_predicts_the_same(run, tmp_path, capsys):
  folder = tmp_path / 'exported'
  assert export.main([str(run), '--out', str(folder)]) == 0
  capsys.readouterr()
  weights = dict(np.load(folder / 'weights.npz'))
  windows = [
    np.random.default_rng(0).integers(-200, 200, size).astype(np.int16)
    for size in (2600, 2100)
  ]
  signal = np.zeros((2, 2600), np.int16)
  for row, window in zip(signal, windows, strict=True):
    row[: len(window)] = window
  lengths = np.array([2600, 2100], np.int32)
  model = ensemble.load(run)
  logits = model.logits(windows)
  expected = np.mean(np.asarray(jax.nn.softmax(logits, axis=-1)), axis=0)
  for name, scale, dtype in (
    ('predict_int16', 1, np.int16),
    ('predict_millivolt', 1 / 200, np.float32),
  ):
    program = jax.export.deserialize(
      bytearray((folder / f'{name}.bin').read_bytes())
    )
    found = program.call(weights, (signal * scale).astype(dtype), lengths)
    np.testing.assert_allclose(found, expected, atol=1e-5)
  card = (folder / 'MODEL_CARD.md').read_text()
  assert 'made-up pulses at 250 Hz' in card
  assert not re.search(r'\b300\b|atrial|\bNAO', card)


# An augmentation and a loss


def test_augmentation_and_loss_are_in_the_step_with_their_options(run):
  network = ensemble.load(run).network
  *_, flip = network.augmentations
  assert flip.options == (('flip_share', 0.3),)
  keys = jax.random.split(jax.random.key(0), 1000)
  signals = np.ones((1000, 3), np.float32)
  flipped = np.asarray(flip(signals, np.full(1000, 3), keys))[:, 0] < 0
  assert 0.25 < flipped.mean() < 0.35
  assert network.loss.options == (('gamma', 1.0),)
  logits = np.array([[0.0, 0.0, 0.0]], np.float32)
  weights = np.ones(1, np.float32)
  loss = float(network.loss(logits, np.zeros(1, np.int32), weights)[0])
  assert loss == pytest.approx(2 / 3 * np.log(3), rel=1e-5)


# A metric


def test_metric_reaches_every_artifact(run, spec, capsys):
  names = ['kappa', 'balanced_accuracy', 'surprise']
  for fold in (0, 1):
    folder = run / f'fold{fold}'
    sets = json.loads((folder / 'scores.json').read_text())['sets']
    assert {
      name: list(found['metrics']) for name, found in sets.items()
    } == dict.fromkeys(('train', 'validation', 'test'), names)
    confusion = np.array(sets['test']['confusion'])
    recalls = np.diag(confusion) / confusion.sum(axis=1)
    found = sets['test']['metrics']
    assert found['balanced_accuracy'] == pytest.approx(100 * recalls.mean())
    assert found['kappa'] == pytest.approx(score.kappa(confusion))
    rows = read_rows(folder / 'metrics.csv')
    validated = [row for row in rows if row['validation_score']]
    assert validated
    for name in names:
      assert all(row[f'validation_{name}'] for row in validated)
    events = b''.join(
      x.read_bytes() for x in (folder / 'tensorboard').iterdir()
    )
    assert all(f'validation_{name}'.encode() in events for name in names)
  found = summary.summarize(run)
  assert found['mean'].keys() >= {*names}
  assert found['pooled']['metrics'].keys() == {*names}
  assert summarize.main([str(run)]) == 0
  table = capsys.readouterr().out
  assert all(f' {name} ' in table for name in names)


def test_table_does_without_a_metric_that_is_gone(
  run, trained, tmp_path, capsys
):
  shutil.copytree(run, tmp_path / 'copy')
  (trained / 'my_metric.py').rename(tmp_path / 'my_metric.py')
  try:
    assert summarize.main([str(tmp_path / 'copy')]) == 0
  finally:
    (tmp_path / 'my_metric.py').rename(trained / 'my_metric.py')
  out = capsys.readouterr().out
  assert ' balanced_accuracy ' in out
  assert 'my_metric.py' in out

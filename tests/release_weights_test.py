"""The tool that writes a run as one file: what, and when it refuses."""

import dataclasses
import functools
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import release_weights

from ecg_jax import evaluate, experiment
from ecg_jax.prediction import ensemble
from ecg_jax.runs import released
from tests import made_up_run, mitdb_files


@pytest.fixture
def out(small_data, tmp_path, monkeypatch):
  """Where to write; the data of the runs are at hand."""
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [small_data])
  return tmp_path / 'new' / 'a.zip'


@pytest.fixture
def refused(refusal, small_run, out):
  """Runs the tool, which writes nothing; returns its sentence."""

  def call(*options):
    sentence = refusal(
      release_weights.main, small_run, f'--out={out}', *options
    )
    assert not out.exists()
    return sentence

  return call


def test_the_same_run_gives_the_same_bytes(small_run, out, capsys):
  content = []
  for name in ('one', 'two'):
    path = out.parent / name / 'a.zip'
    assert release_weights.main([str(small_run), f'--out={path}']) == 0
    files = sorted(path.parent.iterdir())
    assert [x.name for x in files] == ['MODEL_CARD.md', 'a.zip', 'a.zip.sha256']
    content.append([x.read_bytes() for x in files])
  assert content[0] == content[1]
  assert f'The file has {len(content[0][1]):,} bytes' in capsys.readouterr().out


def test_it_has_what_prediction_needs_and_no_path(small_run, out):
  assert release_weights.main([str(small_run), f'--out={out}']) == 0
  with zipfile.ZipFile(out) as archive:
    assert archive.namelist() == [
      'config.json',
      'fold1/predictions.csv',
      'fold1/scores.json',
      'fold1/weights.npz',
      'release.json',
      'trained_on.csv',
    ]
    config = json.loads(archive.read('config.json'))
    manifest = json.loads(archive.read('release.json'))
  assert config['config']['folds'] == [1]
  assert config['config']['data']['data_dir'] == '~/tensorflow_datasets'
  assert config['digests'].keys() == {'dataset', 'labels', 'folds'}
  scores = json.loads((small_run / 'fold1' / 'scores.json').read_text())
  score = scores['sets']['test']['score']
  assert manifest['scores'] == {'1': pytest.approx(score)}
  assert manifest['mean_score'] == pytest.approx(score)


def test_kernels_alone_are_rounded(small_run, out):
  assert release_weights.main([str(small_run), f'--out={out}']) == 0
  content = (released.open_run(out) / 'fold1' / released.WEIGHTS).read_bytes()
  with np.load(io.BytesIO(content)) as weights:
    for path, array in weights.items():
      wanted = np.float32 if array.ndim == 1 else np.float16
      assert array.dtype == wanted, path


def test_the_card_is_of_the_run(small_run, out):
  with made_up_run.calibrated(small_run, 1.5, error=0.034):
    assert release_weights.main([str(small_run), f'--out={out}']) == 0
  card = out.with_name('MODEL_CARD.md').read_text()
  scores = json.loads((small_run / 'fold1' / 'scores.json').read_text())
  test = scores['sets']['test']
  for text in (
    '# a: crnn, trained by ecg_jax',
    'not a medical device',
    '`ecg_jax:a`',
    f'The file has {out.stat().st_size:,} bytes, with kernels as float16.',
    f' {test["score"]:.1f} |',
    'The folds are by record, not by patient',
    'It has not been tested on any other data.',
    'the temperature 1.5, fitted to',
    '| class | records |',
  ):
    assert text in card, text
  rows = [line.replace('|', ' ').split() for line in card.splitlines()]
  for name, counts in zip('NAO~', test['confusion'], strict=True):
    assert [name, *map(str, counts)] in rows
  assert '$' not in card


def test_results_on_other_data_are_in_the_card_and_the_file(
  small_run, out, tmp_path, monkeypatch
):
  """If they are of the same folds."""
  mitdb_files.write_database(tmp_path, monkeypatch)
  copy = shutil.copytree(small_run, tmp_path / 'copy')
  where = [f'--manual_dir={tmp_path}', f'--data_dir={tmp_path}']
  assert evaluate.main([str(copy), '--on=mitdb', *where]) == 0
  folder = copy / 'evaluation_on_mitdb'
  groups = (folder / 'summary.md').read_text().split('\n\n')[1]
  for folds, is_told in (([1], True), ([0, 1], False)):
    scores = json.loads((folder / 'scores.json').read_text())
    (folder / 'scores.json').write_text(json.dumps(scores | {'folds': folds}))
    assert release_weights.main([str(copy), f'--out={out}']) == 0
    card = out.with_name('MODEL_CARD.md').read_text()
    assert (groups in card) == is_told
  run = released.open_run(out)
  assert (run / 'evaluation_on_mitdb' / 'scores.json').is_file()


def test_what_would_be_too_large_is_refused(refused, monkeypatch):
  monkeypatch.setattr(release_weights, 'MAX_BYTES', 1000)
  assert 'more than 1,000: write less, with --kernels float16' in refused()


def test_answers_that_change_are_named(refused, small_data, monkeypatch):
  spoiled = functools.partial(spoil, release_weights._weights)
  monkeypatch.setattr(release_weights, '_weights', spoiled)
  sentence = refused()
  assert 'answers change (' in sentence
  assert 'more than 5: write --kernels float32' in sentence
  test = small_data.table['folds']['1']['test']
  assert sum(record in sentence for record in test) > 5


def spoil(write, variables, *arguments):
  """Negates the last layer."""
  output = {x: -y for x, y in variables['params']['output'].items()}
  params = {**variables['params'], 'output': output}
  return write({**variables, 'params': params}, *arguments)


def test_weights_beyond_float16_are_refused(refused, monkeypatch):
  load = ensemble.load

  def enlarged(run):
    model = load(run)
    kernel = model.variables[0]['params']['output']['kernel']
    model.variables[0]['params']['output']['kernel'] = kernel * 1e9
    return model

  monkeypatch.setattr(ensemble, 'load', enlarged)
  assert 'params/output/kernel that float16 cannot hold' in refused()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--folds=0,1'], '--folds names fold 0, and the finished folds of'),
    (['--folds=a'], "'a' is no list like 0,1"),
  ],
)
def test_folds_that_are_not_there_are_refused(refused, options, message):
  assert message in refused(*options)


def test_a_calibration_of_other_folds_is_refused(refused, small_run):
  with made_up_run.calibrated(small_run, 1.5, folds=(0, 1)):
    assert 'was fitted to the folds [0, 1]' in refused()


def test_a_calibration_of_more_folds_is_refused(
  refused, small_run, monkeypatch
):
  load = ensemble.load

  def doubled(run):
    model = load(run)
    both = {
      'variables': 2 * model.variables,
      'trained_on': 2 * model.trained_on,
    }
    return dataclasses.replace(model, folds=(0, 1), **both)

  monkeypatch.setattr(ensemble, 'load', doubled)
  with made_up_run.calibrated(small_run, 1.5, folds=(0, 1)):
    sentence = refused('--folds=1')
  assert (
    'was calibrated with all its folds, 0, 1: leave out --folds' in sentence
  )

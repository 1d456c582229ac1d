"""A run is scored on another dataset, by the command."""

import csv
import dataclasses
import functools
import json

import numpy as np
import pytest

from ecg_jax import evaluate
from ecg_jax.datasets import prepare, schema
from ecg_jax.datasets.mitdb import mitdb_dataset_builder
from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.evaluation import detection
from ecg_jax.fields.data import DataFields
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.prediction import ensemble, other_dataset, predictor
from ecg_jax.recordings import lead
from ecg_jax.runs import artifacts
from tests import made_up_run, mitdb_files


@pytest.fixture
def database(tmp_path, monkeypatch):
  """Records of 2 s, and the arguments that name them."""
  mitdb_files.write_database(tmp_path, monkeypatch)
  return ['--on=mitdb', f'--manual_dir={tmp_path}', f'--data_dir={tmp_path}']


@pytest.fixture
def refused(refusal, small_run, database):
  """Runs the command, which refuses its arguments; returns the sentence."""
  return functools.partial(refusal, evaluate.main, small_run, *database)


def test_records_are_classified_as_predict_does(
  small_run, database, tmp_path, capsys
):
  out = tmp_path / 'out'
  # As a run that is calibrated does, too.
  with made_up_run.calibrated(small_run, 2.0):
    code = evaluate.main([str(small_run), *database, f'--out={out}'])
    model = ensemble.load(small_run)
    openers = {
      name: functools.partial(
        lead.open_recording, tmp_path / 'mitdb' / f'{name}.hea', model.encoding
      )
      for name in mitdb_files.NAMES
    }
    # Else a record of a minute is one window.
    short = dataclasses.replace(
      model, spec=dataclasses.replace(model.spec, longest_samples=600)
    )
    results = predictor.predict_recordings(
      short, openers, predictor.Settings(window=2, stride=2)
    )
  assert code == 0
  printed = capsys.readouterr().out
  assert printed == (out / 'summary.md').read_text()
  with (out / 'predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  upright = {x['record']: x for x in rows if x['upside_down'] == '0'}
  windows = {
    f'{result.name}@{window.start:g}-{window.end:g}': window.answer
    for result in results
    for window in result.windows
  }
  assert upright.keys() == windows.keys()
  assert len(rows) == 2 * len(upright) == 2 * 8 * 13
  classes = model.spec.classes
  for name, row in upright.items():
    found = [float(row[f'probability_{x}']) for x in classes]
    expected = windows[name].probabilities
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert row['predicted'] == windows[name].predicted
    assert row['recording'] == name[:3]
    assert row['patient'] == ('201' if name[:3] == '202' else name[:3])
  found = json.loads((out / 'scores.json').read_text())
  assert (found['temperature'], found['folds']) == (2.0, [1])
  truth = detection.Truth(
    *(
      [row[name] for row in upright.values()]
      for name in ('record', 'recording', 'patient', 'label')
    ),
    found['meaning'],
    found['positive'],
  )
  probabilities = np.array(
    [[row[f'probability_{x}'] for x in classes] for row in upright.values()],
    np.float32,
  )
  groups = ('AFIB', 'NSR', 'ECTOPY', 'MIXED')
  scores = detection.score(truth, probabilities, classes, groups)
  assert found['weights']['folds together']['upright'] == scores
  assert {x: y['records'] for x, y in scores['groups'].items()} == {
    'AFIB': 56, 'NSR': 32, 'ECTOPY': 8, 'MIXED': 8,
  }  # fmt: skip
  assert list(found['recordings']) == mitdb_files.NAMES


def test_upside_down_is_the_negative(small_run, small_data):
  model = ensemble.load(small_run)
  lowest = np.full(700, -(2**15), np.int16)
  data = dataclasses.replace(
    small_data.dataset,
    signal=np.concatenate([small_data.dataset.signal[:700], lowest]),
    offsets=np.array([0, 700]),
    lengths=np.array([700, 700]),
  )
  calls = []

  class Spied(ensemble.Ensemble):
    def logits(self, windows):
      calls.append(windows)
      return super().logits(windows)

  spied = Spied(**vars(model))
  found = other_dataset._logits(spied, data)
  upright, opposite = calls
  np.testing.assert_array_equal(opposite[0], -upright[0].astype(int))
  assert opposite[0].dtype == np.int16
  assert set(opposite[1]) == {2**15 - 1}
  assert {way: x.shape for way, x in found.items()} == {
    'upright': (1, 2, 4), 'upside down': (1, 2, 4),
  }  # fmt: skip


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--map=AFB=A'], "but 'AFB' is none of the first: say what"),
    (['--map=AFIB=F'], "but AFIB is taken for 'F', which is none of the sec"),
    (['--map=AFIB'], "but AFIB is taken for '', which is none of the second"),
    (['--map=NSR=N'], 'No record of mitdb is taken for A: say which'),
    (['--map=AFIB=A'], 'No record of mitdb is taken for another class than A'),
    (['--map=BBB=A,NSR=N'], 'No record of mitdb is taken for A: say which'),
    (['--positive=X'], "--positive is 'X': name the class of the run that"),
    (['--positive=~'], 'No record of mitdb is taken for ~: say which'),
    (['--label_version=v3'], "--label_version is 'v3': use one of mitdb, v1."),
    (['--set=validation'], '--set validation is a part of the run'),
  ],
)
def test_what_cannot_be_scored_is_refused(refused, arguments, message):
  assert message in refused(*arguments)


def test_options_of_another_dataset_need_its_name(refusal, small_run):
  for option in ('--map=AFIB=A', '--positive=A'):
    message = refusal(evaluate.main, small_run, option)
    assert message.endswith('are for another dataset: name it with --on.\n')


def replaced(monkeypatch, **fields):
  """The run that is loaded has other fields."""
  load = ensemble.load
  monkeypatch.setattr(
    ensemble, 'load', lambda folder: dataclasses.replace(load(folder), **fields)
  )


def test_records_of_another_rate_or_unit_are_refused(
  refused, small_data, monkeypatch
):
  spec = small_data.dataset.spec
  for changed, there in (
    ({'sampling_rate': 500}, '500 samples a second and 1000 counts a mV'),
    ({'counts_per_millivolt': 200.0}, '300 samples a second and 200 counts'),
  ):
    with monkeypatch.context() as patch:
      replaced(patch, spec=dataclasses.replace(spec, **changed))
      message = refused()
    assert message.startswith('mitdb has 300 samples a second and 1000 counts')
    assert f'was trained on {there}' in message


def test_a_run_without_common_classes_needs_a_map(
  refused, small_data, monkeypatch
):
  spec = dataclasses.replace(
    small_data.dataset.spec,
    classes=('1', '2', '3', '4'),
    scored_classes=('1',),
    episode_class=None,
    noise_class=None,
  )
  replaced(monkeypatch, spec=spec)
  assert 'they have no name in common: say what the first' in refused()
  message = refused('--map=AFIB=1')
  assert message.startswith('--positive is not given: name the class of the')


def test_records_that_a_fold_learned_from_are_refused(
  refused, tmp_path, monkeypatch
):
  builder = prepare.prepare(
    DataFields(name='mitdb', manual_dir=str(tmp_path), data_dir=str(tmp_path))
  )
  dataset = dataset_lib.load(builder, in_memory=True)
  digest = dataset.record_digests()['202@4-6']
  replaced(monkeypatch, trained_on=({digest: 'A00001'},))
  message = refused()
  assert (
    'learned from 1 of the 104 records of mitdb, such as 202@4-6' in message
  )


def test_a_run_without_a_finished_fold_is_refused(
  refusal, database, small_config, small_data, tmp_path
):
  spec = small_data.dataset.spec
  run = tmp_path / 'run'
  artifacts.begin_run(run, small_config, small_data.digests(), spec)
  message = refusal(evaluate.main, run, *database)
  assert 'has no finished fold: train one first.' in message


def test_a_folder_of_recordings_is_scored(small_run, refusal, tmp_path, capsys):
  """Of three patients, which are too few for folds, and at another rate."""
  folder = tmp_path / 'mine'
  folder.mkdir()
  lines = ['record,label,patient,sampling_rate,units']
  for number, label in enumerate(('fibrillation', 'sinus', 'unclear') * 2):
    _, counts, _ = generator.generate_record(1, number)
    np.save(folder / f'{number}.npy', counts[:3000:2] / 1000)
    lines.append(f'{number}.npy,{label},p{number % 3},150,mV')
  (folder / 'labels.csv').write_text('\n'.join(lines))
  run = [str(small_run), '--on=recordings_folder', f'--manual_dir={folder}']
  run += [f'--data_dir={tmp_path}', f'--out={tmp_path / "out"}']
  assert evaluate.main([*run, '--map', 'fibrillation=A, sinus=N']) == 0
  capsys.readouterr()
  message = refusal(evaluate.main, *run)
  assert 'the classes fibrillation, sinus, unclear, and the run N, A, O, ~, but'
  assert 'they have no name in common: say what the first are taken' in message
  found = json.loads((tmp_path / 'out' / 'scores.json').read_text())
  groups = found['weights']['folds together']['upright']['groups']
  assert {x: (y['records'], y['patients']) for x, y in groups.items()} == {
    'fibrillation': (2, 1), 'sinus': (2, 1), 'unclear': (2, 1),
  }  # fmt: skip
  with (tmp_path / 'out' / 'predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  model = predictor.load(small_run)
  for row in rows[:6]:
    signal = np.load(folder / row['recording'])
    answer = model.predict(signal, sampling_rate=150, units='mV')
    for name, probability in answer.probabilities.items():
      assert float(row[f'probability_{name}']) == pytest.approx(
        probability, abs=2e-6
      )


def test_windows_of_another_length_have_the_same_meaning():
  class Short(mitdb_dataset_builder.Builder, skip_registration=True):
    WINDOW_SECONDS = 10.0

  found = other_dataset._parse_meaning(None, Short, schema.CHALLENGE)
  assert found['AFIB'] == 'A'

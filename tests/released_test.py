"""A released file answers as the run folder it was made from."""

import functools
import hashlib
import io
import json
import pathlib
import shutil
import zipfile

import jax
import numpy as np
import pytest
import release_weights
import scipy.io

import ecg_jax
from ecg_jax import evaluate, experiment, export, predict
from ecg_jax.errors import InputError
from ecg_jax.evaluation import calibration, summary, tables
from ecg_jax.models import variables
from ecg_jax.prediction import exporter, predictor
from ecg_jax.recordings import lead
from ecg_jax.runs import artifacts, finished_run, predictions, released
from ecg_jax.training import job as job_lib
from tests import made_up_run, mitdb_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
STATED = {'sampling_rate': 300, 'units': 'counts'}


@pytest.fixture(scope='module')
def files(small_run, small_data, tmp_path_factory):
  """Folder of a released file of each type, one.zip and two.zip."""
  folder = tmp_path_factory.mktemp('released')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiment, 'load_data', lambda configs: [small_data])
    for kernels in ('float16', 'float32'):
      out = folder / kernels / 'crnn_beats.zip'
      arguments = [str(small_run), f'--out={out}', f'--kernels={kernels}']
      assert release_weights.main(arguments) == 0
  return folder


@pytest.fixture
def package(files, monkeypatch):
  """The package has the file of float32."""
  monkeypatch.setattr(released, 'FOLDER', files / 'float32')


@pytest.fixture
def signal():
  rng = np.random.default_rng(5)
  return np.cumsum(rng.normal(0, 40, 1000)).astype(np.int16)


def records_of(data, name):
  """The recordings of a set of fold 1."""
  dataset = data.dataset
  for record in data.table['folds']['1'][name]:
    place = dataset.records.index(record)
    start = dataset.offsets[place]
    yield record, dataset.signal[start : start + dataset.lengths[place]]


def test_answers_are_those_of_the_run(files, small_run, signal):
  expected = ecg_jax.load(small_run)
  for kernels, tolerance in (('float32', 0), ('float16', 5e-3)):
    model = ecg_jax.load(files / kernels / 'crnn_beats.zip')
    assert model.folds.trained_on == expected.folds.trained_on
    assert model.folds.spec == expected.folds.spec
    assert model.folds.folds == expected.folds.folds
    np.testing.assert_allclose(
      model.folds.logits([signal]),
      expected.folds.logits([signal]),
      rtol=0,
      atol=tolerance,
    )
  assert np.any(  # It is not float32.
    model.folds.logits([signal]) != expected.folds.logits([signal])
  )


def test_no_run_is_the_weights_of_the_package(
  package, small_run, signal, tmp_path, monkeypatch
):
  expected = ecg_jax.load(small_run).predict(signal, **STATED)
  found = ecg_jax.load().predict(signal, **STATED)
  assert found.probabilities == expected.probabilities
  np.save(tmp_path / 'a.npy', signal)
  answers = []
  for run in ([], [f'--run={small_run}']):
    out = tmp_path / f'{len(run)}.json'
    arguments = [f'{tmp_path}/a.npy', '--sampling_rate=300', '--units=counts']
    assert predict.main([*arguments, *run, f'--out={out}']) == 0
    answers.append(json.loads(out.read_text()))
  assert answers[0].pop('run_folder') == 'ecg_jax:crnn_beats'
  assert answers[1].pop('run_folder') == str(small_run)
  assert answers[0] == answers[1]


def test_no_fold_classifies_what_it_was_trained_on(package, small_data):
  model = ecg_jax.load()
  for name in ('train', 'validation'):
    for record, counts in records_of(small_data, name):
      with pytest.raises(InputError, match=f'is {record} of the training set'):
        model.predict(counts, **STATED)
  for _, counts in records_of(small_data, 'test'):
    assert not model.predict(counts, **STATED).notes


def test_a_calibrated_run_stays_calibrated(
  small_run, small_data, signal, tmp_path, monkeypatch
):
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [small_data])
  out = tmp_path / 'a.zip'
  arguments = [str(small_run), f'--out={out}', '--kernels=float32']
  with made_up_run.calibrated(small_run, 2.0):
    assert release_weights.main(arguments) == 0
    expected = ecg_jax.load(small_run).predict(signal, **STATED)
  found = ecg_jax.load(out).predict(signal, **STATED)
  assert found.probabilities == expected.probabilities
  plain = ecg_jax.load(small_run).predict(signal, **STATED)
  assert found.probabilities != plain.probabilities


def test_it_is_exported_as_the_run(package, small_run, tmp_path, monkeypatch):
  monkeypatch.setattr(exporter, 'programs', lambda *_: {})
  arrays, cards = [], []
  for number, run in enumerate(('ecg_jax:crnn_beats', small_run)):
    out = tmp_path / str(number)
    assert export.main([str(run), f'--out={out}']) == 0
    arrays.append(dict(np.load(out / 'weights.npz')))
    cards.append((out / 'MODEL_CARD.md').read_text())
  jax.tree.map(np.testing.assert_array_equal, *arrays)
  # In the table of the scores a run has its unfinished folds, too.
  first, second = (card.partition('All these test records') for card in cards)
  assert first[2] == second[2]
  assert 'fold(s) 1 of the run `crnn_beats`.' in first[0]


def test_training_starts_from_it_as_from_the_run(
  package, small_run, small_config, small_data, tmp_path
):
  found = []
  for run in ('ecg_jax:crnn_beats', small_run):
    config = small_config.copy_and_resolve_references()
    config.init_from = str(run)
    job = job_lib.make_job(config, small_data, 1, tmp_path)
    found.append(job.initial_variables())
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_what_started_from_it_learned_from_its_records(
  package, small_run, small_config, small_data, tmp_path
):
  config = small_config.copy_and_resolve_references()
  config.init_from = 'ecg_jax:crnn_beats'
  config.data.max_records = 4
  dataset = small_data.dataset
  artifacts.begin_run(tmp_path, config, small_data.digests(), dataset.spec)
  artifacts.write_labels(tmp_path / 'labels.csv', dataset.all_labels())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(finished_run, 'read_table', lambda *_: small_data.table)
    found = finished_run.trained_on(tmp_path, 1)
  assert found == finished_run.trained_on(small_run, 1)


def test_another_dataset_is_scored_as_by_the_run(
  package, small_run, tmp_path, monkeypatch
):
  mitdb_files.write_database(tmp_path, monkeypatch)
  monkeypatch.chdir(tmp_path)
  where = [f'--manual_dir={tmp_path}', f'--data_dir={tmp_path}']
  found = []
  for run, options in (
    ('ecg_jax:crnn_beats', []),
    (small_run, [f'--out={tmp_path / "of_run"}']),
  ):
    assert evaluate.main([str(run), '--on=mitdb', *where, *options]) == 0
  for folder in ('evaluation_on_mitdb', 'of_run'):
    content = json.loads((tmp_path / folder / 'scores.json').read_text())
    found.append(content)
  assert found[0].pop('run') == 'crnn_beats'
  assert found[1].pop('run') == 'small'
  assert found[0] == found[1]


def test_its_own_test_set_is_scored_again(
  package, small_run, small_data, tmp_path, monkeypatch
):
  monkeypatch.setattr(experiment, 'load_data', lambda configs: [small_data])
  monkeypatch.chdir(tmp_path)
  assert evaluate.main(['ecg_jax:crnn_beats']) == 0
  found = tmp_path / 'evaluation_test_v3' / 'fold1' / 'predictions.csv'
  expected = small_run / 'fold1' / 'predictions.csv'
  assert found.read_bytes() == expected.read_bytes()


def rewritten(path, content):
  """The file has other content, and the digest beside it is of that."""
  path.write_bytes(content)
  digest = hashlib.sha256(content).hexdigest()
  released.digest_file(path).write_text(f'{digest}  {path.name}\n')


def with_member(content, name, member):
  """The archive with one member replaced."""
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = {x: archive.read(x) for x in archive.namelist()}
  return release_weights.pack(members | {name: member})


def flip(path, content):
  path.write_bytes(content[:999] + bytes([content[999] ^ 1]) + content[1000:])


def swap(path, content):
  path.write_bytes((path.parents[1] / 'float16' / path.name).read_bytes())


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (flip, 'damaged or another file than was released: its SHA-256 is {found}'),
    (swap, 'another file than was released'),
    (lambda path, x: path.write_bytes(x[:-1]), 'not {expected} as in'),
    (lambda path, x: path.write_bytes(b''), 'another file than was released'),
    (
      lambda path, _: released.digest_file(path).write_text(''),
      'another file than was released',
    ),
    (lambda path, _: released.digest_file(path).unlink(), 'no run folder, and'),
    (lambda path, _: rewritten(path, b'ECG'), 'has no released weights in it'),
    (
      lambda path, _: rewritten(path, release_weights.pack({'a.csv': b'1'})),
      'has no released weights in it',
    ),
    (
      lambda path, x: rewritten(
        path, with_member(x, 'release.json', b'{"format": 2}')
      ),
      'has the format 2, and this version of ecg_jax reads 1',
    ),
    (lambda path, _: path.unlink(), 'no released weights ecg_jax:crnn_beats'),
  ],
)
def test_a_file_that_is_not_as_released_is_refused(
  files, tmp_path, monkeypatch, refusal, damage, message
):
  folder = shutil.copytree(files, tmp_path / 'copy') / 'float32'
  monkeypatch.setattr(released, 'FOLDER', folder)
  path = folder / 'crnn_beats.zip'
  content = path.read_bytes()
  damage(path, content)
  (tmp_path / 'a.csv').write_text('1\n' * 900)
  sentence = refusal(predict.main, tmp_path / 'a.csv')
  digests = [hashlib.sha256(content).hexdigest()]
  if path.exists():
    digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
  expected, found = digests[0], digests[-1]
  assert message.format(expected=expected, found=found) in sentence
  with pytest.raises(InputError):
    ecg_jax.load()


def test_weights_of_another_model_are_refused(files, tmp_path):
  folder = shutil.copytree(files, tmp_path / 'copy') / 'float32'
  path = folder / 'crnn_beats.zip'
  weights = io.BytesIO()
  np.savez(weights, a=np.zeros(3))
  rewritten(
    path,
    with_member(path.read_bytes(), 'fold1/weights.npz', weights.getvalue()),
  )
  with pytest.raises(InputError, match='of other shapes than its model here'):
    ecg_jax.load(path)


# What the package ships.

SHIPPED = released.FOLDER / 'crnn_beats.zip'


def test_shipped_weights_are_those_that_were_scored():
  run = released.open_run('ecg_jax:crnn_beats')
  kept = ROOT / 'results' / 'crnn_beats'
  assert SHIPPED.stat().st_size <= release_weights.MAX_BYTES
  config = finished_run.read_config(run, manual_dir=None, data_dir=None)
  network = experiment.make_network(config, artifacts.read_spec(run))
  wanted = variables.by_path(finished_run.variable_shapes(network))
  for fold in json.loads((run / 'release.json').read_text())['folds']:
    for name in ('scores.json', 'predictions.csv'):
      path = pathlib.Path(f'fold{fold}') / name
      assert (run / str(path)).read_bytes() == (kept / path).read_bytes()
    tested = summary.read_set(run, 'test')[fold].records
    learned = released.read_trained_on(run, fold).values()
    assert learned
    assert not {*learned} & {*tested}
    weights = released.read_weights(run, fold)
    assert {path: x.shape for path, x in weights.items()} == {
      path: x.shape for path, x in wanted.items()
    }
  card = SHIPPED.with_name('MODEL_CARD.md').read_text()
  assert tables.format_table([summary.summarize(run)]) in card


def test_shipped_weights_answer_as_was_scored(real_data):
  """Each by the fold that has it in its test set."""
  model = ecg_jax.load().folds
  openers, expected = {}, {}
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    for fold in model.folds:
      path = ROOT / 'results' / 'crnn_beats' / f'fold{fold}' / 'predictions.csv'
      kept = predictions.read(path, fold, model.spec.classes)
      for place in range(0, len(kept.records), 25):
        name = kept.records[place]
        content = archive.read(f'training2017/{name}.mat')
        counts = scipy.io.loadmat(io.BytesIO(content))['val'][0]
        openers[name] = functools.partial(
          lead.from_array, counts, counts_per_millivolt=1000.0, **STATED
        )
        expected[name] = fold, kept.probabilities[place]
  assert len(openers) > 300
  results = predictor.predict_recordings(model, openers, predictor.Settings())
  temperature = calibration.read(model.run_folder, model.folds)
  changed = 0
  for result in results:
    fold, probabilities = expected[result.name]
    # The challenge has two recordings twice, in different test sets.
    if result.failure is not None:
      assert 'or from a record with the same samples' in result.failure
      continue
    assert f'fold {fold} alone answered' in result.notes[0]
    probabilities = calibration.rescale(probabilities, temperature)
    found = list(result.probabilities.values())
    np.testing.assert_allclose(found, probabilities, rtol=0, atol=3e-3)
    changed += np.argmax(found) != np.argmax(probabilities)
  assert changed <= release_weights.MAX_CHANGED

import contextlib
import csv
import dataclasses
import io
import json
import re
import shutil
import urllib.error
import zipfile

import jax
import pytest

from ecg_jax import configuration, main, summarize
from ecg_jax.datasets import official_files, schema
from ecg_jax.datasets.physionet2017 import source
from ecg_jax.datasets.synthetic_ecg import synthetic_ecg_dataset_builder
from ecg_jax.errors import InputError
from ecg_jax.evaluation import summary, tables
from ecg_jax.runs import artifacts
from ecg_jax.runtime import files, startup
from tests import helpers
from tests.helpers import ROOT, TINY

CRNN = ['--config', 'configs/crnn.py']


def isolate(patch):
  """Runs in the repository, without changing JAX's settings and devices."""
  patch.chdir(ROOT)
  patch.setattr(startup, 'enable_compilation_cache', lambda: None)
  first = jax.devices()[:1]
  patch.setattr(jax, 'devices', lambda: first)


@pytest.fixture(autouse=True)
def isolated(monkeypatch):
  isolate(monkeypatch)


@pytest.fixture
def official(monkeypatch):
  """The dummy records, taken for the official ones."""
  helpers.use_dummy_as_official(monkeypatch)


def run(*arguments):
  """Exit code, stdout and stderr of the command."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main.main(['main', *map(str, arguments)])
  return code, out.getvalue(), err.getvalue()


def check_refusal(code, err):
  assert code == 2, err
  assert err.count('\n') == 1
  assert err.endswith('.\n')
  assert 'Traceback' not in err
  return err


def refusal(*arguments):
  code, _, err = run(*arguments)
  return check_refusal(code, err)


def command(folder, **fields):
  """Arguments with all that is written in a folder."""
  return [
    *TINY,
    f'--workdir={folder}/run',
    f'--config.data.data_dir={folder}/data',
    *(f'--config.data.{name}={value}' for name, value in fields.items()),
  ]


def check_nothing_written(folder):
  assert not (folder / 'run').exists()
  written = [path for path in (folder / 'data').rglob('*') if path.is_file()]
  assert not any(path.stat().st_size for path in written)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([*CRNN, '--config.data.max_record=3'], "use 'data.max_records'"),
    ([*CRNN, '--config.data.manual_dir=none/such'], 'none/such does not exi'),
  ],
)
def test_as_a_command(tmp_path, arguments, message):
  folders = [
    f'--workdir={tmp_path}/run',
    f'--config.data.data_dir={tmp_path}/d',
  ]
  script = "import runpy; runpy.run_module('ecg_jax.main', None, '__main__')"
  found = helpers.run_python(script, *folders, *arguments, code=2)
  assert message in check_refusal(found.returncode, found.stderr)
  assert found.stdout == ''
  assert not list(tmp_path.iterdir())


def test_debug_prints_the_traceback():
  code, _, err = run('--config', 'none.py', '--debug')
  assert code == 2
  assert err.startswith('Traceback')
  assert 'configuration.py' in err
  assert "There is no config file 'none.py'" in err.splitlines()[-1]


def test_help():
  code, out, err = run('--help')
  assert (code, err) == (0, '')
  assert '--workdir: ' in out


def test_no_network_and_no_folder(tmp_path, monkeypatch):
  def unreachable(request, timeout):
    raise urllib.error.URLError('Network is unreachable')

  monkeypatch.setattr(official_files.urllib.request, 'urlopen', unreachable)
  monkeypatch.setattr(official_files.time, 'sleep', lambda seconds: None)
  assert 'Network is unreachable' in refusal(*command(tmp_path))
  check_nothing_written(tmp_path)


def alter_a_record(folder):
  with zipfile.ZipFile(folder / 'training2017.zip') as archive:
    archive.extractall(folder)
  (folder / 'training2017.zip').unlink()
  path = folder / 'training2017' / 'A00009.mat'
  path.write_bytes(path.read_bytes()[:-1] + b'x')


@pytest.mark.parametrize(
  ('field', 'default'), [('devices_per_job', None), ('jobs_per_device', 1)]
)
def test_a_list_of_configs_shares_the_division_of_devices(
  tmp_path, field, default
):
  path = tmp_path / 'sizes.py'
  path.write_text(
    'from ecg_jax.configs import crnn\n'
    'def get_configs():\n'
    '  configs = {name: crnn.get_config() for name in "ab"}\n'
    f'  configs["b"].{field} = 3\n'
    '  return configs\n'
  )
  err = refusal('--config', path, f'--workdir={tmp_path}/run')
  values = ' and '.join(sorted(map(str, (3, default))))
  assert f'{field} is {values} in the configs of this list' in err
  assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_field_of_the_model_is_refused_before_data_is_read(tmp_path):
  arguments = command(tmp_path)
  assert 'model.width is 0' in refusal(*arguments, '--config.model.width=0')
  assert 'is 65' in refusal(*arguments, '--config.spectrogram.hop_samples=65')
  assert not list(tmp_path.iterdir())


def test_a_wrong_init_from_leaves_the_folder_free(tmp_path):
  code, _, err = run(
    '--config=configs/quickstart.py',
    f'--workdir={tmp_path / "run"}',
    f'--config.init_from={tmp_path / "none"}',
  )
  assert code == 2
  assert f'{tmp_path / "none"} is no run folder' in err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (shutil.rmtree, 'manual does not exist: .*--config.data.manual_dir'),
    (alter_a_record, 'not all of them are the official ones: the digest of'),
  ],
)
def test_sources_that_cannot_be_used(
  tmp_path, monkeypatch, official, change, message
):
  monkeypatch.setattr(source, 'download', None)  # Not even tried.
  manual_dir = tmp_path / 'manual'
  shutil.copytree(helpers.DUMMY, manual_dir)
  change(manual_dir)
  err = refusal(*command(tmp_path, manual_dir=manual_dir))
  assert re.search(message, err)
  check_nothing_written(tmp_path)


def test_folds_file_that_is_no_table(tmp_path):
  path = tmp_path / 'table.json'
  err = refusal(*command(tmp_path, folds_file=path))
  assert f'{path} cannot be read' in err
  for content in ['', '{}', '[]', '{"folds": 3}']:
    path.write_text(content)
    assert str(path) in refusal(*command(tmp_path, folds_file=path))
  check_nothing_written(tmp_path)
  # It was looked at first: nothing of the data was.
  assert not (tmp_path / 'data').exists()


def test_folds_file_of_other_records_or_without_a_fold(tmp_path, official):
  path = tmp_path / 'table.json'
  records = [f'B{index:05d}' for index in range(9)]
  sets = {'train': records[:3], 'validation': records[3:6], 'test': records[6:]}
  table = {'algorithm': 'by hand', 'seed': 0, 'labels_sha256': ''}
  path.write_text(json.dumps({**table, 'holdout': [], 'folds': {'0': sets}}))
  arguments = command(tmp_path, folds_file=path, manual_dir=helpers.DUMMY)
  err = refusal(*arguments, '--config.folds=(0,)')
  assert 'Record B00000 in the train set of fold 0 is not in the data' in err
  err = refusal(*arguments, '--config.folds=(0,1)')
  assert 'folds holds 1:' in err
  assert not (tmp_path / 'run').exists()


def test_workdir_that_cannot_be_written_to(tmp_path):
  (tmp_path / 'run').write_text('in the way')
  err = refusal(*command(tmp_path))
  assert f'{tmp_path}/run cannot be written to' in err
  assert (tmp_path / 'run').read_text() == 'in the way'
  assert not (tmp_path / 'data').exists()


def test_workdir_of_another_config(tmp_path):
  config = configuration.parse(configuration.define_flags(), ['main', *TINY])
  digests = {'dataset': '', 'labels': {}, 'folds': ''}
  artifacts.begin_run(tmp_path / 'run', config, digests, schema.SYNTHETIC)
  before = (tmp_path / 'run' / 'config.json').read_bytes()
  err = refusal(
    *command(tmp_path), '--config.seed=1', '--config.model.reduction=stride'
  )
  assert 'seed: 1 here, 0 there' in err
  assert "model.reduction: 'stride' here, 'max_pool' there" in err
  assert (tmp_path / 'run' / 'config.json').read_bytes() == before
  assert not (tmp_path / 'data').exists()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A folder with the run of one fold, and the output of the command."""
  folder = tmp_path_factory.mktemp('finished')
  with pytest.MonkeyPatch.context() as patch:
    isolate(patch)
    patch.setattr(synthetic_ecg_dataset_builder.Builder, 'NUM_RECORDS', 60)
    arguments = command(folder, name='synthetic_ecg')
    yield folder, run(*arguments, '--config.folds=0')


def read_json(path):
  return json.loads(path.read_text())


def read_csv(path):
  header, *rows = csv.reader(path.read_text().splitlines())
  return ','.join(header), [dict(zip(header, r, strict=True)) for r in rows]


def names(folder):
  return {path.name for path in folder.iterdir()} - {'.lock'}


FOLD_FILES = {
  *('metrics.csv', 'tensorboard', 'checkpoints', 'scores.json'),
  *('predictions.csv', 'validation_predictions.csv'),
}


def test_a_run_leaves_exactly_its_artifacts(finished):
  folder, (code, out, _) = finished
  workdir = folder / 'run'
  assert code == 0
  assert '| pooled, 1 of 1 folds ' in out
  assert names(workdir) == {
    *('config.json', 'fold0', 'labels.csv', 'summary.json', 'summary.md')
  }
  assert names(workdir / 'fold0') == FOLD_FILES


def test_config_json(finished):
  content = read_json(finished[0] / 'run' / 'config.json')
  assert content.keys() == {
    *('config', 'versions', 'commit', 'digests', 'dataset')
  }
  spec = schema.DatasetSpec.from_json(content['dataset'])
  assert 9000 <= spec.longest_samples <= 18_286
  assert dataclasses.replace(spec, longest_samples=18_286) == schema.SYNTHETIC
  digests = content['digests']
  assert digests.keys() == {'dataset', 'labels', 'folds', 'records'}
  assert digests['labels'].keys() == {'v1', 'v2', 'v3'}
  assert len(set(digests['records'].values())) == 60
  assert content['config']['folds'] == [0]
  assert content['config']['model']['width'] == 4


def test_labels_and_predictions(finished):
  workdir = finished[0] / 'run'
  header, labels = read_csv(workdir / 'labels.csv')
  assert header == 'record,v1,v2,v3'
  assert len(labels) == 60
  v3 = {row['record']: row['v3'] for row in labels}
  sets = read_json(workdir / 'fold0' / 'scores.json')['sets']
  seen = []
  for name, prefix in [('test', ''), ('validation', 'validation_')]:
    _, rows = read_csv(workdir / 'fold0' / f'{prefix}predictions.csv')
    records = [row['record'] for row in rows]
    assert records == sorted(set(records))
    assert len(records) == sets[name]['records']
    seen += records
    for row in rows:
      probabilities = {c: float(row[f'probability_{c}']) for c in 'NAO~'}
      assert row['fold'] == '0'
      assert row['label'] == v3[row['record']]
      assert row['predicted'] == max(probabilities, key=probabilities.get)
      assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
  assert len(set(seen)) == len(seen)


def test_metrics(finished):
  header, rows = read_csv(finished[0] / 'run' / 'fold0' / 'metrics.csv')
  assert header == (
    'phase,epoch,step,train_loss,validation_loss,validation_score,'
    'learning_rate,records_per_second,seconds'
  )
  places = [(row['phase'], row['epoch']) for row in rows]
  assert places == [(str(phase), '1') for phase in range(5)]
  rates = [float(row['learning_rate']) for row in rows]
  assert rates == [1e-3, 1e-3, 1e-3, 1e-4, 1e-5]
  assert all(row['validation_score'] for row in rows)


def test_scores(finished):
  scores = read_json(finished[0] / 'run' / 'fold0' / 'scores.json')
  assert set(scores) == {
    *('fold', 'seed', 'label_version', 'max_records', 'versions'),
    *('commit', 'best', 'sets'),
  }
  assert set(scores['best']) == {'phase', 'epoch'}
  # Phase 0 trains another network, which can never be the result.
  assert scores['best']['phase'] >= 1
  assert scores['max_records'] == 12
  assert set(scores['sets']) == {'train', 'validation', 'test'}
  for found in scores['sets'].values():
    assert set(found) == {
      *('records', 'score', 'accuracy', 'loss', 'classes', 'confusion')
    }
    assert sum(map(sum, found['confusion'])) == found['records']
    assert list(found['classes']) == ['N', 'A', 'O', '~']
    for values in found['classes'].values():
      assert set(values) == {
        *('f1', 'precision', 'recall', 'predicted', 'actual', 'correct'),
        'undefined',
      }


@pytest.fixture
def copied(finished, tmp_path):
  """A copy of that folder, and the command that made it but for the folds."""
  folder, _ = finished
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  return tmp_path, command(tmp_path, name='synthetic_ecg')


def contents(folder):
  return {
    path: (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob('*')
    if path.is_file() and path.name != '.lock'
  }


def test_a_finished_fold_is_not_repeated(copied):
  folder, arguments = copied
  before = contents(folder / 'run' / 'fold0')
  code, out, _ = run(*arguments, '--config.folds=0')
  assert code == 0
  assert '| pooled, 1 of 1 folds ' in out
  assert 'epoch' not in out.partition('\n\n')[0]
  assert contents(folder / 'run' / 'fold0') == before


def test_a_fold_is_added_later(copied, capsys):
  folder, arguments = copied
  workdir = folder / 'run'
  before = contents(workdir / 'fold0')
  config = read_json(workdir / 'config.json')
  code, out, _ = run(*arguments, '--config.folds=3')
  assert code == 0
  assert '| pooled, 2 of 2 folds ' in out
  assert contents(workdir / 'fold0') == before
  assert names(workdir / 'fold3') == FOLD_FILES
  config['config']['folds'] = [0, 3]
  assert read_json(workdir / 'config.json') == config
  (workdir / 'summary.json').unlink()
  capsys.readouterr()
  assert summarize.main([str(workdir)]) == 0
  lines = capsys.readouterr().out.splitlines()[2:]
  assert lines == out.splitlines()[-len(lines) :]
  summary = read_json(workdir / 'summary.json')
  assert list(summary['folds']) == ['0', '3']
  assert summary['missing'] == {}


def test_a_run_of_other_data_is_refused(copied):
  folder, arguments = copied
  path = folder / 'run' / 'config.json'
  content = read_json(path)
  content['digests']['labels']['v3'] = 'x' * 64
  path.write_text(json.dumps(content))
  before = contents(folder)
  err = refusal(*arguments, '--config.folds=1')
  assert 'holds a run whose labels had other content' in err
  assert contents(folder) == before


@pytest.mark.parametrize(('folds', 'expected'), [('2', 2), ('(0, 2)', 3)])
def test_a_fold_in_use_is_refused_and_the_others_stand(copied, folds, expected):
  folder, arguments = copied
  fold = folder / 'run' / 'fold2'
  with files.locked(fold, wait=False):
    code, out, err = run(*arguments, f'--config.folds={folds}')
  assert code == expected
  assert f'fold 2 failed: {fold} is in use by process ' in err
  assert 'Traceback' not in err
  assert 'fold 2 is not included' in out
  assert '| pooled, 1 of 2 folds ' in out
  assert not names(fold)
  assert names(folder / 'run' / 'fold0') == FOLD_FILES


def test_one_command_at_a_time_summarizes(copied, monkeypatch):
  """Else a slower one would write the summary of fewer folds last."""
  folder, arguments = copied
  alone = []

  def watched(function):
    def call(*given):
      refused = pytest.raises(InputError, match='in use by process')
      with refused, files.locked(folder / 'run', wait=False):
        pass
      alone.append(function.__name__)
      return function(*given)

    return call

  for module, name in (
    (summary, 'summarize_folders'),
    (tables, 'write_summaries'),
  ):
    monkeypatch.setattr(module, name, watched(getattr(module, name)))
  assert run(*arguments, '--config.folds=0')[0] == 0
  assert alone == ['summarize_folders', 'write_summaries']


def test_a_list_of_runs_with_seeds(copied, tmp_path):
  folder, arguments = copied
  alone = (folder / 'run' / 'fold0' / 'predictions.csv').read_bytes()
  path = tmp_path / 'weights.py'
  path.write_text(
    'from ecg_jax.configs import crnn\n'
    'def get_configs():\n'
    '  configs = {name: crnn.get_config() for name in ("paper", "even")}\n'
    '  configs["even"].class_weights = False\n'
    '  return configs\n'
  )
  workdir = tmp_path / 'list'
  arguments += [f'--config={path}', f'--workdir={workdir}']
  arguments += ['--config.folds=0', '--seeds=0,1']
  code, out, _ = run(*arguments)
  assert code == 0
  listed = ['even/seed0', 'even/seed1', 'paper/seed0', 'paper/seed1']
  rows = [line.split()[1] for line in out.splitlines() if 'mean ± sd' in line]
  assert rows == listed
  assert names(workdir) == {'even', 'paper', 'summary.json', 'summary.md'}
  for name in listed:
    assert names(workdir / name / 'fold0') == FOLD_FILES
    content = read_json(workdir / name / 'config.json')['config']
    assert name.startswith('paper') == content['class_weights']
    assert name.endswith(f'/seed{content["seed"]}')
  predictions = [
    (workdir / name / 'fold0' / 'predictions.csv').read_bytes()
    for name in listed
  ]
  assert predictions[2] == alone
  assert len(set(predictions)) == 4
  # A start after one run was lost makes that one again, and it alone.
  kept = [contents(workdir / name / 'fold0') for name in listed[:3]]
  shutil.rmtree(workdir / 'paper' / 'seed1')
  assert run(*arguments)[0] == 0
  assert [contents(workdir / name / 'fold0') for name in listed[:3]] == kept
  again = workdir / 'paper' / 'seed1' / 'fold0' / 'predictions.csv'
  assert again.read_bytes() == predictions[3]


def test_seeds():
  for text, seeds in ((None, ()), ('3', (3,)), ('0, 2,1', (0, 2, 1))):
    assert main._parse_seeds(text) == seeds
  for text in ['', 'x', '1,', '-1', '0.5', str(2**32)]:
    with pytest.raises(InputError, match=f"--seeds is '{text}': write whole"):
      main._parse_seeds(text)
  with pytest.raises(InputError, match="--seeds is '0,1,0': name each"):
    main._parse_seeds('0,1,0')
  assert "--seeds is '0,x'" in refusal(*TINY, '--seeds=0,x')


def test_flags_of_processes_go_together():
  flags = ('--coordinator_address=localhost:1', '--num_processes=2')
  assert 'go together: set all three' in refusal(*TINY, *flags)

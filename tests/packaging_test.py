"""What `pip install` makes of the repository, used from another folder."""

import email
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT, TINY

SUFFIXES = {
  *('.py', '.bib', '.html', '.md', '.tsv', '.txt', '.csv', '.zip', '.sha256')
}
TRAIN = """
import sys
from ecg_jax import main
from ecg_jax.datasets.synthetic_ecg import synthetic_ecg_dataset_builder
synthetic_ecg_dataset_builder.Builder.NUM_RECORDS = 60
sys.exit(main.main(sys.argv))
"""
# Runs an installed command; prints what is imported before and after.
PREDICT = """
import runpy, sys
from ecg_jax.prediction import predictor
print(*sys.modules)
del sys.argv[0]
try:
  runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as end:
  print(*sys.modules)
  sys.exit(end.code)
"""
# What reads datasets, trains, or draws, and what takes long to import.
NOT_FOR_PREDICTION = {
  *('tensorflow_datasets', 'grain', 'array_record', 'tensorboardX', 'sklearn'),
  *('optax', 'pandas', 'matplotlib', 'scipy', 'wfdb', 'h5py', 'pydicom'),
}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, built and installed into a folder of packages."""
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  # The build writes beside the sources.
  shutil.copytree(ROOT / 'ecg_jax', source / 'ecg_jax', symlinks=True)
  shutil.copytree(ROOT / 'configs', source / 'configs')
  for name in ('pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  install = ['pip', 'install', '--no-deps', '--no-build-isolation']
  to_site = ['--no-compile', '--target=site']
  subprocess.run(
    [sys.executable, '-m', *install, *to_site, str(source)],
    cwd=folder,
    check=True,
    capture_output=True,
  )
  # As within a project of its user, whose commit is not that of the package.
  for git in ('init -q', 'commit -q --allow-empty -m project'):
    name = ['-c', 'user.name=user', '-c', 'user.email=user@example.org']
    subprocess.run(['git', *name, *git.split()], cwd=folder, check=True)
  return folder / 'site'


@pytest.fixture(scope='module')
def run(wheel, tmp_path_factory):
  """Runs Python in a folder, by default an empty one, with these packages."""
  empty = tmp_path_factory.mktemp('empty')

  def call(*arguments, cwd=empty):
    return subprocess.run(
      [sys.executable, *map(str, arguments)],
      cwd=cwd,
      env={
        **os.environ,
        'PYTHONPATH': str(wheel),
        'JAX_PLATFORMS': 'cpu',
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      },
      capture_output=True,
      text=True,
    )

  return call


@pytest.fixture(scope='module')
def trained(run, tmp_path_factory):
  """A folder where a shipped config was trained, and its command line."""
  folder = tmp_path_factory.mktemp('trained')
  _, *small = TINY
  small += ['--config.data.name=synthetic_ecg', '--config.data.data_dir=data']
  small += ['--config.folds=0', '--config.tensorboard=false']
  small += ['--config.phases.kinds=("all",)', '--config.phases.epochs=1']
  small += ['--config.phases.learning_rates=(1e-3,)']
  done = run('-c', TRAIN, *small, '--config=ecg_jax:crnn:authors', cwd=folder)
  assert done.returncode == 0, done.stderr
  return folder, small


def files(folder):
  return {
    path.relative_to(folder).as_posix()
    for path in folder.rglob('*')
    if path.suffix in SUFFIXES
  }


def test_the_wheel_holds_the_package_its_data_and_the_configs(wheel):
  assert {path.name.partition('-')[0] for path in wheel.iterdir()} == {
    *('ecg_jax', 'bin')
  }
  configs = {f'configs/{name}' for name in files(ROOT / 'configs')}
  assert files(wheel / 'ecg_jax') == files(ROOT / 'ecg_jax') | configs


def test_it_requires_what_a_clone_does(wheel):
  [path] = wheel.glob('*.dist-info/METADATA')
  found = email.message_from_string(path.read_text()).get_all('Requires-Dist')
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  stated = [line.partition('#')[0].strip() for line in lines]
  extra = [line for line in found if 'extra ==' in line]
  assert sorted(map(canonical, {*found} - {*extra})) == sorted(
    canonical(line) for line in stated if line
  )
  # For the formats of some devices only.
  names = sorted(canonical(line)[0] for line in extra)
  assert names == ['h5py', 'pydicom']
  assert all(line.endswith('; extra == "devices"') for line in extra)


def canonical(requirement):
  name = requirement.partition('>')[0].partition('<')[0]
  return name, frozenset(requirement.removeprefix(name).split(','))


def test_commands_and_python_from_any_folder(run, wheel):
  script = 'import ecg_jax; ecg_jax.load; print(ecg_jax.__file__)'
  assert run('-c', script).stdout.startswith(str(wheel))
  assert 'usage' in run('-m', 'ecg_jax.predict', '--help').stdout
  summarize = wheel / 'bin' / 'ecg-jax-summarize'
  assert 'usage' in run(summarize, '--help').stdout
  train = wheel / 'bin' / 'ecg-jax-train'
  assert '--workdir' in run(train, '--help').stdout


def test_predicts_from_any_folder_with_few_libraries(wheel, run, trained):
  folder, _ = trained
  signal = np.random.default_rng(0).normal(0, 300, 3000).astype(np.int16)
  np.save(folder / 'a.npy', signal)
  done = run(
    *('-c', PREDICT, wheel / 'bin' / 'ecg-jax-predict'),
    *('--run', 'runs/crnn_authors', '--sampling_rate=300', '--units=counts'),
    'a.npy',
    cwd=folder,
  )
  assert done.returncode == 0, done.stderr
  before, *answer, after = done.stdout.splitlines()
  assert any(line.startswith('a ') for line in answer)
  assert not NOT_FOR_PREDICTION & {*after.split()}
  assert 'jax' in before.split()
  assert 'orbax' not in before.split()  # It reads the checkpoints of a run.


@pytest.mark.parametrize(
  'name',
  ['crnn_fast', 'crnn:authors', 'ablations', 'ablations:stride', 'quickstart'],
)
def test_shipped_configs_are_those_of_the_clone(run, name):
  there = run('-m', 'ecg_jax.main', '--config', f'ecg_jax:{name}', '--help')
  file, *rest = name.split(':')
  path = ':'.join([str(ROOT / 'configs' / f'{file}.py'), *rest])
  here = run('-m', 'ecg_jax.main', '--config', path, '--help')
  assert '--config.batch_size' in there.stdout
  assert there.stdout == here.stdout


def test_a_folder_named_configs_is_the_users(run, tmp_path):
  mine = tmp_path / 'configs'
  mine.mkdir()
  (mine / '__init__.py').write_text('raise AssertionError')
  (mine / 'crnn.py').write_text(
    'from ecg_jax.configs import crnn\n'
    'def get_config():\n'
    '  config = crnn.get_config("authors")\n'
    '  config.seed = 5\n'
    '  return config\n'
  )
  for config, seed in (('configs/crnn.py', 5), ('ecg_jax:ablations', 0)):
    command = ('-m', 'ecg_jax.main', '--config', config, '--help')
    found = run(*command, cwd=tmp_path)
    assert f'--config.seed {seed}\n' in found.stdout


def test_a_run_of_a_shipped_config_goes_on_by_its_path(run, trained):
  folder, small = trained
  path = folder / 'runs' / 'crnn_authors' / 'config.json'
  written = path.read_bytes()
  assert json.loads(written)['commit'] is None
  path_of_clone = ROOT / 'configs' / 'crnn.py'
  same = f'--config={path_of_clone}:authors'
  found = run('-c', TRAIN, *small, same, cwd=folder)
  assert found.returncode == 0, found.stderr
  assert 'epoch' not in found.stdout.partition('\n\n')[0]
  assert path.read_bytes() == written

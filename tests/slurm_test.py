"""The scripts of docs/clusters.md on a SLURM of two nodes, left alone and not.

Each job is what the page says, but with a small config and fewer processes.
"""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time

import pytest

from tests import helpers, slurm_cluster

ROUNDS = 10
"""Of each of two jobs, each disturbed once."""

EPOCHS = 6
"""Of each of two phases."""

MISSING = slurm_cluster.why_not()

pytestmark = [
  pytest.mark.skipif(not helpers.FULL, reason='for the full tests'),
  pytest.mark.skipif(bool(MISSING), reason=MISSING),
]

CONFIG = """
from ecg_jax.configs import crnn


def get_config():
  config = crnn.get_config()
  config.folds = (0, 1)
  config.data.name = 'synthetic_ecg'
  config.data.data_dir = {data!r}
  config.data.max_records = 24
  config.model.width = config.model.growth = config.model.lstm_units = 4
  config.model.blocks = config.model.layers_per_block = 1
  config.model.lstm_layers = 1
  config.buckets.training = config.buckets.evaluation = 1
  config.augmentation.resampling = False
  config.chunk_steps = 2
  config.batch_size = 4
  config.evaluation_batch_size = 6
  config.phases.kinds = ('auxiliary', 'all')
  config.phases.epochs = ({epochs}, {epochs})
  config.phases.learning_rates = (1e-2, 2e-3)
  config.patience_epochs = 9999
  config.validate_every_epochs = 2
  config.checkpoint_minutes = 0.01
  config.tensorboard = False
  return config
"""

LIST = """
import runpy


def get_configs():
  get_config = runpy.run_path('configs/crnn.py')['get_config']
  configs = {'paper': get_config(), 'mean': get_config()}
  for config in configs.values():
    config.folds = (0,)
    config.phases.epochs = (1, 1)
  configs['mean'].model.summary = 'mean'
  return configs
"""


def scripts():
  """The scripts of the page, in their order."""
  page = (helpers.ROOT / 'docs' / 'clusters.md').read_text()
  return re.findall(r'^```bash\n(#!/bin/bash\n.*?)^```', page, re.M | re.S)


FOLDS, LIST_OF_CONFIGS, SIXTEEN_GPUS = scripts()


def with_one_process_a_node(script):
  """What the page divides over 16 GPUs, over two CPUs."""
  for old, new in {
    '--ntasks-per-node=8 --gpus-per-node=8': '--ntasks-per-node=1',
    'devices_per_job 16': 'devices_per_job 2',
    'batch_size 320': 'batch_size 4',
  }.items():
    assert old in script
    script = script.replace(old, new)
  return script


TWO_NODES = with_one_process_a_node(SIXTEEN_GPUS)


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """Folder of the prepared data and the compiled programs."""
  return tmp_path_factory.mktemp('shared')


@pytest.fixture(scope='module')
def disk(tmp_path_factory):
  """A file system of 20 MB, which all nodes see."""
  folder = tmp_path_factory.mktemp('disk')
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=20m', 'none', str(folder)]
  subprocess.run(mount, check=True)
  yield folder
  subprocess.run(['umount', str(folder)], check=True)


@pytest.fixture(scope='module')
def cluster(shared, disk, tmp_path_factory):
  with slurm_cluster.Cluster(tmp_path_factory.mktemp('slurm')) as cluster:
    programs = (
      f'{os.path.dirname(sys.executable)}:{cluster.environment["PATH"]}'
    )
    cluster.environment |= {
      'PYTHONPATH': str(helpers.ROOT),
      'PATH': programs,
      'JAX_COMPILATION_CACHE_DIR': str(shared / 'cache'),
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'JAX_NUM_CPU_DEVICES': '1',
      'JAX_PLATFORMS': 'cpu',
    }
    yield cluster


class Folder:
  """A folder that commands are given in, with configs of the known names."""

  def __init__(self, path, cluster, shared):
    self.path, self.cluster = path, cluster
    (path / 'configs').mkdir(parents=True)
    self._data = str(shared / 'data')
    self.write_config(EPOCHS)
    (path / 'configs' / 'ablations.py').write_text(LIST)

  def write_config(self, epochs):
    config = CONFIG.format(data=self._data, epochs=epochs)
    (self.path / 'configs' / 'crnn.py').write_text(config)

  def run(self, *arguments, devices=1):
    """Runs the command itself, without SLURM."""
    done = subprocess.run(
      [sys.executable, '-m', 'ecg_jax.main', *arguments],
      cwd=self.path,
      env=self.cluster.environment | {'JAX_NUM_CPU_DEVICES': str(devices)},
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == 0, done.stderr

  def submit(self, script, *options):
    """Submits a script; returns the number of the job."""
    path = self.path / 'job.sh'
    path.write_text(script)
    command = ['sbatch', '--parsable', *options, str(path)]
    return self.cluster.run(*command, cwd=self.path)

  def output(self, job):
    """What all tasks of a job have printed."""
    paths = sorted(self.path.glob(f'slurm-{job}[._]*'))
    return '\n'.join(path.read_text() for path in paths)

  def states(self, job):
    """Of the job or of its tasks."""
    command = ['squeue', '--noheader', '-t', 'all', '-r', '-o', '%T', '-j', job]
    return self.cluster.run(*command).split()

  def end(self, job, *expected):
    """Waits until a job has ended as expected; returns what it printed."""
    over = {'COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL'}
    self.cluster.wait(lambda: {*self.states(job)} <= over, 400)
    output = self.output(job)
    assert self.states(job) == [*expected], output
    return output

  def fold(self, fold=0, run='crnn'):
    """The folder of a fold."""
    return self.path / 'runs' / run / f'fold{fold}'

  def wait_for_epochs(self, count, fold=0):
    """Waits until so many rows of metrics.csv are written."""
    path = self.fold(fold) / 'metrics.csv'
    self.cluster.wait(
      lambda: path.exists() and path.read_text().count('\n') > count, 300
    )

  def read(self, fold=0, run='crnn'):
    """The files of a fold, without times and rates."""
    return helpers.read_fold(self.fold(fold, run))


@pytest.fixture
def folder(tmp_path, cluster, shared):
  return Folder(tmp_path, cluster, shared)


@pytest.fixture(scope='module')
def alone(cluster, shared, tmp_path_factory):
  """What one process makes of both folds."""
  folder = Folder(tmp_path_factory.mktemp('alone'), cluster, shared)
  folder.run('--config', 'configs/crnn.py')
  return [folder.read(fold) for fold in range(2)]


@pytest.fixture(scope='module')
def together(cluster, shared, tmp_path_factory):
  """What one process with two devices makes of fold 0."""
  folder = Folder(tmp_path_factory.mktemp('together'), cluster, shared)
  arguments = TWO_NODES.split('--distributed')[1].split('code=')[0]
  words = arguments.replace('\\\n', ' ').replace('"', '').split()
  folder.run('--config', 'configs/crnn.py', *words, devices=2)
  return folder.read()


def reads_well(output):
  """Whether no library says how it ends."""
  return not re.search(
    'Traceback|stack trace|terminate called|^F1', output, re.M
  )


def test_folds_as_an_array(folder, alone):
  job = folder.submit(FOLDS, '--array=0-1')
  output = folder.end(job, 'COMPLETED', 'COMPLETED')
  assert reads_well(output)
  assert [folder.read(fold) for fold in range(2)] == alone
  summary = folder.path / 'runs' / 'crnn' / 'summary.json'
  assert len(json.loads(summary.read_text())['folds']) == 2


def test_one_job_over_two_nodes(folder, together):
  output = folder.end(folder.submit(TWO_NODES), 'COMPLETED')
  assert reads_well(output)
  assert folder.read()[1] == together[1]


def test_list_of_configs_with_a_seed_for_each_task(folder, tmp_path):
  job = folder.submit(LIST_OF_CONFIGS, '--array=0-1')
  assert reads_well(folder.end(job, 'COMPLETED', 'COMPLETED'))
  alone = Folder(tmp_path / 'alone', folder.cluster, tmp_path)
  alone.run('--config', 'configs/ablations.py', '--seeds', '0,1')
  for name in ('paper', 'mean'):
    for seed in range(2):
      run = f'ablations/{name}/seed{seed}'
      assert folder.read(run=run) == alone.read(run=run)
  path = folder.path / 'runs' / 'ablations' / 'summary.json'
  assert (
    path.read_text()
    == (alone.path / 'runs' / 'ablations' / 'summary.json').read_text()
  )


def take_down(cluster, node):
  """Takes a node out of service, and back once its processes are gone."""
  update = ['scontrol', 'update', f'nodename={node}']
  cluster.run(*update, 'state=down', 'reason=test')
  time.sleep(10)
  cluster.run(*update, 'state=resume')


def lose(cluster, node):
  """Switches a node off, and on once that has been noticed."""
  cluster.kill(node)
  cluster.wait(lambda: {*cluster.states()} & {'down', 'down*'}, 100)
  cluster.start(node)


DISTURBANCES = {
  'SIGTERM': lambda cluster, job, node: cluster.run(
    'scancel', '--signal=TERM', job
  ),
  'requeued': lambda cluster, job, node: cluster.run(
    'scontrol', 'requeue', job
  ),
  'node taken down': lambda cluster, job, node: take_down(cluster, node),
  'node lost': lambda cluster, job, node: lose(cluster, node),
}


@pytest.mark.parametrize('number', range(ROUNDS))
@pytest.mark.parametrize('kind', ['array', 'two nodes'])
def test_disturbed_job_ends_as_if_left_alone(
  kind, number, folder, alone, together
):
  rng = random.Random(f'{kind} {number}')
  name = [*DISTURBANCES][number % len(DISTURBANCES)]
  moment, node = rng.randrange(2 * EPOCHS - 5), rng.choice(slurm_cluster.NODES)
  print(kind, name, moment, node)
  is_array = kind == 'array'
  if is_array:
    job = folder.submit(FOLDS, '--array=0-1')
  else:
    job = folder.submit(TWO_NODES)
  folder.wait_for_epochs(moment)
  DISTURBANCES[name](folder.cluster, f'{job}_0' if is_array else job, node)
  output = folder.end(job, *['COMPLETED'] * (1 + is_array))
  assert reads_well(output), output
  assert output.count('trainable parameters') > 1 + is_array
  if is_array:
    assert [folder.read(fold) for fold in range(2)] == alone
  else:
    assert folder.read()[1] == together[1]


def test_preempted_job_goes_on(folder, together):
  job = folder.submit(TWO_NODES)
  folder.wait_for_epochs(2)
  options = ['-p', 'urgent', '-N2', '--exclusive', '--wrap', 'sleep 1']
  folder.cluster.run('sbatch', *options, cwd=folder.path)
  output = folder.end(job, 'COMPLETED')
  assert reads_well(output)
  assert 'Interrupted (SIGTERM): start again' in output
  assert output.count('trainable parameters') == 2
  assert folder.read()[1] == together[1]


def test_job_at_its_time_limit_goes_on(folder):
  folder.write_config(epochs=999)
  job = folder.submit(TWO_NODES)
  folder.wait_for_epochs(1)
  # A minute, of which it is warned at once.
  folder.cluster.run('scontrol', 'update', f'jobid={job}', 'timelimit=1')
  folder.cluster.wait(lambda: folder.states(job) == ['PENDING'], 100)
  stopped = len(folder.output(job))
  folder.cluster.run('scontrol', 'update', f'jobid={job}', 'timelimit=10')
  folder.cluster.wait(lambda: 'epoch' in folder.output(job)[stopped:], 200)
  folder.cluster.run('scancel', job)
  output = folder.output(job)
  assert reads_well(output)
  assert 'Interrupted (SIGTERM): start again' in output[:stopped]
  epochs = [int(x) for x in re.findall(r', epoch (\d+) of', output)]
  # Nothing is done again.
  assert epochs == [*range(1, len(epochs) + 1)]


def test_job_on_a_full_disk_goes_on_once_there_is_room(folder, disk, alone):
  (folder.path / 'runs').symlink_to(disk)
  job = folder.submit(FOLDS, '--array=0')
  folder.wait_for_epochs(2)
  filler = disk / 'filler'
  with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(4096))
  output = folder.end(job, 'FAILED')
  assert reads_well(output)
  assert 'free some space' in output
  filler.unlink()
  folder.cluster.run('scontrol', 'requeue', f'{job}_0')
  folder.cluster.wait(lambda: folder.states(job) != ['FAILED'], 60)
  folder.end(job, 'COMPLETED')
  assert folder.read() == alone[0]


def test_second_array_on_the_same_folder_is_refused(folder):
  folder.write_config(epochs=999)
  options = ['--array=0-1', '--cpus-per-task=4']
  first = folder.submit(FOLDS, *options)
  for fold in range(2):
    folder.wait_for_epochs(1, fold)
  output = folder.end(folder.submit(FOLDS, *options), 'FAILED', 'FAILED')
  assert reads_well(output)
  for fold in range(2):
    assert re.search(
      rf'runs/crnn/fold{fold} is in use by process \d+ on n\d: wait', output
    )
    rows = (folder.fold(fold) / 'metrics.csv').read_text().count('\n')
    folder.wait_for_epochs(rows + 1, fold)
  assert folder.states(first) == ['RUNNING', 'RUNNING']
  folder.cluster.run('scancel', first)

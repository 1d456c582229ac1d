"""Folds at once in processes of their own: the command, killed and stopped."""

import csv
import json
import multiprocessing
import os
import pathlib
import signal
import time
import types

import jax
import pytest

from ecg_jax import configuration
from ecg_jax.errors import InputError, TrainingError
from ecg_jax.runtime import files
from ecg_jax.training import fold_processes, train_runs
from tests import helpers

EPOCHS = 6

many = pytest.mark.skipif(not helpers.FULL, reason='for the full tests')


class Folds(helpers.Command):
  """Folds 0 and 1 of a small run, at once."""

  def __init__(self, folder, shared):
    super().__init__(folder, shared)
    self.set('folds', '(0, 1)')
    self.set('phases.kinds', "('all',)")
    self.set('phases.epochs', f'({EPOCHS},)')
    self.set('phases.learning_rates', '(1e-2,)')
    self.set('patience_epochs', 9999)
    self.set('jobs_per_device', 2)

  def process(self, fold):
    """The process that trains a fold, once it has saved; None before."""
    folder = self.workdir / f'fold{fold}'
    if not list(folder.glob('checkpoints/[0-9]*/manifest.json')):
      return None
    holder = (folder / '.lock').read_text().split()
    return int(holder[1]) if holder else None

  def start_training(self, *folds):
    """Starts; returns the process, and those of folds once these have saved."""
    started = self.start()
    while not all(own := [self.process(fold) for fold in folds]):
      assert started.poll() is None, started.communicate()
      time.sleep(0.02)
    assert len({started.pid, *own}) == 1 + len(folds)
    return started, own

  def rows(self, fold):
    """The epochs of a fold, without times and rates."""
    text = (self.workdir / f'fold{fold}' / 'metrics.csv').read_text()
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
      del row['seconds'], row['records_per_second']
    return rows

  def read(self, fold):
    """What a finished fold leaves."""
    names = ('scores.json', 'predictions.csv', 'validation_predictions.csv')
    folder = self.workdir / f'fold{fold}'
    return self.rows(fold), [(folder / name).read_text() for name in names]


def is_alive(process):
  """Whether a process runs, not only waits for its parent to hear its end."""
  try:
    stat = pathlib.Path(f'/proc/{process}/stat').read_text()
  except OSError:
    return False
  return stat.rpartition(') ')[2][0] != 'Z'


def wait_for_the_end(processes):
  """Fails if one of them lives on."""
  end = time.monotonic() + 20
  while any(map(is_alive, processes)):
    assert time.monotonic() < end
    time.sleep(0.02)


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """Folder of the prepared data and the compiled programs."""
  return tmp_path_factory.mktemp('shared')


@pytest.fixture(scope='module')
def alone(shared, tmp_path_factory):
  """Both folds by one process, one after the other."""
  command = Folds(tmp_path_factory.mktemp('alone'), shared)
  command.set('jobs_per_device', 1)
  command.finish()
  return [command.read(fold) for fold in (0, 1)]


@pytest.fixture
def command(shared, tmp_path):
  return Folds(tmp_path, shared)


def test_folds_that_fail_are_named_and_the_other_ends_as_if_alone(
  command, alone
):
  command.set('folds', '(0, 1, 2)')
  with files.locked(command.workdir / 'fold2', wait=False):
    started, [own] = command.start_training(0)
    os.kill(own, signal.SIGKILL)  # Fold 2 takes its place.
    out, err = started.communicate(timeout=100)
  assert started.returncode == 3, err
  assert 'fold 0 failed: its process ended (SIGKILL): start again with' in err
  assert 'fold 2 failed: ' in err
  assert f'fold2 is in use by process {os.getpid()} on ' in err
  assert err.splitlines()[-1].startswith('fold 0, fold 2 failed: start again')
  assert 'Traceback' not in err
  assert '1 of 3 folds' in out
  assert command.read(1) == alone[1]
  assert command.in_training()
  # What is left is done by one process, from where the other was.
  command.set('folds', '(0, 1)')
  command.set('jobs_per_device', 1)
  out = command.finish()
  assert f'fold 0, phase 0 of 0-0, epoch {EPOCHS} of {EPOCHS}' in out
  assert 'fold 1,' not in out.partition('\n')[2]
  assert command.read(0) == alone[0]


@many
def test_signal_saves_all_folds(command):
  command.set('phases.epochs', '(9999,)')
  command.set('checkpoint_minutes', 99)
  command.set('validate_every_epochs', 5)
  started, own = command.start_training(0, 1)
  # As a scheduler does, and a terminal at Ctrl-C.
  for process in (*own, started.pid):
    os.kill(process, signal.SIGTERM)
  _, err = started.communicate(timeout=100)
  assert started.returncode == 143, err
  assert err == (
    'Interrupted (SIGTERM): start again with the same command to go on.\n'
  )
  assert not any(map(is_alive, own))
  for fold in (0, 1):
    # Saved when it was stopped, not at the last validation alone.
    folder = command.workdir / f'fold{fold}' / 'checkpoints'
    latest = max(folder.glob('[0-9]*'), key=lambda path: int(path.name))
    progress = json.loads((latest / 'progress' / 'metadata').read_text())
    assert progress['epoch'] == len(command.rows(fold))


def test_a_fold_ends_when_the_command_is_gone():
  script = (
    'import multiprocessing, threading, time\n'
    'from ecg_jax.training import fold_processes\n'
    'command, fold = multiprocessing.Pipe()\n'
    'stopped = threading.Event()\n'
    'arguments = fold, stopped\n'
    'threading.Thread(target=fold_processes._listen, args=arguments).start()\n'
    'command.send("stop")\n'
    'print(stopped.wait(60), flush=True)\n'
    'command.close()\n'
    'time.sleep(60)\n'
  )
  assert helpers.run_python(script, code=1).stdout == 'True\n'


@pytest.mark.parametrize(
  ('said', 'code', 'finished', 'stopped', 'kind'),
  [
    (None, 0, True, False, None),
    (None, 0, False, True, None),
    (('It is in use.', 2), 0, False, False, InputError),
    (('It is not finite.', 1), 0, False, False, TrainingError),
    (None, -signal.SIGSEGV, False, False, TrainingError),
    (None, 1, False, False, TrainingError),
    (None, -signal.SIGSEGV, True, False, None),  # After its last file.
    (None, -signal.SIGKILL, False, True, None),
  ],
)
def test_how_a_process_ends_is_how_its_fold_does(
  said, code, finished, stopped, kind, capsys
):
  process = object.__new__(fold_processes._FoldProcess)
  process.connection, theirs = multiprocessing.Pipe()
  if said:
    theirs.send(said)
  theirs.close()
  process.job = types.SimpleNamespace(name='fold 3', finished=finished)
  process._stopped = stopped
  process._process = types.SimpleNamespace(exitcode=code, join=lambda: None)
  error = process.end()
  assert (kind is None and error is None) or type(error) is kind
  err = capsys.readouterr().err
  if said:
    assert (str(error), err) == (said[0], '')
  elif kind:
    how = 'SIGSEGV' if code < 0 else 'exit code 1'
    assert err.startswith(f'fold 3 failed: its process ended ({how}): start')
    assert err == f'{error}\n'


def test_a_fold_is_told_its_device_before_jax_is_imported():
  helpers.run_python(
    'import sys\n'
    'from ecg_jax.training import fold_processes\n'
    "assert 'jax' not in sys.modules\n"
  )


def test_the_command_leaves_the_devices_to_the_folds():
  helpers.run_python(
    'import jax\n'
    'from ecg_jax.runtime import device_sharing\n'
    'from ecg_jax.training import fold_processes, train_runs\n'
    'device_sharing.find_devices = lambda: None\n'
    'train_runs._shared_devices(2)\n'
    'assert jax.devices()[0].platform == "cpu"\n',
    JAX_PLATFORMS='devices_that_are_not_there',
  )


@many
def test_no_fold_outlives_a_command_that_is_killed(command):
  command.set('phases.epochs', '(9999,)')
  started, own = command.start_training(0, 1)
  started.kill()
  started.communicate(timeout=100)
  wait_for_the_end(own)


@many
def test_folds_that_fail_end_the_command_as_without_processes(command):
  command.set('folds', '(0,)')
  fold = command.workdir / 'fold0'
  with files.locked(fold, wait=False):
    _, err = command.end(code=2)
  sentence = f'{fold} is in use by process {os.getpid()} on '
  assert f'fold 0 failed: {sentence}' in err
  assert err.splitlines()[-1].startswith(sentence)
  assert 'Traceback' not in err


def test_folds_that_have_several_devices_are_refused(command):
  command.set('devices_per_job', 2)
  fields = [a for a in command.arguments if a.startswith('--config')]
  with pytest.raises(InputError) as caught:
    configuration.parse(configuration.define_flags(), ['main', *fields])
  assert str(caught.value) == (
    'jobs_per_device is 2: it must be 1 where devices_per_job is above 1.'
  )


def test_several_processes_of_the_command_are_refused(monkeypatch):
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  with pytest.raises(InputError, match='jobs_per_device is 3, and several'):
    train_runs._shared_devices(3)

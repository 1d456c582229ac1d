"""Several processes of the command, over loopback, on one device each."""

import os
import re
import shutil
import signal
import socket
import threading
import time

import jax
import numpy as np
import pytest

from ecg_jax.errors import InputError
from ecg_jax.runtime import multihost
from tests import helpers

EPOCHS = 6
COUNTS = (2, 4) if helpers.FULL else (2,)


def free_port():
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def end_all(started, *codes):
  """What processes printed, and to stderr, which end with these codes."""
  ended = [process.communicate(timeout=300) for process in started]
  assert [process.returncode for process in started] == [*codes], ended
  return ended


class Processes(helpers.Command):
  """The command in one work folder, in several processes."""

  def __init__(self, folder, shared, count, devices_per_job, folds='(0,)'):
    super().__init__(folder, shared)
    self.count = count
    self.environment['JAX_NUM_CPU_DEVICES'] = '1'
    self.set('folds', folds)
    self.set('phases.kinds', "('all',)")
    self.set('phases.epochs', f'({EPOCHS},)')
    self.set('phases.learning_rates', '(1e-2,)')
    self.set('devices_per_job', devices_per_job)
    self.set('trees.rounds', 2)
    self.set('trees.least_leaf_records', 2)

  def start_all(self, *own):
    """Starts all processes, each with arguments of its own, if given."""
    port = free_port()
    given = list(self.arguments)
    started = []
    for process_id in range(self.count):
      self.arguments = [
        *given,
        f'--coordinator_address=localhost:{port}',
        f'--num_processes={self.count}',
        f'--process_id={process_id}',
        *(own[process_id] if own else ()),
      ]
      started.append(self.start())
    self.arguments = given
    return started

  def finish_all(self):
    """Runs all to the end; returns what each printed."""
    return [out for out, _ in end_all(self.start_all(), *[0] * self.count)]

  def start_training(self):
    """Starts all; returns them once one of them has saved."""
    started = self.start_all()
    while not self.in_training():
      assert all(process.poll() is None for process in started)
      time.sleep(0.05)
    return started

  def read(self, fold=0):
    """The files of a fold, without times and rates."""
    return helpers.read_fold(self.workdir / f'fold{fold}')


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  return tmp_path_factory.mktemp('shared')


@pytest.fixture(scope='module')
def alone(shared, tmp_path_factory):
  """One process with as many devices as there are processes."""
  found = {}
  for count in COUNTS:
    command = Processes(tmp_path_factory.mktemp('alone'), shared, 1, count)
    command.environment['JAX_NUM_CPU_DEVICES'] = str(count)
    command.finish()
    found[count] = command.read()
  return found


@pytest.mark.skipif(not helpers.FULL, reason='for the full tests')
@pytest.mark.parametrize('count', COUNTS)
def test_one_job_over_all_processes_is_killed_and_goes_on(
  count, shared, alone, tmp_path
):
  command = Processes(tmp_path, shared, count, devices_per_job=count)
  started = command.start_training()
  started[-1].send_signal(signal.SIGKILL)
  first, *others = started
  _, err = first.communicate(timeout=100)
  assert first.returncode == 3
  assert err.splitlines()[-1].startswith('fold 0 failed in process 0: start')
  assert 'Traceback' not in err
  for process in others:
    process.communicate(timeout=100)
    # By itself, by JAX where the first was gone before, or killed above.
    assert process.returncode in (3, -signal.SIGABRT, -signal.SIGKILL)
  # Another start of it goes on in one process.
  single = Processes(tmp_path / 'single', shared, 1, devices_per_job=count)
  single.environment['JAX_NUM_CPU_DEVICES'] = str(count)
  shutil.copytree(command.workdir, single.workdir)
  single.finish()
  outs = command.finish_all()
  assert 'epoch 6 of 6' in outs[0]
  assert not any('epoch' in out for out in outs[1:])
  rows, files = command.read()
  expected_rows, _ = alone[count]
  for found in (rows, single.read()[0]):
    for a, b in zip(found, expected_rows, strict=True):
      losses = [float(row['train_loss']) for row in (a, b)]
      np.testing.assert_allclose(*losses, rtol=1e-4)
  # An undisturbed run gives the same bits.
  undisturbed = Processes(tmp_path / 'other', shared, count, count)
  undisturbed.finish_all()
  assert undisturbed.read() == (rows, files)


@pytest.mark.parametrize('signaled', [(0, 1), (1,)])
def test_one_job_over_all_processes_saves_on_sigterm(
  shared, tmp_path, signaled
):
  """Also where a scheduler signals only one that does not coordinate."""
  command = Processes(tmp_path, shared, 2, devices_per_job=2)
  command.set('phases.epochs', '(400,)')
  command.set('patience_epochs', 400)
  command.set('checkpoint_minutes', 99)
  started = command.start_training()
  for number in signaled:
    started[number].send_signal(signal.SIGTERM)
  for _, err in end_all(started, 143, 143):
    assert err.splitlines()[-1].startswith('Interrupted (SIGTERM)')
  metrics = command.workdir / 'fold0' / 'metrics.csv'
  epochs = len(metrics.read_text().splitlines())
  assert command.kept() >= (0, epochs - 1)


def test_who_ends_tells_the_others(shared, tmp_path):
  command = Processes(tmp_path, shared, 2, devices_per_job=1)
  told = end_all(command.start_all((), ('--workdir=/proc/none',)), 3, 2)
  sentences = [err.splitlines()[-1] for _, err in told]
  assert sentences[1].startswith('/proc/none cannot be written to')
  assert sentences[0] == f'Process 1 has ended: {sentences[1]}'
  assert not any('Traceback' in err for _, err in told)


@pytest.mark.parametrize('count', COUNTS)
def test_jobs_are_divided_over_processes(count, shared, tmp_path):
  command = Processes(tmp_path, shared, count, 1, folds='(0, 1, 2)')
  outs = command.finish_all()
  for fold in range(3):
    told = [f'fold {fold}, ' in out for out in outs]
    assert told == [process == fold % count for process in range(count)]
    command.read(fold)
  assert '3 of 3 folds' in outs[0]
  assert not any('3 of 3 folds' in out for out in outs[1:])


def test_data_that_differ_are_refused(monkeypatch):
  monkeypatch.setattr(multihost, 'exchange', lambda *_: ['a', 'b'])
  with pytest.raises(InputError, match='different configs or data'):
    multihost.check_alike('begin', {})


@pytest.mark.parametrize('process', [0, 1])
def test_a_folder_that_is_not_shared_is_refused(tmp_path, monkeypatch, process):
  """The other process has a folder of its own."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: process)
  saw = ['True', 'False']

  def exchange(topic, text, members):
    assert members == range(2)
    if topic == 'file':
      assert (tmp_path / text).exists()
      return ['.x.tmp', ''] if process else [text, '']
    assert text == saw[process]
    return saw

  monkeypatch.setattr(multihost, 'exchange', exchange)
  with pytest.raises(InputError, match='not the same folder for process 1 as'):
    multihost.check_shared(tmp_path)
  monkeypatch.setattr(multihost, 'exchange', lambda *_: ['.', '.'])
  multihost.check_shared(tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'address', ['', 'host', 'host:', 'host:x', ':1234', ':::', 'a:0', 'a:65536']
)
def test_addresses_that_are_none_are_refused(address):
  with pytest.raises(InputError, match=re.escape(f'address is {address!r}: ')):
    multihost.begin(address, 1, 0)


def test_a_port_in_use_is_refused():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(InputError, match=f'Port {port} of .* cannot be opened'):
      multihost.begin(f'localhost:{port}', 2, 0)


def test_an_address_where_nobody_answers_is_refused(monkeypatch):
  monkeypatch.setattr(multihost, '_LONGEST_START', 0.3)
  port = free_port()
  with pytest.raises(InputError, match=f'Nobody answers at .*:{port} '):
    multihost.begin(f'localhost:{port}', 2, 1)


def test_alone_nobody_is_asked():
  assert multihost.exchange('topic', 'said', [0]) == ['said']
  said = iter([False, True])
  flag = multihost.agreed(lambda: next(said), 'topic', (0,))
  assert [flag(), flag()] == [False, True]


def test_who_waits_on_the_devices_ends_with_a_member_that_leaves(
  monkeypatch, capsys
):
  codes, left = [], [(2, 'No member.'), (1, 'It has failed.')]
  monkeypatch.setattr(multihost, '_LONGEST_END', 0.2)
  monkeypatch.setattr(multihost, '_left', lambda: left)
  monkeypatch.setattr(multihost, 'leave', lambda _: None)
  monkeypatch.setattr(os, '_exit', codes.append)
  with multihost.watched((0, 1)):
    while not codes:
      time.sleep(0.01)
    left.clear()
  assert codes == [3]
  assert capsys.readouterr().err == 'Process 1 has ended: It has failed.\n'


def test_who_ends_in_time_is_left_to_end(monkeypatch):
  codes, asked = [], threading.Event()
  monkeypatch.setattr(
    multihost, '_left', lambda: asked.set() or [(1, 'It has failed.')]
  )
  monkeypatch.setattr(os, '_exit', codes.append)
  with multihost.watched((0, 1)):
    assert asked.wait(10)
  assert not codes


@pytest.mark.parametrize(
  ('kind', 'text', 'said'),
  [
    (
      jax.errors.JaxRuntimeError,
      'UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore',
      'Another process has ended or is out of reach (UNKNOWN: Gloo all-reduce'
      ' failed: Connection closed by peer).',
    ),
    (jax.errors.JaxRuntimeError, 'INTERNAL: a defect', 'None'),
    (jax.errors.JaxRuntimeError, '', 'None'),
    (ValueError, 'Gloo', 'None'),
  ],
)
def test_a_connection_that_breaks_off_is_told_from_a_defect(kind, text, said):
  assert str(multihost.broken_off(kind(text), (0, 1))) == said
  assert multihost.broken_off(kind(text), (0,)) is None

"""Tests of ecg_jax.runtime.signals: signals, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT, run_python

SCRIPT = """
import contextlib, hashlib, os, sys, time
from ecg_jax import cli, errors
from ecg_jax.runtime import signals

signals.GRACE_SECONDS = float(sys.argv[2])

def say(text):
  print(text, flush=True)

def outside(loop):
  say('ready')
  time.sleep(60)

@contextlib.contextmanager
def stopped(loop):
  with loop() as stop:
    say('ready')
    while not stop():
      time.sleep(0.01)
    yield
  say('not reached')

def stops(loop):
  with stopped(loop):
    say('saved')

def saves(loop):
  with stopped(loop):
    say('asked')
    sys.stdin.readline()
    say('saved')

def goes_on(loop):
  with loop() as stop:
    say('ready')
    while True:
      if stop():
        say('asked')
      time.sleep(0.1)

def compiled(loop):
  with loop() as stop:
    say('ready')
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)

def swallowed(loop):
  try:
    outside(loop)
  except KeyboardInterrupt:
    say('lost')

def converted(loop):
  try:
    outside(loop)
  except KeyboardInterrupt:
    raise ImportError('while it was initialised')

def fails(loop):
  with stopped(loop):
    raise errors.InputError('No space.')

def run():
  with signals.handled() as loop:
    globals()[sys.argv[1]](loop)
  return 0

sys.exit(cli.run_command(run, debug=False))
"""


class Process:
  """The script in one of its ways, ready for a signal."""

  def __init__(self, way, grace=60):
    pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
    script = [sys.executable, '-c', SCRIPT, way, str(grace)]
    self._process = subprocess.Popen(script, cwd=ROOT, text=True, **pipes)
    assert self._process.stdout.readline() == 'ready\n'

    self.send = self._process.send_signal

  def line(self):
    return self._process.stdout.readline().strip()

  def let_go_on(self):
    self._process.stdin.write('\n')
    self._process.stdin.flush()

  def end_unread(self):
    """Exit code, where nobody reads stderr."""
    with self._process as process:
      process.stderr.close()
      self.send(signal.SIGTERM)
      return process.wait(30)

  def end(self):
    """Exit code, what else it printed, and what to stderr."""
    with self._process as process:
      out, err = process.communicate(timeout=30)
    return process.returncode, out, err


ADVICE = 'start again with the same command to go on.'


@pytest.mark.parametrize('way', ['outside', 'stops'])
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_first_signal_ends_at_once_or_as_the_loop_does(way, name):
  process = Process(way)
  number = signal.Signals[name]
  process.send(number)
  assert process.end() == (
    128 + number,
    'saved\n' if way == 'stops' else '',
    f'Interrupted ({name}): {ADVICE}\n',
  )


def test_second_signal_ends_a_loop_that_goes_on():
  process = Process('goes_on')
  process.send(signal.SIGTERM)
  assert process.line() == 'asked'
  time.sleep(1.1)
  process.send(signal.SIGINT)
  code, _, err = process.end()
  told = f'Interrupted (SIGTERM): {ADVICE} The last checkpoint stands.\n'
  assert (code, err) == (143, told)


def test_signal_that_comes_twice_at_once_is_one():
  process = Process('saves')
  process.send(signal.SIGTERM)
  assert process.line() == 'asked'
  process.send(signal.SIGTERM)
  process.let_go_on()
  code, out, _ = process.end()
  assert (code, out) == (143, 'saved\n')


@pytest.mark.parametrize('way', ['swallowed', 'converted'])
def test_signal_that_other_code_gets_hold_of_still_ends(way):
  process = Process(way)
  process.send(signal.SIGTERM)
  code, _, err = process.end()
  assert (code, err) == (143, f'Interrupted (SIGTERM): {ADVICE}\n')


@pytest.mark.parametrize('way', ['goes_on', 'stops'])
def test_ends_though_nobody_reads_what_it_says(way):
  assert Process(way, grace=0.5).end_unread() == 143


@pytest.mark.parametrize('way', ['goes_on', 'compiled'])
def test_loop_that_takes_too_long_is_ended(way):
  process = Process(way, grace=0.5)
  # Not ended by any grace before a signal came.
  time.sleep(1)
  process.send(signal.SIGTERM)
  code, _, err = process.end()
  assert code == 143
  assert err.endswith('The last checkpoint stands.\n')


def test_error_while_stopping_is_told():
  process = Process('fails')
  process.send(signal.SIGTERM)
  assert process.end() == (2, '', 'No space.\n')


HANDLERS = """
import signal
from ecg_jax.runtime import signals
before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
with signals.handled():
  assert signal.getsignal(signal.SIGTERM) != before[0]
assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
assert signal.set_wakeup_fd(-1) == -1
"""


def test_handlers_are_put_back():
  run_python(HANDLERS)

"""Runs that are stopped at any moment end as the undisturbed run does.

The command itself, in processes that are killed: at random moments, and at
chosen points within a save, an evaluation, the writing of each artifact.
"""

import contextlib
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from ecg_jax import configuration, experiment
from ecg_jax.datasets.synthetic_ecg import synthetic_ecg_dataset_builder
from ecg_jax.training.job import make_job
from tests import helpers
from tests.helpers import EPOCHS, Command

KILLS = 20 if helpers.FULL else 2
"""At random moments, and so many restarts."""

many = pytest.mark.skipif(not helpers.FULL, reason='for the full tests')


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """Folder of the prepared data and the compiled programs."""
  return tmp_path_factory.mktemp('shared')


@pytest.fixture(scope='module')
def read(read_result, shared):
  """All that a finished run leaves but times and rates."""

  def read(command):
    fields = [a for a in command.arguments if a.startswith('--config')]
    config = configuration.parse(configuration.define_flags(), ['x', *fields])
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(synthetic_ecg_dataset_builder.Builder, 'NUM_RECORDS', 60)
      [data] = experiment.load_data([config])
    found = read_result(make_job(config, data, 0, command.workdir))
    found['progress'].seconds = 0.0
    for name in ('config.json', 'labels.csv', 'summary.json'):
      found[name] = (command.workdir / name).read_text()
    left = [path.name for path in command.workdir.rglob('*')]
    assert not [name for name in left if name.endswith('.tmp')]
    return found

  return read


@pytest.fixture(scope='module')
def undisturbed(shared, read, tmp_path_factory):
  command = Command(tmp_path_factory.mktemp('undisturbed'), shared)
  command.finish()
  return read(command)


@pytest.fixture
def command(shared, tmp_path):
  return Command(tmp_path, shared)


@pytest.fixture(scope='module')
def killed(shared, tmp_path_factory):
  """Folder of a run that was killed in training, after several saves."""
  command = Command(tmp_path_factory.mktemp('killed'), shared)
  command.kill_at('save', 8)
  assert command.in_training()
  return command.workdir


@pytest.fixture
def ends_the_same(undisturbed, read):
  """Runs a command to its end, which is that of the undisturbed one."""

  def check(command):
    out, err = command.end()
    assert read(command) == undisturbed
    return out, err

  return check


def epochs(out):
  """Phase and epoch of each line about one."""
  found = re.findall(r'phase (\d+) of .*?, epoch (\d+) of', out)
  return [(int(phase), int(epoch)) for phase, epoch in found]


class Output:
  """Collects what a process prints while it runs."""

  def __init__(self, process):
    self._process, self.text, self._seen = process, '', threading.Event()
    self._thread = threading.Thread(target=self._read)
    self._thread.start()

  def _read(self):
    for line in self._process.stdout:
      self.text += line
      if ', epoch ' in line:
        self._seen.set()

  def wait_for_an_epoch(self):
    assert self._seen.wait(60)

  def end(self):
    """What it printed; and what to stderr."""
    with self._process as process:
      process.wait(60)
      self._thread.join()
      return self.text, process.stderr.read()


def test_killed_at_random_moments(command, ends_the_same):
  rng = random.Random(0)
  in_training, resumed, ended, kept, last = 0, 0, 0, None, (0, 0)
  for _ in range(KILLS):
    process = command.start()
    output = Output(process)
    if rng.random() > 0.2:
      output.wait_for_an_epoch()
      while not command.in_training() and process.poll() is None:
        time.sleep(0.01)
      time.sleep(rng.uniform(0, 0.8))
    else:
      time.sleep(rng.uniform(0, 3))
    process.kill()
    seen = epochs(output.end()[0])
    if seen and kept:
      assert seen[0] > kept
      resumed += 1
    kept = command.kept()
    in_training += command.in_training()
    last = seen[-1] if seen else last
    if process.returncode == 0 or last == (1, EPOCHS):
      ends_the_same(command)
      shutil.rmtree(command.workdir)
      ended, kept, last = ended + 1, None, (0, 0)
  ends_the_same(command)
  print(
    f'killed {KILLS} times, {in_training} of them in training, {resumed}'
    f' restarts resumed, {ended + 1} runs ended as the undisturbed one'
  )
  assert in_training >= KILLS / 2
  assert resumed >= KILLS / 4


@pytest.mark.parametrize(
  'name', ['SIGTERM', 'SIGINT'] if helpers.FULL else ['SIGTERM']
)
def test_signal_saves_and_the_run_goes_on(undisturbed, command, read, name):
  command.set('checkpoint_minutes', 99)
  process = command.start()
  output = Output(process)
  output.wait_for_an_epoch()
  number = signal.Signals[name]
  process.send_signal(number)
  out, err = output.end()
  seen = epochs(out)
  assert process.returncode == 128 + number
  assert err.endswith(
    f'Interrupted ({name}): start again with the same command to go on.\n'
  )
  assert command.in_training()
  first, *_ = epochs(command.finish())
  # Nothing is done again: what was not told before is the next epoch.
  assert first > seen[-1]
  # In config.json stands how often a state was to be saved.
  nothing = {'config.json': ''}
  assert read(command) | nothing == undisturbed | nothing


POINTS = {
  'writing': (1, 4, 9),
  'save': (1, 3),
  'commit': (1, 2),
  'evaluation': (2, 11, 13),
  'file:manifest.json': (1, 4),
  'file:metrics.csv': (1, 5),
  'file:config.json': (1,),
  'file:labels.csv': (1,),
  'file:predictions.csv': (1,),
  'file:validation_predictions.csv': (1,),
  'file:scores.json': (1,),
  'file:summary.json': (1,),
}


@many
@pytest.mark.parametrize(
  ('point', 'time'),
  [(p, time) for p, times in POINTS.items() for time in times],
)
def test_killed_at_a_point(command, ends_the_same, point, time):
  command.kill_at(point, time)
  ends_the_same(command)


def test_damaged_checkpoint_gives_way_to_the_one_before(
  killed, command, ends_the_same
):
  shutil.copytree(killed, command.workdir)
  checkpoints = command.workdir / 'fold0' / 'checkpoints'
  whole = [path for path in checkpoints.iterdir() if path.name.isdecimal()]
  latest = max(whole, key=lambda path: int(path.name))
  assert int(latest.name) > 0
  largest = max(latest.rglob('*'), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  _, err = ends_the_same(command)
  name = largest.relative_to(latest).as_posix()
  assert f'{latest}: {name} has been changed; going on from' in err


@many
def test_folds_of_one_run_in_two_processes_at_once(shared, tmp_path):
  together, alone = (
    [Command(tmp_path / name, shared) for _ in range(2)]
    for name in ('together', 'alone')
  )
  for commands in (together, alone):
    for fold, command in enumerate(commands):
      command.set('folds', f'({fold},)')
  processes = [command.start() for command in together]
  for process in processes:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
  for command in alone:
    command.finish()
  found, expected = together[0].workdir, alone[0].workdir
  for fold in range(2):
    for name in (f'fold{fold}/scores.json', f'fold{fold}/predictions.csv'):
      assert (found / name).read_text() == (expected / name).read_text()
  config = json.loads((found / 'config.json').read_text())
  assert config['config']['folds'] == [0, 1]


def test_killed_while_the_dataset_is_prepared(undisturbed, command, tmp_path):
  command.set('data.data_dir', f'{tmp_path}/data')
  command.kill_at('preparation', 20)
  assert not list((tmp_path / 'data').glob('synthetic_ecg/*.*.*/*'))
  command.finish()
  scores = json.loads(undisturbed['scores.json'])
  found = json.loads((command.workdir / 'fold0' / 'scores.json').read_text())
  assert found == scores


def test_save_that_fails_leaves_the_last_checkpoint(
  killed, command, ends_the_same
):
  shutil.copytree(killed, command.workdir)
  _, err = command.end('limit', 4000, code=2)
  assert 'Traceback' not in err
  assert re.search(
    r'^No checkpoint could be written to .* \(.*File too large\)', err, re.M
  )
  assert command.in_training()
  ends_the_same(command)


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 300 KB, where this process may mount one."""
  folder = tmp_path / 'small'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=300k', 'none', str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip('needs the right to mount a file system')
  yield folder
  subprocess.run(['umount', str(folder)], check=True)


def test_run_on_a_full_disk_goes_on_once_there_is_room(
  killed, shared, small_disk, ends_the_same
):
  command = Command(small_disk, shared)

  def refusal():
    _, err = command.end(code=2)
    assert 'Traceback' not in err
    return err.splitlines()[-1]

  message = r'A checkpoint takes .* MB and .* has 0\.\d MB left'
  assert re.match(message, refusal())
  resize = ['mount', '-o', 'remount,size=9m', str(small_disk)]
  subprocess.run(resize, check=True)
  shutil.copytree(killed, command.workdir, dirs_exist_ok=True)
  filler = small_disk / 'filler'
  with filler.open('wb', buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(bytes(4096))
  assert 'free some space' in refusal()
  assert command.in_training()
  filler.unlink()
  ends_the_same(command)


@many
def test_memory_files_and_threads_stay_flat(command):
  epochs_ = 300
  command.set('phases.epochs', f'({epochs_}, {epochs_})')
  command.set('patience_epochs', 999)
  command.set('augmentation.bursts', False)
  command.set('checkpoint_minutes', 0.02)
  process = command.start()
  output = Output(process)
  proc = pathlib.Path(f'/proc/{process.pid}')
  samples = []
  while process.poll() is None:
    done = len(epochs(output.text))
    try:
      status = (proc / 'status').read_text()
      size = int(re.search(r'VmRSS:\s+(\d+)', status)[1])
      threads = int(re.search(r'Threads:\s+(\d+)', status)[1])
      samples.append((done, size, threads, len(list((proc / 'fd').iterdir()))))
    except (OSError, TypeError):
      break
    time.sleep(0.2)
  _, err = output.end()
  assert process.returncode == 0, err
  # Once every program of the last phase was compiled, and at its end.
  last = [s for s in samples if epochs_ + 20 < s[0] < 2 * epochs_]
  tenth = len(last) // 10
  begin, end = (
    [sorted(values)[len(values) // 2] for values in zip(*part, strict=True)]
    for part in (last[:tenth], last[-tenth:])
  )
  print(f'epochs, KiB, threads, files: {begin} at first, {end} at last')
  assert end[1] < 1.02 * begin[1]
  # A save under way has some of its own.
  assert end[2] <= begin[2] + 5
  assert end[3] <= begin[3] + 5

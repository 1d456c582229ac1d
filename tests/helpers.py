"""What several test files use."""

import csv
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys

from hypothesis import settings
from hypothesis import strategies as st

from ecg_jax.datasets.physionet2017 import source
from ecg_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
"""Folder of the repository."""

FULL = bool(os.environ.get('ECG_JAX_FULL_TESTS'))
"""Whether kills, corruptions and inputs are counted in hundreds."""

TINY = [
  '--config=ecg_jax:crnn',
  '--config.model.width=4',
  '--config.model.growth=4',
  '--config.model.blocks=1',
  '--config.model.layers_per_block=1',
  '--config.model.lstm_units=4',
  '--config.model.lstm_layers=1',
  '--config.buckets.training=1',
  '--config.buckets.evaluation=1',
  '--config.augmentation.resampling=false',
  '--config.chunk_steps=2',
  '--config.max_epochs=1',
  '--config.data.max_records=12',
  '--config.batch_size=6',
  '--config.evaluation_batch_size=6',
]
"""Command line of a config that trains a phase in a second."""

DUMMY = pathlib.Path(source.__file__).with_name('dummy_data')
"""Folder of made-up records in the form of the PhysioNet 2017 set."""


def run_python(script, *arguments, code=0, cwd=ROOT, **environment):
  """Runs a script in a process of its own.

  Args:
    script: Python.
    arguments: Of the script.
    code: The exit code that it is to end with.
    cwd: Where it runs; it can import from the repository anywhere.
    environment: Variables beside those of this process.

  Returns:
    The completed process, with its output as text.
  """
  done = subprocess.run(
    [sys.executable, '-c', script, *map(str, arguments)],
    cwd=cwd,
    env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
    capture_output=True,
    text=True,
    timeout=100,
  )
  assert done.returncode == code, done.stderr
  return done


def use_dummy_as_official(monkeypatch):
  """Has the dummy files taken for the official ones; returns them."""
  files = source.read_folder(DUMMY)
  records = sorted(name for name in files if name.endswith('.mat'))
  digests = {name: hashlib.sha256(files[name]).hexdigest() for name in files}
  lines = ''.join(f'{name[:6]} {digests[name]}\n' for name in records)
  content_digest = hashlib.sha256(lines.encode()).hexdigest()
  monkeypatch.setattr(source, 'CONTENT_DIGEST', content_digest)
  for version, name in source.LABEL_FILES.items():
    monkeypatch.setitem(source.LABEL_DIGESTS, version, digests[name])
  return files


INPUTS = 10_000 if FULL else 100
"""Of each reader."""

fuzzed = settings(
  max_examples=INPUTS,
  deadline=5000,
  suppress_health_check=list(settings().suppress_health_check),
)


@st.composite
def mutated(draw, content):
  """The bytes of a file after a few accidents."""
  changed = bytearray(content)
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, len(changed)))
    count = draw(st.integers(1, 40))
    match draw(st.integers(0, 5)):
      case 0 if at < len(changed):
        changed[at] ^= 1 << draw(st.integers(0, 7))
      case 1:
        del changed[at : at + count]
      case 2:
        changed[at:at] = draw(st.binary(max_size=20))
      case 3:
        changed[at:at] = changed[at : at + count]
      case 4:
        del changed[at:]
      case _:
        new = draw(st.sampled_from([b'\0', b'\xff', b'-1', b'[', b'"', b',\n']))
        changed[at : at + len(new)] = new
  return bytes(changed)


def accepts_or_explains(read):
  """Whether a reader took its input; anything but InputError is an error."""
  try:
    read()
  except InputError as error:
    text = str(error)
    assert text.endswith('.')
    assert '\n' not in text
    assert len(text) < 2000
    return False
  return True


EPOCHS = 10
"""Of each phase of `Command`."""

# Kills itself where it was told to: POINT is 'NAME' or 'NAME:FILE', TIME counts
# the calls from 1. Or it cannot write files of more than TIME bytes.
SCRIPT = """
import os, pathlib, resource, signal, sys, time
from ecg_jax import main
from ecg_jax.beats import features
from ecg_jax.datasets.synthetic_ecg import synthetic_ecg_dataset_builder
from ecg_jax.evaluation import eval_step
from ecg_jax.runs import checkpoint
from tests import few_features

features._of_recording = few_features.of_recording
synthetic_ecg_dataset_builder.Builder.NUM_RECORDS = 60
point, _, file = sys.argv[1].partition(':')
left = int(sys.argv[2])

def kill():
  global left
  left -= 1
  if not left:
    os.kill(os.getpid(), signal.SIGKILL)

def kills_at(owner, name, applies=lambda *args: True):
  original = getattr(owner, name)
  def replacement(*args, **kwargs):
    if applies(*args):
      kill()
    return original(*args, **kwargs)
  setattr(owner, name, replacement)

if point == 'save':
  kills_at(checkpoint, 'describe')
elif point == 'writing':
  # Orbax writes in threads of its own.
  save = checkpoint.ocp.CheckpointManager.save
  checkpoint.ocp.CheckpointManager.save = (
    lambda *args, **kwargs: (save(*args, **kwargs), time.sleep(0.01), kill())
  )
elif point == 'commit':
  kills_at(checkpoint, '_inventory')
elif point == 'evaluation':
  kills_at(eval_step, 'collect')
elif point == 'limit':
  resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))
elif point == 'preparation':
  builder = synthetic_ecg_dataset_builder
  kills_at(builder.generator, 'generate_record')
elif point == 'file':  # manifest.json is written by another thread.
  kills_at(os, 'replace', lambda old, new: pathlib.Path(new).name == file)
sys.exit(main.main(['main', *sys.argv[3:]]))
"""


class Command:
  """The command in one work folder, on one device."""

  def __init__(self, folder, shared):
    self.workdir = folder / 'run'
    self.arguments = [
      *TINY,
      '--config.data.name=synthetic_ecg',
      '--config.data.max_records=24',
      '--config.folds=(0,)',
      '--config.batch_size=4',
      '--config.max_epochs=999',
      '--config.phases.kinds=("auxiliary", "all")',
      f'--config.phases.epochs=({EPOCHS}, {EPOCHS})',
      '--config.phases.learning_rates=(1e-2, 2e-3)',
      '--config.validate_every_epochs=2',
      '--config.checkpoint_minutes=0.002',
      '--config.tensorboard=false',
      f'--workdir={self.workdir}',
      f'--config.data.data_dir={shared}/data',
    ]
    self.environment = {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(shared / 'cache'),
      'JAX_PLATFORMS': 'cpu',
    }

  def set(self, field, value):
    """Sets a field of the config; given twice, values of a tuple add up."""
    option = f'--config.{field}='
    self.arguments = [a for a in self.arguments if not a.startswith(option)]
    self.arguments.append(f'{option}{value}')

  def start(self, point='none', time=1):
    return subprocess.Popen(
      [sys.executable, '-c', SCRIPT, point, str(time), *self.arguments],
      cwd=ROOT,
      env=self.environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def end(self, point='none', time=1, *, code=0):
    """Runs to the end; returns what it printed, and what to stderr."""
    process = self.start(point, time)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err

  def finish(self):
    """Runs to the end; returns what it printed."""
    return self.end()[0]

  def kill_at(self, point, time):
    """Runs until it kills itself."""
    self.end(point, time, code=-signal.SIGKILL)

  def in_training(self):
    """Whether the fold has a checkpoint and is not finished."""
    fold = self.workdir / 'fold0'
    checkpoints = fold / 'checkpoints'
    return (
      checkpoints.is_dir()
      and any(path.name.isdecimal() for path in checkpoints.iterdir())
      and not (fold / 'scores.json').exists()
    )

  def kept(self):
    """Phase and complete epochs of the latest checkpoint, None without one."""
    checkpoints = self.workdir / 'fold0' / 'checkpoints'
    whole = checkpoints.glob('[0-9]*/manifest.json')
    latest = max((int(path.parent.name) for path in whole), default=None)
    if latest is None:
      return None
    path = checkpoints / str(latest) / 'progress' / 'metadata'
    progress = json.loads(path.read_text())
    return progress['phase'], progress['epoch']


def read_fold(folder):
  """The files of a fold: metrics without times and rates, and the texts."""
  rows = list(csv.DictReader((folder / 'metrics.csv').read_text().splitlines()))
  for row in rows:
    del row['seconds'], row['records_per_second']
  names = ('scores.json', 'predictions.csv', 'validation_predictions.csv')
  return rows, [(folder / name).read_text() for name in names]

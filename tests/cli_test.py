"""How commands end: exit codes, sentences for mistakes, tracebacks else."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ecg_jax import cli, configuration, evaluate, export, main, predict
from ecg_jax.datasets import folds
from ecg_jax.errors import (
  Help,
  InputError,
  Interrupted,
  PartialFailure,
  TrainingError,
)
from tests.helpers import ROOT
from tools import (
  benchmark,
  calibrate,
  plot_augmentation,
  plot_mistakes,
  summarize,
)


def failing(error, cause=None):
  def run():
    raise error from cause

  return run


@pytest.mark.parametrize(
  ('error', 'code', 'message'),
  [
    (InputError('This is wrong.'), 2, 'This is wrong.'),
    (PartialFailure('Two failed.'), 3, 'Two failed.'),
    (TrainingError('It is infinite.'), 1, 'It is infinite.'),
    (KeyboardInterrupt(), 130, 'Interrupted (SIGINT).\n'),
    (Interrupted(), 130, 'Interrupted (SIGINT): start again'),
    (Interrupted(15), 143, 'Interrupted (SIGTERM): start again'),
    (RuntimeError('RESOURCE_EXHAUSTED: 9 GB.\n x'), 1, 'Out of memory (RES'),
    (BrokenPipeError('closed'), 1, 'Failed (BrokenPipeError: closed).'),
  ],
)
def test_a_mistake_is_one_sentence_and_a_traceback_on_demand(
  capsys, error, code, message
):
  for cause in (None, KeyError('x') if code != 3 else InputError('No.')):
    assert cli.run_command(failing(error, cause), debug=False) == code
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith(message)
    assert err.count('\n') == 1
  assert cli.run_command(failing(error), debug=True) == code
  err = capsys.readouterr().err
  assert err.startswith('Traceback')
  assert message in err


@pytest.mark.parametrize('debug', [False, True])
@pytest.mark.parametrize(
  ('error', 'cause', 'code'),
  [
    (ZeroDivisionError('by 0'), None, 1),
    (TypeError('a layer'), InputError('No.'), 1),
    (KeyError('field'), None, 1),
    (PartialFailure('Two failed.'), AttributeError('by 0'), 3),
  ],
)
def test_a_defect_has_its_traceback(capsys, error, cause, code, debug):
  assert cli.run_command(failing(error, cause), debug=debug) == code
  err = capsys.readouterr().err
  assert 'Traceback' in err
  assert 'cli_test.py' in err
  for part in (error, cause):
    assert part is None or f'{type(part).__name__}: {part}' in err
  last = str(error) if code == 3 else f'Failed ({type(error).__name__}: {error}'
  assert err.splitlines()[-1].startswith(last)


def test_a_defect_in_a_layer_shows_where_it_is(tmp_path, monkeypatch, capsys):
  """Through a whole command."""
  monkeypatch.setattr(
    configuration, 'parse_all', lambda *_: [].missing_attribute
  )
  assert main.main(['main', '--config', 'configs/crnn.py']) == 1
  err = capsys.readouterr().err
  assert err.startswith('Traceback')
  assert '[].missing_attribute' in err


@pytest.mark.parametrize(
  ('line', 'code'), [('return {}[3]', 1), ("raise ValueError('No.')", 2)]
)
def test_a_defect_in_a_config_shows_where_it_is(tmp_path, capsys, line, code):
  """Unlike a ValueError, with which a config refuses an argument."""
  path = tmp_path / 'broken.py'
  path.write_text(f'def get_config():\n  {line}\n')
  assert main.main(['main', '--config', str(path)]) == code
  err = capsys.readouterr().err
  assert f'The config {path} cannot be used (' in err.splitlines()[-1]
  assert (f'{path}", line 2' in err) == (code == 1)
  assert (err.count('\n') == 1) == (code == 2)


def test_help_is_printed_and_is_no_error(capsys):
  assert cli.run_command(failing(Help('Usage.')), debug=False) == 0
  assert capsys.readouterr() == ('Usage.\n', '')


@pytest.mark.parametrize('module', [main, evaluate, export, predict])
def test_advice_for_too_little_memory_is_a_flag_of_the_command(
  capsys, monkeypatch, module
):
  def fail(*_):
    raise RuntimeError('RESOURCE_EXHAUSTED: 9 GB.')

  monkeypatch.setattr(configuration, 'parse_all', fail)
  monkeypatch.setattr(cli.ArgumentParser, 'parse_args', fail)
  assert module.main(['x', '--config', 'configs/crnn.py']) == 1
  message = capsys.readouterr().err
  assert message.startswith('Out of memory (RESOURCE_EXHAUSTED: 9 GB.): ')
  assert ('--config.batch_size' in message) == (module is main)
  assert ('JAX_PLATFORMS=cpu' in message) == (module is not main)


@pytest.mark.parametrize(
  'arguments',
  [['x'], ['--run', 'x'], ['--run=x'], ['--debug', 'x'], ['--run', '~/x']],
)
def test_a_run_folder_is_an_argument_or_a_flag(arguments, monkeypatch):
  monkeypatch.setenv('HOME', '/home/a')
  parser = cli.ArgumentParser()
  parser.add_argument('run_folder', type=cli.path_argument)
  options = parser.parse_args(cli.without_run_flag(arguments))
  assert str(options.run_folder) == arguments[-1].removeprefix(
    '--run='
  ).replace('~', '/home/a')
  assert options.debug == ('--debug' in arguments)


def test_help_may_be_cut_off_by_its_reader():
  command = f'{sys.executable} -m ecg_jax.main --config ecg_jax:crnn --help'
  found = subprocess.run(
    ['bash', '-c', f'set -o pipefail; {command} | head -n 1'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (found.returncode, found.stderr) == (0, '')
  assert found.stdout.startswith('--config: FILE')


def shell(line, **environment):
  """Runs a line of the shell, `python` being this one."""
  return subprocess.run(
    ['sh', '-c', line.replace('python', sys.executable)],
    cwd=ROOT,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=False,
  )


HELP = 'python -m ecg_jax.main --config ecg_jax:crnn --help'


@pytest.mark.parametrize(
  ('redirection', 'code', 'words'),
  [
    ('>&-', 0, ''),
    ('2>&-', 0, ''),
    ('<&- >&- 2>&-', 0, ''),
    pytest.param(
      '>/dev/full',
      2,
      'The output cannot be written (No space left on device)',
      marks=pytest.mark.skipif(not os.path.exists('/dev/full'), reason='Linux'),
    ),
  ],
)
def test_standard_streams_may_be_closed_or_full(redirection, code, words):
  done = shell(f'exec {HELP} {redirection}')
  assert done.returncode == code, done.stderr
  assert done.stderr.startswith(words)
  assert done.stderr.count('\n') == bool(words)


def test_a_file_is_not_taken_for_a_closed_stream(tmp_path):
  script = (
    'from ecg_jax import cli; import os, sys;'
    ' cli.run_command(lambda: os.open(sys.argv[1], os.O_CREAT), debug=False)'
    ' or os.write(1, b"lost")'
  )
  done = shell(f"exec python -c '{script}' {tmp_path}/a >&-")
  assert (done.returncode, done.stderr) == (0, '')
  assert not (tmp_path / 'a').read_bytes()


@pytest.mark.parametrize(
  ('command', 'platforms'),
  [
    ('main', 'none_such'),
    ('evaluate', 'none_such'),
    ('predict', 'none_such'),
    ('export', 'none_such'),
    ('predict', 'cuda'),
  ],
)
def test_a_device_that_is_not_there_is_named(
  command, platforms, small_run, tmp_path
):
  np.save(tmp_path / 'a.npy', np.zeros(9000, np.int16))
  arguments = {
    'main': f'--config ecg_jax:crnn --workdir {tmp_path}/run',
    'evaluate': f'{small_run}',
    'predict': f'--run {small_run} {tmp_path}/a.npy --sampling_rate 300'
    ' --units mV',
    'export': f'{small_run} --out {tmp_path}/exported',
  }
  line = f'python -m ecg_jax.{command} {arguments[command]}'
  done = shell(line, JAX_PLATFORMS=platforms, CUDA_VISIBLE_DEVICES='')
  assert done.returncode == 2
  assert done.stderr.startswith(f"JAX_PLATFORMS is '{platforms}', and JAX fi")
  assert done.stderr.endswith('leave it out to use what there is.\n')
  assert done.stderr.count('\n') == 1
  assert not done.stdout


@pytest.mark.parametrize(
  ('module', 'arguments', 'words'),
  [
    (main, ('--workdir=',), '--workdir is empty'),
    (main, ('--workdir', ''), '--workdir is empty'),
    (main, ('--seeds=',), '--seeds is empty'),
    (main, ('--coordinator_address=',), '--coordinator_address is empty'),
    (main, ('--config.data.data_dir=',), '--config.data.data_dir is empty'),
    (main, ('--config.data.manual_dir=',), '--config.data.manual_dir is empty'),
    (main, ('--config.data.folds_file=',), '--config.data.folds_file is empty'),
    (main, ('--config.init_from=',), '--config.init_from is empty'),
    (benchmark, ('--json=',), '--json is empty'),
    (benchmark, ('--profile', ''), '--profile is empty'),
    (plot_augmentation, ('--out=',), '--out is empty'),
    (evaluate, ('',), 'RUN_FOLDER: an empty path'),
    (evaluate, ('x', '--data_dir='), '--data_dir: an empty path'),
    (evaluate, ('x', '--manual_dir', ''), '--manual_dir: an empty path'),
    (export, ('x', '--out='), '--out: an empty path'),
    (predict, ('x', '--run='), '--run: an empty path'),
    (predict, ('x', '--run=x', '--out='), '--out: an empty path'),
    (plot_mistakes, ('x', '--out='), '--out: an empty path'),
    (calibrate, ('',), 'RUN_FOLDER: an empty path'),
    (summarize, ('',), 'RUN_FOLDER: an empty path'),
    (summarize, ('x', '--plot='), '--plot: an empty path'),
    (folds, ('--labels=', '--out', 'x'), '--labels: an empty path'),
    (folds, ('--labels', 'x', '--out='), '--out: an empty path'),
  ],
)
def test_an_empty_path_is_no_folder(
  refusal, tmp_path, monkeypatch, module, arguments, words
):
  """As of a variable of the shell that is not set."""
  if module in (main, benchmark, plot_augmentation):
    arguments = ('x', '--config', 'ecg_jax:crnn', *arguments)
  monkeypatch.chdir(tmp_path)
  assert words in refusal(module.main, *arguments)
  assert not list(tmp_path.iterdir())

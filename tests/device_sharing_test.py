"""What processes that share devices are told; MPS is a script here."""

import os
import pathlib
import signal
import stat
import subprocess
import time

import pytest

from ecg_jax.errors import InputError
from ecg_jax.runtime import device_sharing
from ecg_jax.runtime.device_sharing import Devices
from tests.helpers import run_python

GPUS = Devices('gpu', (0, 1))
OLD_NAME = 'XLA_PYTHON_CLIENT_MEM_FRACTION'
NEW_NAME = 'XLA_CLIENT_MEM_FRACTION'

# Notes how it is called, and runs while its folder has a file `running`.
CONTROL = """#!/bin/sh
folder=${CUDA_MPS_PIPE_DIRECTORY:-$DEFAULT}
if [ "$1" = -d ]; then
  echo "start sees ${CUDA_VISIBLE_DEVICES-all}" >> "$NOTES"
  [ -z "$BROKEN" ] && touch "$folder/running"
  exit
fi
read command
[ -e "$folder/running" ] || exit 1
echo "$command" >> "$NOTES"
[ "$command" = quit ] && rm "$folder/running"
exit 0
"""


@pytest.fixture
def notes(tmp_path, monkeypatch):
  """What the program that controls MPS was asked; it is there, but not MPS."""
  program = tmp_path / 'bin' / 'nvidia-cuda-mps-control'
  program.parent.mkdir()
  program.write_text(CONTROL)
  program.chmod(program.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv('PATH', str(program.parent), prepend=os.pathsep)
  monkeypatch.setenv('NOTES', str(tmp_path / 'notes'))
  monkeypatch.setenv('DEFAULT', str(tmp_path))
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  monkeypatch.setattr('tempfile.tempdir', None)
  monkeypatch.delenv('CUDA_MPS_PIPE_DIRECTORY', raising=False)
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,3')
  found = tmp_path / 'notes'
  found.touch()
  return found


@pytest.fixture
def answers(monkeypatch):
  """What JAX says under MPS; the environments in which it was asked."""
  asked = []

  def use(answer):
    def ask(environment, seconds):
      asked.append(environment)
      if isinstance(answer, Exception):
        raise answer
      return answer

    monkeypatch.setattr(device_sharing, '_ask', ask)
    return asked

  return use


@pytest.mark.parametrize(
  ('environment', 'expected'),
  [
    ({}, ('1', OLD_NAME, '0.2500')),
    ({'CUDA_VISIBLE_DEVICES': '2, 5'}, ('5', OLD_NAME, '0.2500')),
    ({'CUDA_VISIBLE_DEVICES': 'GPU-a,GPU-b'}, ('GPU-b', OLD_NAME, '0.2500')),
    ({OLD_NAME: '.9'}, ('1', OLD_NAME, '0.3000')),
    ({NEW_NAME: '.6'}, ('1', NEW_NAME, '0.2000')),
    ({OLD_NAME: '', NEW_NAME: '.6'}, ('1', NEW_NAME, '0.2000')),
  ],
)
def test_a_process_has_one_gpu_and_its_share_of_the_memory(
  environment, expected
):
  found = device_sharing.variables(GPUS, 1, 3, environment, {})
  visible, limit, share = expected
  assert found == {
    'CUDA_VISIBLE_DEVICES': visible,
    'JAX_CUDA_VISIBLE_DEVICES': 'all',
    limit: share,
  }


def test_gpus_are_counted_as_jax_and_a_service_of_our_own_count_them():
  limited = Devices('gpu', (1,))  # By JAX_CUDA_VISIBLE_DEVICES=1.
  own = {'CUDA_VISIBLE_DEVICES': 'GPU-a,GPU-b'}
  found = device_sharing.variables(limited, 0, 2, own, {})
  assert found['CUDA_VISIBLE_DEVICES'] == 'GPU-b'
  mps = {'CUDA_MPS_PIPE_DIRECTORY': '/there'}
  found = device_sharing.variables(limited, 0, 2, own, mps)
  assert found['CUDA_VISIBLE_DEVICES'] == '1'
  assert found['CUDA_MPS_PIPE_DIRECTORY'] == '/there'


def test_the_devices_of_this_machine(monkeypatch):
  monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '3')
  found = device_sharing.find_devices()
  assert found == Devices('cpu', (0, 1, 2))
  told = device_sharing.variables(found, 2, 2, os.environ, {})
  assert told == {'JAX_NUM_CPU_DEVICES': '1'}


@pytest.mark.parametrize('platform', ['cuda', 'nonsense'])
def test_devices_that_are_not_there_are_refused(monkeypatch, platform):
  monkeypatch.setenv('JAX_PLATFORMS', platform)
  with pytest.raises(InputError) as caught:
    device_sharing.find_devices()
  sentence = str(caught.value)
  assert sentence.startswith(f'JAX_PLATFORMS is {platform!r}, and JAX finds no')
  assert sentence.endswith('leave it out to use what there is.')
  assert '\n' not in sentence
  assert '()' not in sentence


def test_devices_that_cannot_be_shared_are_refused(monkeypatch):
  monkeypatch.setattr(device_sharing, '_ask', lambda _: Devices('tpu', (0,)))
  with pytest.raises(InputError, match="of the kind 'tpu'"):
    device_sharing.find_devices()


def test_the_service_runs_for_the_processes_and_no_longer(
  notes, answers, capsys
):
  asked = answers(GPUS)
  with device_sharing.multi_process_service(GPUS) as mps:
    folder = pathlib.Path(mps['CUDA_MPS_PIPE_DIRECTORY'])
    assert mps['CUDA_MPS_LOG_DIRECTORY'] == str(folder)
    assert (folder / 'running').exists()
    assert notes.read_text() == 'start sees 2,3\n'
  # It has been told what to see, and counts those devices from 0.
  assert 'CUDA_VISIBLE_DEVICES' not in asked[0]
  assert asked[0]['CUDA_MPS_PIPE_DIRECTORY'] == str(folder)
  assert notes.read_text() == 'start sees 2,3\nquit\n'
  assert not folder.exists()
  assert not capsys.readouterr().out


def test_the_service_ends_with_a_command_that_is_killed(notes):
  run_python(
    'import os, signal\n'
    'from ecg_jax.runtime import device_sharing\n'
    'from ecg_jax.runtime.device_sharing import Devices\n'
    f'device_sharing._ask = lambda *_: {GPUS!r}\n'
    f'with device_sharing.multi_process_service({GPUS!r}):\n'
    '  os.kill(os.getpid(), signal.SIGKILL)\n',
    code=-signal.SIGKILL,
  )
  end = time.monotonic() + 20
  while notes.read_text() != 'start sees 2,3\nquit\n':
    assert time.monotonic() < end
    time.sleep(0.02)


def test_a_service_that_runs_already_is_used_and_left(
  notes, answers, tmp_path, capsys
):
  asked = answers(GPUS)
  (tmp_path / 'running').touch()
  with device_sharing.multi_process_service(GPUS) as mps:
    assert mps == {}
  assert notes.read_text() == 'get_server_list\n'
  assert not asked
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  'answer',
  [
    Devices('gpu', (0,)),
    Devices('cpu', (0, 0)),
    subprocess.CalledProcessError(1, 'python'),
    subprocess.TimeoutExpired('python', 60),
  ],
)
def test_a_service_that_does_not_work_is_ended_and_left_out(
  notes, answers, capsys, answer
):
  answers(answer)
  with device_sharing.multi_process_service(GPUS) as mps:
    assert mps == {}
    assert notes.read_text() == 'start sees 2,3\nquit\n'
  out = capsys.readouterr().out
  assert out.startswith('Folds take turns on each GPU, since MPS')
  assert out.count('\n') == 1


def test_without_the_service_folds_take_turns(notes, monkeypatch, capsys):
  monkeypatch.setenv('BROKEN', '1')  # It says that it started, and ends.
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  with device_sharing.multi_process_service(GPUS) as mps:
    assert mps == {}
  monkeypatch.setenv('PATH', '/usr/bin:/bin')
  with device_sharing.multi_process_service(GPUS) as mps:
    assert mps == {}
  assert capsys.readouterr().out.count('Folds take turns') == 2

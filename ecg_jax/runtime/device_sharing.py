"""Devices that several processes share: which there are, what each gets, MPS.

This process leaves them alone: a GPU's memory is for those that share it.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

from ecg_jax.errors import InputError

_QUESTION = """
import sys, jax
try:
  for device in jax.local_devices():
    jax.block_until_ready(jax.device_put(1.0, device))
    print(device.platform, device.local_hardware_id or 0)
except (AssertionError, RuntimeError) as error:
  sys.exit(' '.join(str(error).split()) or 'no package of JAX supports it')
"""

_CONTROL = 'nvidia-cuda-mps-control'

# Waits until its input ends, which it does however the command ends.
_QUIT = f'read _; echo quit | {_CONTROL}; rm -rf "$CUDA_MPS_PIPE_DIRECTORY"'

_MPS_SECONDS = 60.0
"""In which MPS answers, if it does."""

_JAX_SHARE = 0.75
"""Of a GPU's memory, as JAX itself takes. A process needs some hundred MB more,
for its CUDA context and libraries: the rest is for those of all."""


@dataclasses.dataclass(frozen=True)
class Devices:
  """Devices of one kind."""

  platform: str
  """'cpu' or 'gpu'."""
  numbers: tuple[int, ...]
  """Of each, as CUDA counts those that it is told to see."""


def find_devices() -> Devices:
  """The devices that JAX finds here.

  Raises:
    InputError: There are none of those asked for, or no processes share them.
  """
  try:
    devices = _ask(os.environ)
  except subprocess.CalledProcessError as error:
    *_, reason = error.stderr.splitlines()
    raise InputError(
      f'JAX_PLATFORMS is {os.environ.get("JAX_PLATFORMS")!r}, and JAX finds no'
      f' such device ({reason}): set JAX_PLATFORMS=cpu, or leave it out to use'
      ' what there is.'
    ) from error
  if devices.platform not in ('cpu', 'gpu'):
    raise InputError(
      f'jobs_per_device is above 1, and JAX finds devices of the kind'
      f' {devices.platform!r}, which processes do not share: set it to 1.'
    )
  return devices


def _ask(
  environment: Mapping[str, str], seconds: float | None = None
) -> Devices:
  """Asks JAX in a process of its own."""
  asked = subprocess.run(
    [sys.executable, '-c', _QUESTION],
    env={**environment, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
    capture_output=True,
    check=True,
    text=True,
    timeout=seconds,
  )
  lines = [line.split() for line in asked.stdout.splitlines()]
  return Devices(lines[0][0], tuple(int(number) for _, number in lines))


def variables(
  devices: Devices,
  index: int,
  sharers: int,
  environment: Mapping[str, str],
  mps: Mapping[str, str],
) -> dict[str, str]:
  """Environment variables of a process with a share of one device.

  Args:
    devices: All there are.
    index: Which of them it is.
    sharers: Processes that share it.
    environment: Of this process; a limit of JAX's memory is that of all.
    mps: From `multi_process_service`.
  """
  if devices.platform == 'cpu':
    return {'JAX_NUM_CPU_DEVICES': '1'}
  number = devices.numbers[index]
  name = str(number)
  # A service of our own has been told what to see, and counts that anew.
  if not mps and (visible := environment.get('CUDA_VISIBLE_DEVICES')):
    name = visible.split(',')[number].strip()
  limits = ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')
  limit = next((x for x in limits if environment.get(x)), limits[1])
  share = float(environment.get(limit) or _JAX_SHARE) / sharers
  return {
    **mps,
    'CUDA_VISIBLE_DEVICES': name,
    'JAX_CUDA_VISIBLE_DEVICES': 'all',
    limit: f'{share:.4f}',
  }


@contextlib.contextmanager
def multi_process_service(devices: Devices) -> Iterator[dict[str, str]]:
  """Runs NVIDIA's MPS, by which a GPU works for several processes at once.

  One that runs already is used, and not ended. Where none can be started, as in
  many containers, the processes take turns on a GPU.

  Args:
    devices: GPUs.

  Yields:
    Environment variables of the processes that are to use it, if it is ours.
  """
  if _control('get_server_list', os.environ):
    yield {}
    return
  with contextlib.ExitStack() as stack:
    folder = tempfile.mkdtemp(prefix='mps')
    places = ('CUDA_MPS_PIPE_DIRECTORY', 'CUDA_MPS_LOG_DIRECTORY')
    mps = dict.fromkeys(places, folder)
    stack.enter_context(
      subprocess.Popen(
        ['sh', '-c', _QUIT],
        env={**os.environ, **mps},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the command.
      )
    )
    if _starts(mps, devices):
      yield mps
      return
  print(
    'Folds take turns on each GPU, since MPS, by which it would work for all at'
    ' once, does not start here.',
    flush=True,
  )
  yield {}


def _starts(mps: Mapping[str, str], devices: Devices) -> bool:
  """Starts MPS; whether processes find the same devices through it."""
  if not _control('', {**os.environ, **mps}, '-d'):
    return False
  environment = {**os.environ, **mps}
  environment.pop('CUDA_VISIBLE_DEVICES', None)
  try:
    return _ask(environment, _MPS_SECONDS) == devices
  except subprocess.SubprocessError:
    return False


def _control(
  command: str, environment: Mapping[str, str], *options: str
) -> bool:
  """Whether the program that controls MPS is there, and does a command."""
  try:
    subprocess.run(
      [_CONTROL, *options],
      input=command,
      env=environment,
      check=True,
      # Not read: the service keeps them open.
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      text=True,
      timeout=_MPS_SECONDS,
    )
  except (OSError, subprocess.SubprocessError):
    return False
  return True

"""Several processes of one command, on JAX's own distributed runtime.

They speak through its coordinator, which process 0 runs, not through their
devices, so a question does not wait for the work on these. A process that ends
before the others says so (`leave`); whoever waits then ends as well, also for
the devices (`watched`).
"""

import contextlib
import itertools
import os
import pathlib
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from ecg_jax.errors import InputError, PartialFailure
from ecg_jax.runtime import files

_LONGEST_START = 300.0
"""Seconds from the start of the first process to that of the last."""

_LONGEST_END = 10.0
"""Seconds that process 0 waits for the others when it fails."""

_ANSWERS_KEPT = 100
"""Of a flag; no member is as far behind, since each works on every chunk."""


def begin(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Joins the other processes; before JAX is first used.

  Args:
    coordinator_address: HOST:PORT of process 0, or None, as the others, where
      SLURM, Open MPI or Kubernetes tell.
    num_processes: How many there are.
    process_id: Which of them this is, from 0.

  Raises:
    InputError: They do not find together.
  """
  if coordinator_address is not None:
    _check_address(coordinator_address, opens=process_id == 0)
  # It would take SIGTERM, and save by its own rules.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      # Without a cluster to ask, all local devices belong to the process.
      cluster_detection_method='deactivate' if coordinator_address else None,
      shutdown_timeout_seconds=30,
    )
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise InputError(
      f'The processes did not find together ({reason}): start all of them, with'
      ' the --coordinator_address HOST:PORT of process 0, --num_processes and'
      ' each its own --process_id.'
    ) from error


def _check_address(address: str, *, opens: bool) -> None:
  """Refuses an address that JAX would end the process for, without a word.

  Args:
    address: HOST:PORT.
    opens: Whether this process is the one to open it; else it waits until the
      other has.

  Raises:
    InputError: It is none, is taken, or nobody is there.
  """
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise InputError(
      f'--coordinator_address is {address!r}: give the HOST:PORT of process 0,'
      ' like host0:1234.'
    )
  if opens:
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(('', int(port)))
      except OSError as error:
        raise InputError(
          f'Port {port} of --coordinator_address cannot be opened'
          f' ({error.strerror}): give another one to all processes.'
        ) from error
    return
  end = time.monotonic() + _LONGEST_START
  while True:
    try:
      socket.create_connection((host.strip('[]'), int(port)), 5).close()
      return
    except OSError as error:
      if time.monotonic() > end:
        raise InputError(
          f'Nobody answers at --coordinator_address {address} ({error}): start'
          ' process 0 there.'
        ) from error
      time.sleep(0.2)


def exchange(topic: str, text: str, members: Sequence[int]) -> list[str]:
  """Gives a text to the other members, and waits for theirs.

  Args:
    topic: The same for all, and new each time.
    text: What this process says.
    members: The processes that take part; this one among them.

  Returns:
    What each member says, in their order.

  Raises:
    PartialFailure: One of them has ended.
  """
  if len(members) == 1:
    return [text]
  _client().key_value_set(_key(topic, jax.process_index()), text)
  return [_wait_for(_key(topic, member)) for member in members]


def _client() -> Any:
  return ocp.multihost.get_jax_distributed_client()


def _key(*parts: Any) -> str:
  return '/'.join(map(str, ('ecg_jax', *parts)))


def _wait_for(key: str) -> str:
  """The value of a key of another process, or the news that it has ended."""
  while True:
    try:
      return _client().blocking_key_value_get(key, 1000)
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise PartialFailure(
          'Process 0 has ended: start all processes again with the same command'
          ' to go on.'
        ) from error
    for number, sentence in _left():
      raise PartialFailure(f'Process {number} has ended: {sentence}')


def _left() -> list[tuple[int, str]]:
  """The processes that have ended, each with its sentence."""
  said = _client().key_value_dir_get(_key('left'))
  return [(int(key.rpartition('/')[2]), sentence) for key, sentence in said]


@contextlib.contextmanager
def watched(members: Sequence[int]) -> Iterator[None]:
  """Ends this process some seconds after another member, in this context.

  It may be waiting for that one on the devices, where JAX would abort it.

  Args:
    members: The processes that work together; this one among them.
  """
  if len(members) == 1:
    yield
    return
  over = threading.Event()
  thread = threading.Thread(target=_end_with, args=(members, over), daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def _end_with(members: Sequence[int], over: threading.Event) -> None:
  """Waits until a member leaves, or it is over."""
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # Process 0 has ended.
    while not over.wait(1):
      for number, sentence in _left():
        # By itself it says more.
        if number in members and not over.wait(_LONGEST_END / 2):
          reason = f'Process {number} has ended: {sentence}'
          print(reason, file=sys.stderr, flush=True)
          leave(reason)
          os._exit(PartialFailure.exit_code)


def broken_off(
  error: BaseException, members: Sequence[int]
) -> PartialFailure | None:
  """What to say of an error that comes of the end of another process.

  Args:
    error: Of work on the devices of the members.
    members: The processes that work together.

  Returns:
    None if it does not.
  """
  reason = str(error).partition('\n')[0]
  if (
    len(members) > 1
    and isinstance(error, jax.errors.JaxRuntimeError)
    and re.search('gloo|nccl|coordination', reason, re.IGNORECASE)
  ):
    return PartialFailure(
      f'Another process has ended or is out of reach ({reason}).'
    )
  return None


def leave(sentence: str) -> None:
  """Tells the others that this process ends before them, and why.

  Process 0, through which they would hear it, waits some seconds for them.
  """
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # It has ended.
    mine = _key('left', jax.process_index())
    _client().key_value_set(mine, sentence, allow_overwrite=True)
    end = time.monotonic() + _LONGEST_END
    while jax.process_index() == 0 and time.monotonic() < end:
      if len(_left()) == jax.process_count():
        break
      time.sleep(0.1)


def check_alike(topic: str, *values: Any) -> None:
  """Refuses what is not the same in all processes.

  Args:
    topic: As of `exchange`.
    values: As JSON can hold them.

  Raises:
    InputError: They differ.
  """
  said = exchange(topic, files.digest(values), range(jax.process_count()))
  if len(set(said)) > 1:
    raise InputError(
      'The processes were given different configs or data: start all with the'
      ' same command, and with the same files in their reach.'
    )


def check_shared(folder: pathlib.Path) -> None:
  """Refuses a folder that is another one for some of the processes.

  Args:
    folder: Is there, for process 0.

  Raises:
    InputError: It is.
  """
  everyone = range(jax.process_count())
  if len(everyone) == 1:
    return
  with contextlib.ExitStack() as stack:
    name = ''
    if jax.process_index() == 0:
      file = stack.enter_context(
        tempfile.NamedTemporaryFile(dir=folder, prefix='.', suffix='.tmp')
      )
      name = os.path.basename(file.name)
    name = exchange('file', name, everyone)[0]
    seen = exchange('seen', str((folder / name).exists()), everyone)
  if 'False' in seen:
    raise InputError(
      f'{folder} is not the same folder for process {seen.index("False")} as'
      ' for process 0: give all processes one --workdir on a disk that they'
      ' share.'
    )


def agreed(
  flag: Callable[[], bool], topic: str, members: Sequence[int]
) -> Callable[[], bool]:
  """A flag that all members see alike, since the first of them says it.

  It is set when the first member's is, and for good once another's was.

  Args:
    flag: This process's own.
    topic: The same for all, and of this flag alone.
    members: The processes, each of which asks as often as the others.
  """
  if len(members) == 1:
    return flag
  asked = itertools.count()
  leads = jax.process_index() == members[0]

  def ask() -> bool:
    number = next(asked)
    if not leads:
      if flag():
        mine = _key(topic, 'set', jax.process_index())
        _client().key_value_set(mine, '1', allow_overwrite=True)
      return _wait_for(_key(topic, number)) == '1'
    answer = flag() or bool(_client().key_value_dir_get(_key(topic, 'set')))
    _client().key_value_set(_key(topic, number), str(int(answer)))
    if number >= _ANSWERS_KEPT:
      _client().key_value_delete(_key(topic, number - _ANSWERS_KEPT))
    return answer

  return ask

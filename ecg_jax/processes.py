"""Several processes of one command, on JAX's own distributed runtime.

They speak through its coordinator, not through their devices, so a question
does not wait for the work on these.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from ecg_jax import artifacts
from ecg_jax.errors import InputError

_A_MONTH = 30 * 24 * 3600 * 1000
"""Milliseconds: a process that died is what ends a wait, not its length."""


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


def exchange(topic: str, text: str, members: Sequence[int]) -> list[str]:
  """Gives a text to the other members, and waits for theirs.

  Args:
    topic: The same for all, and new each time.
    text: What this process says.
    members: The processes that take part; this one among them.

  Returns:
    What each member says, in their order.
  """
  if len(members) == 1:
    return [text]
  client = ocp.multihost.get_jax_distributed_client()
  client.key_value_set(f'ecg_jax/{topic}/{jax.process_index()}', text)
  return [
    client.blocking_key_value_get(f'ecg_jax/{topic}/{member}', _A_MONTH)
    for member in members
  ]


def check_alike(topic: str, *values: Any) -> None:
  """Refuses what is not the same in all processes.

  Args:
    topic: As of `exchange`.
    values: As JSON can hold them.

  Raises:
    InputError: They differ.
  """
  said = exchange(topic, artifacts.digest(values), range(jax.process_count()))
  if len(set(said)) > 1:
    raise InputError(
      'The processes were given different configs or data: start all with the'
      ' same command, and with the same files in their reach.'
    )


def agreed(
  flag: Callable[[], bool], topic: str, members: Sequence[int]
) -> Callable[[], bool]:
  """A flag that all members see alike: set as soon as one's is.

  Args:
    flag: This process's own.
    topic: The same for all, and of this flag alone.
    members: The processes, each of which asks as often as the others.
  """
  if len(members) == 1:
    return flag
  asked = itertools.count()

  def ask() -> bool:
    number = next(asked)
    said = exchange(f'{topic}/{number}', str(int(flag())), members)
    if number > 0:  # Who asks again has read the answers before.
      ocp.multihost.get_jax_distributed_client().key_value_delete(
        f'ecg_jax/{topic}/{number - 1}/{jax.process_index()}'
      )
    return '1' in said

  return ask

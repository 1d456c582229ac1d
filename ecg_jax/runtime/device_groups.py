"""Groups of devices, on each of which one job at a time runs."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from ecg_jax.errors import InputError
from ecg_jax.runtime import multihost


@dataclasses.dataclass(frozen=True)
class DeviceGroup:
  """The devices of a mesh, and the processes that they belong to.

  All of these processes run the same job; the first of them, the coordinator,
  writes its files and decides for all.
  """

  mesh: Mesh
  """One axis, `data`, along which the rows of a batch are divided."""

  @functools.cached_property
  def members(self) -> tuple[int, ...]:
    """The processes that the devices belong to, in ascending order."""
    devices = self.mesh.devices.flat
    return tuple(sorted({device.process_index for device in devices}))

  @property
  def is_local(self) -> bool:
    """Whether this process is one of them."""
    return jax.process_index() in self.members

  @property
  def is_coordinator(self) -> bool:
    """Whether this process writes the files of the group's job."""
    return jax.process_index() == self.members[0]

  def exchange(self, topic: str, text: str) -> list[str]:
    """Texts of all members; see `multihost.exchange`."""
    return multihost.exchange(topic, text, self.members)

  def agreed(self, flag: Callable[[], bool], topic: str) -> Callable[[], bool]:
    """A flag that all members see alike; see `multihost.agreed`."""
    return multihost.agreed(flag, topic, self.members)


def divide_devices(
  devices: Sequence[jax.Device], num_jobs: int, devices_per_job: int | None
) -> list[Sequence[jax.Device]]:
  """Divides the devices into equal groups, one job at a time on each.

  A group lies within a process, or takes all devices of several.

  Args:
    devices: All devices, of all processes.
    num_jobs: Jobs of the command, finished or not, so that a restart places
      them alike.
    devices_per_job: Size of a group, or None for the largest with which all
      jobs run at once, or one.

  Returns:
    The groups, no more than there are jobs, dealt out over the processes.

  Raises:
    InputError: There are fewer devices than a job is to have, it would have a
      part of a process beside a whole one, or the processes have different
      numbers of them.
  """
  counts = collections.Counter(device.process_index for device in devices)
  numbers, of_process = sorted(counts), counts[0]
  for number in numbers:
    if counts[number] != of_process:
      raise InputError(
        f'Process 0 has {of_process} devices and process {number} has'
        f' {counts[number]}: give all the same number of them.'
      )

  def num_groups(size: int) -> int:
    if size > of_process:
      return 0 if size % of_process else len(devices) // size
    return len(numbers) * (of_process // size)

  size = devices_per_job
  if size is None:
    most = range(1, len(devices) // num_jobs + 1)
    size = max((n for n in most if num_groups(n) >= num_jobs), default=1)
  if size > len(devices):
    raise InputError(
      f'devices_per_job is {size}: there are {len(devices)} devices here.'
    )
  if not num_groups(size):
    raise InputError(
      f'devices_per_job is {size}: a job on several processes takes all'
      f' {of_process} devices of each, so set a multiple of {of_process}, or'
      ' less.'
    )
  # Of each process in turn, where a group is not larger.
  blocks = [devices]
  if size <= of_process:
    blocks = [[d for d in devices if d.process_index == n] for n in numbers]
  return [
    block[first : first + size]
    for first in range(0, len(blocks[0]) - size + 1, size)
    for block in blocks
  ][:num_jobs]

"""A group of devices that one job at a time runs on."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

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

"""Device groups, their meshes, and where arrays live on them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecg_jax.errors import InputError


def device_groups(
  devices: Sequence[jax.Device], num_jobs: int, devices_per_job: int | None
) -> list[Sequence[jax.Device]]:
  """Divides the devices into equal groups, one job at a time on each.

  Args:
    devices: All devices.
    num_jobs: Jobs of the command, finished or not, so that a restart places
      them alike.
    devices_per_job: Size of a group, or None for devices // jobs, at least one.

  Returns:
    The groups, no more than there are jobs.

  Raises:
    InputError: There are fewer devices than a job is to have.
  """
  size = devices_per_job or max(1, len(devices) // num_jobs)
  if size > len(devices):
    raise InputError(
      f'devices_per_job is {size}: there are {len(devices)} devices here.'
    )
  return [
    devices[first : first + size]
    for first in range(0, len(devices) - size + 1, size)
  ][:num_jobs]


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
  """A mesh over a group with the one axis `data`."""
  return Mesh(np.array(devices), ('data',))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts every array of the tree whole on each device of the mesh."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_rows(tree: Any, mesh: Mesh) -> Any:
  """Puts arrays [K, B, ...] on the mesh, B divided along `data`.

  B is padded with zeros (masked rows) to a multiple of the mesh's size.
  """
  padding = -jax.tree.leaves(tree)[0].shape[1] % mesh.size

  def pad(x):
    return np.pad(x, ((0, 0), (0, padding)))

  return jax.device_put(
    jax.tree.map(pad, tree), NamedSharding(mesh, PartitionSpec(None, 'data'))
  )


def fetch(tree: Any) -> Any:
  """Brings arrays to the host: the only way there, and it waits for them."""
  return jax.device_get(tree)

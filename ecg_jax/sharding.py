"""Device groups, their meshes, and where arrays live on them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ecg_jax import batch_axis
from ecg_jax.errors import InputError

WHOLE = PartitionSpec()
"""Where an array is whole on each device."""
ROWS = PartitionSpec(None, batch_axis.NAME)
"""Where arrays [K, B, ...] have their rows divided over the devices."""


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
  return Mesh(np.array(devices), (batch_axis.NAME,))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts every array of the tree whole on each device of the mesh."""
  return jax.device_put(tree, NamedSharding(mesh, WHOLE))


def split_rows(tree: Any, mesh: Mesh) -> Any:
  """Puts arrays [K, B, ...] on the mesh, B divided along `data`.

  B is padded with zeros (masked rows) to a multiple of the mesh's size.
  """
  padding = -jax.tree.leaves(tree)[0].shape[1] % mesh.size

  def pad(x):
    return np.pad(x, ((0, 0), (0, padding)))

  return jax.device_put(jax.tree.map(pad, tree), NamedSharding(mesh, ROWS))


def on_own_rows(
  run: Callable[..., Any], mesh: AbstractMesh
) -> Callable[..., Any]:
  """Lets each device of the mesh run a function of a chunk on its own rows.

  `ecg_jax.batch_axis` is what reaches over the rows of all devices in it.

  Args:
    run: Its third argument is the chunk, placed by `split_rows`; the others,
      and all that it returns, are the same on each device.
    mesh: How many devices there are; the arguments say which.
  """

  def call(*arguments):
    specs = [ROWS if i == 2 else WHOLE for i in range(len(arguments))]
    return jax.shard_map(
      run,
      mesh=mesh,
      in_specs=tuple(specs),
      out_specs=WHOLE,
      # It sums where the gradient needs it, once; the check would make JAX sum
      # a parameter's gradient at each of its uses, as in each frame of a scan.
      check_vma=False,
    )(*arguments)

  return call


def fetch(tree: Any) -> Any:
  """Brings arrays to the host: the only way there, and it waits for them."""
  return jax.device_get(tree)

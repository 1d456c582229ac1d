"""Device groups, their meshes, and where arrays live on them."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ecg_jax.errors import InputError
from ecg_jax.runtime import collectives

WHOLE = PartitionSpec()
"""Where an array is whole on each device."""

ROWS = PartitionSpec(None, collectives.NAME)
"""Where arrays [K, B, ...] have their rows divided over the devices."""


def device_groups(
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


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
  """A mesh over a group with the one axis `data`."""
  return Mesh(np.array(devices), (collectives.NAME,))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts every array of the tree whole on each device of the mesh."""
  return _put(tree, NamedSharding(mesh, WHOLE))


def replicated(tree: Any, mesh: Mesh) -> Any:
  """What `replicate` gives of arrays of these shapes: shapes and shardings."""
  sharding = NamedSharding(mesh, WHOLE)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def split_rows(tree: Any, mesh: Mesh) -> Any:
  """Puts arrays [K, B, ...] on the mesh, B divided along `data`; scalars whole.

  B is padded with zeros (masked rows) to a multiple of the mesh's size.
  """

  def put(x):
    if x.ndim < 2:
      return replicate(x, mesh)
    padding = -x.shape[1] % mesh.size
    x = np.pad(x, ((0, 0), (0, padding)))
    return _put(x, NamedSharding(mesh, ROWS))

  return jax.tree.map(put, tree)


def _put(tree: Any, where: NamedSharding) -> Any:
  """Puts arrays that each process has whole on the devices."""
  if where.is_fully_addressable:
    return jax.device_put(tree, where)

  # What `device_put` does it first compares over all processes.
  def put(x):
    if jax.dtypes.issubdtype(getattr(x, 'dtype', None), jax.dtypes.prng_key):
      return jax.random.wrap_key_data(put(jax.random.key_data(x)))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, where, lambda index: x[index])

  with jax.transfer_guard_host_to_device('allow'):  # This is an explicit put.
    return jax.tree.map(put, tree)


def place_like(tree: Any, like: Any) -> Any:
  """Puts arrays where those of another tree are, whole on each device."""
  return _put(tree, jax.tree.leaves(like)[0].sharding)


def own_copy(tree: Any) -> Any:
  """Brings to the host what each device has whole, without other processes."""
  return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


def on_own_rows(
  run: Callable[..., Any], mesh: AbstractMesh
) -> Callable[..., Any]:
  """Lets each device of the mesh run a function of a chunk on its own rows.

  `ecg_jax.runtime.collectives` reaches over the rows of all devices in it.

  Args:
    run: Its third argument is the chunk, placed by `split_rows`; the others,
      and everything that it returns, are the same on each device.
    mesh: How many devices there are; the arguments say which.
  """

  def call(*arguments):
    specs = [WHOLE] * len(arguments)
    chunk = arguments[2]
    specs[2] = jax.tree.map(lambda x: ROWS if x.ndim > 1 else WHOLE, chunk)
    in_specs = tuple(specs)
    # It sums where the gradient needs it, once; with check_vma, JAX would sum a
    # parameter's gradient at each of its uses, as in each frame of a scan.
    return jax.shard_map(
      run, mesh=mesh, in_specs=in_specs, out_specs=WHOLE, check_vma=False
    )(*arguments)

  return call


def fetch(tree: Any) -> Any:
  """Brings arrays to the host: the only way there, and it waits for them."""
  return jax.device_get(tree)

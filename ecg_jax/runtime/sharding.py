"""Meshes of devices, and where arrays live on them."""

import os
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


def check_devices() -> None:
  """Raises InputError where JAX has none of the devices that are asked for."""
  try:
    jax.devices()
  except (AssertionError, RuntimeError) as error:
    # JAX raises the first without a message if no package for GPUs is there.
    platforms = os.environ.get('JAX_PLATFORMS')
    reason = ' '.join(str(error).split()) or 'no package of JAX supports it'
    raise InputError(
      f'JAX_PLATFORMS is {platforms!r}, and JAX finds no such device'
      f' ({reason}): set JAX_PLATFORMS=cpu, or leave it out to use what there'
      ' is.'
    ) from error


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
  """A mesh over a group with the one axis `data`."""
  return Mesh(np.array(devices), (collectives.NAME,))


def one_device() -> Mesh:
  """A mesh of the first device of this process.

  Raises:
    InputError: There are none of the devices that are asked for.
  """
  check_devices()
  return make_mesh(jax.local_devices()[:1])


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts every array of the tree whole on each device of the mesh."""
  return _put(tree, NamedSharding(mesh, WHOLE))


def replicated(tree: Any, mesh: Mesh) -> Any:
  """What `replicate` gives of arrays of these shapes: shapes and shardings."""
  sharding = NamedSharding(mesh, WHOLE)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def shapes(tree: Any) -> Any:
  """Of arrays on devices, what `jax.jit` compiles a program for."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
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
      impl = jax.random.key_impl(x)
      return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=impl)
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

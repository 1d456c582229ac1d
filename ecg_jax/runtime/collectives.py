"""The whole batch, as code sees it that runs on one device's rows of it.

Inside of `jax.shard_map` over the axis `data` a device holds some rows of the
batch, and these functions reach over all of them. Elsewhere, and on one device,
the rows at hand are the batch and nothing is sent.
"""

from typing import TypeVar

import jax

Tree = TypeVar('Tree')

NAME = 'data'
"""Of the mesh axis along which the rows of a batch are divided."""


def size() -> int:
  """Devices that the batch is divided over."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.shape[NAME] if NAME in mesh.manual_axes else 1


def position() -> jax.Array | int:
  """Which of the devices this is, from 0."""
  return jax.lax.axis_index(NAME) if size() > 1 else 0


def total(tree: Tree) -> Tree:
  """Sums each array of the tree over the devices.

  Its gradient is that of the sum, over the devices, of what each computes.
  """
  return jax.lax.psum(tree, NAME) if size() > 1 else tree


def gather(x: jax.Array, axis: int) -> jax.Array:
  """Puts the rows of all devices together along an axis of x."""
  if size() == 1:
    return x
  return jax.lax.all_gather(x, NAME, axis=axis, tiled=True)


def own_rows(x: jax.Array) -> jax.Array:
  """Of an array with an entry for each row of the batch, those at hand."""
  if size() == 1:
    return x
  rows = len(x) // size()
  return jax.lax.dynamic_slice_in_dim(x, position() * rows, rows)

"""Which of two implementations of an operation a platform runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.export


def platform() -> str | None:
  """The platform that this is traced for, 'cpu' or 'gpu', or None if unknown.

  It is known within `sharding.on_own_rows`, from the devices of the mesh.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else None


def choose(
  *operands: Any, cpu: Callable[..., Any], default: Callable[..., Any]
) -> Any:
  """Calls one function on a CPU and another one on all other platforms.

  Where the platform is unknown, both are traced and the program is lowered with
  the one of its platform; that takes longer. Arrays of symbolic shapes, as in a
  program that is exported for any length, get the function of a CPU.

  Args:
    *operands: Arguments of the functions, trees of arrays.
    cpu: Called on a CPU.
    default: Called elsewhere; its results have the same shapes and dtypes.
  """
  shapes = [operand.shape for operand in jax.tree.leaves(operands)]
  if any(
    jax.export.is_symbolic_dim(size) for shape in shapes for size in shape
  ):
    return cpu(*operands)
  known = platform()
  if known is None:
    return jax.lax.platform_dependent(*operands, cpu=cpu, default=default)
  return (cpu if known == 'cpu' else default)(*operands)

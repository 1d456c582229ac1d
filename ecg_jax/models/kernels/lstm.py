"""The recurrence of an LSTM, frame after frame.

On a CPU it is a scan. On a GPU each frame of a scan is 16 to 18 kernels, most
of which cut slices out of the stacked arrays, and their offsets keep the loop
out of CUDA graphs; in the paper's CRNN they are two thirds of all kernels of a
training step. So there the frames are written out one by one, in both
directions of the gradient too. Besides, a scan sums the gradient of the
recurrent kernel frame by frame; here it is one product over all of them.
`platforms.choose` says which.

T: frames, K: directions, B: batch, H: units of one direction.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ecg_jax.runtime import platforms


def recurrence(
  projected_TxKxBx4H: jax.Array, valid_TxKxBx1: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Runs LSTM cells without peepholes over time, from a state of zeros.

  Args:
    projected_TxKxBx4H: The cells' inputs, projected, with the biases: of the
      input gate, the forget gate, the candidate and the output gate.
    valid_TxKxBx1: Bool; other frames leave the state unchanged.
    kernel: Recurrent kernel [K, H, 4 H], of the inputs' dtype.

  Returns:
    The hidden states after each frame, [T, K, B, H], and after the last one,
    [K, B, H]; the cell state is float32.
  """
  return platforms.choose(
    projected_TxKxBx4H, valid_TxKxBx1, kernel, cpu=by_scan, default=unrolled
  )


def by_scan(
  projected: jax.Array, valid: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes `recurrence` as it is on a CPU."""
  _, directions, batch, gates = projected.shape
  dtype = projected.dtype

  def step(carry, inputs):
    hidden, cell = carry
    gates, valid = inputs
    gates = gates + jnp.einsum('kbh,khg->kbg', hidden, kernel)
    update, forget, candidate, output = jnp.split(
      gates.astype(jnp.float32), 4, axis=-1
    )
    new_cell = nn.sigmoid(forget) * cell
    new_cell += nn.sigmoid(update) * jnp.tanh(candidate)
    new_hidden = (nn.sigmoid(output) * jnp.tanh(new_cell)).astype(dtype)
    hidden = jnp.where(valid, new_hidden, hidden)
    cell = jnp.where(valid, new_cell, cell)
    return (hidden, cell), hidden

  zeros = jnp.zeros((directions, batch, gates // 4))
  (hidden, _), outputs = lax.scan(
    step, (zeros.astype(dtype), zeros), (projected, valid)
  )
  return outputs, hidden


@jax.custom_vjp
def unrolled(
  projected_TxKxBx4H: jax.Array, valid_TxKxBx1: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes `recurrence` as it is on a GPU; the number of frames is static."""
  return _forward(projected_TxKxBx4H, valid_TxKxBx1, kernel)[0]


def _forward(projected, valid, kernel):
  frames, directions, batch, gates = projected.shape
  dtype = projected.dtype
  cell = jnp.zeros((directions, batch, gates // 4))
  hidden = cell.astype(dtype)
  outputs, cells, activations = [], [], []
  inputs, valid = _unstack(projected), _unstack(valid)
  for frame in range(frames):
    gates = inputs[frame]
    if frame:  # Before the first frame the state is zero.
      gates = gates + jnp.einsum('kbh,khg->kbg', hidden, kernel)
    update, forget, candidate, output = jnp.split(
      gates.astype(jnp.float32), 4, axis=-1
    )
    active = (
      nn.sigmoid(update),
      nn.sigmoid(forget),
      jnp.tanh(candidate),
      nn.sigmoid(output),
    )
    update, forget, candidate, output = active
    new_cell = forget * cell + update * candidate
    new_hidden = (output * jnp.tanh(new_cell)).astype(dtype)
    hidden = jnp.where(valid[frame], new_hidden, hidden)
    cell = jnp.where(valid[frame], new_cell, cell)
    outputs.append(hidden)
    cells.append(cell)
    activations.append(jnp.concatenate(active, axis=-1).astype(dtype))
  stacked = _stack(outputs)
  return (stacked, hidden), (stacked, cells, activations, valid, kernel)


def _backward(residuals, gradient):
  outputs, cells, activations, valid, kernel = residuals
  padding = _padding(kernel)
  padded_kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, padding)))
  by_outputs, by_hidden = gradient
  by_hidden = by_hidden.astype(jnp.float32)
  by_cell = jnp.zeros_like(by_hidden)
  by_gates = []
  by_outputs = _unstack(by_outputs)
  for frame in reversed(range(len(cells))):
    by_hidden += by_outputs[frame].astype(jnp.float32)
    update, forget, candidate, output = jnp.split(
      activations[frame].astype(jnp.float32), 4, axis=-1
    )
    before = cells[frame - 1] if frame else jnp.zeros_like(cells[0])
    squashed = jnp.tanh(forget * before + update * candidate)
    by_new_hidden = jnp.where(valid[frame], by_hidden, 0)
    by_new_cell = jnp.where(valid[frame], by_cell, 0)
    by_new_cell += by_new_hidden * output * (1 - squashed**2)
    by_frame = jnp.concatenate(
      [
        by_new_cell * candidate * update * (1 - update),
        by_new_cell * before * forget * (1 - forget),
        by_new_cell * update * (1 - candidate**2),
        by_new_hidden * squashed * output * (1 - output),
        jnp.zeros((*by_hidden.shape[:-1], padding)),
      ],
      axis=-1,
    ).astype(outputs.dtype)
    by_gates.append(by_frame)
    if frame:
      through_gates = jnp.einsum(
        'kbg,khg->kbh',
        by_frame,
        padded_kernel,
        preferred_element_type=jnp.float32,
      )
      by_hidden = jnp.where(valid[frame], 0, by_hidden) + through_gates
      by_cell = jnp.where(valid[frame], by_new_cell * forget, by_cell)
  stacked = _stack(by_gates[::-1])[..., : kernel.shape[-1]]
  by_kernel = jnp.einsum(
    'tkbh,tkbg->khg',
    outputs[:-1],
    stacked[1:],
    preferred_element_type=jnp.float32,
  )
  return stacked, None, by_kernel.astype(kernel.dtype)


def _stack(frames):
  """Stacks arrays once, not anew in each kernel that reads the stack.

  XLA took five minutes to compile the sum that is the gradient of the biases.
  """
  return lax.optimization_barrier(jnp.stack(frames))


def _unstack(array):
  """Cuts out all frames first, not each in the kernels that read it.

  Otherwise no two frames share a kernel, and XLA compiles one for each.
  """
  return lax.optimization_barrier([array[k] for k in range(len(array))])


def _padding(kernel):
  """Zeros that make the gates a multiple of what XLA pads them to.

  In half precision it would do so at each frame, by a kernel of its own.
  """
  return -kernel.shape[-1] % 64 if kernel.dtype.itemsize == 2 else 0


unrolled.defvjp(_forward, _backward)

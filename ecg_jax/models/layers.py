"""The layers both models are made of. Each masks what it returns.

B: batch, T: frames, F: frequency bins, C: channels, D: features of a frame,
H: units of one LSTM direction. A mask is bool [B, T], true in valid frames.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ecg_jax.models import preprocessing
from ecg_jax.models.kernels import convolution, max_pool
from ecg_jax.models.kernels.dropout import Dropout
from ecg_jax.runtime import collectives


def masked(x: jax.Array, mask_BxT: jax.Array) -> jax.Array:
  """Sets everything in the frames outside the mask to zero."""
  shape = mask_BxT.shape + (1,) * (x.ndim - 2)
  return jnp.where(mask_BxT.reshape(shape), x, jnp.zeros((), x.dtype))


def masked_mean(x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
  """Mean over the valid frames, float32 [B, D]; zero where there is none."""
  total = jnp.sum(masked(x_BxTxD, mask_BxT), axis=1, dtype=jnp.float32)
  count = jnp.maximum(jnp.sum(mask_BxT, axis=1), 1).astype(jnp.float32)
  return total / count[:, None]


class BatchNorm(nn.Module):
  """Batch normalisation whose statistics see valid frames only.

  Mean and variance are over the valid frames of the whole batch and, if there
  are any, all frequency bins, in float32, from sums and counts over all
  devices. `batch_stats` holds their running averages, used in evaluation.
  """

  momentum: float = 0.99
  epsilon: float = 1e-3

  @nn.compact
  def __call__(
    self, x: jax.Array, mask_BxT: jax.Array, *, train: bool
  ) -> jax.Array:
    """Normalises x, [B, T, F, C] or [B, T, C].

    Returns:
      The same shape and dtype, not masked.
    """
    channels = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, channels)
    bias = self.param('bias', nn.initializers.zeros, channels)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
    running_variance = self.variable(
      'batch_stats', 'variance', jnp.ones, channels
    )
    if train:
      # A convolution reaches over the end: its output there is not zero.
      valid = masked(x, mask_BxT).astype(jnp.float32)
      count = jnp.sum(mask_BxT, dtype=jnp.float32) * math.prod(x.shape[2:-1])
      axes = tuple(range(x.ndim - 1))
      sums = (count, jnp.sum(valid, axis=axes), jnp.sum(valid**2, axis=axes))
      count, total, total_of_squares = checkpoint_name(
        collectives.total(sums), 'statistics'
      )
      count = jnp.maximum(count, 1.0)
      mean = total / count
      variance = jnp.maximum(total_of_squares / count - mean**2, 0.0)
      if not self.is_initializing():
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_variance.value = (
          keep * running_variance.value + (1 - keep) * variance
        )
    else:
      mean, variance = running_mean.value, running_variance.value
    factor = scale * jax.lax.rsqrt(variance + self.epsilon)
    result = x * factor + (bias - mean * factor)
    return result.astype(x.dtype)


class ConvolutionBlock(nn.Module):
  """A block of layers that ends in a halving of time and frequency.

  Each layer: 5x5 convolution over (time, frequency) without bias, batch
  normalisation, ReLU, dropout (paper, section 2.3). The last layer is wider and
  the block ends with a 2x2 reduction: 'max_pool' behind it (the paper's) or a
  'stride' of 2 in it (the authors').
  """

  layers: int
  width: int
  """Channels of all layers but the last."""
  last_width: int
  reduction: str
  dropout: float
  batch_norm_momentum: float
  batch_norm_epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x_BxTxFxC: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns x with half (rounded up) the frames and bins, and its lengths."""
    x = x_BxTxFxC
    for index in range(self.layers):
      last = index == self.layers - 1
      stride = 2 if last and self.reduction == 'stride' else 1
      width = self.last_width if last else self.width
      kernel = self.param(
        f'kernel_{index}',
        nn.initializers.glorot_uniform(),
        (5, 5, x.shape[-1], width),
      )
      x = convolution.convolve(
        x.astype(self.dtype), kernel.astype(self.dtype), stride
      )
      x = checkpoint_name(x, 'convolution')
      lengths = -(-lengths // stride)
      mask_BxT = preprocessing.valid(lengths, x.shape[1])
      x = BatchNorm(
        self.batch_norm_momentum,
        self.batch_norm_epsilon,
        name=f'batch_norm_{index}',
      )(x, mask_BxT, train=train)
      x = masked(nn.relu(x), mask_BxT)
      x = Dropout(self.dropout)(x, train=train)
    if self.reduction == 'max_pool':
      # After the ReLU and the mask nothing is negative and padding is zero, so
      # a window that reaches over the end has the maximum of its valid part.
      x = max_pool.max_pool(x)
      lengths = -(-lengths // 2)
    return x, lengths


def run_block(
  block: nn.Module,
  x: jax.Array,
  lengths: jax.Array,
  *,
  train: bool,
  remat: bool,
) -> tuple[jax.Array, jax.Array]:
  """Calls a block of layers.

  With `remat`, of a training step's forward pass only what the convolutions
  return and the sums over the batch are kept; normalisation, ReLU, dropout and
  pooling are computed again for the gradient, without the other devices.
  """

  def run(block, x, lengths):
    return block(x, lengths, train=train)

  if remat:
    kept = jax.checkpoint_policies.save_only_these_names(
      'convolution', 'statistics'
    )
    run = nn.remat(run, policy=kept)
  return run(block, x, lengths)


class Convolutions(nn.Module):
  """Blocks of convolution layers, each `growth` channels wider at its end."""

  blocks: int
  layers_per_block: int
  width: int
  """Channels of the first block's layers."""
  growth: int
  """Channels added by the last layer of each block."""
  reduction: str
  dropout: float
  batch_norm_momentum: float
  batch_norm_epsilon: float
  remat: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns features [B, T', F', C], zero where not valid, and lengths."""
    x = x_BxTxF[..., None]
    for index in range(self.blocks):
      block = ConvolutionBlock(
        layers=self.layers_per_block,
        width=self.width + index * self.growth,
        last_width=self.width + (index + 1) * self.growth,
        reduction=self.reduction,
        dropout=self.dropout,
        batch_norm_momentum=self.batch_norm_momentum,
        batch_norm_epsilon=self.batch_norm_epsilon,
        dtype=self.dtype,
        name=f'block_{index}',
      )
      x, lengths = run_block(block, x, lengths, train=train, remat=self.remat)
    return x, lengths


class BidirectionalLSTM(nn.Module):
  """One layer of both directions, over valid frames only.

  The inputs of all frames and both directions are projected in one matrix
  product; only the recurrent part is scanned, both directions in one scan. In
  frames outside the mask the state is carried on unchanged, so the backward
  direction starts, in effect, at the last valid frame.
  """

  units: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x_BxTxD: jax.Array, mask_BxT: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Runs the layer.

    Args:
      x_BxTxD: Inputs, any finite values outside the mask.
      mask_BxT: Valid frames, a prefix of each row.

    Returns:
      Outputs [B, T, 2 H] (forward, backward), zero outside the mask, and the
      last state of each direction side by side, [B, 2 H].
    """
    batch, frames, features = x_BxTxD.shape
    units = self.units
    # Not orthogonal recurrent kernels: several QR factorisations at once wait
    # for each other for ever in jaxlib 0.10.2 on two CPU threads.
    glorot = nn.initializers.glorot_uniform(in_axis=1, out_axis=2, batch_axis=0)
    kernel = self.param('kernel', glorot, (2, features, 4 * units))
    recurrent = self.param(
      'recurrent_kernel', glorot, (2, units, 4 * units)
    ).astype(self.dtype)
    bias = self.param('bias', _forget_one, (2, 4 * units))

    x_BxTxD = masked(x_BxTxD, mask_BxT).astype(self.dtype)
    projected = jnp.einsum(
      'btd,kdg->tkbg', x_BxTxD, kernel.astype(self.dtype)
    ) + bias[:, None, :].astype(self.dtype)

    def backwards(x):
      return jnp.stack([x[:, 0], x[::-1, 1]], axis=1)

    projected = backwards(projected)
    mask_Tx2xBx1 = backwards(
      jnp.broadcast_to(mask_BxT.T[:, None, :, None], (frames, 2, batch, 1))
    )

    def step(carry, inputs):
      hidden, cell = carry
      gates, valid = inputs
      gates = gates + jnp.einsum('kbh,khg->kbg', hidden, recurrent)
      update, forget, candidate, output = jnp.split(
        gates.astype(jnp.float32), 4, axis=-1
      )
      new_cell = nn.sigmoid(forget) * cell
      new_cell += nn.sigmoid(update) * jnp.tanh(candidate)
      new_hidden = (nn.sigmoid(output) * jnp.tanh(new_cell)).astype(self.dtype)
      hidden = jnp.where(valid, new_hidden, hidden)
      cell = jnp.where(valid, new_cell, cell)
      return (hidden, cell), hidden

    zeros = jnp.zeros((2, batch, units))
    (hidden, _), outputs = jax.lax.scan(
      step,
      (zeros.astype(self.dtype), zeros),
      (projected, mask_Tx2xBx1),
    )
    outputs = backwards(outputs)
    outputs_BxTx2H = jnp.moveaxis(outputs, 2, 0).reshape(batch, frames, -1)
    last_Bx2H = jnp.moveaxis(hidden, 1, 0).reshape(batch, -1)
    return masked(outputs_BxTx2H, mask_BxT), last_Bx2H


def _forget_one(key: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Biases of zero, but one at the forget gate, which opens it at the start."""
  del key
  directions, gates = shape
  units = gates // 4
  return jnp.zeros((directions, gates)).at[:, units : 2 * units].set(1.0)

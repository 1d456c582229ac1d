"""Layers shared by the models. Each masks what it returns.

B: batch, T: frames, F: frequency bins, C: channels, D: features of a frame,
H: units of one LSTM direction. A mask is bool [B, T], true in valid frames.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ecg_jax.fields.models import LayerFields
from ecg_jax.models import preprocessing
from ecg_jax.models.kernels import lstm
from ecg_jax.models.kernels.activation import Activation, Normalizer
from ecg_jax.runtime import collectives, platforms


def masked(x: jax.Array, mask_BxT: jax.Array) -> jax.Array:
  """Sets the frames outside the mask to zero.

  Args:
    x: [B, T, ...].
    mask_BxT: Valid frames.
  """
  shape = mask_BxT.shape + (1,) * (x.ndim - 2)
  return jnp.where(mask_BxT.reshape(shape), x, jnp.zeros((), x.dtype))


def masked_mean(x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
  """Mean over the valid frames, float32 [B, D]; 0 for rows without any."""
  total = jnp.sum(masked(x_BxTxD, mask_BxT), axis=1, dtype=jnp.float32)
  count = jnp.maximum(jnp.sum(mask_BxT, axis=1), 1).astype(jnp.float32)
  return total / count[:, None]


class BatchNorm(nn.Module):
  """Batch normalization whose statistics cover valid frames only.

  Mean and variance are over the valid frames of the whole batch and, for 4-d
  inputs, all frequency bins, in float32, from sums and counts over all devices.
  (`flax.linen.BatchNorm` averages the devices' means with equal weights, which
  is wrong where their counts differ.) `batch_stats` holds the running averages
  used in evaluation.
  """

  momentum: float = 0.99
  epsilon: float = 1e-3

  @nn.compact
  def arrays(self, channels: int) -> Normalizer:
    """The parameters and running averages of so many channels."""
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    size = (channels,)
    return Normalizer(
      self.param('scale', ones, size),
      self.param('bias', zeros, size),
      self.variable('batch_stats', 'mean', jnp.zeros, size).value,
      self.variable('batch_stats', 'variance', jnp.ones, size).value,
    )

  def update(
    self, arrays: Normalizer, mean: jax.Array, variance: jax.Array
  ) -> None:
    """Adds the statistics of a batch, float32 [C], to the running averages."""
    if self.is_initializing():
      return
    keep = self.momentum
    mean = keep * arrays.mean + (1 - keep) * mean
    variance = keep * arrays.variance + (1 - keep) * variance
    self.put_variable('batch_stats', 'mean', mean)
    self.put_variable('batch_stats', 'variance', variance)

  def __call__(
    self, x: jax.Array, mask_BxT: jax.Array, *, train: bool
  ) -> jax.Array:
    """Normalizes x, [B, T, F, C] or [B, T, C].

    Returns:
      The same shape and dtype, not masked.
    """
    arrays = self.arrays(x.shape[-1])
    x, mean, variance = normalize(
      x, mask_BxT, arrays, self.epsilon, train=train
    )
    if train:
      self.update(arrays, mean, variance)
    return x


def normalize(
  x: jax.Array,
  mask_BxT: jax.Array,
  arrays: Normalizer,
  epsilon: float,
  *,
  train: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalizes x as `BatchNorm` says.

  Returns:
    The same shape and dtype as x, not masked; and mean and variance, of the
    batch in training, else the running averages.
  """
  axes = tuple(range(x.ndim - 1))
  if train:
    # A convolution's output is not zero in the frames next to the valid ones.
    valid = masked(x, mask_BxT).astype(jnp.float32)
    count = jnp.sum(mask_BxT, dtype=jnp.float32) * math.prod(x.shape[2:-1])
    sums = (count, jnp.sum(valid, axis=axes), jnp.sum(valid**2, axis=axes))
    count, total, total_of_squares = checkpoint_name(
      collectives.total(sums), 'statistics'
    )
    count = jnp.maximum(count, 1.0)
    mean = total / count
    variance = jnp.maximum(total_of_squares / count - mean**2, 0.0)
  else:
    mean, variance = arrays.mean, arrays.variance
  factor = arrays.scale * jax.lax.rsqrt(variance + epsilon)
  offset = arrays.bias - mean * factor
  factor, offset = (jnp.expand_dims(array, axes) for array in (factor, offset))
  y = (x.astype(factor.dtype) * factor + offset).astype(x.dtype)
  return y, mean, variance


def activate(
  norm: BatchNorm, x_BxTxC: jax.Array, lengths: jax.Array, *, train: bool
) -> jax.Array:
  """Batch normalization, ReLU, mask."""
  arrays = norm.arrays(x_BxTxC.shape[-1])

  def by_operation(x, lengths, arrays):
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    x, *statistics = normalize(x, mask_BxT, arrays, norm.epsilon, train=train)
    return masked(nn.relu(x), mask_BxT), *statistics

  x, *statistics = platforms.choose(
    x_BxTxC,
    lengths,
    arrays,
    cpu=by_operation,
    default=Activation(1, norm.epsilon, train),
  )
  if train:
    norm.update(arrays, *statistics)
  return x


def batch_norm(config: LayerFields, name: str) -> BatchNorm:
  """Creates a batch normalization with the constants of a config."""
  return BatchNorm(
    config.batch_norm_momentum, config.batch_norm_epsilon, name=name
  )


def run_block(
  block: nn.Module,
  x: jax.Array,
  lengths: jax.Array,
  *,
  train: bool,
  remat: bool,
) -> tuple[jax.Array, jax.Array]:
  """Calls a block of layers, optionally with rematerialization.

  With `remat`, the forward pass of a training step stores only the outputs of
  convolutions and the sums over the batch; normalization, ReLU, dropout and
  pooling are recomputed for the gradient, without communication.
  """

  def run(block, x, lengths):
    return block(x, lengths, train=train)

  if remat:
    policy = jax.checkpoint_policies.save_only_these_names(
      'convolution', 'statistics'
    )
    run = nn.remat(run, policy=policy)
  return run(block, x, lengths)


class BidirectionalLSTM(nn.Module):
  """One LSTM layer of both directions, over valid frames only.

  Library cells project the inputs inside every step. Here one matrix product
  projects the inputs of all frames and both directions, and one scan runs the
  recurrent part of both. Frames outside the mask leave the state unchanged, so
  the backward direction effectively starts at the last valid frame.
  """

  units: int
  """Units of each direction, H."""
  dtype: Any
  """Compute dtype; the cell's state is float32."""

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
      concatenated last states of both directions, [B, 2 H].
    """
    batch, frames, features = x_BxTxD.shape
    units = self.units
    # Recurrent kernels are not orthogonal: several QR factorizations at once
    # deadlock in jaxlib 0.10.2 on two CPU threads.
    glorot = nn.initializers.glorot_uniform(in_axis=1, out_axis=2, batch_axis=0)
    kernel = self.param('kernel', glorot, (2, features, 4 * units))
    recurrent = self.param(
      'recurrent_kernel', glorot, (2, units, 4 * units)
    ).astype(self.dtype)
    bias = self.param('bias', _forget_one, (2, 4 * units))

    x_BxTxD = masked(x_BxTxD, mask_BxT).astype(self.dtype)
    projected = jnp.einsum(
      'btd,kdg->tkbg', x_BxTxD, kernel.astype(self.dtype)
    ) + bias[None, :, None, :].astype(self.dtype)

    def backwards(x):
      return jnp.stack([x[:, 0], x[::-1, 1]], axis=1)

    projected = backwards(projected)
    mask_Tx2xBx1 = backwards(
      jnp.broadcast_to(mask_BxT.T[:, None, :, None], (frames, 2, batch, 1))
    )

    outputs, hidden = lstm.recurrence(projected, mask_Tx2xBx1, recurrent)
    outputs = backwards(outputs)
    outputs_BxTx2H = jnp.moveaxis(outputs, 2, 0).reshape(batch, frames, -1)
    last_Bx2H = jnp.moveaxis(hidden, 1, 0).reshape(batch, -1)
    return masked(outputs_BxTx2H, mask_BxT), last_Bx2H


def _forget_one(key: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Initializes biases to 0, but the forget gate's to 1, which opens it."""
  del key
  directions, gates = shape
  units = gates // 4
  return jnp.zeros((directions, gates)).at[:, units : 2 * units].set(1.0)

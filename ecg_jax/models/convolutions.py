"""The convolution blocks of the paper's models.

B: batch, T: frames, F: frequency bins, C: channels.
"""

import functools
from typing import NamedTuple

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ecg_jax.fields.models import CNNFields
from ecg_jax.models import layers, preprocessing
from ecg_jax.models.kernels import (
  activation,
  blocks,
  convolution,
  dropout,
  max_pool,
)
from ecg_jax.runtime import platforms


class Convolutions(nn.Module):
  """All convolution blocks of the paper's models."""

  config: CNNFields

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns features [B, T', F', C], zero where not valid, and lengths."""
    x = x_BxTxF[..., None]
    for index in range(self.config.blocks):
      block = ConvolutionBlock(self.config, index, name=f'block_{index}')
      x, lengths = layers.run_block(
        block, x, lengths, train=train, remat=self.config.remat
      )
    return x, lengths


class Layer(NamedTuple):
  """The arrays of a convolution layer."""

  kernel: jax.Array
  """float32 [5, 5, I, O]."""
  norm: activation.Normalizer
  noise: jax.Array | None
  """Of its dropout."""


class ConvolutionBlock(nn.Module):
  """Convolution layers, of which the last halves time and frequency.

  Each layer: 5x5 convolution over (time, frequency) without bias (batch
  normalization has one), batch normalization, ReLU, dropout (paper, section
  2.3).
  """

  config: CNNFields
  index: int
  """Position among the blocks, which determines the width."""

  @nn.compact
  def __call__(
    self, x_BxTxFxC: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns x with half (rounded up) the frames and bins, and its lengths."""
    config = self.config
    channels, norms, arrays = x_BxTxFxC.shape[-1], [], []
    for index in range(config.layers_per_block):
      last = index == config.layers_per_block - 1
      width = config.width + (self.index + last) * config.growth
      kernel = self.param(
        f'kernel_{index}',
        nn.initializers.glorot_uniform(),
        (5, 5, channels, width),
      )
      norms.append(layers.batch_norm(config, f'batch_norm_{index}'))
      noise = dropout.Dropout(config.dropout_convolution).noise(
        x_BxTxFxC.shape[0], train=train
      )
      arrays.append(Layer(kernel, norms[-1].arrays(width), noise))
      channels = width

    x, statistics = platforms.choose(
      x_BxTxFxC,
      lengths,
      arrays,
      cpu=functools.partial(_by_operation, config, train),
      default=functools.partial(_in_few_passes, config, train),
    )
    if train:
      for norm, layer, found in zip(norms, arrays, statistics, strict=True):
        norm.update(layer.norm, *found)
    return x, -(-lengths // 2)


_Statistics = list[tuple[jax.Array, jax.Array]]
"""Mean and variance of each layer, float32 [C]."""


def _by_operation(
  config: CNNFields,
  train: bool,
  x: jax.Array,
  lengths: jax.Array,
  arrays: list[Layer],
) -> tuple[jax.Array, _Statistics]:
  """The layers of a block one operation after the other, as on a CPU."""
  statistics = []
  for index, layer in enumerate(arrays):
    stride = _stride(config, index)
    x = convolution.convolve(
      x.astype(config.dtype), layer.kernel.astype(config.dtype), stride
    )
    x = checkpoint_name(x, 'convolution')
    lengths = -(-lengths // stride)
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    x, mean, variance = layers.normalize(
      x, mask_BxT, layer.norm, config.batch_norm_epsilon, train=train
    )
    statistics.append((mean, variance))
    x = layers.masked(nn.relu(x), mask_BxT)
    x = dropout.drop(x, layer.noise, config.dropout_convolution)
  if config.reduction == 'max_pool':
    # After the ReLU and the mask nothing is negative and padding is zero, so
    # a window that extends beyond the end has the maximum of its valid part.
    x = max_pool.max_pool(x)
  return x, statistics


def _in_few_passes(
  config: CNNFields,
  train: bool,
  x: jax.Array,
  lengths: jax.Array,
  arrays: list[Layer],
) -> tuple[jax.Array, _Statistics]:
  """The layers of a block with few passes over the activations, as on a GPU."""
  statistics = []
  x = x.astype(config.dtype)
  bins = x.shape[2]
  is_blocked = blocks.pay(arrays[0].kernel.shape[-1], config.dtype)
  if is_blocked:
    x = blocks.to_blocks(x)
  for index, layer in enumerate(arrays):
    stride = _stride(config, index)
    lengths, bins = -(-lengths // stride), -(-bins // stride)
    if is_blocked:
      x = blocks.convolve(x, layer.kernel, stride)
    else:
      kernel = layer.kernel.astype(config.dtype)
      x = convolution.library(x, kernel, stride)
    x = checkpoint_name(x, 'convolution')
    activate = activation.Activation(
      bins,
      config.batch_norm_epsilon,
      train,
      config.dropout_convolution,
    )
    x, mean, variance = activate(x, lengths, layer.norm, layer.noise)
    statistics.append((mean, variance))
  if config.reduction == 'max_pool':
    x = blocks.max_pool(x) if is_blocked else max_pool.max_pool(x)
  return x, statistics


def _stride(config: CNNFields, index: int) -> int:
  """Of a layer of a block."""
  last = index == config.layers_per_block - 1
  return 2 if last and config.reduction == 'stride' else 1

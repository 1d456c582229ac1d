"""A small, fast CRNN: residual convolutions over time, bidirectional LSTM."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ecg_jax.fields.models import ResidualCRNNFields
from ecg_jax.models import layers, preprocessing
from ecg_jax.models.kernels import convolution
from ecg_jax.models.kernels.dropout import Dropout


class ResidualCRNN(nn.Module):
  """Residual stages, each halving time, then three concatenated summaries.

  Unlike the paper's models it treats the bins of a frame as channels and
  convolves over time only, which costs a hundredth. The summaries are mean and
  maximum over time and the mean of a bidirectional LSTM.

  B: batch, T: frames, F: frequency bins, C: channels.
  """

  config: ResidualCRNNFields

  config_type: ClassVar = ResidualCRNNFields

  trained: ClassVar = {'all': ('convolutions', 'lstm', 'output')}
  """Kind of phase -> the top-level parameters that it trains."""

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool, kind: str
  ) -> jax.Array:
    """Computes logits.

    Args:
      x_BxTxF: Log-spectrograms, float32.
      lengths: Valid frames, int32 [B].
      train: Whether to use batch statistics and dropout.
      kind: A key of `trained`.

    Returns:
      Float32 [B, C].
    """
    del kind
    config = self.config
    x, lengths = ResidualStages(config, name='convolutions')(
      x_BxTxF, lengths, train=train
    )
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    dropped = Dropout(config.dropout_convolution, whole_channels=True)(
      x, train=train
    )
    states, _ = layers.BidirectionalLSTM(
      config.lstm_units, config.dtype, name='lstm'
    )(dropped, mask_BxT)
    summary = jnp.concatenate(
      [
        layers.masked_mean(x, mask_BxT),
        _maximum(x).astype(jnp.float32),
        layers.masked_mean(states, mask_BxT),
      ],
      axis=-1,
    )
    summary = Dropout(config.dropout_output)(summary, train=train)
    return nn.Dense(config.num_classes, name='output')(summary)


def _maximum(x_BxTxC: jax.Array) -> jax.Array:
  """Maximum over time, [B, C], of x that is not negative, and 0 where masked.

  Gathers at the index of the maximum: the gradient of `max` looks for elements
  that equal the maximum, and finds none where the compiler computes x twice
  with different rounding. `unique_indices` lets a GPU scatter the gradient in
  deterministic order.
  """
  rows = jnp.arange(x_BxTxC.shape[0])[:, None]
  channels = jnp.arange(x_BxTxC.shape[2])[None, :]
  index = jnp.argmax(x_BxTxC, axis=1)
  return x_BxTxC.at[rows, index, channels].get(unique_indices=True)


class ResidualStages(nn.Module):
  """Stages of residual blocks with pre-activation (He et al., 2016)."""

  config: ResidualCRNNFields

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns features [B, T', C], none negative, masked, and lengths."""
    config = self.config
    mask_BxT = preprocessing.valid(lengths, x_BxTxF.shape[1])
    norm = layers.batch_norm(config, 'input_norm')
    x = layers.masked(norm(x_BxTxF, mask_BxT, train=train), mask_BxT)
    x = FrameConvolution(
      config.widths[0], config.kernel_frames, config.dtype, name='input'
    )(x)
    for stage, width in enumerate(config.widths):
      for index in range(config.blocks_per_stage):
        block = ResidualBlock(
          config,
          width=width,
          stride=2 if index == 0 else 1,
          name=f'stage_{stage}_block_{index}',
        )
        x, lengths = layers.run_block(
          block, x, lengths, train=train, remat=config.remat
        )
    norm = layers.batch_norm(config, 'output_norm')
    return layers.activate(norm, x, lengths, train=train), lengths


class ResidualBlock(nn.Module):
  """Two convolutions, each after batch normalization and ReLU, added to x.

  With stride 2 the first convolution computes every second frame, and the mean
  of neighboring frames of x is added; where the width changes, x first passes a
  convolution of one frame.
  """

  config: ResidualCRNNFields
  width: int
  """Channels of the result."""
  stride: int
  """1 or 2."""

  @nn.compact
  def __call__(
    self, x_BxTxC: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns x, not masked, with 1 / stride of the frames, and its lengths."""
    config = self.config
    norms = [layers.batch_norm(config, f'norm_{index}') for index in (0, 1)]
    x = layers.activate(norms[0], x_BxTxC, lengths, train=train)
    x = FrameConvolution(
      self.width,
      config.kernel_frames,
      config.dtype,
      stride=self.stride,
      name='layer_0',
    )(x)
    new_lengths = -(-lengths // self.stride)
    x = layers.activate(norms[1], x, new_lengths, train=train)
    x = Dropout(config.dropout_convolution, whole_channels=True)(x, train=train)
    x = FrameConvolution(
      self.width, config.kernel_frames, config.dtype, gain=0.2, name='layer_1'
    )(x)
    if self.stride == 2:
      mask_BxT = preprocessing.valid(lengths, x_BxTxC.shape[1])
      x_BxTxC = layers.masked(x_BxTxC, mask_BxT)
      odd = x_BxTxC.shape[1] % 2
      pairs = jnp.pad(x_BxTxC, ((0, 0), (0, odd), (0, 0)))
      x_BxTxC = (pairs[:, ::2] + pairs[:, 1::2]) / 2
    if x_BxTxC.shape[-1] != self.width:
      shortcut = FrameConvolution(self.width, 1, config.dtype, name='shortcut')
      x_BxTxC = shortcut(x_BxTxC)
    return x_BxTxC + x, new_lengths


class FrameConvolution(nn.Module):
  """A convolution over time without bias; He initialization times `gain`."""

  width: int
  """Channels of the result."""
  kernel_frames: int
  dtype: Any
  stride: int = 1
  gain: float = 1.0

  @nn.compact
  def __call__(self, x_BxTxC: jax.Array) -> jax.Array:
    """Returns [B, ceil(T / stride), width]."""
    kernel = self.param(
      'kernel',
      nn.initializers.variance_scaling(2 * self.gain**2, 'fan_in', 'normal'),
      (self.kernel_frames, x_BxTxC.shape[-1], self.width),
    )
    x = convolution.convolve(
      x_BxTxC.astype(self.dtype), kernel.astype(self.dtype), self.stride
    )
    return checkpoint_name(x, 'convolution')

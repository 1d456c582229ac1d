"""A small, fast CRNN: residual convolutions over time, bidirectional LSTM."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ecg_jax.models import layers, preprocessing
from ecg_jax.models.kernels import convolution
from ecg_jax.models.kernels.dropout import Dropout


class ResidualCRNN(nn.Module):
  """Residual stages, each halving time, then three summaries side by side.

  Unlike the paper's models it takes the bins of a frame as channels and
  convolves over time alone, which costs a hundredth. The summaries are mean and
  maximum over time and the mean of a bidirectional LSTM.

  B: batch, T: frames, F: features of a frame, C: channels.
  """

  dropout_convolution: float
  """Of whole channels, within each block and before the LSTM."""
  dropout_output: float
  """Of the summaries."""
  widths: tuple[int, ...]
  """Channels of each stage."""
  blocks_per_stage: int
  kernel_frames: int
  """Frames that a convolution sees, odd."""
  lstm_units: int
  """Units of each direction."""
  batch_norm_momentum: float = 0.99
  batch_norm_epsilon: float = 1e-3
  remat: bool = False
  """Whether to keep less of the forward pass for the gradient."""
  dtype: jnp.dtype = jnp.float32

  trained: ClassVar = {'all': ('convolutions', 'lstm', 'output')}
  """The top-level parameters that each kind of phase trains."""

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool, kind: str
  ) -> jax.Array:
    """Returns logits, float32 [B, 4].

    Args:
      x_BxTxF: Features, float32.
      lengths: Valid frames, int32 [B].
      train: Whether batch statistics and dropout are in use.
      kind: A key of `trained`.
    """
    del kind
    x, lengths = ResidualStages(
      widths=self.widths,
      blocks_per_stage=self.blocks_per_stage,
      kernel_frames=self.kernel_frames,
      dropout=self.dropout_convolution,
      batch_norm_momentum=self.batch_norm_momentum,
      batch_norm_epsilon=self.batch_norm_epsilon,
      remat=self.remat,
      dtype=self.dtype,
      name='convolutions',
    )(x_BxTxF, lengths, train=train)
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    dropped = Dropout(self.dropout_convolution, True)(x, train=train)
    states, _ = layers.BidirectionalLSTM(
      self.lstm_units, self.dtype, name='lstm'
    )(dropped, mask_BxT)
    summary = jnp.concatenate(
      [
        layers.masked_mean(x, mask_BxT),
        _maximum(x).astype(jnp.float32),
        layers.masked_mean(states, mask_BxT),
      ],
      axis=-1,
    )
    summary = Dropout(self.dropout_output)(summary, train=train)
    return nn.Dense(4, name='output')(summary)


def _maximum(x_BxTxC: jax.Array) -> jax.Array:
  """Maximum over time, [B, C], of x that is not below 0, and 0 where masked.

  By the index of the maximum: the gradient of `max` itself looks for elements
  that equal it, and finds none where the compiler computes x twice and rounds
  differently. Each place is written once, which a GPU has to be told to do it
  in a fixed order.
  """
  rows = jnp.arange(x_BxTxC.shape[0])[:, None]
  channels = jnp.arange(x_BxTxC.shape[2])
  index = jnp.argmax(x_BxTxC, axis=1)
  return x_BxTxC.at[rows, index, channels].get(unique_indices=True)


class ResidualStages(nn.Module):
  """Stages of residual blocks with pre-activation (He et al., 2016)."""

  widths: tuple[int, ...]
  blocks_per_stage: int
  kernel_frames: int
  dropout: float
  batch_norm_momentum: float
  batch_norm_epsilon: float
  remat: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns features [B, T', C], not below 0, 0 where not valid; lengths."""
    mask_BxT = preprocessing.valid(lengths, x_BxTxF.shape[1])
    x = layers.BatchNorm(
      self.batch_norm_momentum, self.batch_norm_epsilon, name='input_norm'
    )(x_BxTxF, mask_BxT, train=train)
    x = FrameConvolution(
      self.widths[0], self.kernel_frames, 1, self.dtype, name='input'
    )(layers.masked(x, mask_BxT))
    for stage, width in enumerate(self.widths):
      for index in range(self.blocks_per_stage):
        block = ResidualBlock(
          width=width,
          kernel_frames=self.kernel_frames,
          stride=2 if index == 0 else 1,
          dropout=self.dropout,
          batch_norm_momentum=self.batch_norm_momentum,
          batch_norm_epsilon=self.batch_norm_epsilon,
          dtype=self.dtype,
          name=f'stage_{stage}_block_{index}',
        )
        x, lengths = layers.run_block(
          block, x, lengths, train=train, remat=self.remat
        )
    norm = layers.BatchNorm(
      self.batch_norm_momentum, self.batch_norm_epsilon, name='output_norm'
    )
    return _activate(norm, x, lengths, train=train), lengths


def _activate(
  norm: layers.BatchNorm, x_BxTxC: jax.Array, lengths: jax.Array, *, train: bool
) -> jax.Array:
  """Batch normalisation, ReLU, mask."""
  mask_BxT = preprocessing.valid(lengths, x_BxTxC.shape[1])
  x = norm(x_BxTxC, mask_BxT, train=train)
  return layers.masked(nn.relu(x), mask_BxT)


class ResidualBlock(nn.Module):
  """Two convolutions, each behind batch normalisation and ReLU, beside x.

  With stride 2 the first convolution takes every second frame, and of x the
  mean of neighbouring frames is added; where the width changes, after a
  convolution of one frame.
  """

  width: int
  kernel_frames: int
  stride: int
  dropout: float
  batch_norm_momentum: float
  batch_norm_epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x_BxTxC: jax.Array, lengths: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns x, not masked, with 1 / stride of the frames, and its lengths."""
    norms = [
      layers.BatchNorm(
        self.batch_norm_momentum, self.batch_norm_epsilon, name=f'norm_{index}'
      )
      for index in (0, 1)
    ]
    x = _activate(norms[0], x_BxTxC, lengths, train=train)
    x = FrameConvolution(
      self.width, self.kernel_frames, self.stride, self.dtype, name='layer_0'
    )(x)
    new_lengths = -(-lengths // self.stride)
    x = _activate(norms[1], x, new_lengths, train=train)
    x = Dropout(self.dropout, whole_channels=True)(x, train=train)
    x = FrameConvolution(
      self.width, self.kernel_frames, 1, self.dtype, gain=0.2, name='layer_1'
    )(x)
    if self.stride == 2:
      mask_BxT = preprocessing.valid(lengths, x_BxTxC.shape[1])
      x_BxTxC = layers.masked(x_BxTxC, mask_BxT)
      odd = x_BxTxC.shape[1] % 2
      pairs = jnp.pad(x_BxTxC, ((0, 0), (0, odd), (0, 0)))
      x_BxTxC = (pairs[:, ::2] + pairs[:, 1::2]) / 2
    if x_BxTxC.shape[-1] != self.width:
      x_BxTxC = FrameConvolution(self.width, 1, 1, self.dtype, name='shortcut')(
        x_BxTxC
      )
    return x_BxTxC + x, new_lengths


class FrameConvolution(nn.Module):
  """A convolution over time without bias; He initialisation times `gain`."""

  width: int
  kernel_frames: int
  stride: int
  dtype: jnp.dtype
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

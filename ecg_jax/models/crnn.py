"""The CRNN of the paper: convolutions, bidirectional LSTM, linear layer."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.models import layers, preprocessing
from ecg_jax.models.kernels.dropout import Dropout


class CRNN(nn.Module):
  """24 convolution layers in 4 blocks of 6, then 3 LSTM layers (section 2.3).

  B: batch, T: frames, F: frequency bins.
  """

  dropout_convolution: float
  dropout_lstm: float
  reduction: str = 'max_pool'
  lstm_units: int = 200
  """Units of each direction."""
  lstm_layers: int = 3
  summary: str = 'last'
  """The last state of each direction, or the mean over valid frames."""
  width: int = 32
  growth: int = 32
  blocks: int = 4
  layers_per_block: int = 6
  batch_norm_momentum: float = 0.99
  batch_norm_epsilon: float = 1e-3
  remat: bool = False
  """Whether to keep less of the forward pass for the gradient."""
  dtype: jnp.dtype = jnp.float32

  trained: ClassVar = {
    'auxiliary': ('convolutions', 'auxiliary', 'output'),
    'lstm': ('lstm', 'output'),
    'all': ('convolutions', 'lstm', 'output'),
  }
  """The top-level parameters that each kind of phase trains.

  'auxiliary': the LSTM replaced by mean over time and a dense layer; 'lstm':
  convolutions frozen, in evaluation mode; 'all': the whole model.
  """

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool, kind: str
  ) -> jax.Array:
    """Returns logits, float32 [B, 4].

    Args:
      x_BxTxF: Log-spectrograms, float32.
      lengths: Valid frames, int32 [B].
      train: Whether batch statistics and dropout are in use (in the
        convolutions not while they are frozen).
      kind: A key of `trained`.
    """
    x, lengths = layers.Convolutions(
      blocks=self.blocks,
      layers_per_block=self.layers_per_block,
      width=self.width,
      growth=self.growth,
      reduction=self.reduction,
      dropout=self.dropout_convolution,
      batch_norm_momentum=self.batch_norm_momentum,
      batch_norm_epsilon=self.batch_norm_epsilon,
      remat=self.remat,
      dtype=self.dtype,
      name='convolutions',
    )(x_BxTxF, lengths, train=train and kind != 'lstm')
    x = x.reshape(*x.shape[:2], -1)
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    if kind == 'auxiliary':
      summary = layers.masked_mean(x, mask_BxT)
      summary = nn.relu(
        nn.Dense(2 * self.lstm_units, name='auxiliary')(summary)
      )
    else:
      summary = LSTMStack(
        units=self.lstm_units,
        layers=self.lstm_layers,
        summary=self.summary,
        dropout=self.dropout_lstm,
        dtype=self.dtype,
        name='lstm',
      )(x, mask_BxT, train=train)
    return nn.Dense(4, name='output')(summary)


class LSTMStack(nn.Module):
  """Layer-wise bidirectional LSTM layers and a summary of the last one.

  Every layer's output (and so the summary) passes through dropout.
  """

  units: int
  layers: int
  summary: str
  dropout: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x_BxTxD: jax.Array, mask_BxT: jax.Array, *, train: bool
  ) -> jax.Array:
    """Returns the summary, float32 [B, 2 units]."""
    x, last = x_BxTxD, x_BxTxD[:, 0]
    for index in range(self.layers):
      x, last = layers.BidirectionalLSTM(
        self.units, self.dtype, name=f'layer_{index}'
      )(x, mask_BxT)
      x = Dropout(self.dropout)(x, train=train)
    if self.summary == 'last':
      return Dropout(self.dropout)(last.astype(jnp.float32), train=train)
    return layers.masked_mean(x, mask_BxT)

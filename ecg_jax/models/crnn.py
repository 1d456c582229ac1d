"""The CRNN of the paper: convolutions, bidirectional LSTM, linear layer."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.fields.models import CRNNFields
from ecg_jax.models import convolutions, layers, preprocessing
from ecg_jax.models.kernels.dropout import Dropout


class CRNN(nn.Module):
  """24 convolution layers in 4 blocks of 6, then 3 LSTM layers (section 2.3).

  B: batch, T: frames, F: frequency bins.
  """

  config: CRNNFields

  config_type: ClassVar = CRNNFields

  trained: ClassVar = {
    'auxiliary': ('convolutions', 'auxiliary', 'output'),
    'lstm': ('lstm', 'output'),
    'all': ('convolutions', 'lstm', 'output'),
  }
  """Kind of phase -> the top-level parameters that it trains.

  'auxiliary': a mean over time and a dense layer replace the LSTM; 'lstm':
  convolutions frozen, in evaluation mode; 'all': the whole model.
  """

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool, kind: str
  ) -> jax.Array:
    """Computes logits.

    Args:
      x_BxTxF: Log-spectrograms, float32.
      lengths: Valid frames, int32 [B].
      train: Whether to use batch statistics and dropout (never in frozen
        convolutions).
      kind: A key of `trained`.

    Returns:
      Float32 [B, C].
    """
    x, lengths = convolutions.Convolutions(self.config, name='convolutions')(
      x_BxTxF, lengths, train=train and kind != 'lstm'
    )
    x = x.reshape(*x.shape[:2], -1)
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    if kind == 'auxiliary':
      dense = nn.Dense(2 * self.config.lstm_units, name='auxiliary')
      summary = nn.relu(dense(layers.masked_mean(x, mask_BxT)))
    else:
      summary = LSTMStack(self.config, name='lstm')(x, mask_BxT, train=train)
    return nn.Dense(self.config.num_classes, name='output')(summary)


class LSTMStack(nn.Module):
  """Bidirectional LSTM layers and a summary of the last one over time.

  Each layer reads both directions of the one before it. Dropout follows every
  layer and applies to the summary.
  """

  config: CRNNFields

  @nn.compact
  def __call__(
    self, x_BxTxD: jax.Array, mask_BxT: jax.Array, *, train: bool
  ) -> jax.Array:
    """Returns the summary, float32 [B, 2 * lstm_units]."""
    config = self.config
    x, last = x_BxTxD, x_BxTxD[:, 0]
    for index in range(config.lstm_layers):
      x, last = layers.BidirectionalLSTM(
        config.lstm_units, config.dtype, name=f'layer_{index}'
      )(x, mask_BxT)
      x = Dropout(config.dropout_lstm)(x, train=train)
    if config.summary == 'last':
      last = last.astype(jnp.float32)
      return Dropout(config.dropout_lstm)(last, train=train)
    return layers.masked_mean(x, mask_BxT)

"""The CRNN of the paper: convolutions, bidirectional LSTM, linear layer."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax import config_checks as checks
from ecg_jax.models import layers, preprocessing
from ecg_jax.models.kernels.dropout import Dropout


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRNNConfig(layers.ConvConfig):
  """Fields of a CRNN."""

  dropout_lstm: float
  """Dropout rate of each LSTM layer's output and of the summary."""
  lstm_units: int
  """Units of each direction."""
  lstm_layers: int
  summary: str = 'last'
  """'last': last state of each direction; 'mean': mean over valid frames."""

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.fraction('dropout.lstm', self.dropout_lstm)
    checks.at_least('model.lstm_units', self.lstm_units, 1)
    checks.at_least('model.lstm_layers', self.lstm_layers, 1)
    checks.choice('model.summary', self.summary, ('last', 'mean'))


class CRNN(nn.Module):
  """24 convolution layers in 4 blocks of 6, then 3 LSTM layers (section 2.3).

  B: batch, T: frames, F: frequency bins.
  """

  config: CRNNConfig

  config_type: ClassVar = CRNNConfig

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
      Float32 [B, 4].
    """
    x, lengths = layers.Convolutions(self.config, name='convolutions')(
      x_BxTxF, lengths, train=train and kind != 'lstm'
    )
    x = x.reshape(*x.shape[:2], -1)
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    if kind == 'auxiliary':
      dense = nn.Dense(2 * self.config.lstm_units, name='auxiliary')
      summary = nn.relu(dense(layers.masked_mean(x, mask_BxT)))
    else:
      summary = LSTMStack(self.config, name='lstm')(x, mask_BxT, train=train)
    return nn.Dense(4, name='output')(summary)


class LSTMStack(nn.Module):
  """Bidirectional LSTM layers and a summary of the last one over time.

  Each layer reads both directions of the one before it. Dropout follows every
  layer and applies to the summary.
  """

  config: CRNNConfig

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

"""The CNN of the paper: convolutions, mean over time, linear layer."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.fields.models import CNNFields
from ecg_jax.models import convolutions, layers, preprocessing


class CNN(nn.Module):
  """24 convolution layers in 6 blocks of 4 (paper, section 2.3).

  B: batch, T: frames, F: frequency bins.
  """

  config: CNNFields

  config_type: ClassVar = CNNFields

  trained: ClassVar = {'all': ('convolutions', 'output')}
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
    x, lengths = convolutions.Convolutions(self.config, name='convolutions')(
      x_BxTxF, lengths, train=train
    )
    x = x.astype(jnp.float32).mean(axis=2)
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    return nn.Dense(self.config.num_classes, name='output')(
      layers.masked_mean(x, mask_BxT)
    )

"""The CNN of the paper: convolutions, mean over time, linear layer."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.models import layers, preprocessing


class CNN(nn.Module):
  """24 convolution layers in 6 blocks of 4 (paper, section 2.3).

  B: batch, T: frames, F: frequency bins.
  """

  dropout_convolution: float
  reduction: str = 'max_pool'
  width: int = 32
  growth: int = 32
  blocks: int = 6
  layers_per_block: int = 4
  batch_norm_momentum: float = 0.99
  batch_norm_epsilon: float = 1e-3
  remat: bool = False
  """Whether to keep less of the forward pass for the gradient."""
  dtype: jnp.dtype = jnp.float32

  trained: ClassVar = {'all': ('convolutions', 'output')}
  """The top-level parameters that each kind of phase trains."""

  @nn.compact
  def __call__(
    self, x_BxTxF: jax.Array, lengths: jax.Array, *, train: bool, kind: str
  ) -> jax.Array:
    """Returns logits, float32 [B, 4].

    Args:
      x_BxTxF: Log-spectrograms, float32.
      lengths: Valid frames, int32 [B].
      train: Whether batch statistics and dropout are in use.
      kind: A key of `trained`.
    """
    del kind
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
    )(x_BxTxF, lengths, train=train)
    x = x.astype(jnp.float32).mean(axis=2)
    mask_BxT = preprocessing.valid(lengths, x.shape[1])
    return nn.Dense(4, name='output')(layers.masked_mean(x, mask_BxT))

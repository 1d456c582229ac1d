"""Fields of the models: those of `config.model` and `config.dropout`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ecg_jax.fields.group import Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFields(Group):
  """What every model has; one of your own derives its fields from these.

  In a config a field `dropout_NAME` is `dropout.NAME`, and any other is
  `model.NAME`; the first three come from the dataset and from other groups.
  """

  GROUP: ClassVar = 'model'

  num_classes: int = dataclasses.field(metadata={'outside': True})
  """C, the number of logits."""
  dtype: Any = dataclasses.field(default='float32', metadata={'outside': True})
  """Compute dtype of convolutions and LSTMs; parameters are float32."""
  remat: bool = dataclasses.field(default=False, metadata={'outside': True})
  """Whether to recompute layers for the gradient, which saves memory."""

  @property
  def halvings(self) -> int:
    """How many times the model halves the number of frames."""
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerFields(ModelFields):
  """Fields of the shipped models."""

  dropout_convolution: float = 0.15
  """Dropout rate within the convolutions."""
  batch_norm_momentum: float = 0.99
  """Share of the old running average that each training step retains."""
  batch_norm_epsilon: float = 1e-3
  """Added to each variance."""

  def __post_init__(self) -> None:
    self.fraction('dropout_convolution', 'batch_norm_momentum')
    self.positive('batch_norm_epsilon')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CNNFields(LayerFields):
  """Fields of the paper's CNN (section 2.3)."""

  width: int = 32
  """Channels of the first block's layers."""
  growth: int = 32
  """Channels that the last layer of each block adds."""
  blocks: int = 6
  """Blocks, each of which halves frames and bins."""
  layers_per_block: int = 4
  """Convolution layers of each block."""
  reduction: str = 'max_pool'
  """How a block halves frames and bins: 'max_pool' (2x2, the paper's) after its
  last layer, or a 'stride' of 2 in it (the authors' code)."""

  def __post_init__(self) -> None:
    super().__post_init__()
    self.at_least(1, 'width', 'blocks', 'layers_per_block')
    self.at_least(0, 'growth')
    self.choice('reduction', 'max_pool', 'stride')

  @property
  def halvings(self) -> int:
    """How many times the model halves the number of frames."""
    return self.blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRNNFields(CNNFields):
  """Fields of the paper's CRNN (section 2.3)."""

  blocks: int = 4
  """Blocks, each of which halves frames and bins."""
  layers_per_block: int = 6
  """Convolution layers of each block."""
  lstm_units: int = 200
  """Units of each direction."""
  lstm_layers: int = 3
  """Bidirectional LSTM layers."""
  summary: str = 'last'
  """What leaves the LSTM: its 'last' states, or their 'mean' over time."""
  dropout_lstm: float = 0.15
  """Dropout rate of each LSTM layer's output and of the summary."""

  def __post_init__(self) -> None:
    super().__post_init__()
    self.fraction('dropout_lstm')
    self.at_least(1, 'lstm_units', 'lstm_layers')
    self.choice('summary', 'last', 'mean')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualCRNNFields(LayerFields):
  """Fields of the residual CRNN."""

  dropout_convolution: float = 0.05
  """Dropout rate of whole channels, within each block and before the LSTM."""
  dropout_output: float = 0.3
  """Dropout rate of the summaries."""
  batch_norm_momentum: float = 0.98
  """Share of the old running average that each training step retains."""
  widths: tuple[int, ...] = (40, 64, 96, 128, 160)
  """Channels of each stage."""
  blocks_per_stage: int = 2
  """Residual blocks of each stage, of which the first halves the frames."""
  kernel_frames: int = 7
  """Kernel size of the convolutions, odd."""
  lstm_units: int = 64
  """Units of each direction."""

  def __post_init__(self) -> None:
    super().__post_init__()
    self.fraction('dropout_output')
    self.require(
      len(self.widths) > 0
      and all(type(width) is int and width > 0 for width in self.widths),
      'widths',
      'list the channels of each stage, like (40, 64, 96)',
    )
    self.at_least(1, 'blocks_per_stage', 'kernel_frames', 'lstm_units')
    self.require(self.kernel_frames % 2 == 1, 'kernel_frames', 'be odd')

  @property
  def halvings(self) -> int:
    """How many times the model halves the number of frames."""
    return len(self.widths)


MODELS: Mapping[str, type[ModelFields]] = {
  'cnn': CNNFields,
  'crnn': CRNNFields,
  'residual_crnn': ResidualCRNNFields,
}
"""Fields of the shipped models, by the key of `registry.MODELS`."""

"""Fields of a run and its training: loss, optimizer, loop, phases, trees."""

import dataclasses
import math
from typing import ClassVar

from ecg_jax import registry
from ecg_jax.fields.group import Group, execution


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossFields(Group):
  """The loss; options of one of your own are further fields of this group."""

  GROUP: ClassVar = 'loss'
  OPEN: ClassVar = True

  name: str = 'cross_entropy'
  """Loss of a record: 'cross_entropy', or a function of your own."""

  def __post_init__(self) -> None:
    registry.check('loss.name', self.name, registry.LOSSES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerFields(Group):
  """AdamW with a moving average of the weights."""

  weight_decay: float = 0.0
  """Share of the learning rate by which a step shrinks every kernel, apart
  from the gradient (AdamW; Loshchilov and Hutter, 2019); 0: Adam."""
  average_decay: float = 0.0
  """Share of the average weights that a step keeps; the average is what is
  evaluated. 0: no average, the weights themselves are evaluated."""

  def __post_init__(self) -> None:
    self.at_least(0, 'weight_decay')
    self.fraction('average_decay')


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopFields(Group):
  """When the training loop validates, saves and gives up."""

  validate_every_epochs: int = 5
  """Epochs from one validation to the next; the last of a phase has one too."""
  patience_epochs: int = 100
  """Epochs without improvement after which a phase ends."""
  checkpoint_minutes: float = execution(10.0)
  """Minutes between checkpoints; there is one at each validation too."""
  tensorboard: bool = execution(True)
  """Whether to write files for TensorBoard."""
  on_nan: str = execution('stop')
  """After a loss or gradient that is not finite: 'stop', or 'restore' the last
  checkpoint and draw other bursts and dropout, at most three times."""

  cuda_graphs: bool = execution(False)
  """Whether a GPU gets the steps of a chunk as one CUDA graph, which saves the
  time between kernels; not measured yet."""

  def __post_init__(self) -> None:
    self.at_least(1, 'validate_every_epochs', 'patience_epochs')
    self.positive('checkpoint_minutes')
    self.choice('on_nan', 'stop', 'restore')


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFields(OptimizerFields, LoopFields):
  """The fields that are in no group."""

  seed: int = 0
  """Of initialization, sampling, augmentation and dropout."""
  folds: tuple[int, ...] = execution((0, 1, 2, 3, 4))
  """Cross-validation folds to train."""
  label_version: str = 'v3'
  """Version of the labels to train on and score with; those of the challenge
  are 'v1', 'v2' and 'v3'."""
  init_from: str | None = None
  """Folder of a finished run of the same model, or its released weights like
  'ecg_jax:crnn_beats': training starts from its best weights of the same fold.
  None: random weights."""
  metrics: tuple[str, ...] = execution(())
  """Further metrics: 'kappa', 'brier_score', or functions of your own."""
  batch_size: int = 20
  """Records of a training step."""
  evaluation_batch_size: int = 40
  """Records that are evaluated together."""
  class_weights: bool = True
  """Whether records of rare classes count more in the loss."""
  class_weight_power: float | None = None
  """The weights are the inverse frequencies of the classes to this power, 0 to
  1. None: the paper's formula."""
  compensated_sampling: bool = False
  """Whether to draw records of rare classes more often."""
  dtype: str = 'float32'
  """Of computations in the layers: 'float32' or 'bfloat16'."""
  devices_per_job: int | None = execution(None)
  """Devices that train a fold. None: all devices, divided among the folds."""
  jobs_per_device: int = execution(1)
  """Folds that train at once on each device, each in a process of its own."""
  remat: bool = execution(False)
  """Whether to recompute layers for the gradient, which saves memory."""
  max_epochs: int | None = None
  """Limit of every phase. None: no limit."""
  chunk_steps: int = 8
  """Steps that run as one program."""

  def __post_init__(self) -> None:
    OptimizerFields.__post_init__(self)
    LoopFields.__post_init__(self)
    self.at_least(0, 'seed')
    self.require(self.seed < 2**32, 'seed', f'be below {2**32}')
    self._check_folds()
    for name in self.metrics:
      registry.check('metrics', name, registry.METRICS)
    self.at_least(
      1,
      *('batch_size', 'evaluation_batch_size', 'chunk_steps'),
      *('devices_per_job', 'jobs_per_device', 'max_epochs'),
    )
    apart = self.jobs_per_device == 1 or self.devices_per_job in (None, 1)
    rule = 'be 1 where devices_per_job is above 1'
    self.require(apart, 'jobs_per_device', rule)
    power = self.class_weight_power
    holds = power is None or 0 <= power <= 1
    self.require(holds, 'class_weight_power', 'be between 0 and 1')
    self.choice('dtype', 'float32', 'bfloat16')

  def _check_folds(self) -> None:
    """How many folds there are is known once the dataset is."""
    refuse_unless = self.refuse_unless
    advice = 'name at least one, like (0,)'
    refuse_unless(bool(self.folds), 'folds', 'is empty', advice)
    for fold in self.folds:
      is_number = type(fold) is int
      advice = 'write whole numbers, like (0, 1)'
      refuse_unless(is_number, 'folds', f'holds {fold!r}', advice)
      advice = 'folds are numbered from 0'
      refuse_unless(fold >= 0, 'folds', f'holds {fold!r}', advice)
    unique = len(set(self.folds)) == len(self.folds)
    advice = 'name each fold once'
    refuse_unless(unique, 'folds', f'is {self.folds}', advice)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseFields(Group):
  """The phases of training (paper, section 2.4), in order."""

  GROUP: ClassVar = 'phases'

  kinds: tuple[str, ...] = ('all',)
  """What each trains: 'all', the whole model; of a CRNN also 'auxiliary', its
  LSTM replaced by a mean over time and a dense layer, and 'lstm', its
  convolutions frozen."""
  epochs: tuple[int, ...] = (500,)
  """Epochs of each, at most."""
  learning_rates: tuple[float, ...] = (1e-3,)
  """Highest learning rate of each."""
  schedule: str = 'constant'
  """Of the learning rate: 'constant', or 'cosine' down to 0."""
  warmup_epochs: float = 0.0
  """Epochs at the start of each in which the learning rate rises."""

  def __post_init__(self) -> None:
    refuse_unless = self.refuse_unless
    count = f'set one for each of phases.kinds, {len(self.kinds)} in all'
    for name in ('epochs', 'learning_rates'):
      values = getattr(self, name)
      is_whole = len(values) == len(self.kinds)
      refuse_unless(is_whole, name, f'is {values}', count)
    itself = bool(self.kinds) and self.kinds[-1] != 'auxiliary'
    advice = 'the last phase must train the model itself'
    refuse_unless(itself, 'kinds', f'is {self.kinds}', advice)
    for epochs in self.epochs:
      holds = type(epochs) is int and epochs >= 1
      advice = 'epochs are whole numbers from 1'
      refuse_unless(holds, 'epochs', f'holds {epochs!r}', advice)
    for rate in self.learning_rates:
      holds = type(rate) in (int, float) and 0 < rate < math.inf
      advice = 'rates are positive numbers'
      refuse_unless(holds, 'learning_rates', f'holds {rate!r}', advice)
    self.choice('schedule', 'constant', 'cosine')
    self.at_least(0, 'warmup_epochs')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreesFields(Group):
  """Gradient-boosted trees on beat features, averaged with the network."""

  GROUP: ClassVar = 'trees'

  rounds: int = 0
  """Rounds of boosting, each of a tree for each class. 0: no trees, the network
  alone."""
  learning_rate: float = 0.05
  """Share of a tree's values that is added."""
  leaves: int = 12
  """Leaves of a tree, at most."""
  least_leaf_records: int = 15
  """Records of the train set in a leaf, at least."""
  l2_regularization: float = 3.0
  """Added to the sum of second derivatives that divides a leaf's value."""
  feature_share: float = 0.2
  """Share of the features, drawn anew, of which a split takes the best."""
  class_weight_power: float = 0.3
  """A record counts as the inverse share of its class to this power, 0 to 1."""

  def __post_init__(self) -> None:
    self.at_least(0, 'rounds', 'l2_regularization')
    self.positive('learning_rate')
    self.at_least(2, 'leaves')
    self.at_least(1, 'least_leaf_records')
    share, power = self.feature_share, self.class_weight_power
    self.require(0 < share <= 1, 'feature_share', 'be above 0 and at most 1')
    self.require(0 <= power <= 1, 'class_weight_power', 'be between 0 and 1')

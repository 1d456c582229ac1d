"""Where the training of a fold stands, beside its arrays."""

import dataclasses
import math


@dataclasses.dataclass
class Progress:
  """Position of the loop and its best result; a checkpoint holds it as JSON."""

  phase: int = 0
  begun: bool = False
  """Whether the phase has its initial state."""
  epoch: int = 0
  """Complete epochs of the phase."""
  chunk: int = 0
  """Complete chunks of the epoch after it."""
  loss: float = 0.0
  """Sum of the losses over those chunks."""
  records: int = 0
  """Records in those chunks."""
  seconds: float = 0.0
  """Time spent on those chunks."""
  best_score: float = -math.inf
  """Validation score of the best weights, in percent."""
  best_phase: int | None = None
  best_epoch: int | None = None
  last_improvement: int = 0
  """Epoch of this phase that made the best weights; 0 if none did."""
  restores: int = 0
  """Times that training went back because of numbers that are not finite."""

  def add_chunk(self, loss: float, records: int) -> None:
    """Adds the sums of a chunk."""
    self.chunk += 1
    self.loss += loss
    self.records += records

  def begin_row(self) -> None:
    """Begins the sums of the next epoch."""
    self.chunk, self.records, self.loss, self.seconds = 0, 0, 0.0, 0.0

  def improve(self, score: float) -> bool:
    """Whether the score of the epoch just completed is the best so far."""
    if score <= self.best_score:
      return False
    self.best_score, self.best_phase = score, self.phase
    self.best_epoch = self.last_improvement = self.epoch
    return True

  def next_phase(self, *, same_network: bool) -> None:
    """Goes on to the next phase, whose network starts from the best weights.

    Args:
      same_network: Whether it evaluates the network that gave the best weights
        their score. That then stands (evaluation is deterministic: validating
        again would give it again); another network has no score yet.
    """
    self.phase += 1
    self.begun = False
    self.epoch = self.last_improvement = 0
    if not same_network:
      self.best_score = -math.inf
      self.best_phase = self.best_epoch = None

"""The phases of training and their learning-rate schedules."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Phase:
  """One phase (paper, section 2.4)."""

  kind: str
  """Which parameters are trained: a key of the model's `trained`."""
  epochs: int
  """Epochs at most."""
  learning_rate: float
  """The highest of the phase."""
  schedule: str = 'constant'
  """'constant', or 'cosine': down to 0 at the end of the phase."""
  warmup_epochs: float = 0.0
  """Epochs at the start in which the rate rises in proportion to time."""

  @property
  def evaluated_as(self) -> str:
    """The kind under which the phase's network is evaluated."""
    return 'auxiliary' if self.kind == 'auxiliary' else 'all'

  def rate_at(self, epochs: float) -> float:
    """The learning rate after so many epochs, whole and part, of the phase."""
    rate = self.learning_rate
    if epochs < self.warmup_epochs:
      rate *= epochs / self.warmup_epochs
    elif self.schedule == 'cosine':
      done = (epochs - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
      rate *= (1 + math.cos(math.pi * done)) / 2
    return rate

  def chunk_rates(self, epoch: int, num_chunks: int) -> list[float]:
    """Learning rate of each chunk of an epoch (from 1): that of its middle."""
    return [
      self.rate_at(epoch - 1 + (chunk + 0.5) / num_chunks)
      for chunk in range(num_chunks)
    ]


def make_phases(
  *,
  kinds: tuple[str, ...],
  epochs: tuple[int, ...],
  learning_rates: tuple[float, ...],
  schedule: str,
  warmup_epochs: float,
  max_epochs: int | None,
) -> tuple[Phase, ...]:
  """The phases in order; `max_epochs` caps each of them."""
  return tuple(
    Phase(
      kind,
      count if max_epochs is None else min(count, max_epochs),
      rate,
      schedule,
      warmup_epochs,
    )
    for kind, count, rate in zip(kinds, epochs, learning_rates, strict=True)
  )

"""The phases of training, and when each is over."""

import dataclasses

from ecg_jax.fields.training import PhaseFields
from ecg_jax.training.progress import Progress


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

  def is_over(self, progress: Progress, patience_epochs: int) -> bool:
    """Whether it ends here, early after so many epochs without improvement."""
    waited = progress.epoch - progress.last_improvement
    return progress.epoch >= self.epochs or waited >= patience_epochs


def make_phases(
  fields: PhaseFields, max_epochs: int | None
) -> tuple[Phase, ...]:
  """The phases in order; `max_epochs` caps each of them."""
  return tuple(
    Phase(
      kind,
      count if max_epochs is None else min(count, max_epochs),
      rate,
      fields.schedule,
      fields.warmup_epochs,
    )
    for kind, count, rate in zip(
      fields.kinds, fields.epochs, fields.learning_rates, strict=True
    )
  )

"""The learning rate over the epochs of a phase."""

import math

from ecg_jax.training.phases import Phase


def rate_at(phase: Phase, epochs: float) -> float:
  """The learning rate after so many epochs, whole and part, of a phase."""
  rate = phase.learning_rate
  if epochs < phase.warmup_epochs:
    rate *= epochs / phase.warmup_epochs
  elif phase.schedule == 'cosine':
    done = epochs - phase.warmup_epochs
    done /= phase.epochs - phase.warmup_epochs
    rate *= (1 + math.cos(math.pi * done)) / 2
  return rate


def chunk_rates(phase: Phase, epoch: int, num_chunks: int) -> list[float]:
  """Learning rate of each chunk of an epoch (from 1): that of its middle."""
  return [
    rate_at(phase, epoch - 1 + (chunk + 0.5) / num_chunks)
    for chunk in range(num_chunks)
  ]

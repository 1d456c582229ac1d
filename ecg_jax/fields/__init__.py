"""The fields of a config, each declared once: name, default, unit, bounds.

No JAX here, so that a mistake is reported at once.
"""

from ecg_jax.fields.data import (
  AugmentationFields,
  BucketFields,
  DataFields,
  SpectrogramFields,
)
from ecg_jax.fields.group import Group
from ecg_jax.fields.training import (
  LossFields,
  PhaseFields,
  RunFields,
  TreesFields,
)

GROUPS: tuple[type[Group], ...] = (
  RunFields,
  DataFields,
  SpectrogramFields,
  AugmentationFields,
  BucketFields,
  LossFields,
  PhaseFields,
  TreesFields,
)
"""What every config has, beside the fields of its model."""

OPEN_GROUPS = {group.GROUP for group in GROUPS if group.OPEN}
"""Groups that may have more fields."""

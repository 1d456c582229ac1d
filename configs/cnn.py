"""The CNN of Zihlmann, Perekrestenko and Tschannen (2017), in full size.

  python -m ecg_jax.main --config configs/cnn.py

`configs/cnn.py:authors` is what the authors' published code effectively did,
where that differs from the paper.

The paper's score is 79.0; the 500 epochs have not been run.
"""

import ml_collections

from ecg_jax import default_config


def get_config(preset: str = 'paper') -> ml_collections.ConfigDict:
  """Returns the preset 'paper' or 'authors'."""
  config = default_config.get_config()

  config.model = ml_collections.ConfigDict()
  config.model.name = 'cnn'
  config.model.width = 32  # channels of the first block
  config.model.growth = 32  # channels that each block adds
  config.model.blocks = 6
  config.model.layers_per_block = 4
  config.model.reduction = 'max_pool'  # or 'stride'
  config.model.batch_norm_momentum = 0.99
  config.model.batch_norm_epsilon = 1e-3

  config.dropout = ml_collections.ConfigDict()
  config.dropout.convolution = 0.15

  config.phases = ml_collections.ConfigDict()
  config.phases.kinds = ('all',)  # the whole model
  config.phases.epochs = (500,)
  config.phases.learning_rates = (1e-3,)
  config.phases.schedule = 'constant'  # or 'cosine', down to 0
  config.phases.warmup_epochs = 0.0  # of a rising learning rate

  if preset == 'authors':
    default_config.apply_authors(config)
  elif preset != 'paper':
    raise ValueError(f"there is no preset {preset!r}: use 'paper' or 'authors'")
  return config

"""The CRNN of Zihlmann, Perekrestenko and Tschannen (2017), in full size.

  python -m ecg_jax.main --config configs/crnn.py

`configs/crnn.py:authors` is what the authors' published code effectively did,
where that differs from the paper.

The paper's score is 79.2. The 1,200 epochs of a fold would take about an hour
on one H200; they have not been run.
"""

import ml_collections

from ecg_jax import default_config


def get_config(preset: str = 'paper') -> ml_collections.ConfigDict:
  """Returns the preset 'paper' or 'authors'."""
  config = default_config.get_config()

  config.model = ml_collections.ConfigDict()
  config.model.name = 'crnn'
  config.model.width = 32  # channels of the first block
  config.model.growth = 32  # channels that each block adds
  config.model.blocks = 4
  config.model.layers_per_block = 6
  config.model.reduction = 'max_pool'  # or 'stride'
  config.model.lstm_units = 200  # of each direction
  config.model.lstm_layers = 3
  config.model.summary = 'last'  # or 'mean', over valid frames
  config.model.batch_norm_momentum = 0.99
  config.model.batch_norm_epsilon = 1e-3

  config.dropout = ml_collections.ConfigDict()
  config.dropout.convolution = 0.15
  config.dropout.lstm = 0.15

  # 'auxiliary': the LSTM replaced by a mean over time and a dense layer;
  # 'lstm': convolutions frozen; 'all': the whole model.
  config.phases = ml_collections.ConfigDict()
  config.phases.kinds = ('auxiliary', 'lstm', 'all', 'all', 'all')
  config.phases.epochs = (500, 100, 200, 200, 200)
  config.phases.learning_rates = (1e-3, 1e-3, 1e-3, 1e-4, 1e-5)
  config.phases.schedule = 'constant'  # or 'cosine', down to 0
  config.phases.warmup_epochs = 0.0  # of a rising learning rate

  if preset == 'authors':
    default_config.apply_authors(config)
    config.model.lstm_units = 100
    config.model.summary = 'mean'
  elif preset != 'paper':
    raise ValueError(f"there is no preset {preset!r}: use 'paper' or 'authors'")
  return config

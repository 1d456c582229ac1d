"""A small CRNN on the embedded synthetic ECG set: minutes on a laptop.

python -m ecg_jax.main --config configs/quickstart.py
"""

import ml_collections

from configs import crnn


def get_config() -> ml_collections.ConfigDict:
  """The paper's CRNN made small, with a short schedule, on two folds."""
  config = crnn.get_config()
  config.folds = (0, 1)
  config.data.name = 'synthetic_ecg'
  config.model.width = 8
  config.model.growth = 8
  config.model.layers_per_block = 2
  config.model.reduction = 'stride'
  config.model.lstm_units = 32
  config.model.lstm_layers = 1
  config.model.summary = 'mean'
  config.model.batch_norm_momentum = 0.9
  config.dropout.convolution = 0.05
  config.dropout.lstm = 0.05
  config.phases.kinds = ('all', 'all')
  config.phases.epochs = (12, 3)
  config.phases.learning_rates = (3e-3, 5e-4)
  config.validate_every_epochs = 1
  config.buckets.training = 3
  return config

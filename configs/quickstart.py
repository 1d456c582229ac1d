"""A small CRNN on the embedded synthetic ECG set: minutes on a laptop.

  python -m ecg_jax.main --config configs/quickstart.py

It has the parts of the paper's CRNN, but few and narrow layers, spectra of
half the window, no augmentation (a stretched heart rate would often change the
class of a synthetic record) and a short schedule.
"""

import ml_collections

from ecg_jax.configs import crnn


def get_config() -> ml_collections.ConfigDict:
  """The paper's CRNN made small, with a short schedule, on two folds."""
  config = crnn.get_config()
  config.folds = (0, 1)
  config.data.name = 'synthetic_ecg'
  config.spectrogram.window_samples = 32
  config.spectrogram.hop_samples = 16
  config.augmentation.resampling = False
  config.augmentation.bursts = False
  config.batch_size = 10
  config.model.width = 16
  config.model.growth = 16
  config.model.blocks = 4
  config.model.layers_per_block = 1
  config.model.reduction = 'stride'
  config.model.lstm_units = 48
  config.model.lstm_layers = 1
  config.model.summary = 'mean'
  # In so few steps the averages must not lag behind.
  config.model.batch_norm_momentum = 0.95
  config.dropout.convolution = 0.05
  config.dropout.lstm = 0.05
  # The convolutions first, as in the paper.
  config.phases.kinds = ('auxiliary', 'auxiliary', 'lstm', 'all')
  config.phases.epochs = (10, 3, 3, 2)
  config.phases.learning_rates = (2e-3, 4e-4, 2e-3, 2e-4)
  config.validate_every_epochs = 1
  config.buckets.training = 2
  return config

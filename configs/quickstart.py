"""A small CRNN on the embedded synthetic ECG set: minutes on a laptop.

  python -m ecg_jax.main --config configs/quickstart.py

It has the stages of the paper's CRNN, but few and narrow layers, spectra of
half the window, no augmentation (another heart rate would often change the
class of a synthetic record) and a short schedule.

It takes about 95 s on two CPU cores; the pooled test score is 84.
"""

import ml_collections

from ecg_jax.configs import crnn


def get_config() -> ml_collections.ConfigDict:
  """Returns a small version of the paper's CRNN with a short schedule."""
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
  # So that the running averages keep up in so few steps.
  config.model.batch_norm_momentum = 0.95
  config.dropout.convolution = 0.05
  config.dropout.lstm = 0.05
  # Train the convolutions first, as in the paper.
  config.phases.kinds = ('auxiliary', 'auxiliary', 'lstm', 'all')
  config.phases.epochs = (10, 3, 3, 2)
  config.phases.learning_rates = (2e-3, 4e-4, 2e-3, 2e-4)
  config.validate_every_epochs = 1
  config.buckets.training = 2
  return config

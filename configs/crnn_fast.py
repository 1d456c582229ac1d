"""A residual CRNN that two CPU cores train in a quarter of an hour a fold.

  python -m ecg_jax.main --config configs/crnn_fast.py

It departs from the paper in the network, which convolves over time only, and
in the recipe: spectra of normalized recordings at four times the frame rate;
segments of at most half a minute; dropout of few whole channels instead of
bursts and dense dropout; milder class weights; AdamW with a cosine schedule;
averaged weights.

A fold takes 15 minutes of training steps on two CPU cores and 139 s on one
H200, compilation included. The pooled test score of the five folds is 83.9
(results/crnn_fast).
"""

import ml_collections

from ecg_jax import default_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the network and recipe, selected on validation sets only."""
  config = default_config.get_config('residual_crnn')

  config.spectrogram.hop_samples = 8
  config.spectrogram.kept_bins = 20  # up to 94 Hz
  config.spectrogram.normalise = 'record'

  config.augmentation.slowest_heart_rate = 68.0
  config.augmentation.fastest_heart_rate = 94.0
  config.augmentation.max_samples = 9000  # half a minute
  config.augmentation.bursts = False

  config.phases.epochs = (28,)
  config.phases.learning_rates = (2e-3,)
  config.phases.schedule = 'cosine'
  config.phases.warmup_epochs = 1.0

  config.batch_size = 32
  config.weight_decay = 0.02
  config.average_decay = 0.998
  config.class_weight_power = 0.3
  config.validate_every_epochs = 2
  config.buckets.training = 4
  return config

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
  config = default_config.get_config('crnn')
  config.phases.kinds = ('auxiliary', 'lstm', 'all', 'all', 'all')
  config.phases.epochs = (500, 100, 200, 200, 200)
  config.phases.learning_rates = (1e-3, 1e-3, 1e-3, 1e-4, 1e-5)

  if preset == 'authors':
    default_config.apply_authors(config)
    config.model.lstm_units = 100
    config.model.summary = 'mean'
  elif preset != 'paper':
    raise ValueError(f"there is no preset {preset!r}: use 'paper' or 'authors'")
  return config

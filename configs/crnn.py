"""The CRNN of Zihlmann, Perekrestenko and Tschannen (2017), in full size.

  python -m ecg_jax.main --config configs/crnn.py

`configs/crnn.py:authors` is what the authors' published code effectively did,
where that differs from the paper.

The paper's score is 79.2. The 1,200 epochs of a fold would take about an hour
on one H200; they have not been run.

`configs/crnn.py:short` trains five folds in about ten minutes of one such GPU.
It differs from the paper in three fields:

- 29 epochs instead of 1,200, divided among the phases about as in the paper.
  Padded to two lengths, an epoch is as much to compute as 8,640 recordings of
  30 s. At the 2,600 a second that were measured, a fold takes about 80 s of
  training steps; the two phases that train a part of the network are cheaper.
- Layers compute in bfloat16.
- Batches have two lengths instead of five, so that fewer programs are compiled.

It has not been run. It was chosen by this arithmetic, not by a score.
"""

import ml_collections

from ecg_jax import default_config


def get_config(preset: str = 'paper') -> ml_collections.ConfigDict:
  """Returns the preset 'paper', 'short' or 'authors'."""
  config = default_config.get_config('crnn')
  config.phases.kinds = ('auxiliary', 'lstm', 'all', 'all', 'all')
  config.phases.epochs = (500, 100, 200, 200, 200)
  config.phases.learning_rates = (1e-3, 1e-3, 1e-3, 1e-4, 1e-5)

  if preset == 'short':
    config.phases.epochs = (10, 3, 10, 3, 3)
    config.dtype = 'bfloat16'
    config.buckets.training = 2
  elif preset == 'authors':
    default_config.apply_authors(config)
    config.model.lstm_units = 100
    config.model.summary = 'mean'
  elif preset != 'paper':
    raise ValueError(
      f"there is no preset {preset!r}: use 'paper', 'short' or 'authors'"
    )
  return config

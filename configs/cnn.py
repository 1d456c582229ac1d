"""The CNN of Zihlmann, Perekrestenko and Tschannen (2017), in full size.

  python -m ecg_jax.main --config configs/cnn.py

`configs/cnn.py:authors` is what the authors' published code effectively did,
where that differs from the paper.

The paper's score is 79.0; the 500 epochs have not been run.

`configs/cnn.py:short` trains five folds in about ten minutes of one H200. It
differs from the paper in three fields: 30 epochs instead of 500, bfloat16, and
two lengths of batches instead of five, so that fewer programs are compiled. The
CNN has 0.72 of the operations of the CRNN, for which `configs/crnn.py` has the
arithmetic: about 75 s of training steps a fold. It has not been run.
"""

import ml_collections

from ecg_jax import default_config


def get_config(preset: str = 'paper') -> ml_collections.ConfigDict:
  """Returns the preset 'paper', 'short' or 'authors'."""
  config = default_config.get_config('cnn')
  config.phases.kinds = ('all',)  # the whole model
  config.phases.epochs = (500,)
  config.phases.learning_rates = (1e-3,)

  if preset == 'short':
    config.phases.epochs = (30,)
    config.dtype = 'bfloat16'
    config.buckets.training = 2
  elif preset == 'authors':
    default_config.apply_authors(config)
  elif preset != 'paper':
    raise ValueError(
      f"there is no preset {preset!r}: use 'paper', 'short' or 'authors'"
    )
  return config

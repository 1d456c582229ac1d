"""The residual CRNN of crnn_fast.py, averaged with trees on beat features.

  python -m ecg_jax.main --config configs/crnn_beats.py

The network is trained exactly as in crnn_fast.py. At the end of a fold, trees
are fitted to features of the beats of its train set by gradient boosting; the
probabilities of the two are averaged one to one. The pooled test score of the
five folds is 85.9 (results/crnn_beats).
"""

import ml_collections

from ecg_jax.configs import crnn_fast


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of crnn_fast.py with trees."""
  config = crnn_fast.get_config()
  config.trees.rounds = 260
  return config

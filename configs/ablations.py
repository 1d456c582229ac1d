"""The paper's CRNN, variants one change away, and the authors' preset.

  python -m ecg_jax.main --config configs/ablations.py --seeds 0,1,2
  python -m ecg_jax.main --config configs/ablations.py:stride

The first trains every variant on all folds with each seed, in
runs/ablations/NAME/seedS; the second trains one variant, in
runs/ablations_stride. Fields of the command line are set in all variants; those
that make the short schedule of `configs/crnn.py:short` are

  --config.phases.epochs "(10, 3, 10, 3, 3)" --config.dtype bfloat16
  --config.buckets.training 2

A fold of a variant takes as long as one of `configs/crnn.py`, in either
schedule; they have not been run.
"""

import ml_collections

from ecg_jax.configs import crnn

_CHANGES = {
  'paper': {},
  'no_augmentation': {
    'augmentation.resampling': False,
    'augmentation.bursts': False,
  },
  'no_resampling': {'augmentation.resampling': False},
  'no_bursts': {'augmentation.bursts': False},
  'no_class_weights': {'class_weights': False},
  'compensated_sampling': {'compensated_sampling': True},
  'compensated_only': {'compensated_sampling': True, 'class_weights': False},
  'stride': {'model.reduction': 'stride'},
  'mean': {'model.summary': 'mean'},
  'lstm_100': {'model.lstm_units': 100},
  'normalised': {'spectrogram.normalise': 'record'},
  'labels_v1': {'label_version': 'v1'},
  'labels_v2': {'label_version': 'v2'},
}


def get_configs() -> dict[str, ml_collections.ConfigDict]:
  """Returns the variants by name; the last is the authors' preset."""
  configs = {}
  for name, changes in _CHANGES.items():
    configs[name] = crnn.get_config()
    configs[name].update_from_flattened_dict(changes)
  return {**configs, 'authors': crnn.get_config('authors')}

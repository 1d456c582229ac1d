"""The default config: the paper's method and the published data."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns every field except the model's and the phases' of a config."""
  config = ml_collections.ConfigDict()

  config.seed = 0  # for initialization, sampling, augmentation and dropout
  config.folds = (0, 1, 2, 3, 4)  # cross-validation folds to train
  config.label_version = 'v3'  # 'v1', 'v2' or 'v3', to train on and score with

  # Folder of a finished run of the same model: training starts from its best
  # weights of the same fold. None: random weights.
  config.init_from = config_dict.placeholder(str)

  config.data = ml_collections.ConfigDict()
  config.data.name = 'physionet2017'  # or 'synthetic_ecg'
  # Folder with training2017.zip (or its content) and REFERENCE-v3.csv. None:
  # download them.
  config.data.manual_dir = config_dict.placeholder(str)
  config.data.data_dir = '~/tensorflow_datasets'  # prepared datasets
  # Where the samples are: all of them in each 'device', or on the disk of the
  # 'host', which reads those of the next steps.
  config.data.placement = 'device'
  # Table of folds (JSON of ecg_jax.datasets.folds). None: the published folds.
  config.data.folds_file = config_dict.placeholder(str)
  # Approximate number of records that each set of a fold is thinned to. None:
  # all.
  config.data.max_records = config_dict.placeholder(int)

  config.spectrogram = ml_collections.ConfigDict()
  config.spectrogram.window_samples = 64  # Tukey window of shape 0.25
  config.spectrogram.hop_samples = 32
  config.spectrogram.power_floor = 1e-3  # counts^2 / Hz
  # Number of lowest frequency bins to use, 4.7 Hz apart by default. None: all.
  config.spectrogram.kept_bins = config_dict.placeholder(int)
  config.spectrogram.normalise = 'none'  # or 'record': one standard deviation

  config.augmentation = ml_collections.ConfigDict()
  config.augmentation.resampling = True  # to a random heart rate
  # Beats per minute, where every recording is assumed to have 80.
  config.augmentation.slowest_heart_rate = 60.0
  config.augmentation.fastest_heart_rate = 120.0
  # Longest segment of a recording, from a random position. None: all of it.
  config.augmentation.max_samples = config_dict.placeholder(int)
  config.augmentation.bursts = True  # set random segments to zero
  config.augmentation.burst_span_samples = 15  # 50 ms at 300 Hz
  config.augmentation.burst_share = 0.2  # expected fraction of samples covered

  config.batch_size = 20
  config.evaluation_batch_size = 40
  config.weight_decay = 0.0  # of kernels, times the learning rate
  config.average_decay = 0.0  # of the moving average of the weights; 0: none
  config.class_weights = True  # in the loss
  # Weights are the inverse frequencies of the classes to this power, 0 to 1.
  # None: the paper's formula.
  config.class_weight_power = config_dict.placeholder(float)
  config.compensated_sampling = False  # draw rare classes more often
  config.dtype = 'float32'  # of computations in the layers; or 'bfloat16'
  # Devices that train a fold. None: all devices, divided among the folds.
  config.devices_per_job = config_dict.placeholder(int)
  config.remat = False  # save memory: recompute layers for the gradient
  config.max_epochs = config_dict.placeholder(int)  # limit of every phase
  config.validate_every_epochs = 5  # also after the last epoch of a phase
  config.patience_epochs = 100  # a phase ends after so many without improvement

  config.buckets = ml_collections.ConfigDict()
  config.buckets.training = 5  # number of lengths that batches are padded to
  config.buckets.evaluation = 2
  config.chunk_steps = 8  # steps that run as one program

  # After a loss or gradient that is not finite: 'stop', or 'restore' the last
  # checkpoint and draw other bursts and dropout, at most three times.
  config.on_nan = 'stop'
  config.checkpoint_minutes = 10.0  # between checkpoints; also at validations
  config.tensorboard = True
  return config


def apply_authors(config: ml_collections.ConfigDict) -> None:
  """Changes a config of the paper to what the authors' code effectively did."""
  config.compensated_sampling = True
  config.dropout.convolution = 0.0
  config.phases.learning_rates = (1e-3,) * len(config.phases.learning_rates)
  config.model.reduction = 'stride'
  config.augmentation.burst_span_samples = 11

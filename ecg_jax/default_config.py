"""The default config: the paper's method and the published data."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Every field but the model's and the phases', which its config adds."""
  config = ml_collections.ConfigDict()

  config.seed = 0  # of initialisation, sampling, augmentation and dropout
  config.folds = (0, 1, 2, 3, 4)  # cross-validation folds to train
  config.label_version = 'v3'  # 'v1', 'v2' or 'v3': trained on and scored with

  # Folder of a finished run of the same model, whose kept weights of the same
  # fold are trained on; None: the seed's random weights.
  config.init_from = config_dict.placeholder(str)

  config.data = ml_collections.ConfigDict()
  config.data.name = 'physionet2017'  # or 'synthetic_ecg'
  # Folder with training2017.zip (or unpacked) and REFERENCE-v3.csv; None: they
  # are downloaded.
  config.data.manual_dir = config_dict.placeholder(str)
  config.data.data_dir = '~/tensorflow_datasets'  # prepared datasets
  # Where the samples are: all on each 'device', or on the disk of the 'host',
  # from which those of the next steps are read.
  config.data.placement = 'device'
  # Table of folds (JSON of ecg_jax.datasets.folds); None: the published folds.
  config.data.folds_file = config_dict.placeholder(str)
  # Thins each set of a fold to about so many records; None: all.
  config.data.max_records = config_dict.placeholder(int)

  config.spectrogram = ml_collections.ConfigDict()
  config.spectrogram.window_samples = 64  # Tukey window of shape 0.25
  config.spectrogram.hop_samples = 32
  config.spectrogram.power_floor = 1e-3  # counts^2 / Hz
  # The lowest frequency bins, 4.7 Hz apart by default, are kept; None: all.
  config.spectrogram.kept_bins = config_dict.placeholder(int)
  config.spectrogram.normalise = 'none'  # or 'record': one standard deviation

  config.augmentation = ml_collections.ConfigDict()
  config.augmentation.resampling = True  # random heart rate
  config.augmentation.slowest_heart_rate = 60.0  # beats per minute, of 80
  config.augmentation.fastest_heart_rate = 120.0
  # At most so many of a recording, from a random place; None: all of it.
  config.augmentation.max_samples = config_dict.placeholder(int)
  config.augmentation.bursts = True  # samples set to zero
  config.augmentation.burst_span_samples = 15  # 50 ms at 300 Hz
  config.augmentation.burst_share = 0.2  # of the samples covered

  config.batch_size = 20
  config.evaluation_batch_size = 40
  config.weight_decay = 0.0  # share of the learning rate, of kernels
  config.average_decay = 0.0  # moving average of the weights; 0: none
  config.class_weights = True  # in the loss
  # Weights are inverse shares of the classes to this power, 0 to 1; None: by
  # the paper's formula.
  config.class_weight_power = config_dict.placeholder(float)
  config.compensated_sampling = False  # rare classes drawn more often
  config.dtype = 'float32'  # or 'bfloat16': compute in the layers
  # Devices that train a fold; None: all there are, divided among the folds.
  config.devices_per_job = config_dict.placeholder(int)
  config.remat = False  # less memory: recomputes layers for the gradient
  config.max_epochs = config_dict.placeholder(int)  # caps every phase
  config.validate_every_epochs = 5  # and after the last epoch of a phase
  config.patience_epochs = 100  # without improvement until a phase ends

  config.buckets = ml_collections.ConfigDict()
  config.buckets.training = 5  # lengths that batches are padded to
  config.buckets.evaluation = 2
  config.chunk_steps = 8  # steps that run as one program

  # A loss or gradient that is no number: 'stop', or 'restore' the last
  # checkpoint and draw bursts and dropout anew, three times at most.
  config.on_nan = 'stop'
  config.checkpoint_minutes = 10.0  # between saves; also at each validation
  config.tensorboard = True
  return config


def apply_authors(config: ml_collections.ConfigDict) -> None:
  """Sets, in either model's config, what the authors' code effectively did."""
  config.compensated_sampling = True
  config.dropout.convolution = 0.0
  config.phases.learning_rates = (1e-3,) * len(config.phases.learning_rates)
  config.model.reduction = 'stride'
  config.augmentation.burst_span_samples = 11

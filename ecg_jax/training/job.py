"""One fold to train, and where its training stands."""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from ecg_jax import configuration, experiment, models
from ecg_jax.evaluation import eval_step
from ecg_jax.input_pipeline import sampler
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import forward
from ecg_jax.training import init_from, optimizer


@dataclasses.dataclass(frozen=True)
class Job:
  """One fold to train, and all that decides what comes out."""

  name: str
  """What to call it in messages, like 'fold 0'."""
  folder: pathlib.Path
  """Where its artifacts go."""
  seed: int
  fold: int
  settings: Mapping[str, Any]
  """The fold, and the config's fields that decide the result; as JSON."""
  network: forward.Network
  phases: tuple[optimizer.Phase, ...]
  regularisation: optimizer.Regularisation
  dataset: Dataset
  sets: Mapping[str, np.ndarray]
  """'train', 'validation', 'test' -> int32 positions in the dataset."""
  label_version: str
  class_weights: np.ndarray
  """float32 [4], in the loss."""
  repeats: np.ndarray | None
  """int [train records], of class-compensated sampling, or None."""
  max_samples: int | None
  """Samples of a recording that a step uses at most, or None for all."""
  resampling: sampler.Resampling | None
  training_buckets: int
  evaluation_buckets: int
  batch_size: int
  evaluation_batch_size: int
  chunk_steps: int
  validate_every_epochs: int
  patience_epochs: int
  checkpoint_minutes: float
  """Between saves; a state is also saved at each validation."""
  tensorboard: bool
  on_nan: str
  """'stop' or 'restore': what to do about numbers that are not finite."""
  max_records: int | None
  """What the sets were thinned to, for the record."""
  devices_per_job: int | None
  """Devices to train on, or None: all there are, divided among the jobs."""
  kept_variables: Mapping[str, Any] | None
  """`params` and `batch_stats` to start from, or None for random ones."""


@dataclasses.dataclass
class Progress:
  """Where the loop of a job stands, beside its arrays."""

  phase: int = 0
  begun: bool = False
  """Whether the phase has its initial state."""
  epoch: int = 0
  """Complete epochs of the phase."""
  chunk: int = 0
  """Complete chunks of the epoch after it."""
  loss: float = 0.0
  """Sum of the losses over those chunks."""
  records: int = 0
  """Records in those chunks."""
  seconds: float = 0.0
  """Time spent on those chunks."""
  best_score: float = -math.inf
  """Validation score of the best weights, in percent."""
  best_phase: int | None = None
  best_epoch: int | None = None
  last_improvement: int = 0
  """Epoch of this phase that made the best weights; 0 if none did."""
  restores: int = 0
  """Times that training went back because of numbers that are not finite."""

  def begin_row(self) -> None:
    """Begins the sums of the next epoch."""
    self.chunk, self.records, self.loss, self.seconds = 0, 0, 0.0, 0.0


def window_samples(job: Job, samples: int) -> int:
  """Samples that are cut out of the dataset for a bucket's recordings."""
  longest = int(_used_lengths(job).max())
  return sampler.window_samples(samples, longest, job.resampling)


def training_bounds(job: Job) -> tuple[int, ...]:
  """The buckets of training."""
  return sampler.bucket_bounds(
    _used_lengths(job),
    num_buckets=job.training_buckets,
    resampling=job.resampling,
  )


def _used_lengths(job: Job) -> np.ndarray:
  """Samples of each recording that training uses, before resampling."""
  return np.minimum(job.dataset.lengths, job.max_samples or sys.maxsize)


def epoch_chunks(
  job: Job, bounds: tuple[int, ...], phase: int, epoch: int
) -> list[sampler.Chunk]:
  """The chunks of an epoch (from 1), whatever happened before."""
  records = job.sets['train']
  return sampler.training_chunks(
    key=(job.seed, job.fold, phase, epoch),
    records=records,
    lengths=job.dataset.lengths[records],
    repeats=job.repeats,
    max_samples=job.max_samples,
    resampling=job.resampling,
    shortest=job.network.spectrogram.window_samples,
    bounds=bounds,
    batch_size=job.batch_size,
    chunk_steps=job.chunk_steps,
  )


def chunk_rates(
  phase: optimizer.Phase, epoch: int, num_chunks: int
) -> list[float]:
  """Learning rate of each chunk of an epoch (from 1): that of its middle."""
  return [
    phase.rate_at(epoch - 1 + (chunk + 0.5) / num_chunks)
    for chunk in range(num_chunks)
  ]


def set_chunks(job: Job, set_name: str) -> list[sampler.Chunk]:
  """The chunks of a set's evaluation."""
  return eval_step.set_chunks(
    job.dataset,
    job.sets[set_name],
    num_buckets=job.evaluation_buckets,
    batch_size=job.evaluation_batch_size,
    chunk_steps=job.chunk_steps,
  )


def initial_variables(job: Job) -> dict[str, Any]:
  """The variables given, or those that the job's seed and fold draw."""
  if job.kept_variables is not None:
    return dict(job.kept_variables)
  key = jax.random.fold_in(jax.random.key(job.seed), job.fold)
  return models.initialise(job.network.model, key, job.network.spectrogram.bins)


def make_job(
  config: ml_collections.ConfigDict,
  data: experiment.Data,
  fold: int,
  workdir: pathlib.Path,
  run: str = '',
) -> Job:
  """The job that trains one fold of a config.

  Args:
    config: The config.
    data: The data that it names.
    fold: The fold.
    workdir: Folder of the run.
    run: What to call the run in messages, if there are several.

  Raises:
    InputError: It cannot start from the run that the config names.
  """
  sets = experiment.make_sets(data, fold, config)
  classes = data.dataset.classes[config.label_version][sets['train']]
  repeats = None
  if config.compensated_sampling:
    repeats = sampler.class_repeats(classes)
  network, kept_variables = experiment.make_network(config), None
  if config.init_from is not None:
    kept_variables = init_from.starting_variables(
      pathlib.Path(config.init_from).expanduser(),
      network,
      data.dataset,
      sets,
      fold,
    )
  return Job(
    name=f'{run} fold {fold}'.strip(),
    folder=workdir / f'fold{fold}',
    seed=config.seed,
    fold=fold,
    settings=configuration.deciding(config) | {'fold': fold},
    network=network,
    phases=optimizer.phases(
      kinds=config.phases.kinds,
      epochs=config.phases.epochs,
      learning_rates=config.phases.learning_rates,
      schedule=config.phases.schedule,
      warmup_epochs=config.phases.warmup_epochs,
      max_epochs=config.max_epochs,
    ),
    regularisation=optimizer.Regularisation(
      weight_decay=config.weight_decay, average_decay=config.average_decay
    ),
    dataset=data.dataset,
    sets=sets,
    label_version=config.label_version,
    class_weights=experiment.make_class_weights(classes, config),
    repeats=repeats,
    max_samples=config.augmentation.max_samples,
    resampling=experiment.make_resampling(config),
    training_buckets=config.buckets.training,
    evaluation_buckets=config.buckets.evaluation,
    batch_size=config.batch_size,
    evaluation_batch_size=config.evaluation_batch_size,
    chunk_steps=config.chunk_steps,
    validate_every_epochs=config.validate_every_epochs,
    patience_epochs=config.patience_epochs,
    checkpoint_minutes=config.checkpoint_minutes,
    tensorboard=config.tensorboard,
    on_nan=config.on_nan,
    max_records=config.data.max_records,
    devices_per_job=config.devices_per_job,
    kept_variables=kept_variables,
  )


class NotFinite(Exception):  # noqa: N818
  """A loss or a gradient is no number any more; the message says where."""

  def __init__(self, message: str, restores: int):
    super().__init__(message)
    self.restores = restores
    """Times that training went back before."""

"""One fold to train, and everything that decides what comes out."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from ecg_jax import experiment, stored_config
from ecg_jax.fields.group import flatten
from ecg_jax.fields.training import LoopFields, PhaseFields, TreesFields
from ecg_jax.input_pipeline.sampler import Sampler
from ecg_jax.models import forward, variables
from ecg_jax.runs import released
from ecg_jax.training import init_from
from ecg_jax.training.optimizer import Optimizer
from ecg_jax.training.phases import Phase, make_phases
from ecg_jax.training.train_step import TrainStep


@dataclasses.dataclass(frozen=True)
class Job:
  """One fold to train."""

  name: str
  """Its name in messages, like 'fold 0'."""
  folder: pathlib.Path
  """Where its artifacts go."""
  settings: Mapping[str, Any]
  """The fold, and the config's fields that decide the result; as JSON."""
  seed: int
  fold: experiment.Fold
  """Its records."""
  sampler: Sampler
  network: forward.Network
  optimizer: Optimizer
  phases: tuple[Phase, ...]
  loop: LoopFields
  trees: TreesFields
  initial: Mapping[str, Any] | None = None
  """`params` and `batch_stats` to start from, or None for random ones."""

  @property
  def finished(self) -> bool:
    """Whether it has been trained and scored."""
    return (self.folder / 'scores.json').exists()

  def key(self) -> jax.Array:
    """The random key that its seed and fold make."""
    # Named, since JAX_DEFAULT_PRNG_IMPL would change it.
    key = jax.random.key(self.seed, impl='threefry2x32')
    return jax.random.fold_in(key, self.fold.number)

  def initial_variables(self) -> dict[str, Any]:
    """`params` and `batch_stats` before the first step."""
    if self.initial is not None:
      return dict(self.initial)
    return variables.initialise(
      self.network.model, self.key(), self.network.spectrogram.bins
    )

  def train_step(self, phase: Phase) -> TrainStep:
    """The step of a phase."""
    return TrainStep(self.network, self.optimizer, phase.kind)

  def where(self, phase: int, epoch: int) -> str:
    """Names an epoch for people; phases count from 0 as in metrics.csv."""
    last, epochs = len(self.phases) - 1, self.phases[phase].epochs
    return f'phase {phase} of 0-{last}, epoch {epoch} of {epochs}'


def make_job(
  config: ml_collections.ConfigDict,
  data: experiment.FoldedDataset,
  number: int,
  workdir: pathlib.Path,
  run: str = '',
) -> Job:
  """The job that trains one fold of a config.

  Args:
    config: The config.
    data: The data that it names.
    number: The fold.
    workdir: Folder of the run.
    run: Name of the run in messages, if there are several.

  Raises:
    InputError: It cannot start from the run that the config names.
  """
  fold = experiment.make_fold(config, data, number)
  network = experiment.make_network(config, fold.dataset.spec)
  values = flatten(config)
  job = Job(
    name=f'{run} fold {number}'.strip(),
    folder=workdir / f'fold{number}',
    settings=stored_config.deciding(config) | {'fold': number},
    seed=config.seed,
    fold=fold,
    sampler=experiment.make_sampler(config, fold),
    network=network,
    optimizer=Optimizer.of(values),
    phases=make_phases(PhaseFields.of(values), config.max_epochs),
    loop=LoopFields.of(values),
    trees=TreesFields.of(values),
  )
  if config.init_from is None:
    return job
  earlier = released.open_run(config.init_from)
  initial = init_from.starting_variables(earlier, network, fold, job.key())
  return dataclasses.replace(job, initial=initial)

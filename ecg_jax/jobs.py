"""Runs training jobs side by side, each on a group of devices of its own."""

import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from ecg_jax import (
  artifacts,
  configuration,
  errors,
  experiment,
  input_pipeline,
  optimizer,
  sampler,
  sharding,
  train,
)


def make_job(
  config: ml_collections.ConfigDict,
  data: experiment.Data,
  fold: int,
  workdir: pathlib.Path,
  run: str = '',
) -> train.Job:
  """The job that trains one fold of a config.

  Args:
    config: The config.
    data: The data that it names.
    fold: The fold.
    workdir: Folder of the run.
    run: What to call the run in messages, if there are several.
  """
  sets = experiment.make_sets(data, fold, config)
  classes = data.dataset.classes[config.label_version][sets['train']]
  repeats = None
  if config.compensated_sampling:
    repeats = sampler.class_repeats(classes)
  return train.Job(
    name=f'{run} fold {fold}'.strip(),
    folder=workdir / f'fold{fold}',
    seed=config.seed,
    fold=fold,
    settings=configuration.deciding(config) | {'fold': fold},
    network=experiment.make_network(config),
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
  )


def run(
  jobs: Sequence[train.Job], stop: Callable[[], bool] = lambda: False
) -> dict[str, Exception]:
  """Runs the jobs that are not finished, as many at once as there are groups.

  One host loop asks each running job in turn to dispatch its next piece of
  work; a group that falls free takes the next job. A job that fails does not
  disturb the others.

  Args:
    jobs: All jobs of the command, finished ones too.
    stop: Asked at each edge of a chunk whether to save and stop all jobs.

  Returns:
    Name -> error of each job that failed.
  """
  groups = sharding.device_groups(jax.devices(), len(jobs))
  meshes = [sharding.make_mesh(group) for group in groups]
  waiting = [job for job in jobs if not (job.folder / 'scores.json').exists()]
  if waiting:
    print(
      'The first batch of each length waits for its program to be compiled.'
    )
  free = list(range(len(meshes)))
  running: dict[int, tuple[train.Job, Iterator[None]]] = {}
  data: dict[int, _GroupData] = {}
  failed: dict[str, Exception] = {}
  while (waiting and not stop()) or running:
    while waiting and free and not stop():
      group, job = free.pop(0), waiting.pop(0)
      running[group] = job, _work(job, meshes[group], data, group, stop)
    for group, (job, work) in list(running.items()):
      try:
        next(work)
      except StopIteration:
        pass
      except Exception as error:  # Told at the end; the other jobs go on.
        failed[job.name] = error
        told = isinstance(error, train.TrainingError)
        reason = str(error) if told else errors.explain(error)[0]
        print(f'{job.name} failed: {reason}', file=sys.stderr)
      else:
        continue
      del running[group]
      free.append(group)
  return failed


class _GroupData(NamedTuple):
  """The dataset that a group of devices holds."""

  dataset: input_pipeline.Dataset
  label_version: str
  arrays: input_pipeline.DeviceData


def _work(
  job: train.Job,
  mesh: Mesh,
  data: dict[int, _GroupData],
  group: int,
  stop: Callable[[], bool],
) -> Iterator[None]:
  with artifacts.locked(job.folder, wait=False):
    held = data.get(group)
    if (
      held is None
      or held.dataset is not job.dataset
      or held.label_version != job.label_version
    ):
      data.pop(group, None)  # Room for the other one.
      arrays = input_pipeline.put_dataset(job.dataset, job.label_version, mesh)
      held = data[group] = _GroupData(job.dataset, job.label_version, arrays)
    yield from train.train_fold(
      job, mesh, held.arrays, position=group, stop=stop
    )

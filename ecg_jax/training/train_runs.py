"""Trains runs: their data, jobs, artifacts and table of scores."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from absl import logging

from ecg_jax import experiment, stored_config
from ecg_jax.datasets import doubts, prepare, schema
from ecg_jax.errors import InputError, PartialFailure
from ecg_jax.evaluation import score, summary, tables
from ecg_jax.fields.data import DataFields
from ecg_jax.fields.group import flatten
from ecg_jax.models import variables
from ecg_jax.runs import artifacts, checkpoint, finished_run
from ecg_jax.runtime import (
  device_sharing,
  files,
  multihost,
  sharding,
  signals,
  startup,
)
from ecg_jax.training import fold_processes, job_queue
from ecg_jax.training.job import make_job


def train_runs(
  runs: Mapping[str, ml_collections.ConfigDict],
  workdir: pathlib.Path,
  loop: signals.Loop,
) -> None:
  """Trains the unfinished folds of all runs and prints their scores.

  In this order: refuse what cannot be used, load the data, write what a run
  has from its start, train, summarize. Each process of a command calls this;
  process 0 writes and prints.

  Args:
    runs: Folder of a run in `workdir` -> its config.
    workdir: Folder of all runs and of their common summary.
    loop: Opens the context in which a signal stops the training.

  Raises:
    InputError: A config, its data or the work folder cannot be used.
    PartialFailure: Some jobs failed; where all did, the first error is raised.
    Interrupted: A signal stopped the training.
  """
  devices_per_job = _common(runs, 'devices_per_job')
  jobs_per_device = _common(runs, 'jobs_per_device')
  for run, config in runs.items():
    artifacts.check_config(workdir / run, config)
  files.check_writable(workdir)
  shared = _shared_devices(jobs_per_device) if jobs_per_device > 1 else None
  sharding.check_devices()
  startup.enable_compilation_cache()
  checkpoint.report_failed_saves_once()

  for config in runs.values():
    spec = prepare.find_builder(DataFields.of(flatten(config))).SPEC
    score.rehearse(experiment.make_metrics(config), spec)
  loaded = experiment.load_data(list(runs.values()))
  data = dict(zip(runs, loaded, strict=True))
  digests = {run: data[run].digests() for run in runs}
  written = {run: stored_config.to_json(config) for run, config in runs.items()}
  multihost.check_alike('begin', list(written.items()), digests)

  jobs = [
    make_job(config, data[run], fold, workdir / run, run)
    for run, config in runs.items()
    for fold in config.folds
  ]
  is_coordinator = jax.process_index() == 0
  if is_coordinator:
    for run, config in runs.items():
      _begin(workdir / run, config, data[run], digests[run])
  multihost.check_shared(workdir)

  if is_coordinator and not all(job.finished for job in jobs):
    print(
      'Programs are compiled while training begins; the first batch of each'
      ' length waits for its own.',
      flush=True,
    )
  with loop() as stop:
    if shared is None:
      failed = job_queue.run(jobs, devices_per_job, stop)
    else:
      configs = {workdir / run: config for run, config in runs.items()}
      failed = fold_processes.run(jobs, configs, shared, jobs_per_device, stop)

  if is_coordinator:
    # The last of several commands that train folds in it summarizes all.
    with files.locked(workdir, wait=True):
      summaries = summary.summarize_folders([workdir])
      print(tables.format_table(list(summaries[workdir].values())))
      tables.write_summaries(summaries)
  # A process that fails before reports it to those that wait here.
  multihost.exchange('done', '', range(jax.process_count()))
  if failed:
    first = next(iter(failed.values()))
    if len(failed) == len(jobs):
      raise first
    raise PartialFailure(
      f'{", ".join(failed)} failed: start again with the same command to train'
      ' what is unfinished.'
    ) from first


def _common(runs: Mapping[str, ml_collections.ConfigDict], field: str) -> Any:
  """Returns the value of a field in all runs; else InputError."""
  values = {config[field] for config in runs.values()}
  if len(values) > 1:
    listed = ' and '.join(sorted(map(str, values)))
    raise InputError(
      f'{field} is {listed} in the configs of this list: use one value for all.'
    )
  return values.pop()


def _shared_devices(jobs_per_device: int) -> device_sharing.Devices:
  """The devices that processes are to share, which this one does not use."""
  if jax.distributed.is_initialized():
    raise InputError(
      f'jobs_per_device is {jobs_per_device}, and several processes run this'
      ' command: set it to 1, or start one process.'
    )
  devices = device_sharing.find_devices()
  jax.config.update('jax_platforms', 'cpu')
  return devices


def _begin(
  folder: pathlib.Path,
  config: ml_collections.ConfigDict,
  data: experiment.FoldedDataset,
  digests: Mapping[str, Any],
) -> None:
  """Writes what a run has from its start, and says what it is."""
  dataset = data.dataset
  spec = dataset.measured_spec()
  artifacts.begin_run(folder, config, digests, spec)
  labels, patients = dataset.all_labels(), dataset.patients_of_records()
  artifacts.write_labels(folder / 'labels.csv', labels, patients)
  print(_headline(config, spec, folder), flush=True)
  for sentence in (
    *doubts.same_samples(data.table['folds'], digests['records']),
    *doubts.large_patients(labels[spec.folds_label_version], patients or {}),
  ):
    logging.warning('%s', sentence)


def _headline(
  config: ml_collections.ConfigDict,
  spec: schema.DatasetSpec,
  folder: pathlib.Path,
) -> str:
  """The line that a run starts with."""
  network = experiment.make_network(config, spec)
  shapes = finished_run.variable_shapes(network)
  return (
    f'{config.model.name} with {variables.count_parameters(shapes["params"]):,}'
    f' trainable parameters on {config.data.name}, folds'
    f' {", ".join(map(str, config.folds))}, in {folder}'
  )

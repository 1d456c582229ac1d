"""Trains runs: their data, jobs, artifacts and table of scores."""

import pathlib
from collections.abc import Mapping

import jax
import ml_collections

from ecg_jax import experiment, stored_config
from ecg_jax.datasets import prepare, schema
from ecg_jax.errors import InputError, PartialFailure
from ecg_jax.evaluation import score, summary, tables
from ecg_jax.models import variables
from ecg_jax.runs import artifacts, checkpoint, finished_run
from ecg_jax.runtime import files, multihost, sharding, signals, startup
from ecg_jax.training import job_queue
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
  devices_per_job = _devices_per_job(runs)
  for run, config in runs.items():
    artifacts.check_config(workdir / run, config)
  files.check_writable(workdir)
  sharding.check_devices()
  startup.enable_compilation_cache()
  checkpoint.report_failed_saves_once()

  for config in runs.values():
    spec = prepare.find_builder(config.data.name).SPEC
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
      spec = data[run].dataset.measured_spec()
      artifacts.begin_run(workdir / run, config, digests[run], spec)
      labels = data[run].dataset.all_labels()
      artifacts.write_labels(workdir / run / 'labels.csv', labels)
      print(_headline(config, spec, workdir / run), flush=True)
  multihost.check_shared(workdir)

  with loop() as stop:
    failed = job_queue.run(jobs, devices_per_job, stop)

  if is_coordinator:
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


def _devices_per_job(
  runs: Mapping[str, ml_collections.ConfigDict],
) -> int | None:
  """Returns the common devices_per_job of all runs; else InputError."""
  sizes = {config.devices_per_job for config in runs.values()}
  if len(sizes) > 1:
    listed = ' and '.join(sorted(map(str, sizes)))
    raise InputError(
      f'devices_per_job is {listed} in the configs of this list: use one value'
      ' for all.'
    )
  return sizes.pop()


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

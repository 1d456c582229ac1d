"""Scores a set of records: each counted once, deterministically.

python -m ecg_jax.evaluate RUN_FOLDER --set test --label_version v2
"""

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ecg_jax import (
  artifacts,
  batch_axis,
  configuration,
  errors,
  experiment,
  forward,
  input_pipeline,
  sampler,
  sharding,
  summary,
  trained,
)
from ecg_jax import metrics as metrics_lib


class Result(NamedTuple):
  """What a model said of a set of records."""

  scores: dict[str, Any]
  """The set's fields in scores.json."""
  records: np.ndarray
  """int32 [n], positions in the dataset."""
  probabilities: np.ndarray
  """float32 [n, 4], order N, A, O, ~."""


@functools.partial(
  jax.jit, static_argnames=('network', 'kind', 'window', 'mesh')
)
def evaluate_chunk(
  variables: dict[str, Any],
  data: input_pipeline.DeviceData,
  chunk: input_pipeline.ChunkArrays,
  num_steps: jax.Array,
  class_weights: jax.Array,
  *,
  network: forward.Network,
  kind: str,
  window: int,
  mesh: AbstractMesh,
) -> tuple[metrics_lib.Metrics, jax.Array]:
  """Evaluates the batches of a chunk.

  Args:
    variables: `params` and `batch_stats`.
    data: The dataset.
    chunk: Which records, [K, B].
    num_steps: Batches that hold records.
    class_weights: float32 [4].
    network: The static half of the forward pass.
    kind: Which part of the model is in use.
    window: Samples that the signals are padded to.
    mesh: How many devices the rows are divided over.

  Returns:
    Sums over the chunk's records, and probabilities, float32 [K, B, 4].
  """

  def run(variables, data, chunk, num_steps, class_weights):
    def step(index, carry):
      metrics, probabilities = carry
      batch = input_pipeline.take_batch(data, chunk, index, window)
      logits = forward.evaluate_logits(network, variables, batch, kind=kind)
      losses = forward.losses(logits, batch.labels, class_weights)
      rows = jax.nn.softmax(logits)
      metrics = metrics.add(rows, batch.labels, losses, batch.mask)
      return metrics, probabilities.at[index].set(rows)

    probabilities = jnp.zeros((*chunk.mask.shape, 4))
    metrics, probabilities = jax.lax.fori_loop(
      0, num_steps, step, (metrics_lib.Metrics.empty(), probabilities)
    )
    return batch_axis.total(metrics), batch_axis.gather(probabilities, axis=1)

  return sharding.on_own_rows(run, mesh)(
    variables, data, chunk, num_steps, class_weights
  )


def dispatch(
  variables: dict[str, Any],
  data: input_pipeline.Data,
  chunks: Sequence[sampler.Chunk],
  class_weights: jax.Array,
  *,
  network: forward.Network,
  kind: str,
  mesh: Mesh,
) -> list[tuple[metrics_lib.Metrics, jax.Array]]:
  """Starts the evaluation of all chunks; `collect` waits for it."""
  outputs: list[tuple[metrics_lib.Metrics, jax.Array]] = []
  inputs = input_pipeline.feed(data, chunks, mesh, lambda samples: samples)
  for given, chunk in zip(inputs, chunks, strict=True):
    outputs.append(
      evaluate_chunk(
        variables,
        *given,
        class_weights,
        network=network,
        kind=kind,
        window=chunk.samples,
        mesh=mesh.abstract_mesh,
      )
    )
    if isinstance(data, input_pipeline.HostData):
      # What is on the device is not to grow with the set.
      jax.block_until_ready(outputs[:-1])
  return outputs


def collect(
  chunks: Sequence[sampler.Chunk],
  outputs: Sequence[tuple[metrics_lib.Metrics, jax.Array]],
) -> Result:
  """Brings to the host what `dispatch` started, in the order of records."""
  fetched = sharding.fetch(list(outputs))
  # In float64: what is added up does not depend on how it was chunked.
  total = jax.tree.map(
    lambda *parts: np.sum(np.array(parts, np.float64), axis=0),
    *[metrics for metrics, _ in fetched],
  )
  records = np.concatenate([chunk.records[chunk.mask] for chunk in chunks])
  probabilities = np.concatenate(
    [
      probability[:, : chunk.mask.shape[1]][chunk.mask]
      for chunk, (_, probability) in zip(chunks, fetched, strict=True)
    ]
  )
  order = np.argsort(records)
  return Result(
    metrics_lib.finalise(total), records[order], probabilities[order]
  )


def set_chunks(
  dataset: input_pipeline.Dataset,
  records: np.ndarray,
  *,
  num_buckets: int,
  batch_size: int,
  chunk_steps: int,
) -> list[sampler.Chunk]:
  """The chunks that evaluate a set of records.

  Args:
    dataset: All records; its lengths make the buckets.
    records: int32 [n], positions in the dataset of the set.
    num_buckets: Buckets at most.
    batch_size: Records of a batch.
    chunk_steps: Batches of a chunk.
  """
  return sampler.evaluation_chunks(
    records=records,
    lengths=dataset.lengths[records],
    bounds=sampler.bucket_bounds(
      dataset.lengths, num_buckets=num_buckets, resampling=None
    ),
    batch_size=batch_size,
    chunk_steps=chunk_steps,
  )


def write_predictions(
  path: pathlib.Path,
  result: Result,
  dataset: input_pipeline.Dataset,
  *,
  fold: int,
  label_version: str,
) -> None:
  """Writes the predictions of a set, rows sorted by record."""
  labels = dataset.labels(label_version)
  records = [dataset.records[index] for index in result.records]
  artifacts.write_predictions(
    path,
    records=records,
    labels=[labels[record] for record in records],
    probabilities=result.probabilities,
    fold=fold,
  )


def evaluate_run(
  run_folder: pathlib.Path,
  *,
  set_name: str,
  label_version: str | None,
  manual_dir: str | None,
  data_dir: str | None,
) -> pathlib.Path:
  """Scores the kept weights of a run's finished folds again.

  Args:
    run_folder: The run.
    set_name: 'test' or 'validation'.
    label_version: Labels to score with, or None for the run's own. Sets and
      loss weights stay those of the training.
    manual_dir: Folder of the source files, or None for the run's.
    data_dir: Folder of the prepared datasets, or None for the run's.

  Returns:
    The folder `evaluation_SET_VERSION` in the run's, with the artifacts of a
    run: config.json, foldK/scores.json and predictions.

  Raises:
    InputError: There is no finished fold, or the data are not the run's.
  """
  config = experiment.read_run_config(
    run_folder, manual_dir=manual_dir, data_dir=data_dir
  )
  finished = trained.finished_folds(run_folder, config)
  data = experiment.load_run_data(run_folder, config)

  version = label_version or config.label_version
  scored = config.copy_and_resolve_references()
  scored.label_version = version
  scored.folds = finished
  out = run_folder / f'evaluation_{set_name}_{version}'
  digests = artifacts.read_run(run_folder)['digests']
  artifacts.begin_run(out, scored, digests)

  mesh = sharding.make_mesh(jax.local_devices()[:1])
  arrays = input_pipeline.put_dataset(data.dataset, version, mesh)
  network = experiment.make_network(config)
  for fold in finished:
    sets = experiment.make_sets(data, fold, config)
    train_classes = data.dataset.classes[config.label_version][sets['train']]
    chunks = set_chunks(
      data.dataset,
      sets[set_name],
      num_buckets=config.buckets.evaluation,
      batch_size=config.evaluation_batch_size,
      chunk_steps=config.chunk_steps,
    )
    best = trained.restore(run_folder, config, fold, network, mesh)
    outputs = dispatch(
      best,
      arrays,
      chunks,
      sharding.replicate(
        experiment.make_class_weights(train_classes, config), mesh
      ),
      network=network,
      kind='all',
      mesh=mesh,
    )
    result = collect(chunks, outputs)
    write_predictions(
      out / f'fold{fold}' / summary.PREDICTION_FILES[set_name],
      result,
      data.dataset,
      fold=fold,
      label_version=version,
    )
    kept = artifacts.read_scores(run_folder / f'fold{fold}' / 'scores.json')
    artifacts.write_scores(
      out / f'fold{fold}' / 'scores.json',
      {
        **kept,
        'label_version': version,
        'versions': artifacts.versions(),
        'commit': artifacts.commit(),
        'sets': {set_name: result.scores},
      },
    )
  return out


def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  return errors.run_command(
    lambda: _run(arguments),
    debug='--debug' in arguments,
    memory=errors.FREE_MEMORY,
  )


def _run(arguments: Sequence[str]) -> int:
  parser = experiment.run_parser(
    'ecg_jax.evaluate',
    'Scores the kept weights of a run again, and prints a table.',
  )
  parser.add_argument(
    '--label_version',
    choices=configuration.CHOICES['label_version'],
    help="labels to score with; default: the run's",
  )
  given = parser.parse_args(arguments)
  out = evaluate_run(
    given.run_folder,
    set_name=given.set_name,
    label_version=given.label_version,
    manual_dir=given.manual_dir,
    data_dir=given.data_dir,
  )
  found = summary.summarize(out, given.set_name)
  print(summary.format_table([found]))
  summary.write_summary(out, [found])
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

"""Scores a set of records: each counted once, deterministically."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ecg_jax.evaluation import metrics as metrics_lib
from ecg_jax.input_pipeline import device_data, sampler
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import forward
from ecg_jax.models.loss import weighted_cross_entropy
from ecg_jax.runs import predictions
from ecg_jax.runtime import collectives, sharding


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
  data: device_data.DeviceData,
  chunk: device_data.ChunkArrays,
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
      batch = device_data.take_batch(data, chunk, index, window)
      logits = forward.evaluate_logits(network, variables, batch, kind=kind)
      losses = weighted_cross_entropy(logits, batch.labels, class_weights)
      rows = jax.nn.softmax(logits)
      metrics = metrics.add(rows, batch.labels, losses, batch.mask)
      return metrics, probabilities.at[index].set(rows)

    probabilities = jnp.zeros((*chunk.mask.shape, 4))
    metrics, probabilities = jax.lax.fori_loop(
      0, num_steps, step, (metrics_lib.Metrics.empty(), probabilities)
    )
    return collectives.total(metrics), collectives.gather(probabilities, axis=1)

  return sharding.on_own_rows(run, mesh)(
    variables, data, chunk, num_steps, class_weights
  )


def dispatch(
  variables: dict[str, Any],
  data: device_data.Data,
  chunks: Sequence[sampler.Chunk],
  class_weights: jax.Array,
  *,
  network: forward.Network,
  kind: str,
  mesh: Mesh,
) -> list[tuple[metrics_lib.Metrics, jax.Array]]:
  """Starts the evaluation of all chunks; `collect` waits for it."""
  outputs: list[tuple[metrics_lib.Metrics, jax.Array]] = []
  inputs = device_data.feed(data, chunks, mesh, lambda samples: samples)
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
    if isinstance(data, device_data.HostData):
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
  dataset: Dataset,
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
  dataset: Dataset,
  *,
  fold: int,
  label_version: str,
) -> None:
  """Writes the predictions of a set, rows sorted by record."""
  labels = dataset.labels(label_version)
  records = [dataset.records[index] for index in result.records]
  predictions.write(
    path,
    records=records,
    labels=[labels[record] for record in records],
    probabilities=result.probabilities,
    fold=fold,
  )

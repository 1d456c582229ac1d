"""Scores a set of records: each counted once, deterministically."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ecg_jax import experiment
from ecg_jax.evaluation import score
from ecg_jax.evaluation import sums as sums_lib
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.models import forward
from ecg_jax.runs import predictions
from ecg_jax.runtime import collectives, sharding


class Result(NamedTuple):
  """What a model said of a set of records."""

  scores: dict[str, Any]
  """The set's fields in scores.json."""
  records: np.ndarray
  """int32 [n], positions in the dataset."""
  probabilities: np.ndarray
  """float32 [n, C], in the order of `DatasetSpec.classes`."""


@functools.partial(jax.jit, static_argnames=('network', 'kind', 'mesh'))
def evaluate_chunk(
  variables: dict[str, Any],
  data: device_data.DeviceData,
  chunk: Chunk,
  *,
  network: forward.Network,
  kind: str,
  mesh: AbstractMesh,
) -> tuple[sums_lib.Sums, jax.Array]:
  """Evaluates the batches of a chunk.

  Args:
    variables: `params` and `batch_stats`, and `trees` where there are some.
    data: The dataset.
    chunk: Which records, [K, B], and how many batches hold some.
    network: The static half of the forward pass.
    kind: Which part of the model is in use.
    mesh: How many devices the rows are divided over.

  Returns:
    Sums over the chunk's records, and probabilities, float32 [K, B, C].
  """

  def run(variables, data, chunk):
    def step(index, carry):
      sums, probabilities = carry
      batch = device_data.take_batch(data, chunk, index)
      logits = forward.evaluate_logits(network, variables, batch, kind=kind)
      losses = network.loss(logits, batch.labels, batch.weights)
      rows = jax.nn.softmax(logits)
      sums = sums.add(rows, batch.labels, losses, batch.mask)
      return sums, probabilities.at[index].set(rows)

    size = network.num_classes
    nothing = sums_lib.Sums.empty(size)
    probabilities = jnp.zeros((*chunk.mask.shape, size))
    sums, probabilities = jax.lax.fori_loop(
      0, chunk.num_steps, step, (nothing, probabilities)
    )
    return collectives.total(sums), collectives.gather(probabilities, axis=1)

  return sharding.on_own_rows(run, mesh)(variables, data, chunk)


def evaluate(
  variables: dict[str, Any],
  data: device_data.Data,
  chunks: Sequence[Chunk],
  *,
  fold: experiment.Fold,
  network: forward.Network,
  kind: str,
  mesh: Mesh,
) -> Result:
  """Evaluates the records of chunks, each counted once.

  Args:
    variables: `params` and `batch_stats`, and `trees` where there are some.
    data: The dataset.
    chunks: From `Sampler.evaluation_chunks`.
    fold: Whose records they are, with their labels and the metrics.
    network: The static half of the forward pass.
    kind: Which part of the model is in use.
    mesh: The devices.

  Returns:
    Scores and probabilities, in the order of records.
  """
  outputs: list[tuple[sums_lib.Sums, jax.Array]] = []
  devices = mesh.abstract_mesh
  for inputs in device_data.feed(data, chunks, mesh):
    outputs.append(
      evaluate_chunk(
        variables, *inputs, network=network, kind=kind, mesh=devices
      )
    )
    if isinstance(data, device_data.HostData):
      # What is on the device is not to grow with the set.
      jax.block_until_ready(outputs[:-1])
  return collect(chunks, outputs, fold)


def collect(
  chunks: Sequence[Chunk],
  outputs: Sequence[tuple[sums_lib.Sums, jax.Array]],
  fold: experiment.Fold,
) -> Result:
  """Waits for the outputs of `evaluate_chunk`, in the order of records."""
  fetched = sharding.fetch(list(outputs))
  # In float64: what is added up does not depend on how it was chunked.
  total = jax.tree.map(
    lambda *parts: np.sum(np.array(parts, np.float64), axis=0),
    *[sums for sums, _ in fetched],
  )
  records = np.concatenate([chunk.records[chunk.mask] for chunk in chunks])
  probabilities = np.concatenate(
    [
      probability[:, : chunk.mask.shape[1]][chunk.mask]
      for chunk, (_, probability) in zip(chunks, fetched, strict=True)
    ]
  )
  order = np.argsort(records)
  records, probabilities = records[order], probabilities[order]
  spec = fold.dataset.spec
  scores = sums_lib.finalise(total, spec)
  if fold.metrics:
    labels = fold.dataset.classes[fold.label_version][records]
    with jax.transfer_guard('allow'):  # One's own may use JAX.
      scores['metrics'] = score.measure(
        fold.metrics, labels, probabilities, spec
      )
  return Result(scores, records, probabilities)


def write_predictions(
  path: pathlib.Path, result: Result, fold: experiment.Fold
) -> None:
  """Writes the predictions of a set of the fold, rows sorted by record."""
  labels = fold.dataset.labels(fold.label_version)
  records = [fold.dataset.records[index] for index in result.records]
  predictions.write(
    path,
    records=records,
    labels=[labels[record] for record in records],
    probabilities=result.probabilities,
    fold=fold.number,
    classes=fold.dataset.spec.classes,
  )

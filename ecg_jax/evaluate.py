"""Scores a set of records: each counted once, deterministically.

  python -m ecg_jax.evaluate RUN_FOLDER --set test --label_version v2
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from ecg_jax import forward
from ecg_jax import input_pipeline
from ecg_jax import metrics as metrics_lib
from ecg_jax import sampler
from ecg_jax import sharding


class Result(NamedTuple):
  """What a model said of a set of records."""

  scores: dict[str, Any]
  """The set's fields in scores.json."""
  records: np.ndarray
  """int32 [n], positions in the dataset."""
  probabilities: np.ndarray
  """float32 [n, 4], order N, A, O, ~."""


@functools.partial(jax.jit, static_argnames=('network', 'kind', 'window'))
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

  Returns:
    Sums over the chunk's records, and probabilities, float32 [K, B, 4].
  """

  def step(index, carry):
    metrics, probabilities = carry
    batch = input_pipeline.take_batch(data, chunk, index, window)
    logits = forward.evaluate_logits(network, variables, batch, kind=kind)
    losses = forward.losses(logits, batch.labels, class_weights)
    rows = jax.nn.softmax(logits)
    metrics = metrics.add(rows, batch.labels, losses, batch.mask)
    return metrics, probabilities.at[index].set(rows)

  probabilities = jnp.zeros((*chunk.mask.shape, 4))
  return jax.lax.fori_loop(
    0, num_steps, step, (metrics_lib.Metrics.empty(), probabilities)
  )


def dispatch(
  variables: dict[str, Any],
  data: input_pipeline.DeviceData,
  chunks: Sequence[sampler.Chunk],
  class_weights: jax.Array,
  *,
  network: forward.Network,
  kind: str,
  mesh: Mesh,
) -> list[tuple[metrics_lib.Metrics, jax.Array]]:
  """Starts the evaluation of all chunks; `collect` waits for it."""
  return [
    evaluate_chunk(
      variables,
      data,
      *input_pipeline.put_chunk(chunk, mesh),
      class_weights,
      network=network,
      kind=kind,
      window=chunk.samples,
    )
    for chunk in chunks
  ]


def collect(
  chunks: Sequence[sampler.Chunk],
  outputs: Sequence[tuple[metrics_lib.Metrics, jax.Array]],
) -> Result:
  """Brings to the host what `dispatch` started, in the order of records."""
  fetched = sharding.fetch(list(outputs))
  total = metrics_lib.Metrics(
    confusion=sum(metrics.confusion for metrics, _ in fetched),
    loss=sum(float(metrics.loss) for metrics, _ in fetched),
    records=sum(int(metrics.records) for metrics, _ in fetched),
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

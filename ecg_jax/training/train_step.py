"""The training step, and the chunk of steps that is one program."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from ecg_jax.evaluation import metrics as metrics_lib
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward
from ecg_jax.models.loss import weighted_cross_entropy
from ecg_jax.runtime import collectives, sharding
from ecg_jax.training import optimizer, train_state


class ChunkResult(NamedTuple):
  """What the host learns of a chunk."""

  metrics: metrics_lib.Metrics
  """Sums over its records."""
  bad_step: jax.Array
  """int32, the first step whose loss or gradient is not finite, or -1."""


def train_step(
  state: train_state.TrainState,
  batch: Batch,
  key: jax.Array,
  class_weights: jax.Array,
  learning_rate: jax.Array,
  *,
  network: forward.Network,
  regularisation: optimizer.Regularisation,
  kind: str,
  samples: int,
) -> tuple[train_state.TrainState, jax.Array, jax.Array, jax.Array]:
  """One step of AdamW on the mean weighted cross-entropy of a batch.

  Args:
    state: The state before.
    batch: Recordings; at least one row is valid.
    key: The step's random key.
    class_weights: float32 [4].
    learning_rate: float32 scalar.
    network: The static half of the forward pass.
    regularisation: Weight decay and average.
    kind: Which parameters are trained: a key of `network.model.trained`.
    samples: Length that the batch's signals are computed in.

  Returns:
    The state after, each row's probabilities [B, 4] and loss [B], and whether
    loss and gradients are finite.
  """
  trained, frozen = optimizer.split(state.params, network.model.trained[kind])

  def own_loss(trained):
    logits, batch_stats = forward.train_logits(
      network,
      {'params': {**trained, **frozen}, 'batch_stats': state.batch_stats},
      batch,
      key,
      samples=samples,
      kind=kind,
    )
    losses = weighted_cross_entropy(logits, batch.labels, class_weights)
    loss = jnp.sum(losses, where=batch.mask) / records
    return loss, (logits, losses, batch_stats)

  records = collectives.total(jnp.sum(batch.mask))
  (loss, (logits, losses, batch_stats)), gradients = jax.value_and_grad(
    own_loss, has_aux=True
  )(trained)
  loss, gradients = collectives.total((loss, gradients))
  # A sum is not finite if a part of it is not.
  total = sum(jnp.sum(gradient) for gradient in jax.tree.leaves(gradients))
  finite = jnp.isfinite(loss + total)
  trained, moments = optimizer.update(
    trained,
    gradients,
    state.optimizer_state,
    learning_rate,
    regularisation.weight_decay,
  )
  params, average = {**trained, **frozen}, state.average
  if average:
    average = optimizer.update_average(
      average,
      {'params': params, 'batch_stats': batch_stats},
      network.model.trained[kind],
      state.step,
      regularisation.average_decay,
    )
  state = train_state.TrainState(
    params=params,
    batch_stats=batch_stats,
    optimizer_state=moments,
    average=average,
    step=state.step + 1,
  )
  return state, jax.nn.softmax(logits), losses, finite


@functools.partial(
  jax.jit,
  static_argnames=(
    'network',
    'regularisation',
    'kind',
    'samples',
    'window',
    'mesh',
  ),
  donate_argnames=('state',),
)
def train_chunk(
  state: train_state.TrainState,
  data: device_data.DeviceData,
  chunk: device_data.ChunkArrays,
  num_steps: jax.Array,
  key: jax.Array,
  class_weights: jax.Array,
  learning_rate: jax.Array,
  *,
  network: forward.Network,
  regularisation: optimizer.Regularisation,
  kind: str,
  samples: int,
  window: int,
  mesh: AbstractMesh,
) -> tuple[train_state.TrainState, ChunkResult]:
  """The steps of a chunk, without the host.

  The number of steps is an argument, so a chunk that is not full costs no
  more than its steps and is the same program.

  Args:
    state: The state before; its memory is used for the state after.
    data: The dataset.
    chunk: Which records, [K, B].
    num_steps: Steps to make, at most K.
    key: The job's random key; a step's comes from it and the step's number.
    class_weights: float32 [4].
    learning_rate: float32 scalar.
    network: The static half of the forward pass.
    regularisation: Weight decay and average.
    kind: Which parameters are trained.
    samples: The bucket: length that signals are computed in.
    window: Samples to cut out of the dataset for each record.
    mesh: How many devices the rows are divided over.

  Returns:
    The state after, and what came out.
  """

  def run(state, data, chunk, num_steps, key, class_weights, learning_rate):
    def step(index, carry):
      state, (metrics, bad_step) = carry
      batch = device_data.take_batch(data, chunk, index, window)
      state, probabilities, losses, finite = train_step(
        state,
        batch,
        jax.random.fold_in(key, state.step),
        class_weights,
        learning_rate,
        network=network,
        regularisation=regularisation,
        kind=kind,
        samples=samples,
      )
      metrics = metrics.add(probabilities, batch.labels, losses, batch.mask)
      bad_step = jnp.where(finite | (bad_step >= 0), bad_step, index)
      return state, ChunkResult(metrics, bad_step)

    empty = ChunkResult(metrics_lib.Metrics.empty(), jnp.int32(-1))
    state, (metrics, bad_step) = jax.lax.fori_loop(
      0, num_steps, step, (state, empty)
    )
    return state, ChunkResult(collectives.total(metrics), bad_step)

  return sharding.on_own_rows(run, mesh)(
    state, data, chunk, num_steps, key, class_weights, learning_rate
  )

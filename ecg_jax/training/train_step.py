"""The training step, and the chunk of steps that is one program."""

import dataclasses
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from ecg_jax.evaluation import sums as sums_lib
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.models import forward
from ecg_jax.runtime import collectives, platforms, sharding
from ecg_jax.training import optimizer
from ecg_jax.training.train_state import TrainState


class StepResult(NamedTuple):
  """What came out of one step, for the rows at hand."""

  probabilities: jax.Array
  """float32 [B, C]."""
  losses: jax.Array
  """float32 [B], weighted losses."""
  finite: jax.Array
  """bool, whether the loss and all gradients are finite."""


class ChunkResult(NamedTuple):
  """What the host reads of a chunk."""

  sums: sums_lib.Sums
  """Sums over its records."""
  bad_step: jax.Array
  """int32, the first step whose loss or gradient is not finite, or -1."""


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """All of a training step that is not an array; static under `jax.jit`."""

  network: forward.Network
  optimizer: optimizer.Optimizer
  kind: str
  """Which parameters are trained: a key of `network.model.trained`."""

  def __call__(
    self,
    state: TrainState,
    batch: Batch,
    learning_rate: jax.Array,
    *,
    samples: int,
  ) -> tuple[TrainState, StepResult]:
    """One step of AdamW on the mean weighted loss of a batch.

    Args:
      state: The state before.
      batch: Recordings; at least one row is valid.
      learning_rate: float32 scalar.
      samples: Length that the batch's signals are computed in.

    Returns:
      The state after, and what came out.
    """
    kept = self.network.model.trained[self.kind]
    trained, frozen = optimizer.split(state.params, kept)
    records = collectives.total(jnp.sum(batch.mask))

    def own_loss(trained):
      logits, batch_stats = forward.train_logits(
        self.network,
        {'params': {**trained, **frozen}, 'batch_stats': state.batch_stats},
        batch,
        jax.random.fold_in(state.key, state.step),
        samples=samples,
        kind=self.kind,
      )
      losses = self.network.loss(logits, batch.labels, batch.weights)
      loss = jnp.sum(losses, where=batch.mask) / records.astype(jnp.float32)
      return loss, (logits, losses, batch_stats)

    (loss, (logits, losses, batch_stats)), gradients = jax.value_and_grad(
      own_loss, has_aux=True
    )(trained)
    loss, gradients = collectives.total((loss, gradients))
    with jax.named_scope('optimizer'):
      # A sum is not finite if a part of it is not.
      total = platforms.choose(gradients, cpu=_sum, default=sum_by_shape)
      trained, moments = self.optimizer.update(
        trained, gradients, state.optimizer_state, learning_rate
      )
    variables = {'params': {**trained, **frozen}, 'batch_stats': batch_stats}
    average = self.optimizer.update_average(
      state.average, variables, kept, state.step
    )
    state = dataclasses.replace(
      state,
      **variables,
      optimizer_state=moments,
      average=average,
      step=state.step + 1,
    )
    finite = jnp.isfinite(loss + total)
    return state, StepResult(jax.nn.softmax(logits), losses, finite)


def _sum(gradients: Any) -> jax.Array:
  return functools.reduce(jnp.add, map(jnp.sum, jax.tree.leaves(gradients)))


def sum_by_shape(gradients: Any) -> jax.Array:
  """Adds those of one shape before it sums them, as on a GPU.

  Each sum is a kernel or two there. The barrier keeps them out of the kernels
  of the optimizer, which then could not update their arrays in place.
  """
  by_shape: dict[tuple[int, ...], jax.Array] = {}
  for leaf in jax.tree.leaves(jax.lax.optimization_barrier(gradients)):
    known = by_shape.get(leaf.shape)
    by_shape[leaf.shape] = leaf if known is None else known + leaf
  return functools.reduce(jnp.add, map(jnp.sum, by_shape.values()))


_jit = functools.partial(
  jax.jit, static_argnames=('train_step', 'mesh'), donate_argnames=('state',)
)


@_jit
def train_chunk(
  state: TrainState,
  data: device_data.DeviceData,
  chunk: Chunk,
  learning_rate: jax.Array,
  *,
  train_step: TrainStep,
  mesh: AbstractMesh,
) -> tuple[TrainState, ChunkResult]:
  """The steps of a chunk, without the host.

  A program for each bucket. The number of steps is an array, so a chunk that is
  not full costs no more than its steps and is the same program.

  Args:
    state: The state before; its memory is used for the state after.
    data: The dataset.
    chunk: Which records, [K, B], and how many steps.
    learning_rate: float32 scalar.
    train_step: The step.
    mesh: How many devices the rows are divided over.

  Returns:
    The state after, and what came out.
  """

  def run(state, data, chunk, learning_rate):
    def step(index, carry):
      state, (sums, bad_step) = carry
      batch = device_data.take_batch(data, chunk, index)
      state, result = train_step(
        state, batch, learning_rate, samples=chunk.bucket.samples
      )
      sums = sums.add(
        result.probabilities, batch.labels, result.losses, batch.mask
      )
      bad_step = jnp.where(result.finite | (bad_step >= 0), bad_step, index)
      return state, ChunkResult(sums, bad_step)

    sums = sums_lib.Sums.empty(train_step.network.num_classes)
    empty = ChunkResult(sums, jnp.int32(-1))
    state, (sums, bad_step) = jax.lax.fori_loop(
      0, chunk.num_steps, step, (state, empty)
    )
    return state, ChunkResult(collectives.total(sums), bad_step)

  return sharding.on_own_rows(run, mesh)(state, data, chunk, learning_rate)


GRAPH_OPTIONS = {
  'xla_gpu_enable_command_buffer': 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,'
  'DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE,COLLECTIVES'
}
"""Options of XLA: what it puts into CUDA graphs. The last three are not in them
by default; with them the program is one graph."""

train_chunk_in_graph = _jit(
  inspect.unwrap(train_chunk), compiler_options=GRAPH_OPTIONS
)
"""The same, which a GPU launches as one CUDA graph."""


def chunk_program(*, cuda_graphs: bool) -> Any:
  """`train_chunk`, or `train_chunk_in_graph`."""
  return train_chunk_in_graph if cuda_graphs else train_chunk

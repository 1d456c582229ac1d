"""Fits the trees of a fold to its train set, by scikit-learn."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ecg_jax.beats import features as beat_features
from ecg_jax.fields.training import TreesFields
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.models import forward, loss
from ecg_jax.models.trees import Splits, Trees
from ecg_jax.runtime import collectives, sharding

ABSENT = -30.0
"""Score of a class that the train set lacks: e^-30 of the probability that a
score of 0 has."""


@functools.partial(jax.jit, static_argnames=('network', 'mesh'))
def compute_chunk(
  data: device_data.DeviceData,
  chunk: Chunk,
  *,
  network: forward.Network,
  mesh: AbstractMesh,
) -> jax.Array:
  """Computes the beat features of a chunk's records.

  Args:
    data: The dataset.
    chunk: Which records, [K, B], and how many batches hold some.
    network: The static half of the forward pass.
    mesh: How many devices the rows are divided over.

  Returns:
    float32 [K, B, F].
  """

  def run(_, data, chunk):
    def step(index, features):
      batch = device_data.take_batch(data, chunk, index)
      return features.at[index].set(forward.beat_features_of(network, batch))

    nothing = jnp.zeros((*chunk.mask.shape, len(beat_features.names())))
    features = jax.lax.fori_loop(0, chunk.num_steps, step, nothing)
    return collectives.gather(features, axis=1)

  return sharding.on_own_rows(run, mesh)(None, data, chunk)


def features_of(
  data: device_data.Data,
  chunks: Sequence[Chunk],
  *,
  network: forward.Network,
  mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the beat features of records.

  Args:
    data: The dataset.
    chunks: From `Sampler.evaluation_chunks`.
    network: The static half of the forward pass.
    mesh: The devices.

  Returns:
    float32 [n, F], and the records, int32 [n], positions in the dataset, in
    ascending order.
  """
  rows = []
  devices = mesh.abstract_mesh
  for chunk, inputs in zip(
    chunks, device_data.feed(data, chunks, mesh), strict=True
  ):
    found = compute_chunk(*inputs, network=network, mesh=devices)
    rows.append(sharding.fetch(found)[:, : chunk.mask.shape[1]][chunk.mask])
  records = np.concatenate([chunk.records[chunk.mask] for chunk in chunks])
  order = np.argsort(records)
  return np.concatenate(rows)[order], records[order]


def fit(
  features: np.ndarray,
  classes: np.ndarray,
  fields: TreesFields,
  *,
  num_classes: int,
  key: Sequence[int],
) -> Trees:
  """Fits trees, the same whatever the number of threads.

  Args:
    features: float32 [n, F], NaN where one is missing.
    classes: int [n].
    fields: How to fit, and the shape of the trees.
    num_classes: C.
    key: Whole numbers that decide which features a split is offered.

  Returns:
    Trees of NumPy arrays.
  """
  trees: Any = empty(fields, num_classes)
  present, labels = np.unique(classes, return_inverse=True)
  trees.baseline[present] = 0
  if len(present) == 1:
    return trees
  of_class = loss.class_weights(classes, num_classes, fields.class_weight_power)
  model = _fit(features, labels, of_class[classes], fields, key)
  # Of two classes a tree scores the second alone.
  scored = present if len(present) > 2 else present[1:]
  trees.baseline[scored] = model._baseline_prediction[0]
  for place, predictors in enumerate(model._predictors):
    for index, predictor in zip(scored, predictors, strict=True):
      _write_tree(trees, place, index, predictor.nodes)
  return trees


def empty(fields: TreesFields, num_classes: int) -> Trees:
  """Trees without splits, as NumPy arrays, to which all classes are absent."""
  shape = fields.leaves - 1, fields.rounds, num_classes
  return Trees(
    baseline=np.full(num_classes, ABSENT, np.float32),
    splits=Splits(
      node=np.full(shape, -1, np.int32),
      right=np.zeros(shape, np.int32),
      feature=np.zeros(shape, np.int32),
      threshold=np.zeros(shape, np.float32),
      missing_left=np.zeros(shape, bool),
    ),
    leaves=np.zeros((*shape[1:], fields.leaves), np.float32),
  )


def _fit(
  features: np.ndarray,
  labels: np.ndarray,
  weights: np.ndarray,
  fields: TreesFields,
  key: Sequence[int],
) -> Any:
  """scikit-learn's model of these labels, int [n], and weights, [n]."""
  # So that a command that fits no trees does not import it.
  import threadpoolctl
  from sklearn.ensemble import HistGradientBoostingClassifier

  model = HistGradientBoostingClassifier(
    learning_rate=fields.learning_rate,
    max_iter=fields.rounds,
    max_leaf_nodes=fields.leaves,
    min_samples_leaf=fields.least_leaf_records,
    l2_regularization=fields.l2_regularization,
    max_features=fields.feature_share,
    early_stopping=False,
    random_state=np.random.SeedSequence(key).generate_state(1)[0],
  )
  # It cannot divide the values of a feature that all records lack.
  features = np.where(np.isnan(features).all(axis=0), 0.0, features)
  # Sums depend on how they are divided among threads; beside other work
  # several are slower than one.
  with threadpoolctl.threadpool_limits(1, user_api='openmp'):
    return model.fit(features, labels, sample_weight=weights)


def _write_tree(trees: Any, place: int, index: int, nodes: np.ndarray) -> None:
  """Writes a tree, of which scikit-learn lists nodes from left to right."""
  is_leaf = nodes['is_leaf'].astype(bool)
  leaves_before = np.cumsum(is_leaf) - is_leaf
  split = nodes[~is_leaf]
  here = np.s_[: len(split), place, index]
  trees.splits.node[here] = leaves_before[~is_leaf]
  trees.splits.right[here] = leaves_before[split['right']]
  trees.splits.feature[here] = split['feature_idx']
  trees.splits.threshold[here] = round_down(split['num_threshold'])
  trees.splits.missing_left[here] = split['missing_go_to_left']
  trees.leaves[place, index, : is_leaf.sum()] = nodes['value'][is_leaf]


def round_down(values: np.ndarray) -> np.ndarray:
  """The largest float32 that do not exceed these float64.

  So a float32 exceeds one if and only if it exceeds the other.
  """
  nearest = values.astype(np.float32)
  below = np.nextafter(nearest, np.float32(-np.inf))
  return np.where(nearest > values, below, nearest)

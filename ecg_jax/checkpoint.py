"""Keeps a job's latest state and best weights, with Orbax.

One checkpoint holds all that the loop needs: the state, the best weights so
far, and the progress. The two latest are kept; a save that was interrupted is
no checkpoint, so the one before it is the latest.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ecg_jax import train_state


class Checkpoints:
  """The checkpoints of one fold's folder: a context that holds it open."""

  def __init__(self, folder: pathlib.Path):
    self._manager = ocp.CheckpointManager(
      folder.resolve(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(2)
      ),
      item_names=('state', 'best', 'progress'),
    )

  def save(
    self,
    state: train_state.TrainState,
    best: Mapping[str, Any],
    progress: Mapping[str, Any],
  ) -> None:
    """Starts a save; what was given may be overwritten once this returns.

    Args:
      state: The latest state.
      best: `params` and `batch_stats` of the best validation score.
      progress: Where the loop stands, as JSON can hold it.
    """
    latest = self._manager.latest_step()
    self._manager.save(
      0 if latest is None else latest + 1,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        best=ocp.args.StandardSave(dict(best)),
        progress=ocp.args.JsonSave(dict(progress)),
      ),
    )

  def progress(self) -> dict[str, Any] | None:
    """Where the latest checkpoint stands; None if there is none."""
    latest = self._manager.latest_step()
    if latest is None:
      return None
    restored = self._manager.restore(
      latest, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
    )
    return restored['progress']

  def restore_state(
    self, like: train_state.TrainState
  ) -> train_state.TrainState:
    """The latest state, with the shapes and shardings of `like`."""
    return self._restore('state', like)

  def restore_best(self, like: Mapping[str, Any]) -> dict[str, Any]:
    """The best weights, with the shapes and shardings of `like`."""
    return self._restore('best', dict(like))

  def _restore(self, item, like):
    abstract = jax.tree.map(ocp.tree.to_shape_dtype_struct, like)
    restored = self._manager.restore(
      self._manager.latest_step(),
      args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)}),
    )
    return restored[item]

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: object) -> None:
    """Waits for a save under way and releases the folder."""
    self._manager.close()

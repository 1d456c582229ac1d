"""Checks user-defined models, losses and augmentations.

Before any data is read: shapes and dtypes by tracing, and that the padding of a
batch does not change the logits of a recording. The tests hold the shipped ones
to more than this.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ecg_jax.errors import ConfigError, InputError
from ecg_jax.models import variables as variables_lib

_BATCH, _FRAMES, _SAMPLES = 3, 48, 1000

_MOST_CHANGED = 1e-3
"""Share of the logits' size that padding may change, by rounding."""


def check_model(name: str, model: nn.Module, frequency_bins: int) -> None:
  """Checks a model.

  Args:
    name: As the config names it.
    model: As `ecg_jax.models` describes it.
    frequency_bins: F.

  Raises:
    InputError: Its `trained` does not fit its parameters, its logits have
      another shape, or padding changes them.
    ConfigError: It raises an error.
  """
  refuse = _Refusal(f'model.name is {name!r}')
  lengths = np.array([_FRAMES, _FRAMES // 2 + 1], np.int32)
  shape = (len(lengths), _FRAMES, frequency_bins)
  x = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
  x[1, lengths[1] :] = 0
  key = jax.random.key(0)
  with refuse.failure(f'log-spectrograms {list(shape)}'):
    initial = jax.eval_shape(
      lambda: model.init(key, x, lengths, train=False, kind='all')
    )
  _check_trained(refuse, model, initial['params'])
  with refuse.failure('making its parameters for each kind of phase'):
    variables = variables_lib.initialise(model, key, frequency_bins)
  for kind in model.trained:
    with refuse.failure(f'a training step of the kind {kind!r}'):
      found, _ = jax.eval_shape(
        functools.partial(
          model.apply, train=True, kind=kind, mutable=['batch_stats']
        ),
        variables,
        x,
        lengths,
        rngs={'dropout': key},
      )
    expected = (len(lengths), model.config.num_classes)
    refuse.unless_array('its logits', found, expected)

  @jax.jit
  def logits(x, lengths):
    return model.apply(variables, x, lengths, train=False, kind='all')

  together = np.asarray(logits(x, lengths))[1]
  alone = np.asarray(logits(x[1:, : lengths[1]], lengths[1:]))[0]
  change = np.abs(alone - together).max()
  refuse.unless(
    bool(change <= _MOST_CHANGED * max(1.0, np.abs(alone).max())),
    f'and the padding of a batch changes its logits by {change:.2g}: mask the'
    ' frames behind `lengths`, as ecg_jax.models.layers does',
  )


def _check_trained(
  refuse: '_Refusal', model: nn.Module, params: dict[str, Any]
) -> None:
  """Every parameter of the whole model is trained, by the name that it has."""
  trained = set(model.trained['all'])
  listed = ', '.join(params)
  refuse.unless(
    trained == params.keys(),
    f"and its trained['all'] lists {sorted(trained)}, while its parameters are"
    f' {listed}: list these, named by name= in the module',
  )


def check_loss(
  name: str, loss: Callable[..., jax.Array], num_classes: int
) -> None:
  """Checks a loss; raises as `check_model`."""
  refuse = _Refusal(f'loss.name is {name!r}')
  logits = jnp.zeros((_BATCH, num_classes))
  labels = jnp.arange(_BATCH, dtype=jnp.int32) % num_classes
  with refuse.failure(f'logits [{_BATCH}, {num_classes}]'):
    found = jax.eval_shape(loss, logits, labels, jnp.ones(_BATCH))
  refuse.unless_array('the loss of each record', found, (_BATCH,))
  with refuse.failure('its gradient'):
    jax.eval_shape(
      jax.grad(lambda x: jnp.sum(loss(x, labels, jnp.ones(_BATCH)))), logits
    )


def check_augmentation(
  name: str, augmentation: Callable[..., jax.Array]
) -> None:
  """Checks an augmentation; raises as `check_model`."""
  refuse = _Refusal(f'augmentation.functions names {name!r}')
  signal = jnp.zeros((_BATCH, _SAMPLES))
  lengths = jnp.full(_BATCH, _SAMPLES, jnp.int32)
  keys = jax.random.split(jax.random.key(0), _BATCH)
  with refuse.failure(f'signals [{_BATCH}, {_SAMPLES}]'):
    found = jax.eval_shape(augmentation, signal, lengths, keys)
  refuse.unless_array('the changed signals', found, signal.shape)


@dataclasses.dataclass(frozen=True)
class _Refusal:
  """Refuses what a config names."""

  subject: str

  def unless(self, holds: bool, problem: str) -> None:
    if not holds:
      raise InputError(f'{self.subject}, {problem}.')

  def unless_array(self, what: str, found: Any, shape: tuple[int, ...]) -> None:
    """Refuses what is no float32 array of that shape."""
    described = type(found).__name__
    if hasattr(found, 'shape') and hasattr(found, 'dtype'):
      described = f'{found.dtype} {list(found.shape)}'
    self.unless(
      described == f'float32 {list(shape)}',
      f'which returns {described} as {what}: return float32 {list(shape)}',
    )

  @contextlib.contextmanager
  def failure(self, work: str) -> Iterator[None]:
    """Names what failed, with the error as the cause."""
    try:
      yield
    except Exception as error:  # It is a program: it can raise anything.
      reason = ' '.join(str(error).split())[:200]
      raise ConfigError(
        f'{self.subject}, which fails on {work} ({type(error).__name__}:'
        f' {reason}): fix it.'
      ) from error

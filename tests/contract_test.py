"""What is refused of user-defined models, losses and augmentations."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from ecg_jax.errors import ConfigError, InputError
from ecg_jax.fields.models import MODELS, ModelFields
from ecg_jax.models import contract, layers, loss, preprocessing
from tests import tiny_models

BINS, CLASSES = 9, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields(ModelFields):
  fault: str = ''


class Model(nn.Module):
  """Right, unless its fault is named."""

  config: Fields
  trained = {'all': ('norm', 'hidden', 'output')}  # noqa: RUF012

  @nn.compact
  def __call__(self, x, lengths, *, train, kind):
    fault = self.config.fault
    mask = preprocessing.valid(lengths, x.shape[1])
    x = layers.BatchNorm(name='norm')(x, mask, train=train)
    if fault == 'raises':
      raise RuntimeError('no such layer')
    if fault == 'raises in training' and train:
      raise RuntimeError('no key')
    mean = x.mean(axis=1) if fault == 'mask' else layers.masked_mean(x, mask)
    name = 'secret' if fault == 'trained' else 'hidden'
    hidden = nn.relu(nn.Dense(4, name=name)(mean))
    count = 1 if fault == 'count' else self.config.num_classes
    logits = nn.Dense(count, name='output')(hidden)
    if fault == 'dtype':
      return logits.astype(jnp.bfloat16)
    if fault == 'batch':
      return logits[0]
    return (logits, hidden) if fault == 'tuple' else logits


def check(fault):
  model = Model(Fields(num_classes=CLASSES, fault=fault))
  contract.check_model('m.py:Model', model, BINS)


def test_a_model_as_described_is_accepted():
  check('')


@pytest.mark.parametrize('name', MODELS)
def test_shipped_models_keep_it(name):
  model = tiny_models.create(name, dropout=0.2)
  contract.check_model(name, model, BINS)


@pytest.mark.parametrize(
  ('fault', 'error', 'message'),
  [
    ('mask', InputError, 'the padding of a batch changes its logits by'),
    (
      'trained',
      InputError,
      "['hidden', 'norm', 'output'], while its parameters",
    ),
    ('count', InputError, 'returns float32 [2, 1] as its logits'),
    ('dtype', InputError, 'returns bfloat16 [2, 3] as its logits'),
    ('batch', InputError, 'returns float32 [3] as its logits'),
    ('tuple', InputError, 'returns tuple as its logits'),
    ('raises', ConfigError, '(RuntimeError: no such layer)'),
    ('raises in training', ConfigError, "of the kind 'all' (RuntimeError: no"),
  ],
)
def test_models_that_would_train_wrongly_are_refused(fault, error, message):
  with pytest.raises(error, match=re.escape(message)) as caught:
    check(fault)
  assert str(caught.value).startswith("model.name is 'm.py:Model', ")
  assert type(caught.value) is error


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    (lambda x, y, w: jnp.mean(x), 'returns float32 []'),
    (lambda x, y, w: x[:, :1], 'returns float32 [3, 1]'),
    (lambda x, y, w: loss.weighted_cross_entropy(x, y, w)[:-1], 'float32 [2]'),
    (lambda x, y, w: x.argmax(axis=1), 'returns int32 [3]'),
    (lambda x, y, w: x @ y, 'which fails on logits [3, 5]'),
  ],
)
def test_losses_that_would_train_wrongly_are_refused(wrong, message):
  contract.check_loss('l', loss.weighted_cross_entropy, 5)
  with pytest.raises(InputError, match=re.escape(message)):
    contract.check_loss('l.py:f', wrong, 5)


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    (lambda x, n, k: x[:, 1:], 'returns float32 [3, 999]'),
    (lambda x, n, k: x > 0, 'returns bool [3, 1000]'),
    (lambda x, n, k: x[0], 'returns float32 [1000]'),
    (lambda x, n, k: None, 'returns NoneType'),
    (lambda x, n, k: x + jax.random.normal(k, x.shape), 'which fails on'),
    (lambda x: x, 'which fails on signals [3, 1000]'),
  ],
)
def test_augmentations_that_would_change_the_batch_are_refused(wrong, message):
  contract.check_augmentation('a', lambda x, n, k: -x)
  with pytest.raises(InputError, match=re.escape(message)):
    contract.check_augmentation('a.py:f', wrong)


def test_padding_is_seen_in_other_summaries():
  """A minimum that takes the padding in is a change too."""

  class Minimum(Model):
    trained = {'all': ('output',)}  # noqa: RUF012

    @nn.compact
    def __call__(self, x, lengths, *, train, kind):
      return nn.Dense(CLASSES, name='output')(jnp.abs(x).min(axis=1))

  model = Minimum(Fields(num_classes=CLASSES))
  with pytest.raises(InputError, match='the padding of a batch'):
    contract.check_model('m.py:Minimum', model, 40)

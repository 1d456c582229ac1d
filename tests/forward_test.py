"""From samples to logits: padding, augmentation, lengths and the loss."""

import dataclasses
import functools
import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_jax import registry
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.models import forward, preprocessing
from ecg_jax.models.augmentation import drop_bursts
from ecg_jax.models.loss import weighted_cross_entropy
from ecg_jax.training import optimizer
from tests import helpers, tiny_models

SPECTROGRAM = preprocessing.Spectrogram(
  window_samples=16, hop_samples=8, sampling_rate=300
)


def _bursts(span, share):
  options = (('burst_share', share), ('burst_span_samples', span))
  return (registry.WithOptions(drop_bursts, options),)


BURSTS = _bursts(15, 0.2)
NARROW, WIDE = 400, 603


@functools.cache
def _network(name, *, augmentations=(), spectrogram=SPECTROGRAM, **fields):
  if name != 'residual_crnn':
    fields = {'layers_per_block': 1, **fields}
  model = tiny_models.create(name, **fields)
  return forward.Network(model, spectrogram, augmentations)


def _network_variables(network):
  return tiny_models.random_variables(network.model, network.spectrogram.bins)


def _batch(signals, *, rows, width, lengths=None, behind=0):
  """A batch whose last rows are padding, with garbage where it may be."""
  own = np.zeros(rows, np.int32)
  own[: len(signals)] = [len(signal) for signal in signals]
  batch = np.full((rows, width), behind, np.int16)
  for row, signal in zip(batch, signals, strict=False):
    row[: len(signal)] = signal
  wanted = own.copy()
  if lengths is not None:
    wanted[: len(lengths)] = lengths
  return Batch(
    signal=batch,
    signal_lengths=own,
    lengths=wanted,
    labels=(np.arange(rows) % 4).astype(np.int32),
    weights=np.resize(np.array([1.1, 2.8, 1.5, 6.9], np.float32), rows),
    mask=np.arange(rows) < len(signals),
  )


def _signals(lengths, seed=0):
  return [
    np.random.default_rng((seed, index)).integers(-900, 900, length)
    for index, length in enumerate(lengths)
  ]


_compiled_evaluation = jax.jit(
  forward.evaluate_logits, static_argnames=('network', 'kind')
)


def _evaluate(network, batch, kind='all'):
  variables = _network_variables(network)
  return np.asarray(_compiled_evaluation(network, variables, batch, kind=kind))


@pytest.mark.parametrize(
  ('name', 'normalise'),
  [('cnn', 'none'), ('crnn', 'record'), ('residual_crnn', 'none')],
)
@settings(max_examples=15, deadline=None)
@given(
  lengths=st.lists(st.integers(16, NARROW), min_size=3, max_size=3),
  seed=st.integers(0, 99),
)
def test_logits_of_a_recording_are_its_own(name, normalise, lengths, seed):
  spectrogram = dataclasses.replace(SPECTROGRAM, normalise=normalise)
  network = _network(name, spectrogram=spectrogram)
  signals = _signals(lengths, seed)
  wide = _batch(signals[::-1], rows=5, width=WIDE, behind=32767)
  # Evaluation is in the own length, whatever else a batch may ask for.
  wide = wide._replace(lengths=wide.lengths // 2)
  together = _evaluate(network, wide)
  for index, signal in enumerate(signals):
    alone = _evaluate(network, _batch([signal], rows=1, width=NARROW))
    # Another width is another order of sums: large logits round by more.
    rounding = 1e-5 * max(1.0, np.abs(alone).max())
    np.testing.assert_allclose(
      together[2 - index], alone[0], rtol=0, atol=rounding
    )


@pytest.mark.parametrize(
  ('name', 'reduction'), [('cnn', 'stride'), ('crnn', 'max_pool')]
)
def test_logits_of_real_records_do_not_depend_on_padding(
  real_data, name, reduction
):
  signals = []
  with zipfile.ZipFile(real_data / 'training2017.zip') as archive:
    for number in 1, 77:
      member = f'training2017/A{number:05}.mat'
      with io.BytesIO(archive.read(member)) as file:
        signals.append(scipy.io.loadmat(file)['val'][0])
  # As long as the longest, and longer, and one frame.
  signals = [np.resize(signals[0], 18286), np.resize(signals[1], 30000)]
  signals.append(signals[0][:64])
  network = _network(
    name,
    spectrogram=preprocessing.Spectrogram(sampling_rate=300),
    reduction=reduction,
  )
  together = _evaluate(network, _batch(signals, rows=4, width=33333, behind=-9))
  for row, signal in enumerate(signals):
    alone = _evaluate(network, _batch([signal], rows=1, width=len(signal)))
    np.testing.assert_allclose(together[row], alone[0], atol=1e-5, rtol=0)


_compiled_training = jax.jit(
  forward.train_logits, static_argnames=('network', 'samples', 'kind')
)


def _train(network, batch, *, seed=0, samples=WIDE, kind='all'):
  """Logits of the valid rows in training."""
  logits, _ = _compiled_training(
    network,
    _network_variables(network),
    batch,
    jax.random.key(seed),
    samples=samples,
    kind=kind,
  )
  return np.asarray(logits)[np.asarray(batch.mask)]


@functools.partial(jax.jit, static_argnames=('network', 'samples', 'kind'))
def _training(network, batch, *, samples, kind):
  """Mean loss, new statistics and gradients of a batch."""
  variables = _network_variables(network)

  def mean_loss(params):
    logits, changed = forward.train_logits(
      network,
      {**variables, 'params': params},
      batch,
      jax.random.key(3),
      samples=samples,
      kind=kind,
    )
    losses = weighted_cross_entropy(logits, batch.labels, batch.weights)
    count = jnp.sum(batch.mask, dtype=jnp.float32)
    mean = jnp.sum(losses, where=batch.mask) / count
    return mean, changed

  (loss, changed), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
    variables['params']
  )
  return loss, changed, gradients


# Model, kind of phase, fields: each model and reduction once, then the rest.
TRAININGS = [
  ('cnn', 'all', {'reduction': 'stride'}),
  ('crnn', 'all', {'reduction': 'max_pool'}),
  ('residual_crnn', 'all', {'blocks_per_stage': 1}),
  ('cnn', 'all', {'reduction': 'max_pool'}),
  ('crnn', 'auxiliary', {'reduction': 'stride'}),
]


@pytest.mark.parametrize(
  ('name', 'kind', 'fields'), TRAININGS[: None if helpers.FULL else 3]
)
@settings(max_examples=10, deadline=None)
@given(
  lengths=st.lists(
    st.tuples(st.integers(16, 300), st.integers(16, 350)),
    min_size=3,
    max_size=3,
  ),
  seed=st.integers(0, 99),
)
def test_training_on_a_batch_does_not_depend_on_padding_or_masked_rows(
  name, kind, fields, lengths, seed
):
  """Statistics, loss and gradients, with all that is random switched on."""
  network = _network(name, augmentations=BURSTS, dropout=0.3, **fields)
  given_lengths, wanted = zip(*lengths, strict=True)
  signals = _signals(given_lengths, seed)
  batch = functools.partial(_batch, signals, lengths=wanted)
  loss, *rest = _training(
    network, batch(rows=3, width=300), samples=NARROW, kind=kind
  )
  padded_loss, *padded_rest = _training(
    network, batch(rows=5, width=350, behind=32767), samples=WIDE, kind=kind
  )
  np.testing.assert_allclose(padded_loss, loss, rtol=1e-5)

  largest = max(np.abs(array).max() for array in jax.tree.leaves(rest))

  def close(one, other):
    # A gradient that is zero but for rounding is a sum of large terms.
    scale = np.abs(other).max() + 1e-3 * max(1, largest)
    np.testing.assert_allclose(one / scale, other / scale, atol=1e-4)

  jax.tree.map(close, padded_rest, rest)
  assert any(np.any(array) for array in jax.tree.leaves(rest[1]))


def test_model_is_given_the_whole_resampled_recording():
  signals, lengths = _signals([300, 300, 300]), [400, 300, 200]
  # With the convolutions frozen, training is evaluation of what is resampled.
  network = _network('crnn')
  batch = _batch(signals, rows=4, width=NARROW, lengths=lengths)
  found = _train(network, batch, kind='lstm')
  resampled = np.zeros((4, NARROW), np.float32)
  for row, signal, length in zip(resampled, signals, lengths, strict=False):
    positions = np.linspace(0, 299, length)
    row[:length] = np.interp(positions, np.arange(300), signal)
  expected = _evaluate(
    network, batch._replace(signal=resampled, signal_lengths=batch.lengths)
  )
  np.testing.assert_allclose(found, expected[:3], atol=1e-5, rtol=0)
  unchanged = _evaluate(network, batch)
  assert np.abs(unchanged[0] - expected[0]).max() > 1e-3
  assert np.abs(unchanged[2] - expected[2]).max() > 1e-3


def test_bursts_are_fresh_each_step_and_differ_between_records():
  # With the convolutions frozen nothing else is random or common to a batch.
  network = _network('crnn', augmentations=BURSTS)
  batch = _batch(_signals([300]) * 3, rows=4, width=NARROW)
  train = functools.partial(_train, network, batch, kind='lstm')
  one, other = train(seed=1), train(seed=2)
  np.testing.assert_array_equal(one, train(seed=1))
  assert (np.abs(one - other).max(axis=1) > 1e-4).all()
  for left, right in (0, 1), (0, 2), (1, 2):
    assert np.abs(one[left] - one[right]).max() > 1e-4
  # Off, training sees what evaluation sees; evaluation has none.
  off = _network('crnn')
  plain = _evaluate(off, batch)[:3]
  np.testing.assert_allclose(
    _train(off, batch, kind='lstm'), plain, atol=1e-5, rtol=0
  )
  np.testing.assert_array_equal(_evaluate(network, batch)[:3], plain)


@pytest.mark.parametrize('length', [300, 533])
def test_bursts_have_their_span_in_the_resampled_recording(length):
  span, rows = 15, 300
  network = _network('cnn', augmentations=_bursts(span, 0.02))
  batch = _batch([np.ones(400)] * rows, rows=rows, width=400)
  batch = batch._replace(lengths=np.full(rows, length, np.int32))
  signal, lengths = jax.jit(
    forward.augment, static_argnames=('network', 'samples')
  )(network, batch, jax.random.key(0), samples=WIDE)
  np.testing.assert_array_equal(lengths, length)
  runs = []
  for row in np.asarray(signal)[:, :length]:
    edges = np.flatnonzero(np.diff(row != 1))
    # What is not touched is as before; a burst has no slopes.
    assert set(np.unique(row)) <= {0, 1}
    if row[0] == row[-1] == 1:
      runs.extend(np.diff(edges)[::2])
  assert len(runs) > 50
  # A longer run is two bursts that touch or overlap.
  assert min(runs) == span
  assert np.mean(np.array(runs) == span) > 0.8


def test_frozen_convolutions_have_no_backward_pass():
  network = _network('crnn', layers_per_block=2)
  variables = _network_variables(network)
  batch = _batch(_signals([300]), rows=2, width=NARROW)

  def loss(trained, frozen, kind):
    logits, _ = forward.train_logits(
      network,
      {**variables, 'params': {**trained, **frozen}},
      batch,
      jax.random.key(0),
      samples=NARROW,
      kind=kind,
    )
    return logits.sum()

  def convolutions(function, kind):
    halves = optimizer.split(variables['params'], network.model.trained[kind])
    jitted = jax.jit(function, static_argnums=2)
    # Lowered for a GPU: there both gradients are convolutions.
    lowered = jitted.trace(*halves, kind).lower(lowering_platforms=('cuda',))
    return lowered.as_text().count('stablehlo.convolution')

  assert convolutions(loss, 'lstm') == 4
  assert convolutions(jax.grad(loss), 'lstm') == 4
  # The first layer's input has no gradient.
  assert convolutions(jax.grad(loss), 'all') >= 4 + 4 + 3


def test_losses_are_weighted_cross_entropies():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 5, (50, 4)).astype(np.float32)
  logits[0] = [1000, -1000, 0, 0]
  labels = rng.integers(0, 4, 50)
  labels[0] = 1
  weights = rng.choice(np.array([1.14, 3.05, 0.0, 6.91], np.float32), 50)
  found = np.asarray(weighted_cross_entropy(logits, labels, weights))
  wide = logits.astype(np.float64)
  wide -= wide.max(axis=1, keepdims=True)
  log_probabilities = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
  expected = -log_probabilities[np.arange(50), labels] * weights
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  assert not np.any(found[weights == 0])

"""What a config stands for."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecg_jax import (
  configuration,
  default_config,
  experiment,
  registry,
  stored_config,
)
from ecg_jax.datasets import folds, prepare
from ecg_jax.datasets.schema import CHALLENGE, DatasetSpec
from ecg_jax.errors import Help, InputError
from ecg_jax.fields.group import flatten
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.input_pipeline import heart_rate
from ecg_jax.input_pipeline.batch import Batch
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.models import augmentation, loss
from ecg_jax.registry import WithOptions
from ecg_jax.training import train_state
from ecg_jax.training.job import make_job
from ecg_jax.training.train_step import TrainStep

THREE = DatasetSpec(
  classes=('sinus', 'flutter', 'paced'),
  label_versions=('first', 'second'),
  folds_label_version='second',
  num_folds=2,
  sampling_rate=100,
  counts_per_millivolt=200.0,
)


@pytest.fixture
def config(small_config):
  return small_config.copy_and_resolve_references()


@pytest.fixture
def load(config, monkeypatch):
  """Loads data as the config says, but for this dataset."""

  def call(dataset):
    monkeypatch.setattr(prepare, 'prepare', lambda name, **folders: None)
    monkeypatch.setattr(dataset_lib, 'load', lambda builder, in_memory: dataset)
    return experiment.load_data([config])[0]

  return call


def test_sets_are_those_of_the_table(config, small_data):
  for fold, named in small_data.table['folds'].items():
    sets = experiment.make_fold(config, small_data, int(fold)).sets
    for name, records in named.items():
      positions = sets[name]
      assert positions.dtype == np.int32
      found = [small_data.dataset.records[index] for index in positions]
      assert found == sorted(records)


def test_thinned_sets_are_parts_of_the_whole(config, small_data):
  whole = experiment.make_fold(config, small_data, 0).sets
  config.data.max_records = 6
  thinned = experiment.make_fold(config, small_data, 0).sets
  for name, positions in thinned.items():
    assert set(positions) < set(whole[name])


def test_without_class_weights_all_weigh_one(config):
  classes = np.array([0, 0, 1, 2, 3])
  for fields, expected in (
    ({}, loss.class_weights(classes, 4)),
    ({'class_weight_power': 0.5}, loss.class_weights(classes, 4, 0.5)),
    ({'class_weights': False}, np.ones(4, np.float32)),
  ):
    config.update(fields)
    weights = experiment.make_class_weights(config, CHALLENGE, classes)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize('weighted', [True, False])
def test_class_without_records_is_warned_of(config, caplog, weighted):
  config.class_weights = weighted
  with caplog.at_level(logging.WARNING):
    weights = experiment.make_class_weights(
      config, CHALLENGE, np.array([0, 0, 2, 3])
    )
  assert weights[1] == (0 if weighted else 1)
  (message,) = caplog.messages
  assert 'no record of class A' in message


def test_augmentation_can_be_switched_off(config):
  options = (('burst_share', 0.2), ('burst_span_samples', 15))
  bursts = WithOptions(augmentation.drop_bursts, options)
  network = experiment.make_network(config, CHALLENGE)
  assert network.augmentations == (bursts,)
  assert experiment.make_resampling(config) == heart_rate.Resampling(
    60.0, 120.0
  )
  config.augmentation.resampling = False
  config.augmentation.bursts = False
  assert experiment.make_resampling(config) is None
  assert experiment.make_network(config, CHALLENGE).augmentations == ()
  config.augmentation.update({'bursts': True, 'burst_share': 0.0})
  assert experiment.make_network(config, CHALLENGE).augmentations == ()


def test_network_has_the_fields_of_the_config(config):
  config.dtype = 'bfloat16'
  config.spectrogram.hop_samples = 16
  network = experiment.make_network(config, CHALLENGE)
  assert network.model.config.dtype == jnp.bfloat16
  assert network.spectrogram.hop_samples == 16
  rates = {f'dropout_{name}': rate for name, rate in config.dropout.items()}
  expected = {**config.model, **rates}
  del expected['name']
  assert expected.items() <= vars(network.model.config).items()
  # Programs are found again by it.
  again = experiment.make_network(config, CHALLENGE)
  assert network == again
  assert hash(network) == hash(again)


@pytest.mark.parametrize('name', registry.MODELS)
def test_a_field_that_the_model_does_not_have_is_refused(name):
  config = default_config.get_config(name)
  config.model.depth = 3
  message = f"field 'model.depth', which {name} does not have: leave it out"
  with pytest.raises(InputError, match=message):
    experiment.make_network(config, CHALLENGE)


@pytest.mark.parametrize('rate', [100, 250, 300, 360, 1000])
def test_spectrograms_last_as_long_at_every_rate(config, rate):
  spec = dataclasses.replace(
    CHALLENGE, sampling_rate=rate, counts_per_millivolt=250.0
  )
  config.spectrogram.update({'hop_samples': 8, 'kept_bins': 11})
  found, usual = (
    experiment.make_spectrogram(config, x) for x in (spec, CHALLENGE)
  )
  assert (found.sampling_rate, found.counts_per_millivolt) == (rate, 250.0)
  for name in ('window_samples', 'hop_samples'):
    here, there = getattr(found, name) / rate, getattr(usual, name) / 300
    assert abs(here - there) <= 0.5 / rate
  # So the bins are as far apart, and those kept reach as high.
  width = rate / found.window_samples
  assert width == pytest.approx(300 / 64, rel=0.03)
  assert found.bins == usual.bins == 11
  config.augmentation.max_samples = 9000
  assert experiment.max_samples(config, spec) == 30 * rate
  network = experiment.make_network(config, spec)
  [bursts] = network.augmentations
  assert dict(bursts.options)['burst_span_samples'] == round(rate / 20)


def test_more_bins_than_a_rate_has_are_refused(config):
  spec = dataclasses.replace(CHALLENGE, sampling_rate=100)
  config.spectrogram.kept_bins = 12
  with pytest.raises(
    InputError, match='kept_bins is 12: it must not exceed 11'
  ):
    experiment.make_network(config, spec)


OWN = """
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ecg_jax.fields.models import ModelFields
from ecg_jax.models import layers, preprocessing


def noise(signal, lengths, keys, *, sigma, shift=0.0):
  size = signal.shape[1]
  draws = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
  return signal + shift + sigma * draws


def flip(signal, lengths, keys):
  return -signal


def smooth(logits, labels, weights, *, smoothing):
  target = jax.nn.one_hot(labels, logits.shape[1]) * (1 - smoothing)
  target += smoothing / logits.shape[1]
  return -jnp.sum(target * jax.nn.log_softmax(logits), axis=1) * weights


level = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetFields(ModelFields):
  units: int = 6
  '''Units of the hidden layer.'''
  dropout_input: float = 0.0

  def __post_init__(self):
    self.at_least(1, 'units')
    self.fraction('dropout_input')


class Net(nn.Module):
  config: NetFields
  config_type: ClassVar = NetFields
  trained: ClassVar = {'all': ('hidden', 'output'), 'head': ('output',)}

  @nn.compact
  def __call__(self, x, lengths, *, train, kind):
    x = nn.relu(nn.Dense(self.config.units, name='hidden')(x))
    x = layers.masked_mean(x, preprocessing.valid(lengths, x.shape[1]))
    return nn.Dense(self.config.num_classes, name='output')(x)


class Headless(nn.Module):
  config: NetFields
  config_type: ClassVar = NetFields
  trained: ClassVar = {'head': ('output',)}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """The current folder's own.py with functions and a model."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'own.py').write_text(OWN)
  return lambda name: registry.find('loss.name', f'own.py:{name}', {})


def test_functions_get_the_fields_that_they_take(config, own):
  config.augmentation.bursts = False
  config.augmentation.functions = ('own.py:noise', 'own.py:flip')
  config.loss.name = 'own.py:smooth'
  make = lambda: experiment.make_network(config, CHALLENGE)  # noqa: E731
  with pytest.raises(
    InputError, match=r"'sigma': set augmentation\.sigma in the"
  ):
    make()
  config.augmentation.sigma = 0.5
  with pytest.raises(
    InputError, match=r"'smoothing': set loss\.smoothing in the"
  ):
    make()
  config.loss.smoothing = 0.1
  network = make()
  noise = WithOptions(own('noise'), (('sigma', 0.5),))
  assert network.augmentations == (noise, own('flip'))
  assert network.loss == WithOptions(own('smooth'), (('smoothing', 0.1),))
  logits, labels = jnp.array([[3.0, 0, 0, 0]]), jnp.array([0])
  [found] = network.loss(logits, labels, jnp.array([2.0]))
  expected = 2 * (np.log(np.exp(3) + 3) - 3 * (0.9 + 0.1 / 4))
  assert float(found) == pytest.approx(expected, rel=1e-5)
  # The same config is the same program, another value another.
  assert make() == network
  assert hash(make()) == hash(network)
  config.augmentation.shift = [1, 2]
  assert make() != network
  assert dict(make().augmentations[0].options)['shift'] == (1, 2)
  hash(make())


@pytest.mark.parametrize(
  ('group', 'fields', 'message'),
  [
    (
      'augmentation',
      {'sigma': 1.0},
      "the field 'augmentation.sigma', which no",
    ),
    (
      'augmentation',
      {'functions': ('own.py:noise',), 'sigma': 1.0, 'sgima': 1.0},
      "the field 'augmentation.sgima', which nothing reads: leave it out, or",
    ),
    (
      'augmentation',
      {'functions': ('own.py:level',)},
      "level', which is no fu",
    ),
    ('augmentation', {'functions': ('own.py:nose',)}, "no 'nose': use noise."),
    ('loss', {'gamma': 2.0}, "the field 'loss.gamma', which nothing reads"),
    ('loss', {'name': 'own.py:level'}, "loss.name is 'own.py:level', which is"),
    (
      'model',
      {'name': 'own.py:NetFields'},
      "NetFields', which is no model: give",
    ),
    ('model', {'name': 'own.py:flip'}, "'own.py:flip', which is no model: giv"),
    (
      'model',
      {'name': 'own.py:Headless'},
      "class variable trained has no 'all'",
    ),
    ('data', {'name': 'own.py:Net'}, "'own.py:Net', which is no dataset: name"),
    (
      None,
      {'metrics': ('own.py:level',)},
      "metrics is 'own.py:level', which is",
    ),
    (
      None,
      {'metrics': ('own.py:flip',) * 2},
      "where two are 'flip': name each",
    ),
  ],
)
def test_functions_and_options_that_do_not_fit_are_refused(
  config, own, group, fields, message
):
  (config[group] if group else config).update(fields)
  with pytest.raises(InputError, match=message):
    experiment.check(config)


def test_fields_of_an_own_model_are_in_the_config(own, tmp_path):
  (tmp_path / 'mine.py').write_text(
    'from ecg_jax import default_config\n'
    "def get_config(): return default_config.get_config('own.py:Net')\n"
  )

  def parse(*arguments):
    flags = configuration.define_flags()
    arguments = ['main', '--config=mine.py', *arguments]
    return configuration.parse(flags, arguments)

  config = parse('--config.model.units=4', '--config.data.name=synthetic_ecg')
  assert config.model.name == f'{tmp_path}/own.py:Net'
  values = flatten(config)
  assert (values['model.units'], values['dropout.input']) == (4, 0.0)
  assert experiment.make_network(config, THREE).model == own('Net')(
    own('NetFields')(units=4, num_classes=3, dtype=jnp.dtype('float32'))
  )
  with pytest.raises(Help, match=r'units 6\n +Units of the hidden layer'):
    parse('--help')
  restored = stored_config.from_json(stored_config.to_json(config))
  assert flatten(restored) == values
  for field, value, message in (
    ('model.units', 0, 'model.units is 0: it must be at least 1.'),
    ('dropout.input', 1.0, 'dropout.input is 1.0: it must be at least 0'),
    (
      'phases.kinds',
      "('lstm',)",
      "holds 'lstm': a .* can train 'all' or 'head'",
    ),
  ):
    with pytest.raises(InputError, match=message):
      experiment.check(parse(f'--config.{field}={value}'))
  with pytest.raises(
    InputError, match=r"no field 'model\.unit': use 'model\.units"
  ):
    parse('--config.model.unit=3')
  values = stored_config.to_json(config)
  values['dropout']['output'] = 0.5
  with pytest.raises(
    InputError, match=r"field 'dropout.output', which .*:Net "
  ):
    experiment.make_network(stored_config.from_json(values), THREE)


@pytest.fixture
def three_data():
  """Records of three classes at 100 Hz."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(300, 500, 30)
  classes = np.arange(30, dtype=np.int32) % 3
  dataset = Dataset(
    records=tuple(f'r{index:02d}' for index in range(30)),
    signal=rng.integers(-200, 200, lengths.sum()).astype(np.int16),
    offsets=np.cumsum(lengths) - lengths,
    lengths=lengths,
    classes={'first': classes, 'second': classes[::-1].copy()},
    spec=THREE,
  )
  table = folds.published(dataset.labels('second'), THREE)
  return experiment.FoldedDataset(dataset, table)


@pytest.mark.parametrize('model', [*registry.MODELS, 'own.py:Net'])
def test_every_model_trains_on_other_classes_at_another_rate(
  own, three_data, tmp_path, model
):
  """Also one without batch normalization, whose statistics are empty."""
  config = default_config.get_config(model)
  config.label_version = 'first'
  config.compensated_sampling = True
  config.average_decay = 0.9
  if 'width' in config.model:
    config.model.update({'width': 2, 'growth': 2, 'layers_per_block': 1})
    config.model.blocks = 2
  if 'widths' in config.model:
    config.model.update({'widths': (2, 4), 'blocks_per_stage': 1})
  job = make_job(config, three_data, 1, tmp_path)
  assert job.network.num_classes == 3
  train_classes = np.arange(30)[job.fold.sets['train']] % 3
  by_class = loss.class_weights(train_classes, 3)
  np.testing.assert_array_equal(job.fold.weights, by_class[np.arange(30) % 3])
  variables = job.initial_variables()
  assert bool(variables['batch_stats']) == (model != 'own.py:Net')
  trained = job.network.model.trained['all']
  before = train_state.begin_phase(
    variables, 0, job.key(), trained, averaged=True
  )
  batch = Batch(
    signal=three_data.dataset.signal[:1200].reshape(3, 400),
    signal_lengths=np.array([400, 300, 0], np.int32),
    lengths=np.array([380, 400, 0], np.int32),
    mask=np.array([True, True, False]),
    labels=np.array([0, 2, 0], np.int32),
    weights=np.ones(3, np.float32),
  )
  step = TrainStep(job.network, job.optimizer, 'all')
  after, result = jax.jit(step, static_argnames='samples')(
    before, batch, jnp.float32(1e-3), samples=448
  )
  assert result.finite
  assert result.probabilities.shape == (3, 3)
  for name in trained:
    moved = jax.tree.map(
      lambda a, b: bool(np.any(a != b)), after.params[name], before.params[name]
    )
    assert any(jax.tree.leaves(moved))
  jax.tree.map(np.testing.assert_array_equal, before.average, variables)
  assert jax.tree.structure(after.variables) == jax.tree.structure(variables)


def test_digests_tell_samples_labels_and_folds_apart(small_data):
  def changed(data):
    before, after = small_data.digests(), data.digests()
    return {name for name in before if before[name] != after[name]}

  dataset = small_data.dataset
  other = dataclasses.replace(dataset, signal=dataset.signal + np.int16(1))
  found = changed(dataclasses.replace(small_data, dataset=other))
  assert found == {'dataset', 'records'}
  classes = {**dataset.classes, 'v1': 3 - dataset.classes['v1']}
  other = dataclasses.replace(dataset, classes=classes)
  assert changed(dataclasses.replace(small_data, dataset=other)) == {'labels'}
  table = folds.make_folds(
    dataset.labels('v2'), num_folds=2, train_validation_parts=3, seed=1
  )
  assert changed(dataclasses.replace(small_data, table=table)) == {'folds'}


def test_published_folds_are_drawn_by_label_v2(load, small_data):
  dataset = small_data.dataset
  # Enough of two classes for five folds, by v2 only.
  classes = {**dataset.classes, 'v2': np.arange(60, dtype=np.int32) % 2}
  data = load(dataclasses.replace(dataset, classes=classes))
  assert data.table == folds.make_folds(data.dataset.labels('v2'))


def test_table_of_a_file_is_used_and_checked(
  load, config, small_data, tmp_path
):
  path = tmp_path / 'folds.json'
  config.data.folds_file = str(path)
  path.write_text(json.dumps(small_data.table))
  config.folds = (0, 1)
  assert load(small_data.dataset).table == small_data.table
  config.folds = (0, 2)
  with pytest.raises(InputError, match=r'folds holds 2: .* has folds 0 to 1'):
    load(small_data.dataset)
  config.folds = (0,)
  table = json.loads(path.read_text())
  table['folds']['0']['train'].append('unheard-of')
  path.write_text(json.dumps(table))
  with pytest.raises(InputError, match='unheard-of'):
    load(small_data.dataset)


@pytest.mark.parametrize(
  ('fields', 'length', 'message'),
  [
    ({}, 63, 'less than one spectrogram window'),
    ({}, 60_000, 'a step can take'),
    ({'resampling': False}, 65_535, None),
    # Its square does not fit in 32 bits.
    ({'resampling': False}, 65_536, '65535 that a step can take'),
    ({'max_samples': 9000}, 100_000, None),
  ],
)
def test_records_of_a_length_that_cannot_be_used_are_named(
  load, config, small_data, tmp_path, fields, length, message
):
  config.augmentation.update(fields)
  config.data.folds_file = str(tmp_path / 'folds.json')
  (tmp_path / 'folds.json').write_text(json.dumps(small_data.table))
  dataset = small_data.dataset
  lengths = dataset.lengths.copy()
  lengths[-1] = length
  signal = np.resize(dataset.signal, dataset.offsets[-1] + length)
  other = dataclasses.replace(dataset, signal=signal, lengths=lengths)
  if message is None:
    assert load(other).dataset is other
  else:
    with pytest.raises(InputError, match=f'Record S00060 has .* {message}'):
      load(other)

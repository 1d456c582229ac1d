"""What a config stands for."""

import dataclasses
import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.datasets import folds, prepare
from ecg_jax.errors import InputError
from ecg_jax.input_pipeline import dataset as dataset_lib
from ecg_jax.input_pipeline import sampler
from ecg_jax.models import loss


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
    ({}, loss.class_weights(classes)),
    ({'class_weight_power': 0.5}, loss.class_weights(classes, 0.5)),
    ({'class_weights': False}, np.ones(4, np.float32)),
  ):
    config.update(fields)
    weights = experiment.make_class_weights(config, classes)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize('weighted', [True, False])
def test_class_without_records_is_warned_of(config, caplog, weighted):
  config.class_weights = weighted
  with caplog.at_level(logging.WARNING):
    weights = experiment.make_class_weights(config, np.array([0, 0, 2, 3]))
  assert weights[1] == (0 if weighted else 1)
  (message,) = caplog.messages
  assert 'no record of class A' in message


def test_augmentation_can_be_switched_off(config):
  changes = dataclasses.asdict(experiment.make_network(config).augmentation)
  assert changes['bursts']
  assert changes.items() <= dict(config.augmentation).items()
  assert experiment.make_resampling(config) == sampler.Resampling(60.0, 120.0)
  config.augmentation.resampling = False
  config.augmentation.bursts = False
  assert experiment.make_resampling(config) is None
  assert not experiment.make_network(config).augmentation.bursts


def test_network_has_the_fields_of_the_config(config):
  config.dtype = 'bfloat16'
  config.spectrogram.hop_samples = 16
  network = experiment.make_network(config)
  assert network.model.config.dtype == jnp.bfloat16
  assert network.spectrogram.hop_samples == 16
  rates = {f'dropout_{name}': rate for name, rate in config.dropout.items()}
  expected = {**config.model, **rates}
  del expected['name']
  assert expected.items() <= vars(network.model.config).items()
  # Programs are found again by it.
  assert network == experiment.make_network(config)
  assert hash(network) == hash(experiment.make_network(config))


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

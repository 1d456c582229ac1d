"""The training loop: phases, resuming, what decides the result."""

import contextlib
import copy
import csv
import dataclasses
import itertools
import json
import logging
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.errors import TrainingError
from ecg_jax.evaluation import eval_step
from ecg_jax.evaluation import metrics as metrics_lib
from ecg_jax.input_pipeline import device_data, sampler
from ecg_jax.models import forward
from ecg_jax.runs import checkpoint
from ecg_jax.runtime import sharding
from ecg_jax.training import job as job_lib
from ecg_jax.training import optimizer, train_loop, train_state, train_step
from ecg_jax.training.job import Job, make_job

DISPATCHES = 32
"""Of the undisturbed run below: its chunks and evaluations."""


@dataclasses.dataclass
class Recording:
  """What a run did, step by step, and what it left."""

  job: Job
  result: dict
  chunks: list[dict]
  """Of each chunk: kind, samples, learning rate, state before and after."""
  saves: list[tuple]
  """State, best weights and progress, each time that they were saved."""
  evaluated: list[str]
  """The kind of each evaluation."""
  fetches: int
  programs: int


@pytest.fixture(scope='module')
def undisturbed(small_job, train_job, read_result, tmp_path_factory):
  """The result of the job that all tests vary, and how it came about."""
  job = small_job(tmp_path_factory.mktemp('undisturbed'))
  chunks, saves, evaluated, fetches = [], [], [], []
  train_chunk, dispatch = train_step.train_chunk, eval_step.dispatch
  fetch, save = sharding.fetch, checkpoint.Checkpoints.save

  def recorded_chunk(state, *args, **kwargs):
    before = jax.device_get(state)
    state, result = train_chunk(state, *args, **kwargs)
    chunks.append(
      {
        'kind': kwargs['kind'],
        'samples': kwargs['samples'],
        'learning_rate': float(args[-1]),
        'before': before,
        'after': jax.device_get(state),
      }
    )
    return state, result

  def recorded_dispatch(*args, **kwargs):
    evaluated.append(kwargs['kind'])
    return dispatch(*args, **kwargs)

  def recorded_save(self, state, best, progress):
    saves.append((*jax.device_get((state, best)), copy.deepcopy(progress)))
    save(self, state, best, progress)

  def counted_fetch(tree):
    fetches.append(tree)
    return fetch(tree)

  train_chunk.clear_cache()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_step, 'train_chunk', recorded_chunk)
    patch.setattr(eval_step, 'dispatch', recorded_dispatch)
    patch.setattr(checkpoint.Checkpoints, 'save', recorded_save)
    patch.setattr(sharding, 'fetch', counted_fetch)
    train_job(job)
  return Recording(
    job,
    read_result(job),
    chunks,
    saves,
    evaluated,
    len(fetches),
    train_chunk._cache_size(),
  )


@pytest.fixture
def score_as(monkeypatch):
  """Replaces the score of one evaluation after the other by those given."""

  def use(*scores):
    collect, left = eval_step.collect, list(scores)

    def scripted(*args):
      result = collect(*args)
      if not left:
        return result
      return result._replace(scores={**result.scores, 'score': left.pop(0)})

    monkeypatch.setattr(eval_step, 'collect', scripted)
    return left

  return use


def _read_rows(job):
  with (job.folder / 'metrics.csv').open() as file:
    return list(csv.DictReader(file))


def _validated(job):
  return [
    (int(row['phase']), int(row['epoch']))
    for row in _read_rows(job)
    if row['validation_score']
  ]


def _best(job):
  best = json.loads((job.folder / 'scores.json').read_text())['best']
  return best['phase'], best['epoch']


def _bits(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_recordings_read_from_the_disk_give_the_same_bits(
  small_job, stored_dataset, train_job, read_result, tmp_path
):
  fields = {
    'phases': (optimizer.Phase('auxiliary', 3, 1e-2),),
    'training_buckets': 1,
  }
  device = small_job(tmp_path / 'device', **fields)
  host = dataclasses.replace(
    device, folder=tmp_path / 'host', dataset=stored_dataset
  )
  for job in (device, host):
    assert train_job(job)
  assert read_result(host) == read_result(device)


# Resuming.


def test_run_saved_and_stopped_after_each_chunk_ends_the_same(
  undisturbed, small_job, train_job, read_result, tmp_path
):
  job = small_job(tmp_path, checkpoint_minutes=0.0)
  # The second dispatch comes after the save of the first.
  for _ in range(len(undisturbed.chunks) + len(undisturbed.saves)):
    assert not train_job(job, stop_after=2)
  assert len(_read_rows(job)) == len(_read_rows(undisturbed.job))
  assert train_job(job)
  assert read_result(job) == undisturbed.result


@pytest.mark.parametrize('stop_after', range(1, DISPATCHES + 1, 3))
def test_run_stopped_between_saves_ends_the_same(
  undisturbed, small_job, train_job, read_result, tmp_path, stop_after
):
  job = small_job(tmp_path)
  assert not train_job(job, stop_after=stop_after)
  assert train_job(job)
  assert read_result(job) == undisturbed.result


def test_the_stops_cover_the_run(undisturbed):
  assert len(undisturbed.chunks) + len(undisturbed.evaluated) == DISPATCHES


# Phases.


def test_frozen_phase_leaves_convolutions_and_their_statistics_untouched(
  undisturbed,
):
  steps = [c for c in undisturbed.chunks if c['kind'] == 'lstm']
  first, last = steps[0]['before'], steps[-1]['after']
  for state in (first, last):
    assert set(state.optimizer_state.mu) == {'lstm', 'output'}
    assert set(state.optimizer_state.nu) == {'lstm', 'output'}
  assert _bits(first.batch_stats) == _bits(last.batch_stats)
  for name in ('convolutions', 'auxiliary'):
    assert _bits(first.params[name]) == _bits(last.params[name])
  for name in ('lstm', 'output'):
    assert _bits(first.params[name]) != _bits(last.params[name])


def test_each_phase_trains_all_that_is_its_own(undisturbed):
  trained = undisturbed.job.network.model.trained
  for kind, names in trained.items():
    steps = [c for c in undisturbed.chunks if c['kind'] == kind]
    first, last = steps[0]['before'], steps[-1]['after']
    changed = {
      name
      for name in first.params
      if _bits(first.params[name]) != _bits(last.params[name])
    }
    assert changed == set(names)
    same_statistics = _bits(first.batch_stats) == _bits(last.batch_stats)
    assert same_statistics == (kind == 'lstm')


def test_learning_rate_of_each_phase_is_used_and_written(undisturbed):
  phases = undisturbed.job.phases
  for row in _read_rows(undisturbed.job):
    assert float(row['learning_rate']) == (
      phases[int(row['phase'])].learning_rate
    )
  for index, phase in enumerate(phases):
    used = {
      c['learning_rate'] for c in undisturbed.chunks if c['kind'] == phase.kind
    }
    assert used == {float(np.float32(phase.learning_rate))}, index


def test_phase_starts_from_best_weights_before_it_with_fresh_moments(
  small_job, train_job, tmp_path, monkeypatch, score_as
):
  """Also where it differs from the one before in the learning rate alone."""
  # The first validation of each phase is its best, the last its worst.
  score_as(70.0, 10.0, 40.0, 20.0, 50.0, 20.0, 10.0)
  job = small_job(
    tmp_path,
    validate_every_epochs=1,
    phases=(
      optimizer.Phase('auxiliary', 2, 1e-2),
      optimizer.Phase('lstm', 2, 2e-3),
      optimizer.Phase('all', 2, 5e-4),
      optimizer.Phase('all', 1, 5e-5),
    ),
  )
  befores, bests = {}, {}
  train_chunk, save = train_step.train_chunk, checkpoint.Checkpoints.save

  def recorded_chunk(state, *args, **kwargs):
    rate = float(args[-1])
    befores.setdefault((kwargs['kind'], rate), jax.device_get(state))
    return train_chunk(state, *args, **kwargs)

  def recorded_save(self, state, best, progress):
    bests[progress['phase']] = jax.device_get(best)
    improved = progress['epoch'] == progress['last_improvement']
    assert (_bits(best) == _bits(state.variables)) == improved
    save(self, state, best, progress)

  monkeypatch.setattr(train_step, 'train_chunk', recorded_chunk)
  monkeypatch.setattr(checkpoint.Checkpoints, 'save', recorded_save)
  train_job(job)
  assert _best(job) == (2, 1)
  # Each phase has steps at its own learning rate, and no other.
  assert list(befores) == [
    (phase.kind, float(np.float32(phase.learning_rate))) for phase in job.phases
  ]
  for before, state in enumerate(list(befores.values())[1:]):
    assert _bits(state.variables) == _bits(bests[before])
    moments = jax.tree.leaves(state.optimizer_state)
    assert all(not np.any(leaf) for leaf in moments)


def test_auxiliary_network_is_never_the_result(
  small_job, train_job, tmp_path, score_as, monkeypatch
):
  score_as(99.0, 99.0, 0.0, 0.0, 0.0)
  evaluated, dispatch = [], eval_step.dispatch

  def recorded(*args, **kwargs):
    evaluated.append(kwargs['kind'])
    return dispatch(*args, **kwargs)

  monkeypatch.setattr(eval_step, 'dispatch', recorded)
  job = small_job(tmp_path)
  train_job(job)
  assert _best(job) == (1, 2)
  assert evaluated == ['auxiliary'] * 2 + ['all'] * 6


def test_carried_score_is_what_validating_again_gives(undisturbed):
  job = undisturbed.job
  _, best, progress = [s for s in undisturbed.saves if s[2]['phase'] == 1][-1]
  mesh = sharding.make_mesh(jax.devices()[:1])
  chunks = job_lib.set_chunks(job, 'validation')
  outputs = eval_step.dispatch(
    sharding.replicate(best, mesh),
    device_data.put_dataset(job.dataset, job.label_version, mesh),
    chunks,
    sharding.replicate(job.class_weights, mesh),
    network=job.network,
    kind='all',
    mesh=mesh,
  )
  score = eval_step.collect(chunks, outputs).scores['score']
  assert score == progress['best_score']
  later = [s[2] for s in undisturbed.saves if s[2]['phase'] == 2]
  assert all(after['best_score'] >= score for after in later)


# Validation and early stopping.


def test_last_epoch_of_each_phase_is_validated(undisturbed):
  assert _validated(undisturbed.job) == [(0, 2), (0, 3), (1, 2), (2, 2), (2, 3)]


def test_every_phase_can_stop_early_and_ends_on_a_validated_epoch(
  small_job, train_job, tmp_path, score_as
):
  job = small_job(
    tmp_path,
    phases=tuple(
      optimizer.Phase(kind, 9, 1e-3) for kind in ('auxiliary', 'lstm', 'all')
    ),
    patience_epochs=1,
  )
  # Epoch 1 comes too soon for anything to be better than before.
  left = score_as(30.0, 30.0, 20.0, 20.0, 10.0)
  train_job(job)
  assert [(row['phase'], row['epoch']) for row in _read_rows(job)] == [
    *[('0', '1'), ('0', '2')],
    *[('1', '1'), ('1', '2')],
    ('2', '1'),
  ]
  assert _validated(job) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
  assert not left
  assert _best(job) == (1, 1)


def test_an_improvement_in_time_prolongs_the_phase(
  small_job, train_job, tmp_path, score_as
):
  job = small_job(
    tmp_path, phases=(optimizer.Phase('lstm', 9, 1e-3),), patience_epochs=3
  )
  score_as(10.0, 20.0, 20.0, 15.0)
  train_job(job)
  # Validated every second epoch; 4 is the best, so 7 is the last.
  assert _validated(job) == [(0, 2), (0, 4), (0, 6), (0, 7)]
  assert _best(job) == (0, 4)


def test_of_equal_scores_the_earlier_is_kept(
  small_job, train_job, tmp_path, score_as
):
  score_as(*[50.0] * 5)
  job = small_job(tmp_path)
  train_job(job)
  assert _best(job) == (1, 2)


# What decides the result.


def test_same_seed_gives_the_same_bits_on_any_device_and_other_seeds_differ(
  undisturbed, small_job, train_job, read_result, tmp_path
):
  again = small_job(tmp_path / 'again')
  train_job(again)
  assert read_result(again) == undisturbed.result
  other = small_job(tmp_path / 'other', seed=1)
  train_job(other)
  found = read_result(other)
  assert found['metrics'] != undisturbed.result['metrics']
  assert found['arrays'] != undisturbed.result['arrays']


def test_test_records_do_not_reach_training(
  undisturbed,
  small_config,
  small_data,
  train_job,
  read_result,
  tmp_path,
):
  rng = np.random.default_rng(0)
  dataset = small_data.dataset
  signal = dataset.signal.copy()
  classes = {version: c.copy() for version, c in dataset.classes.items()}
  for record in undisturbed.job.sets['test']:
    start = dataset.offsets[record]
    end = start + dataset.lengths[record]
    signal[start:end] = rng.integers(-9999, 9999, end - start)
    for labels in classes.values():
      labels[record] = 3 - labels[record]
  garbage = dataclasses.replace(dataset, signal=signal, classes=classes)
  # The job is made of it too: sets, class weights and all.
  data = experiment.Data(garbage, small_data.table)
  job = make_job(small_config, data, 0, tmp_path)
  train_job(job)
  found = read_result(job)
  for name in ('metrics', 'arrays', 'validation_predictions.csv'):
    assert found[name] == undisturbed.result[name]
  assert found['predictions.csv'] != undisturbed.result['predictions.csv']


def _in_bfloat16(job):
  model = job.network.model.clone(dtype=jnp.bfloat16)
  network = dataclasses.replace(job.network, model=model)
  return dataclasses.replace(job, network=network)


def test_bfloat16_trains_as_float32_does_within_its_rounding(
  small_job, train_job, read_result, tmp_path
):
  full = small_job(tmp_path / 'float32')
  full = dataclasses.replace(full, phases=full.phases[-1:])
  half = dataclasses.replace(_in_bfloat16(full), folder=tmp_path / 'bfloat16')
  found = []
  for job in (full, half):
    train_job(job)
    found.append(read_result(job))
  assert found[0]['arrays'] != found[1]['arrays']
  losses = (
    [float(row['train_loss']) for row in result['metrics']] for result in found
  )
  np.testing.assert_allclose(*losses, rtol=0.05)


def test_weights_predict_in_bfloat16_as_in_float32_within_its_rounding(
  undisturbed,
):
  _, best, _ = undisturbed.saves[-1]
  mesh = sharding.make_mesh(jax.devices()[:1])
  probabilities = {}
  for job in (undisturbed.job, _in_bfloat16(undisturbed.job)):
    chunks = job_lib.set_chunks(job, 'train')
    outputs = eval_step.dispatch(
      sharding.replicate(best, mesh),
      device_data.put_dataset(job.dataset, job.label_version, mesh),
      chunks,
      sharding.replicate(job.class_weights, mesh),
      network=job.network,
      kind='all',
      mesh=mesh,
    )
    result = eval_step.collect(chunks, outputs)
    probabilities[job.network.model.dtype] = result.probabilities
  whole, half = probabilities.values()
  assert 0 < np.abs(half - whole).max() < 0.02
  assert np.ptp(whole, axis=0).max() > 0.05


def _draws(job, phase=0, epoch=1):
  """Position and length of each record drawn in an epoch, in its order."""
  bounds = sampler.bucket_bounds(
    job.dataset.lengths, num_buckets=1, resampling=job.resampling
  )
  chunks = job_lib.epoch_chunks(job, bounds, phase, epoch)
  return tuple(
    np.concatenate([getattr(chunk, name)[chunk.mask] for chunk in chunks])
    for name in ('records', 'lengths')
  )


def test_every_epoch_draws_order_and_heart_rates_afresh(small_job, tmp_path):
  job = small_job(tmp_path)
  epochs = [(job, 0, epoch) for epoch in range(1, 6)]
  others = [{'seed': 1}, {'fold': 1}]
  epochs += [(dataclasses.replace(job, **fields), 0, 1) for fields in others]
  epochs += [(job, 1, 1), (job, 2, 1)]
  found = [_draws(*epoch) for epoch in epochs]
  for one, other in itertools.combinations(found, 2):
    np.testing.assert_array_equal(np.sort(one[0]), np.sort(other[0]))
    assert np.mean(one[0] != other[0]) > 0.5
    lengths = [drawn[1][np.argsort(drawn[0])] for drawn in (one, other)]
    assert np.mean(lengths[0] != lengths[1]) > 0.9
  np.testing.assert_array_equal(_draws(job), found[0])


def test_epoch_is_drawn_as_the_job_says(small_job, tmp_path):
  job = small_job(tmp_path)
  train_set, own = job.sets['train'], job.dataset.lengths
  for fields in {}, {'resampling': None}:
    records, lengths = _draws(dataclasses.replace(job, **fields))
    np.testing.assert_array_equal(np.sort(records), np.sort(train_set))
    unchanged = np.mean(lengths == own[records])
    assert unchanged == 1 if fields else unchanged < 0.1
  # Half of the set is never taken, so the other half is, twice.
  repeats = 2 * (np.arange(len(train_set)) % 2)
  job = dataclasses.replace(job, repeats=repeats)
  records, _ = _draws(job)
  taken, times = np.unique(records, return_counts=True)
  assert set(taken) <= set(train_set[repeats > 0])
  assert set(times) == {2}


def test_seed_and_fold_decide_the_first_weights_and_the_steps_keys(
  small_job, tmp_path, monkeypatch
):
  keys = []

  def recorded_chunk(state, data, chunk, num_steps, key, *_, **__):
    keys.append(jax.random.key_data(key).tolist())
    raise StopIteration

  monkeypatch.setattr(train_step, 'train_chunk', recorded_chunk)
  job = small_job(tmp_path)
  mesh = sharding.make_mesh(jax.devices()[:1])
  data = device_data.put_dataset(job.dataset, job.label_version, mesh)
  weights = []
  for name, fields in enumerate([{}, {}, {'seed': 1}, {'fold': 1}]):
    one = dataclasses.replace(job, folder=tmp_path / str(name), **fields)
    weights.append(_bits(job_lib.initial_variables(one)))
    with pytest.raises(StopIteration):
      train_loop.train_fold(one, mesh, data, position=0)
  for found in (keys, weights):
    assert found[0] == found[1]
    assert found[0] not in found[2:]
    assert found[2] != found[3]


# The step and the chunk.


def _chunk_arguments(job, mesh, kind='all'):
  """A state, and a function that trains a chunk on it."""
  data = device_data.put_dataset(job.dataset, job.label_version, mesh)
  bounds = job_lib.training_bounds(job)
  phase = optimizer.Phase(kind, 1, 1e-3)
  key, class_weights, learning_rate = sharding.replicate(
    (jax.random.key(5), job.class_weights, np.float32(phase.learning_rate)),
    mesh,
  )
  variables = sharding.replicate(job_lib.initial_variables(job), mesh)
  state = train_state.begin_phase(
    variables,
    0,
    job.network.model.trained[kind],
    averaged=job.regularisation.average_decay > 0,
  )

  def arguments(state, chunk):
    return (
      state,
      data,
      *device_data.put_chunk(chunk, mesh),
      key,
      class_weights,
      learning_rate,
    ), train_loop.static_arguments(job, phase, chunk.samples, mesh)

  chunks = job_lib.epoch_chunks(job, bounds, 0, 1)
  return sharding.replicate(state, mesh), chunks, arguments


def _mean_losses(job, mesh, kind):
  """Moments after the first step, and the loss of each chunk of an epoch."""
  state, chunks, arguments = _chunk_arguments(job, mesh, kind)
  losses, first = [], None
  for chunk in chunks:
    steps = [1, chunk.num_steps - 1] if first is None else [chunk.num_steps]
    for part in _cut(chunk, steps):
      args, kwargs = arguments(state, part)
      state, (metrics, _) = train_step.train_chunk(*args, **kwargs)
      losses.append(float(metrics.loss) / int(metrics.records))
      first = first or jax.device_get((state.optimizer_state.mu, state.params))
  return first, losses


def _cut(chunk, counts):
  """The chunk as several of the same shape, of so many steps each."""
  parts, first = [], 0
  for count in counts:
    arrays = {
      name: np.roll(getattr(chunk, name), -first, axis=0)
      for name in device_data.ChunkArrays._fields
    }
    parts.append(dataclasses.replace(chunk, num_steps=count, **arrays))
    first += count
  return [part for part in parts if part.num_steps]


@pytest.mark.parametrize(
  ('kind', 'batch_size', 'devices'), [('all', 5, 4), ('auxiliary', 8, 2)]
)
def test_one_device_gives_what_several_give(
  small_job, tmp_path, kind, batch_size, devices
):
  # 8 rows can be dealt out evenly; 5 are padded.
  job = small_job(tmp_path, batch_size=batch_size, training_buckets=1)
  one, several = (
    _mean_losses(job, sharding.make_mesh(jax.devices()[:count]), kind)
    for count in (1, devices)
  )
  # The first moments after one step are a tenth of the gradients.
  for a, b in zip(
    *map(jax.tree.leaves, (one[0][0], several[0][0])), strict=True
  ):
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
  for a, b, gradient in zip(
    *map(jax.tree.leaves, (one[0][1], several[0][1])),
    jax.tree.leaves({**one[0][1], **one[0][0]}),
    strict=True,
  ):
    # Where a gradient is mere rounding, Adam takes its sign all the same.
    clear = np.abs(gradient) > 1e-6
    np.testing.assert_allclose(a[clear], b[clear], rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(one[1], several[1], rtol=1e-4)


@pytest.mark.parametrize('remat', [False, True])
def test_devices_send_gradients_and_statistics_once_and_nothing_else(
  small_job, tmp_path, remat
):
  job = small_job(tmp_path)
  model = job.network.model.clone(remat=remat)
  job = dataclasses.replace(
    job, network=dataclasses.replace(job.network, model=model)
  )
  mesh = sharding.make_mesh(jax.devices()[:2])
  state, chunks, arguments = _chunk_arguments(job, mesh)
  args, kwargs = arguments(state, chunks[0])
  program = train_step.train_chunk.lower(*args, **kwargs).compile().as_text()
  for other in ('all-gather', 'all-to-all', 'reduce-scatter', 'permute'):
    assert other not in program
  sums = re.findall(r'= (.*) all-reduce\(.*op_name="([^"]*)"', program)
  in_step = [shapes for shapes, name in sums if '/while/body/' in name]
  sent = sum(
    math.prod(map(int, dimensions.split(','))) if dimensions else 1
    for shapes in in_step
    for dimensions in re.findall(r'[fs]32\[([\d,]*)\]', shapes)
  )
  trained, _ = optimizer.split(state.params, model.trained['all'])
  channels = [mean.size for mean in jax.tree.leaves(state.batch_stats)[::2]]
  # The records; of each batch norm count and two sums, and their gradients;
  # the parameters' gradients and the loss.
  expected = 1 + sum(1 + 4 * count for count in channels)
  expected += sum(array.size for array in jax.tree.leaves(trained)) + 1
  assert sent == expected
  assert len(in_step) <= 2 * len(channels) + 2
  assert len(sums) - len(in_step) <= len(metrics_lib.Metrics._fields)


def test_step_goes_down_the_mean_weighted_loss_of_the_valid_rows(
  small_job, tmp_path
):
  mesh = sharding.make_mesh(jax.devices()[:1])
  job = small_job(tmp_path, batch_size=8, training_buckets=1)
  kind = 'auxiliary'
  state, chunks, arguments = _chunk_arguments(job, mesh, kind)
  chunk = dataclasses.replace(chunks[-1], num_steps=1)
  args, kwargs = arguments(state, chunk)
  data, rows, key = args[1], args[2], args[4]
  batch = device_data.take_batch(data, rows, 0, kwargs['window'])
  valid = np.flatnonzero(batch.mask)
  labels = np.asarray(batch.labels)[valid]
  assert len(valid) < len(batch.mask)
  assert len(set(labels)) > 1

  @jax.jit
  def mean_loss(params):
    logits, _ = forward.train_logits(
      job.network,
      {'params': params, 'batch_stats': state.batch_stats},
      batch,
      jax.random.fold_in(key, 0),
      samples=kwargs['samples'],
      kind=kind,
    )
    exponentials = jnp.exp(logits[valid])
    share = exponentials[np.arange(len(valid)), labels]
    entropy = jnp.log(exponentials.sum(axis=1)) - jnp.log(share)
    return jnp.mean(entropy * job.class_weights[labels])

  loss, gradients = jax.value_and_grad(mean_loss)(state.params)
  after, (metrics, bad_step) = train_step.train_chunk(*args, **kwargs)
  assert int(bad_step) == -1
  assert int(metrics.records) == len(valid)
  assert float(metrics.loss) == pytest.approx(float(loss) * len(valid), 1e-4)
  # The first moments after one step are a tenth of the gradients.
  moments = after.optimizer_state.mu
  assert set(moments) == set(job.network.model.trained[kind])
  for name, tree in moments.items():
    for found, expected in zip(
      *map(jax.tree.leaves, (tree, gradients[name])), strict=True
    ):
      scale = np.abs(expected).max() + 1e-6
      np.testing.assert_allclose(
        10 * found / scale, expected / scale, atol=1e-3
      )


@pytest.mark.parametrize('source', ['bursts', 'dropout', 'nothing'])
def test_each_step_draws_bursts_and_dropout_afresh(small_job, tmp_path, source):
  mesh = sharding.make_mesh(jax.devices()[:1])
  job = small_job(tmp_path, training_buckets=1)
  rate = 0.3 if source == 'dropout' else 0.0
  network = dataclasses.replace(
    job.network,
    model=job.network.model.clone(dropout_convolution=rate),
    bursts=job.network.bursts if source == 'bursts' else None,
  )
  job = dataclasses.replace(job, network=network)
  state, chunks, arguments = _chunk_arguments(job, mesh, 'auxiliary')
  chunk = dataclasses.replace(chunks[0], num_steps=1)
  losses = []
  for _ in range(4):
    args, kwargs = arguments(state, chunk)
    # The same records and weights each time: the rate is zero.
    state, (metrics, _) = train_step.train_chunk(
      *args[:-1], 0 * args[-1], **kwargs
    )
    losses.append(float(metrics.loss))
  assert len(set(losses)) == (1 if source == 'nothing' else 4)


def test_steps_of_a_chunk_do_not_depend_on_how_it_is_cut(small_job, tmp_path):
  mesh = sharding.make_mesh(jax.devices()[:1])
  job = small_job(tmp_path)
  _, chunks, arguments = _chunk_arguments(job, mesh)
  full = next(chunk for chunk in chunks if chunk.num_steps == 2)
  found = []
  for counts in ([2], [1, 1]):
    state, _, _ = _chunk_arguments(job, mesh)
    metrics = []
    for part in _cut(full, counts):
      args, kwargs = arguments(state, part)
      state, (one, _) = train_step.train_chunk(*args, **kwargs)
      metrics.append(jax.device_get(one))
      assert int(one.records) == part.mask[: part.num_steps].sum()
    assert int(state.step) == 2
    found.append((_bits(state), sum(m.confusion for m in metrics).tolist()))
  assert found[0] == found[1]


def test_chunk_without_steps_changes_nothing(small_job, tmp_path):
  mesh = sharding.make_mesh(jax.devices()[:1])
  state, chunks, arguments = _chunk_arguments(small_job(tmp_path), mesh)
  before = _bits(jax.device_get(state))
  args, kwargs = arguments(state, dataclasses.replace(chunks[0], num_steps=0))
  state, (metrics, bad_step) = train_step.train_chunk(*args, **kwargs)
  assert _bits(state) == before
  assert int(bad_step) == -1
  assert not any(np.any(leaf) for leaf in metrics)


def test_state_after_takes_the_memory_of_the_state_before(small_job, tmp_path):
  mesh = sharding.make_mesh(jax.devices()[:1])
  state, chunks, arguments = _chunk_arguments(small_job(tmp_path), mesh)
  args, kwargs = arguments(state, chunks[0])
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  compiled = train_step.train_chunk.lower(*args, **kwargs).compile()
  assert compiled.memory_analysis().alias_size_in_bytes >= size
  train_step.train_chunk(*args, **kwargs)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_program_for_a_gpu(small_job, tmp_path, dtype):
  """Convolutions in the compute dtype, channels last; nothing of the host."""
  mesh = sharding.make_mesh(jax.devices()[:1])
  job = small_job(tmp_path)
  model = job.network.model.clone(dtype=jnp.dtype(dtype))
  job = dataclasses.replace(
    job, network=dataclasses.replace(job.network, model=model)
  )
  state, chunks, arguments = _chunk_arguments(job, mesh)
  args, kwargs = arguments(state, chunks[0])
  traced = train_step.train_chunk.trace(*args, **kwargs)
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  convolutions = [
    line for line in text.splitlines() if 'stablehlo.convolution' in line
  ]
  element = {'float32': 'f32', 'bfloat16': 'bf16'}[dtype]
  layouts = set()
  for line in convolutions:
    assert re.findall(r'tensor<[\dx]*x(\w+)>', line) == [element] * 3
    layouts.add(re.search(r'dim_numbers = (.*\]), window', line)[1])
  # Of x, the gradient by x, and that by the kernel, which sums over records:
  # all three read and write activations with the channels last.
  assert layouts == {
    '[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]',
    '[b, 0, 1, f]x[0, 1, o, i]->[b, 0, 1, f]',
    '[f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]',
  }
  assert 'f64' not in text
  assert 'callback' not in text
  donated = re.findall('tf.aliasing_output|jax.buffer_donor', text)
  assert len(donated) == len(jax.tree.leaves(state))


def test_compiled_program_copies_no_dataset_and_takes_over_the_state(
  small_job, tmp_path
):
  mesh = sharding.make_mesh(jax.devices()[:1])
  state, chunks, arguments = _chunk_arguments(small_job(tmp_path), mesh)
  args, kwargs = arguments(state, chunks[0])
  compiled = train_step.train_chunk.lower(*args, **kwargs).compile()
  signal = args[1].signal
  # All that has the dataset's size, and where it comes from.
  made = re.findall(
    rf' = s16\[{signal.size}\]\S* ([\w-]+)\(', compiled.as_text()
  )
  assert set(made) == {'parameter', 'get-tuple-element'}
  aliased = compiled.memory_analysis().alias_size_in_bytes
  assert aliased == sum(leaf.nbytes for leaf in jax.tree.leaves(state))


# The host.


def test_number_of_programs_is_that_of_buckets_and_kinds(undisturbed):
  seen = {(c['kind'], c['samples']) for c in undisturbed.chunks}
  assert len({samples for _, samples in seen}) == 2
  assert undisturbed.programs == len(seen)


def test_a_second_job_compiles_nothing(
  undisturbed, small_config, small_data, train_job, tmp_path, caplog
):
  job = make_job(small_config, small_data, 1, tmp_path)
  assert not np.array_equal(job.sets['train'], undisturbed.job.sets['train'])
  with jax.log_compiles(), caplog.at_level(logging.DEBUG, 'jax'):
    train_job(job)
  assert not [m for m in caplog.messages if m.startswith('Compiling')]


def test_each_chunk_epoch_and_evaluation_is_fetched_once(undisturbed):
  # One more says at which step TensorBoard goes on.
  assert undisturbed.fetches == (
    len(undisturbed.chunks)
    + len(_read_rows(undisturbed.job))
    + len(undisturbed.evaluated)
    + 1
  )


def test_nothing_reaches_the_device_in_a_phase_unless_put_there(
  small_job, tmp_path
):
  job = small_job(tmp_path, phases=(optimizer.Phase('all', 3, 1e-3),))
  mesh = sharding.make_mesh(jax.devices()[:1])
  data = device_data.put_dataset(job.dataset, job.label_version, mesh)
  # The first state is made of numbers of the host, like the seed.
  guard = jax.transfer_guard_host_to_device('disallow')
  with contextlib.ExitStack() as stack:
    begun = []

    def stop():
      if not begun:
        begun.append(True)
        stack.enter_context(guard)
      return False

    train_loop.train_fold(job, mesh, data, position=0, stop=stop)
  assert begun
  assert _validated(job) == [(0, 2), (0, 3)]


def test_stop_in_the_last_validation_of_a_phase_begins_no_other(
  undisturbed, small_job, train_job, read_result, tmp_path, monkeypatch
):
  job = small_job(tmp_path)
  train_chunk, save = train_step.train_chunk, checkpoint.Checkpoints.save
  kinds, saved = [], []

  def recorded_chunk(*args, **kwargs):
    kinds.append(kwargs['kind'])
    return train_chunk(*args, **kwargs)

  def recorded_save(self, state, best, progress):
    saved.append(progress['epoch'])
    save(self, state, best, progress)

  mesh = sharding.make_mesh(jax.devices()[:1])
  data = device_data.put_dataset(job.dataset, job.label_version, mesh)
  with monkeypatch.context() as patch:
    patch.setattr(train_step, 'train_chunk', recorded_chunk)
    patch.setattr(checkpoint.Checkpoints, 'save', recorded_save)
    train_loop.train_fold(
      job, mesh, data, position=0, stop=lambda: saved[-1:] == [3]
    )
  assert set(kinds) == {'auxiliary'}
  assert saved == [2, 3]
  train_job(job)
  assert read_result(job) == undisturbed.result


# Numbers go bad.


def _with_rate(job, phase, rate):
  """The job with another learning rate in one of its phases."""
  phases = list(job.phases)
  phases[phase] = dataclasses.replace(phases[phase], learning_rate=rate)
  return dataclasses.replace(job, phases=tuple(phases))


@pytest.mark.parametrize('phase', [0, 1])
def test_loss_that_is_not_finite_is_told_with_its_place(
  small_job, train_job, tmp_path, phase
):
  job = _with_rate(small_job(tmp_path), phase, math.inf)
  with pytest.raises(TrainingError) as caught:
    train_job(job)
  # The first step spoils the weights, and the second tells.
  bounds = job_lib.training_bounds(job)
  first, second = job_lib.epoch_chunks(job, bounds, phase, 1)[:2]
  chunk, at, where = (
    (first, 1, 'chunk 1, step 2')
    if first.num_steps > 1
    else (second, 0, 'chunk 2, step 1')
  )
  positions = chunk.records[at][chunk.mask[at]]
  names = ', '.join(job.dataset.records[index] for index in positions)
  epochs = job.phases[phase].epochs
  assert str(caught.value).startswith(
    f'the loss or a gradient is not finite in phase {phase} of 0-2,'
    f' epoch 1 of {epochs}, {where} (records {names}): try'
  )


def test_first_bad_step_of_a_chunk_is_found(small_job, tmp_path):
  mesh = sharding.make_mesh(jax.devices()[:1])
  job = small_job(tmp_path, chunk_steps=4, training_buckets=1)
  state, chunks, arguments = _chunk_arguments(job, mesh)
  args, kwargs = arguments(state, chunks[0])
  assert chunks[0].num_steps == 4
  state, result = train_step.train_chunk(
    *args[:-1], math.inf * args[-1], **kwargs
  )
  assert int(result.bad_step) == 1
  args, kwargs = arguments(state, chunks[0])
  _, result = train_step.train_chunk(*args, **kwargs)
  assert int(result.bad_step) == 0


@pytest.fixture
def spoil(monkeypatch):
  """Makes a chunk bad, as long as a job has been restored so often."""

  def use(job, step, restores):
    train_chunk = train_step.train_chunk
    key = jax.random.fold_in(jax.random.key(job.seed), job.fold)
    keys = [
      jax.random.key_data(jax.random.fold_in(key, 1 + count)).tolist()
      for count in restores
    ]

    def spoilt(state, data, chunk, num_steps, key, *args, **kwargs):
      before = int(state.step)
      state, result = train_chunk(
        state, data, chunk, num_steps, key, *args, **kwargs
      )
      if before == step and jax.random.key_data(key).tolist() in keys:
        result = result._replace(bad_step=jnp.zeros_like(result.bad_step))
      return state, result

    monkeypatch.setattr(train_step, 'train_chunk', spoilt)

  return use


def _step_in_phase(undisturbed, phase):
  """Steps before the second chunk of a phase's last epoch."""
  rows = [r for r in undisturbed.result['metrics'] if int(r['phase']) == phase]
  done = int(rows[-2]['step'])
  befores = [int(chunk['before'].step) for chunk in undisturbed.chunks]
  return befores[befores.index(done) + 1]


def test_restored_training_keeps_what_was_and_draws_anew(
  undisturbed, small_job, train_job, read_result, tmp_path, spoil, capsys
):
  job = small_job(tmp_path, on_nan='restore')
  spoil(job, _step_in_phase(undisturbed, 2), [0])
  train_job(job)
  assert (
    'going back to the latest checkpoint, 1 of 3' in capsys.readouterr().err
  )
  found = read_result(job)
  assert found['progress'].restores == 1
  place = [
    [(row['phase'], row['epoch'], row['step']) for row in rows['metrics']]
    for rows in (found, undisturbed.result)
  ]
  assert place[0] == place[1]
  same = [
    row == other
    for row, other in zip(
      found['metrics'], undisturbed.result['metrics'], strict=True
    )
  ]
  # The checkpoint was that of the validation before.
  assert same == [True] * 7 + [False]


def test_restored_training_resumes_to_the_same_bits(
  undisturbed, small_job, train_job, read_result, tmp_path, spoil
):
  found = []
  # It is stopped where all checkpoints know of the restore, and steps follow.
  spoil(small_job(tmp_path), _step_in_phase(undisturbed, 0), [0])
  for name, stop_after in (('through', None), ('stopped', DISPATCHES - 2)):
    job = small_job(tmp_path / name, on_nan='restore')
    if stop_after is not None:
      assert not train_job(job, stop_after=stop_after)
    train_job(job)
    found.append(read_result(job))
  assert found[0] == found[1]


@pytest.mark.parametrize('on_nan', ['stop', 'restore'])
def test_restores_are_bounded(
  undisturbed, small_job, train_job, tmp_path, spoil, capsys, on_nan
):
  job = small_job(tmp_path, on_nan=on_nan)
  spoil(job, _step_in_phase(undisturbed, 0), range(9))
  with pytest.raises(TrainingError):
    train_job(job)
  told = capsys.readouterr().err.count('going back')
  assert told == (train_loop.MOST_RESTORES if on_nan == 'restore' else 0)


def test_weights_that_the_last_step_spoilt_are_not_kept(
  small_job, train_job, tmp_path
):
  job = small_job(tmp_path, phases=(optimizer.Phase('lstm', 1, math.inf),))
  # One step, whose loss is still finite.
  sets = {**job.sets, 'train': job.sets['train'][:1]}
  job = dataclasses.replace(job, sets=sets)
  with pytest.raises(
    TrainingError, match=r'validation loss is nan after .* epoch 1 of 1'
  ):
    train_job(job)
  assert not _read_checkpoints(job)


def _read_checkpoints(job):
  return [path.name for path in (job.folder / 'checkpoints').iterdir()]


# Averaged weights, weight decay, a schedule, parts of recordings.


@pytest.fixture
def regularised_job(small_job):
  """Makes a job of two phases with all that a newer recipe asks for."""

  def make(folder):
    job = small_job(folder, training_buckets=1)
    return dataclasses.replace(
      job,
      phases=tuple(
        optimizer.Phase(kind, 2, 1e-2, 'cosine', 0.5)
        for kind in ('auxiliary', 'all')
      ),
      regularisation=optimizer.Regularisation(
        weight_decay=0.1, average_decay=0.9
      ),
      max_samples=500,
      validate_every_epochs=1,
    )

  return make


def test_average_is_what_is_evaluated_kept_and_resumed(
  regularised_job, train_job, read_result, tmp_path, monkeypatch
):
  job = regularised_job(tmp_path / 'whole')
  rates, improved = [], []
  train_chunk, save = train_step.train_chunk, checkpoint.Checkpoints.save

  def recorded_chunk(*args, **kwargs):
    rates.append(float(args[-1]))
    return train_chunk(*args, **kwargs)

  def recorded_save(self, state, best, progress):
    if progress['epoch'] == progress['last_improvement']:
      improved.append(progress['epoch'])
      assert _bits(best) == _bits(state.average) != _bits(state.variables)
    save(self, state, best, progress)

  with monkeypatch.context() as patch:
    patch.setattr(train_step, 'train_chunk', recorded_chunk)
    patch.setattr(checkpoint.Checkpoints, 'save', recorded_save)
    train_job(job)
  assert improved
  bounds = job_lib.training_bounds(job)
  assert bounds[-1] < 900  # Half a thousand samples, slowed down.
  static = train_loop.static_arguments(
    job, job.phases[0], bounds[-1], sharding.make_mesh(jax.devices()[:1])
  )
  assert static['window'] == 500
  expected = []
  for index, phase in enumerate(job.phases):
    for epoch in range(1, phase.epochs + 1):
      chunks = job_lib.epoch_chunks(job, bounds, index, epoch)
      expected += job_lib.chunk_rates(phase, epoch, len(chunks))
  np.testing.assert_allclose(rates, expected, rtol=1e-6)
  assert 0 < min(rates) < 2e-3 < 8e-3 < max(rates) <= 1e-2
  # Stopped in each phase and started again, it ends the same.
  again = regularised_job(tmp_path / 'stopped')
  for stop_after in (len(rates) // 4, len(rates) // 3):
    again = dataclasses.replace(again, checkpoint_minutes=1e-9)
    assert not train_job(again, stop_after=stop_after)
  train_job(again)
  assert read_result(again) == read_result(job)


def test_weight_decay_shrinks_the_kernels(regularised_job, tmp_path):
  sizes = []
  for decay in (0.0, 3.0):
    job = regularised_job(tmp_path / str(decay))
    job = dataclasses.replace(
      job,
      regularisation=dataclasses.replace(
        job.regularisation, weight_decay=decay
      ),
    )
    mesh = sharding.make_mesh(jax.devices()[:1])
    state, chunks, arguments = _chunk_arguments(job, mesh)
    for chunk in chunks:
      args, kwargs = arguments(state, chunk)
      state, _ = train_step.train_chunk(*args, **kwargs)
    sizes.append(
      sum(
        float(np.abs(leaf).sum())
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if path[-1].key.startswith('kernel')
      )
    )
  assert sizes[1] < 0.99 * sizes[0]


def test_gradient_that_is_not_finite_is_bad_though_the_loss_is(
  small_job, tmp_path, monkeypatch
):
  mesh = sharding.make_mesh(jax.devices()[:1])
  job = small_job(tmp_path)
  state, chunks, arguments = _chunk_arguments(job, mesh)
  args, kwargs = arguments(state, chunks[0])
  losses = train_step.weighted_cross_entropy

  @jax.custom_jvp
  def steep(x):
    return x

  steep.defjvp(lambda values, tangents: (values[0], math.inf * tangents[0]))
  monkeypatch.setattr(
    train_step, 'weighted_cross_entropy', lambda *args: steep(losses(*args))
  )
  # The last test of the file: the others use what is compiled.
  train_step.train_chunk.clear_cache()
  _, result = train_step.train_chunk(*args, **kwargs)
  train_step.train_chunk.clear_cache()
  assert int(result.bad_step) == 0

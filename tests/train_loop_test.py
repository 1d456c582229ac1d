"""The training loop: phases, resuming, what decides the result."""

import copy
import csv
import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.errors import TrainingError
from ecg_jax.evaluation import eval_step
from ecg_jax.evaluation import sums as sums_lib
from ecg_jax.input_pipeline import device_data
from ecg_jax.models import forward
from ecg_jax.runs import checkpoint
from ecg_jax.runtime import platforms, sharding
from ecg_jax.training import (
  fold_run,
  learning_rate,
  optimizer,
  programs,
  train_loop,
  train_step,
)
from ecg_jax.training.job import Job, make_job
from ecg_jax.training.phases import Phase
from ecg_jax.training.progress import Progress
from tests.training_helpers import (
  compilations,
  make_group,
  put_data,
  spy,
  with_fields,
  with_model,
)

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
  compiled: list[tuple]
  """Of each program: its name, and whether ahead of its call."""


@pytest.fixture(scope='module')
def undisturbed(small_job, train_job, read_result, tmp_path_factory):
  """The result of the job that all tests vary, and how it came about."""
  job = small_job(tmp_path_factory.mktemp('undisturbed'))
  chunks, saves, evaluated, fetches = [], [], [], []

  def begin_chunk(state, data, chunk, learning_rate, *, train_step, mesh):
    chunks.append(
      {
        'kind': train_step.kind,
        'samples': chunk.bucket.samples,
        'learning_rate': float(learning_rate),
        'before': jax.device_get(state.saved()),
      }
    )

  def end_chunk(result, *_, **__):
    chunks[-1]['after'] = jax.device_get(result[0].saved())

  def record_save(_, state, best, progress):
    saves.append((*jax.device_get((state, best)), copy.deepcopy(progress)))

  def record_evaluation(*_, kind, **__):
    evaluated.append(kind)

  train_chunk = train_step.train_chunk
  train_chunk.clear_cache()
  eval_step.evaluate_chunk.clear_cache()
  with pytest.MonkeyPatch.context() as patch, compilations() as compiled:
    spy(patch, train_step, 'train_chunk', before=begin_chunk, after=end_chunk)
    spy(patch, eval_step, 'evaluate', before=record_evaluation)
    spy(patch, checkpoint.Checkpoints, 'save', before=record_save)
    spy(patch, sharding, 'fetch', before=fetches.append)
    train_job(job)
  programs = train_chunk._cache_size()
  result = read_result(job)
  return Recording(
    job,
    result,
    chunks,
    saves,
    evaluated,
    len(fetches),
    programs,
    compiled,
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


def _epochs(job, *, validated=False):
  """Phase and epoch of each row of metrics.csv, or of those validated."""
  return [
    (int(row['phase']), int(row['epoch']))
    for row in _read_rows(job)
    if row['validation_score'] or not validated
  ]


def _best(job):
  best = json.loads((job.folder / 'scores.json').read_text())['best']
  return best['phase'], best['epoch']


def _variables(state):
  return {'params': state.params, 'batch_stats': state.batch_stats}


def _bits(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_recordings_read_from_the_disk_give_the_same_bits(
  small_job, stored_dataset, train_job, read_result, tmp_path
):
  phases = (Phase('auxiliary', 3, 1e-2),)
  device = small_job(tmp_path / 'device', phases=phases, training_buckets=1)
  host = with_fields(device, folder=tmp_path / 'host', dataset=stored_dataset)
  assert train_job(device)
  with compilations() as compiled:
    assert train_job(host)
  assert read_result(host) == read_result(device)
  # Their arguments have other shapes, which are known ahead as well.
  own = [c for c in compiled if c[0].endswith('_chunk')]
  assert sorted(own) == [('evaluate_chunk', True), ('train_chunk', True)]


def _evaluate(job, variables, set_name):
  mesh = make_group().mesh
  return eval_step.evaluate(
    sharding.replicate(variables, mesh),
    put_data(job, mesh),
    job.sampler.evaluation_chunks(set_name),
    fold=job.fold,
    network=job.network,
    kind='all',
    mesh=mesh,
  )


# Resuming.


def test_run_saved_and_stopped_after_each_chunk_ends_the_same(
  undisturbed, small_job, train_job, read_result, tmp_path
):
  job = small_job(tmp_path, checkpoint_minutes=1e-9)
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


# Phases.


def test_each_phase_trains_all_that_is_its_own_and_nothing_else(undisturbed):
  for kind, names in undisturbed.job.network.model.trained.items():
    steps = [c for c in undisturbed.chunks if c['kind'] == kind]
    first, last = steps[0]['before'], steps[-1]['after']
    for state in (first, last):
      assert set(state.optimizer_state.mu) == set(names)
      assert set(state.optimizer_state.nu) == set(names)
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
    rate = phases[int(row['phase'])].learning_rate
    assert float(row['learning_rate']) == rate
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
      Phase('auxiliary', 2, 1e-2),
      Phase('lstm', 2, 2e-3),
      Phase('all', 2, 5e-4),
      Phase('all', 1, 5e-5),
    ),
  )
  befores, bests = {}, {}

  def record_chunk(state, _, __, learning_rate, *, train_step, mesh):
    place = train_step.kind, float(learning_rate)
    befores.setdefault(place, jax.device_get(state.saved()))

  def record_save(_, state, best, progress):
    bests[progress['phase']] = jax.device_get(best)
    improved = progress['epoch'] == progress['last_improvement']
    assert (_bits(best) == _bits(_variables(state))) == improved
    # Arrays of their own: the next step takes over the memory of the state.
    own, kept = (set(map(id, jax.tree.leaves(x))) for x in (state, best))
    assert own.isdisjoint(kept)

  spy(monkeypatch, train_step, 'train_chunk', before=record_chunk)
  spy(monkeypatch, checkpoint.Checkpoints, 'save', before=record_save)
  train_job(job)
  assert _best(job) == (2, 1)
  # Each phase has steps at its own learning rate, and no other.
  assert list(befores) == [
    (phase.kind, float(np.float32(phase.learning_rate))) for phase in job.phases
  ]
  for before, state in enumerate(list(befores.values())[1:]):
    assert _bits(_variables(state)) == _bits(bests[before])
    moments = jax.tree.leaves(state.optimizer_state)
    assert all(not np.any(leaf) for leaf in moments)


def test_auxiliary_network_is_never_the_result(
  small_job, train_job, tmp_path, score_as, monkeypatch
):
  """Of the equal scores after it, the earliest counts."""
  score_as(99.0, 99.0, 0.0, 0.0, 0.0)
  evaluated = []
  record = lambda *_, kind, **__: evaluated.append(kind)  # noqa: E731
  spy(monkeypatch, eval_step, 'evaluate', before=record)
  job = small_job(tmp_path)
  train_job(job)
  assert _best(job) == (1, 2)
  assert evaluated == ['auxiliary'] * 2 + ['all'] * 6


def test_carried_score_is_what_validating_again_gives(undisturbed):
  job = undisturbed.job
  _, best, progress = [s for s in undisturbed.saves if s[2]['phase'] == 1][-1]
  score = _evaluate(job, best, 'validation').scores['score']
  assert score == progress['best_score']
  later = [s[2] for s in undisturbed.saves if s[2]['phase'] == 2]
  assert all(after['best_score'] >= score for after in later)


# Validation and early stopping.


def test_every_phase_can_stop_early_and_ends_on_a_validated_epoch(
  undisturbed, small_job, train_job, tmp_path, score_as
):
  expected = [(0, 2), (0, 3), (1, 2), (2, 2), (2, 3)]
  assert _epochs(undisturbed.job, validated=True) == expected
  kinds = ('auxiliary', 'lstm', 'all')
  phases = tuple(Phase(kind, 9, 1e-3) for kind in kinds)
  job = small_job(tmp_path, phases=phases, patience_epochs=1)
  # Epoch 1 comes too soon for anything to be better than before.
  left = score_as(30.0, 30.0, 20.0, 20.0, 10.0)
  train_job(job)
  expected = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
  assert _epochs(job) == _epochs(job, validated=True) == expected
  assert not left
  assert _best(job) == (1, 1)


def test_an_improvement_in_time_prolongs_the_phase(
  small_job, train_job, tmp_path, score_as
):
  job = small_job(tmp_path, phases=(Phase('lstm', 9, 1e-3),), patience_epochs=3)
  score_as(10.0, 20.0, 20.0, 15.0)
  train_job(job)
  # Validated every second epoch; 4 is the best, so 7 is the last.
  assert _epochs(job, validated=True) == [(0, 2), (0, 4), (0, 6), (0, 7)]
  assert _best(job) == (0, 4)


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
  undisturbed, small_config, small_data, train_job, read_result, tmp_path
):
  rng = np.random.default_rng(0)
  dataset = small_data.dataset
  signal = dataset.signal.copy()
  classes = {version: c.copy() for version, c in dataset.classes.items()}
  for record in undisturbed.job.fold.sets['test']:
    start = dataset.offsets[record]
    end = start + dataset.lengths[record]
    signal[start:end] = rng.integers(-9999, 9999, end - start)
    for labels in classes.values():
      labels[record] = 3 - labels[record]
  garbage = dataclasses.replace(dataset, signal=signal, classes=classes)
  # The job is made of it too: sets, class weights and all.
  data = experiment.FoldedDataset(garbage, small_data.table)
  job = make_job(small_config, data, 0, tmp_path)
  train_job(job)
  found = read_result(job)
  for name in ('metrics', 'arrays', 'validation_predictions.csv'):
    assert found[name] == undisturbed.result[name]
  assert found['predictions.csv'] != undisturbed.result['predictions.csv']


def _in_bfloat16(job):
  return with_model(job, dtype=jnp.dtype('bfloat16'))


def test_bfloat16_trains_as_float32_does_within_its_rounding(
  small_job, train_job, read_result, tmp_path
):
  full = small_job(tmp_path / 'float32')
  full = dataclasses.replace(full, phases=full.phases[-1:])
  half = dataclasses.replace(_in_bfloat16(full), folder=tmp_path / 'bfloat16')
  losses, arrays = [], []
  for job in (full, half):
    train_job(job)
    found = read_result(job)
    arrays.append(found['arrays'])
    losses.append([float(row['train_loss']) for row in found['metrics']])
  assert arrays[0] != arrays[1]
  np.testing.assert_allclose(*losses, rtol=0.05)


def test_weights_predict_in_bfloat16_as_in_float32_within_its_rounding(
  undisturbed,
):
  _, best, _ = undisturbed.saves[-1]
  whole, half = (
    _evaluate(job, best, 'train').probabilities
    for job in (undisturbed.job, _in_bfloat16(undisturbed.job))
  )
  assert 0 < np.abs(half - whole).max() < 0.02
  assert np.ptp(whole, axis=0).max() > 0.05


def test_seed_and_fold_decide_the_first_weights_and_the_steps_keys(
  small_job, tmp_path, monkeypatch
):
  keys = []

  def end(state, *_, **__):
    keys.append(jax.random.key_data(state.key).tolist())
    raise StopIteration

  spy(monkeypatch, train_step, 'train_chunk', before=end)
  job, group = small_job(tmp_path), make_group()
  data = put_data(job, group.mesh)
  weights = []
  for name, fields in enumerate([{}, {}, {'seed': 1}, {'number': 1}]):
    one = with_fields(job, folder=tmp_path / str(name), **fields)
    weights.append(_bits(one.initial_variables()))
    with pytest.raises(StopIteration):
      train_loop.train_fold(one, group, data, position=0)
  for found in (keys, weights):
    assert found[0] == found[1]
    assert found[0] not in found[2:]
    assert found[2] != found[3]


# The step and the chunk.


class Program:
  """The program of a job's chunks, with a state of its own."""

  def __init__(self, job, kind='all', devices=1):
    self.mesh = sharding.make_mesh(jax.devices()[:devices])
    self.data = put_data(job, self.mesh)
    self.chunks = job.sampler.training_chunks(0, 1)
    phase = Phase(kind, 1, 1e-3)
    self.train_step = job.train_step(phase)
    self.learning_rate, key, variables, step = sharding.replicate(
      (
        np.float32(phase.learning_rate),
        jax.random.key(5),
        job.initial_variables(),
        np.int32(0),
      ),
      self.mesh,
    )
    self.state = fold_run.initial_state(job, phase, variables, step, key)

  def _arguments(self, chunk):
    chunk = device_data.put_chunk(chunk, self.mesh)
    static = {'train_step': self.train_step, 'mesh': self.mesh.abstract_mesh}
    return (self.state, self.data, chunk, self.learning_rate), static

  def train(self, chunk, rate=1.0):
    """Trains a chunk at so many times the learning rate."""
    args, static = self._arguments(chunk)
    self.state, result = train_step.train_chunk(
      *args[:-1], rate * args[-1], **static
    )
    return result

  def trace(self):
    args, static = self._arguments(self.chunks[0])
    return train_step.train_chunk.trace(*args, **static)

  def compile(self):
    return self.trace().lower().compile()


def _mean_losses(job, kind, devices):
  """Moments after the first step, and the loss of each chunk of an epoch."""
  program = Program(job, kind, devices)
  losses, first = [], None
  for chunk in program.chunks:
    steps = [1, chunk.num_steps - 1] if first is None else [chunk.num_steps]
    for part in _cut(chunk, steps):
      metrics, _ = program.train(part)
      losses.append(float(metrics.loss) / int(metrics.records))
      state = program.state
      first = first or jax.device_get((state.optimizer_state.mu, state.params))
  return first, losses


def _cut(chunk, counts):
  """The chunk as several of the same shape, of so many steps each."""
  parts, first = [], 0
  for count in counts:
    arrays = {
      name: np.roll(getattr(chunk, name), -first, axis=0)
      for name in ('records', 'starts', 'signal_lengths', 'lengths', 'mask')
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
  one, several = (_mean_losses(job, kind, count) for count in (1, devices))
  # The first moments after one step are a tenth of the gradients.
  (gradients, params), (others, other_params) = one[0], several[0]

  def check_gradient(a, b):
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()

  def check_array(a, b, gradient):
    # Where a gradient is mere rounding, Adam takes its sign all the same.
    clear = np.abs(gradient) > 1e-6
    np.testing.assert_allclose(a[clear], b[clear], rtol=1e-5, atol=1e-7)

  jax.tree.map(check_gradient, gradients, others)
  jax.tree.map(check_array, params, other_params, {**params, **gradients})
  np.testing.assert_allclose(one[1], several[1], rtol=1e-4)


@pytest.mark.parametrize('remat', [False, True])
def test_devices_send_gradients_and_statistics_once_and_nothing_else(
  small_job, tmp_path, remat
):
  job = with_model(small_job(tmp_path), remat=remat)
  program = Program(job, devices=2)
  state, text = program.state, program.compile().as_text()
  for other in ('all-gather', 'all-to-all', 'reduce-scatter', 'permute'):
    assert other not in text
  sums = re.findall(r'= (.*) all-reduce\(.*op_name="([^"]*)"', text)
  in_step = [shapes for shapes, name in sums if '/while/body/' in name]
  sent = sum(
    math.prod(map(int, dimensions.split(','))) if dimensions else 1
    for shapes in in_step
    for dimensions in re.findall(r'[fs]32\[([\d,]*)\]', shapes)
  )
  trained, _ = optimizer.split(state.params, job.network.model.trained['all'])
  channels = [mean.size for mean in jax.tree.leaves(state.batch_stats)[::2]]
  # The records; of each batch norm count and two sums, and their gradients;
  # the parameters' gradients and the loss.
  expected = 1 + sum(1 + 4 * count for count in channels)
  expected += sum(array.size for array in jax.tree.leaves(trained)) + 1
  assert sent == expected
  assert len(in_step) <= 2 * len(channels) + 2
  assert len(sums) - len(in_step) <= len(sums_lib.Sums._fields)


def test_step_goes_down_the_mean_weighted_loss_of_the_valid_rows(
  small_job, tmp_path
):
  job = small_job(tmp_path, batch_size=8, training_buckets=1)
  kind = 'auxiliary'
  program = Program(job, kind)
  chunk = dataclasses.replace(program.chunks[-1], num_steps=1)
  rows = device_data.put_chunk(chunk, program.mesh)
  batch = device_data.take_batch(program.data, rows, 0)
  valid = np.flatnonzero(batch.mask)
  weights = job.fold.weights[chunk.records[0][valid]]
  labels = np.asarray(batch.labels)[valid]
  assert len(valid) < len(batch.mask)
  assert len(set(labels)) > 1

  @jax.jit
  def mean_loss(params):
    logits, _ = forward.train_logits(
      job.network,
      {'params': params, 'batch_stats': program.state.batch_stats},
      batch,
      jax.random.fold_in(jax.random.key(5), 0),
      samples=chunk.bucket.samples,
      kind=kind,
    )
    exponentials = jnp.exp(logits[valid])
    share = exponentials[np.arange(len(valid)), labels]
    entropy = jnp.log(exponentials.sum(axis=1)) - jnp.log(share)
    return jnp.mean(entropy * weights)

  loss, gradients = jax.value_and_grad(mean_loss)(program.state.params)
  metrics, bad_step = program.train(chunk)
  assert int(bad_step) == -1
  assert int(metrics.records) == len(valid)
  assert float(metrics.loss) == pytest.approx(float(loss) * len(valid), 1e-4)
  # The first moments after one step are a tenth of the gradients.
  moments = program.state.optimizer_state.mu
  assert set(moments) == set(job.network.model.trained[kind])
  for name, tree in moments.items():
    leaves = map(jax.tree.leaves, (tree, gradients[name]))
    for found, expected in zip(*leaves, strict=True):
      scale = np.abs(expected).max() + 1e-6
      np.testing.assert_allclose(
        10 * found / scale, expected / scale, atol=1e-3
      )


@pytest.mark.parametrize('source', ['bursts', 'dropout', 'nothing'])
def test_each_step_draws_bursts_and_dropout_afresh(small_job, tmp_path, source):
  job = small_job(tmp_path, training_buckets=1)
  rate = 0.3 if source == 'dropout' else 0.0
  job = with_model(job, dropout_convolution=rate)
  bursts = job.network.augmentations if source == 'bursts' else ()
  job = with_fields(job, augmentations=bursts)
  program = Program(job, 'auxiliary')
  chunk = dataclasses.replace(program.chunks[0], num_steps=1)
  # The same records and weights each time: the rate is zero.
  results = [program.train(chunk, rate=0) for _ in range(4)]
  losses = {float(result.sums.loss) for result in results}
  assert len(losses) == (1 if source == 'nothing' else 4)


def test_steps_of_a_chunk_do_not_depend_on_how_it_is_cut(small_job, tmp_path):
  found = []
  for counts in ([2], [1, 1]):
    program = Program(small_job(tmp_path))
    full = next(chunk for chunk in program.chunks if chunk.num_steps == 2)
    confusion = 0
    for part in _cut(full, counts):
      metrics, _ = jax.device_get(program.train(part))
      confusion += metrics.confusion
      assert int(metrics.records) == part.mask[: part.num_steps].sum()
    assert int(program.state.step) == 2
    found.append((_bits(program.state.saved()), confusion.tolist()))
  assert found[0] == found[1]


def test_chunk_without_steps_changes_nothing(small_job, tmp_path):
  program = Program(small_job(tmp_path))
  before = _bits(program.state.saved())
  chunk = dataclasses.replace(program.chunks[0], num_steps=0)
  metrics, bad_step = program.train(chunk)
  assert _bits(program.state.saved()) == before
  assert int(bad_step) == -1
  assert not any(np.any(leaf) for leaf in metrics)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_program_for_a_gpu(small_job, tmp_path, monkeypatch, dtype):
  """Convolutions in the compute dtype, channels last; nothing of the host."""
  monkeypatch.setattr(platforms, 'platform', lambda: 'gpu')
  # Of its own, since what is traced for a CPU is kept.
  own = {'batch_norm_epsilon': 2e-3}
  job = with_model(small_job(tmp_path), dtype=jnp.dtype(dtype), **own)
  program = Program(job)
  text = program.trace().lower(lowering_platforms=('cuda',)).as_text()
  lines = text.splitlines()
  element = {'float32': 'f32', 'bfloat16': 'bf16'}[dtype]
  layouts = set()
  for line in (line for line in lines if 'stablehlo.convolution' in line):
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
  assert len(donated) == len(jax.tree.leaves(program.state))


def test_state_after_takes_the_memory_of_the_state_before(small_job, tmp_path):
  """And the compiled program copies no dataset."""
  program = Program(small_job(tmp_path))
  state, compiled = program.state, program.compile()
  signal = program.data.signal
  # All that has the dataset's size, and where it comes from.
  made = re.findall(
    rf' = s16\[{signal.size}\]\S* ([\w-]+)\(', compiled.as_text()
  )
  assert set(made) == {'parameter', 'get-tuple-element'}
  aliased = compiled.memory_analysis().alias_size_in_bytes
  assert aliased == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  program.train(program.chunks[0])
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


# The host.


def test_number_of_programs_is_that_of_buckets_and_kinds(undisturbed):
  seen = {(c['kind'], c['samples']) for c in undisturbed.chunks}
  assert len({samples for _, samples in seen}) == 2
  assert undisturbed.programs == len(seen)


def test_each_program_is_compiled_once_and_ahead_of_its_call(undisturbed):
  own = [c for c in undisturbed.compiled if c[0].endswith('_chunk')]
  # One bucket of evaluation, for each of the two networks.
  evaluations = len(set(undisturbed.evaluated))
  assert sorted(own) == [
    *[('evaluate_chunk', True)] * evaluations,
    *[('train_chunk', True)] * undisturbed.programs,
  ]


def test_what_is_compiled_ahead_is_what_is_left_to_run(undisturbed):
  job, place = undisturbed.job, 0
  used = [(c['kind'], c['samples']) for c in undisturbed.chunks]
  for phase, epoch in [*_epochs(job), (len(job.phases), 1)]:
    begun = Progress(phase=phase, begun=True, epoch=epoch - 1)
    finished = phase == len(job.phases)
    count = 0 if finished else len(job.sampler.training_chunks(phase, epoch))
    for chunk in range(count or 1):
      progress = dataclasses.replace(begun, chunk=chunk)
      trained, evaluated = [], set()
      for step, needed in programs.needed(job, progress):
        if isinstance(step, train_step.TrainStep):
          trained.append((step.kind, needed.bucket.samples))
        else:
          evaluated.add(step.kind)
      assert trained[:1] == used[place : place + 1]
      assert set(trained) == set(used[place:])
      assert evaluated == {'all', job.phases[min(phase, 2)].evaluated_as}
      place += 1
  assert place == len(used) + 1


def test_a_second_job_compiles_nothing(
  undisturbed, small_config, small_data, train_job, tmp_path
):
  job = make_job(small_config, small_data, 1, tmp_path)
  assert not np.array_equal(
    job.fold.sets['train'], undisturbed.job.fold.sets['train']
  )
  with compilations() as compiled:
    train_job(job)
  assert not compiled


def test_each_chunk_epoch_and_evaluation_is_fetched_once(undisturbed):
  # The stops between saves cover the run.
  assert len(undisturbed.chunks) + len(undisturbed.evaluated) == DISPATCHES
  # One more says at which step TensorBoard goes on.
  assert undisturbed.fetches == (
    len(undisturbed.chunks)
    + len(_read_rows(undisturbed.job))
    + len(undisturbed.evaluated)
    + 1
  )


def test_nothing_reaches_the_device_in_the_loop_unless_put_there(
  small_job, train_job, tmp_path, monkeypatch
):
  """The loop's own guard refuses what a step would take from the host."""

  def take_from_host(*_, **__):
    jnp.add(np.ones(3), 1)

  spy(monkeypatch, eval_step, 'evaluate', before=take_from_host)
  with pytest.raises(Exception, match='Disallowed host-to-device'):
    train_job(small_job(tmp_path))


def test_stop_in_the_last_validation_of_a_phase_begins_no_other(
  undisturbed, small_job, train_job, read_result, tmp_path, monkeypatch
):
  job, group = small_job(tmp_path), make_group()
  data = put_data(job, group.mesh)
  kinds, saved = [], []

  def record_chunk(*_, train_step, mesh):
    kinds.append(train_step.kind)

  def record_save(*args):
    saved.append(args[-1]['epoch'])

  def stop():
    return saved[-1:] == [3]

  with monkeypatch.context() as patch:
    spy(patch, train_step, 'train_chunk', before=record_chunk)
    spy(patch, checkpoint.Checkpoints, 'save', before=record_save)
    train_loop.train_fold(job, group, data, position=0, stop=stop)
  assert set(kinds) == {'auxiliary'}
  assert saved == [2, 3]
  train_job(job)
  assert read_result(job) == undisturbed.result


# Numbers go bad.


@pytest.mark.parametrize('phase', [0, 1])
def test_loss_that_is_not_finite_is_told_with_its_place(
  small_job, train_job, tmp_path, phase
):
  job = small_job(tmp_path)
  phases = list(job.phases)
  phases[phase] = dataclasses.replace(phases[phase], learning_rate=math.inf)
  job = dataclasses.replace(job, phases=tuple(phases))
  with pytest.raises(TrainingError) as caught:
    train_job(job)
  # The first step spoils the weights, and the second reports it.
  first, second = job.sampler.training_chunks(phase, 1)[:2]
  chunk, at, where = second, 0, 'chunk 2, step 1'
  if first.num_steps > 1:
    chunk, at, where = first, 1, 'chunk 1, step 2'
  positions = chunk.records[at][chunk.mask[at]]
  names = ', '.join(job.fold.dataset.records[index] for index in positions)
  epochs = job.phases[phase].epochs
  assert str(caught.value).startswith(
    f'the loss or a gradient is not finite in phase {phase} of 0-2,'
    f' epoch 1 of {epochs}, {where} (records {names}): try'
  )


def test_first_bad_step_of_a_chunk_is_found(small_job, tmp_path):
  program = Program(small_job(tmp_path, chunk_steps=4, training_buckets=1))
  chunk = program.chunks[0]
  assert chunk.num_steps == 4
  assert int(program.train(chunk, rate=math.inf).bad_step) == 1
  assert int(program.train(chunk).bad_step) == 0


@pytest.fixture
def spoil(monkeypatch):
  """Makes a chunk bad, as long as a job has been restored so often."""

  def use(job, step, restores):
    train_chunk = train_step.train_chunk
    keys = [
      jax.random.key_data(jax.random.fold_in(job.key(), 1 + count)).tolist()
      for count in restores
    ]

    def spoilt(state, *args, **kwargs):
      before = int(state.step)
      key = jax.random.key_data(state.key).tolist()
      state, result = train_chunk(state, *args, **kwargs)
      if before == step and key in keys:
        result = result._replace(bad_step=result.bad_step - result.bad_step)
      return state, result

    spoilt.lower = train_chunk.lower
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
  pairs = zip(found['metrics'], undisturbed.result['metrics'], strict=True)
  same = []
  for row, other in pairs:
    for name in ('phase', 'epoch', 'step'):
      assert row[name] == other[name]
    same.append(row == other)
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
  job = small_job(tmp_path, phases=(Phase('lstm', 1, math.inf),))
  # One step, whose loss is still finite.
  sets = {**job.fold.sets, 'train': job.fold.sets['train'][:1]}
  job = with_fields(job, sets=sets)
  with pytest.raises(
    TrainingError, match=r'validation loss is nan after .* epoch 1 of 1'
  ):
    train_job(job)
  assert not list((job.folder / 'checkpoints').iterdir())


# Averaged weights, weight decay, a schedule, parts of recordings.


@pytest.fixture
def regularised_job(small_job):
  """Makes a job of two phases with all that a newer recipe asks for."""

  def make(folder):
    return small_job(
      folder,
      training_buckets=1,
      phases=tuple(
        Phase(kind, 2, 1e-2, 'cosine', 0.5) for kind in ('auxiliary', 'all')
      ),
      weight_decay=0.1,
      average_decay=0.9,
      max_samples=500,
      validate_every_epochs=1,
    )

  return make


def test_average_is_what_is_evaluated_kept_and_resumed(
  regularised_job, train_job, read_result, tmp_path, monkeypatch
):
  job = regularised_job(tmp_path / 'whole')
  rates, improved = [], []

  def record_save(_, state, best, progress):
    if progress['epoch'] == progress['last_improvement']:
      improved.append(progress['epoch'])
      assert _bits(best) == _bits(state.average) != _bits(_variables(state))

  def record_chunk(*args, **_):
    rates.append(float(args[-1]))

  with monkeypatch.context() as patch:
    spy(patch, train_step, 'train_chunk', before=record_chunk)
    spy(patch, checkpoint.Checkpoints, 'save', before=record_save)
    train_job(job)
  assert improved
  [bucket] = job.sampler.buckets
  assert bucket.samples < 900  # Half a thousand samples, slowed down.
  assert bucket.window == 500
  expected = []
  for index, phase in enumerate(job.phases):
    for epoch in range(1, phase.epochs + 1):
      chunks = job.sampler.training_chunks(index, epoch)
      expected += learning_rate.chunk_rates(phase, epoch, len(chunks))
  np.testing.assert_allclose(rates, expected, rtol=1e-6)
  assert 0 < min(rates) < 2e-3 < 8e-3 < max(rates) <= 1e-2
  # Stopped in each phase and started again, it ends the same.
  again = regularised_job(tmp_path / 'stopped')
  for stop_after in (len(rates) // 4, len(rates) // 3):
    again = with_fields(again, checkpoint_minutes=1e-9)
    assert not train_job(again, stop_after=stop_after)
  train_job(again)
  assert read_result(again) == read_result(job)


def test_weight_decay_shrinks_the_kernels(regularised_job, tmp_path):
  sizes = []
  for decay in (0.0, 3.0):
    job = regularised_job(tmp_path / str(decay))
    program = Program(with_fields(job, weight_decay=decay))
    for chunk in program.chunks:
      program.train(chunk)
    arrays = jax.tree_util.tree_leaves_with_path(program.state.params)
    kernels = [x for path, x in arrays if path[-1].key.startswith('kernel')]
    sizes.append(sum(float(np.abs(kernel).sum()) for kernel in kernels))
  assert sizes[1] < 0.99 * sizes[0]


def test_gradient_that_is_not_finite_is_bad_though_the_loss_is(
  small_job, tmp_path
):
  job = small_job(tmp_path)

  @jax.custom_jvp
  def steep(x):
    return x

  steep.defjvp(lambda values, tangents: (values[0], math.inf * tangents[0]))
  loss = lambda *args: steep(job.network.loss(*args))  # noqa: E731
  program = Program(with_fields(job, loss=loss))
  assert int(program.train(program.chunks[0]).bad_step) == 0


def test_the_loss_of_the_network_is_trained_and_reported(small_job, tmp_path):
  job = small_job(tmp_path)
  tripled = lambda *args: 3 * job.network.loss(*args)  # noqa: E731
  found = []
  for one in (job, with_fields(job, loss=tripled)):
    program = Program(one)
    variables = one.initial_variables()
    trained = float(program.train(program.chunks[0]).sums.loss)
    moments = jax.tree.leaves(program.state.optimizer_state.mu)
    largest = max(float(np.abs(array).max()) for array in moments)
    scores = _evaluate(one, variables, 'validation').scores
    found.append((scores['loss'], trained, largest))
  (evaluated, *plain), (evaluated_by_own, *by_own) = found
  assert evaluated_by_own == pytest.approx(3 * evaluated, rel=1e-5)
  # Two steps, of which the second starts where AdamW's first ended.
  np.testing.assert_allclose(by_own, 3 * np.array(plain), rtol=0.05)

"""The benchmark: what it counts and weighs; nothing here is timed."""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.datasets import prepare
from ecg_jax.input_pipeline import buckets, sampler
from ecg_jax.runtime import sharding
from ecg_jax.training.job import make_job
from tests import helpers
from tests.training_helpers import put_data, spy
from tools import benchmark

ROOT = pathlib.Path(__file__).parents[1]
RATES = (
  'fixed_records_per_second',
  'ragged_records_per_second',
  'loop_efficiency',
  'evaluation_records_per_second',
  'real_share',
  'compile_seconds',
  'matmul_gflops',
  'model_gflops',
  'matmul_share',
  'peak_memory_bytes',
  'threads',
  'batch',
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
  """Runs in the repository, reads no dataset, leaves JAX's settings alone."""

  def refuse(*args, **kwargs):
    raise AssertionError('a dataset was read')

  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(prepare, 'prepare', refuse)
  monkeypatch.setattr(experiment, 'load_data', refuse)
  monkeypatch.setattr(jax.config, 'update', lambda name, value: None)
  monkeypatch.setattr(benchmark, 'FIXED_SAMPLES', 900)
  monkeypatch.setattr(benchmark, '_MATMUL_SIZE', 64)
  monkeypatch.setattr(benchmark, '_LEAST_SECONDS', 0.0)


@pytest.fixture
def lengths(tmp_path):
  path = tmp_path / 'lengths.txt'
  path.write_text('\n'.join(['900'] * 9 + ['700', '1500']))
  return path


def chunk(samples, lengths):
  """A chunk of one bucket; 0 stands for a masked row."""
  lengths = np.array(lengths, np.int32)
  steps = int((lengths > 0).any(axis=1).sum())
  bucket, none = buckets.Bucket(samples, samples), lengths * 0
  return sampler.Chunk(bucket, steps, none, none, lengths, lengths, lengths > 0)


def epoch():
  """Two buckets, a batch that is not full and a step that is empty."""
  return [
    chunk(100, [[100, 80], [90, 0]]),
    chunk(200, [[150, 200], [0, 0]]),
    chunk(100, [[60, 70], [0, 0]]),
  ]


# What is counted.


def test_rate_and_real_share_weigh_each_bucket_by_its_batches_in_an_epoch():
  """Masked rows count, empty steps do not."""
  short, long = found = benchmark.count_buckets('training', epoch())
  assert [dataclasses.astuple(b)[:6] for b in found] == [
    ('training', 100, 2, 3, 5, 400),
    ('training', 200, 2, 1, 2, 350),
  ]
  assert benchmark.real_share(found) == 750 / (3 * 2 * 100 + 1 * 2 * 200)
  short.seconds_per_step, long.seconds_per_step = 0.5, 2.0
  assert benchmark.records_per_second([short, long]) == 7 / (3 * 0.5 + 1 * 2.0)
  assert benchmark.records_per_second([long]) == 1.0


@pytest.mark.parametrize(
  ('steps', 'expected'),
  [
    (1, [(100, 1, 2), (200, 1, 2)]),
    (2, [(100, 2, 3), (200, 1, 2)]),
    (9, [(100, 2, 3), (200, 1, 2), (100, 1, 2)]),
  ],
)
def test_shortened_chunks_have_so_many_steps_a_bucket(steps, expected):
  found = benchmark.shorten(epoch(), steps)
  assert [
    (c.bucket.samples, c.num_steps, c.mask.sum()) for c in found
  ] == expected


def test_time_of_a_step_is_the_median_of_the_rounds():
  seconds = {100: 2.0, 200: 5.0}
  ran, looped = [], iter([12.0, 10.0, 11.0])

  def run(chunk):
    ran.append((chunk.bucket.samples, chunk.num_steps))
    return seconds[chunk.bucket.samples] * chunk.num_steps + 30 * (
      len(ran) == 5
    )

  def lower(chunk):
    ran.append((chunk.bucket.samples, 'lowered'))
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    return double.lower(jnp.zeros(chunk.bucket.samples))

  chunks, loop = epoch(), lambda chunks: next(looped)
  buckets, efficiency = benchmark.time_buckets(
    'training', chunks, run, lower=lower, steps=2, loop=loop
  )
  # Compiled, warmed with one step, then timed in three rounds.
  assert ran == [
    *[(100, 'lowered'), (100, 1), (200, 'lowered'), (200, 1)],
    *3 * [(100, 2), (200, 1)],
  ]
  # The result takes over the argument's memory.
  assert [bucket.memory_bytes for bucket in buckets] == [4 * 100, 4 * 200]
  assert [bucket.seconds_per_step for bucket in buckets] == [2.0, 5.0]
  assert efficiency == 9 / 11


def test_operations_are_those_of_convolutions_and_products():
  def function(x, kernel, matrix):
    x = jax.lax.conv_general_dilated(
      x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

    def step(carry, _):
      return carry @ matrix, None

    return jax.lax.scan(step, jnp.tanh(x[0, 0]), length=3)[0]

  jaxpr = jax.make_jaxpr(function)(
    jnp.ones((2, 8, 6, 3)), jnp.ones((5, 5, 3, 4)), jnp.ones((4, 4))
  )
  convolution = 2 * (2 * 4 * 3 * 4) * (5 * 5 * 3)
  assert benchmark.count_flops(jaxpr.jaxpr) == convolution + 3 * 2 * (3 * 4 * 4)


def test_operations_of_a_step_grow_with_its_batch(small_job, tmp_path):
  job = small_job(tmp_path)
  one = benchmark.step_flops(job.network, 1)
  assert one > 0
  assert benchmark.step_flops(job.network, 7) == 7 * one


def test_random_records_have_the_lengths_and_about_the_class_shares():
  found = benchmark.random_dataset(np.arange(1, 3001))
  assert found.signal.dtype == np.int16
  assert found.offsets[-1] + found.lengths[-1] == len(found.signal)
  shares = np.bincount(found.classes['v3'], minlength=4) / 3000
  expected = benchmark.CLASS_COUNTS / benchmark.CLASS_COUNTS.sum()
  np.testing.assert_allclose(shares, expected, atol=0.03)


def test_bare_program_and_loop_train_alike(small_job, tmp_path):
  job = small_job(tmp_path)
  mesh = sharding.make_mesh(jax.devices()[:1])
  data = put_data(job, mesh)
  chunks = job.sampler.training_chunks(0, 1)
  with (
    contextlib.closing(benchmark.Training(job, data, mesh)) as alone,
    contextlib.closing(benchmark.Training(job, data, mesh)) as looped,
  ):
    for one in chunks:
      alone.run(one)
    looped.loop(chunks)
  states = (
    jax.tree.leaves(training.fold.state.saved()) for training in (alone, looped)
  )
  for a, b in zip(*states, strict=True):
    np.testing.assert_array_equal(a, b)


# The command.


def run(*arguments):
  return benchmark.main(['benchmark.py', *map(str, arguments)])


def test_figures_are_plain_numbers_and_a_trace_is_left(
  lengths, tmp_path, capsys, monkeypatch
):
  dtypes = []
  spy(monkeypatch, benchmark, 'matmul_gflops', before=dtypes.append)
  path = tmp_path / 'figures.json'
  arguments = [*helpers.TINY, '--lengths', lengths, '--json', path]
  arguments += ['--profile', tmp_path / 'trace']
  arguments += ['--config.augmentation.max_samples=800']
  arguments += ['--config.dtype=bfloat16']
  assert run(*arguments, '--batch=3', '--steps=1') == 0
  found = json.loads(path.read_text())
  for name in RATES:
    assert type(found[name]) in (int, float), name
    assert found[name] > 0, name
  assert found['dataset_load_seconds'] == 0
  assert found['batch'] == 3
  # 11 records in 4 batches of 3 of the longest length used, 800.
  assert found['real_share'] == (9 * 800 + 700 + 800) / (4 * 3 * 800)
  assert found['matmul_share'] == found['model_gflops'] / found['matmul_gflops']
  assert dtypes == ['bfloat16']
  assert found['versions']['jax'] == jax.__version__
  programs = [bucket['program'] for bucket in found['buckets']]
  assert programs == ['training', 'fixed', 'evaluation']
  # Whole recordings, whatever the config takes of them.
  assert found['buckets'][1]['samples'] == benchmark.FIXED_SAMPLES == 900
  out = capsys.readouterr().out
  assert '| training   |     800 |     4 |      11 |' in out
  assert all(f'\n{name}: ' in out for name in RATES)
  names = [path.name for path in (tmp_path / 'trace').rglob('*')]
  assert any(name.endswith('.trace.json.gz') for name in names)


@pytest.mark.parametrize(('given', 'is_on'), [('on', True), ('off', False)])
def test_augmentation_and_profile_reach_the_measurement(
  lengths, tmp_path, monkeypatch, given, is_on
):
  seen = {}

  def measure(config, **kwargs):
    seen.update(kwargs, augmentation=config.augmentation)
    return {'buckets': []}

  monkeypatch.setattr(benchmark, 'benchmark', measure)
  monkeypatch.setattr(benchmark, 'format_report', str)
  arguments = ['--config=configs/crnn.py', f'--augmentation={given}']
  assert run(*arguments, '--profile', tmp_path / 'trace') == 0
  assert seen['augmentation'].resampling == is_on
  assert seen['augmentation'].bursts == is_on
  assert seen['profile'] == tmp_path / 'trace'
  assert seen['lengths'] is None


def test_threads_limit_the_pool_of_the_compiler_and_its_programs():
  program = (
    'import os, pathlib, jax\n'
    'import benchmark\n'
    'benchmark.use_threads(1)\n'
    'jax.devices()\n'
    "names = pathlib.Path('/proc/self/task').glob('*/comm')\n"
    "print(sum('XLAEigen' in name.read_text() for name in names))\n"
  )
  command = [sys.executable, '-c', program]
  assert subprocess.check_output(command, cwd=ROOT / 'tools') == b'1\n'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'No config given'),
    (['--config=configs/crnn.py', '--batch=0'], 'batch'),
    (['--config=configs/crnn.py', '--steps=x'], 'steps'),
    (['--config=configs/crnn.py', '--threads=999'], '--threads is 999'),
    (['--config=configs/crnn.py', '--augmentation=some'], 'augmentation'),
    (['--config=configs/crnn.py', '--length=f'], 'use --lengths'),
    (['--config=configs/crnn.py', '--lengths=none.txt'], 'none.txt'),
    (['--config=configs/crnn.py', '--json=tests'], 'is a folder'),
    (['--config=configs/crnn.py', '--json=README.md/f'], 'with --json'),
    (['--config=configs/crnn.py', '--profile=README.md/f'], 'with --profile'),
    (['--config=configs/crnn.py', 'FILE'], "Unknown argument 'FILE'"),
  ],
)
def test_what_cannot_be_used_is_told_in_one_sentence(
  arguments, message, refusal
):
  assert message in refusal(benchmark.main, 'benchmark.py', *arguments)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    *((x, 'cannot be used') for x in ('', '9000\nx\n', '0', f'{2**31}', '9.5')),
    ('9000\n63\n', '63 samples, less than one spectrogram window'),
  ],
)
def test_lengths_that_cannot_be_used(tmp_path, refusal, text, message):
  path = tmp_path / 'lengths.txt'
  path.write_text(text)
  arguments = [*helpers.TINY, '--lengths', path]
  assert message in refusal(benchmark.main, 'benchmark.py', *arguments)


def test_help_names_the_options(capsys):
  assert run('--help') == 0
  out = capsys.readouterr().out
  for name in ('config', 'lengths', 'threads', 'augmentation', 'profile'):
    assert f'--{name}: ' in out


def test_a_prepared_dataset_is_read(
  small_config, small_data, monkeypatch, tmp_path
):
  calls = []
  monkeypatch.setattr(prepare, 'prepare', lambda *a, **k: calls.append('made'))
  monkeypatch.setattr(
    experiment,
    'load_data',
    lambda configs: calls.append('read') or [small_data],
  )
  data, seconds = benchmark.load_data(small_config, None)
  assert (data, calls) == (small_data, ['made', 'read'])
  assert seconds > 0
  assert make_job(small_config, data, 0, tmp_path).fold.dataset is data.dataset

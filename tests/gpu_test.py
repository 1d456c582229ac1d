"""A GPU trains as a CPU does; skipped where there is none."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.configs import quickstart
from ecg_jax.datasets import schema
from ecg_jax.input_pipeline import device_data
from ecg_jax.runtime import sharding
from ecg_jax.training.job import make_job
from tools import benchmark

ROOT = pathlib.Path(__file__).resolve().parents[1]
LENGTHS = (3000, 2500, 2900, 2000, 2750, 3000, 2600, 2999)
STEPS = 3


def _train(device):
  """Losses of some steps, and all parameters before and after them."""
  config = quickstart.get_config()
  config.batch_size, config.buckets.training = len(LENGTHS), 1
  dataset = benchmark.random_dataset(np.array(LENGTHS))
  sets = dict.fromkeys(schema.SETS, dataset.records)
  data = experiment.FoldedDataset(dataset, {'folds': {'0': sets}})
  job = make_job(config, data, 0, pathlib.Path())
  mesh = sharding.make_mesh([device])
  arrays = device_data.put_dataset(
    job.fold.dataset, job.fold.label_version, mesh
  )
  training = benchmark.Training(job, arrays, mesh)
  run = training.fold
  # The same weights, not those that each platform draws to the last bit.
  drawn = jax.device_get(run.state.variables)
  rounded = jax.tree.map(lambda x: np.round(x, 4), drawn)
  run.state = sharding.replicate(
    dataclasses.replace(run.state, **rounded), mesh
  )

  def parameters():
    leaves = jax.tree.leaves(jax.device_get(run.state.params))
    return np.concatenate([leaf.ravel() for leaf in leaves])

  before, losses = parameters(), []
  for epoch in range(1, STEPS + 1):
    training.loop(job.sampler.training_chunks(0, epoch))
    losses.append(run.progress.loss - sum(losses))
  training.close()
  return losses, before, parameters()


def _compare():
  """What the tests look at, or None where JAX sees no GPU."""
  [cpu, *_] = jax.devices('cpu')
  try:
    [gpu, *_] = jax.devices('gpu')
  except RuntimeError:
    return None
  losses, before, after = _train(cpu)
  step = np.linalg.norm(after - before)
  found = {'cpu': losses}
  for precision in ('highest', 'default'):
    with jax.default_matmul_precision(precision):
      losses, _, first = _train(gpu)
      again, _, second = _train(gpu)
    found[precision] = {
      'losses': losses,
      'difference': float(np.linalg.norm(first - after) / step),
      'repeated': losses == again and bool((first == second).all()),
    }
  return found


@pytest.fixture(scope='module')
def found():
  if not shutil.which('nvidia-smi'):
    pytest.skip('no GPU')
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
  # The other tests are kept on the CPU.
  environment = {**os.environ, 'JAX_PLATFORMS': '', 'XLA_FLAGS': flags}
  done = subprocess.run(
    [sys.executable, '-m', 'tests.gpu_test'],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  if found is None:
    pytest.skip('no GPU that JAX sees')
  return found


def test_in_full_precision_it_is_the_same_training(found):
  exact = found['highest']
  np.testing.assert_allclose(exact['losses'], found['cpu'], rtol=1e-4)
  assert exact['difference'] < 0.01


def test_in_its_own_precision_the_losses_are_about_the_same(found):
  np.testing.assert_allclose(
    found['default']['losses'], found['cpu'], rtol=1e-2
  )


@pytest.mark.parametrize('precision', ['highest', 'default'])
def test_the_same_seed_gives_the_same_bits(found, precision):
  assert found[precision]['repeated']


if __name__ == '__main__':
  print(json.dumps(_compare()))

"""The environment changes neither a run, nor which runs are readable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecg_jax
from tests.helpers import TINY, run_python

COMMANDS = """
import pathlib, sys
import jax
from ecg_jax import evaluate, export, main, predict
from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.datasets.synthetic_ecg import synthetic_ecg_dataset_builder
import numpy as np
synthetic_ecg_dataset_builder.Builder.NUM_RECORDS = 60
print(jax.config.jax_enable_x64)
folder = pathlib.Path(sys.argv[1])
run = str(folder / 'run')
recording = str(folder / 'recording.npy')
np.save(recording, generator.generate_record(1, 3)[1])
out = ['--out', str(folder / 'out.csv'), '--plot', str(folder / 'plots')]
stated = ['--sampling_rate=300', '--units=counts']
assert not main.main(['main', *sys.argv[2:]])
assert not evaluate.main([run])
assert not predict.main([recording, '--run', run, *out, *stated])
assert not export.main([run, '--out', str(folder / 'exported')])
"""


def run_commands(folder, **environment):
  """Trains, evaluates, predicts and exports; name -> bytes of each result."""
  folder.mkdir()
  fields = {
    'data.name': 'synthetic_ecg',
    'data.data_dir': folder / 'data',
    'folds': '(0,)',
    'tensorboard': 'false',
  }
  done = run_python(
    COMMANDS,
    folder,
    *TINY,
    f'--workdir={folder}/run',
    *(f'--config.{name}={value}' for name, value in fields.items()),
    **environment,
  )
  names = (
    'run/fold0/predictions.csv',
    'run/evaluation_test_v3/fold0/predictions.csv',
    'out.csv',
    'plots/recording.png',
    'exported/predict_int16.bin',
  )
  results = {name: (folder / name).read_bytes() for name in names}
  with np.load(folder / 'exported' / 'weights.npz') as weights:
    results |= {name: weights[name].tobytes() for name in weights}
  return done.stdout.splitlines()[0], results


def test_commands_do_the_same_whatever_the_environment_says(tmp_path):
  enabled, found = run_commands(
    tmp_path / 'other', JAX_ENABLE_X64='1', JAX_DEFAULT_PRNG_IMPL='rbg'
  )
  plain, expected = run_commands(tmp_path / 'plain', JAX_ENABLE_X64='0')
  assert (enabled, plain) == ('True', 'False')
  assert [name for name in expected if found[name] != expected[name]] == []
  assert found.keys() == expected.keys()


@pytest.mark.parametrize('rate', [300, 500])
def test_a_model_in_a_program_of_wide_types(small_run, rate):
  rng = np.random.default_rng(0)
  counts = np.cumsum(rng.normal(0, 40, 4000)).astype(np.int16)
  options = {'sampling_rate': rate, 'units': 'counts'}
  expected = ecg_jax.load(small_run).predict(counts, **options)
  with jax.enable_x64(True):
    found = ecg_jax.load(small_run).predict(counts, **options)
    assert jnp.zeros(1).dtype == np.float64
  assert found.probabilities == expected.probabilities

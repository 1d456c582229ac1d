"""Fixtures shared by the tests, which all see four CPU devices."""

import csv
import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Sequence

import hypothesis
import jax
import ml_collections
import numpy as np
import pytest

from ecg_jax import experiment
from ecg_jax.datasets import folds, schema
from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.evaluation import eval_step
from ecg_jax.input_pipeline.dataset import Dataset, StoredSignal
from ecg_jax.runs import artifacts, checkpoint
from ecg_jax.training import fold_run, train_loop, train_step
from ecg_jax.training.job import Job, make_job
from ecg_jax.training.phases import Phase
from ecg_jax.training.progress import Progress
from tests import few_features, training_helpers

# Also where there is a GPU, and in the commands that tests start.
jax.config.update('jax_platforms', 'cpu')
os.environ['JAX_PLATFORMS'] = 'cpu'
jax.config.update('jax_num_cpu_devices', 4)
checkpoint.report_failed_saves_once()
# Small programs run for moments and compile for seconds.
jax.config.update('jax_disable_most_optimizations', True)
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')
# Other tests run beside, so the time that one takes says nothing.
hypothesis.settings.register_profile('ecg_jax', deadline=None)
hypothesis.settings.load_profile('ecg_jax')


_LONGEST = (
  *('killed_run', 'train_loop', 'export_onnx', 'fold_processes', 'multihost'),
  *('beats', 'trees_run', 'precision', 'experiment', 'main', 'extending'),
)
"""Files that take longest, which begin first, so that several processes end
together."""


def pytest_configure(config):
  config.option.loadscopereorder = False  # Of pytest-xdist.


def pytest_collection_modifyitems(items):
  names = [f'{name}_test' for name in _LONGEST]
  items.sort(key=lambda item: item.path.stem not in names)


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """Folder with the real records (training2017.zip, REFERENCE-v3.csv)."""
  folder = os.environ.get('ECG_JAX_REAL_DATA')
  if not folder:
    pytest.skip('ECG_JAX_REAL_DATA is not set')
  return pathlib.Path(folder)


@pytest.fixture
def refusal(capsys):
  """Runs a command that refuses its arguments; returns its one sentence."""

  def run(main, *arguments, prints=False):
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert (bool(out), err.count('\n')) == (prints, 1)
    return err

  return run


@pytest.fixture(scope='session')
def small_config() -> ml_collections.ConfigDict:
  """The quickstart's config, shrunk until a step takes milliseconds."""
  from ecg_jax.configs import quickstart

  config = quickstart.get_config()
  config.augmentation.resampling = config.augmentation.bursts = True
  config.spectrogram.window_samples = 64
  config.model.width = config.model.growth = 4
  config.model.blocks = 2
  config.model.layers_per_block = 1
  config.model.lstm_units = 4
  config.dropout.convolution = 0.0
  config.dropout.lstm = 0.2
  config.phases.kinds = ('auxiliary', 'lstm', 'all')
  config.phases.epochs = (3, 2, 3)
  config.phases.learning_rates = (1e-2, 2e-3, 5e-4)
  config.validate_every_epochs = 2
  config.buckets.training = 2
  config.buckets.evaluation = 1
  config.batch_size = 5
  config.evaluation_batch_size = 8
  config.chunk_steps = 2
  config.tensorboard = False
  return config


@pytest.fixture(scope='session')
def small_data() -> experiment.FoldedDataset:
  """Sixty short synthetic records and their division into two folds."""
  rng = np.random.default_rng(3)
  found = [generator.generate_record(0, index) for index in range(60)]
  signals = [signal[: rng.integers(400, 1200)] for _, signal, _ in found]
  lengths = np.array([len(signal) for signal in signals])
  spec = schema.CHALLENGE
  v3 = np.array([spec.classes.index(label) for _, _, label in found], np.int32)
  v2 = np.where(rng.random(60) < 0.2, rng.integers(0, 4, 60), v3)
  dataset = Dataset(
    records=tuple(name for name, _, _ in found),
    signal=np.concatenate(signals),
    offsets=np.cumsum(lengths) - lengths,
    lengths=lengths,
    classes={'v1': v2, 'v2': v2.astype(np.int32), 'v3': v3},
    spec=spec,
  )
  table = folds.make_folds(
    dataset.labels('v2'), num_folds=2, train_validation_parts=3
  )
  return experiment.FoldedDataset(dataset, table)


@pytest.fixture(scope='session')
def stored_dataset(small_data) -> Dataset:
  """The small dataset with its samples in two files, as it were."""
  dataset = small_data.dataset
  ends = dataset.offsets + dataset.lengths
  examples = [
    {'signal': dataset.signal[start:end]}
    for start, end in zip(dataset.offsets, ends, strict=True)
  ]
  signal = StoredSignal(
    (examples[::2], examples[1::2]),
    [(record % 2, record // 2) for record in range(len(examples))],
    dataset.offsets,
    dataset.lengths,
  )
  return dataclasses.replace(dataset, signal=signal)


@pytest.fixture(scope='session')
def small_job(small_config, small_data):
  """Makes a job of fold 0 in a folder; fields of it can be replaced."""

  def make(folder: pathlib.Path, **fields) -> Job:
    job = make_job(small_config, small_data, 0, folder)
    return training_helpers.with_fields(job, **fields)

  return make


@pytest.fixture(scope='session')
def train_job():
  """Trains a job on one device, to its end or for so many dispatches."""

  class Stopped(Exception):  # noqa: N818
    """Raised right after the last dispatch."""

  def run(job: Job, *, stop_after: int | None = None, device: int = 0) -> bool:
    group = training_helpers.make_group(device)
    data = training_helpers.put_data(job, group.mesh)
    count = itertools.count(1)

    def stop(*_, **__):
      if next(count) == stop_after:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
      training_helpers.spy(patch, train_step, 'train_chunk', after=stop)
      training_helpers.spy(patch, eval_step, 'evaluate', after=stop)
      try:
        train_loop.train_fold(job, group, data, position=0)
      except Stopped:
        return False
    return True

  return run


@pytest.fixture(scope='session')
def train_a_fold(small_data, train_job):
  """Trains fold 1 of a run, with these phases, and begins no other."""

  def run(folder: pathlib.Path, config, phases: Sequence[Phase]) -> None:
    config = config.copy_and_resolve_references()
    config.folds = (0, 1)
    config.data.folds_file = str(folder.with_name('folds.json'))
    folds.write_table(small_data.table, config.data.folds_file)
    dataset = small_data.dataset
    artifacts.begin_run(folder, config, small_data.digests(), dataset.spec)
    artifacts.write_labels(folder / 'labels.csv', dataset.all_labels())
    job = make_job(config, small_data, 1, folder)
    train_job(dataclasses.replace(job, phases=tuple(phases)))

  return run


@pytest.fixture(scope='session')
def small_run(small_config, train_a_fold, tmp_path_factory) -> pathlib.Path:
  """Folder of a run of which fold 1 is finished and fold 0 is not."""
  folder = tmp_path_factory.mktemp('runs') / 'small'
  # The last epochs are not the best, so that best and latest differ.
  rates = (5e-3, 10.0)
  train_a_fold(folder, small_config, [Phase('lstm', 2, rate) for rate in rates])
  return folder


@pytest.fixture(scope='session')
def trees_run(small_config, train_a_fold, tmp_path_factory) -> pathlib.Path:
  """Folder of a run with trees on few features, of which fold 1 is finished."""
  folder = tmp_path_factory.mktemp('runs_with_trees') / 'trees'
  config = small_config.copy_and_resolve_references()
  config.trees.update({'rounds': 4, 'leaves': 4, 'least_leaf_records': 2})
  config.trees.learning_rate = 0.5
  with few_features.instead():
    train_a_fold(folder, config, [Phase('lstm', 1, 5e-3)])
  return folder


@pytest.fixture(scope='session')
def read_result():
  """All that a job leaves but times and rates: files and kept arrays."""

  def read(job: Job) -> dict[str, object]:
    names = ('scores.json', 'predictions.csv', 'validation_predictions.csv')
    found: dict[str, object] = {
      name: (job.folder / name).read_text() for name in names
    }
    rows = csv.DictReader(io.StringIO((job.folder / 'metrics.csv').read_text()))
    timed = {'records_per_second', 'seconds'}
    found['metrics'] = [
      {name: row[name] for name in row.keys() - timed} for row in rows
    ]
    with checkpoint.Checkpoints(
      job.folder / 'checkpoints', job.settings
    ) as checkpoints:
      progress = Progress(**checkpoints.progress())
      group = training_helpers.make_group()
      state, best = fold_run.restore(job, group, checkpoints, progress)
    found['progress'] = progress
    arrays = jax.tree.leaves(jax.device_get((state.saved(), best)))
    found['arrays'] = [array.tobytes() for array in arrays]
    return found

  return read

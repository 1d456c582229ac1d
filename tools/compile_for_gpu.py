"""Compiles a config's programs for a GPU that need not be there, and counts.

    python tools/compile_for_gpu.py --config configs/crnn.py
      [--config.FIELD VALUE] [--gpu h200] [--devices 8] [--samples 9000,16000]

It compiles what a fold runs on the config's dataset, training and evaluation in
each length that batches are padded to, and prediction; with --samples, batches
of these lengths without a dataset. For each program it prints what a step
consists of: launches by their purpose, bytes that they read and write,
convolutions by kind, activations that are stored in another order, all-reduces;
and CUDA graphs, memory and the seconds to compile of the program. XLA compiles
for a described GPU on any machine with JAX's package for CUDA: `pip install
"jax[cuda13]"` beside requirements.txt, in an environment of its own (5 GB,
Python 3.12). It cannot tell the time of a step, nor which algorithms a GPU
would choose by timing them.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

os.environ['JAX_PLATFORMS'] = 'cpu'  # What runs meanwhile runs there.

import _path  # noqa: F401 - makes ecg_jax importable
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from ecg_jax import cli, configuration
from ecg_jax.errors import InputError
from ecg_jax.evaluation import tables
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.models import forward
from ecg_jax.prediction import ensemble
from ecg_jax.runtime import sharding
from ecg_jax.training import boosting, train_state, train_step
from ecg_jax.training import programs as training_programs
from ecg_jax.training.job import Job, make_job
from ecg_jax.training.programs import BeatFeatures, Evaluation
from ecg_jax.training.progress import Progress
from ecg_jax.training.train_step import TrainStep
from tools import benchmark, gpu_program

GPUS = {
  'h100': {
    'name': 'NVIDIA H100 80GB HBM3',
    'memory_bandwidth': 3_352_320_000_000,
    'device_memory_size': 84_929_347_584,
    'l2_cache_size': 52_428_800,
  },
  'h200': {
    'name': 'NVIDIA H200',
    'memory_bandwidth': 4_800_000_000_000,
    'device_memory_size': 150_754_820_096,
    'l2_cache_size': 62_914_560,
  },
}
"""What differs between the GPUs that can be compiled for; bytes, bytes/s."""

# XLA keeps libraries and loops out of CUDA graphs where it knows no driver.
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {memory_bandwidth}
  l2_cache_size: {l2_cache_size}
  clock_rate_ghz: 1.98
  device_memory_size: {device_memory_size}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 20 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""

_RANDOM_SAMPLES = 82_000_000
"""Of all random records, about as many as the challenge's have."""


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A program and what it was compiled to."""

  name: str
  """Such as 'training all, 9,000 samples'."""
  program: gpu_program.Program
  graphs: int
  """CUDA graphs of the whole chunk."""
  memory_bytes: float
  """Arguments, results and temporary arrays."""
  seconds: float
  """To compile it."""


def describe_mesh(gpu: str, devices: int) -> Mesh:
  """A mesh of described GPUs.

  Raises:
    InputError: JAX's package for CUDA is not installed.
  """
  try:
    topology = topologies.get_topology_desc(
      platform='cuda',
      target_config=_DESCRIPTION.format(**GPUS[gpu]),
      topology=f'1x1x{devices}',
    )
  except Exception as error:  # Whatever a missing plugin raises.
    reason = ' '.join(str(error).split())[:200]
    raise InputError(
      f'Programs for a GPU cannot be compiled here ({reason}): install'
      f' "jax[cuda13]=={jax.__version__}" into an environment of its own.'
    ) from error
  return sharding.make_mesh(topology.devices)


def find_job(config: ml_collections.ConfigDict, samples: int | None) -> Job:
  """The first fold of the config's dataset.

  With `samples`, of random records of this length instead, which is that of all
  batches, too.
  """
  lengths = None
  if samples is not None:
    lengths = np.full(max(1, _RANDOM_SAMPLES // samples), samples)
  data, _ = benchmark.load_data(config, lengths)
  job = make_job(config, data, config.folds[0], pathlib.Path())
  if samples is None:
    return job
  # A step resamples all the same, by a factor of 1.
  draws = dataclasses.replace(job.sampler, resampling=None, max_samples=None)
  return dataclasses.replace(job, sampler=draws)


def programs(job: Job, mesh: Mesh) -> Iterator[tuple[str, jax.stages.Lowered]]:
  """What a job runs, then what predicts from it, each with its name."""
  variables = jax.eval_shape(job.initial_variables)
  state = sharding.replicated(
    jax.eval_shape(
      functools.partial(
        train_state.begin_phase,
        trained=job.network.model.trained[job.phases[0].kind],
        averaged=job.optimizer.average_decay > 0,
      ),
      variables,
      jax.ShapeDtypeStruct((), jnp.int32),
      jax.eval_shape(job.key),
    ),
    mesh,
  )
  for name, (step, chunk) in _named(job).items():
    inputs = _placed_inputs(job.fold.dataset, chunk, mesh)
    yield name, training_programs.lower(job, step, state, inputs, mesh)
  one = sharding.make_mesh(mesh.devices.flat[:1].tolist())
  rows = job.sampler.evaluation_batch_size
  for samples in _windows(job.fold.dataset):
    batch = jax.eval_shape(
      ensemble.unlabeled_batch,
      jax.ShapeDtypeStruct((rows, samples), jnp.int16),
      jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    kept, beats = dict(variables), None
    if job.trees.rounds:
      kept['trees'] = boosting.empty(job.trees, job.network.num_classes)
      beats = jax.eval_shape(
        functools.partial(forward.beat_features_of, job.network), batch
      )
    with jax.sharding.use_abstract_mesh(one.abstract_mesh):
      lowered = ensemble.evaluate_batch.lower(
        job.network, sharding.replicated(kept, one), batch, beats
      )
    yield f'prediction, {samples:,} samples', lowered


def _windows(dataset: Dataset) -> list[int]:
  """Lengths that prediction pads recordings like these to, as an Ensemble."""
  longest = dataset.lengths.max()
  short = min(30 * dataset.spec.sampling_rate, longest)
  windows = np.where(dataset.lengths <= short, short, longest)
  return np.unique(windows).tolist()


def _named(job: Job) -> dict[str, tuple[training_programs.Step, Chunk]]:
  """Name -> one chunk of each program that a job runs; shortest first."""
  found = {}
  needed = training_programs.needed(job, Progress())
  for step, chunk in sorted(needed, key=lambda one: one[1].bucket):
    match step:
      case TrainStep():
        kind = f'training {step.kind}'
      case Evaluation():
        kind = f'evaluation {step.kind}' + ' with trees' * bool(step.trees)
      case BeatFeatures():
        kind = 'beat features'
    found[f'{kind}, {chunk.bucket.samples:,} samples'] = step, chunk
  return found


def _placed_inputs(
  dataset: Dataset, chunk: Chunk, mesh: Mesh
) -> tuple[device_data.DeviceData, Chunk]:
  """The dataset and a chunk on the devices, as shapes."""
  shape: Any = jax.ShapeDtypeStruct
  records = len(dataset.lengths)
  data = device_data.DeviceData(
    signal=shape((len(dataset.signal) + dataset.lengths.max(),), jnp.int16),
    offsets=shape((records,), jnp.int32),
    labels=shape((records,), jnp.int32),
    weights=shape((records,), jnp.float32),
  )
  num_steps: Any = np.int32(chunk.num_steps)
  chunk = dataclasses.replace(chunk, num_steps=num_steps)
  data, chunk = sharding.replicated((data, chunk), mesh)
  steps, rows = chunk.mask.shape
  size = steps, rows + -rows % mesh.size
  divided = NamedSharding(mesh, sharding.ROWS)
  placed = jax.tree.map(
    lambda x: shape(size, x.dtype, sharding=divided) if x.ndim else x, chunk
  )
  return data, placed


def compile_program(
  name: str, lowered: jax.stages.Lowered, options: dict[str, Any]
) -> Compiled:
  """Compiles a program, with these options of XLA, and reads what it became."""
  with tempfile.TemporaryDirectory() as folder:
    dump = {'xla_dump_to': folder, 'xla_dump_hlo_module_re': '.*'}
    begun = time.monotonic()
    compiled = lowered.compile(compiler_options=options | dump)
    seconds = time.monotonic() - begun
    # Written only if there are graphs.
    ends = '*.thunk_sequence_after_thunk_passes.txt'
    thunks = [path.read_text() for path in pathlib.Path(folder).glob(ends)]
  return Compiled(
    name,
    gpu_program.Program.parse(compiled.as_text() or ''),
    sum(text.count('kCommandBuffer') for text in thunks),
    benchmark.memory_bytes(compiled),
    seconds,
  )


def format_report(compiled: Sequence[Compiled]) -> str:
  """Formats a table of programs, and what each consists of."""
  header = ['program', *gpu_program.PURPOSES, 'launches', 'MB moved', 'graphs']
  header += ['MB memory', 'compile s']
  rows, details = [], []
  for one in compiled:
    counts, program = one.program.by_purpose(), one.program
    moved = sum(launch.times * launch.bytes for launch in program.launches)
    rows.append(
      [
        one.name,
        *map(str, counts.values()),
        str(sum(counts.values())),
        f'{moved / 1e6:,.0f}',
        str(one.graphs),
        f'{one.memory_bytes / 1e6:,.0f}',
        f'{one.seconds:.0f}',
      ]
    )
    details += ['', f'{one.name}:']
    details += [
      f'  {count} convolutions {kind}, window {window}, {dimensions}'
      for (kind, window, dimensions), count in program.convolutions().items()
    ]
    shapes = collections.Counter(i.shape for i in program.moved_activations())
    details += [
      f'  {count} stored in another order: {shape}'
      for shape, count in shapes.items()
    ]
    if reduces := program.all_reduces():
      sent = sum(reduce.bytes for reduce in reduces) / 1e6
      starts = sum('start' in reduce.opcode for reduce in reduces)
      details.append(
        f'  {len(reduces)} all-reduces of {sent:.1f} MB, {starts} asynchronous'
      )
  return '\n'.join([*tables.markdown_table(header, rows), *details])


@cli.command()
def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  values = configuration.define_flags()
  flags.DEFINE_enum(
    'gpu', 'h100', [*GPUS], 'GPU to compile for', flag_values=values
  )
  flags.DEFINE_integer(
    'devices', 1, 'GPUs of a job', lower_bound=1, flag_values=values
  )
  flags.DEFINE_list(
    'samples',
    None,
    'lengths of batches, in samples, of random records; default: those of the'
    " config's dataset",
    flag_values=values,
  )
  config = configuration.parse(values, argv)
  lengths = [None] if values.samples is None else _positive(values.samples)
  mesh = describe_mesh(values.gpu, values.devices)
  config.batch_size *= values.devices
  options = train_step.GRAPH_OPTIONS if config.cuda_graphs else {}
  compiled = []
  for samples in lengths:
    for name, lowered in programs(find_job(config, samples), mesh):
      compiled.append(compile_program(name, lowered, options))
      print(f'{name}: compiled', file=sys.stderr, flush=True)
  print(format_report(compiled))
  return 0


def _positive(texts: Sequence[str]) -> list[int]:
  """Reads lengths; else InputError."""
  for text in texts:
    if not text.isdecimal() or not int(text):
      raise InputError(
        f'--samples has {text!r}: give whole numbers above 0, like 9000,16000.'
      )
  return [int(text) for text in texts]


if __name__ == '__main__':
  sys.exit(main(sys.argv))

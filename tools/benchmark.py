"""Times the training and evaluation programs of a config on this machine.

    python tools/benchmark.py --config configs/crnn.py [--config.FIELD VALUE]
      [--lengths FILE] [--augmentation off] [--threads 2] [--json FILE]

It times what a run executes on one device, from the int16 samples on: the
programs of `ecg_jax.training` and `ecg_jax.evaluation`, the chunks of an epoch,
and the loop that dispatches them. Every program is compiled and runs one step
before it is timed. Only some steps of each bucket are timed, enough for a pass
of a few seconds; their mean is weighted by the bucket's batches in an epoch, so
a rate is that of a whole epoch.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import _path  # noqa: F401 - makes ecg_jax importable
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from jax.extend import core
from jax.sharding import Mesh

from ecg_jax import cli, configuration, experiment
from ecg_jax.datasets import prepare, schema
from ecg_jax.errors import InputError
from ecg_jax.evaluation import eval_step, tables
from ecg_jax.fields.data import DataFields
from ecg_jax.fields.group import flatten
from ecg_jax.input_pipeline import device_data
from ecg_jax.input_pipeline.dataset import Dataset
from ecg_jax.input_pipeline.sampler import Chunk
from ecg_jax.models import forward, preprocessing
from ecg_jax.models import variables as variables_lib
from ecg_jax.runs import artifacts
from ecg_jax.runs.checkpoint import Checkpoints
from ecg_jax.runtime import files, sharding, startup
from ecg_jax.runtime.device_groups import DeviceGroup
from ecg_jax.training import fold_run, log, train_step
from ecg_jax.training.job import Job, make_job
from ecg_jax.training.phases import Phase
from ecg_jax.training.programs import Programs
from ecg_jax.training.progress import Progress

FIXED_SAMPLES = 9000
"""Length of the records behind `fixed_records_per_second`: 30 s."""

CLASS_COUNTS = np.array([5076, 758, 2415, 279])
"""Challenge records per class, labels v3, order N, A, O, ~."""

_ROUNDS = 3  # minimum number of passes; their medians count
_LEAST_SECONDS = 5.0  # minimum duration of all passes together
_PASS_SECONDS = 15.0  # target for a pass; it has one step a bucket at least
_MATMUL_SIZE = 4096
_PROFILED_STEPS = 1  # in each of two chunks


@dataclasses.dataclass
class Bucket:
  """The batches of one length in an epoch, and their cost."""

  program: str
  """'training', 'fixed' or 'evaluation'."""
  samples: int
  """Length that signals are padded to."""
  batch_size: int
  steps: int
  """Batches in an epoch, partly filled ones included."""
  records: int
  valid_samples: int
  """Samples of the records, without any padding."""
  compile_seconds: float = math.nan
  memory_bytes: float = math.nan
  """Device memory of the program's arguments (the dataset included), results
  and temporary arrays."""
  seconds_per_step: float = math.nan


def count_buckets(program: str, chunks: Sequence[Chunk]) -> list[Bucket]:
  """The buckets of an epoch, shortest first, not timed yet."""
  buckets: dict[int, Bucket] = {}
  for chunk in sorted(chunks, key=lambda chunk: chunk.bucket.samples):
    new = Bucket(program, chunk.bucket.samples, chunk.mask.shape[1], 0, 0, 0)
    bucket = buckets.setdefault(chunk.bucket.samples, new)
    bucket.steps += chunk.num_steps
    bucket.records += int(chunk.mask.sum())
    bucket.valid_samples += int(chunk.lengths[chunk.mask].sum())
  return list(buckets.values())


def records_per_second(buckets: Sequence[Bucket]) -> float:
  """Valid records of an epoch / time of all its steps."""
  seconds = sum(bucket.steps * bucket.seconds_per_step for bucket in buckets)
  return sum(bucket.records for bucket in buckets) / seconds


def real_share(buckets: Sequence[Bucket]) -> float:
  """Valid samples / samples computed in an epoch, masked rows included."""
  computed = sum(b.steps * b.batch_size * b.samples for b in buckets)
  return sum(bucket.valid_samples for bucket in buckets) / computed


def shorten(chunks: Sequence[Chunk], steps: int) -> list[Chunk]:
  """The first chunks of each bucket, in order, with `steps` steps in all."""
  left = {chunk.bucket.samples: steps for chunk in chunks}
  shortened = []
  for chunk in chunks:
    count = min(chunk.num_steps, left[chunk.bucket.samples])
    left[chunk.bucket.samples] -= count
    if count:
      mask = chunk.mask.copy()
      mask[count:] = False
      shortened.append(dataclasses.replace(chunk, num_steps=count, mask=mask))
  return shortened


def time_buckets(
  program: str,
  chunks: Sequence[Chunk],
  run: Callable[[Chunk], float],
  *,
  lower: Callable[[Chunk], jax.stages.Lowered],
  steps: int | None,
  loop: Callable[[Sequence[Chunk]], float] | None = None,
) -> tuple[list[Bucket], float]:
  """Times the program of every bucket of an epoch.

  Args:
    program: Name of the program.
    chunks: The epoch.
    run: Runs a chunk alone, waits for it and returns the seconds.
    lower: Lowers the program of a chunk.
    steps: Steps to time per bucket; None for as many as _PASS_SECONDS allow.
    loop: Runs chunks as training does and returns the seconds.

  Returns:
    The buckets, and the loop's efficiency: the time of the chunks run one by
    one / the time of the loop; 1 without a loop.
  """
  buckets = count_buckets(program, chunks)
  first_steps = {chunk.bucket.samples: chunk for chunk in shorten(chunks, 1)}
  warm_seconds = 0.0
  for bucket in buckets:
    chunk = first_steps[bucket.samples]
    begun = time.perf_counter()
    compiled = lower(chunk).compile()  # JAX keeps it for `run`.
    bucket.compile_seconds = time.perf_counter() - begun
    bucket.memory_bytes = memory_bytes(compiled)
    warm_seconds += run(chunk)
    print(
      f'{program}, {bucket.samples:,} samples: compiled',
      file=sys.stderr,
      flush=True,
    )
  timed = shorten(chunks, steps or max(1, int(_PASS_SECONDS / warm_seconds)))
  alone: list[list[float]] = []
  looped: list[float] = []
  while len(alone) < _ROUNDS or np.sum(alone) < _LEAST_SECONDS:
    alone.append([run(chunk) for chunk in timed])
    if loop is not None:
      looped.append(loop(timed))
  seconds = np.median(alone, axis=0)
  for bucket in buckets:
    own = [chunk.bucket.samples == bucket.samples for chunk in timed]
    count = sum(c.num_steps for c, mine in zip(timed, own, strict=True) if mine)
    bucket.seconds_per_step = float(seconds[own].sum() / count)
  efficiency = seconds.sum() / np.median(looped) if looped else 1.0
  return buckets, float(efficiency)


def memory_bytes(compiled: jax.stages.Compiled) -> float:
  """Bytes of a program's arguments, results and temporary arrays."""
  sizes = compiled.memory_analysis()
  if sizes is None:  # Some compilers do not report it.
    return math.nan
  inputs = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
  # A result that reuses an argument's memory needs none of its own.
  return inputs + sizes.output_size_in_bytes - sizes.alias_size_in_bytes


class Training:
  """The loop and the programs of a phase that trains all parameters."""

  def __init__(self, job: Job, data: device_data.Data, mesh: Mesh):
    phase = Phase('all', 1, 1e-3)
    job = dataclasses.replace(job, phases=(phase,))
    variables, key = sharding.replicate(
      (jax.jit(job.initial_variables)(), jax.random.key(job.seed)), mesh
    )
    self.rate = sharding.replicate(np.float32(phase.learning_rate), mesh)
    cuda_graphs = job.loop.cuda_graphs
    self.program = train_step.chunk_program(cuda_graphs=cuda_graphs)
    self.static = {
      'train_step': job.train_step(phase),
      'mesh': mesh.abstract_mesh,
    }
    self.context = contextlib.ExitStack()
    folder = self.context.enter_context(tempfile.TemporaryDirectory())
    progress, group = Progress(), DeviceGroup(mesh)
    self.fold = fold_run.FoldRun(
      job,
      group,
      device_data.with_weights(data, job.fold.weights, mesh),
      self.context.enter_context(
        Checkpoints(pathlib.Path(folder), {}, read_only=True)
      ),
      progress,
      fold_run.initial_state(
        job, phase, variables, sharding.replicate(np.int32(0), mesh), key
      ),
      variables,
      self.context.enter_context(
        log.open_log(job, progress, 1, 0, enabled=False)
      ),
      Programs(group, 1),  # None ahead: each is timed.
    )

  def close(self) -> None:
    """Removes its temporary folder."""
    self.context.close()

  def lower(self, chunk: Chunk) -> jax.stages.Lowered:
    """Lowers the program of the chunk's bucket."""
    return self.program.lower(
      self.fold.state, *self._inputs(chunk), self.rate, **self.static
    )

  def run(self, chunk: Chunk) -> float:
    """Runs the bare program, its chunk on the device already; seconds."""
    inputs = jax.block_until_ready(self._inputs(chunk))
    begun = time.perf_counter()
    self.fold.state, _ = jax.block_until_ready(
      self.program(self.fold.state, *inputs, self.rate, **self.static)
    )
    return time.perf_counter() - begun

  def _inputs(self, chunk: Chunk) -> tuple[device_data.DeviceData, Chunk]:
    [inputs] = device_data.feed(self.fold.data, [chunk], self.fold.group.mesh)
    return inputs

  def loop(self, chunks: Sequence[Chunk]) -> float:
    """Runs the loop that trains a fold; seconds."""
    begun = time.perf_counter()
    for work in self.fold.feed(chunks, [1e-3] * len(chunks)):
      self.fold.dispatch(work)
    self.fold.fetch_all()
    return time.perf_counter() - begun


def read_lengths(path: pathlib.Path) -> np.ndarray:
  """Reads a file with one length per line, in samples.

  Raises:
    InputError: The file cannot be read or used.
  """
  try:
    lengths = [int(line) for line in path.read_text('utf-8').split()]
    if not lengths or min(lengths) < 1 or sum(lengths) >= 2**31:
      raise ValueError('none, one below 1, or 2,147,483,648 samples in all')
  except (OSError, ValueError) as error:
    raise InputError(
      f'--lengths {path} cannot be used ({error}): give a file with one length'
      ' in samples a line.'
    ) from error
  return np.array(lengths)


def random_dataset(lengths: np.ndarray) -> Dataset:
  """Noise of these lengths, labeled with the challenge's class frequencies."""
  rng = np.random.default_rng(0)
  shares = CLASS_COUNTS / CLASS_COUNTS.sum()
  classes = rng.choice(4, size=len(lengths), p=shares).astype(np.int32)
  return Dataset(
    records=tuple(f'random{index:08d}' for index in range(len(lengths))),
    signal=rng.integers(-1000, 1000, lengths.sum(), dtype=np.int16),
    offsets=np.cumsum(lengths) - lengths,
    lengths=lengths,
    classes=dict.fromkeys(schema.CHALLENGE.label_versions, classes),
    spec=schema.CHALLENGE,
  )


def load_data(
  config: ml_collections.ConfigDict, lengths: np.ndarray | None
) -> tuple[experiment.FoldedDataset, float]:
  """The data, and the seconds it took to read them once they were prepared.

  With `lengths`, random records instead, all in every set, and 0 seconds.
  """
  if lengths is not None:
    dataset = random_dataset(lengths)
    experiment.check_lengths(dataset, config)
    sets = dict.fromkeys(schema.SETS, dataset.records)
    table = {'folds': {str(config.folds[0]): sets}}
    return experiment.FoldedDataset(dataset, table), 0.0
  prepare.prepare(DataFields.of(flatten(config)))
  begun = time.perf_counter()
  [data] = experiment.load_data([config])
  return data, time.perf_counter() - begun


def count_flops(jaxpr: Any) -> int:
  """Counts the floating-point operations of convolutions and matrix products.

  They follow from the shapes, two for each multiply-add; a scan's body counts
  once per iteration.
  """
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      inner = math.prod(shape[axis] for axis in contracted)
      total += 2 * equation.outvars[0].aval.size * inner
    elif name == 'conv_general_dilated':
      kernel = equation.invars[1].aval
      channels_out = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
      inner = kernel.size // channels_out
      total += 2 * equation.outvars[0].aval.size * inner
    else:
      inside = [count_flops(sub) for sub in core.jaxprs_in_params(params)]
      # Only one branch runs.
      inside = [max(inside)] if name == 'cond' else inside
      total += sum(inside) * params.get('length', 1)
  return total


def step_flops(network: forward.Network, batch_size: int) -> int:
  """Operations of a fixed training step: three times the model's forward pass.

  The gradients with respect to the input and to the weights cost as much as the
  layer each. That the first layer needs only one of them is ignored.
  """
  bins = network.spectrogram.bins
  frames = preprocessing.num_frames(FIXED_SAMPLES, network.spectrogram)
  # A type in which no convolution takes a form that computes zeros as well.
  config = dataclasses.replace(network.model.config, dtype=jnp.float16)
  model = network.model.clone(config=config)
  variables = jax.eval_shape(
    lambda: variables_lib.initialise(model, jax.random.key(0), bins)
  )
  traced = jax.make_jaxpr(
    lambda *arrays: model.apply(*arrays, train=False, kind='all')
  )(
    variables,
    jax.ShapeDtypeStruct((batch_size, frames, bins), jnp.float32),
    jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  )
  return 3 * count_flops(traced.jaxpr)


def matmul_gflops(dtype: str) -> float:
  """GFLOP/s of a plain matrix product of this dtype here, the best of five."""
  x = jax.random.normal(jax.random.key(0), (_MATMUL_SIZE, _MATMUL_SIZE), dtype)
  product = jax.jit(jnp.matmul)
  seconds = []
  for _ in range(6):  # The first compiles.
    begun = time.perf_counter()
    jax.block_until_ready(product(x, x))
    seconds.append(time.perf_counter() - begun)
  return 2 * _MATMUL_SIZE**3 / min(seconds[1:]) / 1e9


def peak_memory_bytes() -> int:
  """Peak memory in use so far: the device's, on a CPU the process's."""
  stats = jax.devices()[0].memory_stats()
  if stats:
    return int(stats['peak_bytes_in_use'])
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def use_threads(count: int) -> None:
  """Restricts the process to `count` cores.

  XLA starts a thread for each usable core when a device is first used, so this
  must come before.

  Raises:
    InputError: The process has fewer cores.
  """
  cores = sorted(os.sched_getaffinity(0))
  if count > len(cores):
    raise InputError(
      f'--threads is {count}: this process can use at most {len(cores)}.'
    )
  os.sched_setaffinity(0, cores[:count])


def fixed_length_job(job: Job) -> Job:
  """The same job on one chunk of full batches of FIXED_SAMPLES records."""
  records = np.arange(job.sampler.batch_size * job.sampler.chunk_steps)
  dataset = random_dataset(np.full(len(records), FIXED_SAMPLES))
  sets = {'train': records, 'validation': records[:0]}
  fold = dataclasses.replace(
    job.fold,
    dataset=dataset,
    sets=sets,
    weights=np.ones(len(records), np.float32),
  )
  draws = dataclasses.replace(
    job.sampler,
    lengths=dataset.lengths,
    sets=sets,
    repeats=None,
    max_samples=None,
    resampling=None,  # A step resamples all the same, by a factor of 1.
  )
  return dataclasses.replace(job, fold=fold, sampler=draws)


def benchmark(
  config: ml_collections.ConfigDict,
  *,
  lengths: np.ndarray | None,
  steps: int | None,
  profile: pathlib.Path | None,
) -> dict[str, Any]:
  """Measures everything.

  Args:
    config: The config; its first fold is measured.
    lengths: Lengths of random records to use instead of the dataset, in
      samples, or None.
    steps: Steps to time per bucket, or None for as many as fit.
    profile: Folder for a trace of a few fixed steps, or None.

  Returns:
    The content of the file that --json writes.
  """
  data, load_seconds = load_data(config, lengths)
  job = make_job(config, data, config.folds[0], pathlib.Path())
  mesh = sharding.make_mesh(jax.devices()[:1])
  arrays = device_data.put_dataset(
    job.fold.dataset, job.fold.label_version, mesh
  )
  with contextlib.closing(Training(job, arrays, mesh)) as training:
    ragged, efficiency = time_buckets(
      'training',
      job.sampler.training_chunks(0, 1),
      training.run,
      lower=training.lower,
      steps=steps,
      loop=training.loop,
    )

  fixed_job = fixed_length_job(job)
  chunks = fixed_job.sampler.training_chunks(0, 1)
  fixed_arrays = device_data.put_dataset(
    fixed_job.fold.dataset, job.fold.label_version, mesh
  )
  with contextlib.closing(Training(fixed_job, fixed_arrays, mesh)) as training:
    fixed, _ = time_buckets(
      'fixed', chunks, training.run, lower=training.lower, steps=steps
    )
    if profile is not None:
      with jax.profiler.trace(str(profile)):
        training.loop(shorten(chunks, _PROFILED_STEPS) * 2)

  variables = training.fold.state.variables
  evaluated: dict[str, Any] = {'network': job.network, 'kind': 'all'}

  def evaluate_alone(chunk):
    begun = time.perf_counter()
    eval_step.evaluate(
      variables, arrays, [chunk], fold=job.fold, mesh=mesh, **evaluated
    )
    return time.perf_counter() - begun

  def lower_evaluation(chunk):
    [inputs] = device_data.feed(arrays, [chunk], mesh)
    return eval_step.evaluate_chunk.lower(
      variables, *inputs, mesh=mesh.abstract_mesh, **evaluated
    )

  evaluation, _ = time_buckets(
    'evaluation',
    job.sampler.evaluation_chunks('validation'),
    evaluate_alone,
    lower=lower_evaluation,
    steps=steps,
  )

  flops = step_flops(job.network, config.batch_size)
  model = flops / fixed[0].seconds_per_step / 1e9
  matmul = matmul_gflops(config.dtype)
  buckets = [*ragged, *fixed, *evaluation]
  return {
    'fixed_records_per_second': records_per_second(fixed),
    'ragged_records_per_second': records_per_second(ragged) * efficiency,
    'loop_efficiency': efficiency,
    'evaluation_records_per_second': records_per_second(evaluation),
    'real_share': real_share(ragged),
    'dataset_load_seconds': load_seconds,
    'compile_seconds': sum(bucket.compile_seconds for bucket in buckets),
    'matmul_gflops': matmul,
    'model_gflops': model,
    'matmul_share': model / matmul,
    'peak_memory_bytes': peak_memory_bytes(),
    'threads': len(os.sched_getaffinity(0)),
    'batch': config.batch_size,
    'resampling': config.augmentation.resampling,
    'bursts': config.augmentation.bursts,
    'dtype': config.dtype,
    'device': jax.devices()[0].device_kind,
    'versions': artifacts.versions(),
    'commit': artifacts.commit(),
    'buckets': [dataclasses.asdict(bucket) for bucket in buckets],
  }


def format_report(results: dict[str, Any]) -> str:
  """Formats the result of `benchmark`: a table of programs, then the rest."""
  header = ['program', 'samples', 'steps', 'records', '% real', 'compile s']
  header += ['MB', 's / step', 'records / s']
  rows = [
    [
      bucket.program,
      f'{bucket.samples:,}',
      f'{bucket.steps:,}',
      f'{bucket.records:,}',
      f'{100 * real_share([bucket]):.1f}',
      f'{bucket.compile_seconds:.1f}',
      f'{bucket.memory_bytes / 1e6:,.0f}',
      f'{bucket.seconds_per_step:.4f}',
      f'{records_per_second([bucket]):.2f}',
    ]
    for bucket in (Bucket(**fields) for fields in results['buckets'])
  ]
  lines = [*tables.markdown_table(header, rows), '']
  for name, value in results.items():
    if isinstance(value, dict):
      value = ', '.join(f'{key} {version}' for key, version in value.items())
    if isinstance(value, float):
      value = f'{value:,.3f}'
    if not isinstance(value, list):
      lines.append(f'{name}: {value}')
  return '\n'.join(lines)


@cli.command()
def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  values = configuration.define_flags()
  for name, explanation in {
    'lengths': 'file with one length per line, in samples: random records of'
    ' these lengths replace the dataset',
    'profile': 'folder for a trace that TensorBoard or Perfetto opens',
    'json': 'file for the results',
  }.items():
    flags.DEFINE_string(name, None, explanation, flag_values=values)
  for name, explanation in {
    'batch': "records of a training batch; default the config's",
    'steps': 'steps to time per bucket; default: a few seconds of them',
    'threads': 'cores to use; default: all',
  }.items():
    flags.DEFINE_integer(
      name, None, explanation, lower_bound=1, flag_values=values
    )
  flags.DEFINE_enum(
    'augmentation',
    'on',
    ['on', 'off'],
    "'on': as in the config; 'off': none",
    flag_values=values,
  )
  config = configuration.parse(values, argv)
  if values.batch is not None:
    config.batch_size = values.batch
  if values.augmentation == 'off':
    config.augmentation.resampling = config.augmentation.bursts = False
  lengths, profile, out = (
    pathlib.Path(value).expanduser() if value else None
    for value in (values.lengths, values.profile, values.json)
  )
  if profile is not None:
    files.check_writable(profile, '--profile')
  if out is not None:
    files.check_writable(out.parent, '--json')
    if out.is_dir():
      raise InputError(f'--json {out} is a folder: name a file.')
  if values.threads is not None:
    use_threads(values.threads)
  # A cached program would compile in no time.
  jax.config.update('jax_enable_compilation_cache', False)
  results = benchmark(
    config,
    lengths=None if lengths is None else read_lengths(lengths),
    steps=values.steps,
    profile=profile,
  )
  print(format_report(results))
  if out is not None:
    content = json.dumps(results, indent=2) + '\n'
    files.write_atomically(out, content.encode())
  return 0


if __name__ == '__main__':
  startup.restart_in_huge_pages()
  sys.exit(main(sys.argv))

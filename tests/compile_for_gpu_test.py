"""Compiling for a GPU that is not there, and reading what comes out."""

import dataclasses
import importlib.util
import os
import pathlib
import subprocess

import jax
import numpy as np
import pytest

from ecg_jax.errors import InputError
from ecg_jax.prediction import ensemble
from ecg_jax.runtime import sharding
from ecg_jax.training import train_loop
from ecg_jax.training.phases import Phase
from tests.training_helpers import (
  compilations,
  make_group,
  put_data,
  with_fields,
)
from tools import compile_for_gpu, gpu_program

ROOT = pathlib.Path(__file__).resolve().parents[1]
PHASES = (Phase('lstm', 1, 1e-3),)

TEXT = """\
HloModule jit_train_chunk, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%frame (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]{0}) parameter(0)
  %h = f32[4]{0} get-tuple-element(%state), index=1
  %cell = f32[4]{0} fusion(%h), kind=kLoop, calls=%x, metadata={op_name="lstm/layer_0/add"}
  ROOT %out = (s32[], f32[4]{0}) tuple(%h, %cell)
}

%step (carry: (s32[], f32[4])) -> (s32[], f32[4]) {
  %carry = (s32[], f32[4]{0}) parameter(0)
  %x = bf16[20,8,6,32]{3,2,1,0} get-tuple-element(%carry), index=1
  %k = bf16[32,5,5,32]{3,2,1,0} get-tuple-element(%carry), index=2
  %conv = (bf16[20,8,6,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=5x5 pad=2_2x2_2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="convolutions/block_0"}
  %y = bf16[20,8,6,32]{3,2,1,0} get-tuple-element(%conv), index=0
  %grad = (bf16[32,5,5,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=5x5 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %copy.7 = f32[1024,1024]{1,0} copy(%y)
  %small.copy = f32[4]{0} copy(%y)
  %all-reduce-start.1 = f32[4]{0} all-reduce-start(%small.copy), to_apply=%add
  %all-reduce-done.1 = f32[4]{0} all-reduce-done(%all-reduce-start.1)
  %loop = (s32[], f32[4]{0}) while(%carry), condition=%c, body=%frame, backend_config={"known_trip_count":{"n":"18"}}
  ROOT %next = (s32[], f32[4]{0}) tuple(%loop)
}

ENTRY %main (arg: f32[4]) -> f32[4] {
  %arg = f32[4]{0} parameter(0)
  %before = f32[4]{0} copy(%arg)
  %chunk = (s32[], f32[4]{0}) while(%before), condition=%c, body=%step
  ROOT %result = f32[4]{0} get-tuple-element(%chunk), index=1
}
"""  # noqa: E501 - as XLA prints it


def test_what_runs_in_a_step_is_counted():
  program = gpu_program.Program.parse(TEXT)
  counts = program.by_purpose()
  # Not what is outside of the loop over steps; a frame as often as it runs.
  assert sum(counts.values()) == 2 + 2 + 1 + 18
  assert counts['LSTM'] == 18
  assert counts['convolutions'] == 2
  assert counts['all-reduces'] == 1
  assert program.convolutions() == {
    ('forward', '5x5', 'b01f_o01i->b01f'): 1,
    ('by kernel', '5x5 stride 2x2', 'b01f_o01i->b01f'): 1,
  }
  assert [i.name for i in program.moved_activations()] == ['copy.7']
  assert [i.bytes for i in program.all_reduces()] == [16]
  forward = program.launches[0]
  activation, kernel = 2 * 20 * 8 * 6 * 32, 2 * 32 * 25 * 32
  assert forward.bytes == 2 * activation + kernel


def test_programs_are_those_of_a_run(small_job, small_run, tmp_path):
  """They are compiled here for a CPU; what runs then compiles no other."""
  # No other test compiles for so many rows.
  rows = {'batch_size': 7, 'evaluation_batch_size': 4}
  job = small_job(tmp_path, phases=PHASES, training_buckets=1, **rows)
  group = make_group()
  longest = job.fold.dataset.lengths.max()
  [bucket] = job.sampler.buckets
  found = dict(compile_for_gpu.programs(job, group.mesh))
  assert list(found) == [
    f'evaluation all, {longest:,} samples',
    f'training lstm, {bucket.samples:,} samples',
    f'prediction, {longest:,} samples',
  ]
  for lowered in found.values():
    lowered.compile()
  data = put_data(job, group.mesh)
  model = ensemble.load(small_run)
  spec = dataclasses.replace(model.spec, longest_samples=int(longest))
  model = dataclasses.replace(model, spec=spec)
  window = np.zeros(longest, np.int16)
  with compilations() as compiled:
    train_loop.train_fold(job, group, data, position=0)
    model.logits([window] * 4)
  names = {'train_chunk', 'evaluate_chunk', 'evaluate_batch'}
  assert not names & {name for name, _ in compiled}


def test_without_a_dataset_all_batches_are_as_long_as_asked(small_config):
  job = compile_for_gpu.find_job(small_config, 9000)
  job = with_fields(job, phases=PHASES)
  mesh = sharding.make_mesh(jax.devices()[:3])
  masks = {
    name: next(x.shape for x in jax.tree.leaves(args) if x.dtype == bool)
    for name, lowered in compile_for_gpu.programs(job, mesh)
    for args in [lowered.args_info]
  }
  assert masks == {
    'training lstm, 9,000 samples': (2, 6),  # 5 rows over 3 devices
    'evaluation all, 9,000 samples': (2, 9),
    'prediction, 9,000 samples': (8,),
  }


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """What the tool says of a small CRNN."""
  python = os.environ.get('ECG_JAX_GPU_PYTHON')
  if not python:
    pytest.skip('ECG_JAX_GPU_PYTHON is not set')
  done = subprocess.run(
    [
      *(python, 'tools/compile_for_gpu.py'),
      *('--config', 'configs/quickstart.py', '--samples', '3000'),
      *('--config.cuda_graphs', 'True', '--config.model.reduction', 'max_pool'),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_chunk_is_one_graph_of_the_librarys_convolutions(compiled):
  lines = compiled.splitlines()
  header, _, *rows = [line for line in lines if line.startswith('|')]
  names = [cell.strip() for cell in header.split('|')]
  for row in rows:
    cells = dict(zip(names, map(str.strip, row.split('|')), strict=True))
    if cells['program'].startswith('training'):
      assert cells['graphs'] == '1', row
  convolutions = [line for line in lines if ', window ' in line]
  assert convolutions
  # A gradient by a kernel that XLA mistakes has a window as large as its input.
  assert {line.split('window ')[1].split(',')[0] for line in convolutions} <= {
    '3x3',
    '5x5',
  }


def test_without_the_package_for_cuda_it_says_what_to_install():
  if importlib.util.find_spec('jax_cuda13_plugin'):
    pytest.skip('it is installed')
  with pytest.raises(InputError, match=r'cannot be compiled here .* install'):
    compile_for_gpu.describe_mesh('h100', 1)


def test_lengths_that_are_none_are_refused(refusal):
  message = refusal(
    compile_for_gpu.main,
    *('tool', '--config', 'configs/quickstart.py', '--samples', '9000,x'),
  )
  assert "--samples has 'x': give whole numbers above 0" in message

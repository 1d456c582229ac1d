"""Device groups, and where arrays are put."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ecg_jax.errors import InputError
from ecg_jax.runtime import sharding
from ecg_jax.runtime.device_groups import divide_devices


class Device(NamedTuple):
  number: int
  process_index: int


def make_devices(processes, of_process):
  numbers = range(processes * of_process)
  return [Device(number, number // of_process) for number in numbers]


@given(
  st.integers(1, 5), st.integers(1, 6), st.integers(1, 40), st.integers(1, 30)
)
def test_groups_take_a_part_of_a_process_or_several_whole_ones(
  processes, of_process, num_jobs, size
):
  devices = make_devices(processes, of_process)
  if size > len(devices) or (size > of_process and size % of_process):
    with pytest.raises(InputError, match=f'devices_per_job is {size}: '):
      divide_devices(devices, num_jobs, size)
    return
  groups = divide_devices(devices, num_jobs, size)
  used = [device for group in groups for device in group]
  assert len(set(used)) == len(used)
  assert {len(group) for group in groups} == {size}
  shares = []
  for number in range(processes):
    parts = [[d.process_index == number for d in group] for group in groups]
    shares.append(sum(map(any, parts)))
    if size <= of_process:
      assert all(all(part) or not any(part) for part in parts)
    else:
      assert all(sum(part) in (0, of_process) for part in parts)
  if size <= of_process:
    assert max(shares) - min(shares) <= 1
    assert len(groups) == min(num_jobs, processes * (of_process // size))
  else:
    assert len(groups) == min(num_jobs, len(devices) // size)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 50))
@example(2, 8, 5)  # Three devices a job would leave room for four of them.
@example(5, 2, 3)  # Three devices a job: only two are of whole processes.
def test_by_default_no_job_waits_for_a_larger_share(
  processes, of_process, num_jobs
):
  devices = make_devices(processes, of_process)
  groups = divide_devices(devices, num_jobs, None)
  assert len(groups) == min(num_jobs, len(devices))
  [size] = {len(group) for group in groups}
  for larger in range(size + 1, len(devices) + 1):
    try:
      rivals = divide_devices(devices, num_jobs, larger)
    except InputError:
      continue
    assert len(rivals) < num_jobs


def test_processes_with_different_numbers_of_devices_are_refused():
  devices = make_devices(2, 2)[:3]
  message = 'Process 0 has 2 devices and process 1 has 1: give'
  with pytest.raises(InputError, match=message):
    divide_devices(devices, 5, None)


def test_rows_are_padded_with_zeros_and_divided():
  mesh = sharding.make_mesh(jax.devices()[:4])
  rows = np.arange(1, 11, dtype=np.int32).reshape(2, 5)
  placed = sharding.split_rows({'rows': rows, 'mask': rows > 0}, mesh)
  for name, given_rows in (('rows', rows), ('mask', rows > 0)):
    array = placed[name]
    assert array.shape == (2, 8)
    assert array.dtype == given_rows.dtype
    np.testing.assert_array_equal(array[:, :5], given_rows)
    assert not np.any(array[:, 5:])
    shapes = [shard.data.shape for shard in array.addressable_shards]
    assert shapes == [(2, 2)] * 4


def test_replicated_arrays_stand_whole_on_each_device():
  mesh = sharding.make_mesh(jax.devices()[1:3])
  array = sharding.replicate(np.arange(3), mesh)
  assert array.devices() == set(jax.devices()[1:3])
  for shard in array.addressable_shards:
    np.testing.assert_array_equal(shard.data, np.arange(3))

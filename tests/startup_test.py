"""Tests of ecg_jax.runtime.startup."""

import pathlib
import sys

import pytest

from tests.helpers import run_python

WITHOUT_HOME = """
import os, pwd
def none(uid):
  raise KeyError(uid)
pwd.getpwuid = none
del os.environ['HOME']
os.environ.pop('XDG_CACHE_HOME', None)
from ecg_jax.runtime import startup
startup.enable_compilation_cache()
import jax
print(jax.config.jax_compilation_cache_dir)
from ecg_jax.datasets import prepare
from ecg_jax.errors import InputError
from ecg_jax.fields.data import DataFields
try:
  prepare.prepare(DataFields(name='synthetic_ecg'))
except InputError as error:
  print(error)
"""

# Tells of its process once it went through the restart.
SCRIPT = """
import ctypes, os, pathlib, sys
print('started')
sys.stdout.flush()
from ecg_jax.runtime import startup
startup.restart_in_huge_pages()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
address = libc.malloc(ctypes.c_size_t(2**28))
for line in pathlib.Path('/proc/self/smaps').read_text().splitlines():
  fields = line.split()
  if '-' in fields[0]:
    first, last = (int(part, 16) for part in fields[0].split('-'))
    inside = first <= address < last
  elif fields[0] == 'VmFlags:' and inside:
    print('huge' if 'hg' in fields else 'small')
print(os.environ['GLIBC_TUNABLES'], sys.argv[1:])
sys.exit(7)
"""


def run(*arguments, tunables=''):
  done = run_python(SCRIPT, *arguments, code=7, GLIBC_TUNABLES=tunables)
  return done.stdout.splitlines()


pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='Linux only')


def can_be_asked_for():
  mode = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
  return mode.exists() and '[madvise]' in mode.read_text()


def test_restarts_once_with_the_same_arguments_and_exit_code():
  lines = run('--field', 'two words')
  assert lines.count('started') == 2
  assert lines[-1] == "glibc.malloc.hugetlb=1 ['--field', 'two words']"


def test_large_memory_is_in_huge_pages():
  if not can_be_asked_for():
    pytest.skip('this kernel gives huge pages to all or to none')
  assert 'huge' in run()
  assert 'small' in run(tunables='glibc.malloc.hugetlb=0')


def test_keeps_what_the_user_has_set():
  lines = run(tunables='glibc.malloc.arena_max=3')
  assert lines[-1].startswith(
    'glibc.malloc.arena_max=3:glibc.malloc.hugetlb=1 '
  )
  lines = run(tunables='glibc.malloc.hugetlb=0')
  assert lines.count('started') == 1
  assert lines[-1].startswith('glibc.malloc.hugetlb=0 ')


def test_a_user_needs_no_home_folder(tmp_path):
  """As one of a container, whose number nobody has a name for."""
  done = run_python(WITHOUT_HOME, cwd=tmp_path)
  cache, refusal = done.stdout.splitlines()
  assert cache == 'None'
  assert refusal.endswith('name another with --config.data.data_dir.')
  assert not list(tmp_path.iterdir())

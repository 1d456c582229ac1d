"""How a command starts: huge pages, compiled programs kept."""

import os
import pathlib
import sys


def enable_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache folder.

  JAX's own settings win: with JAX_COMPILATION_CACHE_DIR set, that folder is
  used; with JAX_ENABLE_COMPILATION_CACHE=0, none. Neither is one for a user
  without a home folder, as in some containers.
  """
  import jax  # Takes a second; a restart comes before.

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    folder = pathlib.Path(os.path.expanduser(cache)) / 'ecg_jax'
    if folder.parts[0].startswith('~'):
      return
    jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


_TUNABLE = 'glibc.malloc.hugetlb'


def restart_in_huge_pages() -> None:
  """Starts this process again with its memory in huge pages, on Linux.

  The C library reads the setting at the start of a process only, so this
  belongs before anything slow. A value in GLIBC_TUNABLES wins; where there is
  one, and on other systems, nothing happens.
  """
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  if sys.platform != 'linux' or not sys.executable or _TUNABLE in tunables:
    return
  asked = f'{_TUNABLE}=1'
  os.environ['GLIBC_TUNABLES'] = f'{tunables}:{asked}' if tunables else asked
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

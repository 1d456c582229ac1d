"""Compiled programs are kept, so that a second start is quick."""

import os
import pathlib

import jax


def enable() -> None:
  """Keeps compiled programs in the user's cache folder.

  JAX's own settings win: with JAX_COMPILATION_CACHE_DIR set, that folder is
  used; with JAX_ENABLE_COMPILATION_CACHE=0, none.
  """
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    folder = pathlib.Path(cache).expanduser() / 'ecg_jax'
    jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)

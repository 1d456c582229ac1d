"""Large arrays in huge pages, which Linux gives to those who ask.

A program's temporary arrays are new memory at each dispatch. In pages of 4 KiB
a CPU spends a good part of a step on first touches and on looking up pages.
"""

import os
import sys

_TUNABLE = 'glibc.malloc.hugetlb'


def restart() -> None:
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

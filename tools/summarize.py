"""Runs `ecg_jax.summarize` in a clone, from any folder.

python tools/summarize.py RUN_FOLDER [RUN_FOLDER ...] [--plot]
"""

import sys

import _path  # noqa: F401 - makes ecg_jax importable

from ecg_jax.summarize import main

if __name__ == '__main__':
  sys.exit(main())

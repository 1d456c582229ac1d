"""Importing this module makes ecg_jax importable from any folder.

So `python tools/X.py` runs without an installation of the package.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

"""Fixtures shared by the tests."""

import os
import pathlib

import pytest


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """Folder with the real records (training2017.zip, REFERENCE-v3.csv)."""
  folder = os.environ.get('ECG_JAX_REAL_DATA')
  if not folder:
    pytest.skip('ECG_JAX_REAL_DATA is not set')
  return pathlib.Path(folder)

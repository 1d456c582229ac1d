"""Records in the form of the MIT-BIH Arrhythmia Database."""

import hashlib

import numpy as np
import wfdb

from ecg_jax.datasets.mitdb import mitdb_dataset_builder, source

NAMES = [str(number) for number in range(201, 209)]
"""Of the records; the first two are of one patient."""

SECONDS = 25
"""Length of each record."""

WINDOWS = [f'{start}-{start + 2}' for start in [*range(0, 24, 2), 23]]
"""Of each record, by start and end."""


def write_record(folder, name, annotations):
  """A record of two leads at 360 Hz, with (sample, symbol, text) of it."""
  rng = np.random.default_rng(int(name))
  counts = np.cumsum(rng.integers(-20, 21, (SECONDS * 360, 2)), axis=0) // 4
  wfdb.wrsamp(
    name,
    fs=360,
    units=['mV', 'mV'],
    sig_name=['MLII', 'V5'],
    d_signal=np.clip(counts + 1024, 0, 2047),
    fmt=['212', '212'],
    adc_gain=[200.0, 200.0],
    baseline=[1024, 1024],
    write_dir=str(folder),
  )
  sample, symbol, text = zip(*annotations, strict=True)
  wfdb.wrann(
    name,
    'atr',
    np.array(sample),
    list(symbol),
    aux_note=list(text),
    write_dir=str(folder),
  )


def write_database(place, monkeypatch):
  """Writes records into a folder `mitdb`, and has them taken for official.

  Each begins with an ectopic beat and is in atrial fibrillation from 10.3 s on.
  Windows are of 2 s.
  """
  folder = place / 'mitdb'
  folder.mkdir()
  beats = [(at, 'N', '') for at in range(300, SECONDS * 360, 300)]
  annotations = [(5, '+', '(N'), (9, 'V', ''), *beats, (3700, '+', '(AFIB')]
  for name in NAMES:
    write_record(folder, name, sorted(annotations))
  names = sorted(path.name for path in folder.iterdir())
  assert len(names) == 3 * len(NAMES)
  lines = [
    f'{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n'
    for name in names
  ]
  digest = hashlib.sha256(''.join(lines).encode()).hexdigest()
  monkeypatch.setattr(source, 'CONTENT_DIGEST', digest)
  monkeypatch.setattr(mitdb_dataset_builder.Builder, 'WINDOW_SECONDS', 2.0)

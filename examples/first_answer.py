"""From an array to an answer, a picture and an export.

    python -m examples.first_answer OUT_FOLDER [RUN]

It shows `ecg_jax.load`, a signal in millivolts at its own sampling rate, a
signal of two minutes that is classified window by window, the warnings that
belong to a prediction, its picture, and the export of what made it, which
needs no ecg_jax. Without a run, the weights of the package answer.
"""

import pathlib
import sys

import numpy as np
from scipy import signal

import ecg_jax
from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.prediction import exporter, pictures
from ecg_jax.prediction.predictor import Settings


def answer(out: pathlib.Path, run: str | None) -> None:
  """Prints predictions; writes OUT/signal.png, .svg and OUT/model."""
  model = ecg_jax.load(run)

  # int16 counts of 1/1000 mV at 300 Hz, from a seed the model never saw.
  _, counts, label = generator.generate_record(seed=1, index=0)
  prediction = model.predict(counts, sampling_rate=300, units='counts')
  print(f'a record of class {label}: {prediction.predicted}')
  print({name: round(p, 3) for name, p in prediction.probabilities.items()})
  print(prediction.heart_rate)

  # The same in millivolts at 500 Hz: the rate and the unit do not matter.
  millivolts = signal.resample_poly(counts / 1000, 5, 3)
  same = model.predict(millivolts, sampling_rate=500, units='mV')
  print(f'in mV at 500 Hz: {same.predicted}')

  # What is longer than any training record is cut into windows.
  long = np.tile(counts, -(-36_000 // len(counts)))[:36_000]
  settings = Settings(window=30, stride=15, abstain=0.5)
  whole = model.predict(
    long, sampling_rate=300, units='counts', settings=settings
  )
  print(f'two minutes: {whole.headline}; {len(whole.windows)} windows')
  for part in whole.windows[:2]:
    print(f'  {part.start:.0f} to {part.end:.0f} s: {part.answer.predicted}')

  # A wrong unit, for instance, is reported.
  wrong = model.predict(counts, sampling_rate=300, units='mV')
  print(f'with the wrong unit: {wrong.warnings}')

  pictures.write(out, model.folds, [prediction])
  exporter.export(model.folds.run_folder, out / 'model')
  print(*sorted(str(path) for path in out.rglob('*') if path.is_file()))


if __name__ == '__main__':
  where, *chosen = sys.argv[1:]
  answer(pathlib.Path(where), chosen[0] if chosen else None)

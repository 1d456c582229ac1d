"""Builds a dataset once, and loads it from its folder afterwards.

  python -m ecg_jax.datasets.prepare --config configs/crnn.py

does only this, for clusters whose compute nodes have no network.
"""

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds
from absl import logging

from ecg_jax import cli, configuration, registry
from ecg_jax.datasets.ecg_builder import EcgBuilder
from ecg_jax.errors import InputError
from ecg_jax.fields.data import DataFields
from ecg_jax.fields.group import flatten
from ecg_jax.runtime import files


def prepare(data: DataFields) -> EcgBuilder:
  """Loads a dataset, after building it if that was not done before.

  Several processes may prepare the same dataset at once: one builds it, the
  others wait and load it. A dataset is in its folder only when complete.

  Args:
    data: fields of a config. With a `manual_dir` nothing is downloaded; it is
      ignored if the dataset is already prepared, but for `recordings_folder`.
      Without a `data_dir` it is in ~/tensorflow_datasets.

  Returns:
    The builder of the prepared dataset, for `as_data_source`.

  Raises:
    InputError: the name is unknown, the source is unavailable or not the
      official one, or the folder is not writable or damaged.
  """
  folders = data.data_dir or '~/tensorflow_datasets'
  root = pathlib.Path(os.path.expanduser(folders))
  if root.parts[:1] == ('~',):
    raise InputError(
      f'{folders} is in a home folder, and this user has none: name another'
      ' with --config.data.data_dir.'
    )
  kind = find_builder(data)
  place = os.fspath(root / own_folder(kind, data))
  builder = kind(data_dir=place, file_format='array_record')
  if not builder.data_path.exists():
    try:
      folder = _source_folder(data.manual_dir)
      with files.locked(root, wait=True, flag='--config.data.data_dir'):
        # Another process may have built it while this one waited.
        builder = kind(data_dir=place, file_format='array_record')
        # What one that was killed has left; no other holds the lock.
        prefix = tfds.core.constants.INCOMPLETE_PREFIX
        for leftover in builder.data_path.parent.glob(f'{prefix}*'):
          leftover.rmtree()
        # Building takes a few seconds; the output of TFDS would only distract.
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
          # Without one, TFDS would look into a folder that all datasets share.
          nowhere = os.fspath(root / f'.{builder.name}.no_manual_dir')
          source = tfds.download.DownloadConfig(manual_dir=folder or nowhere)
          builder.download_and_prepare(download_config=source)
    # array_record raises RuntimeError where the file system refuses.
    except (OSError, RuntimeError) as error:
      raise InputError(
        f'Cannot prepare {data.name} in {root} ({error}): name a folder with'
        ' room that may be written to with --config.data.data_dir.'
      ) from error
  _check_complete(builder)
  if left_out := (builder.info.metadata or {}).get('left_out'):
    logging.warning(
      '%s does without %d lines or recordings that cannot be used, like: %s',
      data.manual_dir,
      len(left_out),
      left_out[0],
    )
  return builder


def find_builder(data: DataFields) -> type[EcgBuilder]:
  """The class of a dataset's builder.

  Args:
    data: fields of a config; `name` is a key of `registry.DATASETS`, or where
      one of your own is.

  Raises:
    InputError: there is none, it does not say what its records are, or another
      field is not for it.
  """
  name = data.name
  builder = registry.find('data.name', name, registry.DATASETS)
  is_builder = isinstance(builder, type) and issubclass(builder, EcgBuilder)
  found = builder.of(data) if is_builder else builder
  if not (is_builder and hasattr(found, 'SPEC')):
    raise InputError(
      f'data.name is {name!r}, which is no dataset: name a class that derives'
      ' from ecg_jax.datasets.ecg_builder.EcgBuilder and has a SPEC.'
    )
  return found


def own_folder(builder: type[EcgBuilder], data: DataFields) -> str:
  """Folder for what is not one dataset by its name; '' for what is."""
  if content := builder.content():
    return f'own_{files.digest(content)[:12]}'
  if data.name in registry.DATASETS:
    return ''
  # Whatever may change its records makes another dataset.
  identity = {
    'name': registry.absolute(data.name),
    'source': registry.source_digests([data.name]),
    'spec': builder.SPEC.to_json(),
    'manual_dir': data.manual_dir and os.path.abspath(data.manual_dir),
  }
  return f'own_{files.digest(identity)[:12]}'


def _source_folder(manual_dir: str | None) -> str | None:
  """Checks that the folder with the source files exists and is not empty.

  TFDS would treat such a folder, and an empty name, as none: the builder would
  download what the user meant to provide.
  """
  if manual_dir is None:
    return None
  if not manual_dir:
    raise InputError(
      'The name of the folder with the source files is empty: name one with '
      '--config.data.manual_dir, or leave it out to have them downloaded.'
    )
  folder = pathlib.Path(manual_dir).expanduser()
  if not folder.is_dir():
    raise InputError(
      f'The folder {manual_dir} does not exist: name one with the source files '
      'with --config.data.manual_dir.'
    )
  if not any(folder.iterdir()):
    raise InputError(
      f'The folder {manual_dir} is empty: put the source files there, or name '
      'another with --config.data.manual_dir.'
    )
  return os.fspath(folder)


def _check_complete(builder: tfds.core.DatasetBuilder) -> None:
  """Refuses a dataset folder that has lost files since it was built."""
  splits = builder.info.splits.values()
  paths = [path for split in splits for path in split.filepaths]
  if not (all(p.exists() for p in paths) and builder.is_prepared()):
    raise InputError(
      f'The prepared dataset in {builder.data_dir} is incomplete: delete that '
      'folder to have it built again.'
    )


@cli.command()
def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  configs = configuration.parse_all(configuration.define_flags(), argv)
  sources = {
    DataFields.of(flatten(config)): None for config in configs.values()
  }
  for data in sources:
    if data.folds_file is None:
      find_builder(data).check_folds()
    builder = prepare(data)
    records = sum(split.num_examples for split in builder.info.splits.values())
    print(f'{data.name}: {records:,} records in {builder.data_dir}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))

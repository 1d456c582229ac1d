"""Models, datasets, augmentations, losses and metrics, by name.

A config names each of them: a shipped one by its key below, one of your own as
'module:ATTRIBUTE' or 'path/file.py:ATTRIBUTE'. Nothing is imported before it is
asked for.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from ecg_jax.errors import ConfigError, InputError

MODELS = {
  'cnn': 'ecg_jax.models.cnn:CNN',
  'crnn': 'ecg_jax.models.crnn:CRNN',
  'residual_crnn': 'ecg_jax.models.residual_crnn:ResidualCRNN',
}
"""Flax modules; `ecg_jax.models` says what they have."""

DATASETS = {
  'mitdb': 'ecg_jax.datasets.mitdb.mitdb_dataset_builder:Builder',
  'physionet2017': (
    'ecg_jax.datasets.physionet2017.physionet2017_dataset_builder:Builder'
  ),
  'recordings_folder': (
    'ecg_jax.datasets.recordings_folder.recordings_folder_dataset_builder'
    ':Builder'
  ),
  'synthetic_ecg': (
    'ecg_jax.datasets.synthetic_ecg.synthetic_ecg_dataset_builder:Builder'
  ),
}
"""Builders derived from `ecg_jax.datasets.ecg_builder.EcgBuilder`."""

AUGMENTATIONS = {'bursts': 'ecg_jax.models.augmentation:drop_bursts'}
"""Functions as `ecg_jax.models.augmentation.augment` calls them."""

LOSSES = {'cross_entropy': 'ecg_jax.models.loss:weighted_cross_entropy'}
"""Functions of logits [B, C], labels [B] and weights [B]; float32 [B]."""

METRICS = {
  'brier_score': 'ecg_jax.evaluation.calibration:brier_score',
  'kappa': 'ecg_jax.evaluation.score:kappa',
}
"""Functions of a confusion matrix or of predictions, further to the score;
`ecg_jax.evaluation.score.measure` says what they may take."""


@dataclasses.dataclass(frozen=True)
class WithOptions:
  """A function with options; two are equal, and one program, if both are."""

  function: Callable[..., Any]
  options: tuple[tuple[str, Any], ...]
  """Name and value of each."""

  def __call__(self, *arguments: Any) -> Any:
    """Calls the function."""
    return self.function(*arguments, **dict(self.options))


def find(field: str, name: str, shipped: Mapping[str, str]) -> Any:
  """Imports what a config names.

  Args:
    field: The field of the config, for messages.
    name: Key of `shipped`, 'module:ATTRIBUTE' or 'path/file.py:ATTRIBUTE'.
    shipped: One of the tables above.

  Raises:
    InputError: There is no such name, module, file or attribute.
    ConfigError: The module or file fails when it is imported.
  """
  check(field, name, shipped)
  place, _, attribute = shipped.get(name, name).rpartition(':')
  try:
    module = _import(place)
  except InputError as error:  # What it declares refuses itself.
    raise InputError(f'{field} is {name!r}: {error}') from error
  except Exception as error:  # It is a program: it can raise anything.
    raise _import_error(field, name, place, error) from error
  found = getattr(module, attribute, None)
  if found is None:
    public = [other for other in vars(module) if not other.startswith('_')]
    near = difflib.get_close_matches(attribute, public)
    advice = f'use {" or ".join(near)}' if near else 'name what it defines'
    raise InputError(
      f'{field} is {name!r}, and {place} has no {attribute!r}: {advice}.'
    )
  return found


def find_function(
  field: str, name: str, shipped: Mapping[str, str]
) -> Callable[..., Any]:
  """Like `find`, for a function."""
  function = find(field, name, shipped)
  if not callable(function):
    raise InputError(
      f'{field} is {name!r}, which is no function: name one that is.'
    )
  return function


def find_functions(
  field: str,
  names: Sequence[str],
  shipped: Mapping[str, str],
  values: Mapping[str, Any],
  declared: Container[str],
) -> tuple[Callable[..., Any], ...]:
  """Finds functions, each with the fields of its group that it takes.

  An option is a keyword-only parameter.

  Args:
    field: The field that names them.
    names: The names.
    shipped: One of the tables above.
    values: Path -> value of all fields of the config.
    declared: Paths of the fields that the group has anyway.

  Raises:
    InputError: One of them is no function, lacks an option, or the group has a
      field that none takes.
  """
  group = field.partition('.')[0]
  more = [path for path in values if path.startswith(f'{group}.')]
  unused = {path for path in more if path not in declared}
  found = []
  for name in names:
    function = find_function(field, name, shipped)
    options = {}
    for option, parameter in inspect.signature(function).parameters.items():
      if parameter.kind is not parameter.KEYWORD_ONLY:
        continue
      path = f'{group}.{option}'
      if path in values:
        options[option] = values[path]
        unused.discard(path)
      elif parameter.default is parameter.empty:
        raise InputError(
          f'{field} names {name!r}, which takes the option {option!r}: set'
          f' {path} in the config.'
        )
    items = tuple(sorted(options.items()))
    found.append(WithOptions(function, items) if items else function)
  if unused:
    raise InputError(
      f'The config has the field {min(unused)!r}, which nothing reads: leave it'
      f' out, or name a function with {field} that takes it.'
    )
  return tuple(found)


def check(field: str, name: str, shipped: Mapping[str, str]) -> None:
  """Raises InputError unless a name can be found.

  It imports nothing but the packages that a module is in.
  """
  if not isinstance(name, str):
    raise InputError(f'{field} holds {name!r}: it must be a text.')
  if name in shipped:
    return
  place, colon, attribute = name.rpartition(':')
  if not colon:
    near = difflib.get_close_matches(name, shipped, n=1) or shipped
    raise InputError(
      f'{field} is {name!r}: use {" or ".join(map(repr, near))}, or name one of'
      " your own like 'my_module:NAME' or 'path/file.py:NAME'."
    )
  if not place or not attribute.isidentifier():
    raise InputError(
      f"{field} is {name!r}: write it like 'my_module:NAME' or"
      " 'path/file.py:NAME'."
    )
  try:
    source = _source(place)
  except Exception as error:  # Of the package that it is in.
    raise _import_error(field, name, place, error) from error
  if source is None:
    kind, advice = 'module', 'install it, or start in the folder that has it'
    if place.endswith('.py'):
      kind, advice = 'file', 'name one that exists'
    raise InputError(
      f'{field} is {name!r}, but there is no {kind} {place}: {advice}.'
    )


def absolute(name: str) -> str:
  """The name with the path of its file, if it has one, made absolute."""
  place, colon, attribute = name.rpartition(':')
  if not place.endswith('.py'):
    return name
  return f'{pathlib.Path(place).expanduser().absolute()}{colon}{attribute}'


def source_digests(names: Iterable[str]) -> dict[str, str]:
  """SHA-256 of the file of each name that has a place of its own.

  Raises:
    InputError: A file is not as it was when this process imported it.
  """
  found = {}
  for name in names:
    path = None
    if ':' in name:
      with contextlib.suppress(Exception):  # Of the package that it is in.
        path = _source(name.rpartition(':')[0])
    if path is not None:
      found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
      if _LOADED.get(path.resolve(), found[name]) != found[name]:
        raise InputError(
          f'{path} has been changed since it was imported: start again.'
        )
  return found


def _source(place: str) -> pathlib.Path | None:
  """File of a module or path; None if there is none."""
  if place.endswith('.py'):
    path = pathlib.Path(place).expanduser()
    return path if path.is_file() else None
  try:
    spec = None if place[0] == '.' else importlib.util.find_spec(place)
  except ValueError:  # Like '__main__'.
    return None
  except ModuleNotFoundError as error:
    if f'{place}.'.startswith(f'{error.name}.'):
      return None
    raise  # The package that it is in lacks what it imports.
  if spec is None or spec.origin is None or not spec.has_location:
    return None
  return pathlib.Path(spec.origin)


def _import_error(
  field: str, name: str, place: str, error: Exception
) -> ConfigError:
  return ConfigError(
    f'{field} is {name!r}, and {place} cannot be imported'
    f' ({type(error).__name__}: {error}): fix it.'
  )


def _import(place: str) -> types.ModuleType:
  if not place.endswith('.py'):
    return importlib.import_module(place)
  return _import_file(pathlib.Path(place).expanduser().resolve())


_LOADED: dict[pathlib.Path, str] = {}
"""SHA-256 of the code of each file that was run."""


class _Loader(importlib.machinery.SourceFileLoader):
  """Runs what is in a file now, not code that was compiled before."""

  def get_code(self, fullname: str) -> types.CodeType:
    """Compiles the file, and keeps its digest."""
    content = self.get_data(self.path)
    digest = hashlib.sha256(content).hexdigest()
    _LOADED[pathlib.Path(self.path)] = digest
    return self.source_to_code(content, self.path)


@functools.cache  # Twice the same class would be two different ones.
def _import_file(path: pathlib.Path) -> types.ModuleType:
  digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
  stem = re.sub(r'\W', '_', path.stem)
  name = f'{stem}_{digest}'  # Not that of another module.
  loader = _Loader(name, str(path))
  spec = importlib.util.spec_from_file_location(name, path, loader=loader)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # Where dataclasses look their types up.
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  return module

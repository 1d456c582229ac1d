"""What a group of fields is: a frozen dataclass that checks itself."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import textwrap
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from ecg_jax.errors import InputError

TYPES: Mapping[type, str] = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  str: 'a text',
  tuple: 'a list like (0, 1)',
}
"""Types of fields, in words."""


def execution(default: Any) -> Any:
  """A field that may change between starts, since it decides no result."""
  return dataclasses.field(default=default, metadata={'decides': False})


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
  """Path -> value of all fields of a config: {'data.name': ..., ...}.

  Lists become tuples, as JSON does not tell them apart.
  """
  values: dict[str, Any] = {}
  for name, value in config.items():
    if hasattr(value, 'items'):
      values |= flatten(value, f'{prefix}{name}.')
    else:
      values[prefix + name] = _tuple(value)
  return values


def _tuple(value: Any) -> Any:
  return tuple(map(_tuple, value)) if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Fields of one group of a config; each has its docstring behind it.

  A subclass checks its bounds in `__post_init__` by the methods below, which
  raise an InputError that names the field and the value. None is in bounds.
  """

  GROUP: ClassVar[str] = ''
  """Name of the group in a config; '' for the fields that are in none."""

  OPEN: ClassVar[bool] = False
  """Whether it may have more fields: options of what its names name."""

  @classmethod
  def path(cls, name: str) -> str:
    """Name of a field in a config: 'hop_samples' -> 'spectrogram.hop_samples'.

    A model's fields `dropout_NAME` are `dropout.NAME`.
    """
    if cls.GROUP == 'model' and name.startswith('dropout_'):
      return name.replace('_', '.', 1)
    return f'{cls.GROUP}.{name}'.lstrip('.')

  @classmethod
  def fields(cls) -> dict[str, dataclasses.Field[Any]]:
    """Path -> field, of those that a config may set in its own group."""
    return {
      cls.path(field.name): field
      for field in dataclasses.fields(cls)
      if not field.metadata.get('outside')
    }

  @classmethod
  def check_declaration(cls) -> None:
    """Refuses fields without a default or a type that a config can have.

    Raises:
      InputError: Names the class and the field.
    """
    fields = cls.fields().values()
    known = {field.name for field in fields} | {*inspect.get_annotations(cls)}
    problems = [
      f'{name} without a type'
      for name, value in vars(cls).items()
      if isinstance(value, tuple(TYPES))
      and name[0] != '_'
      and name not in known
    ]
    if cls.GROUP == 'model' and 'name' in known:
      problems.append('a field `name`, which is the name of the model')
    if '__dataclass_fields__' not in vars(cls):
      problems.append('its fields without the decorator dataclasses.dataclass')
    for field in fields:
      if field.default is dataclasses.MISSING:
        problems.append(f'{field.name} without a default')
      elif cls.type_of(field.name) not in TYPES:
        problems.append(f'{field.name} of a type that a config cannot have')
    if problems:
      raise InputError(
        f'{cls.__name__} declares {problems[0]}: write it like `width: int ='
        " 32`, of the types bool, int, float, str or tuple, or one of these '|"
        " None', in a frozen, keyword-only dataclass."
      )

  @classmethod
  def type_of(cls, name: str) -> type:
    """Type of a field when it is not None, like int of `int | None`."""
    hint = typing.get_type_hints(cls)[name]
    if type(None) in typing.get_args(hint):
      [hint] = {*typing.get_args(hint)} - {type(None)}
    return typing.get_origin(hint) or hint

  @classmethod
  def of(cls, values: Mapping[str, Any], **outside: Any) -> Self:
    """The fields of a config.

    Args:
      values: Path -> value, of all fields of the config (see `flatten`).
      **outside: Fields that are not in its group.

    Raises:
      InputError: A value is of another type or out of bounds.
    """
    own = dict(outside)
    for path, field in cls.fields().items():
      if path in values:
        own[field.name] = value = values[path]
        if value is not None or field.default is not None:
          kind = cls.type_of(field.name)
          allowed = (int, float) if kind is float else kind
          is_bool = isinstance(value, bool)  # To Python also an int.
          if not isinstance(value, allowed) or (is_bool and kind is not bool):
            raise InputError(f'{path} is {value!r}: it must be {TYPES[kind]}.')
    return cls(**own)

  @classmethod
  def describe(cls) -> dict[str, str]:
    """Path -> docstring of each field, on one line."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
      source = textwrap.dedent(inspect.getsource(base))
      [node] = ast.parse(source).body
      assert isinstance(node, ast.ClassDef)
      for field, text in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
          name, docstring = (
            ast.unparse(field.target),
            ast.literal_eval(text.value),
          )
          found[cls.path(name)] = ' '.join(docstring.split())
    return found

  def require(self, holds: bool, name: str, rule: str) -> None:
    """Refuses the value of a field, stating the rule, unless it holds."""
    self.refuse_unless(
      holds, name, f'is {getattr(self, name)}', f'it must {rule}'
    )

  def refuse_unless(
    self, holds: bool, name: str, problem: str, advice: str
  ) -> None:
    """Refuses a field, with the problem and what to do, unless it holds."""
    if not holds:
      raise InputError(f'{self.path(name)} {problem}: {advice}.')

  def at_least(self, least: int, *names: str) -> None:
    """Requires finite numbers that are not below the least."""
    for name in names:
      value = getattr(self, name)
      holds = value is None or least <= value < math.inf
      self.require(holds, name, f'be at least {least}')

  def positive(self, *names: str) -> None:
    """Requires finite numbers above 0."""
    for name in names:
      holds = 0 < getattr(self, name) < math.inf
      self.require(holds, name, 'be positive')

  def fraction(self, *names: str) -> None:
    """Requires numbers from 0 to below 1."""
    for name in names:
      holds = 0 <= getattr(self, name) < 1
      self.require(holds, name, 'be at least 0 and below 1')

  def choice(self, name: str, *choices: str) -> None:
    """Requires one of the choices."""
    value = getattr(self, name)
    near = difflib.get_close_matches(str(value), choices, n=1) or choices
    advice = f'use {" or ".join(map(repr, near))}'
    self.refuse_unless(value in choices, name, f'is {value!r}', advice)

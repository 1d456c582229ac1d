"""The config of a run: parsed from the command line, checked, compared.

No JAX here: a mistake is reported before anything slow is imported.
"""

import difflib
import pathlib
import re
import runpy
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from ecg_jax import cli, default_config, fields, registry
from ecg_jax.errors import ConfigError, Help, InputError
from ecg_jax.fields.group import TYPES, flatten
from ecg_jax.fields.models import MODELS

_SHIPPED = pathlib.Path(__file__).with_name('configs')

_INDENT: Mapping[str, Any] = {
  'initial_indent': '    ',
  'subsequent_indent': '    ',
}


_NO_CONFIG = 'No config given: add --config configs/crnn.py, or ecg_jax:crnn.'


def define_flags() -> flags.FlagValues:
  """Defines the flags of every command with --config.

  A command adds its own before `parse`.
  """
  values = flags.FlagValues()
  flags.DEFINE_boolean(
    'help', False, 'print this and end', short_name='h', flag_values=values
  )
  flags.DEFINE_boolean('debug', False, cli.DEBUG, flag_values=values)
  return values


def parse(
  values: flags.FlagValues, argv: Sequence[str]
) -> ml_collections.ConfigDict:
  """Parses `--config FILE[:NAME] [--config.FIELD VALUE]` and other flags.

  Args:
    values: From `define_flags`; holds the parsed flags afterwards.
    argv: Program name and arguments.

  Returns:
    The checked config, locked.

  Raises:
    InputError: The command line, the file or a value cannot be used, or the
      file has a list of configs and none is named.
    Help: The command line has --help.
  """
  configs = parse_all(values, argv)
  if None in configs:
    return configs[None]
  path, _ = _split_config_argument(argv)
  raise InputError(
    f'{path} holds a list of configs: name one of them, like'
    f' {path}:{next(iter(configs))}.'
  )


def parse_all(
  values: flags.FlagValues, argv: Sequence[str]
) -> dict[str | None, ml_collections.ConfigDict]:
  """Like `parse`, for one config or a list of them.

  Returns:
    None -> the config; or, where the file defines `get_configs` and none is
    named, name -> config of all, with the fields of the command line set in
    each.
  """
  path, rest = _split_config_argument(argv)
  if path is None:
    _parse_flags(values, rest, None)
    raise InputError(_NO_CONFIG)
  configs = _load(path)
  for config in configs.values():
    _parse_flags(values, rest, config)
    check(config)
    _make_paths_absolute(config)
  return configs


def _make_paths_absolute(config: ml_collections.ConfigDict) -> None:
  """A run is read with these paths later, from any folder."""
  for owner, name in (
    (config, 'init_from'),
    (config.data, 'folds_file'),
    (config.data, 'manual_dir'),
  ):
    if owner[name] and not owner[name].startswith('ecg_jax:'):
      owner[name] = str(pathlib.Path(owner[name]).expanduser().absolute())
  for owner in (config.model, config.data, config.loss):
    owner.name = registry.absolute(owner.name)
  for owner, name in ((config.augmentation, 'functions'), (config, 'metrics')):
    owner[name] = tuple(map(registry.absolute, owner[name]))


def _parse_flags(
  values: flags.FlagValues,
  argv: Sequence[str],
  config: ml_collections.ConfigDict | None,
) -> None:
  """Parses the flags; those named config.FIELD set fields of the config."""
  if config is not None:
    argv = _join_values(argv)
    _check_names(config, argv)
    for name in [name for name in values if name.startswith('config')]:
      delattr(values, name)  # Flags of the previous config of a list.
    # Not DEFINE_config_file: it takes no list of configs; of nine misspelled
    # fields in our tests it has no suggestion for two and a TypeError for one;
    # a second file in a process still has the functions of the first.
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=list(argv)
    )
  try:
    rest = values(list(argv))
  except flags.UnrecognizedFlagError as error:
    if error.flagname.startswith('config.'):
      raise InputError(_NO_CONFIG) from error
    near = difflib.get_close_matches(error.flagname, list(values))
    advice = f'use --{near[0]}' if near else 'see --help'
    raise InputError(f'Unknown flag --{error.flagname}: {advice}.') from error
  except flags.IllegalFlagValueError as error:
    raise InputError(_explain_value(str(error), config)) from error
  except flags.Error as error:
    raise InputError(f'{str(error).strip(".")}: see --help.') from error
  if values.help:
    raise Help(_help(values, config))
  cli.refuse_empty({x: values[x].value for x in values if values[x].present})
  if len(rest) > 1:
    raise InputError(f'Unknown argument {rest[1]!r}: see --help.')


def _help(
  values: flags.FlagValues, config: ml_collections.ConfigDict | None
) -> str:
  """Lists the flags and the fields of the config, if there is one."""
  lines = [
    '--config: FILE[:NAME] or ecg_jax:CONFIG[:NAME]; --config.FIELD VALUE sets'
    ' a field of it'
  ]
  lines += [
    f'--{name}: {values[name].help}'
    for name in values
    if not name.startswith('config') and len(name) > 1
  ]
  if config is not None:
    lines += ['', 'Fields of this config:']
    models = ', '.join(map(repr, MODELS))
    texts = {'model.name': f'Model: {models}, or one of your own.'}
    for kind in (
      *default_config.groups(config),
      default_config.model_fields(config.model.name),
    ):
      texts |= kind.describe()
    for path, value in flatten(config).items():
      lines.append(f'--config.{path} {value!r}')
      lines += textwrap.wrap(texts.get(path, ''), 76, **_INDENT)
  return '\n'.join(lines)


def _split_config_argument(argv: Sequence[str]) -> tuple[str | None, list[str]]:
  """Returns the value of --config (the last counts) and other arguments."""
  path, rest, arguments = None, [], iter(argv)
  for argument in arguments:
    name, equals, value = argument.partition('=')
    if name in ('--config', '-config'):
      path = value if equals else next(arguments, None)
    else:
      rest.append(argument)
  return path, rest


def _find(path: str) -> tuple[str, str | None]:
  """Returns the file that --config names and the preset or list item in it.

  Raises:
    InputError: There is no such file or shipped config.
  """
  file, colon, name = path.partition(':')
  if file == 'ecg_jax':
    config, colon, name = name.partition(':')
    shipped = [found.stem for found in sorted(_SHIPPED.glob('[!_]*.py'))]
    if config not in shipped:
      near = difflib.get_close_matches(config, shipped) or shipped
      known = ' or '.join(f'ecg_jax:{other}' for other in near)
      raise InputError(f'There is no shipped config {path!r}: use {known}.')
    file = str(_SHIPPED / f'{config}.py')
  elif not pathlib.Path(file).is_file():
    raise InputError(
      f'There is no config file {file!r}: name one like configs/crnn.py, or a'
      ' shipped config like ecg_jax:crnn.'
    )
  return file, name if colon else None


def _load(path: str) -> dict[str | None, ml_collections.ConfigDict]:
  """Runs a config file; returns its locked configs as `parse_all` does."""
  file, name = _find(path)
  try:
    functions = runpy.run_path(file)
    configs: dict[str | None, ml_collections.ConfigDict]
    if 'get_configs' not in functions:
      presets = [] if name is None else [name]
      configs = {None: functions['get_config'](*presets)}
    else:
      configs = dict(functions['get_configs']())
      if name is not None and name not in configs:
        known = [str(listed) for listed in configs]
        near = difflib.get_close_matches(name, known) or known
        raise ValueError(f'it has no {name!r}: use {" or ".join(near)}')
      if name is not None:
        configs = {None: configs[name]}
    for listed, config in configs.items():
      configs[listed] = copied = ml_collections.ConfigDict(config)
      if 'name' not in copied.get('model', {}):
        raise ValueError('it has no model.name')
      default_config.complete(copied)
      copied.lock()
  except Exception as error:  # A config is a program: it can raise anything.
    kind = InputError if isinstance(error, ValueError) else ConfigError
    reason = str(error).strip() or type(error).__name__
    if kind is ConfigError:
      reason = f'{type(error).__name__}: {reason}'
    raise kind(
      f'The config {path} cannot be used ({reason.splitlines()[-1]}): fix the'
      ' file or name another config or preset.'
    ) from error
  for listed in configs.keys() - {None}:
    if not re.fullmatch(r'\w[\w.-]*', str(listed)):
      raise InputError(
        f'{path} has a config named {listed!r}: use letters, digits, _, - and .'
        ' only, since a folder will have that name.'
      )
  if not configs:
    raise InputError(f'{path} makes an empty list of configs: add one to it.')
  return configs


def _join_values(argv: Sequence[str]) -> list[str]:
  """Joins '--config.FIELD', 'VALUE' to '--config.FIELD=VALUE'.

  absl accepts both, but sets a boolean without '=' to true.
  """
  joined = ['']
  for argument in argv:
    is_field = joined[-1].startswith('--config.') and '=' not in joined[-1]
    if is_field and not argument.startswith('-'):
      joined[-1] += f'={argument}'
    else:
      joined.append(argument)
  return joined[1:]


def _check_names(
  config: ml_collections.ConfigDict, argv: Sequence[str]
) -> None:
  """Refuses flags of fields that the config does not have."""
  known = flatten(config)
  for argument in argv:
    match = re.match(r'--?(?:no)?config\.([^=]*)', argument)
    if match and match[1] not in known:
      # Else a field of a similar name in another group.
      last = {field.rpartition('.')[2]: field for field in reversed(known)}
      near = difflib.get_close_matches(match[1], known) or [
        last[name]
        for name in difflib.get_close_matches(match[1].rpartition('.')[2], last)
      ]
      advice = f'use {near[0]!r}' if near else f'it has {", ".join(known)}'
      if match[1].partition('.')[0] in fields.OPEN_GROUPS:
        advice += ', or add it in the config file, as an option of a function'
      raise InputError(f'The config has no field {match[1]!r}: {advice}.')


def _explain_value(
  message: str, config: ml_collections.ConfigDict | None
) -> str:
  """Turns absl's message about a value of the wrong type into our sentence."""
  match = re.match(r'flag --config\.([\w.]+)=(.*?): ', message)
  if config is None or match is None:
    return f'{message.strip(".")}: see --help.'
  group, _, name = match[1].rpartition('.')
  kind = (config[group] if group else config).get_type(name)
  return f'{match[1]} is {match[2]!r}: it must be {TYPES[kind]}.'


def runs(
  configs: Mapping[str | None, ml_collections.ConfigDict],
  seeds: Sequence[int],
  name: str,
) -> dict[str, ml_collections.ConfigDict]:
  """Returns the runs of a command: folder within the work folder -> config.

  Args:
    configs: From `parse_all`.
    seeds: Seeds to run each config with; if empty, the config's own.
    name: Name of a config that is not one of a list.

  Returns:
    '' -> the config; for a list of configs, or with seeds, NAME/seedS -> the
    config with that seed.
  """
  if not seeds and None in configs:
    return {'': configs[None]}
  result = {}
  for listed, config in configs.items():
    for seed in seeds or (config.seed,):
      run = config.copy_and_resolve_references()
      run.seed = seed
      result[f'{listed or name}/seed{seed}'] = run.lock()
  return result


def name_of(argv: Sequence[str]) -> str:
  """Names the config of a command line: FILE or FILE_PRESET."""
  path, _ = _split_config_argument(argv)
  file, *presets = str(path).removeprefix('ecg_jax:').split(':', 1)
  return '_'.join(filter(None, [pathlib.Path(file).stem, *presets]))


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses unknown fields and values that no run can use.

  What the dataset or a user-defined model decides, `experiment.check` does.

  Raises:
    InputError: Names the field and the value.
  """
  values = flatten(config)
  model = values['model.name']
  registry.check('model.name', model, registry.MODELS)
  kinds = default_config.groups(config)
  known = {'model.name'}.union(*(kind.fields() for kind in kinds))
  open_groups = fields.OPEN_GROUPS | (
    set() if model in MODELS else {'model', 'dropout'}
  )
  for path, value in values.items():
    if type(value) not in (*TYPES, type(None)):
      known_types = 'true or false, a number, a text, a list, or None'
      raise InputError(f'{path} is {value!r}: it must be {known_types}.')
    group = path.partition('.')[0]
    if path not in known and group not in open_groups:
      near = difflib.get_close_matches(path, known, n=1)
      raise InputError(
        f'The config has the field {path!r}, which a {model} does not have:'
        f' leave it out, or start from default_config.get_config({model!r}).'
        if group in ('model', 'dropout')
        else f'The config has the field {path!r}, which nothing reads:'
        f' {f"use {near[0]!r}" if near else "leave it out"}.'
      )
  for kind in kinds:
    if missing := kind.fields().keys() - values.keys():
      raise InputError(
        f'model.name is {model!r}, and the config lacks the field'
        f' {min(missing)!r}: start from default_config.get_config({model!r}).'
      )
    kind.of(values, **({'num_classes': 2} if kind.GROUP == 'model' else {}))
  window = values['spectrogram.window_samples']
  longest = values['augmentation.max_samples']
  if longest is not None and longest < window:
    raise InputError(
      f'augmentation.max_samples is {longest}: it must be at least'
      f' spectrogram.window_samples, {window}.'
    )


def names(config: ml_collections.ConfigDict) -> list[str]:
  """What of `ecg_jax.registry` decides the result; so not the metrics."""
  named = (config.model.name, config.data.name, config.loss.name)
  return [*named, *config.augmentation.functions]

"""The configuration of a run: from the command line, checked, compared.

No jax here: a mistake is told before anything slow is imported.
"""

import copy
import difflib
import functools
import json
import math
import pathlib
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from ecg_jax import cli, default_config
from ecg_jax.errors import ConfigError, Help, InputError

PUBLISHED_FOLDS = 5
"""Folds of the published table, which is used without data.folds_file."""

EXECUTION_FIELDS = (
  'folds',
  'data.manual_dir',
  'data.data_dir',
  'data.placement',
  'data.folds_file',  # the table itself is compared by its digest
  'tensorboard',
  'checkpoint_minutes',
  'remat',
  'devices_per_job',
  'on_nan',
)
"""Fields that may change between starts; all others decide the result."""

CHOICES: Mapping[str, tuple[str, ...]] = {
  'data.name': ('physionet2017', 'synthetic_ecg'),
  'data.placement': ('device', 'host'),
  'label_version': ('v1', 'v2', 'v3'),
  'dtype': ('float32', 'bfloat16'),
  'on_nan': ('stop', 'restore'),
  'spectrogram.normalise': ('none', 'record'),
  'phases.schedule': ('constant', 'cosine'),
  'model.name': ('cnn', 'crnn', 'residual_crnn'),
  'model.reduction': ('max_pool', 'stride'),
  'model.summary': ('last', 'mean'),
}
"""Fields that name one of a few things."""

_SHIPPED = pathlib.Path(__file__).with_name('configs')

_OF_THE_MODEL = ('model', 'dropout')  # groups that each model has of its own

_PHASES = ('kinds', 'epochs', 'learning_rates', 'schedule', 'warmup_epochs')

_NO_CONFIG = 'No config given: add --config configs/crnn.py, or ecg_jax:crnn.'

_TYPES: Mapping[type, str] = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  tuple: 'a list like (0, 1)',
}

_PHASE_KINDS = {
  'cnn': ('all',),
  'crnn': ('auxiliary', 'lstm', 'all'),
  'residual_crnn': ('all',),
}

_CONFIG_OF_MODEL = {'residual_crnn': 'crnn_fast'}

_AT_LEAST: Mapping[str, float] = {
  'data.max_records': 1,
  'spectrogram.window_samples': 2,
  'spectrogram.hop_samples': 1,
  'spectrogram.kept_bins': 1,
  'augmentation.burst_span_samples': 1,
  'batch_size': 1,
  'evaluation_batch_size': 1,
  'max_epochs': 1,
  'validate_every_epochs': 1,
  'patience_epochs': 1,
  'buckets.training': 1,
  'buckets.evaluation': 1,
  'chunk_steps': 1,
  'devices_per_job': 1,
  'seed': 0,
  'augmentation.max_samples': 1,
  'model.width': 1,
  'model.growth': 0,
  'model.blocks': 1,
  'model.layers_per_block': 1,
  'model.lstm_units': 1,
  'model.lstm_layers': 1,
  'model.blocks_per_stage': 1,
  'model.kernel_frames': 1,
}

_POSITIVE = (
  'spectrogram.power_floor',
  'augmentation.slowest_heart_rate',
  'model.batch_norm_epsilon',
  'checkpoint_minutes',
)

_NOT_NEGATIVE = ('weight_decay', 'phases.warmup_epochs')

_SHARES = (
  'average_decay',
  'augmentation.burst_share',
  'dropout.convolution',
  'dropout.lstm',
  'dropout.output',
  'model.batch_norm_momentum',
)


def define_flags() -> flags.FlagValues:
  """Flags of a command that takes a config; it adds its own before `parse`."""
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
    values: From `define_flags`; afterwards holds the parsed flags.
    argv: Program name and arguments.

  Returns:
    The checked config, locked.

  Raises:
    InputError: Anything that cannot be used, in one sentence; also a file
      with a list of configs, of which none is named.
  """
  configs = parse_all(values, argv)
  if None not in configs:
    path = config_path(argv)
    raise InputError(
      f'{path} holds a list of configs: name one of them, like'
      f' {path}:{next(iter(configs))}.'
    )
  return configs[None]


def parse_all(
  values: flags.FlagValues, argv: Sequence[str]
) -> dict[str | None, ml_collections.ConfigDict]:
  """As `parse`, but takes a list of configs too.

  Returns:
    None -> the one config; or name -> config of each in a file that defines
    `get_configs`, if it was given without a name. Fields of the command line
    are set in all of them.
  """
  path, rest = _take_config_argument(argv)
  if path is None:
    _parse_flags(values, rest, None)
    raise InputError(_NO_CONFIG)
  configs = _load(path)
  for config in configs.values():
    _parse_flags(values, rest, config)
    try:
      check(config)
    except KeyError as error:
      raise InputError(
        f'{path} makes a config without the field {error}: start from'
        ' ecg_jax.default_config.'
      ) from error
    _make_absolute(config)
  return configs


def _make_absolute(config: ml_collections.ConfigDict) -> None:
  """Makes paths absolute that a run is read with later, from any folder."""
  for owner, name in ((config, 'init_from'), (config.data, 'folds_file')):
    if owner[name] is not None:
      owner[name] = str(pathlib.Path(owner[name]).expanduser().absolute())


def _parse_flags(
  values: flags.FlagValues,
  argv: Sequence[str],
  config: ml_collections.ConfigDict | None,
) -> None:
  """Parses the flags, of which those named config.FIELD set the config's."""
  if config is not None:
    argv = _join_switches(config, argv)
    _check_names(config, argv)
    for name in [name for name in values if name.startswith('config')]:
      delattr(values, name)  # Of the config before it in a list.
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
    raise InputError(f'--{error.flagname} is no option: {advice}.') from error
  except flags.IllegalFlagValueError as error:
    raise InputError(_explain_value(str(error), config)) from error
  except flags.Error as error:
    raise InputError(f'{str(error).strip(".")}: see --help.') from error
  if values.help:
    raise Help(_help(values, config))
  if len(rest) > 1:
    raise InputError(f'{rest[1]!r} is no option: see --help.')


def _help(
  values: flags.FlagValues, config: ml_collections.ConfigDict | None
) -> str:
  """The options, and the fields of the config if one was given."""
  lines = [
    '--config: FILE[:NAME]; then --config.FIELD VALUE sets a field of it'
  ]
  lines += [
    f'--{name}: {values[name].help}'
    for name in values
    if not name.startswith('config') and len(name) > 1
  ]
  if config is not None:
    lines += ['', 'Fields of this config:']
    lines += [f'--config.{f} {v!r}' for f, v in _fields(config).items()]
  return '\n'.join(lines)


def _take_config_argument(
  argv: Sequence[str],
) -> tuple[str | None, list[str]]:
  """What --config was given (the last counts), and the other arguments."""
  path, rest, given = None, [], iter(argv)
  for argument in given:
    name, equals, value = argument.partition('=')
    if name in ('--config', '-config'):
      path = value if equals else next(given, None)
    else:
      rest.append(argument)
  return path, rest


def config_path(argv: Sequence[str]) -> str:
  """What --config was given, of arguments that `parse` accepted."""
  path, _ = _take_config_argument(argv)
  assert path is not None
  return path


def _find(path: str) -> tuple[str, str | None]:
  """The file that --config names, and the preset or listed config in it.

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
  """The configs as their file makes them, locked; as `parse` returns them."""
  file, name = _find(path)
  try:
    made = runpy.run_path(file)
    configs: dict[str | None, ml_collections.ConfigDict]
    if 'get_configs' not in made:
      configs = {None: made['get_config'](*[] if name is None else [name])}
    elif name is None:
      configs = dict(made['get_configs']())
    else:
      known = dict(made['get_configs']())
      if name not in known:
        near = difflib.get_close_matches(name, known) or known
        raise ValueError(f'it has no {name!r}: use {" or ".join(near)}')
      configs = {None: known[name]}
    for listed, config in configs.items():
      _fields(config)
      configs[listed] = ml_collections.ConfigDict(config).lock()
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
        ' only, since it names a folder.'
      )
  if not configs:
    raise InputError(f'{path} makes an empty list of configs: add one to it.')
  return configs


def _join_switches(
  config: ml_collections.ConfigDict, argv: Sequence[str]
) -> list[str]:
  """'--config.FIELD', 'false' as '--config.FIELD=false' for switches.

  Other fields take their value in either form, but absl takes a switch without
  a value for one that is set.
  """
  switches = {
    f'--config.{field}'
    for field, value in _fields(config).items()
    if isinstance(value, bool)
  }
  joined: list[str] = []
  for argument in argv:
    if joined and joined[-1] in switches and not argument.startswith('-'):
      joined[-1] += f'={argument}'
    else:
      joined.append(argument)
  return joined


def _check_names(
  config: ml_collections.ConfigDict, argv: Sequence[str]
) -> None:
  """Refuses fields that the config does not have."""
  known = _fields(config)
  for argument in argv:
    given = re.match(r'--?(?:no)?config\.([^=]*)', argument)
    if given and given[1] not in known:
      # Else one of about that name in another group.
      last = {field.rpartition('.')[2]: field for field in reversed(known)}
      near = difflib.get_close_matches(given[1], known) or [
        last[name]
        for name in difflib.get_close_matches(given[1].rpartition('.')[2], last)
      ]
      advice = f'use {near[0]!r}' if near else f'it has {", ".join(known)}'
      raise InputError(f'The config has no field {given[1]!r}: {advice}.')


def _explain_value(
  message: str, config: ml_collections.ConfigDict | None
) -> str:
  """A sentence on a value of the wrong type, of absl's message about it."""
  given = re.match(r'flag --config\.([\w.]+)=(.*?): ', message)
  if config is None or given is None:
    return f'{message.strip(".")}: see --help.'
  group, _, name = given[1].rpartition('.')
  kind = (config[group] if group else config).get_type(name)
  return f'{given[1]} is {given[2]!r}: it must be {_TYPES[kind]}.'


def parse_seeds(text: str | None) -> tuple[int, ...]:
  """The seeds in '0,1,2'; none in None.

  Raises:
    InputError: They are no whole numbers from 0, or one is named twice.
  """
  try:
    seeds = tuple(map(int, text.split(','))) if text is not None else ()
  except ValueError:
    seeds = (-1,)
  if any(not 0 <= seed < 2**32 for seed in seeds):
    raise InputError(
      f'--seeds is {text!r}: write whole numbers from 0 to {2**32 - 1}, like'
      ' 0,1,2.'
    )
  if len(set(seeds)) < len(seeds):
    raise InputError(f'--seeds is {text!r}: name each seed once.')
  return seeds


def runs(
  configs: Mapping[str | None, ml_collections.ConfigDict],
  seeds: Sequence[int],
  name: str,
) -> dict[str, ml_collections.ConfigDict]:
  """The runs that a command asks for, by their folder in the work folder.

  Args:
    configs: From `parse_all`.
    seeds: Seeds to run each config with; none for its own.
    name: Of the config file, for a config that has none in a list.

  Returns:
    '' -> the one config; for a list of configs, or with seeds, NAME/seedS ->
    the config with that seed.
  """
  if not seeds and None in configs:
    return {'': configs[None]}
  found = {}
  for listed, config in configs.items():
    for seed in seeds or (config.seed,):
      run = config.copy_and_resolve_references()
      run.seed = seed
      found[f'{listed or name}/seed{seed}'] = run.lock()
  return found


def name_of(path: str) -> str:
  """The name of a config: its file's, with the preset behind a `_`."""
  file, *presets = path.removeprefix('ecg_jax:').split(':', 1)
  return '_'.join(filter(None, [pathlib.Path(file).stem, *presets]))


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses values that no run can use.

  Raises:
    InputError: Names the field and the value.
  """
  fields = _fields(config)
  if unknown := _strange(fields):
    raise InputError(
      f'The config has the field {unknown[0]!r}, which nothing reads: leave it'
      ' out.'
    )
  for field, choices in CHOICES.items():
    if field in fields and fields[field] not in choices:
      near = difflib.get_close_matches(str(fields[field]), choices)
      raise InputError(
        f'{field} is {fields[field]!r}: use '
        + (f'{near[0]!r}.' if near else f'{" or ".join(map(repr, choices))}.')
      )
  described = 'crnn' if 'model.lstm_units' in fields else 'cnn'
  if 'model.widths' in fields:
    described = 'residual_crnn'
  given = fields['model.name']
  if given != described:
    raise InputError(
      f'model.name is {given!r}: this config describes a {described}, use'
      f' configs/{_CONFIG_OF_MODEL.get(given, given)}.py.'
    )
  for field, least in _AT_LEAST.items():
    if fields.get(field) is not None and fields[field] < least:
      raise InputError(
        f'{field} is {fields[field]}: it must be at least {least}.'
      )
  if fields['seed'] >= 2**32:
    raise InputError(f'seed is {fields["seed"]}: it must be below {2**32}.')
  for field in _POSITIVE:
    if not 0 < fields[field] < math.inf:
      raise InputError(f'{field} is {fields[field]}: it must be positive.')
  for field in _NOT_NEGATIVE:
    if not 0 <= fields[field] < math.inf:
      raise InputError(f'{field} is {fields[field]}: it must be at least 0.')
  for field in _SHARES:
    if field in fields and not 0 <= fields[field] < 1:
      raise InputError(
        f'{field} is {fields[field]}: it must be at least 0 and below 1.'
      )
  slowest = fields['augmentation.slowest_heart_rate']
  fastest = fields['augmentation.fastest_heart_rate']
  if not slowest <= fastest < math.inf:
    raise InputError(
      f'augmentation.fastest_heart_rate is {fastest}: it must be at least'
      f' augmentation.slowest_heart_rate, {slowest}.'
    )
  if fields['spectrogram.hop_samples'] > fields['spectrogram.window_samples']:
    raise InputError(
      f'spectrogram.hop_samples is {fields["spectrogram.hop_samples"]}: it must'
      f' not exceed spectrogram.window_samples,'
      f' {fields["spectrogram.window_samples"]}.'
    )
  power = fields['class_weight_power']
  if power is not None and not 0 <= power <= 1:
    raise InputError(
      f'class_weight_power is {power}: it must be between 0 and 1.'
    )
  bins = fields['spectrogram.window_samples'] // 2 + 1
  if (fields['spectrogram.kept_bins'] or 1) > bins:
    raise InputError(
      f'spectrogram.kept_bins is {fields["spectrogram.kept_bins"]}: a window of'
      f' {fields["spectrogram.window_samples"]} samples has {bins}.'
    )
  longest = fields['augmentation.max_samples']
  if longest is not None and longest < fields['spectrogram.window_samples']:
    raise InputError(
      f'augmentation.max_samples is {longest}: it must be at least'
      f' spectrogram.window_samples, {fields["spectrogram.window_samples"]}.'
    )
  if fields.get('model.kernel_frames', 1) % 2 == 0:
    raise InputError(
      f'model.kernel_frames is {fields["model.kernel_frames"]}: it must be odd.'
    )
  for width in fields.get('model.widths', (1,)) or (0,):
    if type(width) is not int or width < 1:
      raise InputError(
        f'model.widths is {fields["model.widths"]}: it lists the channels of'
        ' each stage, like (40, 64, 96).'
      )
  _check_folds(fields['folds'], fields['data.folds_file'])
  _check_phases(fields)


def _check_folds(folds: Any, folds_file: str | None) -> None:
  if not folds:
    raise InputError('folds is empty: name at least one, like (0,).')
  for fold in folds:
    if type(fold) is not int:
      raise InputError(
        f'folds holds {fold!r}: write whole numbers, like (0, 1).'
      )
    if fold < 0 or (folds_file is None and fold >= PUBLISHED_FOLDS):
      last = '' if folds_file else f' to {PUBLISHED_FOLDS - 1}'
      raise InputError(f'folds holds {fold}: folds are numbered from 0{last}.')
  if len(set(folds)) < len(folds):
    raise InputError(f'folds is {folds}: name each fold once.')


def _check_phases(fields: Mapping[str, Any]) -> None:
  kinds = fields['phases.kinds']
  for field in ('phases.epochs', 'phases.learning_rates'):
    if len(fields[field]) != len(kinds):
      raise InputError(
        f'{field} is {fields[field]}: give one for each of phases.kinds,'
        f' {len(kinds)} in all.'
      )
  known = _PHASE_KINDS[fields['model.name']]
  for kind in kinds:
    if kind not in known:
      raise InputError(
        f'phases.kinds holds {kind!r}: a {fields["model.name"]} can train'
        f' {" or ".join(map(repr, known))}.'
      )
  if not kinds or kinds[-1] == 'auxiliary':
    raise InputError(
      f'phases.kinds is {kinds}: the last phase must train the model itself.'
    )
  for epochs in fields['phases.epochs']:
    if type(epochs) is not int or epochs < 1:
      raise InputError(
        f'phases.epochs holds {epochs!r}: epochs are whole numbers from 1.'
      )
  for rate in fields['phases.learning_rates']:
    if type(rate) not in (int, float) or not 0 < rate < math.inf:
      raise InputError(
        f'phases.learning_rates holds {rate!r}: rates are positive numbers.'
      )


def deciding(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Field -> value, as JSON keeps it, of those that decide the result."""
  fields = _fields(to_json(config))
  return {k: v for k, v in fields.items() if k not in EXECUTION_FIELDS}


def differences(
  config: ml_collections.ConfigDict, other: ml_collections.ConfigDict
) -> list[str]:
  """Fields that decide the result and differ, as `compare` tells them."""
  # By way of JSON, which knows no difference between a list and a tuple.
  here, there = (_with_tuples(deciding(one)) for one in (config, other))
  return compare(here, there)


def compare(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
  """Names whose values differ, as 'name: value here, value there'."""
  return [
    f'{name}: {here.get(name)!r} here, {there.get(name)!r} there'
    for name in sorted({*here, *there})
    if here.get(name) != there.get(name)
  ]


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as JSON keeps it."""
  return json.loads(config.to_json_best_effort())


def from_json(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The config that `to_json` was given, by this version or one before it.

  Fields were added switched off, so one that is missing has the value that it
  has in ecg_jax.default_config.

  Raises:
    InputError: It has a field that this version does not know.
  """
  if unknown := _strange(_fields(fields)):
    raise InputError(
      f'The config has the field {unknown[0]!r}, which this version does not'
      ' know: use the version that wrote it.'
    )
  complete: dict[str, Any] = copy.deepcopy(dict(fields))
  for name, value in _common().items():
    group, _, field = name.rpartition('.')
    (complete.setdefault(group, {}) if group else complete).setdefault(
      field, value
    )
  return ml_collections.ConfigDict(_with_tuples(complete))


def defaults(names: Iterable[str]) -> dict[str, Any]:
  """Field -> value, as JSON keeps it, of those that the default config sets."""
  return {name: _common()[name] for name in names if name in _common()}


def _strange(names: Iterable[str]) -> list[str]:
  """Fields that no config has; `make_network` checks those of a model."""
  known = {*_common(), *(f'phases.{name}' for name in _PHASES)}
  return [
    name
    for name in names
    if name not in known and name.partition('.')[0] not in _OF_THE_MODEL
  ]


@functools.cache
def _common() -> dict[str, Any]:
  return _fields(to_json(default_config.get_config()))


def _with_tuples(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _with_tuples(item) for name, item in value.items()}
  return tuple(value) if isinstance(value, list) else value


def _fields(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Field with its groups, 'data.name' -> value."""
  found: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      found |= _fields(value, f'{prefix}{name}.')
    else:
      found[prefix + name] = value
  return found

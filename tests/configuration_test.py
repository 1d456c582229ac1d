import json
import pathlib
import re
import shlex

import pytest

from ecg_jax import (
  configuration,
  default_config,
  experiment,
  fields,
  registry,
  stored_config,
)
from ecg_jax.errors import Help, InputError
from ecg_jax.fields.group import flatten
from ecg_jax.fields.models import MODELS
from ecg_jax.registry import DATASETS
from tests.helpers import ROOT, run_python

CONFIGS = [
  'configs/cnn.py',
  'configs/cnn.py:authors',
  'configs/cnn.py:short',
  'configs/crnn.py',
  'configs/crnn.py:paper',
  'configs/crnn.py:short',
  'configs/crnn.py:authors',
  'configs/crnn_fast.py',
  'configs/crnn_beats.py',
  'configs/quickstart.py',
  'configs/ablations.py:stride',
]
BOTH = ('configs/crnn.py', 'configs/crnn_fast.py')
"""Between them they have every field."""

LIST = """
from ecg_jax.configs import cnn, crnn
def get_configs():
  return {'b': cnn.get_config(), 'a-1.x': crnn.get_config('authors')}
"""


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def parse(*arguments, config='configs/crnn.py'):
  given = ['main', '--config', config] if config else ['main']
  return configuration.parse(configuration.define_flags(), [*given, *arguments])


def refusal(*arguments, config='configs/crnn.py'):
  """The message, after checking that it is one sentence."""
  with pytest.raises(InputError) as caught:
    experiment.check(parse(*arguments, config=config))
  message = str(caught.value)
  assert re.fullmatch(r'\S.*[^.]\.', message), message
  return message


def fields_of(config):
  return flatten(config)


def config_with(field):
  """The paper's CRNN or, for a field of another model, that model's."""
  for config in BOTH:
    if field in fields_of(parse(config=config)):
      return config
  raise AssertionError(field)


def test_every_config_of_the_folder_can_be_used():
  files = {f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')}
  tested = {config.partition(':')[0] for config in CONFIGS}
  assert files - tested <= {'configs/__init__.py'}
  for config in CONFIGS:
    configuration.check(parse(config=config))


def test_paths_that_a_run_is_read_with_later_are_absolute():
  arguments = ['init_from=runs/a', 'data.folds_file=b', 'data.manual_dir=c']
  config = parse(*(f'--config.{argument}' for argument in arguments))
  here = pathlib.Path.cwd()
  assert config.init_from == str(here / 'runs' / 'a')
  assert config.data.folds_file == str(here / 'b')
  assert config.data.manual_dir == str(here / 'c')
  config = parse('--config.init_from=ecg_jax:crnn_beats')  # It is no path.
  assert config.init_from == 'ecg_jax:crnn_beats'


def test_names_of_own_files_are_absolute_too(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').write_text('1 / 0  # Parsing a config runs nothing.')
  config = parse(
    '--config.data.name=mine.py:Builder',
    '--config.loss.name=mine.py:loss',
    '--config.augmentation.functions=("mine.py:shift", "bursts", "json:dumps")',
    '--config.metrics=mine.py:kappa',
    config=str(ROOT / 'configs' / 'crnn.py'),
  )
  own = f'{tmp_path}/mine.py'
  assert configuration.names(config) == [
    *('crnn', f'{own}:Builder', f'{own}:loss'),
    *(f'{own}:shift', 'bursts', 'json:dumps'),
  ]
  assert config.metrics == (f'{own}:kappa',)
  again = stored_config.from_json(stored_config.to_json(config))
  assert configuration.names(again) == configuration.names(config)


def test_models_are_the_same_in_fields_and_registry():
  assert MODELS.keys() == registry.MODELS.keys()
  for name, kind in MODELS.items():
    model = registry.find('model.name', name, registry.MODELS)
    assert model.config_type is kind


@pytest.fixture
def load_values(tmp_path):
  """Parses a config file that returns a dictionary."""

  def load(values):
    path = tmp_path / 'partial.py'
    path.write_text(f'def get_config(): return {values!r}')
    return parse(config=str(path))

  return load


@pytest.mark.parametrize('model', MODELS)
def test_a_partial_config_is_completed(load_values, model):
  expected = fields_of(default_config.get_config(model))
  assert fields_of(load_values({'model': {'name': model}})) == expected
  values = {'seed': 3, 'data': {'max_records': 9}, 'phases': {'epochs': (4,)}}
  found = fields_of(load_values({'model': {'name': model}, **values}))
  assert found == expected | flatten(values)
  # What is None is typed, so that the command line can set it.
  config = default_config.get_config(model)
  with pytest.raises(TypeError):
    config.data.max_records = 'x'


@pytest.mark.parametrize('model', MODELS)
def test_each_wrong_type_is_refused(load_values, model):
  config = default_config.get_config(model)
  for kind in default_config.groups(config):
    for path, field in kind.fields().items():
      wanted = kind.type_of(field.name)
      wrong = [3] if wanted is str else ['x']
      wrong += (
        [True] if wanted in (int, float) else [1] if wanted is bool else []
      )
      wrong += [None] if field.default is not None else []
      for value in wrong:
        group, _, name = path.rpartition('.')
        values = {'model': {'name': model}}
        (values.setdefault(group, {}) if group else values)[name] = value
        with pytest.raises(InputError) as caught:
          load_values(values)
        expected = f'{path} is {value!r}: it must be {WORDS[wanted]}.'
        assert str(caught.value) == expected


def test_every_field_can_be_set_in_both_forms():
  plain = fields_of(parse())
  for field, value in plain.items():
    if value is None:
      text = field.endswith(('_dir', '_file', '_from'))
      large = field.endswith(('samples', 'rate'))
      value = '/a b' if text else '70' if large else '7'
      value = '0.5' if field == 'class_weight_power' else value
    for form in (
      [f'--config.{field}', str(value)],
      [f'--config.{field}={value}'],
    ):
      found = fields_of(parse(*form))
      assert str(found.pop(field)) == str(value)
      assert found == {f: v for f, v in plain.items() if f != field}


@pytest.mark.parametrize('field', ['tensorboard', 'augmentation.bursts'])
def test_a_switch_takes_its_value_in_every_form(field):
  for form, value in [
    ([f'--config.{field}', 'False'], False),
    ([f'--config.{field}', 'true'], True),
    ([f'--config.{field}=false'], False),
    ([f'--noconfig.{field}'], False),
    ([f'--config.{field}', '--config.seed', '3'], True),
  ]:
    assert fields_of(parse(*form))[field] is value


@pytest.mark.parametrize(
  ('arguments', 'config', 'part'),
  [
    ([], None, '--config configs/crnn.py'),
    (['--config.seed=1'], None, '--config configs/crnn.py'),
    (['--config='], None, "''"),
    (['--config'], None, '--config'),
    ([], 'configs', "'configs'"),
    (['--config.seed', '1'], 'none/such.py', "'none/such.py'"),
    ([], 'configs/quickstart.py:authors', 'configs/quickstart.py:authors'),
    (
      ['--config.model.name=crnn'],
      'configs/cnn.py',
      "'crnn', and the config lacks the field 'dropout.lstm': start from"
      " default_config.get_config('crnn').",
    ),
    (
      ['--config.model.name=cnn'],
      'configs/crnn.py',
      "the field 'dropout.lstm', which a cnn does not have: leave it out, or"
      " start from default_config.get_config('cnn').",
    ),
    (['--config.batch_size'], 'configs/crnn.py', '--config.batch_size'),
    (['--debg'], None, 'Unknown flag --debg: use --debug.'),
    (['--zzz'], None, 'Unknown flag --zzz: see --help.'),
    (['--debug=maybe'], None, '--debug'),
    (['stray'], 'ecg_jax:cnn', "Unknown argument 'stray': see --help."),
    (['--config.seed', '1', 'stray'], 'ecg_jax:cnn', "argument 'stray': see"),
    (['--', 'stray'], 'ecg_jax:cnn', "Unknown argument 'stray': see --help."),
  ],
)
def test_commands_that_cannot_be_used(arguments, config, part):
  assert part in refusal(*arguments, config=config)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    ('def get_config(:\n', r'SyntaxError: .*broken\.py, line 1'),
    ('import nothing_of_this_name', 'ModuleNotFoundError: .*nothing_of_this'),
    ('def get_config():\n  return 1 / 0', 'ZeroDivisionError: division'),
    ('def get_config():\n  raise ValueError("odd\\nvalue")', r'\(value\)'),
    ('def get_config():\n  raise ValueError', 'ValueError'),
    ('def get_config():\n  return {}[3]', 'KeyError: 3'),
    ('def get_config():\n  return 3', "'int' object has no"),
    ('def get_config():\n  return {"seed": 1}', r'\(it has no model\.name\)'),
    ('def get_config():\n  return {"model": "cnn"}', 'has no model.name'),
    (
      'def get_config():\n  return {"data": 3, "model": {"name": "cnn"}}',
      "'in",
    ),
    ('\x00', 'null bytes'),
  ],
)
def test_broken_config(tmp_path, content, reason):
  path = tmp_path / 'broken.py'
  path.write_text(content)
  message = refusal(config=str(path))
  assert str(path) in message
  assert re.search(reason, message)


@pytest.mark.parametrize(
  ('given', 'nearest'),
  [
    ('data.max_record', 'data.max_records'),
    ('max_records', 'data.max_records'),
    ('batchsize', 'batch_size'),
    ('daat.name', 'data.name'),
    ('model.lstm_unit', 'model.lstm_units'),
    ('lstm_units', 'model.lstm_units'),
    ('label_versoin', 'label_version'),
    ('data.name.x', 'data.name'),
    ('Seed', 'seed'),
  ],
)
def test_unknown_field_gets_the_nearest(given, nearest):
  for form in ([f'--config.{given}', '3'], [f'--config.{given}=3']):
    message = refusal(*form)
    assert repr(given) in message
    assert f'use {nearest!r}' in message


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ('ecg_jax:crn', r"config 'ecg_jax:crn': use ecg_jax:crnn or ecg_jax:cnn\."),
    ('ecg_jax:zz', r"'ecg_jax:zz': use ecg_jax:ablations or .*:quickstart\."),
    ('ecg_jax', r"'ecg_jax': use ecg_jax:ablations or .*:quickstart\."),
    ('ecg_jax:crnn:autors', "preset 'autors': use .*'short' or 'authors'"),
    ('configs/cnn.py:autors', "cnn.py:autors .*: use .*'short' or 'authors'"),
    ('ecg_jax:ablations', 'name one of them, like ecg_jax:ablations:paper'),
    ('ecg_jax:ablations:strid', "no 'strid': use stride"),
    ('ecg_jax:__init__', 'no shipped config'),
  ],
)
def test_unknown_shipped_config_gets_the_nearest(config, message):
  assert re.search(message, refusal(config=config))


@pytest.mark.parametrize('config', CONFIGS)
def test_shipped_configs_are_the_same_by_name(config, monkeypatch, tmp_path):
  here = stored_config.to_json(parse(config=config))
  monkeypatch.chdir(tmp_path)
  name = config.replace('configs/', 'ecg_jax:').replace('.py', '')
  assert stored_config.to_json(parse(config=name)) == here


def test_unknown_field_without_a_near_one_gets_all():
  message = refusal('--config.zzzz', '3')
  assert "'zzzz'" in message
  assert all(field in message for field in fields_of(parse()))
  assert "'data'" in refusal('--config.data', '3')


WORDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  str: 'a text',
  tuple: 'a list like (0, 1)',
}

TYPES = [
  ('batch_size', 'abc', 'a whole number'),
  ('batch_size', '2.5', 'a whole number'),
  ('batch_size', '', 'a whole number'),
  ('data.max_records', 'all', 'a whole number'),
  ('max_epochs', '1e3', 'a whole number'),
  ('seed', 'None', 'a whole number'),
  ('dropout.lstm', 'much', 'a number'),
  ('tensorboard', 'maybe', 'true or false'),
  ('folds', ' ', 'a list'),
]

FOLDS = [
  ('(0,x)', "'(0,x)'"),
  ('x', "'x'"),
  ('(True,)', 'True'),
  ('(0.5,)', '0.5'),
  ("('0',)", "'0'"),
  ('(0,None)', 'None'),
  ('((0,1),)', '(0, 1)'),
  ('(0', "'(0'"),
  ('', "''"),
  ('0.0', '0.0'),
  ('(5,)', '5'),
  ('(0,7)', '7'),
  ('-1', '-1'),
  ('(0,-2)', '-2'),
]

OWN = ", or name one of your own like 'my_module:NAME' or 'path/file.py:NAME'"

CHOICES = [
  ('model.name', 'crn', f"'crnn'{OWN}"),
  ('model.name', 'transformer', f"'cnn' or 'crnn' or 'residual_crnn'{OWN}"),
  ('model.reduction', 'maxpool', "'max_pool'"),
  ('model.summary', 'first', "'last' or 'mean'"),
  ('data.name', 'physionet2018', f"'physionet2017'{OWN}"),
  ('data.name', 'ptbxl', f'{" or ".join(map(repr, DATASETS))}{OWN}'),
  ('data.placement', 'devices', "'device'"),
  ('loss.name', 'cross', f"'cross_entropy'{OWN}"),
  ('dtype', 'float', "'float32'"),
  ('dtype', 'half', "'float32' or 'bfloat16'"),
  ('label_version', '3', "'v3', as physionet2017 has"),
  ('label_version', 'v4', "'v1' or 'v2' or 'v3', as physionet2017 has"),
  ('on_nan', 'restor', "'restore'"),
  ('phases.schedule', 'cos', "'cosine'"),
  ('spectrogram.normalise', 'records', "'record'"),
]

RATES = [
  *(('0', '0'), ('-1', '-1'), ('1e999', 'inf')),
  *(("'a'", "'a'"), ('True', 'True')),
]

REFUSED = [
  *(
    (field, value, f'{field} is {value!r}: it must be {wanted}')
    for field, value, wanted in TYPES
  ),
  *(('folds', value, f'folds holds {part}:') for value, part in FOLDS),
  ('folds', '(0,1,0)', 'folds is (0, 1, 0):'),
  ('folds', '()', 'folds is empty'),
  *(
    (field, value, f'{field} is {value!r}: use {advice}.')
    for field, value, advice in CHOICES
  ),
  ('metrics', '("kappa", "kapa")', f"metrics is 'kapa': use 'kappa'{OWN}."),
  ('metrics', '(3,)', 'metrics holds 3: it must be a text.'),
  ('augmentation.functions', 'burst', f"'burst': use 'bursts'{OWN}."),
  (
    'augmentation.functions',
    'no.py:f',
    'there is no file no.py: name one that',
  ),
  ('seed', str(2**32), f'seed is {2**32}: it must be below {2**32}'),
  ('augmentation.fastest_heart_rate', '59.0', 'rate is 59.0: it must be at'),
  ('jobs_per_device', '0', 'jobs_per_device is 0: it must be at least 1.'),
  ('spectrogram.hop_samples', '65', 'hop_samples is 65: it must not exceed'),
  ('spectrogram.kept_bins', '34', 'bins is 34: it must not exceed 33'),
  ('augmentation.max_samples', '63', 'is 63: it must be at least spectrogram'),
  ('model.kernel_frames', '4', 'frames is 4: it must be odd.'),
  *(
    ('model.widths', widths, 'model.widths is (')
    for widths in ('()', '(40,0)', '(40,x)', '(40,1.5)')
  ),
  ('phases.epochs', '(1,2)', 'phases.epochs is (1, 2): set one'),
  ('phases.epochs', '3', 'phases.epochs is (3,): set one'),
  ('phases.epochs', '(1,2,3,4,x)', "is ('(1,2,3,4,x)',): set one"),
  ('phases.epochs', '(1,2,3,4,0)', 'phases.epochs holds 0:'),
  ('phases.epochs', '(1,2,3,4,5.0)', 'phases.epochs holds 5.0:'),
  ('phases.epochs', '(1,2,3,4,True)', 'phases.epochs holds True:'),
  ('phases.learning_rates', '(1e-3,)', 'is (0.001,): set one'),
  *(
    ('phases.learning_rates', f'(1,1,1,1,{rate})', f'rates holds {shown}:')
    for rate, shown in RATES
  ),
  ('phases.kinds', "('all',)", 'is (500, 100, 200, 200, 200): set one'),
  ('phases.kinds', "('al','all','all','all','all')", "kinds holds 'al':"),
  ('phases.kinds', "('all','all','all','all','auxiliary')", 'the last phase'),
]


@pytest.mark.parametrize(('field', 'value', 'part'), REFUSED)
def test_values_that_cannot_be_used(field, value, part):
  for form in ([f'--config.{field}', value], [f'--config.{field}={value}']):
    message = refusal(*form, config=config_with(field))
    assert part in message
    assert message.startswith(field.partition('.')[0])


LEAST = {
  **dict.fromkeys(('seed', 'model.growth', 'trees.rounds'), 0),
  **dict.fromkeys(('spectrogram.window_samples', 'trees.leaves'), 2),
  **{'data.num_folds': 2, 'data.sampling_rate': 50},
}
POSITIVE = {
  *('augmentation.slowest_heart_rate', 'augmentation.fastest_heart_rate'),
  *('spectrogram.power_floor', 'model.batch_norm_epsilon'),
  *('checkpoint_minutes', 'trees.learning_rate'),
}
NOT_NEGATIVE = {
  *('weight_decay', 'phases.warmup_epochs', 'trees.l2_regularization'),
}


def rule_of(field, kind):
  """The end of the sentence, and values that the field refuses."""
  if kind is int:
    least = LEAST.get(field, 1)
    return f'be at least {least}', [least - 1]
  if field == 'trees.feature_share':
    return 'be above 0 and at most 1', [0.0, 1.1, 'nan']
  if field.endswith('class_weight_power'):
    return 'be between 0 and 1', [-0.1, 1.1, 'nan']
  if field in POSITIVE:
    return 'be positive', [0.0, -1.0, 'inf', 'nan']
  if field in NOT_NEGATIVE:
    return 'be at least 0', [-0.1, 'inf', 'nan']
  return 'be at least 0 and below 1', [-0.1, 1.0, 'nan']


def test_every_number_is_checked():
  for file in BOTH:
    config = parse(config=file)
    for field in fields_of(config):
      group, _, name = field.rpartition('.')
      kind = (config[group] if group else config).get_type(name)
      if kind in (int, float):
        rule, values = rule_of(field, kind)
        for value in values:
          message = refusal(f'--config.{field}={value}', config=file)
          assert message == f'{field} is {value}: it must {rule}.'


def test_folds():
  for value in ['3', '(3,)', '[3]']:
    assert parse('--config.folds', value).folds == (3,)
  assert parse('--config.folds=(4, 0)').folds == (4, 0)
  # How many folds a table of the user's has is known once it is read.
  table = '--config.data.folds_file=table.json'
  assert parse('--config.folds=9', table).folds == (9,)
  assert 'holds -9:' in refusal('--config.folds=-9', table)


def test_no_phases():
  names = ('kinds', 'epochs', 'learning_rates')
  empty = [f'--config.phases.{name}=()' for name in names]
  assert 'phases.kinds is ()' in refusal(*empty)


def test_help_ends_without_a_config_and_lists_the_fields_of_one():
  with pytest.raises(Help) as caught:
    parse('--help', config=None)
  assert '--config' in str(caught.value)
  with pytest.raises(Help) as caught:
    parse('-h')
  for field, value in fields_of(parse()).items():
    assert f'--config.{field} {value!r}\n' in f'{caught.value}\n'


@pytest.mark.parametrize(
  'kind', [*fields.GROUPS, *MODELS.values()], ids=lambda kind: kind.__name__
)
def test_help_explains_every_field(kind):
  texts = kind.describe()
  assert kind.fields().keys() <= texts.keys()
  assert all(re.fullmatch(r'\S.{8,}\.', text) for text in texts.values())


@pytest.mark.parametrize('config', ['configs/cnn.py', *BOTH])
def test_help_has_each_field_with_its_text(config):
  with pytest.raises(Help) as caught:
    parse('--help', config=config)
  shown = f'{" ".join(str(caught.value).split())} --'
  texts = {
    'model.name': "Model: 'cnn', 'crnn', 'residual_crnn', or one of your own."
  }
  parsed = parse(config=config)
  for kind in default_config.groups(parsed):
    texts |= kind.describe()
  for field, value in fields_of(parsed).items():
    assert f'--config.{field} {value!r} {texts[field]} --' in shown


def test_the_config_is_locked():
  # Fields may be set before it is named.
  config = parse('--config.seed=1', '--config=ecg_jax:cnn', config=None)
  assert config.seed == 1
  with pytest.raises(AttributeError):
    config.data.max_record = 3


@pytest.fixture
def listed(tmp_path):
  """A file with a list of configs."""
  path = tmp_path / 'listed.py'
  path.write_text(LIST)
  return str(path)


def parse_all(*arguments, config):
  return configuration.parse_all(
    configuration.define_flags(), ['main', '--config', config, *arguments]
  )


def test_what_is_set_is_set_in_all_configs_of_a_list(listed):
  configs = parse_all(
    '--config.seed=3', '--noconfig.tensorboard', config=listed
  )
  assert list(configs) == ['b', 'a-1.x']
  for config, file in zip(
    configs.values(), ['configs/cnn.py', 'configs/crnn.py:authors'], strict=True
  ):
    alone = parse('--config.seed=3', '--config.tensorboard=0', config=file)
    assert fields_of(config) == fields_of(alone)
    assert config.is_locked


def test_one_of_a_list_is_named(listed):
  alone = parse(config='configs/cnn.py')
  assert fields_of(parse(config=f'{listed}:b')) == fields_of(alone)
  assert "no 'c': use b or a-1.x" in refusal(config=f'{listed}:c')
  assert "no 'a-1x': use a-1.x)" in refusal(config=f'{listed}:a-1x')
  assert f'name one of them, like {listed}:b.' in refusal(config=listed)
  # Also a field that one of them lacks.
  message = refusal('--config.model.lstm_units=3', config=listed)
  assert "no field 'model.lstm_units'" in message


@pytest.mark.parametrize(
  ('made', 'message'),
  [
    ('{}', 'makes an empty list'),
    ("{'../up': crnn.get_config()}", r"a config named '\.\./up'"),
    ("{'.hidden': crnn.get_config()}", r"a config named '\.hidden'"),
    ("{'a': 3}", 'cannot be used'),
    ("{'a': {}}", 'it has no model.name'),
  ],
)
def test_lists_that_cannot_be_used(tmp_path, made, message):
  path = tmp_path / 'bad.py'
  path.write_text(
    f'from ecg_jax.configs import crnn\ndef get_configs(): return {made}'
  )
  assert re.search(message, refusal(config=str(path)))


def test_runs_are_named_by_config_and_seed(listed):
  one = parse_all(config='configs/crnn.py')
  assert list(configuration.runs(one, (), 'crnn')) == ['']
  runs = configuration.runs(one, (0, 7), 'crnn')
  assert {name: run.seed for name, run in runs.items()} == {
    'crnn/seed0': 0,
    'crnn/seed7': 7,
  }
  assert all(run.is_locked for run in runs.values())
  several = parse_all('--config.seed=5', config=listed)
  runs = configuration.runs(several, (), 'listed')
  assert list(runs) == ['b/seed5', 'a-1.x/seed5']
  assert len(configuration.runs(several, (1, 2, 3), 'listed')) == 6


PAPER = {
  'label_version': 'v3',
  'spectrogram.window_samples': 64,
  'spectrogram.hop_samples': 32,
  'spectrogram.power_floor': 1e-3,
  'spectrogram.normalise': 'none',
  'augmentation.resampling': True,
  'augmentation.slowest_heart_rate': 60.0,
  'augmentation.fastest_heart_rate': 120.0,
  'augmentation.bursts': True,
  'augmentation.burst_span_samples': 15,
  'augmentation.burst_share': 0.2,
  'batch_size': 20,
  'class_weights': True,
  'compensated_sampling': False,
  'validate_every_epochs': 5,
  'patience_epochs': 100,
  'dropout.convolution': 0.15,
  'model.reduction': 'max_pool',
  'model.batch_norm_momentum': 0.99,
  'model.batch_norm_epsilon': 1e-3,
}


CRNN = {
  'phases.kinds': ('auxiliary', 'lstm', 'all', 'all', 'all'),
  'phases.epochs': (500, 100, 200, 200, 200),
  'phases.learning_rates': (1e-3, 1e-3, 1e-3, 1e-4, 1e-5),
  'dropout.lstm': 0.15,
  'model.lstm_units': 200,
  'model.lstm_layers': 3,
  'model.summary': 'last',
}

CNN = {
  'phases.kinds': ('all',),
  'phases.epochs': (500,),
  'phases.learning_rates': (1e-3,),
}


@pytest.mark.parametrize(('name', 'own'), [('crnn', CRNN), ('cnn', CNN)])
def test_configs_are_what_the_paper_says(name, own):
  found = fields_of(parse(config=f'configs/{name}.py'))
  assert (PAPER | own).items() <= found.items()


@pytest.mark.parametrize('model', ['cnn', 'crnn'])
def test_authors_preset_departs_from_the_paper_in_named_fields_alone(model):
  paper, authors = (
    fields_of(parse(config=f'configs/{model}.py:{preset}'))
    for preset in ('paper', 'authors')
  )
  assert authors.keys() == paper.keys()
  departures = {
    'augmentation.burst_span_samples': 11,
    'compensated_sampling': True,
    'dropout.convolution': 0.0,
    'model.reduction': 'stride',
  }
  if model == 'crnn':
    departures |= {
      'model.lstm_units': 100,
      'model.summary': 'mean',
      'phases.learning_rates': (1e-3,) * 5,
    }
  assert departures == {
    field: value for field, value in authors.items() if value != paper[field]
  }


@pytest.mark.parametrize('model', ['cnn', 'crnn'])
def test_short_preset_is_the_papers_method_in_fewer_epochs(model):
  paper, short = (
    fields_of(parse(config=f'configs/{model}.py:{preset}'))
    for preset in ('paper', 'short')
  )
  assert short.keys() == paper.keys()
  changed = {field for field in short if short[field] != paper[field]}
  assert changed == {'buckets.training', 'dtype', 'phases.epochs'}
  pairs = zip(short['phases.epochs'], paper['phases.epochs'], strict=True)
  assert all(few < many for few, many in pairs)


def test_ablations_have_the_short_schedule_by_the_fields_that_they_name():
  text = (ROOT / 'configs' / 'ablations.py').read_text()
  [flags] = re.findall(r'\n\n(  --config.*?)\n\n', text, re.DOTALL)
  found = parse(*shlex.split(flags), config='configs/ablations.py:paper')
  assert found == parse(config='configs/crnn.py:short')


def test_ablations_are_the_papers_crnn_with_one_change_each():
  paper = parse()
  found = {
    name: stored_config.differences(config, paper)
    for name, config in parse_all(config='configs/ablations.py').items()
  }
  assert found.pop('paper') == []
  assert found.pop('authors') == stored_config.differences(
    parse(config='configs/crnn.py:authors'), paper
  )
  assert len(found.pop('no_augmentation')) == 2
  assert len(found.pop('compensated_only')) == 2
  assert all(len(changes) == 1 for changes in found.values())
  fields = {change.partition(':')[0] for [change] in found.values()}
  assert fields == {
    *('augmentation.bursts', 'augmentation.resampling', 'class_weights'),
    *('compensated_sampling', 'label_version', 'model.lstm_units'),
    *('model.reduction', 'model.summary', 'spectrogram.normalise'),
  }


@pytest.mark.parametrize(
  ('path', 'name'),
  [
    ('configs/crnn.py', 'crnn'),
    ('/a/b/mine.py', 'mine'),
    ('configs/crnn.py:authors', 'crnn_authors'),
    ('ecg_jax:crnn:authors', 'crnn_authors'),
    ('ecg_jax:ablations', 'ablations'),
  ],
)
def test_name_of(path, name):
  assert configuration.name_of(['main', '--config', path]) == name


@pytest.mark.parametrize('config', CONFIGS)
def test_json_gives_the_config_back(config):
  before = parse('--config.max_epochs', '3', config=config)
  after = stored_config.from_json(stored_config.to_json(before))
  assert fields_of(after) == fields_of(before)
  assert stored_config.to_json(after) == stored_config.to_json(before)
  assert stored_config.differences(before, after) == []


def test_a_field_added_since_has_the_value_that_is_switched_off():
  added = ('devices_per_job', 'weight_decay', 'spectrogram.kept_bins')
  config = parse(config='configs/crnn_fast.py')
  fields = stored_config.to_json(config)
  del fields['devices_per_job'], fields['weight_decay']
  del fields['spectrogram']['kept_bins']
  before = json.dumps(fields)
  found = stored_config.from_json(fields)
  default = fields_of(default_config.get_config())
  for name in added:
    assert fields_of(found)[name] == default[name]
  kept = fields_of(found).items() - fields_of(config).items()
  assert {name for name, _ in kept} == {'weight_decay', 'spectrogram.kept_bins'}
  assert json.dumps(fields) == before


@pytest.mark.parametrize('group', ['', 'data'])
def test_a_field_of_a_later_version_is_refused(group):
  fields = stored_config.to_json(parse())
  (fields[group] if group else fields)['flip'] = 0.5
  name = f'{group}.flip'.lstrip('.')
  with pytest.raises(InputError, match=f"the field '{name}', which this"):
    stored_config.from_json(fields)


def test_differences_are_the_fields_that_decide_the_result():
  here = parse()
  for field, value in fields_of(here).items():
    fields = stored_config.to_json(here)
    group, _, name = field.rpartition('.')
    (fields[group] if group else fields)[name] = other = f'not {value}'
    there = stored_config.from_json(fields)
    found = stored_config.differences(here, there)
    if field in stored_config.EXECUTION_FIELDS:
      assert found == []
    else:
      assert found == [f'{field}: {value!r} here, {other!r} there']


@pytest.mark.parametrize('group', ['', 'data', 'spectrogram', 'phases'])
def test_a_field_that_nothing_reads_is_refused_at_once(tmp_path, group):
  path = tmp_path / 'noted.py'
  name = f'{group}.note'.lstrip('.')
  path.write_text(
    'from ecg_jax.configs import crnn\n'
    'def get_config():\n'
    '  config = crnn.get_config()\n'
    f"  config.{name} = 'second try'\n"
    '  return config\n'
  )
  with pytest.raises(InputError, match=f"the field '{name}', which nothing"):
    parse(config=str(path))


def test_differences_name_a_field_that_only_one_has():
  cnn, crnn = (parse(config=f'ecg_jax:{x}').unlock() for x in ('cnn', 'crnn'))
  found = stored_config.differences(cnn, crnn)
  assert 'model.lstm_units: None here, 200 there' in found
  # A list in place of a tuple is no difference.
  there = stored_config.from_json(stored_config.to_json(crnn))
  crnn.phases.kinds = list(crnn.phases.kinds)
  assert stored_config.differences(crnn, there) == []


def test_a_mistake_is_told_before_anything_slow_is_imported():
  script = (
    'import sys; from ecg_jax import configuration as c;'
    "c.parse(c.define_flags(), ['main', '--config', 'configs/crnn.py']);"
    "print({'jax', 'flax', 'orbax', 'tensorflow_datasets', 'numpy'}"
    ' & set(sys.modules))'
  )
  assert run_python(script).stdout == 'set()\n'


def test_deciding_fields_are_all_but_those_of_execution():
  from ecg_jax.configs import crnn

  fields = stored_config.deciding(crnn.get_config())
  assert fields['model.width'] == 32
  assert fields['phases.epochs'] == [500, 100, 200, 200, 200]
  assert not fields.keys() & {*stored_config.EXECUTION_FIELDS}
  assert {'remat', 'on_nan', 'folds'} <= {*stored_config.EXECUTION_FIELDS}

import json
import pathlib
import re
import subprocess
import sys

import pytest

from ecg_jax import configuration, default_config
from ecg_jax.errors import Help, InputError
from tests.helpers import ROOT

CONFIGS = [
  'configs/cnn.py',
  'configs/cnn.py:authors',
  'configs/crnn.py',
  'configs/crnn.py:paper',
  'configs/crnn.py:authors',
  'configs/crnn_fast.py',
  'configs/quickstart.py',
  'configs/ablations.py:stride',
]
CNN = ['--config', 'configs/cnn.py']
PHASES = '--config.phases.'
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
    parse(*arguments, config=config)
  message = str(caught.value)
  assert re.fullmatch(r'\S.*[^.]\.', message), message
  return message


def all_fields():
  return {
    field for config in CONFIGS for field in fields_of(parse(config=config))
  }


def fields_of(config):
  return configuration._fields(config)


def config_with(field):
  """The paper's CRNN or, for a field of another model, that model's."""
  for config in ('configs/crnn.py', 'configs/crnn_fast.py'):
    if field in fields_of(parse(config=config)):
      return config
  raise AssertionError(field)


def test_every_config_of_the_folder_can_be_used():
  files = {f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')}
  tested = {config.partition(':')[0] for config in CONFIGS}
  assert files - tested <= {'configs/__init__.py'}
  for config in CONFIGS:
    configuration.check(parse(config=config))


def test_every_field_that_is_named_exists_and_every_number_is_checked():
  known = all_fields()
  named = {
    *configuration.EXECUTION_FIELDS,
    *configuration.CHOICES,
    *configuration._AT_LEAST,
    *configuration._POSITIVE,
    *configuration._NOT_NEGATIVE,
    *configuration._SHARES,
  }
  assert named <= known
  numbers = {
    field
    for config in CONFIGS
    for field, value in fields_of(parse(config=config)).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
  }
  assert numbers - named == {
    'augmentation.fastest_heart_rate',
    'class_weight_power',
  }


def test_paths_that_a_run_is_read_with_later_are_absolute():
  config = parse('--config.init_from=runs/a', '--config.data.folds_file=b')
  here = pathlib.Path.cwd()
  assert config.init_from == str(here / 'runs' / 'a')
  assert config.data.folds_file == str(here / 'b')


def test_every_field_can_be_set_in_both_forms():
  plain = fields_of(parse())
  for field, value in plain.items():
    if value is None:
      text = field.endswith(('_dir', '_file', '_from'))
      value = '/a b' if text else '70' if field.endswith('samples') else '7'
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


def test_missing_config():
  assert '--config configs/crnn.py' in refusal(config=None)
  assert '--config configs/crnn.py' in refusal('--config.seed=1', config=None)
  assert "'none/such.py'" in refusal(config='none/such.py')
  assert "'none/such.py'" in refusal(
    '--config.seed', '1', config='none/such.py'
  )
  assert "'configs'" in refusal(config='configs')
  assert "''" in refusal('--config=', config=None)
  assert '--config' in refusal('--config', config=None)


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
    ('def get_config():\n  return {"seed": 1}', "without the field '"),
    ('\x00', 'null bytes'),
  ],
)
def test_broken_config(tmp_path, content, reason):
  path = tmp_path / 'broken.py'
  path.write_text(content)
  message = refusal(config=str(path))
  assert str(path) in message
  assert re.search(reason, message)


@pytest.mark.parametrize('config', ['configs/crnn.py', 'configs/cnn.py'])
def test_unknown_preset(config):
  message = refusal(config=f'{config}:autors')
  assert f'{config}:autors' in message
  assert "use 'paper' or 'authors'" in message
  message = refusal(config='configs/quickstart.py:authors')
  assert 'configs/quickstart.py:authors' in message


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


def test_unknown_field_without_a_near_one_gets_all():
  message = refusal('--config.zzzz', '3')
  assert "'zzzz'" in message
  assert all(field in message for field in fields_of(parse()))
  assert "'data'" in refusal('--config.data', '3')


@pytest.mark.parametrize(
  ('field', 'value', 'wanted'),
  [
    ('batch_size', 'abc', 'a whole number'),
    ('batch_size', '2.5', 'a whole number'),
    ('batch_size', '', 'a whole number'),
    ('data.max_records', 'all', 'a whole number'),
    ('max_epochs', '1e3', 'a whole number'),
    ('seed', 'None', 'a whole number'),
    ('dropout.lstm', 'much', 'a number'),
    ('tensorboard', 'maybe', 'true or false'),
    ('folds', ' ', 'a list'),
  ],
)
def test_wrong_type(field, value, wanted):
  for form in ([f'--config.{field}', value], [f'--config.{field}={value}']):
    message = refusal(*form)
    assert f'{field} is {value!r}: it must be {wanted}' in message


def test_missing_value():
  assert '--config.batch_size' in refusal('--config.batch_size')


@pytest.mark.parametrize(
  ('field', 'value', 'advice'),
  [
    ('model.name', 'crn', "use 'crnn'"),
    ('model.name', 'transformer', "use 'cnn' or 'crnn'"),
    ('model.name', 'cnn', 'use configs/cnn.py'),
    ('model.reduction', 'maxpool', "use 'max_pool'"),
    ('model.summary', 'first', "use 'last'"),
    ('data.name', 'physionet2018', "use 'physionet2017'"),
    ('data.name', 'mitbih', "use 'physionet2017' or 'synthetic_ecg'"),
    ('dtype', 'float', "use 'float32'"),
    ('dtype', 'half', "use 'float32' or 'bfloat16'"),
    ('label_version', '3', "use 'v3'"),
    ('label_version', 'v4', "use 'v1' or 'v2' or 'v3'"),
    ('spectrogram.normalise', 'records', "use 'record'"),
  ],
)
def test_unknown_choice(field, value, advice):
  message = refusal(f'--config.{field}', value)
  assert f'{field} is {value!r}' in message
  assert advice in message


def test_a_config_describes_one_model():
  message = refusal('--config.model.name=crnn', config='configs/cnn.py')
  assert 'use configs/crnn.py' in message


@pytest.mark.parametrize(
  ('value', 'holds'),
  [
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
  ],
)
def test_folds_that_are_none(value, holds):
  for form in (['--config.folds', value], [f'--config.folds={value}']):
    assert f'folds holds {holds}:' in refusal(*form)


def test_folds():
  assert 'folds is (0, 1, 0):' in refusal('--config.folds', '(0,1,0)')
  assert 'folds is empty' in refusal('--config.folds', '()')
  for value in ['3', '(3,)', '[3]']:
    assert parse('--config.folds', value).folds == (3,)
  assert parse('--config.folds=(4, 0)').folds == (4, 0)
  # How many folds a table of the user's has is known once it is read.
  table = '--config.data.folds_file=table.json'
  assert parse('--config.folds=9', table).folds == (9,)
  assert 'holds -9:' in refusal('--config.folds=-9', table)


def test_numbers_out_of_range():
  for field, least in configuration._AT_LEAST.items():
    message = refusal(
      f'--config.{field}', str(least - 1), config=config_with(field)
    )
    assert f'{field} is {least - 1}: it must be at least {least}.' in message
  for field in configuration._POSITIVE:
    for value in ['0.0', '-1.0', 'inf', 'nan']:
      message = refusal(f'--config.{field}={value}')
      assert f'{field} is {value}: it must be positive.' in message
  for field in configuration._NOT_NEGATIVE:
    for value in ['-0.1', 'inf', 'nan']:
      assert f'{field} is {value}: ' in refusal(f'--config.{field}', value)
  for field in configuration._SHARES:
    for value in ['-0.1', '1.0', 'nan']:
      message = refusal(f'--config.{field}', value, config=config_with(field))
      assert f'{field} is {value}: ' in message
  assert f'seed is {2**32}:' in refusal('--config.seed', str(2**32))
  for rate in ['59.0', 'nan', 'inf']:
    field = 'augmentation.fastest_heart_rate'
    assert f'{field} is {rate}' in refusal(f'--config.{field}', rate)
  field = 'spectrogram.hop_samples'
  assert f'{field} is 65' in refusal(f'--config.{field}=65')
  field = 'class_weight_power'
  for value in ['-0.1', '1.1', 'nan']:
    assert f'{field} is {value}: ' in refusal(f'--config.{field}={value}')
  field = 'spectrogram.kept_bins'
  assert f'{field} is 34: ' in refusal(f'--config.{field}=34')
  field = 'augmentation.max_samples'
  assert f'{field} is 63: ' in refusal(f'--config.{field}=63')
  field = 'model.kernel_frames'
  message = refusal(f'--config.{field}=4', config='configs/crnn_fast.py')
  assert f'{field} is 4: it must be odd.' in message


@pytest.mark.parametrize('widths', ['()', '(40,0)', '(40,x)', '(40,1.5)'])
def test_widths_that_are_none(widths):
  message = refusal(
    f'--config.model.widths={widths}', config='configs/crnn_fast.py'
  )
  assert 'model.widths is (' in message


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('epochs', '(1,2)', 'phases.epochs is (1, 2): give'),
    ('epochs', '3', 'phases.epochs is (3,): give'),
    ('epochs', '(1,2,3,4,x)', "phases.epochs is ('(1,2,3,4,x)',): give"),
    ('epochs', '(1,2,3,4,0)', 'phases.epochs holds 0:'),
    ('epochs', '(1,2,3,4,5.0)', 'phases.epochs holds 5.0:'),
    ('epochs', '(1,2,3,4,True)', 'phases.epochs holds True:'),
    ('learning_rates', '(1e-3,)', 'phases.learning_rates is (0.001,): give'),
    ('learning_rates', '(1,1,1,1,0)', 'phases.learning_rates holds 0:'),
    ('learning_rates', '(1,1,1,1,-1)', 'phases.learning_rates holds -1:'),
    ('learning_rates', '(1,1,1,1,1e999)', 'phases.learning_rates holds inf:'),
    ('learning_rates', "(1,1,1,1,'a')", "phases.learning_rates holds 'a':"),
    ('learning_rates', '(1,1,1,1,True)', 'phases.learning_rates holds True:'),
    ('kinds', "('all',)", 'phases.epochs is (500, 100, 200, 200, 200): give'),
    ('kinds', "('al','all','all','all','all')", "phases.kinds holds 'al':"),
    (
      'kinds',
      "('all','all','all','all','auxiliary')",
      'the last phase must train',
    ),
  ],
)
def test_phases(field, value, message):
  assert message in refusal(PHASES + field, value)


def test_no_phases():
  empty = [f'{PHASES}{f}=()' for f in ('kinds', 'epochs', 'learning_rates')]
  assert 'phases.kinds is ()' in refusal(*empty)


def test_options_that_are_none():
  for form in (['stray'], ['--config.seed', '1', 'stray'], ['--', 'stray']):
    assert "'stray' is no option" in refusal(*form)
  assert '--debg is no option: use --debug.' in refusal('--debg')
  assert '--zzz is no option: see --help.' in refusal('--zzz')
  assert '--debug' in refusal('--debug=maybe')


def test_fields_may_stand_before_the_config():
  assert parse('--config.seed=1', *CNN, config=None).seed == 1


def test_help_ends_without_a_config_and_lists_the_fields_of_one():
  with pytest.raises(Help) as caught:
    parse('--help', config=None)
  assert '--config' in str(caught.value)
  with pytest.raises(Help) as caught:
    parse('-h')
  for field, value in fields_of(parse()).items():
    assert f'--config.{field} {value!r}\n' in f'{caught.value}\n'


def test_the_config_is_locked():
  with pytest.raises(AttributeError):
    parse().data.max_record = 3


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
  assert fields_of(parse(config=f'{listed}:b')) == fields_of(
    parse(*CNN, config=None)
  )
  assert "no 'c': use b or a-1.x" in refusal(config=f'{listed}:c')
  assert "no 'a-1x': use a-1.x)" in refusal(config=f'{listed}:a-1x')
  assert f'name one of them, like {listed}:b.' in refusal(config=listed)


def test_a_field_that_one_of_a_list_lacks_is_refused(listed):
  with pytest.raises(InputError, match=r"no field 'model\.lstm_units'"):
    parse_all('--config.model.lstm_units=3', config=listed)


@pytest.mark.parametrize(
  ('made', 'message'),
  [
    ('{}', 'makes an empty list'),
    ("{'../up': crnn.get_config()}", r"a config named '\.\./up'"),
    ("{'.hidden': crnn.get_config()}", r"a config named '\.hidden'"),
    ("{'a': 3}", 'cannot be used'),
    ("{'a': {}}", "without the field '"),
  ],
)
def test_lists_that_cannot_be_used(tmp_path, made, message):
  path = tmp_path / 'bad.py'
  path.write_text(
    f'from ecg_jax.configs import crnn\ndef get_configs(): return {made}'
  )
  assert re.search(message, refusal(config=str(path)))


def test_seeds():
  assert configuration.parse_seeds(None) == ()
  assert configuration.parse_seeds('3') == (3,)
  assert configuration.parse_seeds('0, 2,1') == (0, 2, 1)
  for text in ['', 'x', '1,', '-1', '0.5', str(2**32)]:
    with pytest.raises(InputError, match=f"--seeds is '{text}': write whole"):
      configuration.parse_seeds(text)
  with pytest.raises(InputError, match="--seeds is '0,1,0': name each"):
    configuration.parse_seeds('0,1,0')


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


@pytest.mark.parametrize(
  ('config', 'wanted'),
  [
    (
      'configs/crnn.py',
      PAPER
      | {
        'phases.kinds': ('auxiliary', 'lstm', 'all', 'all', 'all'),
        'phases.epochs': (500, 100, 200, 200, 200),
        'phases.learning_rates': (1e-3, 1e-3, 1e-3, 1e-4, 1e-5),
        'dropout.lstm': 0.15,
        'model.lstm_units': 200,
        'model.lstm_layers': 3,
        'model.summary': 'last',
      },
    ),
    (
      'configs/cnn.py',
      PAPER
      | {
        'phases.kinds': ('all',),
        'phases.epochs': (500,),
        'phases.learning_rates': (1e-3,),
      },
    ),
  ],
)
def test_configs_are_what_the_paper_says(config, wanted):
  found = fields_of(parse(config=config))
  assert {field: found[field] for field in wanted} == wanted


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


def test_ablations_are_the_papers_crnn_with_one_change_each():
  paper = parse()
  found = {
    name: configuration.differences(config, paper)
    for name, config in parse_all(config='configs/ablations.py').items()
  }
  assert found.pop('paper') == []
  assert found.pop('authors') == configuration.differences(
    parse(config='configs/crnn.py:authors'), paper
  )
  assert len(found.pop('no_augmentation')) == 2
  assert len(found.pop('compensated_only')) == 2
  assert all(len(changes) == 1 for changes in found.values())
  fields = {change.partition(':')[0] for [change] in found.values()}
  assert fields == {
    'augmentation.bursts',
    'augmentation.resampling',
    'class_weights',
    'compensated_sampling',
    'label_version',
    'model.lstm_units',
    'model.reduction',
    'model.summary',
    'spectrogram.normalise',
  }


@pytest.mark.parametrize(
  ('path', 'name'),
  [
    ('configs/crnn.py', 'crnn'),
    ('/a/b/mine.py', 'mine'),
    ('configs/crnn.py:authors', 'crnn_authors'),
  ],
)
def test_name_of(path, name):
  assert configuration.name_of(path) == name


@pytest.mark.parametrize('config', CONFIGS)
def test_json_gives_the_config_back(config):
  before = parse('--config.max_epochs', '3', config=config)
  after = configuration.from_json(configuration.to_json(before))
  assert fields_of(after) == fields_of(before)
  assert configuration.to_json(after) == configuration.to_json(before)
  assert configuration.differences(before, after) == []


def test_a_field_added_since_has_the_value_that_is_switched_off():
  added = ('devices_per_job', 'weight_decay', 'spectrogram.kept_bins')
  config = parse(config='configs/crnn_fast.py')
  fields = configuration.to_json(config)
  del fields['devices_per_job'], fields['weight_decay']
  del fields['spectrogram']['kept_bins']
  before = json.dumps(fields)
  found = configuration.from_json(fields)
  for name in added:
    assert (
      fields_of(found)[name] == fields_of(default_config.get_config())[name]
    )
  kept = fields_of(found).items() - fields_of(config).items()
  assert {name for name, _ in kept} == {'weight_decay', 'spectrogram.kept_bins'}
  assert json.dumps(fields) == before


@pytest.mark.parametrize('group', ['', 'data'])
def test_a_field_of_a_later_version_is_refused(group):
  fields = configuration.to_json(parse())
  (fields[group] if group else fields)['flip'] = 0.5
  name = f'{group}.flip'.lstrip('.')
  with pytest.raises(InputError, match=f"the field '{name}', which this"):
    configuration.from_json(fields)


def test_differences_are_the_fields_that_decide_the_result():
  here = parse()
  for field, value in fields_of(here).items():
    fields = configuration.to_json(here)
    group, _, name = field.rpartition('.')
    (fields[group] if group else fields)[name] = other = f'not {value}'
    there = configuration.from_json(fields)
    found = configuration.differences(here, there)
    if field in configuration.EXECUTION_FIELDS:
      assert found == []
    else:
      assert found == [f'{field}: {value!r} here, {other!r} there']


def test_a_list_in_place_of_a_tuple_is_no_difference():
  here = parse().unlock()
  there = configuration.from_json(configuration.to_json(here))
  here.phases.kinds = list(here.phases.kinds)
  assert configuration.differences(here, there) == []


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
  found = configuration.differences(
    parse(config='configs/cnn.py'), parse(config='configs/crnn.py')
  )
  assert 'model.lstm_units: None here, 200 there' in found


def test_a_mistake_is_told_before_anything_slow_is_imported():
  script = (
    'import sys; from ecg_jax import configuration as c;'
    "c.parse(c.define_flags(), ['main', '--config', 'configs/crnn.py']);"
    "print({'jax', 'flax', 'orbax', 'tensorflow_datasets', 'numpy'}"
    ' & set(sys.modules))'
  )
  found = subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert found.stdout == 'set()\n'


def test_deciding_fields_are_all_but_those_of_execution():
  from ecg_jax.configs import crnn

  fields = configuration.deciding(crnn.get_config())
  assert fields['model.width'] == 32
  assert fields['phases.epochs'] == [500, 100, 200, 200, 200]
  assert not fields.keys() & {*configuration.EXECUTION_FIELDS}
  assert {'remat', 'on_nan', 'folds'} <= {*configuration.EXECUTION_FIELDS}

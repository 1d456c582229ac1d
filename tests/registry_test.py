"""What a config names is found, or refused with what to do."""

import hashlib
import os
import pathlib
import re
import sys

import pytest

from ecg_jax import registry
from ecg_jax.errors import ConfigError, InputError

TABLES = {
  'model.name': registry.MODELS,
  'data.name': registry.DATASETS,
  'augmentation.functions': registry.AUGMENTATIONS,
  'loss.name': registry.LOSSES,
  'metrics': registry.METRICS,
}

MINE = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Pair:
  one: 'int | None' = None

def gain(x): return 3 * x
_hidden = gain
"""


def find(name, field='loss.name'):
  return registry.find(field, name, TABLES[field])


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current folder, from which modules are imported."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'mine.py').write_text(MINE)
  (tmp_path / 'fails.py').write_text('1 / 0')
  for name, content in (('whole', ''), ('broken', 'import no_such_thing')):
    (tmp_path / name).mkdir()
    (tmp_path / name / '__init__.py').write_text(content)
    (tmp_path / name / 'part.py').write_text(MINE)
  before = {*sys.modules}
  yield tmp_path
  for name in {*sys.modules} - before:
    del sys.modules[name]


@pytest.mark.parametrize('field', TABLES)
def test_what_is_shipped_is_found_and_may_change_with_the_version(field):
  for name, place in TABLES[field].items():
    found = find(name, field)
    assert found is find(place, field)
    assert callable(found)
    assert registry.absolute(name) == name
    assert registry.source_digests([name]) == {}


@pytest.mark.parametrize(
  'name',
  ['mine.py:gain', './whole/part.py:gain', 'mine:gain', 'whole.part:gain'],
)
def test_a_function_of_a_file_or_module_is_found(folder, name):
  registry.check('loss.name', name, registry.LOSSES)
  assert not {'mine', 'whole.part'} & {*sys.modules}
  assert find(name)(2) == 6
  assert find(f'{name[:-4]}Pair')(one=4).one == 4


def test_a_file_is_one_module_however_it_is_named(folder, monkeypatch):
  found = find('mine.py:Pair')
  (folder / 'link.py').symlink_to(folder / 'mine.py')
  for name in ('./mine.py', 'whole/../mine.py', folder / 'mine.py', 'link.py'):
    assert find(f'{name}:Pair') is found
  monkeypatch.setenv('HOME', str(folder))
  assert find('~/mine.py:Pair') is found
  # Another file of the same name is another module, and neither is `mine`.
  (folder / 'whole' / 'mine.py').write_text(MINE)
  other = find('whole/mine.py:Pair')
  assert other is not found
  assert len({other.__module__, found.__module__, 'mine'}) == 3


OWN = ", or name one of your own like 'my_module:NAME' or 'path/file.py:NAME'."


@pytest.mark.parametrize(
  ('field', 'name', 'message'),
  [
    ('model.name', 'crn', f"model.name is 'crn': use 'crnn'{OWN}"),
    (
      'data.name',
      'mitbih',
      f"data.name is 'mitbih': use 'mitdb'{OWN}",
    ),
    ('loss.name', '', f"loss.name is '': use 'cross_entropy'{OWN}"),
    ('metrics', 3, 'metrics holds 3: it must be a text.'),
    ('loss.name', 'mine.py', f"'mine.py': use 'cross_entropy'{OWN}"),
    *(
      ('loss.name', name, f"{name!r}: write it like 'my_module:NAME' or")
      for name in ('mine:', ':gain', 'mine.py:b c', 'mine.py:Pair.one', ':')
    ),
    ('loss.name', 'yours.py:f', 'there is no file yours.py: name one that'),
    ('loss.name', 'whole:f/x.py:f', 'there is no file whole:f/x.py: name one'),
    *(
      ('loss.name', f'{module}:f', f'there is no module {module}: install it,')
      for module in (
        'yours',
        'yours.part',
        'whole.other',
        'whole.part.x',
        '..a',
      )
    ),
    ('loss.name', 'mine.py:gian', "mine.py has no 'gian': use gain."),
    ('loss.name', 'mine:pair', "and mine has no 'pair': use Pair."),
    ('loss.name', 'mine:zzz', "mine has no 'zzz': name what it defines."),
    ('loss.name', 'mine:hidden', "mine has no 'hidden': name what it"),
  ],
)
def test_what_cannot_be_found_is_refused(folder, field, name, message):
  with pytest.raises(InputError, match=re.escape(message)) as caught:
    find(name, field)
  assert type(caught.value) is InputError
  assert re.fullmatch(rf'{field} (is|holds) .*[^.]\.', str(caught.value))


@pytest.mark.parametrize(
  ('name', 'cause'),
  [
    ('fails.py:f', ZeroDivisionError),
    ('fails:f', ZeroDivisionError),
    ('broken/__init__.py:f', ModuleNotFoundError),
    ('broken.part:f', ModuleNotFoundError),
  ],
)
def test_a_program_that_fails_is_reported_with_its_cause(folder, name, cause):
  for _ in range(2):  # It is not taken for imported the second time.
    with pytest.raises(ConfigError, match='cannot be imported') as caught:
      find(name)
    assert isinstance(caught.value.__cause__, cause)
    assert str(caught.value.__cause__) in str(caught.value)
    assert not re.findall(r'(?m)^fails', '\n'.join(sys.modules))


def test_names_of_files_become_absolute(folder, monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  for name, expected in {
    'mine.py:f': f'{folder}/mine.py:f',
    '~/mine.py:f': '/home/me/mine.py:f',
    '/a/b.py:f': '/a/b.py:f',
    'mine:f': 'mine:f',
    'crnn': 'crnn',
  }.items():
    assert registry.absolute(name) == expected
    assert registry.absolute(expected) == expected


def test_digests_are_of_the_files_as_they_are_now(folder):
  path = pathlib.Path('mine.py')
  names = ['cnn', 'mine.py:gain', 'whole.part:gain', 'yours.py:gain']
  for content in (MINE, MINE + '\n'):
    path.write_text(content)
    assert registry.source_digests(names) == {
      'mine.py:gain': hashlib.sha256(content.encode()).hexdigest(),
      'whole.part:gain': hashlib.sha256(MINE.encode()).hexdigest(),
    }


def test_a_file_is_run_as_it_is_now_and_not_as_it_was_compiled(tmp_path):
  """Python's compiled file knows only the second and the size of a change."""
  path = tmp_path / 'mine.py'
  name = f'{path}:value'
  for value in (1, 2):
    path.write_text(f'value = {value}')
    os.utime(path, (0, 0))
    registry._import_file.cache_clear()
    assert registry.find('loss.name', name, registry.LOSSES) == value
  assert registry.source_digests([name]) == {
    name: hashlib.sha256(b'value = 2').hexdigest()
  }
  # The digest that a run keeps is that of the code that it ran.
  path.write_text('value = 3')
  with pytest.raises(InputError, match='changed since it was imported'):
    registry.source_digests([name])

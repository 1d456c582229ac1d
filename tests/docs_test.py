"""What the README and docs/ name exists: files, commands, flags, fields."""

import ast
import functools
import importlib
import pathlib
import re
import shlex
import textwrap
import tomllib

import pytest

from tests.house_test import ORDER

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')])
SHELLS = ('sh', 'bash', 'yaml')

_FENCE = re.compile(r'^```(\w*)[^\n]*\n(.*?)^```', re.MULTILINE | re.DOTALL)
_LINK = re.compile(r'!?\[[^]]*\]\(([^)\s]+)\)')
_GROUP = (
  r'(?:data|spectrogram|augmentation|model|dropout|phases|buckets|loss|trees)'
)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request) -> pathlib.Path:
  return request.param


def _prose(text):
  return _FENCE.sub('', text)


def _spans(text):
  """Inline code."""
  return re.findall(r'`([^`\n]+)`', _prose(text))


def _anchors(path):
  """Anchors of a page's headings, as GitHub and MkDocs make them."""
  headings = re.findall(r'^#+ (.+)$', _prose(path.read_text()), re.MULTILINE)
  return {
    re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-')
    for heading in headings
  }


def _commands(text):
  """Shell words of each command line on a page, in blocks and in spans."""
  lines = [span for span in _spans(text) if span.startswith('python ')]
  for language, block in _FENCE.findall(text):
    if language in SHELLS:
      # Arguments of YAML go on without a backslash, further to the right.
      block = re.sub(r'\n\s+--', ' --', block.replace('\\\n', ' '))
      lines += re.split(r'\n|&&', block)
  for line in lines:
    for script, place in _scripts().items():
      module = place.partition(':')[0]
      line = line.replace(f'{script} ', f'python -m {module} ')
    command = re.search(r'\bpython (.*)', line)
    if command:
      yield shlex.split(command[1], comments=True)


@functools.cache
def _scripts():
  """Command of an installed package -> the function that it calls."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  return project['scripts']


@functools.cache
def _strings(path):
  """String constants of a source file."""
  return {
    node.value
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
  }


def _source(module):
  path = ROOT.joinpath(*module.split('.'))
  return next(
    (p for p in (path.with_suffix('.py'), path / '__init__.py') if p.exists()),
    None,
  )


def _is_known(module, name=None):
  """Whether a module, or a name in it, is there, if it is one of ours."""
  if module.split('.')[0] != 'ecg_jax':
    return True
  source = _source(module)
  if name is None or source is None or _source(f'{module}.{name}'):
    return source is not None
  return bool(
    re.search(
      rf'^(?:class|def) {name}\b|^{name}\b.* = ', source.read_text(), re.M
    )
  )


@functools.cache
def _flags(path):
  """Flags of a command: by argparse, also of what it imports, or by absl."""
  found = {f'--{name}' for name in _strings(path) if name.isidentifier()}
  sources = [path]
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for name in [
        node.module,
        *(f'{node.module}.{x.name}' for x in node.names),
      ]:
        if name.startswith('ecg_jax') and _source(name):
          sources.append(_source(name))
  for source in sources:
    found |= {text for text in _strings(source) if text.startswith('--')}
  return found | {'--config', '--help', '--debug'}


@functools.cache
def _configs():
  """Name, as on the command line -> the config, or configs, of that file."""
  found = {}
  for path in sorted((ROOT / 'configs').glob('[!_]*.py')):
    module = importlib.import_module(f'ecg_jax.configs.{path.stem}')
    if hasattr(module, 'get_configs'):
      configs = module.get_configs()
      presets = {'': configs, ':NAME': configs}
      presets |= {f':{name}': config for name, config in configs.items()}
    else:
      presets = {'': module.get_config()}
      if path.stem in ('crnn', 'cnn'):
        for preset in ('authors', 'short'):
          presets[f':{preset}'] = module.get_config(preset)
    for preset, config in presets.items():
      found[f'configs/{path.name}{preset}'] = config
      found[f'ecg_jax:{path.stem}{preset}'] = config
  return found


@functools.cache
def _fields():
  """Every field of the shipped configs, and their groups."""
  found = set()
  for config in _configs().values():
    for one in config.values() if isinstance(config, dict) else [config]:
      for name, value in one.items():
        found.add(name)
        if hasattr(value, 'items'):
          found |= {f'{name}.{field}' for field in value}
  return found


def test_readme_is_short():
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 200


def test_links_resolve(page):
  broken = []
  for target in _LINK.findall(_prose(page.read_text())):
    if re.match(r'https?:', target):
      continue
    name, _, anchor = target.partition('#')
    path = page.parent / name if name else page
    if not path.exists() or (anchor and anchor not in _anchors(path)):
      broken.append(target)
  assert not broken


def test_commands_can_be_typed(page):
  wrong = []
  for words in _commands(page.read_text()):
    target, *arguments = words
    if target == '-m':
      target, *arguments = arguments
      if target in ('venv', 'pytest', 'pip', 'build'):
        continue
      path = _source(target)
    else:
      path = ROOT / target
    if path is None or not path.exists():
      wrong.append(f'{target}: no such command')
      continue
    for word in arguments:
      flag, _, _ = word.partition('=')
      name = flag.removeprefix('--')
      if flag.startswith('--config.'):
        known = name.removeprefix('config.') in _fields()
      else:
        known = flag in _flags(path)
      if flag.startswith('--') and not known:
        wrong.append(f'{target} {flag}')
  assert not wrong


def test_configs_fields_and_files_exist(page):
  text = page.read_text()
  wrong = [
    name
    for name in re.findall(r'(?:configs/\w+\.py|\becg_jax:\w+)(?::\w+)?', text)
    if name not in _configs() and name != 'ecg_jax:NAME'
  ]
  wrong += set(re.findall(r'--config\.([\w.]+\w)', text)) - _fields()
  wrong += set(re.findall(r'\becg-jax-\w+', text)) - _scripts().keys()
  for span in _spans(text):
    if re.fullmatch(rf'{_GROUP}\.\w+', span) and span not in _fields():
      wrong.append(span)
    path, _, test = span.partition('::')
    named = re.match(
      r'(ecg_jax|configs|docs|examples|results|tests|tools)/[\w./]*$', path
    )
    if not named:
      continue
    file = ROOT / path
    if not file.exists() or (test and f'\ndef {test}(' not in file.read_text()):
      wrong.append(span)
  assert not wrong


def test_modules_that_python_imports_exist(page):
  wrong = []
  for language, block in _FENCE.findall(page.read_text()):
    if language != 'python':
      continue
    for node in ast.walk(ast.parse(block)):
      if isinstance(node, ast.Import):
        wrong += [x.name for x in node.names if not _is_known(x.name)]
      elif isinstance(node, ast.ImportFrom):
        for x in node.names:
          if not _is_known(node.module, x.name):
            wrong.append(f'{node.module}.{x.name}')
  # Those of the API pages.
  wrong += [
    name
    for name in re.findall(r'^::: (\S+)', page.read_text(), re.MULTILINE)
    if not _source(name)
  ]
  assert not wrong


def test_every_page_is_in_the_navigation():
  navigation = (ROOT / 'mkdocs.yml').read_text().partition('\nnav:')[2]
  listed = re.findall(r': (\S+\.md)$', navigation, re.MULTILINE)
  pages = (ROOT / 'docs').rglob('*.md')
  assert sorted(listed) == sorted(
    str(page.relative_to(ROOT / 'docs')) for page in pages
  )


def test_every_invariant_names_a_test_that_exists():
  text = (ROOT / 'docs' / 'design.md').read_text()
  section = text.partition('\n## Invariants\n')[2].partition('\n## ')[0]
  rows = re.findall(r'^\| (.+) \| (.+) \|$', section, re.MULTILINE)[2:]
  assert len(rows) > 20
  wrong = []
  for invariant, named in rows:
    test = re.fullmatch(r'`(tests/\w+\.py)::(\w+)`', named)
    file = ROOT / test[1] if test else None
    if file is None or not file.exists():
      wrong.append(invariant)
    elif f'\ndef {test[2]}(' not in file.read_text():
      wrong.append(f'{invariant} {named}')
  assert not wrong


def test_design_quotes_the_loop_and_the_order_of_imports():
  text = (ROOT / 'docs' / 'design.md').read_text()
  blocks = [block for _, block in _FENCE.findall(text)]
  source = (ROOT / 'ecg_jax' / 'training' / 'train_loop.py').read_text()
  loop = next(block for block in blocks if 'run.begin_phase()' in block)
  assert textwrap.indent(loop, ' ' * 4) in source
  assert '\n'.join([*ORDER, '']) in blocks

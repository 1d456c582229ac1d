"""The house's rules, held by reading the source and importing nothing."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
  path
  for name in ('ecg_jax', 'configs', 'tools')
  for path in (ROOT / name).rglob('*.py')
)

# Files and folders of the package, in the order of the data's path: each may
# import what stands above it, and a folder its own files.
ORDER = [
  'errors default_config',
  'runtime checks',
  'cli',
  'recordings',
  'configuration',
  'datasets',
  'input_pipeline',
  'models',
  'experiment',
  'runs',
  'evaluation',
  'training prediction',
  'main predict evaluate export',
]
DEVICE_LIBRARIES = {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


TREES = {module_name(path): ast.parse(path.read_text()) for path in FILES}


def imported(tree):
  """Modules that a module imports anywhere, in functions too."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        found.add(name if name in TREES else node.module)
  return found


IMPORTS = {name: imported(tree) for name, tree in TREES.items()}


def libraries(name):
  return {other.split('.')[0] for other in IMPORTS[name]}


def reached(name):
  """Modules of this repository that are imported with one."""
  found, new = set(), {name}
  while new:
    found |= new
    new = {
      other for here in new for other in IMPORTS[here] if other in TREES
    } - found
  return found


def part(name):
  return name.split('.')[1]


def layer(name):
  return next(k for k, parts in enumerate(ORDER) if part(name) in parts.split())


def part_of_package(name):
  return name.startswith('ecg_jax.')


def test_every_file_and_folder_has_its_place_once():
  listed = ' '.join(ORDER).split()
  assert len(set(listed)) == len(listed)
  found = {name.split('.')[1] for name in TREES if part_of_package(name)}
  assert found == set(listed)


def test_imports_follow_the_data():
  wrong = [
    (name, other)
    for name in filter(part_of_package, TREES)
    for other in filter(part_of_package, IMPORTS[name])
    if layer(other) >= layer(name) and part(other) != part(name)
  ]
  assert not wrong


def test_no_cycles():
  for name in TREES:
    for other in IMPORTS[name] & TREES.keys() - {name}:
      # A package's own modules are imported by it, and may import each other.
      if not name.startswith(f'{other}.'):
        assert name not in reached(other), (name, other)


def test_what_answers_knows_nothing_of_training():
  for command in ('evaluate', 'predict', 'export'):
    assert not any(
      other.startswith('ecg_jax.training')
      for other in reached(f'ecg_jax.{command}')
    )


@pytest.mark.parametrize(
  'name',
  [
    *(
      name
      for name in TREES
      if name.startswith(('ecg_jax.datasets', 'ecg_jax.recordings'))
    ),
    'ecg_jax.configuration',
    'ecg_jax.input_pipeline.sampler',
    'ecg_jax.evaluation.calibration',
    'ecg_jax.evaluation.tables',
    'ecg_jax.prediction.ecg_plot',
    'ecg_jax.runs.artifacts',
    'ecg_jax.runs.metrics_csv',
    'tools.calibrate',
    'tools.summarize',
  ],
)
def test_what_needs_no_device_imports_no_jax(name):
  for other in reached(name):
    assert not DEVICE_LIBRARIES & libraries(other), other


def importers(library):
  return {name for name in TREES if library in libraries(name)}


def parts(names):
  return {'.'.join(name.split('.')[:2]) for name in names}


def test_libraries_stay_where_they_belong():
  assert not importers('tensorflow')
  assert parts(importers('tensorflow_datasets')) == {
    'ecg_jax.datasets',
    'ecg_jax.input_pipeline',
  }
  assert parts(importers('flax')) <= {
    'ecg_jax.models',
    'ecg_jax.training',
  }
  assert parts(importers('orbax')) == {
    'ecg_jax.runs',
    'ecg_jax.runtime',
  }
  assert parts(importers('optax')) == {'ecg_jax.training'}


def test_no_file_becomes_code():
  """But a config, which is a Python program by design."""
  for library in ('pickle', 'marshal', 'shelve', 'dill', 'joblib', 'yaml'):
    assert not importers(library)
  assert importers('runpy') == {'ecg_jax.configuration'}
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        assert node.func.id not in ('eval', 'exec', '__import__'), name
      if isinstance(node, ast.keyword):
        assert node.arg != 'allow_pickle', name


def test_flax_makes_no_decision_outside_of_the_models():
  """Beside them it gives a type (forward) and a pytree (train_state)."""
  for name in ('ecg_jax.models.forward', 'ecg_jax.training.train_state'):
    used = {
      node.attr
      for node in ast.walk(TREES[name])
      if isinstance(node, ast.Attribute)
      and isinstance(node.value, ast.Name)
      and node.value.id in ('nn', 'struct', 'flax')
    }
    assert used <= {'Module', 'dataclass', 'field', 'PyTreeNode'}


def test_a_config_reaches_neither_models_nor_the_arithmetic():
  allowed = {'configuration', 'default_config', 'experiment', 'runs.artifacts'}
  allowed |= {'runs.finished_run', 'training.job', 'training.train_runs'}
  allowed |= {'prediction.ensemble'}
  configs = {name for name in TREES if name.startswith('configs')}
  assert importers('ml_collections') <= {
    *(f'ecg_jax.{part}' for part in allowed),
    'tools.benchmark',
    'tools.plot_augmentation',
    *configs,
  }
  for name in TREES:
    if name in configs:
      assert IMPORTS[name] <= {
        'ml_collections',
        'ecg_jax.configs',
        'ecg_jax.default_config',
      }
    elif part_of_package(name):
      assert not {'configs', 'ecg_jax.configs'} & IMPORTS[name]


def public(tree):
  """Functions and classes that can be reached from outside, with names."""
  for node in tree.body:
    kinds = ast.FunctionDef | ast.ClassDef
    if isinstance(node, kinds) and not node.name.startswith('_'):
      yield node
      if isinstance(node, ast.ClassDef):
        yield from public(node)


@pytest.mark.parametrize('name', TREES)
def test_everything_public_is_explained_and_typed(name):
  assert ast.get_docstring(TREES[name])
  for node in public(TREES[name]):
    assert ast.get_docstring(node), node.name
    if isinstance(node, ast.FunctionDef):
      assert node.returns, node.name

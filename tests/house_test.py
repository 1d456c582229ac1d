"""Rules of the folders, checked by reading the source without importing it."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
  path
  for name in ('ecg_jax', 'configs', 'tools')
  for path in (ROOT / name).rglob('*.py')
)

# Files and folders of the package, in the order of the data's path: each may
# import those of the lines above it, and a folder its own files.
ORDER = [
  'errors',
  'runtime registry',
  'fields',
  'default_config cli',
  'recordings',
  'configuration stored_config',
  'datasets',
  'input_pipeline',
  'beats',
  'models',
  'experiment',
  'runs',
  'evaluation',
  'training prediction',
  'main predict evaluate export summarize',
]

# Library -> the folders and modules that import it. The first can turn a file
# into code; a config is a Python program by design, and so is what it names.
LIBRARIES = {
  **dict.fromkeys(
    ('pickle', 'marshal', 'shelve', 'dill', 'joblib', 'yaml'), ''
  ),
  'runpy': 'ecg_jax.configuration',
  'tensorflow': '',
  'tensorflow_datasets': 'ecg_jax.datasets',
  'flax': 'ecg_jax.experiment ecg_jax.models ecg_jax.training',
  'orbax': 'ecg_jax.runs ecg_jax.runtime',
  'optax': 'ecg_jax.training',
  'sklearn': 'ecg_jax.training.boosting',
  'ml_collections': (
    'configs ecg_jax.configuration ecg_jax.default_config ecg_jax.experiment'
    ' ecg_jax.prediction.ensemble ecg_jax.runs.artifacts'
    ' ecg_jax.runs.finished_run ecg_jax.training.job'
    ' ecg_jax.training.fold_processes'
    ' ecg_jax.stored_config ecg_jax.training.train_runs'
    ' tools.benchmark tools.compile_for_gpu tools.plot_augmentation'
  ),
}

# Nothing that these modules and those of these folders import needs a device.
DEVICE_LIBRARIES = {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}
NO_DEVICE = [
  'ecg_jax.configuration',
  'ecg_jax.stored_config',
  'ecg_jax.datasets',
  'ecg_jax.evaluation.calibration',
  'ecg_jax.evaluation.tables',
  'ecg_jax.fields',
  'ecg_jax.input_pipeline.sampler',
  'ecg_jax.prediction.ecg_plot',
  'ecg_jax.recordings',
  'ecg_jax.registry',
  'ecg_jax.runs.artifacts',
  'ecg_jax.runs.metrics_csv',
  'tools.calibrate',
  'ecg_jax.summarize',
]

# Module -> what it runs Python files and modules with that have no name here.
LOADERS = {
  'ecg_jax.configuration': {'run_path'},
  'ecg_jax.registry': {
    *('import_module', 'spec_from_file_location', 'module_from_spec'),
    *('exec_module', 'SourceFileLoader'),
  },
}
_LOADER = re.compile(
  'import_module|run_path|run_module|.*spec_from_.*|.*from_spec'
  '|(exec|load)_module|.*FileLoader'
)

# Limits of the package.
FILE_LINES, FUNCTION_LINES, PARAMETERS = 450, 90, 9


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


SOURCES = {module_name(path): path.read_text() for path in FILES}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}
PACKAGE = [name for name in TREES if name.startswith('ecg_jax.')]


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


def inside(name, places):
  """Whether a module is one of the places or in one that is a folder."""
  return any(f'{name}.'.startswith(f'{place}.') for place in places)


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


def test_every_file_and_folder_has_its_place_once():
  listed = ' '.join(ORDER).split()
  assert len(set(listed)) == len(listed)
  assert set(map(part, PACKAGE)) == set(listed)


def test_imports_follow_the_data():
  wrong = [
    (name, other)
    for name in PACKAGE
    for other in IMPORTS[name].intersection(PACKAGE)
    if layer(other) >= layer(name) and part(other) != part(name)
  ]
  assert not wrong


def test_no_cycles():
  for name in TREES:
    for other in IMPORTS[name] & TREES.keys() - {name}:
      # A package's own modules are imported by it, and may import each other.
      if not name.startswith(f'{other}.'):
        assert name not in reached(other), (name, other)


@pytest.mark.parametrize('command', ['evaluate', 'predict', 'export'])
def test_what_uses_a_trained_model_does_not_import_training(command):
  for other in reached(f'ecg_jax.{command}'):
    assert not inside(other, ['ecg_jax.training'])


@pytest.mark.parametrize('place', NO_DEVICE)
def test_what_needs_no_device_imports_no_jax(place):
  names = [name for name in TREES if inside(name, [place])]
  assert names
  for other in set().union(*map(reached, names)):
    assert not DEVICE_LIBRARIES & libraries(other), other


@pytest.mark.parametrize('library', LIBRARIES)
def test_libraries_stay_where_they_belong(library):
  places = LIBRARIES[library].split()
  importers = [name for name in TREES if library in libraries(name)]
  for name in importers:
    assert inside(name, places), name
  for place in places:
    assert any(inside(name, [place]) for name in importers), place


def test_no_call_turns_data_into_code():
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        assert node.func.id not in ('eval', 'exec', '__import__'), name
      if isinstance(node, ast.keyword):
        assert node.arg != 'allow_pickle', name


def test_only_what_a_config_names_is_run():
  found = {}
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      # Of x.attr, of a name, and of `from x import name`.
      used = getattr(node, 'attr', getattr(node, 'id', None))
      used = getattr(node, 'name', used)
      if isinstance(used, str) and _LOADER.fullmatch(used):
        found.setdefault(name, set()).add(used)
  assert found == LOADERS


def test_flax_makes_no_decision_outside_of_the_models():
  """Beside them it gives types (forward) and a pytree (train_state)."""
  for name in (
    *('ecg_jax.experiment', 'ecg_jax.models.forward'),
    'ecg_jax.training.train_state',
  ):
    used = {
      node.attr
      for node in ast.walk(TREES[name])
      if isinstance(node, ast.Attribute)
      and isinstance(node.value, ast.Name)
      and node.value.id in ('nn', 'struct', 'flax')
    }
    assert used <= {'Module', 'dataclass', 'field', 'PyTreeNode'}


def test_configs_and_package_do_not_import_each_other():
  for name in TREES:
    if inside(name, ['configs']):
      assert IMPORTS[name] <= {
        'ml_collections',
        'ecg_jax.configs',
        'ecg_jax.default_config',
      }
    elif name in PACKAGE:
      assert not {'configs', 'ecg_jax.configs'} & IMPORTS[name]


def public(tree):
  """Public functions and classes of a module, and methods of the classes."""
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


@pytest.mark.parametrize('name', PACKAGE)
def test_files_and_functions_are_short(name):
  over = set()
  if len(SOURCES[name].splitlines()) > FILE_LINES:
    over.add(name)
  shown = list(public(TREES[name]))
  for node in ast.walk(TREES[name]):
    if isinstance(node, ast.FunctionDef):
      lines = node.end_lineno - node.lineno + 1
      arguments = [*node.args.posonlyargs, *node.args.args]
      arguments += node.args.kwonlyargs
      count = len([one for one in arguments if one.arg not in ('self', 'cls')])
      if lines > FUNCTION_LINES or (node in shown and count > PARAMETERS):
        over.add(f'{name}.{node.name}')
  assert not over

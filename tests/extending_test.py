"""The scripts of docs/extending.md do what the page says."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECTIONS = dict(
  re.findall(
    r'^## (.+?)\n.*?^```python\n(.*?)^```',
    (ROOT / 'docs' / 'extending.md').read_text(),
    re.MULTILINE | re.DOTALL,
  )
)


def test_every_section_has_a_script():
  assert list(SECTIONS) == [
    'A layer',
    'A loss',
    'A model',
    'A dataset',
    'A metric',
  ]


@pytest.mark.parametrize('section', SECTIONS)
def test_script_runs(section, monkeypatch):
  monkeypatch.chdir(ROOT)
  code = compile(SECTIONS[section], f'docs/extending.md, {section}', 'exec')
  exec(code, {'__name__': '__main__'})

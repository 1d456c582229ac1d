"""HTML pages that are one file: pictures, style and script are in it.

`page.html` beside this file has the style and the script of all pages.
"""

import base64
import html
import pathlib
import re
import string
from collections.abc import Iterable, Sequence

_PAGE = pathlib.Path(__file__).with_name('page.html')


class Html(str):
  """Text that is HTML already; any other is escaped when it is filled in."""


def read_templates(path: pathlib.Path) -> dict[str, str]:
  """The templates of a file, each behind a line `<!-- its name -->`."""
  _, *parts = re.split(
    r'^<!-- (\w+) -->\n', path.read_text(encoding='utf-8'), flags=re.MULTILINE
  )
  return dict(zip(parts[::2], parts[1::2], strict=True))


def fill(template: str, **values: object) -> Html:
  """Fills the `$NAME` of a template; escapes each value that is not Html."""
  return Html(
    string.Template(template).substitute(
      {
        name: value if isinstance(value, Html) else html.escape(str(value))
        for name, value in values.items()
      }
    )
  )


def join(parts: Iterable[Html]) -> Html:
  """Parts of a page, one after another."""
  return Html(''.join(parts))


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
  """A table, which a page with controls can sort by each column.

  Args:
    head: Text or Html of the head of each column.
    rows: Likewise the cells of each row, the first of which names it. Numbers
      are sorted well where a column has them with the same decimals.
  """
  heads = [fill('<th scope="col">$text</th>', text=text) for text in head]
  lines = []
  for name, *texts in rows:
    cells = [fill('<td>$text</td>', text=text) for text in texts]
    cells.insert(0, fill('<th scope="row">$text</th>', text=name))
    lines.append(fill('<tr>$cells</tr>\n', cells=join(cells)))
  return fill(
    '<div class="wide" tabindex="0" role="region" aria-label="table">\n'
    '<table><thead><tr>$heads</tr></thead>\n'
    '<tbody>\n$lines</tbody></table></div>\n',
    heads=join(heads),
    lines=join(lines),
  )


def picture(png: bytes, description: str) -> Html:
  """A PNG within the page."""
  content = base64.b64encode(png).decode()
  return fill(
    '<img alt="$description" src="data:image/png;base64,$content">\n',
    description=description,
    content=content,
  )


def encode(title: str, body: Html) -> bytes:
  """The file of a page; what is no UTF-8 in a file name becomes escapes."""
  page = fill(_PAGE.read_text(encoding='utf-8'), title=title, body=body)
  return page.encode(errors='backslashreplace')

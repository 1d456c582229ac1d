"""Renders Matplotlib figures to the content of a file."""

import io
import warnings

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text


def encode(figure: Figure, *, kind: str = 'png', dpi: int = 150) -> bytes:
  """Renders a figure; the same figure gives the same bytes.

  Args:
    figure: Created without pyplot, which would hold on to it.
    kind: 'png' or 'svg'.
    dpi: Pixels per inch of a PNG.
  """
  for text in figure.findobj(Text):  # A name may have a dollar sign.
    text.set_parse_math(False)
  content = io.BytesIO()
  date = {'Date': None} if kind == 'svg' else {}
  # Text in an SVG stays text, so that the viewer draws any script. A PNG has a
  # box in place of a character that the font lacks.
  with (
    matplotlib.rc_context({'svg.hashsalt': 'ecg_jax', 'svg.fonttype': 'none'}),
    warnings.catch_warnings(),
  ):
    warnings.filterwarnings('ignore', 'Glyph .* missing from')
    figure.savefig(content, format=kind, dpi=dpi, metadata=date)
  return content.getvalue()

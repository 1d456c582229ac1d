"""A Matplotlib figure as the content of a file."""

import io
import warnings

import matplotlib
from matplotlib.figure import Figure


def encode(figure: Figure, *, kind: str = 'png', dpi: int = 150) -> bytes:
  """Draws a figure; the same figure gives the same bytes.

  Args:
    figure: Made without pyplot, so that nothing is left behind.
    kind: 'png' or 'svg'.
    dpi: Pixels an inch of a PNG.
  """
  content = io.BytesIO()
  date = {'Date': None} if kind == 'svg' else {}
  # An SVG keeps text as text: any script is then the viewer's to draw. A PNG
  # has a box in place of a character that the font lacks.
  with (
    matplotlib.rc_context({'svg.hashsalt': 'ecg_jax', 'svg.fonttype': 'none'}),
    warnings.catch_warnings(),
  ):
    warnings.filterwarnings('ignore', 'Glyph .* missing from')
    figure.savefig(content, format=kind, dpi=dpi, metadata=date)
  return content.getvalue()

"""A Matplotlib figure as the content of a file."""

import io

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
  with matplotlib.rc_context({'svg.hashsalt': 'ecg_jax'}):
    figure.savefig(content, format=kind, dpi=dpi, metadata=date)
  return content.getvalue()

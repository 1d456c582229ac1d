"""The picture of a window in a page, as SVG: ECG paper, beats, attribution.

It shows what `ecg_plot` draws, at the same scale, in a tenth of the size. The
page has its paper and its colors, in light and dark. Sizes are millimeters.
"""

import numpy as np

from ecg_jax.datasets.schema import DatasetSpec
from ecg_jax.prediction import ecg_plot
from ecg_jax.runtime import page
from ecg_jax.runtime.page import Html

_PULSE = 10
"""Paper before each row, for the pulse of 1 mV."""

_BELOW = 15
"""Height of the attribution and the times below each row."""

_MARGIN = 3
"""To the right, for half of the last time."""

_ROW = """\
<g transform="translate(0 $top)">
<rect width="$width" height="$height" fill="url(#paper)"/>
<path class="trace" d="M1 ${pulse}h1.5v-10h5v10h1.5"/>
<path class="beat" d="$beats"/>
<g transform="translate($left $zero) scale($scale)">\
<path class="trace" d="$trace"/><path class="cut" d="$cut"/></g>
<g transform="translate($left $strip)">\
<path class="for" d="$positive"/><path class="against" d="$negative"/>
<path class="zero" d="M0 0h$length"/>$times</g>
</g>
"""

_TIME = '<text x="$x" y="7">$second</text>'


def draw(
  counts: np.ndarray,
  spec: DatasetSpec,
  *,
  attribution: ecg_plot.Attribution,
  beats: np.ndarray,
  description: str,
) -> Html:
  """Draws a window, at most its first `ecg_plot.LONGEST_SECONDS`.

  Args:
    counts: int16 [samples]; their median is drawn as zero.
    spec: Rate and unit of the samples.
    attribution: Of the most likely class.
    beats: Float [beats], the R peaks, seconds from the start of the window.
    description: What it shows, for those who do not see it.

  Returns:
    An SVG element at true scale, 25 mm/s and 10 mm/mV.
  """
  rate, unit = spec.sampling_rate, spec.counts_per_millivolt
  shown = counts[: round(ecg_plot.LONGEST_SECONDS * rate)].astype(np.int64)
  shown -= round(float(np.median(shown)))
  low, high = ecg_plot.paper_limits(shown / unit)
  height = round(10 * (high - low))
  heights = ecg_plot.bar_heights(attribution.shares)
  row_samples = round(ecg_plot.ROW_SECONDS * rate)
  rows: list[dict[str, object]] = []
  for first in range(0, len(shown), row_samples):
    row = shown[first : first + row_samples]
    start, seconds = first / rate, len(row) / rate
    positive, negative = _bars(
      heights, attribution.segment_seconds, start, seconds
    )
    trace, cut = _trace(row, round(low * unit), round(high * unit))
    rows.append(
      {
        'top': len(rows) * (height + _BELOW),
        'left': _PULSE,
        'width': f'{_PULSE + 25 * seconds:g}',
        'length': f'{25 * seconds:g}',
        'height': height,
        'pulse': f'{10 * max(high, 1.2):g}',
        'beats': _beats(beats - start, seconds),
        'zero': f'{10 * high:g}',
        'scale': f'{25 / rate:.6g} {-10 / unit:.6g}',
        'trace': trace,
        'cut': cut,
        'strip': height + 5,
        'positive': positive,
        'negative': negative,
        'times': page.join(
          page.fill(_TIME, x=25 * second, second=round(start) + second)
          for second in range(int(seconds + 1e-6) + 1)
        ),
      }
    )
  longest = min(len(shown), row_samples) / rate
  return page.fill(
    '<svg class="ecg" role="img" aria-label="$description" width="${width}mm"'
    ' height="${height}mm" viewBox="0 0 $width $height">\n$rows</svg>\n',
    description=description,
    width=f'{_PULSE + 25 * longest + _MARGIN:g}',
    height=len(rows) * (height + _BELOW),
    rows=page.join(page.fill(_ROW, **row) for row in rows),
  )


def _trace(row: np.ndarray, lowest: int, highest: int) -> tuple[str, str]:
  """Path of the counts over the samples, and dots where it leaves the paper."""
  level, *steps = np.diff(np.clip(row, lowest, highest), prepend=0)
  edges = np.where(row < lowest, lowest, highest)
  (beyond,) = np.nonzero((row < lowest) | (row > highest))
  return (
    f'M0 {level}l0 0 {" ".join(f"1{step:+d}" for step in steps)}',
    ''.join(f'M{sample} {edges[sample]}h0' for sample in beyond),
  )


def _beats(times: np.ndarray, seconds: float) -> str:
  """Path of a mark at the upper edge of the paper above each beat of a row."""
  inside = times[(times >= 0) & (times < seconds)]
  return ''.join(
    f'M{_PULSE - 0.7 + 25 * x:.1f} .3h1.4l-.7 1.2z' for x in inside
  )


def _bars(
  heights: np.ndarray, segment_seconds: float, start: float, seconds: float
) -> tuple[str, str]:
  """Paths of the bars of a row that are above zero, and of those below."""
  begins = np.arange(len(heights)) * segment_seconds - start
  middles = begins + segment_seconds / 2
  inside = (middles > 0) & (middles < seconds)
  bars = [
    (height, f'M{25 * x:g} 0v{-4 * height:.2f}h{25 * segment_seconds:g}V0z')
    for x, height in zip(begins[inside], heights[inside], strict=True)
  ]
  return (
    ''.join(path for height, path in bars if height > 0),
    ''.join(path for height, path in bars if height < 0),
  )

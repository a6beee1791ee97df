"""One style for every figure, and the parts that studies draw with.

The only file that imports matplotlib; the figures of a run directory, built
with it, are in `plotting.run`. Every figure is a
`matplotlib.figure.Figure` made without pyplot, so that nothing is kept alive
behind the caller's back, no window system is needed, and a notebook shows it.

Colours are those of Okabe & Ito (2008), distinct to colour-blind readers; each
series also has its own line style and marker, so that it is told apart in
grey. Values that are not finite are marked with a cross, never left out.
"""

import io
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float, Real

from mnist_jax.runtime import extras, files

with extras.needed("train"):
  import matplotlib
  from matplotlib.axes import Axes
  from matplotlib.axis import Axis
  from matplotlib.colors import LogNorm, Normalize
  from matplotlib.figure import Figure
  from matplotlib.lines import Line2D
  from matplotlib.patheffects import withStroke
  from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
  )

STYLE: dict[str, Any] = {
  "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
  "font.size": 11,
  "axes.titlesize": 12,
  "axes.labelsize": 11,
  "xtick.labelsize": 10,
  "ytick.labelsize": 10,
  "legend.fontsize": 10,
  "figure.titlesize": 13,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#d9d9d9",
  "grid.linewidth": 0.6,
  "lines.linewidth": 1.8,
  "lines.markersize": 5,
  "legend.frameon": True,
  "legend.framealpha": 0.9,
  "legend.edgecolor": "#cccccc",
  "figure.dpi": 100,
  "savefig.dpi": 160,
  "svg.hashsalt": "mnist_jax",
}
COLOURS = (
  "#0072B2",  # blue
  "#D55E00",  # vermilion
  "#009E73",  # green
  "#CC79A7",  # purple
  "#E69F00",  # orange
  "#56B4E9",  # sky blue
  "#000000",
)
LINE_STYLES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LOST_COLOUR = "#B00020"
SHADE: dict[str, Any] = {"color": "#888888", "alpha": 0.2, "linewidth": 0}
HOLLOW: dict[str, Any] = {"markerfacecolor": "white"}

# Dates and versions would make equal figures differ in their bytes.
_METADATA: dict[str, dict[str, None]] = {
  "png": {"Software": None},
  "svg": {"Date": None},
  "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def style() -> Any:
  """A context in which matplotlib follows STYLE; outside, nothing changes."""
  return matplotlib.rc_context(STYLE)


def series(i: int) -> dict[str, Any]:
  """Colour, line style and marker of the i-th series, all three by turns."""
  return {
    "color": COLOURS[i % len(COLOURS)],
    "linestyle": LINE_STYLES[i % len(LINE_STYLES)],
    "marker": MARKERS[i % len(MARKERS)],
  }


def panels(
  rows: int = 1,
  columns: int = 1,
  size: tuple[float | int, float | int] | None = None,
) -> tuple[Figure, np.ndarray]:
  """An empty figure in our style, and its axes [rows, columns].

  Its width and height are in inches, by default 5 x 3.8 a panel.
  """
  with style():
    figure = Figure(
      figsize=size or (5.0 * columns, 3.8 * rows), layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False)


def render(figure: Figure, form: str) -> bytes:
  """The figure as a file's bytes; the same figure gives the same bytes.

  Raises:
    KeyError: a form other than "png", "svg" and "pdf".
  """
  buffer = io.BytesIO()
  # Pillow's own level takes a quarter of the time for a tenth of the size.
  more: dict[str, Any] = (
    {"pil_kwargs": {"compress_level": 1}} if form == "png" else {}
  )
  with style():
    figure.savefig(buffer, format=form, metadata=_METADATA[form], **more)
  return buffer.getvalue()


def save(figure: Figure, *paths: str | os.PathLike[str]) -> None:
  """Writes the figure to each path, in the form its ending names.

  Each file is replaced in one step: a reader sees the old one or the new one.

  Raises:
    KeyError: an ending that `render` does not know.
  """
  for path in map(files.expanded, paths):
    content = render(figure, path.suffix[1:].lower())
    with files.replacing(path) as partial:
      partial.write_bytes(content)


def _plain(value: float, _: int | None = None) -> str:
  """0.05 and 200, but 10^-5; an axis with both stays readable."""
  if value > 0 and not 1e-3 <= value < 1e5:
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = value / 10**exponent
    if abs(factor - 1) < 1e-6:
      return rf"$10^{{{exponent}}}$"
    return rf"${factor:.4g}\times 10^{{{exponent}}}$"
  return f"{value:.5g}"


class _LogTicks(LogLocator):
  """1, 2, 5, 10, ... over up to three decades, powers of ten over more."""

  def tick_values(self, vmin: float, vmax: float) -> Any:
    wide = vmin > 0 and vmax > 1e3 * vmin
    self.set_params(subs=(1.0,) if wide else (1.0, 2.0, 5.0))
    return super().tick_values(vmin, vmax)


def log_axis(
  ax: Axes, which: str, ticks: Iterable[float | int] | None = None
) -> None:
  """Makes the axis "x" or "y" logarithmic, with plain numbers at its ticks.

  These are at 1, 2, 5, 10, ... or at powers of ten, as they fit, by default.
  """
  with style():
    ax.set(**{f"{which}scale": "log"})
    axis: Axis = {"x": ax.xaxis, "y": ax.yaxis}[which]
    if ticks is None:
      axis.set_major_locator(_LogTicks(numticks=10))
    else:
      axis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_plain))


def integer_ticks(axis: Axis) -> None:
  """Keeps an axis that counts something to whole numbers."""
  axis.set_major_locator(MaxNLocator(integer=True))


def mark_not_finite(
  ax: Axes, x: Real[np.ndarray, " K"], color: Any = LOST_COLOUR
) -> None:
  """Crosses on the upper edge at the x where a value is not finite."""
  if len(x):
    ax.plot(
      x,
      np.full(len(x), 0.97),
      transform=ax.get_xaxis_transform(),
      linestyle="none",
      marker="x",
      markersize=8,
      markeredgewidth=2,
      color=color,
      label="not finite (diverged)",
      zorder=6,  # above a legend
      clip_on=False,
    )


def bands(
  ax: Axes,
  x: Real[np.ndarray, " K"],
  y: Float[np.ndarray, "S K"],
  label: str,
  *,
  index: int = 0,
  interval: tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]
  | None = None,
) -> Line2D:
  """The mean over seeds, with the 95 % interval of the mean as a band.

  Where seeds are not finite, the mean is that of the others, a cross in the
  series' colour is drawn above, and the label counts them.

  Args:
    index: The number of the series, which gives colour, line style and marker.
    interval: The low and high ends, if computed elsewhere; by default Student's
      t, and no band from a single seed.

  Returns:
    The line of the means.
  """
  good = np.isfinite(y)
  finite = np.ma.masked_invalid(y)
  mean = finite.mean(axis=0).filled(np.nan)
  reach = scipy.special.stdtrit(np.maximum(good.sum(axis=0) - 1, 1), 0.975)
  error = finite.std(axis=0, ddof=1) / np.sqrt(good.sum(axis=0))
  half = error.filled(0) * reach
  low, high = (mean - half, mean + half) if interval is None else interval
  lost = int((~good).any(axis=1).sum())
  name = f"{label} (n = {len(y)}{f', {lost} diverged' if lost else ''})"
  look = series(index)
  with style():
    if len(y) > 1 or interval is not None:
      ax.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
    (line,) = ax.plot(
      x, mean, label=name, markevery=max(1, len(x) // 10), **look
    )
    if lost:
      mark_not_finite(ax, x[~good.all(axis=0)], look["color"])
      ax.lines[-1].set_label("_nolegend_")
  return line


def error_bars(
  ax: Axes,
  x: Real[np.ndarray, " K"] | float | int,
  estimates: Real[np.ndarray, " K"] | float | int,
  lows: Real[np.ndarray, " K"] | float | int,
  highs: Real[np.ndarray, " K"] | float | int,
  *,
  index: int = 0,
  across: bool = False,
  **look: Any,
) -> None:
  """Estimates, one or many, with the intervals from lows to highs.

  Args:
    index: The number of the series, which gives colour and marker.
    across: Whether estimates lie along the x axis, at the heights `x`.
    look: Arguments of `Axes.errorbar`, above those of the series.
  """
  # Lists: matplotlib 3.9 takes an array of one for a deprecated scalar.
  below, above = (
    np.atleast_1d(length).tolist()
    for length in (np.subtract(estimates, lows), np.subtract(highs, estimates))
  )
  look = series(index) | {"linestyle": "none", "capsize": 3} | look
  with style():
    if across:
      ax.errorbar(estimates, x, xerr=[below, above], **look)
    else:
      ax.errorbar(x, estimates, yerr=[below, above], **look)


def differences(
  ax: Axes,
  x: Real[np.ndarray, " K"],
  estimates: Float[np.ndarray, " K"],
  lows: Float[np.ndarray, " K"],
  highs: Float[np.ndarray, " K"],
  *,
  label: str | None = None,
  index: int = 0,
  margin: float | None = None,
) -> None:
  """Differences with their intervals, and the line at zero.

  Args:
    lows, highs: The intervals' ends; around 0 the marker is hollow.
    margin: The margin of equivalence; [-margin, margin] is shaded.
  """
  good = np.isfinite(estimates) & np.isfinite(lows) & np.isfinite(highs)
  undecided = good & (lows <= 0) & (highs >= 0)
  if label is not None and undecided.any():
    label += " (hollow: interval has 0 in it)"
  with style():
    ax.axhline(0, color="black", linewidth=1)
    if margin is not None:
      name = f"within the margin ±{margin:g}"
      ax.axhspan(-margin, margin, label=name, **SHADE)
    for chosen, fill in ((good & ~undecided, {}), (undecided, HOLLOW)):
      if chosen.any():
        ends = (estimates[chosen], lows[chosen], highs[chosen])
        error_bars(ax, x[chosen], *ends, index=index, label=label, **fill)
        label = None
    mark_not_finite(ax, x[~good], series(index)["color"])


def _edges(centres: Real[np.ndarray, " K"]) -> Float[np.ndarray, " _"]:
  """Between values of a log axis, and half a step beyond both ends."""
  logs = np.log(np.asarray(centres, np.float64))
  inner = (logs[1:] + logs[:-1]) / 2
  first, last = 2 * logs[0] - inner[0], 2 * logs[-1] - inner[-1]
  return np.exp(np.concatenate([[first], inner, [last]]))


def heat_map(
  ax: Axes,
  x: Real[np.ndarray, " X"],
  y: Real[np.ndarray, " Y"],
  values: Float[np.ndarray, "Y X"],
  label: str,
  *,
  lost: Bool[np.ndarray, "Y X"],
  low_is_good: bool = False,
  limits: tuple[float | int, float | int] | None = None,
) -> None:
  """Values as colours over two log axes; what is good is bright.

  Args:
    x, y: At least two places each, rising, above 0.
    values: NaN, where nothing was run, is left grey.
    lost: The cells drawn dark and hatched instead, whatever their value.
    low_is_good: Whether low values are bright, on a log scale.
    limits: The ends of the colours; by default of the cells that are not lost.
  """
  across, up = _edges(x), _edges(y)
  shown = np.where(lost, np.nan, values)
  low, high = limits or (np.nanmin(shown), np.nanmax(shown))
  scale = LogNorm if low_is_good else Normalize
  with style():
    ax.set_facecolor("#d0d0d0")
    ax.grid(False)
    mesh = ax.pcolormesh(
      across,
      up,
      np.ma.masked_invalid(shown),
      cmap="cividis_r" if low_is_good else "cividis",
      norm=scale(low, high),
    )
    bar = ax.figure.colorbar(
      mesh, ax=ax, label=label, extend="neither" if limits is None else "min"
    )
    if low_is_good:
      log_axis(bar.ax, "y")
    for i, (row, column) in enumerate(np.argwhere(lost)):
      ax.fill_between(
        across[column : column + 2],
        up[row],
        up[row + 1],
        facecolor="#3b3b3b",
        edgecolor="#b0b0b0",
        hatch="///",
        linewidth=0,
        label="diverged" if i == 0 else None,
      )
  log_axis(ax, "x", x.tolist())
  log_axis(ax, "y")
  ax.set(xlim=across[[0, -1]], ylim=up[[0, -1]])


def outlined(colour: str = "black") -> dict[str, Any]:
  """Look of a line on a heat map, seen on dark and on bright."""
  around = "white" if colour == "black" else "black"
  stroke = withStroke(linewidth=3.6, foreground=around)
  return {"color": colour, "linewidth": 1.8, "path_effects": [stroke]}

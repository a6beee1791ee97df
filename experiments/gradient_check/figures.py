"""The gradient check's figures: steps, residuals, depth and training.

Shapes: S seeds, K steps, depths or moments.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Real

from mnist_jax import plotting
from mnist_jax.gradcheck import RECHECK, VERY_SATISFYING
from mnist_jax.plotting import run
from mnist_jax.stats.effects import Effect

_LEAST, _MOST = 1e-16, 1.0  # of the residual map's colours
_NAMES = {"one_sided": "one-sided", "two_sided": "two-sided"}


def _marks(ax: Any, lowest: float) -> None:
  """The chapter's two readings of a distance, on an axis from `lowest`."""
  ax.set_ylim(lowest, 3)
  for value, text in (
    (VERY_SATISFYING, "1e-7: very satisfying below"),
    (RECHECK, "1e-2: re-check above"),
  ):
    ax.axhline(value, color="#888888", linewidth=1, linestyle=":")
    across = ax.get_yaxis_transform()  # x in parts of the axes
    look = {"fontsize": 8, "color": "#555555", "va": "bottom"}
    ax.text(0.01, value, text, transform=across, **look)


def _band(
  ax: Any, x: np.ndarray, y: Float[np.ndarray, "S K"], look: Mapping[str, Any]
) -> None:
  low, high = y.min(axis=0), y.max(axis=0)
  ax.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _legend_below(ax: Any, columns: int) -> None:
  ax.legend(
    loc="upper center",
    bbox_to_anchor=(0.5, -0.14),
    ncols=columns,
    fontsize=9,
    frameon=False,
  )


def _step_line(
  ax: Any,
  steps: Real[np.ndarray, " K"],
  y: Float[np.ndarray, "S K"],
  index: int,
  name: str,
  slope: tuple[Effect, tuple[float, float]],
) -> float:
  """One method's line, its fit and its valley; c of its rounding floor c/h."""
  good = np.isfinite(y).all(axis=0) & (y > 0).all(axis=0)
  x, y = steps[good], y[:, good]
  mean, look = scipy.stats.gmean(y), plotting.series(index)
  best = int(np.argmin(mean))
  label = f"{name}: slope {slope[0].estimate:.3f}, valley at h = {x[best]:.0e}"
  ax.plot(x, mean, label=label, **look)
  _band(ax, x, y, look)
  low, high = slope[1]
  inside = (x >= low) & (x <= high)
  ax.plot(x[inside], mean[inside], color=look["color"], linewidth=7, alpha=0.3)
  middle = np.flatnonzero(inside)[inside.sum() // 2]
  ax.annotate(
    f"slope {slope[0].estimate:.2f}",
    (x[middle], mean[middle]),
    xytext=(-10, 6) if index == 0 else (4, -40),
    textcoords="offset points",
    ha="right" if index == 0 else "center",
    color=look["color"],
  )
  ax.plot(x[best], mean[best], "o", ms=13, mfc="none", mec="black", zorder=5)
  # Where rounding rules the error is c / h; near 1 it is as large as it gets.
  small = (x < x[best] / 10) & (mean < 0.1)
  return float(scipy.stats.gmean((mean * x)[small])) if small.any() else 0.0


def error_vs_step(
  steps: Real[np.ndarray, " K"],
  errors: Mapping[tuple[str, str], Float[np.ndarray, "S K"]],
  slopes: Mapping[tuple[str, str], tuple[Effect, tuple[float, float]]],
) -> plotting.Figure:
  """Claim G1: the error of a difference against its step, log axes.

  Args:
    errors: by (precision, "one_sided" or "two_sided"); NaN where a step is
      too small to be taken.
    slopes: by the same keys the fitted exponent and the range of the fit.
  """
  figure, axes = plotting.panels(1, 2, (12.0, 5.8))
  for ax, dtype in zip(axes[0], ("float64", "float32"), strict=True):
    plotting.log_axis(ax, "x")
    plotting.log_axis(ax, "y")
    _marks(ax, 1e-12)
    floors = [
      _step_line(
        ax, steps, errors[dtype, method], i, name, slopes[dtype, method]
      )
      for i, (method, name) in enumerate(_NAMES.items())
    ]
    floor = min(c for c in floors if c)
    ax.plot(
      steps,
      floor / steps,
      color="black",
      linewidth=1,
      linestyle=(0, (1, 2)),
      label=f"rounding floor {floor:.0e} / h",
    )
    ax.set(xlabel="step h", title=f"losses computed in {dtype}")
    _legend_below(ax, 1)
  axes[0, 0].set_ylabel("distance to the exact gradient")
  seeds = len(next(iter(errors.values())))
  figure.suptitle(
    f"Error of a finite difference against its step ({seeds} networks; band: "
    "smallest to largest; thick: fitted; circle: valley)"
  )
  return figure


def residual_map(
  names: Sequence[str],
  given: Sequence[Float[np.ndarray, "..."]],
  numeric: Sequence[Float[np.ndarray, "..."]],
) -> plotting.Figure:
  """|given - numeric| of every entry, by tensor, on a logarithmic scale.

  In parts of the tensor's largest entry. A tensor of 784 rows is shown as
  28x28 tiles, one for each unit; a vector as a column of units.
  """
  tiled = [np.ndim(a) == 2 and np.shape(a)[0] == 784 for a in given]
  widths = [
    4.6 if t else 1.8 if np.ndim(a) == 2 else 0.5
    for t, a in zip(tiled, given, strict=True)
  ]
  size = (sum(widths) + 0.7 * len(given) + 1.0, 5.8)
  figure, axes = plotting.panels(1, len(given), size)
  axes[0, 0].get_gridspec().set_width_ratios(widths)
  image: Any = None
  for ax, name, a, b, tile in zip(
    axes[0], names, given, numeric, tiled, strict=True
  ):
    a, b = np.asarray(a), np.asarray(b)
    error = np.abs(a - b) / (max(np.abs(a).max(), np.abs(b).max()) or 1.0)
    worst = float(np.nanmax(error)) if np.isfinite(error).any() else math.nan
    if tile:
      columns = math.ceil(math.sqrt(error.shape[1]))
      table = run.mosaic(error.T.reshape(-1, 28, 28), columns)
    else:
      table = error if error.ndim == 2 else error[:, None]
    image = ax.imshow(
      np.clip(table, _LEAST, _MOST),
      cmap="viridis",
      norm="log",
      vmin=_LEAST,
      vmax=_MOST,
      interpolation="nearest",
      aspect="equal" if tile else "auto",
    )
    shape = "x".join(map(str, error.shape))
    ax.set_title(f"{name}\n{shape}\nmax {worst:.0e}", fontsize=9)
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    if tile:
      ax.set_xlabel("28x28 pixels for each unit")
    elif error.ndim == 2:
      ax.set(xlabel="unit", ylabel="input")
  figure.colorbar(image, ax=list(axes[0]), fraction=0.03, pad=0.01)
  figure.suptitle("|given - numeric| as a part of each tensor's largest entry")
  return figure


def distances(
  x: Real[np.ndarray, " K"],
  lines: Mapping[str, Float[np.ndarray, "S K"]],
  *,
  label: str,
  title: str,
) -> plotting.Figure:
  """Distances of many seeds, geometric means and ranges, log y axis.

  Args:
    lines: by the text of the legend.
    label: of the x axis.
  """
  figure, axes = plotting.panels(1, 1, (8.0, 5.4))
  ax = axes[0, 0]
  plotting.log_axis(ax, "y")
  _marks(ax, 1e-13)
  for i, (name, y) in enumerate(lines.items()):
    look = plotting.series(i)
    ax.plot(x, scipy.stats.gmean(y), label=name, **look)
    _band(ax, x, y, look)
  ax.set_xticks([float(v) for v in x], [f"{v:g}" for v in x])
  ax.set(xlabel=label, ylabel="distance")
  seeds = len(next(iter(lines.values())))
  ax.set_title(f"{title}\n({seeds} seeds; band: smallest to largest)")
  _legend_below(ax, 3)
  return figure

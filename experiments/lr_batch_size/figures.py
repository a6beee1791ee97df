"""Figures of the best rate against the batch size, alone and on a map."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from experiments._shared.metric import Metric
from mnist_jax.plotting import axes
from mnist_jax.stats import slopes
from mnist_jax.sweep import figures, tables

ANCHOR = 128  # the lines of slope 1 and 1/2 go through its best rate
_POINTS = 15  # of accuracy that the map's colours span


class Ridge(NamedTuple):
  """The best rates of S seeds at K batch sizes.

  Attributes:
    sizes: [K] rising, ANCHOR among them.
    rates: [S, K].
    fit: of them, all numbers of breaks.
  """

  sizes: Int[np.ndarray, " K"]
  rates: Float[np.ndarray, "S K"]
  fit: slopes.PiecewiseFit

  @property
  def best_fit(self) -> slopes.Segments:
    """The one of the lowest BIC."""
    return self.fit.fit(self.fit.best)


def fitted(ridge: Ridge, x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
  """The best fit's line at x, at the level of the mean log rates.

  Args:
    x: batch sizes, within those of the ridge.
  """
  fit = ridge.best_fit
  places = [place.estimate for place in fit.breakpoints]
  knots = np.log([ridge.sizes[0], *places, ridge.sizes[-1]])
  rises = np.diff(knots) * [slope.estimate for slope in fit.slopes]
  line = np.append(0.0, np.cumsum(rises))
  middle = np.interp(np.log(ridge.sizes), knots, line).mean()
  level = np.log(ridge.rates).mean() - middle
  return np.exp(level + np.interp(np.log(x), knots, line))


def fit_text(ridge: Ridge) -> str:
  """The slopes of the best fit and where it bends, in words."""
  fit = ridge.best_fit
  # + 0.0, or a small slope may be called -0.00.
  rounded = [round(slope.estimate, 2) + 0.0 for slope in fit.slopes]
  exponents = ", ".join(f"{slope:.2f}" for slope in rounded)
  places = ", ".join(f"{place.estimate:.0f}" for place in fit.breakpoints)
  bends = f", bends at {places}" if places else ""
  return f"fit ({fit.name}): slope {exponents}{bends}"


def _draw_best(
  ax: axes.Axes, ridge: Ridge, looks: Sequence[dict[str, Any]], name: str
) -> None:
  """The mean best rates, their fit and the two scaling rules."""
  means, low, high = figures.geometric_means(ridge.rates)
  x = np.geomspace(ridge.sizes[0], ridge.sizes[-1], 200)
  ratio = x / ANCHOR
  anchor = means[ridge.sizes == ANCHOR]
  lines = {
    fit_text(ridge): fitted(ridge, x),
    f"linear, through batch {ANCHOR}": anchor * ratio,
    f"square root, through batch {ANCHOR}": anchor * np.sqrt(ratio),
  }
  for (label, y), line in zip(lines.items(), looks, strict=True):
    ax.plot(x, y, label=label, **line)
  ax.vlines(ridge.sizes, low, high, zorder=5, **axes.outlined())
  look: dict[str, Any] = {"color": "white", "markeredgecolor": "black"}
  ax.plot(ridge.sizes, means, "o", zorder=6, label=name, **look)
  ax.set_xlabel("batch size")


def draw_map(ax: axes.Axes, table: pd.DataFrame, metric: Metric) -> None:
  """A metric by rate and batch size, mean over seeds.

  Cells where at least half the runs are lost are hatched; grey ones were not
  run.

  Args:
    table: last rows, of a `rate_search` grid.
    metric: accuracy is shown in percent down to 15 points below the best cell,
      loss as the counted losses' geometric mean.
  """
  if metric.is_accuracy:
    value = metric.scale * table[metric.column]
  else:
    value = np.log(tables.counted_loss(table))
  both = table.assign(value=value, lost=tables.lost(table)).pivot_table(
    index="learning_rate", columns="batch_size", values=["value", "lost"]
  )
  means = both["value"].to_numpy(np.float64)
  lost = both["lost"].to_numpy(np.float64) >= 0.5
  best = float(np.nanmax(np.where(lost, np.nan, means)))
  axes.heat_map(
    ax,
    both["value"].columns.to_numpy(),
    both.index.to_numpy(),
    means if metric.is_accuracy else np.exp(means),
    f"development {'accuracy (%)' if metric.is_accuracy else 'loss (nats)'}",
    lost=lost,
    low_is_good=not metric.is_accuracy,
    limits=(best - _POINTS, best) if metric.is_accuracy else None,
  )


def draw_on_map(ax: axes.Axes, ridge: Ridge) -> None:
  """The best rates, their fit and the two scaling rules over a heat map."""
  looks = [
    axes.outlined(),
    axes.outlined("#E69F00") | {"linestyle": "--"},
    axes.outlined("#56B4E9") | {"linestyle": ":"},
  ]
  _draw_best(ax, ridge, looks, "best rate (mean, 95 %)")
  ax.set_ylabel("learning rate")


def draw_ridge(ax: axes.Axes, ridge: Ridge) -> None:
  """The best rates of each seed, their means, their fit and the two rules."""
  looks = [dict(axes.series(i), marker=None) for i in range(3)]
  figures.draw_seeds(ax, ridge.sizes, ridge.rates, octaves=0.24)
  _draw_best(ax, ridge, looks, "geometric mean, 95 %")
  axes.log_axis(ax, "x", ridge.sizes.tolist())
  axes.log_axis(ax, "y")
  low, high = ridge.rates.min(), ridge.rates.max()
  ax.set_ylim(low / 2, high * 2)
  ax.set_ylabel("best learning rate")

"""Figures of the best rate against the batch size, alone and on a map."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mnist_jax import stats
from mnist_jax.plotting import axes
from mnist_jax.stats import slopes
from mnist_jax.sweep import tables

ANCHOR = 128  # the lines of slope 1 and 1/2 go through its best rate
_POINTS = 15  # of accuracy that the map's colours span
_SEED_COLOUR = "#777777"


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

  def mean(self, column: int) -> tuple[float, float, float]:
    """Geometric mean over seeds of a batch size, with its 95 % interval."""
    logs = np.log(self.rates[:, column])
    return stats.as_ratio(stats.mean_interval(logs, seed=0))

  @property
  def anchor(self) -> float:
    """The mean best rate at ANCHOR."""
    return self.mean(self.sizes.tolist().index(ANCHOR))[0]


def fitted(ridge: Ridge, x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
  """The best fit's line at x, at the level of the mean log rates.

  Args:
    x: batch sizes, above 0.
  """
  fit = ridge.best_fit
  exponents = [slope.estimate for slope in fit.slopes]

  def shape(sizes: Any) -> Any:
    logs = np.log(np.asarray(sizes, np.float64))
    line = exponents[0] * logs
    bends = np.diff(exponents)
    for place, bend in zip(fit.breakpoints, bends, strict=True):
      line = line + bend * np.maximum(0, logs - np.log(place.estimate))
    return line

  level = np.log(ridge.rates).mean() - shape(ridge.sizes).mean()
  return np.exp(level + shape(x))


def fit_text(ridge: Ridge) -> str:
  """The slopes of the best fit and where it bends, in words."""
  fit = ridge.best_fit
  # + 0.0, or a small slope may be called -0.00.
  rounded = [round(slope.estimate, 2) + 0.0 for slope in fit.slopes]
  exponents = ", ".join(f"{slope:.2f}" for slope in rounded)
  places = ", ".join(f"{place.estimate:.0f}" for place in fit.breakpoints)
  bends = f", bends at {places}" if places else ""
  return f"fit ({fit.name}): slope {exponents}{bends}"


def _draw_lines(
  ax: axes.Axes, ridge: Ridge, looks: Sequence[dict[str, Any]]
) -> None:
  x = np.geomspace(ridge.sizes[0], ridge.sizes[-1], 200)
  ratio = x / ANCHOR
  for y, label, look in zip(
    (fitted(ridge, x), ridge.anchor * ratio, ridge.anchor * np.sqrt(ratio)),
    (
      fit_text(ridge),
      f"linear, through batch {ANCHOR}",
      f"square root, through batch {ANCHOR}",
    ),
    looks,
    strict=True,
  ):
    ax.plot(x, y, label=label, **look)


def _draw_means(ax: axes.Axes, ridge: Ridge, label: str) -> None:
  for i, size in enumerate(ridge.sizes):
    mean, low, high = ridge.mean(i)
    ax.plot([size, size], [low, high], "_-", zorder=5, **axes.outlined())
    ax.plot(
      [size],
      [mean],
      marker="o",
      markersize=7,
      color="white",
      markeredgecolor="black",
      linestyle="none",
      zorder=6,
      label=label if i == 0 else None,
    )


def draw_map(ax: axes.Axes, table: pd.DataFrame, metric: str) -> None:
  """A metric by rate and batch size, mean over seeds.

  Cells where at least half the runs are lost are hatched; grey ones were not
  run.

  Args:
    table: last rows, of a `rate_search` grid.
    metric: "dev_accuracy", shown in percent down to 15 points below the best
      cell, or "dev_loss", of the counted losses' geometric mean.
  """
  accurate = metric == "dev_accuracy"
  counted = tables.counted_loss(table)
  value = 100 * table[metric] if accurate else np.log(counted)
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
    means if accurate else np.exp(means),
    f"development {'accuracy (%)' if accurate else 'loss (nats)'}",
    lost=lost,
    low_is_good=not accurate,
    limits=(best - _POINTS, best) if accurate else None,
  )


def draw_on_map(ax: axes.Axes, ridge: Ridge) -> None:
  """The best rates, their fit and the two scaling rules over a heat map."""
  _draw_lines(
    ax,
    ridge,
    [
      axes.outlined(),
      axes.outlined("#E69F00") | {"linestyle": "--"},
      axes.outlined("#56B4E9") | {"linestyle": ":"},
    ],
  )
  _draw_means(ax, ridge, "best rate (mean, 95 %)")
  ax.set_xlabel("batch size")
  ax.set_ylabel("learning rate")


def draw_ridge(ax: axes.Axes, ridge: Ridge) -> None:
  """The best rates of each seed, their means, their fit and the two rules."""
  spread = np.linspace(-0.12, 0.12, len(ridge.rates))
  looks = [dict(axes.series(i), marker=None) for i in range(3)]
  for i, size in enumerate(ridge.sizes):
    ax.plot(
      size * np.exp2(spread),
      ridge.rates[:, i],
      linestyle="none",
      marker=".",
      markersize=4,
      color=_SEED_COLOUR,
      label="each seed" if i == 0 else None,
    )
  _draw_lines(ax, ridge, looks)
  _draw_means(ax, ridge, "geometric mean, 95 %")
  axes.log_axis(ax, "x", ridge.sizes.tolist())
  axes.log_axis(ax, "y")
  low, high = ridge.rates.min(), ridge.rates.max()
  ax.set_ylim(low / 2, high * 2)
  ax.set_xlabel("batch size")
  ax.set_ylabel("best learning rate")

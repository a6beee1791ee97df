"""The figures of the map: the heat maps and the lines of the best rates."""

import math
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import rate_search, study
from experiments._shared.rate_search import Target
from experiments.lr_batch_size.ridges import (
  Ridges,
  after,
  effect_of,
  full_sizes,
  horizons,
)
from mnist_jax import plotting, stats
from mnist_jax.plotting.axes import outlined
from mnist_jax.sweep import tables


def _heat_map(ax: plotting.Axes, table: pd.DataFrame) -> None:
  """The geometric mean of the counted losses by rate and batch size.

  Cells where at least half the runs are lost are hatched; grey ones were not
  run so long.
  """
  value = np.log(rate_search.counted(table, "dev_loss"))
  both = table.assign(value=value, lost=tables.lost(table)).pivot_table(
    index="learning_rate", columns="batch_size", values=["value", "lost"]
  )
  plotting.heat_map(
    ax,
    both["value"].columns.to_numpy(),
    both.index.to_numpy(),
    np.exp(both["value"].to_numpy(np.float64)),
    "development loss (nats)",
    lost=both["lost"].to_numpy(np.float64) >= 0.5,
    low_is_good=True,
  )


def draw_map(
  measured: study.Tables, found: Ridges, values: study.Values
) -> plotting.Figure:
  """Heat maps after the first and the last horizon, with the best rates."""
  table = measured["table"]
  coarse = table[table["stage"] == "coarse"]
  figure, axes = plotting.panels(1, 2, (14, 6))
  for ax, epoch in zip(axes[0], (1, values.epochs), strict=True):
    ridge = found[Target(epoch, "dev_loss")]
    _heat_map(ax, rate_search.at_horizon(coarse, epoch))
    ends = [
      stats.as_ratio(effect_of(np.log(rates), ridge.n))
      for rates in ridge.rates.T
    ]
    means, low, high = np.array(ends).T
    middle = len(means) // 2
    for power, colour, line, name in (
      (1.0, "#E69F00", "--", "linear"),
      (0.5, "#56B4E9", ":", "square root"),
    ):
      ratio = (ridge.sizes / ridge.sizes[middle]) ** power
      label = f"{name}, through batch {ridge.sizes[middle]}"
      look = outlined(colour) | {"linestyle": line}
      ax.plot(ridge.sizes, means[middle] * ratio, label=label, **look)
    ax.vlines(ridge.sizes, low, high, zorder=5, **outlined())
    ax.plot(
      ridge.sizes,
      means,
      "o",
      color="white",
      markeredgecolor="black",
      zorder=6,
      label=f"best rate, 95 % (n = {ridge.n})",
    )
    ax.set(xlabel="batch size", ylabel="learning rate")
    ax.set_title(f"after {after(epoch)}")
    ax.legend(fontsize=8, loc="lower right")
  figure.suptitle(
    "Development loss by rate and batch (mean over tuning seeds: "
    f"{values.tuning_seeds}); grey was not run"
  )
  return figure


def _bars(
  ax: plotting.Axes, x: np.ndarray, draws: np.ndarray, n: int, **look: Any
) -> None:
  """Estimates, the first row, with the intervals of the others."""
  found = [effect_of(column, n) for column in draws.T]
  ends = np.array([(e.estimate, e.low, e.high) for e in found]).T
  plotting.error_bars(ax, x, *ends, **look)


def draw_horizons(found: Ridges, values: study.Values) -> plotting.Figure:
  """Best rates and their exponents, a line for each horizon."""
  figure, axes = plotting.panels(1, 3, (16, 5))
  rates, local, rising = axes[0]
  sizes = full_sizes(values)
  for i, target in enumerate(found):
    ridge, by_error = found[target], target.metric == "dev_error"
    apart = 1.03 ** (i - len(found) / 2)
    label = f"{after(target.epoch)}{', by error' if by_error else ''}"
    look = {"index": i, "label": label, "linewidth": 1.4} | plotting.series(i)
    _bars(rates, ridge.sizes * apart, np.log2(ridge.rates), ridge.n, **look)
    middles, exponents = ridge.local()
    _bars(local, middles * apart, exponents, ridge.n, **look)
  low, high = rates.get_ylim()
  ticks = range(math.floor(low), math.ceil(high) + 1)
  rates.set_yticks(ticks, [f"{2.0**tick:.3g}" for tick in ticks])
  rates.set(ylabel="best learning rate", title="Best rate by development loss")
  for level in (0.0, 0.5, 1.0):
    local.axhline(level, color="black", linestyle=":", linewidth=1)
  local.set(
    ylabel="exponent between neighbours", title="1: linear, 0.5: square root"
  )
  for ax in (rates, local):
    plotting.log_axis(ax, "x", values.batch_sizes)
    ax.set_xlabel("batch size")
  three = tuple(sizes[:3])
  epochs = np.array(horizons(values), np.float64)
  along = [found[Target(h, "dev_loss")] for h in horizons(values)]
  slopes_of = np.stack([each.exponents(three) for each in along], axis=1)
  _bars(rising, epochs, slopes_of, values.seeds, linestyle="-")
  plotting.log_axis(rising, "x", epochs)
  rising.set(
    xlabel="epochs of training",
    ylabel=f"exponent from batch {three[0]} to {three[-1]}",
    title="The exponent against the horizon",
  )
  rates.legend(fontsize=8)
  figure.suptitle(
    f"Which rate is best depends on how long one trains: {values.seeds} seeds, "
    "95 % intervals"
  )
  return figure

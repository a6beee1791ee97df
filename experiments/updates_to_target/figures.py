"""The figures of updates to a target, and of the gap to training data.

`measured` is as in `scaling_tables`.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.updates_to_target import scaling
from experiments.updates_to_target.tables import Measured
from mnist_jax import plotting, stats
from mnist_jax.sweep import figures

ROUGH = {"batch_loss": "mini-batch loss", "dev_loss": "development loss"}
_BUDGETS = {"epochs": "equal epochs", "updates": "equal updates"}


def _ticks(batches: Float[np.ndarray, " K"]) -> list[float]:
  return batches[:: max(1, len(batches) // 7)].tolist()


def _geometric(
  ax: plotting.Axes,
  batches: Float[np.ndarray, " K"],
  values: Float[np.ndarray, "S K"],
  label: str,
  *,
  index: int = 0,
) -> None:
  """Geometric means over seeds with their intervals, on two log axes."""
  figures.draw_geometric(ax, batches, values, label, index=index)
  plotting.log_axis(ax, "x", _ticks(batches))
  plotting.log_axis(ax, "y")
  ax.set_xlabel("batch size B")


def _mark_regions(ax: plotting.Axes, measured: Measured) -> None:
  """Shades the regions; lines at the critical batch and the noise scale."""
  batches, updates = scaling.by_batch(measured["table"], "step")
  regions = scaling.regions(batches, scaling.local_slopes(batches, updates))
  critical = stats.as_ratio(scaling.critical_batch(batches, updates))
  noise = stats.geometric_mean(measured["noise"]["noise_scale"].to_numpy())
  perfect: dict[str, Any] = {"facecolor": "#888888", "alpha": 0.22}
  none = {"facecolor": "none", "edgecolor": "#888888", "hatch": "//"}
  for low, high, name, look in (
    (batches[0], regions.perfect_to, "perfect scaling", perfect),
    (regions.none_from, batches[-1], "no scaling", none),
  ):
    if low is not None and high is not None:
      ax.axvspan(low, high, linewidth=0, label=name, **look)
  for (mean, low, high), name, style in (
    (critical, "critical batch", "--"),
    (noise, "noise scale", ":"),
  ):
    ax.axvline(
      mean,
      color="black",
      linestyle=style,
      linewidth=1.3,
      label=f"{name} {mean:.3g} [{low:.3g}, {high:.3g}]",
    )


def _draw_slopes(ax: plotting.Axes, measured: Measured) -> None:
  batches, updates = scaling.by_batch(measured["table"], "step")
  found = scaling.local_slopes(batches, updates)
  _mark_regions(ax, measured)
  plotting.differences(
    ax,
    batches[1:-1],
    *np.array([(e.estimate, e.low, e.high) for e in found]).T,
  )
  for value in (-1 + scaling.MARGIN, -scaling.MARGIN):
    ax.axhline(value, color="black", linestyle=":", linewidth=1)
  ax.axhline(-1, color="black", linewidth=1)
  ylabel = "local slope of log updates (three sizes)"
  ax.set(xlabel="batch size B", ylabel=ylabel, ylim=(-1.35, 0.35))
  ax.legend(fontsize=8, loc="lower right")
  plotting.log_axis(ax, "x", _ticks(batches))
  ax.set_xlim(batches[0] / 1.3, batches[-1] * 1.3)


def draw_target(measured: Measured, target: float | int) -> plotting.Figure:
  """Updates and epochs to the target, local slopes, and roughness."""
  figure, axes = plotting.panels(2, 2, (13, 9.6))
  table = measured["table"]
  batches, updates = scaling.by_batch(table, "step")
  _, epochs = scaling.by_batch(table, "epoch")
  first, second, third, fourth = axes.flat
  _mark_regions(first, measured)
  _geometric(first, batches, updates, "rate tuned per batch")
  means = np.exp(np.log(updates).mean(axis=0))
  fit = scaling.tradeoff(batches, means)
  look = {"color": plotting.COLOURS[1], "label": "S_min + E_min / B"}
  perfect = means[0] * batches[0] / batches
  first.plot(
    batches, perfect, "k", linewidth=0.9, label="perfect: updates ~ 1 / B"
  )
  first.plot(batches, fit.updates(batches), **look)
  first.set_ylim(means.min() / 2, means.max() * 1.6)
  first.set_ylabel(f"updates to development loss {target:g}")
  first.legend(fontsize=8)
  _geometric(second, batches, epochs, "rate tuned per batch")
  second.set_ylabel(f"epochs to development loss {target:g}")
  second.legend(fontsize=9)
  _draw_slopes(third, measured)
  for i, (column, name) in enumerate(ROUGH.items()):
    sizes, rough = scaling.by_batch(measured["roughness"], column)
    _geometric(fourth, sizes, rough, name, index=i)
  fourth.set_ylabel("roughness over the last updates (nats)")
  fourth.legend(fontsize=9)
  figure.suptitle(
    "Updates to a target against batch size, rates tuned per batch; "
    "geometric mean, 95 % band"
  )
  return figure


def _draw_ends(ax: plotting.Axes, table: pd.DataFrame, column: str) -> None:
  """A column of B8's runs against batch, a line for each budget."""
  for i, (unit, own) in enumerate(table.groupby("budget_unit", sort=False)):
    batches, values = scaling.by_batch(own, column)
    plotting.bands(ax, batches, values, _BUDGETS[str(unit)], index=i)
  sizes = sorted(table["batch_size"].unique().tolist())
  plotting.log_axis(ax, "x", sizes)
  ax.set_xlabel("batch size")
  ax.legend(fontsize=9)


def draw_gap(measured: Measured) -> plotting.Figure:
  """B8: accuracy, gap, rates and sharpness against batch size."""
  figure, axes = plotting.panels(2, 2, (12, 9))
  accuracy, gap, rates, sharp = axes.flat
  table = measured["gap"]
  columns = ("dev_accuracy", "gap", "learning_rate")
  for ax, column in zip((accuracy, gap, rates), columns, strict=True):
    _draw_ends(ax, table, column)
  figures.metric_axis(accuracy, "dev_accuracy")
  gap.set_ylabel("development less training loss (nats)")
  rates.set_ylabel("tuned learning rate")
  plotting.log_axis(rates, "y")
  sizes, values = scaling.by_batch(measured["sharpness"], "sharpness")
  places = np.arange(len(sizes))
  figures.draw_seeds(sharp, places, values)
  means = figures.geometric_means(values)
  plotting.error_bars(
    sharp, places + 0.12, *means, label="geometric mean, 95 %"
  )
  sharp.set_xticks(places, [f"{size:g}" for size in sizes])
  sharp.set_xlim(-0.5, len(sizes) - 0.5)
  sharp.set(
    xlabel="batch size (equal epochs)", ylabel="largest Hessian eigenvalue"
  )
  sharp.legend(fontsize=9)
  figure.suptitle(
    "Generalisation against batch size, rates tuned per batch and budget; "
    f"{measured['sharpness']['seed'].nunique()} seeds"
  )
  plotting.log_axis(sharp, "y")
  return figure

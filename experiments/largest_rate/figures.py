"""The figures of B3 and H4."""

import math

import numpy as np
import pandas as pd

from experiments._shared import rate_search, study
from experiments.largest_rate import edge, limit
from mnist_jax import plotting
from mnist_jax.sweep import figures, tables


def _draw_limits(
  ax: plotting.Axes, measured: study.Tables, values: study.Values
) -> None:
  sizes = np.array(values.batch_sizes, np.float64)
  ends = sizes[[0, -1]] * np.array([0.7, 1.4])
  bounds = 2 / edge.starts(measured["curvature"])
  both = np.stack([bounds, bounds], axis=1)
  line = plotting.bands(ax, ends, both, "2 / λ at the start", index=1)
  line.set_marker("")
  found = [
    limit.largest(measured["table"], size)[0] for size in values.batch_sizes
  ]
  rates = np.stack(found, axis=1)
  figures.draw_seeds(ax, sizes, rates, octaves=0.2)
  means = figures.geometric_means(rates)
  plotting.error_bars(
    ax, sizes, *means, capsize=4, label="largest stable rate, 95 %"
  )
  ax.axhline(
    limit.LIMIT, color="black", linewidth=1, label="the claim's limit, 1.0"
  )
  plotting.log_axis(ax, "x", values.batch_sizes)
  plotting.log_axis(ax, "y")
  ax.set(xlabel="batch size", ylabel="learning rate")
  ax.legend(fontsize=8)


def _draw_by_rate(
  loss: plotting.Axes,
  share: plotting.Axes,
  table: pd.DataFrame,
  values: study.Values,
) -> None:
  least = math.inf
  for i, size in enumerate(values.batch_sizes):
    rates, losses, lost = rate_search.column(table, size)
    least = min(least, losses.min())
    name = f"batch {size}"
    plotting.bands(loss, rates, losses, name, index=i)
    share.plot(rates, 100 * lost.mean(axis=0), label=name, **plotting.series(i))
  loss.axhline(
    tables.GUESSING, color="black", linestyle=":", label="guessing, ln 10"
  )
  plotting.log_axis(loss, "y")
  loss.set_ylim(bottom=least / 2)
  figures.metric_axis(loss, "dev_loss")
  share.set_ylabel("lost (% of seeds)")
  for ax in (loss, share):
    plotting.log_axis(ax, "x")
    ax.axvline(limit.LIMIT, color="black", linewidth=1)
    ax.set_xlabel(f"learning rate, {values.updates} updates")
    ax.legend(fontsize=8)


def _draw_above(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  figure, axes = plotting.panels(2, 2, (12, 9))
  rows = zip(axes, (limit.BATCH, limit.SMALL_BATCH), strict=True)
  for panels, size in rows:
    own = measured["above"][measured["above"]["batch_size"] == size]
    for ax, metric in zip(panels, ("dev_accuracy", "dev_loss"), strict=True):
      figures.draw_curves(
        ax,
        tables.curves(own, "learning_rate", metric),
        metric,
        "rate {:g}".format,
        since=0.2,
      )
      ax.set_title(f"batch {size}")
    panels[0].axhline(limit.REACHED, color="black", linestyle=":")
  figure.suptitle(
    f"Below and above rate 1.0, {values.epochs} epochs, {values.seeds} seeds, "
    "mean and 95 % band"
  )
  return figure


def _draw_edges(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  sizes = (*edge.SMALL_BATCHES, values.examples)
  figure, axes = plotting.panels(2, len(sizes), (15, 8.5))
  names = {
    "sharpness": "largest eigenvalue",
    "batch_sharpness": "batch sharpness",
  }
  for row, (column, name) in zip(axes, names.items(), strict=True):
    for ax, size in zip(row, sizes, strict=True):
      for i, rate in enumerate(edge.RATES):
        curves = edge.in_edges(measured["curvature"], size, rate, column)
        label = f"rate {rate:g}"
        plotting.bands(ax, curves.points, curves.values[0], label, index=i)
      ax.axhline(1, color="black", linewidth=1, label="2 / rate")
      full = " (all)" if size == values.examples else ""
      ax.set_title(f"batch {size}{full}")
      ax.set(xlabel="update", ylabel=f"{name} over 2 / rate")
      ax.legend(fontsize=8)
  figure.suptitle(
    f"Curvature along training as a share of 2 / rate, {values.examples:,} "
    f"training examples, {values.seeds} seeds, mean and 95 % band"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  limits, axes = plotting.panels(1, 3, (16, 4.6))
  _draw_limits(axes[0, 0], measured, values)
  _draw_by_rate(axes[0, 1], axes[0, 2], measured["table"], values)
  limits.suptitle(
    f"The largest stable learning rate of {values.updates} updates, "
    f"{values.seeds} seeds"
  )
  return {
    "largest_rate": limits,
    "above_one": _draw_above(measured, values),
    "curvature": _draw_edges(measured, values),
  }

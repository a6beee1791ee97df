"""The figures of the best batch size at fixed rates."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments._shared.metric import ACCURACY
from experiments.best_batch import curves as batch_curves
from mnist_jax import plotting, stats
from mnist_jax.sweep import figures


def draw_accuracy(
  table: pd.DataFrame, batches: Sequence[int]
) -> plotting.Figure:
  """Mean accuracy of each curve, one panel for each of `batch_curves.lines`."""
  figure, axes = plotting.panels(2, 2, (12, 9))
  for ax, (name, (along, curves)) in zip(
    axes.flat, batch_curves.lines(table).items(), strict=True
  ):
    lowest = 1.0
    for i, curve in enumerate(curves):
      x, accuracy = batch_curves.by_batch(table, curve)
      value = getattr(curve, along)
      label = f"N = {value}" if along == "examples" else f"rate {value:g}"
      plotting.bands(ax, x, accuracy, label, index=i)
      means = accuracy.mean(axis=0)
      lowest = min(lowest, float(means[len(means) // 2 :].min()))
    plotting.log_axis(ax, "x", batches)
    # What fails at the small batches would flatten all the rest.
    ax.set_ylim(max(0.0, lowest - 0.12), min(1.0, ax.get_ylim()[1] + 0.005))
    figures.metric_axis(ax, "dev_accuracy")
    ax.set_xlabel("batch size")
    ax.set_title(name.partition(", ")[2])
    ax.legend(loc="lower right", fontsize=9)
  figure.suptitle(
    "Accuracy against batch size at fixed rates, mean and 95 % band over seeds"
  )
  return figure


def draw_best(table: pd.DataFrame, batches: Sequence[int]) -> plotting.Figure:
  """The best batch against rate and against N, with slopes."""
  figure, axes = plotting.panels(1, 2, (13, 5.6))
  names = {"effective_rate": "learning rate", "examples": "training examples N"}
  places = dict(zip(names, axes[0], strict=True))
  ticks: dict[str, set[float]] = {along: set() for along in names}
  for i, (name, (along, curves)) in enumerate(
    batch_curves.lines(table).items()
  ):
    x, best, _ = batch_curves.line(table, along, curves)
    slope = batch_curves.slope(x, best)
    label = (
      f"{name.partition(', ')[2]}: slope {slope.estimate:.2f} "
      f"[{slope.low:.2f}, {slope.high:.2f}]"
    )
    figures.draw_geometric(places[along], x, best, label, index=i)
    ticks[along] |= set(x.tolist())
  low, high = batches[0] / 1.5, batches[-1] * 1.5
  for along, ax in places.items():
    x = np.array(sorted(ticks[along]))
    middle = np.sqrt(low * high / x[0] / x[-1]) * x
    ax.plot(x, middle, "k:", linewidth=1.2, label="slope 1, as Smith & Le")
    ax.set_xlabel(names[along])
    ax.set_ylabel("best batch size (geometric mean, 95 %)")
    ax.legend(fontsize=9, loc="upper left")
    plotting.log_axis(ax, "x", x)
    plotting.log_axis(ax, "y", batches)
    # Room above the largest batch for the legend.
    ax.set_ylim(low, high * (high / low) ** 0.45)
  figure.suptitle("Best batch size of each seed, at fixed rates")
  return figure


def _spread(values: Sequence[float]) -> str:
  """By what factor positive numbers differ: exp of the sd of their logs."""
  return f"spread by a factor of {np.exp(np.log(values).std(ddof=1)):.2g}"


def draw_collapse(
  table: pd.DataFrame, batches: Sequence[int]
) -> plotting.Figure:
  """Accuracy below the curve's best, against batch and against noise scale.

  Of the curves of equal updates, those with momentum among them. The titles
  say how far apart the curves' best batches are, and the noise scales there:
  at a perfect collapse the second is a factor of 1.
  """
  figure, axes = plotting.panels(1, 2, (13, 6.4))
  by_batch, by_noise = axes[0]
  found = batch_curves.curves_of(table)
  best, noise = [], []
  wanted = [curve for curve in found if curve.budget_unit == "updates"]
  for i, curve in enumerate(wanted):
    sizes, accuracy = batch_curves.by_batch(table, curve)
    below = ACCURACY.scale * (accuracy - accuracy.mean(axis=0).max())
    name = str(curve).partition(", ")[2]
    plotting.bands(by_batch, sizes, below, name, index=i)
    plotting.bands(by_noise, curve.noise_scale(sizes), below, name, index=i)
    own = batch_curves.best_batches(table, curve).at
    best.append(stats.geometric_mean(own)[0])
    noise.append(curve.noise_scale(best[-1]))
  plotting.log_axis(by_batch, "x", batches)
  plotting.log_axis(by_noise, "x")
  by_batch.set_title(f"best batches {_spread(best)}")
  by_noise.set_title(f"noise scales there {_spread(noise)}")
  by_batch.set_xlabel("batch size")
  by_noise.set_xlabel("noise scale ε / (1 − m) · (N / B − 1)")
  for ax in (by_batch, by_noise):
    ax.set_ylim(-6, 0.6)
    ax.set_ylabel("accuracy less the curve's best (points)")
  lines, names = by_batch.get_legend_handles_labels()
  figure.legend(lines, names, loc="outside lower center", ncols=3, fontsize=9)
  figure.suptitle(
    "Do curves fall together at equal noise scale? Equal updates, mean and "
    "95 % band"
  )
  return figure

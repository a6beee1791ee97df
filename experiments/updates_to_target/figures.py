"""The figures of updates to a target, and of the gap to training data.

`measured` is as in `judging`; also "rates", tuned and smoothed, and "noise".
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from experiments._shared import tuning
from experiments.updates_to_target import judging, scaling
from experiments.updates_to_target.tables import Measured
from mnist_jax import plotting, stats
from mnist_jax.sweep import figures


def _batch_axis(ax: plotting.Axes, batches: Float[np.ndarray, " K"]) -> None:
  plotting.log_axis(ax, "x", batches[:: max(1, len(batches) // 7)].tolist())
  ax.set_xlim(batches[0] / 1.3, batches[-1] * 1.3)
  ax.set_xlabel("batch size B")


def _mark_regions(
  ax: plotting.Axes, measured: Measured, target: float | int
) -> None:
  """Shades the regions; lines at the critical batch and the noise scale."""
  batches, updates = scaling.to_target(measured["table"], target)
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
    (noise, "noise scale after an epoch", ":"),
  ):
    ax.axvline(
      mean,
      color="black",
      linestyle=style,
      linewidth=1.3,
      label=f"{name} {mean:.3g} [{low:.3g}, {high:.3g}]",
    )


def _draw_updates(
  ax: plotting.Axes, measured: Measured, targets: list[float]
) -> None:
  shown = []
  for index, target in enumerate(targets):
    batches, updates = scaling.to_target(measured["table"], target)
    figures.draw_geometric(
      ax, batches, updates, f"loss {target:g}", index=index
    )
    means = np.exp(np.log(updates).mean(axis=0))
    perfect = means[0] * batches[0] / batches
    name = None if index else "perfect: updates ~ 1 / B"
    ax.plot(batches, perfect, "k", linewidth=0.8, label=name)
    shown += [means.min(), means.max()]
  ax.set_ylim(min(shown) / 1.5, 1.5 * max(shown))
  plotting.log_axis(ax, "y")
  ax.set_ylabel("updates to a development loss")
  ax.legend(fontsize=8)


def _draw_slopes(
  ax: plotting.Axes, measured: Measured, target: float | int
) -> None:
  batches, updates = scaling.to_target(measured["table"], target)
  found = scaling.local_slopes(batches, updates)
  _mark_regions(ax, measured, target)
  plotting.differences(
    ax,
    batches[1:-1],
    *np.array([(e.estimate, e.low, e.high) for e in found]).T,
  )
  for value in (-1 + scaling.MARGIN, -scaling.MARGIN):
    ax.axhline(value, color="black", linestyle=":", linewidth=1)
  ax.axhline(-1, color="black", linewidth=1)
  ylabel = f"local slope of log updates to {target:g} (three sizes)"
  ax.set(ylabel=ylabel, ylim=(-1.35, 0.5))
  ax.legend(fontsize=8, loc="upper left")


def _draw_rates(
  ax: plotting.Axes, measured: Measured, targets: list[float]
) -> None:
  rates = measured["rates"]
  for index, target in enumerate(targets):
    own = rates[rates["target"] == target]
    look = plotting.series(index)
    ax.plot(own["batch_size"], own["tuned"], **look | {"linestyle": "none"})
    smooth = look | {"marker": ""}
    label = f"loss {target:g}: points tuned, line smoothed"
    ax.plot(own["batch_size"], own["smoothed"], **smooth, label=label)
  plotting.log_axis(ax, "y")
  ax.set_ylabel("learning rate")
  ax.legend(fontsize=8)


def draw_target(measured: Measured, target: float | int) -> plotting.Figure:
  """Updates to the targets, local slopes at one, rates, and roughness."""
  figure, axes = plotting.panels(2, 2, (13, 9.6))
  table = measured["table"]
  targets = table["target"].unique().tolist()
  first, second, third, fourth = axes.flat
  _draw_updates(first, measured, targets)
  _draw_slopes(second, measured, target)
  _draw_rates(third, measured, targets)
  batches, _ = scaling.to_target(table, target)
  for ax in (first, second, third):
    _batch_axis(ax, batches)
  sizes, rough = scaling.by_batch(measured["roughness"], "dev_loss")
  figures.draw_seeds(fourth, sizes, rough, octaves=0.3)
  figures.draw_geometric(fourth, sizes, rough, "geometric mean, 95 %")
  _batch_axis(fourth, sizes)
  plotting.log_axis(fourth, "y")
  fourth.set_ylabel("roughness of the development loss (nats), rate 0.5")
  fourth.legend(fontsize=8)
  figure.suptitle(
    "Larger batches: fewer updates to a target, up to a point; how rough the "
    f"loss is at a fixed rate;\ngeometric mean and 95 % band of "
    f"{table['seed'].nunique()} seeds"
  )
  return figure


def _ends(
  measured: Measured, families: list[str], column: str
) -> Float[np.ndarray, "S K"]:
  """A column at the tuned candidate of each family."""
  found = []
  for family in families:
    tuned = measured["gap_tuned"][family]
    arm = tuning.arm(tuned, measured["gap"], family, column)
    found.append(arm.outcomes[:, stats.chosen(arm.scores)])
  return np.stack(found, axis=1)


def draw_gap(measured: Measured, epochs: int) -> plotting.Figure:
  """B8: accuracy, losses and sharpness against batch size."""
  figure, axes = plotting.panels(2, 2, (12, 9))
  development, test, losses, sharp = axes.flat
  epochs_of = [f for f in measured["gap_tuned"] if f.isdecimal()]
  sizes = np.array([float(family) for family in epochs_of])
  equal = [judging.equal_updates(int(size)) for size in sizes[1:]]
  for ax, column in (
    (development, "dev_accuracy"),
    (test, "test_accuracy"),
  ):
    ends = _ends(measured, epochs_of, column)
    plotting.bands(ax, sizes, ends, f"after {epochs} epochs")
    reference = _ends(measured, equal, column)
    label = f"batch {judging.REFERENCE} after as many updates"
    plotting.bands(ax, sizes[1:], reference, label, index=1)
    figures.metric_axis(ax, column)
  for index, column in enumerate(("train_loss", "dev_loss", "test_loss")):
    ends = _ends(measured, epochs_of, column)
    name = column.removesuffix("_loss").replace("dev", "development")
    plotting.bands(losses, sizes, ends, name, index=index)
  losses.set_ylabel(f"loss after {epochs} epochs (nats)")
  plotting.log_axis(losses, "y")
  for ax in (development, test, losses):
    _batch_axis(ax, sizes)
    ax.legend(fontsize=9)
  _draw_sharpness(sharp, measured)
  figure.suptitle(
    "Generalisation against batch size, rates tuned per batch and budget; mean "
    f"and 95 % band of {measured['gap']['seed'].nunique()} seeds"
  )
  return figure


def _draw_sharpness(ax: plotting.Axes, measured: Measured) -> None:
  sizes, values = scaling.by_batch(measured["sharpness"], "sharpness")
  places = np.arange(len(sizes))
  figures.draw_seeds(ax, places, values)
  means = figures.geometric_means(values)
  label = f"geometric mean, 95 % (n = {len(values)})"
  plotting.error_bars(ax, places + 0.12, *means, label=label)
  ax.set_xticks(places, [f"{size:g}" for size in sizes])
  ax.set_xlim(-0.5, len(sizes) - 0.5)
  ax.set(
    xlabel="batch size (equal epochs)", ylabel="largest Hessian eigenvalue"
  )
  plotting.log_axis(ax, "y")
  ax.legend(fontsize=9)

"""The figures that studies have in common."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mnist_jax import plotting
from mnist_jax.stats import effects as statistics
from mnist_jax.sweep.tables import Curves

_LABELS = {
  "dev_accuracy": "development accuracy (%)",
  "dev_loss": "development loss (nats)",
  "train_accuracy": "training accuracy (%)",
  "train_loss": "training loss (nats)",
  "test_accuracy": "test accuracy (%)",
  "test_loss": "test loss (nats)",
  "batch_loss": "mean loss of the mini-batches (nats)",
}


def metric_axis(ax: plotting.Axes, metric: str) -> None:
  """Labels the y axis with the metric and its unit; accuracies in percent."""
  ax.set_ylabel(_LABELS.get(metric, metric))
  if metric.endswith("accuracy"):
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.5g}")


def draw_arms(
  ax: plotting.Axes, arms: Mapping[str, Float[np.ndarray, " S"]]
) -> None:
  """A point for each seed, the arms side by side."""
  for i, values in enumerate(arms.values()):
    places = i + np.linspace(-0.25, 0.25, len(values), endpoint=False)
    look = plotting.series(i) | {"linestyle": "none"}
    ax.plot(places, values, **look, alpha=0.5)
  ax.set_xticks(range(len(arms)), list(arms))


def draw_curves(
  ax: plotting.Axes,
  curves: Curves,
  metric: str,
  name: Callable[[object], str] = str,
  *,
  since: float | int = 0,
) -> None:
  """One line with a band per arm: mean over seeds, 95 % interval of the mean.

  Args:
    name: of an arm, for the legend.
    since: the first point drawn.
  """
  shown = curves.points >= since
  for i, arm in enumerate(curves.arms):
    plotting.bands(
      ax,
      curves.points[shown],
      curves.values[i][:, shown],
      name(arm),
      index=i,
    )
  metric_axis(ax, metric)
  ax.set_xlabel("epoch")
  plotting.integer_ticks(ax.xaxis)
  with plotting.style():
    ax.legend()


def draw_differences(
  ax: plotting.Axes,
  points: Float[np.ndarray, " K"],
  differences: Float[np.ndarray, "S K"],
  label: str,
  *,
  index: int = 0,
  margin: float | int | None = None,
) -> None:
  """Paired differences over seeds at each point, with 95 % intervals."""
  effects = [statistics.student_interval(d) for d in differences.T]
  plotting.differences(
    ax,
    points,
    np.array([e.estimate for e in effects]),
    np.array([e.low for e in effects]),
    np.array([e.high for e in effects]),
    label=label,
    index=index,
    margin=margin,
  )


def draw_effects(
  ax: plotting.Axes,
  names: Sequence[str],
  effects: Sequence[statistics.Effect],
  *,
  scale: float | int = 1,
  margin: float | int | None = None,
) -> None:
  """Named effects, one below the other, with their intervals.

  Args:
    scale: by which the effects are multiplied (100 for points).
  """
  look = plotting.series(0)
  with plotting.style():
    ax.axvline(0, color="black", linewidth=1)
    if margin is not None:
      ax.axvspan(
        -margin * scale,
        margin * scale,
        color="#888888",
        alpha=0.2,
        linewidth=0,
        label=f"within the margin ±{margin * scale:g}",
      )
      ax.legend()
    for y, effect in enumerate(effects):
      hollow = effect.low <= 0 <= effect.high
      ax.plot(
        [effect.low * scale, effect.high * scale], [y, y], color=look["color"]
      )
      ax.plot(
        [effect.estimate * scale],
        [y],
        marker="o",
        color=look["color"],
        markerfacecolor="white" if hollow else look["color"],
      )
    ax.set_yticks(range(len(names)), list(names))
    ax.set_ylim(len(names) - 0.5, -0.5)

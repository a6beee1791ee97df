"""The figures that studies, which draw in our style, have in common."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Real

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

  `name` gives an arm's in the legend; `since` is the first point drawn.
  """
  shown = curves.points >= since
  for i, arm in enumerate(curves.arms):
    values = curves.values[i][:, shown]
    plotting.bands(ax, curves.points[shown], values, name(arm), index=i)
  metric_axis(ax, metric)
  ax.set_xlabel("epoch")
  plotting.integer_ticks(ax.xaxis)
  ax.legend()


def geometric_means(
  values: Float[np.ndarray, "S K"],
) -> Float[np.ndarray, "3 K"]:
  """The geometric means over seeds, and the ends of their 95 % intervals."""
  return np.array([statistics.geometric_mean(column) for column in values.T]).T


def draw_geometric(
  ax: plotting.Axes,
  x: Real[np.ndarray, " K"],
  values: Float[np.ndarray, "S K"],
  label: str,
  *,
  index: int = 0,
) -> None:
  """Geometric means over seeds as a line, their intervals as a band."""
  means, low, high = geometric_means(values)
  line = plotting.bands(ax, x, values, label, index=index, interval=(low, high))
  line.set_ydata(means)


def draw_seeds(
  ax: plotting.Axes,
  x: Real[np.ndarray, " K"],
  values: Float[np.ndarray, "S K"],
  *,
  octaves: float = 0.0,
) -> None:
  """A grey dot for each seed, those of a place `octaves` apart on a log x."""
  apart = np.exp2(np.linspace(-octaves / 2, octaves / 2, len(values)))
  places = x * apart[:, None]
  ax.plot(places.flat, values.flat, ".", color="#777777", label="each seed")


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
  effects = map(statistics.student_interval, differences.T)
  ends = np.array([(e.estimate, e.low, e.high) for e in effects]).T
  plotting.differences(
    ax, points, *ends, label=label, index=index, margin=margin
  )


def draw_effects(
  ax: plotting.Axes,
  names: Sequence[str],
  effects: Sequence[statistics.Effect],
  *,
  scale: float | int = 1,
  margin: float | int | None = None,
) -> None:
  """Named effects times `scale`, one below the other, with their intervals."""
  ax.axvline(0, color="black", linewidth=1)
  if margin is not None:
    name = f"within the margin ±{margin * scale:g}"
    ax.axvspan(-margin * scale, margin * scale, label=name, **plotting.SHADE)
    ax.legend()
  for y, effect in enumerate(effects):
    ends = [scale * x for x in (effect.estimate, effect.low, effect.high)]
    hollow = plotting.HOLLOW if effect.low <= 0 <= effect.high else {}
    plotting.error_bars(ax, y, *ends, across=True, **hollow)
  ax.set_yticks(range(len(names)), list(names))
  ax.set_ylim(len(names) - 0.5, -0.5)

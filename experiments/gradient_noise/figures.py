"""The noise scale as training goes on, and two batches against the exact one.

A table of noise scales has a row for each seed and epoch: seed, epoch,
noise_scale (exact), and estimate, low, high of the two-batch estimate, NaN
where that is undefined.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from mnist_jax import plotting, stats


def at(
  scales: pd.DataFrame, epoch: int, column: str
) -> Float[np.ndarray, " S"]:
  """[S] a column at an epoch, by seed."""
  chosen = scales[scales["epoch"] == epoch].sort_values("seed")
  return chosen[column].to_numpy(np.float64)


def agreement(scales: pd.DataFrame, epoch: int) -> tuple[int, int]:
  """In how many seeds the interval holds the exact value, and is undefined."""
  exact, low, high = (
    at(scales, epoch, name) for name in ("noise_scale", "low", "high")
  )
  return int(((low <= exact) & (exact <= high)).sum()), int(np.isnan(low).sum())


def mean_scale(scales: pd.DataFrame, epoch: int) -> stats.Effect:
  """The geometric mean over seeds of the exact noise scale, as its log."""
  return stats.mean_interval(np.log(at(scales, epoch, "noise_scale")), seed=0)


def draw_scales(ax: plotting.Axes, scales: pd.DataFrame) -> None:
  """The exact noise scale as training goes on."""
  epochs = sorted(scales["epoch"].unique().tolist())
  ratios = [stats.as_ratio(mean_scale(scales, epoch)) for epoch in epochs]
  mean, low, high = np.array(ratios).T
  places = np.arange(len(mean))
  ax.fill_between(
    places, low, high, color=plotting.COLOURS[0], alpha=0.2, linewidth=0
  )
  ax.plot(
    places, mean, **plotting.series(0), label="geometric mean, 95 % interval"
  )
  for place, epoch in zip(places, epochs, strict=True):
    exact = at(scales, epoch, "noise_scale")
    ax.plot(
      [place] * len(exact),
      exact,
      linestyle="none",
      marker=".",
      color="black",
      alpha=0.4,
      label="each seed" if place == 0 else None,
    )
  ax.set_xticks(places, [str(epoch) for epoch in epochs])
  ax.set_xlabel("after epoch (not to scale)")
  ax.set_ylabel("noise scale tr(Σ) / |G|² (examples)")
  plotting.log_axis(ax, "y")
  ax.legend(loc="lower right")


def draw_agreement(
  ax: plotting.Axes, scales: pd.DataFrame, batch_sizes: tuple[int, int]
) -> None:
  """The two-batch estimate against the exact value, by seed.

  Args:
    batch_sizes: the two, for the label.
  """
  epochs = sorted(scales["epoch"].unique().tolist())
  for i, epoch in enumerate(epochs):
    exact, estimate, low, high = (
      at(scales, epoch, name)
      for name in ("noise_scale", "estimate", "low", "high")
    )
    known = np.isfinite(estimate)
    holds, undefined = agreement(scales, epoch)
    ax.errorbar(
      exact[known],
      estimate[known],
      yerr=[
        (estimate - low)[known].tolist(),
        (high - estimate)[known].tolist(),
      ],
      linestyle="none",
      marker=plotting.MARKERS[i],
      color=plotting.COLOURS[i],
      elinewidth=0.8,
      alpha=0.8,
      label=f"epoch {epoch}: {holds} of {len(exact)} hold it, "
      f"{undefined} undefined",
    )
  ends = [scales["noise_scale"].min(), scales["noise_scale"].max()]
  ax.plot(ends, ends, color="black", linewidth=1, label="equal")
  ax.set_xlabel("exact noise scale (examples)")
  ax.set_ylabel(
    f"from batches of {batch_sizes[0]} and {batch_sizes[1]}, 95 % interval"
  )
  plotting.log_axis(ax, "x")
  plotting.log_axis(ax, "y")
  ax.legend(loc="upper left", fontsize=9)

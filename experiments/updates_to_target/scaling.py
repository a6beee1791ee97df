"""Updates to a target against batch size: regions, and the critical batch.

S seeds, K batch sizes, rising. Perfect scaling: twice the batch, half the
updates, a slope of -1 on log axes; no scaling: a slope of 0 (Shallue et al.
2018, "Measuring the effects of data parallelism", section 4.1).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Real

from mnist_jax import stats
from mnist_jax.analysis import critical_batches
from mnist_jax.stats import slopes
from mnist_jax.sweep import tables

MARGIN = 0.1  # of a slope, about -1 and about 0
_WIDTH = 3  # batch sizes to a local slope


def local_slopes(
  batches: Real[np.ndarray, " K"], updates: Real[np.ndarray, "S _"]
) -> list[stats.Effect]:
  """The slope through each inner batch size and its two neighbours: K - 2.

  Raises:
    InputError: as `slopes.loglog_slope`.
  """
  return [
    slopes.loglog_slope(
      batches[i : i + _WIDTH], updates[:, i : i + _WIDTH], seed=0
    )
    for i in range(len(batches) - _WIDTH + 1)
  ]


class Regions(NamedTuple):
  """Where updates scale perfectly with the batch, and where not at all.

  Attributes:
    perfect_to: the last inner batch size such that there, and at each before
      it, the local slope's interval reaches to -1 + MARGIN; None if not even
      the first.
    none_from: the first such that there, and at each after it, the interval
      reaches to -MARGIN; None if not even the last.
  """

  perfect_to: float | None
  none_from: float | None

  def name(self, batch_size: float | int) -> str:
    """Of the region a batch size is in; where both reach, "perfect"."""
    if self.perfect_to is not None and batch_size <= self.perfect_to:
      return "perfect"
    if self.none_from is not None and batch_size >= self.none_from:
      return "none"
    return "diminishing"


def regions(
  batches: Real[np.ndarray, " K"], found: list[stats.Effect]
) -> Regions:
  """The regions by the local slopes of `local_slopes`."""
  inner = batches[1:-1]
  perfect = [effect.low <= -1 + MARGIN for effect in found]
  flat = [effect.high >= -MARGIN for effect in found]
  first = int(np.cumprod(perfect).sum())
  last = int(np.cumprod(flat[::-1]).sum())
  return Regions(
    float(inner[first - 1]) if first else None,
    float(inner[-last]) if last else None,
  )


def critical_batch(
  batches: Real[np.ndarray, " K"], updates: Real[np.ndarray, "S _"]
) -> stats.Effect:
  """The mean log of the seeds' critical batches; see `stats.as_ratio`.

  Raises:
    InputError: as `critical_batches.tradeoff`, or fewer than two seeds.
  """
  own = [
    critical_batches.tradeoff(batches, row).critical_batch for row in updates
  ]
  return stats.mean_interval(np.log(own), seed=0)


def smooth_rates(
  batches: Real[np.ndarray, " K"], rates: Real[np.ndarray, " _"]
) -> Float[np.ndarray, " K"]:
  """Rates of the form r_max / (1 + c / B) nearest to those found, on a log.

  So McCandlish et al. (2018) let the best rate rise with the batch. Two
  numbers for all batches, so that the noise of tuning at one batch is not in
  its rate alone. Rounded to four digits.

  Raises:
    InputError: as `critical_batches.tradeoff`.
  """
  law = critical_batches.tradeoff(batches, 1.0 / np.asarray(rates, np.float64))
  found = (1.0 / law.updates(batches)).tolist()
  return np.array([float(f"{rate:.4g}") for rate in found])


def to_target(
  table: pd.DataFrame, target: float
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"]]:
  """The batch sizes, and the updates of each seed's run to that target.

  Raises:
    InputError: as `by_batch`.
  """
  return by_batch(table[table["target"] == target], "step")


def by_batch(
  table: pd.DataFrame, column: str
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"]]:
  """The batch sizes, and a column of a table with a row for each run.

  Raises:
    InputError: a batch size lacks a seed that another has.
  """
  found = tables.curves(table.assign(one=0), "one", column, point="batch_size")
  return found.points, found.values[0]

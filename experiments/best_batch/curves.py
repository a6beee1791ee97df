"""Accuracy against batch size at fixed rates, and the best batch of each seed.

A table of ends has a row for each run: its settings, its metrics, and the
fields of its `Curve`. S seeds, K batch sizes.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mnist_jax import stats
from mnist_jax.stats import grid_minimum, slopes
from mnist_jax.sweep import tables

FIELDS = ["budget_unit", "examples", "momentum", "effective_rate"]


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of accuracy against batch size.

  Attributes:
    budget_unit: "updates" or "epochs".
    examples: N.
    momentum: 0 for plain SGD.
    effective_rate: rate / (1 - momentum).
  """

  budget_unit: str
  examples: int
  momentum: float
  effective_rate: float

  def __str__(self) -> str:
    kind = "equal updates" if self.budget_unit == "updates" else "one epoch"
    more = f", momentum {self.momentum:g}" if self.momentum else ""
    return f"{kind}, rate {self.effective_rate:g}, N {self.examples}{more}"

  def noise_scale(self, batches: Any) -> Any:
    """g = eps / (1 - m) (N / B - 1), Smith & Le (2018), of batches > 0."""
    return self.effective_rate * (self.examples / batches - 1)


def curves_of(table: pd.DataFrame) -> list[Curve]:
  """The curves of a table, in its order."""
  rows = table[FIELDS].drop_duplicates().to_dict("records")
  return [Curve(**{str(k): v for k, v in row.items()}) for row in rows]


def by_batch(
  table: pd.DataFrame, curve: Curve, metric: str = "dev_accuracy"
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"]]:
  """The curve's batches, and its metric at the end of each seed's run.

  Raises:
    InputError: a batch lacks a seed that another has.
  """
  own = table
  for name, value in dataclasses.asdict(curve).items():
    own = own[own[name] == value]
  found = tables.curves(own, "budget_unit", metric, point="batch_size")
  return found.points, found.values[0]


def inner_best(tuning: pd.DataFrame, curve: Curve) -> int:
  """The column of the best batch of those with a neighbour on both sides."""
  _, accuracy = by_batch(tuning, curve)
  return 1 + int(accuracy.mean(axis=0)[1:-1].argmax())


def best_batches(
  table: pd.DataFrame, curve: Curve, largest: float = math.inf
) -> grid_minimum.GridMinimum:
  """Each seed's best batch and whether it is at the grid's end.

  The parabola through the least log error and its neighbours, over log batch;
  see `grid_minimum.minimum`.

  Args:
    largest: batches above it are left out.
  """
  batches, accuracy = by_batch(table, curve)
  kept = batches <= largest
  # No error at all would have no log: as if half of one example were wrong.
  errors = np.maximum(1 - accuracy[:, kept], 1e-4)
  return grid_minimum.minimum(batches[kept], errors)


def lines(table: pd.DataFrame) -> dict[str, tuple[str, list[Curve]]]:
  """By name: the curves along which one thing changes, and which it is."""
  plain = [curve for curve in curves_of(table) if not curve.momentum]
  sizes = sorted({curve.examples for curve in plain})
  updates = [curve for curve in plain if curve.budget_unit == "updates"]
  epochs = [curve for curve in plain if curve.budget_unit == "epochs"]
  own = {n: [c for c in updates if c.examples == n] for n in sizes}
  # The rate that was run at every N: the only one, between fewest and all.
  common = set.intersection(
    *({c.effective_rate for c in curves} for curves in own.values())
  )
  middle = sorted(common)[len(common) // 2]
  along = [c for c in updates if c.effective_rate == middle]
  return {
    f"rate, equal updates, N {sizes[-1]}": ("effective_rate", own[sizes[-1]]),
    f"rate, equal updates, N {sizes[0]}": ("effective_rate", own[sizes[0]]),
    f"rate, one epoch, N {sizes[-1]}": ("effective_rate", epochs),
    f"N, equal updates, rate {middle:g}": (
      "examples",
      sorted(along, key=lambda c: c.examples),
    ),
  }


def line(
  table: pd.DataFrame, along: str, curves: list[Curve]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"], tuple[int, int]]:
  """x, the seeds' best batches, and how many are at the grid's two ends.

  Of the batches that all curves have: a grid that ends later at a larger N
  would by itself let the best batch grow.
  """
  x = np.array([getattr(curve, along) for curve in curves], np.float64)
  largest = min(float(by_batch(table, curve)[0].max()) for curve in curves)
  found = [best_batches(table, curve, largest) for curve in curves]
  low, high = np.sum([best.censored() for best in found], axis=0).tolist()
  return x, np.stack([best.at for best in found], axis=1), (low, high)


def slope(
  x: Float[np.ndarray, " K"], best: Float[np.ndarray, "S K"]
) -> stats.Effect:
  """The exponent of best ~ x^p over seeds; exactly 0 where nothing changes."""
  # Each seed's own level is not in the slope; dividing by it leaves no rounding
  # where all best batches are the same end of the grid.
  return slopes.loglog_slope(x, best / best[:, :1], seed=0)

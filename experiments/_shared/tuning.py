"""Families of candidates, tuned, with the doubt about the choice kept.

  tuned = lab.tune({"sgd": slow_and_fast, "adam": others}, 5, budget)
  table = lab.sweep_likely(tuned, range(30), budget)
  sgd, adam = (
    tuning.arm(tuned, table, family, "dev_loss") for family in ("sgd", "adam")
  )
  difference = stats.tuned_difference(adam, sgd, seed=0)

Other tuning seeds might have chosen another candidate. Those that a bootstrap
over the tuning seeds chooses now and then are all run with the fresh seeds, so
that the interval of the difference can choose anew each time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from mnist_jax import stats, sweep

MOST = 3  # steps by which a grid of rates goes on

Families = Mapping[str, Sequence[sweep.Settings]]
# From the cells of each arm to the table of their runs, with the column `arm`.
Run = Callable[[Families, sweep.Budget], pd.DataFrame]


class Tuned(NamedTuple):
  """What tuning found.

  Attributes:
    candidates: The settings of each family; their seed is not one of the
      tuning's.
    scores: Of each family by tuning seed and candidate, in the same order: the
      metric at the end, its sign such that lower is better, and infinite for
      a run that diverged.
    table: All runs that were made for it, with the column `arm`, the family.
  """

  candidates: Families
  scores: Mapping[str, Float[np.ndarray, "T K"]]
  table: pd.DataFrame

  @property
  def best(self) -> dict[str, sweep.Settings]:
    """The candidate of each family with the best mean."""
    return {
      family: self.candidates[family][stats.chosen(scores)]
      for family, scores in self.scores.items()
    }

  @property
  def likely(self) -> dict[str, tuple[int, ...]]:
    """Of each family the numbers of those that other seeds may have chosen.

    A bootstrap over the tuning seeds chooses them in at least 2 % of the
    resamples; the best is always among them.
    """
    return {
      family: stats.likely_choices(scores, seed=0)
      for family, scores in self.scores.items()
    }


def tune(
  run: Run,
  families: Families,
  seeds: Sequence[int],
  budget: sweep.Budget,
  metric: str,
) -> Tuned:
  """Runs every candidate at the same seeds; see `Lab.tune`."""
  cells = {
    family: [
      cell
      for candidate in candidates
      for cell in sweep.product(candidate, seed=seeds)
    ]
    for family, candidates in families.items()
  }
  table = run(cells, budget)
  sign = -1.0 if metric.endswith("accuracy") else 1.0
  scores = {}
  for family, candidates in families.items():
    own = sweep.last_rows(table[table["arm"] == family]).set_index("cell")
    ends = (sign * own[metric]).where(own["diverged_step"].isna(), np.inf)
    keys = [sweep.cell_key(cell, budget) for cell in cells[family]]
    scores[family] = ends[keys].to_numpy(float).reshape(len(candidates), -1).T
  return Tuned(families, scores, table)


def tune_rates(
  run: Run,
  families: Mapping[str, sweep.Settings],
  rates: Mapping[str, Sequence[float]],
  seeds: Sequence[int],
  budget: sweep.Budget,
  metric: str,
) -> Tuned:
  """`tune` over grids of rates, which go on where an end of theirs is likely.

  By the factor that they end with, `MOST` times at most.

  Args:
    families: The settings of each but for the rate.
    rates: Those of each family to begin with, rising, two at least.
  """
  grids = {family: [*rates[family]] for family in families}
  further = 0
  while True:
    candidates = {
      family: sweep.product(base, learning_rate=grids[family])
      for family, base in families.items()
    }
    tuned = tune(run, candidates, seeds, budget, metric)
    wider = {
      family: _wider(grid, tuned.likely[family])
      for family, grid in grids.items()
    }
    if wider == grids or further == MOST:
      return tuned
    grids, further = wider, further + 1


def _wider(grid: list[float], likely: Sequence[int]) -> list[float]:
  """With a rate more at each end that is among the likely ones."""
  below, above = grid[0] ** 2 / grid[1], grid[-1] ** 2 / grid[-2]
  return [
    *([float(f"{below:.3g}")] if 0 in likely else []),
    *grid,
    *([float(f"{above:.3g}")] if len(grid) - 1 in likely else []),
  ]


def sweep_likely(
  run: Run, tuned: Tuned, seeds: Sequence[int], budget: sweep.Budget
) -> pd.DataFrame:
  """Runs the likely candidates at other seeds; see `Lab.sweep_likely`."""
  numbers: dict[tuple[str, str], int] = {}
  cells: dict[str, list[sweep.Settings]] = {}
  for family, likely in tuned.likely.items():
    cells[family] = []
    for number in likely:
      runs = sweep.product(tuned.candidates[family][number], seed=seeds)
      cells[family] += runs
      for cell in runs:
        numbers[family, sweep.cell_key(cell, budget)] = number
  table = run(cells, budget)
  keys = zip(table["arm"], table["cell"], strict=True)
  return table.assign(candidate=[numbers[key] for key in keys])


def arm(
  tuned: Tuned,
  table: pd.DataFrame,
  family: str,
  column: str,
  *,
  sign: int = 1,
) -> stats.TunedArm:
  """A family's scores beside its outcomes, for `stats.tuned_difference`.

  Args:
    table: Of `Lab.sweep_likely`; the last evaluation of each run counts.
    column: What is judged, times `sign`.
  """
  own = sweep.last_rows(table[table["arm"] == family])
  wide = own.pivot(index="seed", columns="candidate", values=column)
  numbers = range(len(tuned.candidates[family]))
  outcomes = sign * wide.sort_index().reindex(columns=numbers).to_numpy(float)
  return stats.TunedArm(tuned.scores[family], outcomes)

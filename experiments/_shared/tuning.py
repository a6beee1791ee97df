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

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from mnist_jax import stats, sweep

Families = Mapping[str, Sequence[sweep.Settings]]


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


def tuned(
  families: Families,
  table: pd.DataFrame,
  budget: sweep.Budget,
  metric: str = "dev_accuracy",
) -> Tuned:
  """What a table of every candidate at the same seeds says.

  Args:
    table: The runs with the column `arm`, the family.
    metric: A column of development data.
  """
  sign = -1.0 if metric.endswith("accuracy") else 1.0
  scores = {}
  for family, candidates in families.items():
    own = sweep.last_rows(table[table["arm"] == family]).set_index("cell")
    ends = (sign * own[metric]).where(own["diverged_step"].isna(), np.inf)
    seeds = sorted(own["seed"].unique().tolist())
    scores[family] = np.array(
      [
        [
          ends[sweep.cell_key(cell, budget)]
          for cell in sweep.product(candidate, seed=seeds)
        ]
        for candidate in candidates
      ]
    ).T
  return Tuned(families, scores, table)


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

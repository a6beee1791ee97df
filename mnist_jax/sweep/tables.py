"""A sweep's table as arrays for statistics: arms, seeds, evaluations."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mnist_jax.runtime.errors import InputError

if TYPE_CHECKING:
  import pandas as pd

GUESSING = math.log(10)  # the loss of giving each digit the same chance


def in_order(table: "pd.DataFrame", keys: Sequence[str]) -> "pd.DataFrame":
  """The rows of the cells with these keys, in that order, by rising step."""
  place = {key: i for i, key in enumerate(keys)}
  own = table[table["cell"].isin(place)]
  order = own.assign(place=own["cell"].map(place))
  index = order.sort_values(["place", "step"]).index
  return own.loc[index].reset_index(drop=True)


class Curves(NamedTuple):
  """A metric of A arms over S shared seeds."""

  arms: tuple[Any, ...]  # the values that tell the arms apart
  seeds: tuple[int, ...]
  points: Float[np.ndarray, " K"]  # where runs were evaluated, rising
  values: Float[np.ndarray, "A S K"]

  def arm(self, arm: Any) -> Float[np.ndarray, "S K"]:
    """The curves of one arm.

    Raises:
      KeyError: There is no such arm.
    """
    if arm not in self.arms:
      raise KeyError(arm)
    return self.values[self.arms.index(arm)]

  def at(self, point: float) -> Float[np.ndarray, "A S"]:
    """The values at the evaluation nearest to `point`."""
    return self.values[:, :, int(np.abs(self.points - point).argmin())]


def curves(
  table: "pd.DataFrame",
  arm: str | Sequence[str],
  metric: str,
  *,
  point: str = "epoch",
) -> Curves:
  """A metric by arm, seed and evaluation.

  Args:
    arm: The column that tells the arms apart, or several.
    metric: A column of numbers, such as "dev_accuracy".
    point: The column of the evaluations, "epoch" or "step".

  Raises:
    InputError: An arm lacks a seed or an evaluation that another has, or has
      it twice.
  """
  names = [arm] if isinstance(arm, str) else list(arm)
  index = [*names, "seed", point]
  doubled = table.duplicated(index)
  if doubled.any():
    row = table[doubled].iloc[0]
    raise InputError(
      f"the table has {dict(row[index])} twice, expected each once"
    )
  wide = table.pivot(index=[*names, "seed"], columns=point, values=metric)
  wide = wide.sort_index(axis=1)
  rows = table[names].drop_duplicates().itertuples(index=False, name=None)
  arms = list(rows)
  seeds = sorted(table["seed"].unique().tolist())
  wanted = [(*arm, seed) for arm in arms for seed in seeds]
  there = set(wide.index)
  for key in wanted:
    if key not in there:
      raise InputError(
        f"the table lacks {dict(zip(index, key, strict=False))}, expected the "
        "same seeds in every arm"
      )
  values = wide.loc[wanted].to_numpy(np.float64)
  return Curves(
    tuple(arm if len(names) > 1 else arm[0] for arm in arms),
    tuple(seeds),
    wide.columns.to_numpy(np.float64),
    values.reshape(len(arms), len(seeds), -1),
  )


def last_rows(table: "pd.DataFrame") -> "pd.DataFrame":
  """The last evaluation of every cell."""
  ends = table.groupby("cell", sort=False)["step"].idxmax()
  return table.loc[ends].reset_index(drop=True)


def ends(
  table: "pd.DataFrame", arm: str, arms: Sequence[Any], metric: str
) -> Float[np.ndarray, "S A"]:
  """A metric at the end of the runs of the arms asked for.

  Seeds rise; NaN in the column of an arm that the table lacks.
  """
  last = last_rows(table[table[arm].isin(list(arms))])
  wide = last.pivot(index="seed", columns=arm, values=metric)
  return wide.reindex(columns=list(arms)).to_numpy(np.float64)


def best_arm(
  table: "pd.DataFrame", arm: str | Sequence[str], metric: str
) -> Any:
  """The arm, as in `curves`, whose runs end with the best mean over seeds.

  The highest accuracy is best, and the lowest loss, of development data.
  """
  names = [arm] if isinstance(arm, str) else list(arm)
  ends = last_rows(table).groupby(names, sort=False, dropna=False)
  mean = ends[metric].mean()
  return mean.idxmax() if metric.endswith("accuracy") else mean.idxmin()


def lost(table: "pd.DataFrame") -> "pd.Series":
  """Whether each row's run has diverged: no finite loss, or none below ln 10.

  A run that stopped being finite is lost, whatever its last finite weights
  give. So is one that is worse than guessing, from which a long run could
  still recover; and one too slow to have begun, so ask at a point by which a
  rate that is too small has left the start.
  """
  below = table["dev_loss"] < GUESSING  # false for NaN
  return ~below | table["diverged_step"].notna()


def counted_loss(table: "pd.DataFrame") -> "pd.Series":
  """The development loss of each row, a lost run's at least ln 10."""
  loss = table["dev_loss"]
  return loss.where(~lost(table), np.fmax(loss, GUESSING))


def require_whole_batches(table: "pd.DataFrame") -> None:
  """Refuses a comparison across batch sizes that carries short batches.

  The last batch of an epoch is what is left of the examples. It is an update
  of its own at the full rate, its share of a batch differs from one batch size
  to the next, and an evaluation at the end of an epoch comes just after it. So
  levels across batch sizes differ by it, by 0.2 to 0.9 point of accuracy here
  (drop_last leaves it out).

  Raises:
    InputError: The table has several batch sizes, and short batches.
  """
  sizes = table["batch_size"].unique()
  if len(sizes) > 1 and not table["drop_last"].all():
    raise InputError(
      f"the table compares batch sizes {sorted(sizes.tolist())} with short "
      "last batches, expected drop_last in all of its cells"
    )

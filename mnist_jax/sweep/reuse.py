"""Runs that another sweep has made, in place of making them again.

A run serves for every budget that it holds: it was looked at wherever the
budget asks, and up to there its rates are those of the budget. Its numbers are
those of its own block, and so differ by rounding from a run in another.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mnist_jax.runtime import code
from mnist_jax.sweep import plan, store
from mnist_jax.sweep.plan import Budget
from mnist_jax.training.settings import Settings

if TYPE_CHECKING:
  import pandas as pd

Row = dict[str, Any]
_OF_A_ROW = (
  "step",
  "epoch",
  "batch_size",  # of a batch schedule it changes from row to row
  "rate",
  "batch_loss",
  "reached",
  "diverged_step",
)


@functools.cache
def version() -> str:
  """12 hex digits over this file, which decides what is taken."""
  return code.digest([Path(__file__)])


def notes(
  workdir: Path, keys: Sequence[str], kind: str | None
) -> dict[str, Any]:
  """What is noted about cells whose runs the sweep in a directory made.

  Args:
    kind: The machine that they are of; None where they may be of several.
  """
  return {
    "taken_from": str(workdir),
    "taken": [*keys],
    "taken_by": version(),
    "kind": kind or "mixed",
    "seconds": 0.0,
  }


def find(
  workdir: Path, wanted: Sequence[Settings], budget: Budget, num_train: int
) -> dict[Settings, list[Row]]:
  """The rows of those cells that a results directory holds.

  Args:
    workdir: Of a sweep of the same data and code.
    wanted: The cells looked for.
    budget: What the rows are to be of.
    num_train: The training examples there are.

  Returns:
    By cell, in their order, its rows by rising step, as `run` frames them.

  Raises:
    InputError: A file of the directory cannot be read.
  """
  found: dict[Settings, list[Row]] = {}
  for longer, runs in _runs(workdir, store.state(workdir)):
    for cell in wanted:
      rows = runs.get(plan.cell_key(cell, longer))
      if rows is not None and cell not in found:
        points = _points(cell, cell.num_train or num_train, budget, longer)
        if points and (cut := _cut(rows, points, budget, longer)):
          found[cell] = cut
  return {cell: found[cell] for cell in wanted if cell in found}


@functools.lru_cache(maxsize=64)
def _runs(
  workdir: Path, _state: store.State
) -> "list[tuple[Budget, dict[str, pd.DataFrame]]]":
  """By budget and key the rows of a directory, read once in each state.

  A study asks for the cells of its sweeps one sweep after another.
  """
  columns = ("cell", "budget", *_OF_A_ROW, *_measured(plan.SPLITS))
  return [
    (
      plan.budget_from_dict(json.loads(str(text))),
      {str(key): rows for key, rows in made.groupby("cell", sort=False)},
    )
    for part in store.read_parts(workdir, columns=columns)
    for text, made in part.groupby("budget", sort=False)
  ]


def _points(
  cell: Settings, examples: int, budget: Budget, longer: Budget
) -> list[int] | None:
  """Where the budget looks at a cell; None if the other does not hold that."""
  clock = cell.clock(examples)
  points, others = budget.points(clock), longer.points(clock)
  last, end = points[-1], others[-1]
  at_end = {*longer.splits, *(longer.final_splits if last == end else ())}
  if (
    not {*points} <= {*others}
    or not {*budget.splits} <= {*longer.splits}
    or not {*budget.final_splits} <= at_end
    or budget.target != longer.target
    or (budget.target is not None and points != others)
  ):
    return None
  if last < end:
    rates, more = (cell.learning_rates(examples, n) for n in (last, end))
    if not np.array_equal(rates, more[:last]):
      return None
  return points


def _cut(
  made: "pd.DataFrame",
  points: Sequence[int],
  budget: Budget,
  longer: Budget,
) -> list[Row]:
  """A run's rows at these points; none if it diverged where others look.

  A loss that is not finite is found where a run is looked at, and on what, so
  by other points or splits another step may be told.
  """
  made = made.sort_values("step")
  alike = {*budget.splits} == {*longer.splits}
  alike = alike and made["step"].tolist() == [*points]
  if made["diverged_step"].notna().any() and not alike:
    return []
  kept = made[made["step"].isin(points)].assign(batch_loss=_means(made, points))
  rows = kept.astype(object).where(kept.notna(), None).to_dict("records")
  names = [[*_OF_A_ROW, *_measured(budget.splits)]] * len(rows)
  names[-1] = [*names[-1], *_measured(budget.final_splits)]
  return [
    {name: row[name] for name in own}
    for row, own in zip(rows, names, strict=True)
  ]


def _measured(splits: Sequence[str]) -> list[str]:
  return [f"{split}_{metric}" for split in splits for metric in plan.METRICS]


def _means(
  made: "pd.DataFrame", points: Sequence[int]
) -> Float[np.ndarray, " K"]:
  """The mean loss of the batches between points, of those between more."""
  made = made[made["step"] <= points[-1]]
  updates = np.diff(made["step"], prepend=0)
  places = np.searchsorted(points, made["step"])
  sums = np.bincount(places, made["batch_loss"].to_numpy(float) * updates)
  with np.errstate(invalid="ignore"):  # before the first update there is none
    return (sums / np.bincount(places, updates))[np.unique(places)]

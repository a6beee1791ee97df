"""The small tables of updates to a target, and of the gap to training data.

`measured` holds, by name, tables with a row for each run: "table" (B7's fresh
runs), "roughness", "noise", "gap" (B8's) and "sharpness".
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from experiments._shared.metric import interval_columns
from experiments.updates_to_target import scaling
from mnist_jax import stats
from mnist_jax.stats import slopes

Measured = Mapping[str, pd.DataFrame]
PIECES_FROM = 5  # batch sizes, to fit lines with breaks


def by_size(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
  """For each batch size: rate, seeds, geometric means with 95 % intervals.

  Args:
    columns: of positive numbers; NAME gives NAME, NAME_low and NAME_high.
  """
  rows = []
  for size, own in table.groupby("batch_size"):
    row = {"batch_size": size, "seeds": len(own)}
    if "learning_rate" in own:
      row["learning_rate"] = own["learning_rate"].iloc[0]
    for column in columns:
      mean = stats.geometric_mean(own[column].to_numpy())
      row |= interval_columns(column, mean)
    rows.append(row)
  return pd.DataFrame(rows)


def target(table: pd.DataFrame) -> pd.DataFrame:
  """For each batch size: updates and epochs, how many got there, the region."""
  batches, updates = scaling.by_batch(table, "step")
  found = scaling.local_slopes(batches, updates)
  regions = scaling.regions(batches, found)
  named = table.rename(columns={"step": "updates", "epoch": "epochs"})
  rows = by_size(named, ["updates", "epochs"])
  rows = rows.drop(columns=["epochs_low", "epochs_high"])
  rows["reached"] = table.groupby("batch_size")["reached"].sum().to_numpy(int)
  slopes_there = pd.DataFrame(
    [interval_columns("local_slope", effect) for effect in found],
    index=rows.index[1:-1],
  )
  rows = rows.join(slopes_there)
  rows["region"] = [regions.name(size) for size in batches.tolist()]
  return rows.assign(what="updates to target")


def fits(measured: Measured) -> pd.DataFrame:
  """Critical batch, noise scale, and the breaks of the best pieces by BIC."""
  batches, updates = scaling.by_batch(measured["table"], "step")
  critical = scaling.critical_batch(batches, updates)
  noise = measured["noise"]
  rows: list[dict[str, Any]] = []

  def add(what: str, found: Any, **more: Any) -> None:
    rows.append({"what": what} | interval_columns("value", found) | more)

  add("critical batch", stats.as_ratio(critical), seeds=critical.n)
  add(
    "noise scale after an epoch",
    stats.geometric_mean(noise["noise_scale"].to_numpy()),
    batch_size=noise["batch_size"].iloc[0],
    seeds=len(noise),
  )
  if len(batches) >= PIECES_FROM:
    pieces = slopes.piecewise_slopes(batches, updates, seed=0)
    best = pieces.fit(pieces.best)
    name = f"{pieces.best} by {pieces.bic_difference:.1f} of BIC"
    both = {"break": best.breakpoints, "slope": best.slopes}
    for kind, effects in both.items():
      for i, effect in enumerate(effects, 1):
        add(f"{name}: {kind} {i}", effect, seeds=effect.n)
  return pd.DataFrame(rows)


def gap(table: pd.DataFrame) -> pd.DataFrame:
  """For each budget and batch size of B8: means of what is compared."""
  columns = ["dev_accuracy", "dev_loss", "train_loss", "train_accuracy", "gap"]
  groups = table.groupby(["budget_unit", "batch_size"], sort=False)
  rows = groups[["learning_rate", *columns]].mean()
  rows["seeds"] = groups.size()
  rows["gap_sd"] = groups["gap"].std()
  rows["dev_accuracy_sd"] = groups["dev_accuracy"].std()
  rows["diverged"] = groups["diverged_step"].count()
  return rows.reset_index().assign(what="gap")


def summary(measured: Measured) -> pd.DataFrame:
  """All of them, one below the other."""
  tables = [
    target(measured["table"]),
    fits(measured),
    by_size(measured["roughness"], ["batch_loss", "dev_loss"])
    .rename(columns=lambda n: n.replace("_loss", "_roughness"))
    .assign(what="roughness"),
    gap(measured["gap"]),
    by_size(measured["sharpness"], ["sharpness"]).assign(what="sharpness"),
  ]
  joined = pd.concat(tables, ignore_index=True)
  first = ["what", "budget_unit", "batch_size", "learning_rate", "seeds"]
  return joined[first + [name for name in joined if name not in first]]

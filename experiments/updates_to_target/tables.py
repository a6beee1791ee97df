"""The small tables of updates to a target, and of the gap to training data.

`measured` is as in `judging`; also "rates", tuned and smoothed, and "noise".
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from experiments._shared.metric import interval_columns, spread
from experiments.updates_to_target import scaling
from mnist_jax import stats
from mnist_jax.sweep import tables as sweep_tables

Measured = Mapping[str, Any]


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
  """For each batch size: updates and epochs, how many got there, the region.

  Args:
    table: the fresh runs to one target.
  """
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
  return rows.assign(what="updates to target", target=table["target"].iloc[0])


def fits(measured: Measured) -> pd.DataFrame:
  """The critical batch of each target, and the noise scale."""
  table, noise = measured["table"], measured["noise"]
  rows: list[dict[str, Any]] = []
  for goal in table["target"].unique().tolist():
    batches, updates = scaling.to_target(table, goal)
    critical = scaling.critical_batch(batches, updates)
    row = {"what": "critical batch", "target": goal, "seeds": critical.n}
    rows.append(row | interval_columns("value", stats.as_ratio(critical)))
  scale = stats.geometric_mean(noise["noise_scale"].to_numpy())
  row = {"what": "noise scale after an epoch", "seeds": len(noise)}
  row["batch_size"] = noise["batch_size"].iloc[0]
  rows.append(row | interval_columns("value", scale))
  return pd.DataFrame(rows)


def gap(table: pd.DataFrame) -> pd.DataFrame:
  """For each family and rate of B8: means and sds of what is compared."""
  columns = ["gap", "train_loss"]
  columns += [f"{on}_{what}" for on in ("dev", "test") for what in _WHAT]
  by = ["arm", "batch_size", "learning_rate"]
  rows = spread(table, by, columns, kinds=("mean", "std"))
  groups = table.groupby(by, sort=False)
  rows["seeds"] = groups.size().to_numpy()
  rows["updates"] = groups["step"].max().to_numpy()
  rows["lost"] = groups["lost"].sum().to_numpy()
  return rows.assign(what="gap")


_WHAT = ("accuracy", "loss")


def summary(measured: Measured) -> pd.DataFrame:
  """All of them, one below the other."""
  table, ends = measured["table"], measured["gap"]
  tables = [
    *(target(own) for _, own in table.groupby("target", sort=False)),
    measured["rates"].assign(what="rate"),
    fits(measured),
    by_size(measured["roughness"], ["dev_loss"])
    .rename(columns=lambda n: n.replace("dev_loss", "roughness"))
    .assign(what="roughness"),
    gap(ends.assign(lost=sweep_tables.lost(ends))),
    by_size(measured["sharpness"], ["sharpness"]).assign(what="sharpness"),
  ]
  joined = pd.concat(tables, ignore_index=True)
  first = ["what", "target", "arm", "batch_size", "learning_rate", "seeds"]
  return joined[first + [name for name in joined if name not in first]]

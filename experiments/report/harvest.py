"""What the page's curves need of a study's run, as small JSON.

A study's directory has its tables in full; `write` leaves beside its published
verdict a page.json with the curves that summary.csv does not hold: by arm the
mean over seeds with its 95 % interval (Student's t) at each point, and of some
the single seeds.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from mnist_jax.runtime import files

NAME = "page.json"
Curves = list[dict[str, Any]]
_TUNING_SEED = 1000  # seeds from here on tuned a study, and are not shown
_MOST_POINTS = 45


def digits(value: float) -> float | None:
  return float(f"{value:.5g}") if math.isfinite(value) else None


def mean_and_interval(
  values: np.ndarray, log: bool = False
) -> list[float | None]:
  """The mean of finite values and its 95 % interval; geometric where log."""
  x = np.asarray(values, float)
  x = x[np.isfinite(x) & ((x > 0) | (not log))]
  if not len(x):
    return [None, None, None]
  x = np.log(x) if log else x
  mean = x.mean()
  half = math.nan
  if len(x) > 1:
    quantile = scipy.stats.t.ppf(0.975, len(x) - 1)
    half = quantile * x.std(ddof=1) / math.sqrt(len(x))
  found = [mean, mean - half, mean + half]
  return [digits(math.exp(v) if log else v) for v in found]


def curves(
  table: pd.DataFrame,
  arm: str,
  column: str,
  *,
  point: str = "epoch",
  seeds: bool = False,
  log: bool = False,
) -> Curves:
  """Of each arm its points [x, mean, low, high], and of what seeds."""
  found = []
  for name, own in table.groupby(arm, sort=False):
    # A run of several stages ends where it ends: one row a seed and point.
    wide = own.pivot_table(column, point, "seed", "last", dropna=False)
    wide = wide.sort_index()
    if len(wide) > _MOST_POINTS:
      places = np.unique(
        np.geomspace(1, len(wide), _MOST_POINTS).astype(int) - 1
      )
      wide = wide.iloc[places]
    curve: dict[str, Any] = {
      "key": f"{name:g}" if isinstance(name, float) else str(name),
      "n": int(wide.shape[1]),
      "points": [
        [digits(float(x)), *mean_and_interval(row.to_numpy(), log)]
        for x, row in wide.iterrows()
      ],
    }
    if seeds:
      curve["seeds"] = [
        [float(f"{y:.4g}") if math.isfinite(y) else None for y in wide[seed]]
        for seed in wide
      ]
    found.append(curve)
  return found


def _differences(
  table: pd.DataFrame, arm: str, pairs: Iterable[tuple[Any, Any]], column: str
) -> Curves:
  """The paired differences of one arm less another, by epoch."""
  wide = table.pivot_table(column, ["epoch", "seed"], arm, "last")
  found = []
  for first, second in pairs:
    if first not in wide or second not in wide:
      continue
    apart = (wide[first] - wide[second]).unstack("seed").sort_index()
    points = [
      [digits(float(x)), *mean_and_interval(row.to_numpy())]
      for x, row in apart.iterrows()
    ]
    key = f"{first:g} - {second:g}"
    found.append({"key": key, "n": int(apart.shape[1]), "points": points})
  return found


def _table(folder: Path, name: str = "table") -> pd.DataFrame:
  return pd.read_parquet(folder / f"{name}.parquet")


def _fresh(table: pd.DataFrame) -> pd.DataFrame:
  return table[table["seed"] < _TUNING_SEED]


def _seeds(folder: Path) -> dict[str, Any]:
  table = _table(folder)
  table["hidden_sizes"] = table["hidden_sizes"].map(
    lambda sizes: sizes if isinstance(sizes, str) else ",".join(map(str, sizes))
  )
  ends = table[table["test_accuracy"].notna()]
  return {
    "dev_accuracy": curves(table, "hidden_sizes", "dev_accuracy", seeds=True),
    "dev_loss": curves(table, "hidden_sizes", "dev_loss", seeds=True),
    "test_accuracy": {
      str(name): sorted(own["test_accuracy"].round(4).tolist())
      for name, own in ends.groupby("hidden_sizes")
    },
  }


def _gradient_check(folder: Path) -> dict[str, Any]:
  found = json.loads((folder / "measurements.json").read_text("utf-8"))

  def points(places: list[float], by_seed: Any) -> Curves:
    rows = np.asarray(by_seed, float).T
    n = rows.shape[1]
    return [
      {
        "n": n,
        "points": [
          [digits(float(x)), *mean_and_interval(row, log=True)]
          for x, row in zip(places, rows, strict=True)
        ],
      }
    ]

  def named(key: str, own: Curves) -> dict[str, Any]:
    return {"key": key, **own[0]}

  def moments(read: Callable[[dict[str, Any]], float]) -> list[list[float]]:
    return [[read(moment) for moment in run] for run in found["training"]]

  training = {
    "plain": lambda m: m["plain"]["all"],
    "no_l2": lambda m: m["no_l2"]["distance"],
    "late": lambda m: m["late"]["distance"],
  }
  return {
    "steps": [
      named(key, points(found["steps"], rows))
      for key, rows in found["errors"].items()
    ],
    "depths": [
      named(key, points(found["depths"], rows))
      for key, rows in found["by_depth"].items()
    ],
    "training": [
      named(key, points(found["epochs"], moments(read)))
      for key, read in training.items()
    ],
  }


def _range_audit(folder: Path) -> dict[str, Any]:
  table = _fresh(_table(folder, "rates"))
  return {"loss": curves(table, "learning_rate", "dev_loss", point="step")}


def _policies(folder: Path) -> dict[str, Any]:
  convex = _table(folder, "convex")
  table = _fresh(_table(folder))
  return {
    "convex": curves(convex, "policy", "excess", point="step", log=True),
    "dev_loss": curves(table, "schedule", "dev_loss"),
    "dev_accuracy": curves(table, "schedule", "dev_accuracy"),
  }


def _comparison(folder: Path) -> dict[str, Any]:
  table = _table(folder).sort_values("learning_rate", kind="stable")
  pairs = [(0.8, 0.5), (0.5, 0.3), (0.5, 0.2)]
  found: dict[str, Any] = {}
  for column in ("dev_accuracy", "dev_loss"):
    found[column] = curves(table, "learning_rate", column, seeds=True)
    found[f"{column}_difference"] = _differences(
      table, "learning_rate", pairs, column
    )
  return found


def _by_arm(folder: Path) -> dict[str, Any]:
  table = _fresh(_table(folder))
  if "optimizer" in table and table["optimizer"].nunique() > 1:
    table = table.assign(arm=table["optimizer"] + ": " + table["arm"])
  return {
    column: curves(table, "arm", column)
    for column in ("dev_accuracy", "dev_loss")
  }


def _cell(own: pd.DataFrame) -> dict[str, Any]:
  """A cell of the map: its curves, its lost runs, the command of a seed."""
  first = own.sort_values(["seed", "epoch"]).iloc[0]
  named = own.assign(arm="")
  return {
    "batch": int(first["batch_size"]),
    "rate": float(first["learning_rate"]),
    "n": int(own["seed"].nunique()),
    "lost": int(own.groupby("seed")["diverged_step"].max().notna().sum()),
    "command": str(first["command"]),
    **{
      column: curves(named, "arm", column)[0]["points"]
      for column in ("dev_accuracy", "dev_loss")
    },
  }


def _batch_size(folder: Path) -> dict[str, Any]:
  table = _fresh(_table(folder))
  by = ["batch_size", "learning_rate"]
  cells = [_cell(own) for _, own in table.groupby(by)]
  panels = _fresh(_table(folder, "panels"))
  return {
    "cells": cells,
    "panels": {
      str(size): curves(own, "learning_rate", "dev_accuracy")
      for size, own in panels.groupby("batch_size")
    },
  }


def _noise(folder: Path) -> dict[str, Any]:
  table = _table(folder)
  return {
    "variance": curves(
      table, "epoch", "variance", point="batch_size", log=True
    ),
    "exact": curves(table, "epoch", "exact", point="batch_size", log=True),
  }


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
  "seeds": _seeds,
  "gradient_check": _gradient_check,
  "lr_range_audit": _range_audit,
  "lr_policies": _policies,
  "lr_comparison": _comparison,
  "lr_decay": _by_arm,
  "lr_batch_size": _batch_size,
  "grow_batch": _by_arm,
  "gradient_noise": _noise,
}


def write(study: str, folder: Path, place: Path) -> None:
  """Writes place/page.json of a study's directory; nothing of most studies."""
  path = place / NAME
  path.unlink(missing_ok=True)
  if study in READERS:
    content = READERS[study](folder)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    files.write_text(path, f"{text}\n")

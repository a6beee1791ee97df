"""B1 to B8, H1, H2, H4: the batch size, and what it asks of the rate."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.report.figures._common import (
  ACCURACY,
  BATCH,
  EPOCH,
  LOSS,
  RATE,
  Panel,
  curves,
  figure,
  has,
  records,
  seeds,
  spread,
  with_interval,
)
from experiments.report.figures.vega import Axis, Figure, Point, Series
from experiments.report.results import Results
from experiments.report.words import Words


def _panels(results: Results, words: Words) -> list[Figure]:
  """B1: the chapter's two panels, batch 16 and 32."""
  found = results.json("lr_batch_size").get("panels", {})
  made: list[Figure] = []
  for size, own in found.items():
    after = [curve | {"points": curve["points"][1:]} for curve in own]
    series = curves(words, after, "series.rate")
    made += figure(f"panels_{size}", EPOCH, ACCURACY, series, n=seeds(own))
  return made


def _best_rates(results: Results, words: Words) -> list[Figure]:
  """B2, H1: the best rate against the batch, with the chapter's lines."""
  table = results.summary("lr_batch_size")
  if table is None:
    return []
  series: list[Series] = []
  if "budget" in table:  # as it was judged before
    arms = table.groupby("budget", sort=False)
    keys = {"equal epochs": "series.epochs", "equal updates": "series.updates"}
    labels = {name: words.label(keys[str(name)]) for name, _ in arms}
  else:
    arms = table[table["by"] == "dev_loss"].groupby("epochs")
    labels = {name: words.label("series.after", name) for name, _ in arms}
  for name, own in arms:
    points = [
      (row["batch_size"], *with_interval(row, "best_rate"))
      for row in records(own)
    ]
    series.append(Series(labels[name], points))
  first = series[0].points[0]
  sizes = [point[0] for point in series[0].points]
  for word, exponent in (("series.linear", 1.0), ("series.root", 0.5)):
    line = [_law(first, size, exponent) for size in sizes]
    top = max(float(p[1] or 0) for each in series for p in each.points)
    shown = [point for point in line if float(point[1] or 0) < 2.5 * top]
    series.append(Series(words.label(word), shown, plain=True))
  n = int(table["seeds"].min())
  rate = Axis("axis.best_rate", log=True, format="~g")
  return figure("best_rates", BATCH, rate, series, n=n)


def _law(start: Point, size: float | None, exponent: float) -> Point:
  grown = float(size or 0) / float(start[0] or 1)
  return (size, float(start[1] or 0) * grown**exponent)


def _largest(results: Results, words: Words) -> list[Figure]:
  """B3: the largest stable rate; H4: the curvature against 2 / rate."""
  table = results.summary("largest_rate")
  if table is None:
    return []
  if "mean" in table:
    names = {"mean": "value", "low": "value_low", "high": "value_high"}
    table = table.rename(columns=names)
  own = table[table["what"] == "largest stable rate"]
  points = [(r["batch_size"], *with_interval(r, "value")) for r in records(own)]
  one = [(point[0], 1.0) for point in points]
  series = [
    Series("series.largest", points),
    Series("series.one", one, plain=True),
  ]
  n = int(own["seeds"].min())
  rate = Axis("axis.largest_rate", format=".1f", zero=True)
  made = figure("largest_rate", BATCH, rate, series, n=n)
  if "step" not in table:
    return made
  steps = Axis("axis.updates", format=",d")
  share = Axis("axis.edge", log=True, format="~g")
  edge = table[table["what"] == "sharpness over 2 / rate"]
  for size, rows in edge.groupby("batch_size"):
    series = [
      Series(
        words.label("series.rate", f"{rate:g}"),
        [(r["step"], *with_interval(r, "value")) for r in records(arm)],
      )
      for rate, arm in rows.groupby("learning_rate")
    ]
    label = "edge_full" if size == edge["batch_size"].max() else f"edge_{size}"
    made += figure(label, steps, share, series, n=n)
  return made


def _grown(results: Results, words: Words) -> list[Figure]:
  """B5, H2: a batch that grows beside a rate that falls."""
  found = results.json("grow_batch")
  made: list[Figure] = []
  for optimizer in ("sgd", "adam"):
    for metric, axis in (("dev_loss", LOSS), ("dev_accuracy", ACCURACY)):
      own = [
        curve
        | {
          "key": curve["key"].split(": ", 1)[1],
          "points": curve["points"][1:],
        }
        for curve in found.get(metric, ())
        if curve["key"].startswith(f"{optimizer}: ")
      ]
      shown = ("fixed", "decay 5", "grow 2", "grow 5", "grow 25")
      some = [curve for curve in own if curve["key"] in shown]
      series = curves(words, some, "series.name")
      made += figure(
        f"grown_{optimizer}_{metric}", EPOCH, axis, series, n=seeds(some)
      )
  return made or _grown_ends(results, words)


def _grown_ends(results: Results, words: Words) -> list[Figure]:
  table = results.summary("grow_batch")
  if table is None:
    return []
  own = table[table["what"] == "end"]
  base = "base" if "base" in own else "optimizer"
  rows = records(own)
  label = "series.from_batch" if base == "base" else "series.name"
  names = [
    words.label("series.arm", row["arm"], f"{row['updates']:,.0f}")
    for row in rows
  ]
  made: list[Figure] = []
  for metric, axis in (("dev_loss", LOSS), ("dev_accuracy", ACCURACY)):
    series = [
      Series(
        words.label(label, name),
        [
          (mean, place, low, high)
          for place, row in enumerate(rows)
          if row[base] == name
          for mean, low, high in [spread(row, metric)]
        ],
        joined=False,
      )
      for name in own[base].unique()
    ]
    arms = Axis("axis.arm", categories=names)
    n = int(own["seeds"].min())
    made += figure(f"grown_ends_{metric}", axis, arms, series, n=n)
  return made


def _best_batch(results: Results, words: Words) -> list[Figure]:
  table = results.summary("best_batch")
  if table is None:
    return []
  made: list[Figure] = []
  n = int(table["seeds"].min())
  if "effective_rate" in table:  # as it was judged before
    kept = table[table["momentum"] == 0]
    rate, by = "effective_rate", ["budget_unit", "examples"]
    label = {
      "updates": "series.budget_updates",
      "epochs": "series.budget_epochs",
    }

    def named(key: Sequence[Any]) -> str:
      return words.label(label[str(key[0])], f"{key[1]:,}")

  else:
    kept, rate, by = table, "learning_rate", ["epochs", "examples"]

    def named(key: Sequence[Any]) -> str:
      return words.label("series.data", key[0], f"{key[1]:,}")

    made += _by_batch(table, words, n)
  series = []
  for key, own in kept.drop_duplicates([rate, *by]).groupby(by):
    points = [(r[rate], *with_interval(r, "best_batch")) for r in records(own)]
    series.append(Series(named(key), points))
  best = Axis("axis.best_batch", log=True, format="~g")
  return made + figure("best_batch", RATE, best, series, n=n)


def _by_batch(table: pd.DataFrame, words: Words, n: int) -> list[Figure]:
  series = []
  by = ["epochs", "examples", "learning_rate"]
  for key, own in table.groupby(by):
    points = [
      (r["batch_size"], *spread(r, "dev_accuracy"))
      for r in records(
        own.rename(columns={"dev_accuracy": "dev_accuracy_mean"})
      )
    ]
    label = words.label("series.curve", key[0], f"{key[1]:,}", f"{key[2]:g}")
    series.append(Series(label, points))
  return figure("accuracy_by_batch", BATCH, ACCURACY, series[:8], n=n)


def _targets(results: Results, words: Words) -> list[Figure]:
  """B7: updates to a target; B8: accuracy at batches that are large."""
  table = results.summary("updates_to_target")
  if table is None:
    return []
  own = table[table["what"] == "updates to target"]
  if "target" in own:
    groups = [
      (words.label("series.target", f"{target:g}"), rows)
      for target, rows in own.groupby("target", sort=False)
    ]
  else:
    groups = [(words.label("series.target", "0.25"), own)]
  series = [
    Series(
      label,
      [(r["batch_size"], *with_interval(r, "updates")) for r in records(rows)],
    )
    for label, rows in groups
  ]
  first = series[0].points[0]
  most = [point[0] for point in series[0].points]
  line = [_law(first, size, -1.0) for size in most]
  least = min(float(p[1] or 1) for each in series for p in each.points)
  shown = [point for point in line if float(point[1] or 0) > least / 3]
  series.append(Series(words.label("series.inverse"), shown, plain=True))
  updates = Axis("axis.updates", log=True, format="~s")
  n = int(own["seeds"].min())
  return figure("targets", BATCH, updates, series, n=n) + _gap(table, words)


def _gap(table: pd.DataFrame, words: Words) -> list[Figure]:
  rows = table[table["what"] == "gap"]
  if not has(rows, "dev_accuracy_mean"):
    rows = rows.rename(columns={"dev_accuracy": "dev_accuracy_mean"}).rename(
      columns={"dev_accuracy_sd": "dev_accuracy_std"}
    )
  by = "budget_unit" if "budget_unit" in rows else "arm"
  series: list[Series] = []
  if by == "budget_unit":
    keys = {"epochs": "series.epochs", "updates": "series.updates"}
    for unit, own in rows.groupby(by):
      points = [
        (r["batch_size"], *spread(r, "dev_accuracy"))
        for r in records(own.sort_values("batch_size"))
      ]
      series.append(Series(words.label(keys[str(unit)]), points))
    return figure(
      *("generalisation", BATCH, ACCURACY, series), n=int(rows["seeds"].min())
    )
  best = rows.sort_values("dev_accuracy_mean").groupby(by, sort=False).tail(1)
  names = [words.label("series.batch_arm", r["arm"]) for r in records(best)]
  for metric in ("dev_accuracy", "test_accuracy"):
    points = [
      (mean, place, low, high)
      for place, r in enumerate(records(best))
      for mean, low, high in [spread(r, metric)]
    ]
    label = words.label(f"series.{metric}")
    series.append(Series(label, points, joined=False))
  arms = Axis("axis.arm", categories=names)
  n = int(rows["seeds"].min())
  either = dataclasses.replace(ACCURACY, word="axis.either_accuracy")
  return figure("generalisation", either, arms, series, n=n)


def _noise(results: Results, words: Words) -> list[Figure]:
  """B4: the gradient's variance against the batch, and its noise scale."""
  found = results.json("gradient_noise").get("variance", [])
  variance = Axis("axis.variance", log=True)
  series = curves(words, found, "series.trained")
  made = figure("variance", BATCH, variance, series, n=seeds(found))
  table = results.summary("gradient_noise")
  if table is None:
    return made
  ratio: list[Point] = [(r["epoch"], r["ratio_16_32"]) for r in records(table)]
  epochs = [r["epoch"] for r in records(table)]
  pairs: Mapping[str, list[Point]] = {
    "series.ratio": ratio,
    "series.claimed": [(epoch, 1.0) for epoch in epochs],
    "series.two": [(epoch, 2.0) for epoch in epochs],
  }
  series = [
    Series(words.label(word), points, plain=word != "series.ratio")
    for word, points in pairs.items()
  ]
  n = int(table["seeds"].min())
  times = Axis("axis.ratio", format=".1f", zero=True)
  trained = Axis("axis.trained", format="d")
  made += figure("ratio", trained, times, series, n=n)
  scale = [
    (r["epoch"], *with_interval(r, "noise_scale")) for r in records(table)
  ]
  of = Axis("axis.noise_scale", log=True, format="~g")
  series = [Series(words.label("series.noise_scale"), scale)]
  return made + figure("noise_scale", trained, of, series, n=n)


def panels(results: Results, words: Words) -> list[Panel]:
  return [
    Panel("panels", "lr_batch_size", _panels(results, words)),
    Panel("best_rates", "lr_batch_size", _best_rates(results, words)),
    Panel("largest_rate", "largest_rate", _largest(results, words)),
    Panel("grown", "grow_batch", _grown(results, words)),
    Panel("best_batch", "best_batch", _best_batch(results, words)),
    Panel("targets", "updates_to_target", _targets(results, words)),
    Panel("noise", "gradient_noise", _noise(results, words)),
  ]

"""L1 to L6, H6, S1: the learning rate."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.figures._common import (
  ACCURACY,
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
)
from experiments.report.figures.vega import Axis, Figure, Series
from experiments.report.results import Results
from experiments.report.words import Words
from mnist_jax.schedules.config import ScheduleConfig, learning_rates

POINTS = Axis("axis.points", format=".2~f")
_LOST = Axis("axis.points_lost", format=".2~f")


def _tried(results: Results, words: Words) -> list[Figure]:
  """L1: the loss along one epoch at rates from too small to too large."""
  found = results.json("lr_range_audit").get("loss", [])
  found = sorted(found, key=lambda curve: float(curve["key"]))
  updates = Axis("axis.updates", format="d")
  loss = Axis("axis.loss", log=True, format="~g")
  return figure(
    "rate_tried",
    updates,
    loss,
    curves(words, found, "series.rate"),
    n=seeds(found),
    pick="rate",
    values=[curve["key"] for curve in found],
  )


def _range_test(results: Results, words: Words) -> list[Figure]:
  """One recorded range test, with what each of the five rules reads off it."""
  found = results.json("page", "range_test")
  made: list[Figure] = []
  for size, test in found.get("tests", {}).items():
    curve = Series("series.loss", test["curve"], plain=True)
    heights = [point[1] for point in test["curve"]]
    low, high = min(heights), min(max(heights), 10.0)
    rules = [
      Series(
        words.label(f"series.rule.{rule}", f"{rate:.2g}"),
        [(rate, low), (rate, high)],
      )
      for rule, rate in test["rules"].items()
      if rate
    ]
    loss = Axis("axis.batch_loss", log=True, format="~g")
    more = {"n": found["seeds"], "command": found["command"]}
    name = f"range_test_{size}"
    made += figure(name, RATE, loss, [curve, *rules], **more)
  return made


def _regret(results: Results, words: Words) -> list[Figure]:
  """L3: what following each rule costs, by batch size."""
  table = results.summary("lr_range_audit")
  if table is None:
    return []
  rules = table["rule"].unique().tolist()
  names = Axis(
    "axis.rule", categories=[words.label(f"rule.{rule}") for rule in rules]
  )
  series = []
  for size, own in table.groupby("batch_size"):
    points = [
      (
        *(row["regret_median"], rules.index(row["rule"])),
        *(row["regret_median_low"], row["regret_median_high"]),
      )
      for row in records(own)
    ]
    label = words.label("series.batch", size)
    series.append(Series(label, points, joined=False))
  n = int(table["seeds"].max())
  return figure("regret_median", _LOST, names, series, n=n)


T = 20_000  # updates of the formulas


def _formulas(words: Words) -> list[Figure]:
  """L6: the six formulas, with the numbers of the study filled in."""
  each: dict[str, dict[str, Any]] = {
    "fixed": {},
    "step": {"gamma": 0.5, "decay_steps": T // 10},
    "multistep": {"gamma": 0.1, "boundaries": (T // 2, 3 * T // 4)},
    "exp": {"gamma": 0.01 ** (1 / T)},
    "inv": {"gamma": 100 / T, "power": 0.75},
    "poly": {"power": 1.0, "decay_steps": T},
  }
  # And just before each update at which a step may fall.
  places = sorted({*range(0, T, 500), *range(999, T, 1000)})
  series = []
  for name, constants in each.items():
    config = ScheduleConfig(name, 0.2, **constants)
    rates = learning_rates(config, T, T).tolist()
    # To digits that no rounding of XLA's reaches: the page's bytes are fixed.
    points = [(t, float(f"{rates[t]:.4g}")) for t in places]
    label = words.label("series.name", config.describe())
    series.append(Series(label, points, plain=True))
  updates = Axis("axis.updates", format=",d")
  rate = Axis("axis.rate", format=".2~f", zero=True)
  return figure("policies", updates, rate, series)


def _convex(results: Results, words: Words) -> list[Figure]:
  found = results.json("lr_policies").get("convex", [])
  updates = Axis("axis.updates", log=True, format="~s")
  excess = Axis("axis.excess", log=True)
  some = [
    curve | {"points": [point for point in curve["points"] if point[0] > 0]}
    for curve in found
  ]
  series = curves(words, some, "series.name")
  made = figure("convex", updates, excess, series, n=seeds(found))
  table = results.summary("lr_policies")
  if made or table is None:
    return made
  points = [
    (row["convex_slope"], i, row["convex_slope_low"], row["convex_slope_high"])
    for i, row in enumerate(records(table))
  ]
  names = Axis(
    "axis.policy",
    categories=[words.label("series.name", p) for p in table["policy"]],
  )
  slope = Axis("axis.late_slope", format=".1~f")
  series = [Series("series.late_slope", points, joined=False)]
  return figure(
    "convex_slopes", slope, names, series, n=int(table["seeds"].max())
  )


def _trained(results: Results, words: Words) -> list[Figure]:
  """The gain of each policy over the best fixed rate."""
  table = results.summary("lr_policies")
  if table is None:
    return []
  own = records(table[table["points_over_fixed"].notna()])
  points = [
    (
      *(row["points_over_fixed"], place),
      *(row["points_over_fixed_low"], row["points_over_fixed_high"]),
    )
    for place, row in enumerate(own)
  ]
  names = Axis(
    "axis.policy",
    categories=[words.label("series.name", row["constants"]) for row in own],
  )
  series = [Series("series.over_fixed", points, joined=False)]
  n = int(own[0]["seeds"]) if own else None
  return figure("trained", POINTS, names, series, n=n)


def _budget(results: Results, words: Words) -> list[Figure]:
  """H6: the expected best of k random trials."""
  table = results.summary("schedule_budget")
  if not has(table, "method", "trials", "dev_loss"):
    return []
  assert table is not None
  own = table[(table["trials"] > 0) & table["dev_loss"].notna()]
  series = [
    Series(
      words.label("series.name", method),
      [
        (r["trials"], r["dev_loss"], r["dev_loss_low"], r["dev_loss_high"])
        for r in records(rows)
      ],
    )
    for method, rows in own.groupby("method", sort=False)
  ]
  trials = Axis("axis.trials", log=True, format="d")
  return figure("budget", trials, LOSS, series)


def _after_start(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Curves without their first point, which would flatten what comes after."""
  return [
    {
      **curve,
      "points": curve["points"][1:],
      "seeds": [run[1:] for run in curve.get("seeds", ())],
    }
    for curve in found
  ]


def _comparison(results: Results, words: Words) -> list[Figure]:
  """L4: four rates; accuracy, loss, and the paired differences of both."""
  found = results.json("lr_comparison")
  table = results.summary("lr_comparison")
  made: list[Figure] = []
  for metric, axis in (("dev_accuracy", ACCURACY), ("dev_loss", LOSS)):
    if found:
      series = curves(words, _after_start(found[metric]), "series.rate")
      n = seeds(found[metric])
    elif table is not None:
      series, n = _of_summary(table, metric, words)
    else:
      continue
    made += figure(f"comparison_{metric}", EPOCH, axis, series, n=n)
  for metric, axis in (
    ("dev_accuracy", Axis("axis.accuracy_difference", format=".1%")),
    ("dev_loss", Axis("axis.loss_difference", format=".2~g")),
  ):
    own = _after_start(found.get(f"{metric}_difference", []))
    series = curves(words, own, "series.pair")
    made += figure(f"difference_{metric}", EPOCH, axis, series, n=seeds(own))
  return made


def _of_summary(
  table: Any, metric: str, words: Words
) -> tuple[list[Series], int]:
  series = []
  for rate, own in table[table["epoch"] > 0].groupby("learning_rate"):
    points = [(row["epoch"], *spread(row, metric)) for row in records(own)]
    series.append(Series(words.label("series.rate", f"{rate:g}"), points))
  return series, int(table[f"{metric}_count"].min())


def _decay(results: Results, words: Words) -> list[Figure]:
  table = results.summary("lr_decay")
  if table is None:
    return []
  if "seeds" in table:
    own = records(table[table["seeds"] == "judged"])
  else:
    own = records(table[table["arm"] != "tuning"])
  made: list[Figure] = []
  arms = [str(row["arm"]) for row in own]
  for metric, axis in (("dev_loss", LOSS), ("dev_accuracy", ACCURACY)):
    points = []
    for place, row in enumerate(own):
      mean, low, high = spread(row, metric)
      points.append((mean, place, low, high))
    names = Axis(
      "axis.schedule",
      categories=[words.label("series.name", _arm(arm)) for arm in arms],
    )
    series = [Series("series.mean", points, joined=False)]
    n = int(own[0][f"{metric}_count"]) if own else None
    made += figure(f"decay_{metric}", axis, names, series, n=n)
  return made


def _arm(name: str) -> str:
  return re.sub(r"\s+", " ", name)


def _adaptive(results: Results, words: Words) -> list[Figure]:
  """S1: how each optimiser does by its rate, on sparse pixels."""
  table = results.summary("adaptive_rates")
  if table is None:
    return []
  arm = "arm" if "arm" in table else "optimizer"
  made: list[Figure] = []
  for kind, own in table[table["seeds"] == "tuning"].groupby(
    "data", sort=False
  ):
    series = [
      Series(
        words.label("series.name", name),
        [
          (row["learning_rate"], *spread(row, "dev_accuracy"))
          for row in records(rows.sort_values("learning_rate"))
        ],
      )
      for name, rows in own.groupby(arm, sort=False)
    ]
    n = int(own["dev_accuracy_count"].max())
    name = "adaptive_sparse" if kind == "sparse" else "adaptive_control"
    made += figure(name, RATE, ACCURACY, series, n=n)
  return made


def panels(results: Results, words: Words) -> list[Panel]:
  return [
    Panel("rate_tried", "lr_range_audit", _tried(results, words)),
    Panel("range_test", "lr_range_audit", _range_test(results, words)),
    Panel("regret", "lr_range_audit", _regret(results, words)),
    Panel("policies", "lr_policies", _formulas(words)),
    Panel("convex", "lr_policies", _convex(results, words)),
    Panel("trained", "lr_policies", _trained(results, words)),
    Panel("budget", "schedule_budget", _budget(results, words)),
    Panel("comparison", "lr_comparison", _comparison(results, words)),
    Panel("decay", "lr_decay", _decay(results, words)),
    Panel("adaptive", "adaptive_rates", _adaptive(results, words)),
  ]

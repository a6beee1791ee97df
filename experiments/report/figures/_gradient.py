"""G1 to G5: the gradient check; S2, H8: saddles."""

from typing import Any

from experiments.report.figures._common import (
  Panel,
  figure,
  has,
  records,
  seeds,
  spread,
  with_interval,
)
from experiments.report.figures.vega import Axis, Figure, Series
from experiments.report.results import Results
from experiments.report.words import Words

DISTANCE = Axis("axis.distance", log=True)
UPDATES = Axis("axis.updates", log=True, format="~s")


def _steps(results: Results, words: Words) -> list[Figure]:
  found = results.json("gradient_check").get("steps", [])
  made: list[Figure] = []
  for dtype in ("float64", "float32"):
    own = [curve for curve in found if curve["key"].startswith(dtype)]
    named = [curve | {"key": curve["key"].split(", ")[1]} for curve in own]
    series = [
      Series(words.label(f"series.{curve['key']}"), curve["points"])
      for curve in named
    ]
    step = Axis("axis.step", log=True, format=".0e")
    made += figure(f"steps_{dtype}", step, DISTANCE, series, n=seeds(own))
  return made


def _depths(results: Results, words: Words) -> list[Figure]:
  found = results.json("gradient_check").get("depths", [])
  series = [
    Series(
      words.label(
        "series.numeric" if what == "numeric" else "series.rounding",
        activation,
      ),
      curve["points"],
    )
    for curve in found
    for what, activation in [curve["key"].split(", ")]
  ]
  layers = Axis("axis.layers", format="d")
  return figure("depths", layers, DISTANCE, series, n=seeds(found))


def _training(results: Results, words: Words) -> list[Figure]:
  found = results.json("gradient_check").get("training", [])
  series = [
    Series(words.label(f"series.check_{curve['key']}"), curve["points"])
    for curve in found
  ]
  epochs = Axis("axis.trained", format="d")
  return figure("checked_in_training", epochs, DISTANCE, series, n=seeds(found))


def _found(results: Results, words: Words) -> list[Figure]:
  """How many mistakes each check finds, and how often it is wrong."""
  found = results.json("mutation_score", "summary")
  if not found:
    return []
  checkers: dict[str, dict[str, Any]] = {
    words.label("check.ours"): found,
    words.label("check.ratio"): found["ratio"],
    **{
      words.label("check.check_grads", name): each
      for name, each in found["check_grads"].items()
    },
  }
  series = []
  for what in ("caught", "false_alarms"):
    rates = [each[what] for each in checkers.values()]
    points = [
      (rate["rate"], place, rate["low"], rate["high"])
      for place, rate in enumerate(rates)
    ]
    counted = rates[0]["of"]
    label = words.label(f"series.{what}", f"{counted:,}")
    series.append(Series(label, points, joined=False))
  share = Axis("axis.share", format=".0%")
  names = Axis("axis.check", categories=list(checkers))
  n = results.found["G4"][0]["n"] if "G4" in results.found else None
  return figure("found", share, names, series, n=n)


def _surface(results: Results) -> list[dict[str, Any]]:
  table = results.summary("saddle")
  if not has(table, "arm", "left_mean"):
    return []
  assert table is not None
  return records(table[table["left_mean"].notna()])


def _toy(results: Results, words: Words) -> list[Figure]:
  rows = _surface(results)
  if not rows:
    return []
  n = int(rows[0]["left_count"])
  arms = [
    row for row in rows if row["arm"] in ("plain", "momentum", "adam", "noisy")
  ]
  points = []
  for place, row in enumerate(arms):
    mean, low, high = spread(row, "left")
    points.append((mean, place, low, high))
  names = Axis(
    "axis.arm", categories=[words.label(f"arm.{row['arm']}") for row in arms]
  )
  series = [Series("series.left", points, joined=False)]
  made = figure("saddle_arms", UPDATES, names, series, n=n)
  for name, axis in (
    ("noise", Axis("axis.noise", log=True, format=".0e")),
    ("curvature", Axis("axis.curvature", log=True)),
  ):
    own = [row for row in rows if row["arm"] == f"by {name}"]
    left = [(row[name], *spread(row, "left")) for row in own]
    series = [Series("series.left", left)]
    steps = Axis("axis.updates", format=",d", zero=True)
    made += figure(f"saddle_{name}", axis, steps, series, n=n)
  return made


def _plateau(results: Results, words: Words) -> list[Figure]:
  """How long the network itself waits, by the size of its first weights."""
  table = results.summary("saddle")
  if not has(table, "what", "value"):
    return []
  assert table is not None
  own = records(table[table["what"] == "updates to leave"])
  points: dict[str, list[Any]] = {"series.left": [], "series.held": []}
  for place, row in enumerate(own):
    value, low, high = with_interval(row, "value")
    if row["held"] == row["seeds"]:  # the value is the length of the run
      points["series.held"].append((value, place))
    else:
      points["series.left"].append((value, place, low, high))
  labels = [
    words.label("arm.xavier")
    if row["arm"] == "xavier"
    else words.label("arm.sd", row["arm"])
    for row in own
  ]
  names = Axis("axis.start", categories=labels)
  series = [
    Series(word, there, joined=False) for word, there in points.items() if there
  ]
  n = int(own[0]["seeds"]) if own else None
  return figure("plateau", UPDATES, names, series, n=n)


def panels(results: Results, words: Words) -> list[Panel]:
  return [
    Panel("steps", "gradient_check", _steps(results, words)),
    Panel(
      "distances",
      "gradient_check",
      _depths(results, words) + _training(results, words),
    ),
    Panel("found", "mutation_score", _found(results, words)),
    Panel("plateau", "saddle", _plateau(results, words)),
    Panel("saddle", "saddle", _toy(results, words)),
  ]

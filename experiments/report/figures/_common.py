"""What the figures share."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import scipy.stats

from experiments.report.figures.vega import Axis, Figure, Series
from experiments.report.words import Words

ACCURACY = Axis("axis.accuracy", format=".1%")
LOSS = Axis("axis.loss", format=".3~g")
EPOCH = Axis("axis.epoch", format="d")
RATE = Axis("axis.rate", log=True)
BATCH = Axis("axis.batch", log=True)


@dataclasses.dataclass(frozen=True)
class Panel:
  """A place in the page for one figure of several, chosen by their captions.

  Attributes:
    study: Behind all of them.
    figures: None where the results are not there yet.
    map: Of cells that open, in place of figures: see `cells`.
  """

  name: str
  study: str
  figures: Sequence[Figure] = ()


def figure(
  name: str,
  x: Axis,
  y: Axis,
  series: Sequence[Series],
  **more: Any,
) -> list[Figure]:
  """A figure if it has points to show, in a list; its caption is `name`."""
  some = [each for each in series if each.points]
  if not some:
    return []
  return [Figure(name, f"figure.{name}", x, y, some, **more)]


def curves(
  words: Words, found: Sequence[Mapping[str, Any]], label: str, **more: Any
) -> list[Series]:
  """The series of the curves of a page.json, named by `label` and their key."""
  series = []
  for curve in found:
    xs = [point[0] for point in curve["points"]]
    series.append(
      Series(
        words.label(label, curve["key"]),
        curve["points"],
        [list(zip(xs, run, strict=True)) for run in curve.get("seeds", ())],
        **more,
      )
    )
  return series


def seeds(found: Sequence[Mapping[str, Any]]) -> int | None:
  """The fewest seeds of a page.json's curves."""
  return min((int(curve["n"]) for curve in found), default=None)


def spread(row: Any, column: str) -> tuple[float, float, float]:
  """A mean with its 95 % interval (Student's t) from COLUMN_mean, _std."""
  mean, sd = row[f"{column}_mean"], row[f"{column}_std"]
  n = row.get(f"{column}_count", row.get("seeds"))
  n = float(n) if isinstance(n, (int, float)) or str(n).isdigit() else math.nan
  if not n > 1 or not math.isfinite(sd):
    return mean, math.nan, math.nan
  half = scipy.stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n)
  return mean, mean - half, mean + half


def with_interval(row: Any, column: str) -> tuple[float, float, float]:
  """COLUMN with COLUMN_low and COLUMN_high."""
  return row[column], row[f"{column}_low"], row[f"{column}_high"]


def has(table: pd.DataFrame | None, *columns: str) -> bool:
  return table is not None and set(columns) <= set(table)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
  return table.to_dict("records")

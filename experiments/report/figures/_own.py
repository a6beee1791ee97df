"""H3, H5, H7: what the chapter does not ask."""

from experiments.report.figures._common import (
  BATCH,
  LOSS,
  Panel,
  figure,
  records,
  with_interval,
)
from experiments.report.figures.vega import Axis, Figure, Series
from experiments.report.results import Results
from experiments.report.words import Words

_BEST_RATE = Axis("axis.best_rate", log=True, format="~g")


def _adam(results: Results, words: Words) -> list[Figure]:
  """H5: the best rate by batch, and the loss at it."""
  table = results.summary("adam_batch")
  if table is None:
    return []
  made: list[Figure] = []
  for name, column, axis in (
    ("adam_rates", "best_rate", _BEST_RATE),
    ("adam_losses", "dev_loss", LOSS),
  ):
    series = [
      Series(
        words.label(f"series.{arm}"),
        [(r["batch_size"], *with_interval(r, column)) for r in records(own)],
      )
      for arm, own in table.groupby("arm", sort=False)
    ]
    made += figure(name, BATCH, axis, series, n=int(table["seeds"].min()))
  return made


def _widths(results: Results, words: Words) -> list[Figure]:
  """H7: the best rate by width, in both parametrisations."""
  table = results.summary("width_transfer")
  if table is None:
    return []
  series = [
    Series(
      words.label(f"series.{kind}"),
      [
        (r["width"], *with_interval(r, "best_rate"))
        for r in records(own.drop_duplicates("width"))
      ],
    )
    for kind, own in table.groupby("kind", sort=False)
  ]
  width = Axis("axis.width", log=True, format="d")
  n = int(table["seeds"].min())
  return figure("width_rates", width, _BEST_RATE, series, n=n)


def _critical(results: Results, words: Words) -> list[Figure]:
  """H3: the critical batch by the loss that is reached, three measures."""
  table = results.summary("critical_batch")
  if table is None:
    return []
  series = [
    Series(
      words.label(f"series.by_{measure}"),
      [
        (r["dev_loss"], *with_interval(r, "critical_batch"))
        for r in records(own.sort_values("dev_loss"))
      ],
    )
    for measure, own in table.groupby("measure", sort=False)
  ]
  reached = Axis("axis.loss", log=True, format="~g")
  batch = Axis("axis.critical_batch", log=True, format="~g")
  n = int(table["seeds"].min())
  return figure("critical", reached, batch, series, n=n)


def panels(results: Results, words: Words) -> list[Panel]:
  return [
    Panel("adam", "adam_batch", _adam(results, words)),
    Panel("widths", "width_transfer", _widths(results, words)),
    Panel("critical", "critical_batch", _critical(results, words)),
  ]

"""H3, H5, H7: what the chapter does not ask."""

import pandas as pd

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


def _lines(
  words: Words, table: pd.DataFrame, by: str, x: str, y: str, word: str = ""
) -> list[Series]:
  """A line for each value of `by`, whose name is WORDvalue of the words."""
  return [
    Series(
      words.label(f"series.{word}{name}"),
      [
        (row[x], *with_interval(row, y))
        for row in records(own.drop_duplicates(x).sort_values(x))
      ],
    )
    for name, own in table.groupby(by, sort=False)
  ]


def _adam(results: Results, words: Words) -> list[Figure]:
  """H5: the best rate by batch, and the loss at it."""
  table = results.summary("adam_batch")
  if table is None:
    return []
  n = int(table["seeds"].min())
  made: list[Figure] = []
  for name, column, axis in (
    ("adam_rates", "best_rate", _BEST_RATE),
    ("adam_losses", "dev_loss", LOSS),
  ):
    lines = _lines(words, table, "arm", "batch_size", column)
    made += figure(name, BATCH, axis, lines, n=n)
  return made


def _widths(results: Results, words: Words) -> list[Figure]:
  """H7: the best rate by width, in both parametrisations."""
  table = results.summary("width_transfer")
  if table is None:
    return []
  width = Axis("axis.width", log=True, format="d")
  lines = _lines(words, table, "kind", "width", "best_rate")
  n = int(table["seeds"].min())
  return figure("width_rates", width, _BEST_RATE, lines, n=n)


def _critical(results: Results, words: Words) -> list[Figure]:
  """H3: the critical batch by the loss that is reached, three measures."""
  table = results.summary("critical_batch")
  if table is None:
    return []
  reached = Axis("axis.loss", log=True, format="~g")
  batch = Axis("axis.critical_batch", log=True, format="~g")
  lines = _lines(
    words, table, "measure", "dev_loss", "critical_batch", word="by_"
  )
  n = int(table["seeds"].min())
  return figure("critical", reached, batch, lines, n=n)


def panels(results: Results, words: Words) -> list[Panel]:
  return [
    Panel("adam", "adam_batch", _adam(results, words)),
    Panel("widths", "width_transfer", _widths(results, words)),
    Panel("critical", "critical_batch", _critical(results, words)),
  ]

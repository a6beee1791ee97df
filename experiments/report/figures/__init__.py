"""Every figure of the page, from the committed results."""

from collections.abc import Sequence

from experiments.report.figures import (
  _batches,
  _gradient,
  _network,
  _own,
  _rates,
)
from experiments.report.figures._common import EPOCH, LOSS, Panel
from experiments.report.figures.vega import Figure, Point, Series
from experiments.report.results import Results
from experiments.report.words import Words


def panels(results: Results, words: Words) -> dict[str, Panel]:
  """The panels of the page by name; one without figures has no data yet."""
  made = [
    panel
    for module in (_network, _gradient, _rates, _batches, _own)
    for panel in module.panels(results, words)
  ]
  return {panel.name: panel for panel in made}


def cell(points: Sequence[Point]) -> Figure:
  """The figure of one cell of the map, with the points of any."""
  series = [Series("series.loss", points)]
  return Figure("cell", "figure.comparison_dev_loss", EPOCH, LOSS, series)


__all__ = ["Panel", "cell", "panels"]

"""Figures: axes with units and legends, and those of one run.

Start with

  from mnist_jax import plotting
  figure, axes = plotting.panels(1, 2)
  plotting.save(figure, "two.png")
"""

from mnist_jax.plotting.axes import (
  COLOURS,
  MARKERS,
  Axes,
  Figure,
  bands,
  differences,
  error_bars,
  heat_map,
  integer_ticks,
  log_axis,
  panels,
  render,
  save,
  series,
  style,
)

__all__ = [
  "COLOURS",
  "MARKERS",
  "Axes",
  "Figure",
  "bands",
  "differences",
  "error_bars",
  "heat_map",
  "integer_ticks",
  "log_axis",
  "panels",
  "render",
  "save",
  "series",
  "style",
]

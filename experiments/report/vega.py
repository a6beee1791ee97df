"""Vega-Lite: compiled and drawn at build time, and the library of the page."""

import functools

import vl_convert


@functools.cache
def library() -> str:
  """JavaScript that defines `vegaEmbed`, with the interpreter in it."""
  return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")

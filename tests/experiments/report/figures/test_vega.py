"""A figure as a drawing: what its axes say."""

import re

import pytest

from experiments.report.figures import vega

WORDS = dict.fromkeys(
  ("x", "y", "s", "figure.series", "figure.low", "figure.high"), ""
)


def drawn(x, y, points):
  series = [vega.Series("s", points)]
  axes = vega.Axis("x", **x), vega.Axis("y", **y)
  return vega.drawn(vega.Figure("f", "x", *axes, series), WORDS)


def test_a_drawing_says_its_numbers_in_full():
  points = [(0.001, 0.01), (10, 0.04)]
  svg = drawn({"log": True, "format": "~g"}, {"format": ".3~g"}, points)
  labels = re.findall(r">([^<>]+)</text>", svg)
  assert {"0.001", "0.01", "0.1", "1", "0.02", "0.03"} <= set(labels)
  assert not re.search(r'="[^"]*\d\.\d\d', svg)  # places have one decimal


@pytest.mark.parametrize("last", [1, 2, 40])
def test_whole_numbers_are_said_once(last):
  points = [(0, 0.5), (last, 1.5)]
  svg = drawn({"format": "d"}, {"format": ".1f"}, points)
  labels = re.findall(r">(\d+)</text>", svg)
  assert labels[0] == "0"
  assert len(set(labels)) == len(labels)

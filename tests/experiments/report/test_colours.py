"""The page's colours: told apart by every eye and in grey, text readable.

Sight without one kind of cone is that of Machado, Oliveira and Fernandes
(2009) at full severity; distances are CIEDE2000's (Sharma, Wu and Dalal 2005),
contrasts WCAG 2's.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.report import figures
from experiments.report.figures import vega
from experiments.report.page import build, markup
from experiments.report.results import Results
from experiments.report.words import Words

ROOT = next(p for p in Path(__file__).parents if (p / "Makefile").exists())
LEAST_APART = 9  # CIEDE2000, of which 2 or 3 are seen side by side
TEXT, GRAPHIC = 4.5, 3.0  # WCAG 2's least contrasts
SIGHTS = {
  "usual": np.eye(3),
  "protanopia": np.array(
    [
      [0.152286, 1.052583, -0.204868],
      [0.114503, 0.786281, 0.099216],
      [-0.003882, -0.048116, 1.051998],
    ]
  ),
  "deuteranopia": np.array(
    [
      [0.367322, 0.860646, -0.227968],
      [0.280085, 0.672501, 0.047413],
      [-0.011820, 0.042940, 0.968881],
    ]
  ),
  "tritanopia": np.array(
    [
      [1.255528, -0.076749, -0.178779],
      [-0.078411, 0.930809, 0.147602],
      [0.004733, 0.691367, 0.303900],
    ]
  ),
}
XYZ = np.array(
  [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
  ]
)
WHITE = XYZ.sum(axis=1)


def linear(colour):
  """Linear RGB of "#rgb", "#rrggbb", "rgb(r,g,b)" or three bytes."""
  if isinstance(colour, str):
    sign, *digits = colour
    if sign == "#":
      one = "".join(d * (2 if len(digits) == 3 else 1) for d in digits)
      colour = bytes.fromhex(one)
    else:
      colour = [int(number) for number in re.findall(r"\d+", colour)]
  c = np.array(list(colour)) / 255
  return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour, sight="usual"):
  """CIELAB of a colour as it is seen."""
  seen = np.clip(SIGHTS[sight] @ linear(colour), 0, 1)
  t = XYZ @ seen / WHITE
  f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
  return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(first, second):
  """CIEDE2000 of two colours in CIELAB, both with some chroma."""
  chroma = np.hypot(first[1:], second[1:])  # of both a and both b
  c = (np.hypot(*first[1:]) + np.hypot(*second[1:])) / 2
  g = 1.5 - 0.5 * np.sqrt(c**7 / (c**7 + 25**7))
  assert chroma.all()
  (c1, h1), (c2, h2) = (
    (np.hypot(g * a, b), np.degrees(np.arctan2(b, g * a)) % 360)
    for _, a, b in (first, second)
  )
  turn = (h2 - h1 + 180) % 360 - 180
  lightness, c, h = (first[0] + second[0]) / 2, (c1 + c2) / 2, h1 + turn / 2
  t = sum(
    share * np.cos(np.radians(times * h + shift))
    for share, times, shift in (
      *((1, 0, 0), (-0.17, 1, -30), (0.24, 2, 0)),
      *((0.32, 3, 6), (-0.2, 4, -63)),
    )
  )
  off = (lightness - 50) ** 2
  dl = (second[0] - first[0]) / (1 + 0.015 * off / np.sqrt(20 + off))
  dc = (c2 - c1) / (1 + 0.045 * c)
  dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c * t)
  bend = np.radians(60 * np.exp(-(((h % 360 - 275) / 25) ** 2)))
  turned = -2 * np.sqrt(c**7 / (c**7 + 25**7)) * np.sin(bend)
  return np.sqrt(dl**2 + dc**2 + dh**2 + turned * dc * dh)


def contrast(first, second):
  dark, light = sorted(XYZ[1] @ linear(each) for each in (first, second))
  return (light + 0.05) / (dark + 0.05)


def schemes():
  """The style's colours by name, light and dark."""
  light, dark = (
    dict(re.findall(r"--(\w+): (#\w+);", block))
    for block in re.findall(r":root \{(.*?)\}", build.styles(), re.S)[:2]
  )
  return {"light": light, "dark": dark}


@pytest.mark.parametrize(
  ("first", "second", "expected"),
  [
    ((50, 2.6772, -79.7751), (50, 0.0001, -82.7485), 2.0425),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((50, 2.5, 0.0001), (58, 24, 15), 19.4535),
  ],
)
def test_distances_are_those_published(first, second, expected):
  found = distance(np.array(first), np.array(second))
  assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("sight", SIGHTS)
def test_every_eye_tells_two_series_apart(sight):
  seen = [lab(colour, sight) for colour in vega.COLOURS]
  nearest = min(distance(*two) for two in itertools.combinations(seen, 2))
  assert nearest > LEAST_APART


def look(place, series):
  """What grey leaves of a series: its dash and its shape."""
  return (
    series.joined and vega.DASHES[place % len(vega.DASHES)],
    not series.plain and vega.SHAPES[place % len(vega.SHAPES)],
  )


def test_in_grey_dash_and_shape_tell_series_apart():
  assert len(set(vega.DASHES)) == len(vega.DASHES)
  assert set(vega.SHAPES) == set(markup._MARKS)
  found = Results(ROOT / "results", ROOT / "docs" / "results.md")
  for panel in figures.panels(found, Words()).values():
    for figure in panel.figures:
      looks = {look(i, series) for i, series in enumerate(figure.series)}
      # Of those that a slider goes through one stands out.
      assert len(looks) == len(figure.series) or figure.pick, figure.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_what_is_behind_them(scheme):
  own = schemes()[scheme]
  for colour in vega.COLOURS:
    assert contrast(colour, own["card"]) >= GRAPHIC, colour
  for name in ("ink", "faint", "link", "good", "bad", "half", "open"):
    for behind in ("card", "back"):
      assert contrast(own[name], own[behind]) >= TEXT, name


def test_a_verdict_has_a_sign_of_its_own():
  verdicts = {
    key.partition(".")[2] for key in Words().table if key.startswith("verdict.")
  }
  assert verdicts <= set(markup._SIGNS)
  assert len(set(markup._SIGNS.values())) == len(markup._SIGNS)


def test_every_cell_of_the_map_can_be_read():
  for share in np.linspace(0, 1, 101):
    assert contrast(*markup.shade(share)) >= TEXT, share


@pytest.mark.parametrize("sight", SIGHTS)
def test_lightness_alone_orders_either_scale(sight):
  text = build.asset("parts/book.js")
  ramp = re.search(r"const RAMP = \[(.*?)\];", text, re.S)[1]
  stops = [
    [int(number) for number in re.findall(r"\d+", stop)]
    for stop in re.findall(r"\[([^]]*)\]", ramp)
  ]
  cells = [markup.shade(share)[0] for share in np.linspace(1, 0, 11)]
  for scale in (stops, cells):
    lightness = [lab(colour, sight)[0] for colour in scale]
    assert min(np.diff(lightness)) > 5

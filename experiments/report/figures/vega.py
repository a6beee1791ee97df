"""Figures as data: their Vega-Lite specs, static drawings and numbers.

A figure is series of points with intervals over two axes; its spec, its
legend and its table of numbers all derive from it. A string "@KEY" in a spec
stands for the words of that key, which the build and the page put in by
language. Nothing in a spec's layout depends on how wide a text is, so that
the static drawing has the same bytes wherever it is made.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 640, 300
_VERSION = "6.4"
# Three of Okabe and Ito's, then of all colours that stand out from a light and
# a dark card (3:1) each time the one that is farthest from those before it to
# the eye that confuses it most; grey leaves dashes and shapes to go by.
COLOURS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#888899",
  "#8877ff",
  "#886644",
  "#776677",
  "#cc00aa",
)
DASHES = (
  (1, 0),
  (7, 3),
  (2, 2),
  (9, 3, 2, 3),
  (12, 3),
  (4, 4),
  (1, 4),
  (12, 2, 2, 2, 2, 2),
)
# One fewer, so that the ninth series is not the first again.
SHAPES = (
  *("circle", "square", "triangle-up", "diamond", "cross"),
  *("triangle-down", "triangle-right"),
)
Point = Sequence[float | None]


@dataclasses.dataclass(frozen=True)
class Axis:
  """An axis.

  Attributes:
    word: The key of its title, with the unit.
    format: Of its numbers, as d3 has them.
    categories: The keys of its labels, where it holds no numbers.
  """

  word: str
  log: bool = False
  format: str = ""
  zero: bool = False
  categories: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Series:
  """Points (x, y) or (x, y, low, high).

  Attributes:
    word: The key of its name.
    seeds: The single runs behind it, each points (x, y).
    joined: Whether a line joins the points.
    plain: Whether it is a line of reference, which has no marks.
  """

  word: str
  points: Sequence[Point]
  seeds: Sequence[Sequence[Point]] = ()
  joined: bool = True
  plain: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
  """A figure.

  Attributes:
    name: Unique on the page.
    word: The key of its caption.
    n: The seeds behind each point; None where it is derived.
    pick: The name in the page's state by which one series stands out, with
      `values` of the series in their order.
    command: What measures it, where that is not its study's.
  """

  name: str
  word: str
  x: Axis
  y: Axis
  series: Sequence[Series]
  n: int | None = None
  pick: str = ""
  values: Sequence[str] = ()
  command: str = ""

  def has_seeds(self) -> bool:
    return any(series.seeds for series in self.series)


def finite(value: float | None) -> bool:
  return value is not None and math.isfinite(value)


def kept(figure: Figure, point: Point) -> bool:
  """Whether a point can be drawn on the figure's axes."""
  x, y = point[0], point[1]
  return bool(
    (figure.x.categories or (finite(x) and (not figure.x.log or x > 0)))  # type: ignore[operator]
    and (figure.y.categories or (finite(y) and (not figure.y.log or y > 0)))  # type: ignore[operator]
  )


def _limits(figure: Figure, point: Point) -> tuple[float, float] | None:
  """The interval of a point, cut where a log axis ends."""
  if len(point) < 4 or not (finite(point[2]) and finite(point[3])):
    return None
  low, high = float(point[2]), float(point[3])  # type: ignore[arg-type]
  log = figure.x.log if figure.y.categories else figure.y.log
  if log:
    if high <= 0:
      return None
    low = max(low, 1e-3 * high)
  return low, high


def _label(axis: Axis, place: float | None) -> Any:
  return f"@{axis.categories[int(place or 0)]}" if axis.categories else place


def rows(figure: Figure) -> list[dict[str, Any]]:
  """The points as a spec's data: x, y, low, high, number of series, name.

  `below` is the lower limit as it is, where `low` was cut.
  """
  found = []
  for i, series in enumerate(figure.series):
    for point in series.points:
      if not kept(figure, point):
        continue
      row: dict[str, Any] = {
        "x": _label(figure.x, point[0]),
        "y": _label(figure.y, point[1]),
        "i": i,
        "s": f"@{series.word}",
      }
      limits = _limits(figure, point)
      if limits:
        row["low"], row["high"] = limits
        row["below"] = float(point[2])  # type: ignore[arg-type]
      found.append(row)
  return [_rounded(row) for row in found]


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
  return {
    key: float(f"{value:.5g}") if isinstance(value, float) else value
    for key, value in row.items()
  }


def _channel(axis: Axis, across: bool) -> dict[str, Any]:
  drawn: dict[str, Any] = {"title": f"@{axis.word}"}
  if axis.categories:
    return {
      "type": "nominal",
      "axis": {"title": None},
      "sort": [f"@{word}" for word in axis.categories],
    }
  if axis.format:
    drawn["format"] = axis.format
  if axis.format.endswith("d"):  # 1.5 would be a 2
    drawn["labelExpr"] = "datum.value % 1 ? '' : datum.label"
  if axis.log:
    drawn["tickCount"] = 6
    drawn.setdefault("format", "~g" if across else ".1~e")
  return {
    "type": "quantitative",
    "axis": drawn,
    "scale": (
      {"type": "log", "nice": False, "padding": 10}
      if axis.log
      else {"zero": axis.zero, "nice": False, "padding": 10}
    ),
  }


def _looks(figure: Figure) -> dict[str, Any]:
  """Colour, dash and shape by the number of the series, without a legend."""
  numbers = list(range(len(figure.series)))

  def scale(choices: Sequence[Any]) -> dict[str, Any]:
    chosen = [choices[i % len(choices)] for i in numbers]
    return {
      "field": "i",
      "type": "nominal",
      "legend": None,
      "scale": {"domain": numbers, "range": chosen},
    }

  return {
    "colour": scale(COLOURS),
    "dash": scale([list(dash) for dash in DASHES]),
    "shape": scale(SHAPES),
  }


def _opacity(figure: Figure, shown: float) -> dict[str, Any]:
  if not figure.pick:
    return {"value": shown}
  test = f"datum.i == {figure.pick}"
  return {"condition": {"test": test, "value": shown}, "value": 0.13 * shown}


def _tooltip(figure: Figure) -> list[dict[str, Any]]:
  """What a point says of itself: its series, its place, its interval."""

  def number(field: str, word: str) -> dict[str, Any]:
    named = {"field": field, "title": f"@{word}"}
    return named | {"type": "quantitative", "format": ".4~g"}

  found: list[dict[str, Any]] = [{"field": "s", "title": "@figure.series"}]
  for field, axis in (("x", figure.x), ("y", figure.y)):
    told = number(field, axis.word)
    if axis.categories:
      told = {"field": field, "title": f"@{axis.word}", "type": "nominal"}
    found.append(told)
  return [
    *found,
    *(number("below", "figure.low"), number("high", "figure.high")),
  ]


def _layer(
  figure: Figure,
  mark: dict[str, Any],
  shown: Sequence[bool],
  opacity: float,
  **encoding: Any,
) -> dict[str, Any]:
  """A layer of the series that `shown` chooses; bands where it has `high`."""
  chosen = [i for i, choice in enumerate(shown) if choice]
  place = {
    "x": _channel(figure.x, True) | {"field": "x"},
    "y": _channel(figure.y, False) | {"field": "y"},
  }
  filters: list[Any] = [{"filter": {"field": "i", "oneOf": chosen}}]
  if mark["type"] in ("area", "rule"):
    filters.append({"filter": "isValid(datum.low)"})
    along = "x" if figure.y.categories else "y"
    place[along] |= {"field": "low"}
    place[f"{along}2"] = {"field": "high"}
  looks = {"color": _looks(figure)["colour"]}
  looks["opacity"] = _opacity(figure, opacity)
  return {
    "transform": filters,
    "mark": mark,
    "encoding": {**place, **looks, **encoding},
  }


def _layers(figure: Figure) -> list[dict[str, Any]]:
  """Bands, bars, lines and points, from behind to the front."""
  looks, tooltip = _looks(figure), _tooltip(figure)
  joined = [series.joined for series in figure.series]
  marked = [not series.plain for series in figure.series]
  found = [
    _layer(figure, {"type": "area"}, joined, 0.16),
    _layer(figure, {"type": "rule", "strokeWidth": 1.5}, marked, 0.8),
    _layer(
      figure,
      {"type": "line", "strokeWidth": 2},
      joined,
      1.0,
      strokeDash=looks["dash"],
    ),
    _layer(
      figure,
      {"type": "point", "filled": True, "size": 42},
      marked,
      1.0,
      shape=looks["shape"],
      tooltip=tooltip,
    ),
  ]
  plain = [series.plain for series in figure.series]
  # A line alone has nothing to hover over.
  unseen = {"type": "point", "size": 60}
  hover = _layer(figure, unseen, plain, 0.0, tooltip=tooltip[:3])
  found.append(hover | {"name": "hover"})
  return [layer for layer in found if _is_shown(figure, layer)]


def spec(figure: Figure) -> dict[str, Any]:
  """The figure's Vega-Lite spec, its words yet to be put in."""
  seeds = [_seeds(figure)] if figure.has_seeds() else []
  found: dict[str, Any] = {
    "data": {"values": rows(figure)},
    "width": WIDTH - left(figure) - RIGHT,
    "height": height(figure),
    "autosize": "none",
    "padding": {"left": left(figure), "right": RIGHT, "top": 8, "bottom": 46},
    "layer": [*seeds, *_layers(figure)],
    "config": _CONFIG,
  }
  if figure.pick:
    found["params"] = [{"name": figure.pick, "value": 0}]
  return found


def _is_shown(figure: Figure, layer: dict[str, Any]) -> bool:
  """Whether a layer has anything to draw, and does not hide what matters."""
  kind = layer["mark"]["type"]
  many = len(rows(figure)) > _MANY
  own = set(layer["transform"][0]["filter"]["oneOf"])
  if kind in ("area", "rule"):
    own &= {row["i"] for row in rows(figure) if "low" in row}
  joined = any(series.joined for series in figure.series)
  # Bands say of a curve what bars say of points.
  if kind == "area" and figure.y.categories:
    return False
  return bool(own) and not (kind == "rule" and many and joined)


def _seeds(figure: Figure) -> dict[str, Any]:
  """The single runs, thin, behind all else."""
  values = []  # a row to a run: a row to a point would be three times the bytes
  for i, series in enumerate(figure.series):
    for k, run in enumerate(series.seeds):
      some = [(x, float(f"{y:.4g}")) for x, y in run if finite(y)]
      x, y = zip(*some, strict=True) if some else ((), ())
      values.append({"x": x, "y": y, "i": i, "k": f"{i}-{k}"})
  every = [True] * len(figure.series)
  detail = {"field": "k", "type": "nominal"}
  mark = {"type": "line", "strokeWidth": 0.7}
  found = _layer(figure, mark, every, 0.35, detail=detail)
  found["transform"].insert(0, {"flatten": ["x", "y"]})
  return found | {"name": "seeds", "data": {"values": values}}


RIGHT = 20
_MANY = 120  # points, from which on bars at each would hide the curves
_CONFIG = {
  "font": "Liberation Sans, Arial, Helvetica, sans-serif",
  "background": "transparent",
  "view": {"stroke": None},
  "axis": {
    "labelFontSize": 12,
    "titleFontSize": 13,
    "titleFontWeight": "normal",
    "gridOpacity": 0.35,
    "labelLimit": 222,
    "titlePadding": 8,
    "labelSeparation": 6,
  },
  "axisX": {"minExtent": 20, "maxExtent": 20},
}


def left(figure: Figure) -> int:
  """The room on the left of the axis, in pixels."""
  return 250 if figure.y.categories else 74


def height(figure: Figure) -> int:
  count = len(figure.y.categories)
  return 30 * count + 10 if count else HEIGHT


def _put_in(content: Any, words: dict[str, str]) -> Any:
  """A spec with its words of one language."""
  if isinstance(content, str):
    return words[content[1:]] if content.startswith("@") else content
  if isinstance(content, list):
    return [_put_in(each, words) for each in content]
  if isinstance(content, dict):
    return {key: _put_in(value, words) for key, value in content.items()}
  return content


def finished(figure: Figure) -> dict[str, Any]:
  """The spec as the page has it."""
  found = spec(figure)
  extent = left(figure) - 24
  config: dict[str, Any] = json.loads(json.dumps(found["config"]))
  config["axisY"] = {"minExtent": extent, "maxExtent": extent}
  return found | {"config": config}


def drawn(figure: Figure, words: dict[str, str]) -> str:
  """The static drawing in one language, as SVG: no seeds, nothing to hover.

  Args:
    words: Of the language, by key.
  """
  import vl_convert  # 85 MB, for the build alone

  found = finished(figure)
  found["layer"] = [
    layer
    for layer in found["layer"]
    if layer.get("name") not in ("seeds", "hover")
  ]
  if figure.pick:
    found["params"] = []
    text = json.dumps(found).replace(f"datum.i == {figure.pick}", "true")
    found = json.loads(text)
  svg = vl_convert.vegalite_to_svg(_put_in(found, words), vl_version=_VERSION)
  return _short(str(svg))


# What a drawing that is hidden from screen readers, and smaller than a page,
# has no use for: page.css has the font and the grid, the others are defaults.
_NO_USE = re.compile(
  r' (?:aria-\w+|role|pointer-events|class="background"|opacity="1"'
  r'|font-family|font-size="12px"|stroke-width="1"|[xy]2="0"'
  r'|stroke="#(?:ddd|888)"|stroke-opacity="0.3"|fill="#000"'
  r')(?:="[^"]*")?(?=[ />])'
)
_EMPTY = re.compile(r'<path [^>]*d="(?:M0,0h0v0h0Z|)"[^>]*/>')
_CIRCLE = re.compile(
  r'<path ([^>]*)d="M([\d.]+),0A\2,\2,0,1,1,-\2,0A\2,\2,0,1,1,\2,0"'
)
_NO_STROKE = re.compile(r'(<(?:(?! stroke=)[^>])*) stroke-width="2"(?=/>)')
# Of a place alone: in a text, which no tag is, 0.05 must not become 0.0.
_DECIMALS = re.compile(r"(\d\.\d)\d+(?=[^<>]*>)")


def _short(svg: str) -> str:
  """The drawing with a decimal to its places, less what nothing needs."""
  svg = _DECIMALS.sub(r"\1", _EMPTY.sub("", _NO_USE.sub("", svg)))
  return _NO_STROKE.sub(r"\1", _CIRCLE.sub(r'<circle \1r="\2"', svg))


@functools.cache
def library() -> str:
  """JavaScript that defines `vegaEmbed`, with the interpreter in it."""
  import vl_convert

  return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))

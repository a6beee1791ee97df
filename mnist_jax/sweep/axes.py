"""Axes of a sweep as texts: values, and ranges from which points are drawn.

  learning_rate=0.1,0.2,0.5      these values
  seed=0:10                      whole numbers below 10; 0:10:2 each second one
  learning_rate=log:0.01:1:7     seven from 0.01 to 1, evenly on a log scale
  momentum=lin:0.5:0.95:4        four, evenly
  l2=log:1e-6:1e-2               a range, in which points are drawn
  hidden_sizes=64/16,128/32      values of a setting that has several

Cells are `Settings` and so are filed by content, drawn points as those of a
grid: more points of the same seed begin with the same ones.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mnist_jax.runtime.errors import InputError
from mnist_jax.runtime.fields import Setting
from mnist_jax.training import settings
from mnist_jax.training.settings import Settings

DRAWS = ("halton", "random")
_DIGITS = 6  # significant ones of a number on a scale, which commands repeat


@dataclasses.dataclass(frozen=True)
class Axis:
  """A setting, and its values or the range of which they are drawn.

  Attributes:
    name: A field of `Settings`.
    values: None for a range.
    low, high: The range's ends, both in it.
    log: Whether equal ratios are equally likely.
  """

  name: str
  values: tuple[Any, ...] | None
  low: float = math.nan
  high: float = math.nan
  log: bool = False

  def at(self, share: float) -> Any:
    """The value at a share in [0, 1] of the range, a whole one of a count."""
    if self.log:
      value = self.low * (self.high / self.low) ** share
    else:
      value = self.low + (self.high - self.low) * share
    if settings.FIELDS[self.name].kind is int:
      return round(value)
    return float(f"{value:.{_DIGITS}g}")


def parse(text: str) -> Axis:
  """The axis that a text says, as above.

  Raises:
    InputError: An unknown setting, or no such values.
  """
  name, equals, said = text.partition("=")
  if not equals or not said:
    raise InputError(f"found {text!r}, expected NAME=VALUES")
  settings.require_known([name])
  setting = settings.FIELDS[name]
  scale, *rest = said.split(":")
  if scale in ("log", "lin"):
    return _scaled(name, said, setting)
  if rest:
    return Axis(name, _whole(name, said, setting))
  values = tuple(_value(name, setting, part) for part in said.split(","))
  return Axis(name, values)


def cells(
  base: Settings,
  axes: Sequence[Axis],
  *,
  points: int | None = None,
  draw: str = "halton",
  seed: int = 0,
) -> list[Settings]:
  """Every combination of the axes' values, and of points drawn in the ranges.

  Args:
    base: What the cells share.
    points: How many are drawn, where there are ranges.
    draw: "halton", a sequence that fills the ranges evenly (Halton 1960),
      shifted at random, or "random", uniform and independent.
    seed: Of the shift or of the points.

  Raises:
    InputError: An axis is there twice, points without ranges or ranges without
      points, or `Settings` refuses a value.
  """
  names = [axis.name for axis in axes]
  for name in names:
    if names.count(name) > 1:
      raise InputError(f"found {name} twice, expected an axis for each once")
  ranges = [axis for axis in axes if axis.values is None]
  if ranges and points is None:
    raise InputError(
      f"{ranges[0].name} is a range and points=None, expected how many are to "
      "be drawn in it, or their number behind it"
    )
  if points is not None and not ranges:
    raise InputError(f"points={points}: no axis is a range to draw them in")
  drawn: list[dict[str, Any]] = [{}]
  if points is not None:
    shares = _shares(points, len(ranges), draw, seed)
    drawn = [
      {axis.name: axis.at(x) for axis, x in zip(ranges, row, strict=True)}
      for row in shares.tolist()
    ]
  listed = [axis for axis in axes if axis.values is not None]
  found = [
    dataclasses.replace(
      base, **point, **{a.name: v for a, v in zip(listed, chosen, strict=True)}
    )
    for point in drawn
    for chosen in itertools.product(*(axis.values or () for axis in listed))
  ]
  return list(dict.fromkeys(found))  # whole numbers are drawn twice


def _shares(
  points: int, ranges: int, draw: str, seed: int
) -> Float[np.ndarray, "N D"]:
  """Points of the unit cube."""
  if draw not in DRAWS:
    raise InputError(f"draw={draw}: expected one of {', '.join(DRAWS)}")
  generator = np.random.default_rng(seed)
  if draw == "random":
    return generator.random((points, ranges))
  from scipy.stats import qmc  # a third of a second

  # A shift keeps the evenness, and its seed means the same in every scipy.
  shift = generator.random(ranges)
  sequence = qmc.Halton(ranges, scramble=False)
  return (sequence.random(points) + shift) % 1.0


def _scaled(name: str, said: str, setting: Setting) -> Axis:
  expected = "lin:LOW:HIGH or log:LOW:HIGH, with their number behind or without"
  scale, *rest = said.split(":")
  log = scale == "log"
  try:
    low, high = map(float, rest[:2])
    count = int(rest[2]) if len(rest) > 2 else None
  except ValueError:
    raise InputError(f"axis {name} has {said}, expected {expected}") from None
  good = math.isfinite(low) and math.isfinite(high) and low < high
  if len(rest) > 3 or not good or setting.kind not in (int, float):
    raise InputError(
      f"axis {name} has {said}, expected {expected}, LOW below HIGH, of a "
      "setting that is a number"
    )
  if setting.many or (log and low <= 0) or (count is not None and count < 2):
    raise InputError(
      f"axis {name} has {said}, expected a setting of one number, above 0 on a "
      "log scale, and at least 2 values"
    )
  axis = Axis(name, None, low, high, log)
  if count is None:
    return axis
  values = (axis.at(i / (count - 1)) for i in range(count))
  return Axis(name, tuple(dict.fromkeys(values)))


def _whole(name: str, said: str, setting: Setting) -> tuple[int, ...]:
  try:
    found = tuple(range(*map(int, said.split(":"))))
  except (ValueError, TypeError):  # no numbers, a step of 0, or too many
    found = ()
  if not found or setting.kind not in (int, float) or setting.many:
    raise InputError(
      f"axis {name} has {said}, expected FIRST:END or FIRST:END:STEP in whole "
      "numbers, with at least one below END"
    )
  return found


def _value(name: str, setting: Setting, part: str) -> Any:
  """One value of a list; "none" where the default is none."""
  if part == "none" and setting.default is None:
    return None
  items = part.split("/") if setting.many else [part]
  try:
    found = [_plain(setting, item) for item in items]
  except ValueError:
    raise InputError(
      f"axis {name} has {part!r}, expected {setting.expected}"
      f"{', separated by /' if setting.many else ''}"
    ) from None
  return tuple(found) if setting.many else found[0]


def _plain(setting: Setting, item: str) -> Any:
  if setting.kind is bool:
    if item not in ("true", "false"):
      raise ValueError(item)
    return item == "true"
  return setting.kind(item)

"""How cost grows with what one may ask for, and where it bends.

Along each axis the time of a run is fitted by a fixed cost and a cost of each
unit more (least squares of relative errors). Where the two are equal the time
bends: below it the fixed cost rules. A point that is far off the line is told,
with what an update goes through beside the sizes of the caches.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FAR = 1.25  # times the line
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclasses.dataclass(frozen=True)
class Axis:
  """What grows, the contestant that is timed, and how its time is told."""

  title: str
  function: str
  argument: str
  values: tuple[int, ...]
  fixed: str  # what the fixed cost is of
  more: str  # what costs more with each
  arguments: tuple[tuple[str, Any], ...] = ()

  def contestant(self, value: int) -> str:
    """Its name for a worker."""
    given = dict(self.arguments) | {self.argument: value}
    return f"{self.function}:{json.dumps(given)}"


def _powers(base: int, first: int, last: int) -> tuple[int, ...]:
  values = [first]
  while values[-1] * base <= last:
    values.append(values[-1] * base)
  return tuple(values)


# 801 width + 186 parameters.
WIDTHS = (1, 4, 12, 40, 125, 400, 1248)
AXES = {
  "members": Axis(
    "members of a sweep (43 updates each, one order)",
    "a_sweep",
    "members",
    _powers(4, 1, 1024),
    "a sweep: plan, two evaluations, table",
    "a member",
    (("own", False), ("updates", 43)),
  ),
  "batch": Axis(
    "examples of an update",
    "some_updates",
    "batch",
    _powers(2, 1, 8192),
    "an update: its small operations",
    "an example",
  ),
  "width": Axis(
    "units of the first layer, batch 128",
    "some_updates",
    "width",
    _powers(2, 16, 4096),
    "an update: gathering, small layers",
    "a unit",
  ),
  "examples": Axis(
    "training examples of an epoch, batch 128",
    "some_updates",
    "examples",
    (1000, 2000, 5000, 10_000, 20_000, 40_000, 60_000),
    "an epoch: a call of the program",
    "an example",
  ),
  "parameters": Axis(
    "parameters, checked by rank-one differences",
    "gradient_check",
    "width",
    WIDTHS,
    "a check: its programs",
    "a parameter",
    (("network", True),),
  ),
  "parameters of any function": Axis(
    "parameters, differences of any function",
    "gradient_check",
    "width",
    WIDTHS[:5],
    "a gradient: its program",
    "a parameter",
    (("network", False),),
  ),
}


def caches() -> dict[str, int]:
  """Bytes of the data caches of a core, by level; {} where Linux is not."""
  units, found = {"K": 2**10, "M": 2**20}, {}
  for path in sorted(CACHES.glob("index*")):
    if (path / "type").read_text().strip() != "Instruction":
      size = (path / "size").read_text().strip()
      level = f"L{(path / 'level').read_text().strip()}"
      found[level] = int(size[:-1]) * units[size[-1]]
  return found


def size(axis: str, value: int) -> int:
  """What stands on the axis: of a check the parameters, not the width."""
  return 801 * value + 186 if axis.startswith("parameters") else value


def line(x: Sequence[float], t: Sequence[float]) -> tuple[float, float]:
  """The fixed cost and that of a unit more, neither below 0."""
  xs, ts = np.asarray(x, float), np.asarray(t, float)
  design = np.stack([1 / ts, xs / ts], axis=1)
  (fixed, more), *_ = np.linalg.lstsq(design, np.ones(len(xs)), rcond=None)
  if fixed < 0:
    return 0.0, float(np.sum(xs / ts) / np.sum((xs / ts) ** 2))
  if more < 0:
    return float(np.sum(1 / ts) / np.sum(1 / ts**2)), 0.0
  return float(fixed), float(more)


def _unit(seconds: float) -> str:
  for name, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
    if seconds >= scale:
      return f"{seconds / scale:.3g} {name}"
  return f"{seconds / 1e-9:.3g} ns"


def bends(
  name: str, rows: Sequence[dict[str, Any]], sizes: dict[str, int]
) -> str:
  """What the times along an axis come to, and the reason of each bend."""
  axis = AXES[name]
  x = [row["size"] for row in rows]
  t = [row["seconds"] for row in rows]
  fixed, more = line(x, t)
  text = f"{_unit(fixed)} for {axis.fixed}, and {_unit(more)} {axis.more}"
  if fixed > 0 and more > 0:
    text += f"; the two are equal at {fixed / more:,.3g}"
    inside = x[0] < fixed / more < x[-1]
    text += ", where the curve bends" if inside else ", outside of what was run"
  for row in rows:
    off = row["seconds"] / (fixed + more * row["size"])
    if not 1 / FAR < off < FAR:
      text += f"; at {row['size']:,} {off:.2f} times that"
      beyond = [at for at, most in sizes.items() if row["working_set"] > most]
      if off > 1 and beyond:
        touched = row["working_set"] / 2**20
        text += f" ({touched:.3g} MiB an update, beyond {beyond[-1]})"
  return text

"""What a gradient check found: data, a table, a dictionary."""

import dataclasses
import enum
import math
from typing import Any

from mnist_jax.gradcheck._diagnosis import Cause

VERY_SATISFYING = 1e-7  # section 12.3: below this, all is very well
RECHECK = 1e-2  # section 12.3: above this, look at the backward again


class Verdict(enum.StrEnum):
  """What a check ends in. The first that applies, in this order."""

  NOT_FINITE = "not finite"
  NONDETERMINISTIC = "nondeterministic"
  WRONG = "wrong"
  KINK = "kink"
  ROUNDING_LIMITED = "rounding-limited"
  CORRECT = "correct"


def band(distance: float) -> str:
  """The chapter's reading of a distance (section 12.3)."""
  if distance < VERY_SATISFYING:
    return f"very satisfying (< {VERY_SATISFYING:g})"
  if distance > RECHECK:
    return f"re-check (> {RECHECK:g})"
  if math.isnan(distance):
    return "none"
  return f"between {VERY_SATISFYING:g} and {RECHECK:g}"


@dataclasses.dataclass(frozen=True)
class Entry:
  """One coordinate.

  Attributes:
    path, index: the leaf, and where in it.
    given, numeric: the two derivatives.
    bar: how far apart they may be for rounding and truncation.
    forward, backward: the one-sided derivatives, of a kink; else None.
    state: "agrees", "wrong", "kink" or "not finite".
  """

  path: str
  index: tuple[int, ...]
  given: float
  numeric: float
  bar: float
  state: str
  forward: float | None = None
  backward: float | None = None

  @property
  def error(self) -> float:
    return self.given - self.numeric

  @property
  def relative(self) -> float:
    """|given - numeric| / (|given| + |numeric|), 0 for 0 / 0."""
    size = abs(self.given) + abs(self.numeric)
    return abs(self.error) / size if size else 0.0


@dataclasses.dataclass(frozen=True)
class TensorReport:
  """One leaf.

  Attributes:
    checked, size: coordinates looked at, and all.
    distance: ||given - numeric|| / (||given|| + ||numeric||) over them.
    resolution: the distance that rounding and truncation alone may cause.
    norm_given, norm_numeric: of the coordinates looked at.
    wrong, kinks: coordinates in that state.
    crossings: coordinates whose steps crossed a kink, and were resolved.
    verdict: of this leaf alone.
    causes: what explains it; empty if right, or if nothing simple does.
  """

  path: str
  shape: tuple[int, ...]
  checked: int
  size: int
  distance: float
  resolution: float
  norm_given: float
  norm_numeric: float
  wrong: int
  kinks: int
  crossings: int
  verdict: Verdict
  causes: tuple[Cause, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
  """The outcome of one check.

  Attributes:
    verdict, reason: what came out and why, in a sentence.
    distance: the chapter's diff over all coordinates looked at, with the best
      numeric estimate of each.
    resolution: the distance rounding and truncation alone may cause.
    by_step: (h, diff) with the plain differences of each step.
    method: "two_sided" or "one_sided".
    loss: at params.
    noise: standard deviation of the loss's rounding noise.
    precision: in which the loss was computed, in effect.
    tensors: one per leaf.
    worst: entries, the furthest outside their bars first.
    kinks: entries at a kink (the first few).
    coverage: what was looked at and what was not, in a sentence.
    checked, total: coordinates.
    directions: random directions evaluated.
  """

  verdict: Verdict
  reason: str
  distance: float = math.nan
  resolution: float = math.nan
  by_step: tuple[tuple[float, float], ...] = ()
  method: str = "two_sided"
  loss: float = math.nan
  noise: float = math.nan
  precision: str = "float64"
  tensors: tuple[TensorReport, ...] = ()
  worst: tuple[Entry, ...] = ()
  kinks: tuple[Entry, ...] = ()
  coverage: str = "nothing was compared"
  checked: int = 0
  total: int = 0
  directions: int = 0

  @property
  def wrong_tensors(self) -> tuple[str, ...]:
    """Paths of the tensors judged wrong."""
    return tuple(t.path for t in self.tensors if t.verdict is Verdict.WRONG)

  def to_dict(self) -> dict[str, Any]:
    """All of it in lists, strings and numbers that JSON can hold.

    A number that is not finite becomes a string ("nan", "inf").
    """
    result = _plain(dataclasses.asdict(self))
    result["band"] = band(self.distance)
    return result

  def __str__(self) -> str:
    return "\n".join(
      [
        f"gradient check: {self.verdict.upper()} - {self.reason}",
        *_summary(self),
        *_tensor_table(self),
        *_causes(self),
        *_entry_table("worst entries", self.worst),
        *_entry_table("entries at a kink", self.kinks),
      ]
    )


def _plain(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


def _summary(report: Report) -> list[str]:
  lines = [
    f"  distance    {report.distance:.3e}  {band(report.distance)}; "
    f"rounding alone {report.resolution:.1e}",
    f"  loss        {report.loss:.9g}  noise {report.noise:.1e}, "
    f"{report.precision}",
    f"  coverage    {report.coverage}",
  ]
  if report.by_step:
    steps = "  ".join(f"{h:g}: {d:.2e}" for h, d in report.by_step)
    lines.insert(1, f"  by step h   {steps}  ({report.method})")
  return lines


def _table(rows: list[tuple[str, ...]], right_from: int = 2) -> list[str]:
  """Columns padded to their widest cell, numbers to the right."""
  if len(rows) < 2:
    return []
  widths = [
    max(len(cell) for cell in column) for column in zip(*rows, strict=True)
  ]
  return [
    "  "
    + "  ".join(
      cell.rjust(width) if i >= right_from else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]


def _tensor_table(report: Report) -> list[str]:
  rows: list[tuple[str, ...]] = [
    (
      "tensor",
      "verdict",
      "shape",
      "checked",
      "distance",
      "rounding",
      "|given|",
      "|numeric|",
      "wrong",
      "kinks",
      "crossed",
    )
  ]
  rows += [
    (
      t.path or "(the array)",
      t.verdict.value,
      "x".join(map(str, t.shape)) or "scalar",
      f"{t.checked}/{t.size}",
      f"{t.distance:.2e}",
      f"{t.resolution:.1e}",
      f"{t.norm_given:.3e}",
      f"{t.norm_numeric:.3e}",
      str(t.wrong),
      str(t.kinks),
      str(t.crossings),
    )
    for t in report.tensors
  ]
  return _table(rows)


def _causes(report: Report) -> list[str]:
  lines = []
  for tensor in report.tensors:
    if tensor.verdict is Verdict.WRONG:
      texts = [cause.text for cause in tensor.causes]
      explained = "; or ".join(texts) or "no simple cause found"
      lines.append(f"  cause in {tensor.path or 'the array'}: {explained}")
  return lines


def _entry_table(title: str, entries: tuple[Entry, ...]) -> list[str]:
  rows: list[tuple[str, ...]] = [
    (title, "state", "given", "numeric", "error", "bar", "relative")
  ]
  for e in entries:
    index = "[" + ",".join(map(str, e.index)) + "]" if e.index else ""
    numeric = f"{e.numeric:.9e}"
    if e.forward is not None and e.backward is not None:
      numeric = f"{e.backward:.6e} | {e.forward:.6e}"
    rows.append(
      (
        e.path + index,
        e.state,
        f"{e.given:.9e}",
        numeric,
        f"{e.error:.1e}",
        f"{e.bar:.1e}",
        f"{e.relative:.1e}",
      )
    )
  return _table(rows)

"""What a gradient check found: the verdict and its data, as a table and a dict.

Shapes: P all parameters, N of them covered.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mnist_jax.gradcheck import _diagnosis as diagnosis
from mnist_jax.gradcheck._comparison import (
  JUMP,
  KINK,
  NOT_FINITE,
  RECHECK,
  STATES,
  WRONG,
  Comparison,
)
from mnist_jax.gradcheck._diagnosis import Cause
from mnist_jax.gradcheck._layout import norm
from mnist_jax.gradcheck._numeric.error_bars import SIGMAS

VERY_SATISFYING = 1e-7  # section 12.3: below this, all is very well
_KINKS_LISTED = 8
_FLOAT64 = 1e-15  # above its spacing, below all others'


class Verdict(enum.StrEnum):
  """What a check ends in. The first that applies, in this order."""

  NOT_FINITE = "not finite"
  NONDETERMINISTIC = "nondeterministic"
  WRONG = "wrong"
  KINK = "kink"
  ROUNDING_LIMITED = "rounding-limited"
  CORRECT = "correct"


def band(distance: float) -> str:
  """The chapter's reading of a distance in [0, 1]; "none" of NaN (12.3)."""
  if distance < VERY_SATISFYING:
    return f"very satisfying (< {VERY_SATISFYING:g})"
  if distance > RECHECK:
    return f"re-check (> {RECHECK:g})"
  if math.isnan(distance):
    return "none"
  return f"between {VERY_SATISFYING:g} and {RECHECK:g}"


@dataclasses.dataclass(frozen=True)
class Entry:
  """One coordinate."""

  path: str
  index: tuple[int, ...]
  given: float
  numeric: float
  bar: float  # how far apart they may be for rounding and truncation
  state: str  # "agrees", "wrong", "kink", "jump" or "not finite"
  forward: float | None = None  # the one-sided derivatives at a kink
  backward: float | None = None

  @property
  def error(self) -> float:
    """The given less the numeric derivative."""
    return self.given - self.numeric

  @property
  def relative(self) -> float:
    """|given - numeric| / (|given| + |numeric|), 0 for 0 / 0."""
    size = abs(self.given) + abs(self.numeric)
    return abs(self.error) / size if size else 0.0


@dataclasses.dataclass(frozen=True)
class TensorReport:
  """One leaf; distances and norms are over the coordinates looked at."""

  path: str
  shape: tuple[int, ...]
  checked: int  # coordinates looked at
  size: int  # coordinates that are there
  distance: float  # the chapter's, in [0, 1]
  resolution: float  # what rounding and truncation alone may make of it
  norm_given: float  # Euclidean
  norm_numeric: float
  wrong: int  # coordinates in that state
  kinks: int  # and jumps
  unresolved: int  # coordinates too small beside their bars to be told from 0
  crossings: int  # coordinates whose steps crossed a kink, and were resolved
  verdict: Verdict  # on this leaf alone
  causes: tuple[Cause, ...] = ()  # empty if right, or if nothing simple is one


@dataclasses.dataclass(frozen=True)
class Report:
  """The outcome of one check; distances are over all coordinates looked at."""

  verdict: Verdict
  reason: str  # in a sentence
  # The chapter's diff, in [0, 1], with the best numeric estimate of each entry,
  # and what rounding and truncation alone may make of it.
  distance: float = math.nan
  resolution: float = math.nan
  # Pairs (h, diff) with the plain differences of each step, and their formula.
  by_step: tuple[tuple[float, float], ...] = ()
  method: str = "two_sided"
  loss: float = math.nan  # at params
  noise: float = math.nan  # a standard deviation, of the loss's rounding
  precision: str = "float64"  # in which the loss was computed, in effect
  tensors: tuple[TensorReport, ...] = ()
  worst: tuple[Entry, ...] = ()  # furthest outside their bars, in that order
  kinks: tuple[Entry, ...] = ()  # the first few
  coverage: str = "nothing was compared"  # what was looked at, in a sentence
  checked: int = 0  # coordinates looked at
  total: int = 0  # coordinates that are there
  directions: int = 0  # random ones that were evaluated

  @property
  def wrong_tensors(self) -> tuple[str, ...]:
    """Paths of the tensors judged wrong."""
    return tuple(t.path for t in self.tensors if t.verdict is Verdict.WRONG)

  def to_dict(self) -> dict[str, Any]:
    """All of it in lists, strings and numbers that JSON can hold.

    A number that is not finite becomes a string ("nan", "inf").
    """
    return plain(dataclasses.asdict(self) | {"band": band(self.distance)})

  def __str__(self) -> str:
    return "\n".join(
      [
        f"gradient check: {self.verdict.upper()} - {self.reason}",
        *_summary(self),
        *_tensor_table(self),
        *_causes(self),
        *_entry_table("worst entries, by error / bar", self.worst),
        *_entry_table("entries at a kink", self.kinks),
      ]
    )


def plain(value: Any) -> Any:
  """The value as strict JSON can hold it."""
  if isinstance(value, dict):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


def _summary(report: Report) -> list[str]:
  if not report.tensors:
    return [f"  coverage    {report.coverage}"]
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


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
  """Columns under their names, padded, all but the first two to the right."""
  if not rows:
    return []
  columns: list[list[str]] = []
  for name in rows[0]:
    cells = [name, *(row[name] for row in rows)]
    align = str.ljust if len(columns) < 2 else str.rjust
    width = max(map(len, cells))
    columns.append([align(cell, width) for cell in cells])
  return ["  " + "  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _tensor_table(report: Report) -> list[str]:
  return _table(
    [
      {
        "tensor": t.path or "(the array)",
        "verdict": t.verdict.value,
        "shape": "x".join(map(str, t.shape)) or "scalar",
        "checked": f"{t.checked}/{t.size}",
        "distance": f"{t.distance:.2e}",
        "rounding": f"{t.resolution:.1e}",
        "|given|": f"{t.norm_given:.3e}",
        "|numeric|": f"{t.norm_numeric:.3e}",
        "wrong": str(t.wrong),
        "kinks": str(t.kinks),
        "crossed": str(t.crossings),
        "unresolved": str(t.unresolved),
      }
      for t in report.tensors
    ]
  )


def _causes(report: Report) -> list[str]:
  lines = []
  for tensor in report.tensors:
    if tensor.verdict is Verdict.WRONG:
      texts = [cause.text for cause in tensor.causes]
      explained = "; or ".join(texts) or "no simple cause found"
      lines.append(f"  cause in {tensor.path or 'the array'}: {explained}")
  return lines


def _entry_table(title: str, entries: tuple[Entry, ...]) -> list[str]:
  rows = []
  for e in entries:
    index = "[" + ",".join(map(str, e.index)) + "]" if e.index else ""
    numeric = f"{e.numeric:.9e}"
    if e.forward is not None and e.backward is not None:
      numeric = f"{e.backward:.6e} | {e.forward:.6e}"
    rows.append(
      {
        title: e.path + index,
        "state": e.state,
        "given": f"{e.given:.9e}",
        "numeric": numeric,
        "error": f"{e.error:.1e}",
        "bar": f"{e.bar:.1e}",
        "relative": f"{e.relative:.1e}",
      }
    )
  return _table(rows)


def report_on(
  comparison: Comparison, by_step: tuple[tuple[float, float], ...]
) -> Report:
  """Verdicts, causes and tables of a comparison that has been refined."""
  problem, coverage = comparison.problem, comparison.coverage
  leaves = _tensor_reports(comparison)
  verdict = _verdict(comparison, leaves)
  urgency = comparison.miss + np.where(comparison.state == WRONG, 1e12, 0.0)
  worst = np.argsort(-urgency, kind="stable")[: problem.request.worst]
  apart = np.isin(comparison.state, (KINK, JUMP))
  kinks = np.flatnonzero(apart)[:_KINKS_LISTED]
  return Report(
    verdict=verdict,
    reason=_reason(comparison, verdict, leaves),
    distance=comparison.distance(),
    resolution=comparison.resolution(),
    by_step=by_step,
    method=problem.request.method,
    loss=problem.loss,
    noise=float(problem.noise.max()),
    precision=str(problem.precision),
    tensors=leaves,
    worst=_entries(comparison, worst),
    kinks=_entries(comparison, kinks),
    coverage=str(coverage),
    checked=coverage.positions.size,
    total=coverage.total,
    directions=coverage.directions,
  )


def _verdict(comparison: Comparison, leaves: Sequence[TensorReport]) -> Verdict:
  """The first in the order of `Verdict` that a leaf or all of them have."""
  found = {t.verdict for t in leaves}
  off, bar = comparison.common_factor()
  if comparison.coverage.wrong_overall or abs(off) > bar:
    found.add(Verdict.WRONG)
  if found == {Verdict.CORRECT} and comparison.unresolved():
    found.add(Verdict.ROUNDING_LIMITED)
  return next(verdict for verdict in Verdict if verdict in found)


def _tensor_reports(comparison: Comparison) -> tuple[TensorReport, ...]:
  problem, layout = comparison.problem, comparison.layout
  limited, live = comparison.limited_leaves(), comparison.live_leaves
  candidates = diagnosis.matching_candidates(
    comparison.by_tensor(problem.given),
    {n: comparison.by_tensor(v) for n, v in problem.candidates.items()},
    comparison.by_tensor(problem.tolerance),
  )
  reports = []
  for leaf, part in enumerate(comparison.parts):
    counts = np.bincount(comparison.state[part], minlength=len(STATES))
    off, bar = comparison.common_factor(part)
    pooled = leaf in live and abs(off) > bar
    felt = leaf in comparison.coverage.wrong_leaves
    applies = {
      Verdict.NOT_FINITE: counts[NOT_FINITE],
      Verdict.WRONG: counts[WRONG] or felt or pooled,
      Verdict.KINK: counts[KINK] or counts[JUMP],
      Verdict.ROUNDING_LIMITED: leaf in limited,
      Verdict.CORRECT: True,
    }
    verdict = next(verdict for verdict, true in applies.items() if true)
    causes = []
    if verdict is Verdict.WRONG:
      simple = diagnosis.diagnose(_evidence(comparison, leaf))
      if pooled and off < 1 and not counts[WRONG]:  # all fits in such bars
        factor = 1 / (1 - off)
        text = f"given = {factor:.4g} x numeric (+- {bar:.1g}), all together"
        simple = Cause("factor", text, factor)
      causes = candidates[leaf] + ([simple] if simple else [])
    given, numeric = comparison.given[part], comparison.numeric.value[part]
    reports.append(
      TensorReport(
        path=layout.paths[leaf],
        shape=layout.shapes[leaf],
        checked=given.size,
        size=layout.sizes[leaf],
        distance=comparison.distance(part),
        resolution=comparison.resolution(part),
        norm_given=norm(given),
        norm_numeric=norm(numeric),
        wrong=int(counts[WRONG]),
        kinks=int(counts[KINK] + counts[JUMP]),
        unresolved=comparison.hidden(part),
        crossings=int(np.sum(comparison.crossed[part])),
        verdict=verdict,
        causes=tuple(causes),
      )
    )
  return tuple(reports)


def _evidence(comparison: Comparison, leaf: int) -> diagnosis.Evidence:
  problem, layout = comparison.problem, comparison.layout
  part, size = comparison.parts[leaf], layout.sizes[leaf]
  positions = comparison.coverage.positions[part]
  whole = positions.size == size
  others = {
    layout.paths[other]: comparison.numeric.value[there]
    for other, there in enumerate(comparison.parts)
    if whole
    and other != leaf
    and layout.sizes[other] == size == there.stop - there.start
  }
  penalty = None if problem.penalty is None else problem.penalty[positions]
  return diagnosis.Evidence(
    shape=layout.shapes[leaf],
    given=comparison.given[part],
    numeric=comparison.numeric.value[part],
    bar=comparison.bar[part],
    param=problem.losses.theta[positions],
    penalty=None if penalty is None or not penalty.any() else penalty,
    whole=whole,
    spoiled=bool(comparison.crossed[part].any()),
    batch_size=problem.request.batch_size,
    others=others,
  )


def _entries(
  comparison: Comparison, chosen: Int[np.ndarray, " n"]
) -> tuple[Entry, ...]:
  layout, positions = comparison.layout, comparison.coverage.positions
  bar = comparison.bar
  entries = []
  for i in chosen:
    leaf, index = layout.locate(int(positions[i]))
    kink = comparison.state[i] in (KINK, JUMP)
    backward, forward = (float(side) for side in comparison.sides[:, i])
    entries.append(
      Entry(
        path=layout.paths[leaf],
        index=index,
        given=float(comparison.given[i]),
        numeric=float(comparison.numeric.value[i]),
        bar=float(bar[i]),
        state=STATES[comparison.state[i]],
        forward=forward if kink else None,
        backward=backward if kink else None,
      )
    )
  return tuple(entries)


def _reason(
  comparison: Comparison, verdict: Verdict, leaves: Sequence[TensorReport]
) -> str:
  named = ", ".join(
    t.path or "the array" for t in leaves if t.verdict is verdict
  )
  if verdict is Verdict.WRONG and not named:
    if comparison.coverage.wrong_overall:
      return "random directions disagree, no tensor alone does"
    return "all entries together disagree, no tensor alone does"
  if verdict is Verdict.ROUNDING_LIMITED:
    return f"{_why_limited(comparison)} in {named or 'theta as a whole'}"
  kinks = sum(t.kinks for t in leaves)
  jumps = int(np.sum(comparison.state == JUMP))
  none = f"no step gives finite differences in {named}"
  hidden = sum(t.unresolved for t in leaves)
  but = f"; {hidden} entries are too small to be told from 0" if hidden else ""
  coarse = max(leaves, key=lambda t: t.resolution)
  part = 2 * SIGMAS * coarse.resolution  # of both norms, as the distance
  if part > RECHECK and coarse.verdict is verdict:
    where = coarse.path or "the array"
    but += f"; in {where} a mistake of less than {part:.0%} may not show"
  return {
    Verdict.NOT_FINITE: none,
    Verdict.WRONG: "given and numeric gradient disagree beyond the error in "
    f"{named}",
    Verdict.KINK: f"the loss jumps at the point in {jumps} entries of {named}"
    if jumps
    else "every step crosses a point without a derivative in "
    f"{kinks} entries of {named}",
    Verdict.CORRECT: f"all that was looked at agrees to within its error{but}",
  }[verdict]


def _why_limited(comparison: Comparison) -> str:
  """What rounding hides, why, and what to do."""
  problem = comparison.problem
  hides = "rounding alone may cause what was to be found"
  if problem.request.steps is not None:
    return f"the step is too small for the precision: {hides}"
  if problem.epsilon > _FLOAT64:
    return (
      f"the loss is computed in {problem.precision}: {hides}; check the same "
      f"code computed in float{64 if problem.epsilon < 1e-3 else 32}"
    )
  return (
    f"a loss of {problem.loss:.3g} has a noise of {problem.noise.max():.1e}: "
    f"{hides}; leave out of it what cancels or is constant"
  )

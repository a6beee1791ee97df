"""From a finished comparison to verdicts, causes and a report."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mnist_jax.gradcheck import _diagnosis as diagnosis
from mnist_jax.gradcheck._comparison import (
  KINK,
  NOT_FINITE,
  STATES,
  WRONG,
  Comparison,
  distance_of,
  resolution,
  unresolved,
  unresolved_leaves,
)
from mnist_jax.gradcheck._report import Entry, Report, TensorReport, Verdict

_KINKS_LISTED = 8


def _leaf_verdict(comparison: Comparison, leaf: int, limited: bool) -> Verdict:
  state = comparison.state[comparison.parts[leaf]]
  if np.any(state == NOT_FINITE):
    return Verdict.NOT_FINITE
  if np.any(state == WRONG) or leaf in comparison.coverage.wrong_leaves:
    return Verdict.WRONG
  if np.any(state == KINK):
    return Verdict.KINK
  return Verdict.ROUNDING_LIMITED if limited else Verdict.CORRECT


def _entries(
  comparison: Comparison, chosen: Int[np.ndarray, " n"]
) -> tuple[Entry, ...]:
  entries = []
  for i in chosen:
    leaf, index = comparison.layout.locate(
      int(comparison.coverage.positions[i])
    )
    kink = comparison.state[i] == KINK
    backward, forward = (float(s) for s in comparison.sides[:, i])
    entries.append(
      Entry(
        comparison.layout.paths[leaf],
        index,
        float(comparison.given[i]),
        float(comparison.value[i]),
        float(comparison.bar[i] + comparison.tolerance[i]),
        STATES[comparison.state[i]],
        forward if kink else None,
        backward if kink else None,
      )
    )
  return tuple(entries)


def _evidence(
  comparison: Comparison,
  leaf: int,
  theta: np.ndarray,
  penalty: np.ndarray | None,
  batch_size: int | None,
) -> diagnosis.Evidence:
  part = comparison.parts[leaf]
  shape = comparison.layout.shapes[leaf]
  positions = comparison.coverage.positions[part]
  size = comparison.layout.sizes[leaf]
  whole = positions.size == size
  others = {
    path: comparison.value[other]
    for path, other, count in zip(
      comparison.layout.paths,
      comparison.parts,
      comparison.layout.sizes,
      strict=True,
    )
    if whole
    and count == size
    and other != part
    and other.stop - other.start == count
  }
  return diagnosis.Evidence(
    shape,
    comparison.given[part],
    comparison.value[part],
    comparison.bar[part] + comparison.tolerance[part],
    theta[positions],
    None if penalty is None else penalty[positions],
    whole,
    bool(comparison.crossed[part].any()),
    batch_size,
    others,
  )


def _reason(
  comparison: Comparison, verdict: Verdict, leaves: Sequence[TensorReport]
) -> str:
  named = ", ".join(
    t.path or "the array" for t in leaves if t.verdict is verdict
  )
  if verdict is Verdict.NOT_FINITE:
    return f"no step gives finite differences in {named}"
  if verdict is Verdict.WRONG:
    if not named:
      return "random directions disagree, no tensor alone does"
    return f"given and numeric gradient disagree beyond the error in {named}"
  if verdict is Verdict.KINK:
    return (
      "every step crosses a point without a derivative in "
      f"{sum(t.kinks for t in leaves)} entries of {named}"
    )
  if verdict is Verdict.ROUNDING_LIMITED:
    return (
      "the step is too small for the precision: rounding alone may cause what "
      f"was to be found in {named or 'theta as a whole'}"
    )
  return "all that was looked at agrees to within its error"


def report_on(
  comparison: Comparison,
  *,
  theta: Float[np.ndarray, " P"],
  penalty: Float[np.ndarray, " P"] | None,
  candidates: dict[str, Float[np.ndarray, " P"]],
  batch_size: int | None,
  by_step: tuple[tuple[float, float], ...],
  method: str,
  precision: str,
  worst: int,
) -> Report:
  """Verdicts, causes and tables of a finished comparison."""
  leaves = _tensor_reports(comparison, theta, penalty, candidates, batch_size)
  verdict = next(
    v
    for v in Verdict
    if v is Verdict.CORRECT or any(t.verdict is v for t in leaves)
  )
  if verdict not in (Verdict.NOT_FINITE, Verdict.WRONG):
    if comparison.coverage.wrong_overall:
      verdict = Verdict.WRONG
    elif verdict is Verdict.CORRECT and unresolved(comparison):
      verdict = Verdict.ROUNDING_LIMITED
  bar = comparison.bar + comparison.tolerance
  with np.errstate(invalid="ignore"):
    miss = np.abs(comparison.given - comparison.value) / bar
  miss = np.where(np.isfinite(miss), miss, np.inf)
  miss += np.where(comparison.state == WRONG, 1e12, 0.0)
  kinks = np.flatnonzero(comparison.state == KINK)
  return Report(
    verdict,
    _reason(comparison, verdict, leaves),
    comparison.distance_to(comparison.value),
    resolution(comparison, slice(None)),
    by_step,
    method,
    comparison.loss,
    comparison.noise,
    precision,
    leaves,
    _entries(comparison, np.argsort(-miss, kind="stable")[:worst]),
    _entries(comparison, kinks[:_KINKS_LISTED]),
    comparison.coverage.text,
    int(comparison.coverage.positions.size),
    comparison.coverage.total,
    comparison.coverage.directions,
  )


def _tensor_reports(
  comparison: Comparison,
  theta: np.ndarray,
  penalty: np.ndarray | None,
  candidates: dict[str, np.ndarray],
  batch_size: int | None,
) -> tuple[TensorReport, ...]:
  limited = set(unresolved_leaves(comparison))
  layout = comparison.layout
  verdicts = [
    _leaf_verdict(comparison, leaf, leaf in limited)
    for leaf in range(len(layout.paths))
  ]
  causes = _all_causes(
    comparison, verdicts, theta, penalty, candidates, batch_size
  )
  reports = []
  for leaf, part in enumerate(comparison.parts):
    given, value = comparison.given[part], comparison.value[part]
    state = comparison.state[part]
    reports.append(
      TensorReport(
        layout.paths[leaf],
        layout.shapes[leaf],
        given.size,
        layout.sizes[leaf],
        distance_of(given, value),
        resolution(comparison, part),
        float(np.linalg.norm(given)),
        float(np.linalg.norm(value)),
        int(np.sum(state == WRONG)),
        int(np.sum(state == KINK)),
        int(np.sum(comparison.crossed[part])),
        verdicts[leaf],
        causes[leaf],
      )
    )
  return tuple(reports)


def _all_causes(
  comparison: Comparison,
  verdicts: Sequence[Verdict],
  theta: np.ndarray,
  penalty: np.ndarray | None,
  candidates: dict[str, np.ndarray],
  batch_size: int | None,
) -> list[tuple[diagnosis.Cause, ...]]:
  """Per leaf: matching candidates first, then the simplest explanation."""
  paths = comparison.layout.paths
  parts = dict(zip(paths, comparison.parts, strict=True))
  positions = comparison.coverage.positions
  wrong = frozenset(
    p for p, v in zip(paths, verdicts, strict=True) if v is Verdict.WRONG
  )
  given = {path: comparison.given[part] for path, part in parts.items()}
  slack = {}
  for path, part in parts.items():
    size = np.abs(given[path]).max()
    slack[path] = (
      float(comparison.tolerance[part].max() / size) if size else 0.0
    )
  named = diagnosis.matching_candidates(
    given,
    {
      name: {path: vector[positions[part]] for path, part in parts.items()}
      for name, vector in candidates.items()
    },
    wrong,
    slack,
  )
  causes: list[tuple[diagnosis.Cause, ...]] = []
  for leaf, path in enumerate(paths):
    if path not in wrong:
      causes.append(())
      continue
    simple = diagnosis.diagnose(
      _evidence(comparison, leaf, theta, penalty, batch_size)
    )
    causes.append((*named[path], *([simple] if simple else [])))
  return causes

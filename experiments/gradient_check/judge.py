"""From what `measure` measured to G1, G2, G3 and G5, judged.

Targets, margins and ranges of fits are the constants here, fixed before the
run; which parts are primary is said in the docstring of `study`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mnist_jax import stats
from mnist_jax.gradcheck import VERY_SATISFYING

STEPS = 10.0 ** np.arange(0, -12.1, -0.5)
# Between too large for Taylor's second term and too small for rounding.
FIT_RANGES = {
  ("float64", "one_sided"): (1e-5, 1e-1),
  ("float64", "two_sided"): (1e-3, 1e-1),
  ("float32", "one_sided"): (3e-2, 4e-1),
  ("float32", "two_sided"): (9e-2, 4e-1),
}
SLOPE_MARGIN = 0.1
CAUGHT = 0.85  # the fraction that must be exceeded; 30 of 30 show 0.88
RECHECK = 1e-2  # the chapter's bar above which a check is made again
Errors = Mapping[tuple[str, str], Float[np.ndarray, "S K"]]
Moments = Sequence[Sequence[dict[str, Any]]]  # [S][K]
Curves = Mapping[str, Float[np.ndarray, "S K"]]


@dataclasses.dataclass(frozen=True)
class Measurements:
  """All that was measured."""

  errors: Errors  # the distances at STEPS
  depths: tuple[int, ...]  # numbers of layers
  by_depth: Curves  # by what was compared and the activation
  epochs: tuple[int, ...]  # after which the gradient was checked
  training: Moments  # of `measure.distances_in_training`
  facts: Mapping[str, bool]  # whether a part of G5, in words, is so
  planted: Mapping[str, float]  # the distance of each planted mistake


def slopes(
  errors: Errors,
) -> dict[tuple[str, str], tuple[stats.Effect, tuple[float, float]]]:
  """The fitted exponents with the ranges of the fits."""
  found = {}
  for key, (low, high) in FIT_RANGES.items():
    inside = (low <= STEPS) & (high >= STEPS)
    x, y = STEPS[inside][::-1], errors[key][:, inside][:, ::-1]
    found[key] = stats.loglog_slope(x, y, seed=0), (low, high)
  return found


def training_curves(training: Moments) -> Curves:
  """Each number of the moments, "plain all" for moment["plain"]["all"].

  "caught" is NaN between the first and the last moment.
  """
  seeds = [pd.json_normalize(list(seed), sep=" ") for seed in training]
  return {
    name: np.stack([seed[name].astype(float) for seed in seeds])
    for name in seeds[0].columns.drop("verdict", errors="ignore")
  }


def _g1(errors: Errors) -> stats.Judged:
  fitted = slopes(errors)
  parts = []
  for dtype in ("float64", "float32"):
    both = [errors[dtype, method] for method in ("one_sided", "two_sided")]
    y = np.nan_to_num(both, nan=np.inf)
    least = np.log10(y.min(axis=2))
    valley = np.log10(STEPS[y.argmin(axis=2)])
    places = [f"10^{mean:.2f}" for mean in valley.mean(axis=1)]
    parts += [
      stats.Question(
        f"best two-sided better, {dtype}",
        "log10 of the smallest error over h, two-sided less one-sided",
        stats.paired_difference(least[1], least[0], seed=0),
        "less",
      ),
      stats.Question(
        f"valley, {dtype}",
        "log10 h of the smallest error, two-sided less one-sided",
        stats.paired_difference(valley[1], valley[0], seed=0),
        role="diagnostic",
        note=f"valleys at {' and '.join(places)} (one-, two-sided)",
      ),
    ]
  parts += [
    stats.Question(
      f"{name} slope",
      f"error of the {name} difference ~ h^{order}, float64",
      fitted["float64", name.replace("-", "_")][0],
      "same",
      order,
      SLOPE_MARGIN,
      role="secondary",
    )
    for name, order in (("one-sided", 1.0), ("two-sided", 2.0))
  ]

  def sentence(found: stats.Judged) -> str:
    double, single = (
      10 ** -found.found(f"best two-sided better, float{bits}").estimate
      for bits in (64, 32)
    )
    step = 10 ** found.found("valley, float64").estimate
    orders = [
      stats.amount(found.found(f"{side}-sided slope"), digits=3)
      for side in ("one", "two")
    ]
    return (
      f"Each at its best step, the one-sided difference errs {double:.3g} "
      f"times as much as the two-sided in float64, whose step is then "
      f"{step:.3g} times as large, and {single:.3g} times in float32; before "
      f"rounding sets in they grow like h to the power {orders[0]} and "
      f"{orders[1]} (n = {found.n})."
    )

  return stats.judge(stats.Claim("G1", parts, sentence))


def _below(
  name: str, text: str, values: np.ndarray, role: Any = "primary"
) -> stats.Question:
  effect = stats.mean_interval(np.log10(values), seed=0)
  target = float(np.log10(VERY_SATISFYING))
  return stats.Question(name, text, effect, "less", target, role=role)


_TEXT = "log10 distance at h = 1e-5, float64"


def _g2(curves: Curves, planted: Mapping[str, float]) -> stats.Judged:
  whole = curves["plain all"]
  tensors = [curves[name] for name in curves if name.startswith("plain [")]
  worst = np.max(tensors, axis=0)
  low = {
    bar: stats.proportion(sum(d < bar for d in planted.values()), len(planted))
    for bar in (VERY_SATISFYING, RECHECK)
  }
  parts = [
    _below("all, at the start", f"{_TEXT}, all parameters", whole[:, 0]),
    _below(
      "all, in training",
      f"{_TEXT}, all parameters, worst moment",
      whole.max(axis=1),
    ),
    _below(
      "worst tensor, in training",
      f"{_TEXT}, worst tensor and moment",
      worst.max(axis=1),
      "secondary",
    ),
    stats.Question(
      "no mistake below the bar",
      f"share of planted mistakes with a distance below {VERY_SATISFYING:g}",
      low[VERY_SATISFYING],
      "less",
      target=0.05,
      role="secondary",
      note="one network; each mistake counts once",
    ),
    stats.Question(
      "no mistake below the upper bar",
      f"share of planted mistakes with a distance below {RECHECK:g}",
      low[RECHECK],
      "less",
      target=0.05,
      role="secondary",
    ),
  ]

  def sentence(found: stats.Judged) -> str:
    start, late = (
      10 ** found.found(name).estimate
      for name in ("all, at the start", "all, in training")
    )
    return (
      f"Correct code has a distance of {start:.1e} before training and of "
      f"{late:.1e} at the worst of three moments in it (51,450 parameters, h = "
      f"1e-5, float64, n = {found.n}); of {len(planted)} planted mistakes "
      f"{stats.share(low[VERY_SATISFYING])} lie below 1e-7 too, and "
      f"{stats.share(low[RECHECK])} below 1e-2."
    )

  return stats.judge(stats.Claim("G2", parts, sentence))


def _g3(depths: Sequence[int], by_depth: Curves) -> stats.Judged:
  x = np.array(depths, np.float64)
  parts = [
    stats.Question(
      name,
      f"exponent of the distance against the number of layers, {name}",
      stats.loglog_slope(x, y, seed=0),
      role="primary" if name.startswith("numeric") else "secondary",
    )
    for name, y in by_depth.items()
  ]
  deepest = {
    name: np.log10(y[:, -1])
    for name, y in by_depth.items()
    if name.startswith("numeric")
  }
  parts += [
    stats.Question(
      f"{name}, deepest, below the bar",
      f"log10 distance at {depths[-1]} layers is below 1e-7, {name}",
      stats.mean_interval(values, seed=0),
      "less",
      float(np.log10(VERY_SATISFYING)),
      role="diagnostic",
    )
    for name, values in deepest.items()
  ]

  def sentence(found: stats.Judged) -> str:
    grown = " and ".join(
      f"{stats.amount(found.found(name))} with {name.rpartition(' ')[2]}"
      for name in deepest
    )
    reached = " and ".join(f"{10 ** v.mean():.1e}" for v in deepest.values())
    return (
      f"The distance grows like the number of layers to the power {grown}; at "
      f"{depths[-1]} layers its mean is {reached}, where the bar is 1e-7 "
      f"(h = 1e-5, float64, n = {found.n})."
    )

  return stats.judge(stats.Claim("G3", parts, sentence))


def _g5(curves: Curves, facts: Mapping[str, bool]) -> stats.Judged:
  whole, late = curves["plain all"], curves["late caught"]
  n = len(late)
  without = int(curves["no_l2 caught"][:, [0, -1]].all(axis=1).sum())
  found_later = int((late[:, -1] > late[:, 0]).sum())
  grows = stats.paired_difference(
    np.log10(whole[:, -1]), np.log10(whole[:, 0]), seed=0
  )
  parts: list[stats.Question | stats.Part] = [
    stats.Question(
      "leaving L2 out is caught",
      "share of runs in which both checks, before training and after, catch it",
      stats.proportion(without, n),
      target=CAUGHT,
    ),
    stats.Question(
      "checking again finds what the first check cannot",
      "share of runs in which a mistake made at large |Z1| alone is caught "
      "after the last epoch and not before the first",
      stats.proportion(found_later, n),
      target=CAUGHT,
    ),
    stats.Question(
      "distance grows in training",
      f"{_TEXT}, after the last epoch less before the first",
      grows,
      role="secondary",
    ),
  ]
  parts += [stats.derived(name, name, truth) for name, truth in facts.items()]

  def sentence(found: stats.Judged) -> str:
    return (
      f"A backward without the L2 term is caught in {without} of "
      f"{n} runs, and a mistake that shows at large weights alone "
      f"by a second check in {found_later} of {n}; correct code's "
      f"distance changes by a factor of {10**grows.estimate:.2f} in training; "
      + "; ".join(
        name if truth else f"not so: {name}" for name, truth in facts.items()
      )
      + "."
    )

  return stats.judge(stats.Claim("G5", parts, sentence))


def judged(found: Measurements) -> list[stats.Judged]:
  """G1, G2, G3 and G5."""
  curves = training_curves(found.training)
  return [
    _g1(found.errors),
    _g2(curves, found.planted),
    _g3(found.depths, found.by_depth),
    _g5(curves, found.facts),
  ]

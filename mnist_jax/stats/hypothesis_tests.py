"""What a margin, several tests at once, and a number of seeds decide.

Equivalence within a margin, Holm's correction, and power, all built on the
estimate, standard error and n of an `Effect`.
"""

import bisect
import functools
import math
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import scipy

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import (
  Effect,
  check_probability,
  known_error,
  p_above,
  p_below,
)

Kind = Literal["greater", "less", "same"]


def check_margin(margin: float | None) -> None:
  """Raises InputError unless margin is a finite number above 0."""
  if margin is None or not 0.0 < margin < math.inf:
    raise InputError(f"margin is {margin}, expected a finite number above 0")


def tost(effect: Effect, margin: float, *, target: float = 0.0) -> float:
  """p that the quantity lies beyond +-margin of `target` (Schuirmann 1987).

  The larger p of two one-sided tests. The margin, in the units of the
  effect, must have been fixed before the data were seen. p < 0.05 exactly
  where Student's 90 % interval lies within the margin.

  Raises:
    InputError: margin not above 0, or an effect without standard error.
  """
  check_margin(margin)
  return max(p_above(effect, target - margin), p_below(effect, target + margin))


def holm(
  p_values: Sequence[float], groups: Sequence[Hashable] | None = None
) -> list[float]:
  """p values adjusted for being several, in the order given (Holm 1979).

  The smallest of m is multiplied by m, the next by m - 1, and so on, never
  falling, at most 1. Rejecting those <= alpha makes even one false rejection
  at most alpha likely, however the tests depend on each other.

  Args:
    p_values: The p of m tests, each in [0, 1].
    groups: The group of each test, where those of one group exclude each other
      (at most one of their null hypotheses can be true): each group still
      standing is then counted once (Shaffer 1986, procedure S2).

  Raises:
    InputError: a p outside [0, 1], or groups of another length.
  """
  p = np.asarray(p_values, np.float64).reshape(-1)
  if not ((p >= 0.0) & (p <= 1.0)).all():
    raise InputError(f"p values {p.tolist()}, expected all in [0, 1]")
  groups = list(range(len(p))) if groups is None else list(groups)
  if len(groups) != len(p):
    raise InputError(f"{len(groups)} groups, expected one per p: {len(p)}")
  order = np.argsort(p, kind="stable")
  standing = [len({groups[j] for j in order[i:]}) for i in range(len(p))]
  adjusted = np.empty_like(p)
  adjusted[order] = np.maximum.accumulate(np.minimum(1, standing * p[order]))
  return adjusted.tolist()


def _power(gap: float, sd: float, n: int, alpha: float) -> float:
  """Chance that a one-sided t test at alpha sees a true gap, over n seeds."""
  if gap <= 0.0:
    return alpha
  # Beyond 37 the power is 1 to rounding and some SciPys return NaN.
  shift = min(math.sqrt(n) * gap / sd, 37.0)
  return float(
    scipy.stats.nct.sf(scipy.stats.t.isf(alpha, n - 1), n - 1, shift)
  )


def _chance(
  kind: Kind,
  gap: float,
  margin: float | None,
  sd: float,
  n: int,
  alpha: float,
) -> float:
  """The chance of the likelier of the two ways to decide."""
  bar = margin or 0.0
  if kind != "same":
    return _power(abs(gap - bar), sd, n, alpha / 2.0)
  # Of two one-sided tests: 1 less the chances that either fails, exact where
  # these exclude each other and too low otherwise.
  inside = _power(bar - gap, sd, n, alpha / 2.0)
  inside = inside + _power(bar + gap, sd, n, alpha / 2.0) - 1.0
  return max(inside, _power(abs(gap) - bar, sd, n, alpha / 2.0))


def seeds_to_decide(
  effect: Effect,
  kind: Kind = "greater",
  *,
  target: float = 0.0,
  margin: float | None = None,
  alpha: float = 0.05,
  power: float = 0.8,
  cap: int = 10_000,
) -> int | None:
  """How many seeds would decide, if the effect is what it was seen to be.

  By the noncentral t. To plan with, not to conclude from: the effect seen is
  itself uncertain, and its number of seeds more so (it goes like 1/effect^2).

  Args:
    effect: Its sd is standard_error * sqrt(n).
    kind: What is to be decided. "greater" and "less" tell the effect, seen
      from target, from the margin (from 0 without one), to either side; "same"
      shows it within the margin of target, or outside.
    target, margin: Numbers in the units of the effect; "same" needs a margin.
    alpha: The level; divide it by the number of tests where there are several.
    power: The chance to decide that is asked for, in (0, 1).

  Returns:
    The smallest n from 2 to cap, or None: an effect next to 0 (or, for
    "same", next to the margin) is not decided by any affordable number.

  Raises:
    InputError: no standard error, "same" without margin, a number out of
      range.
  """
  check_probability("alpha", alpha)
  check_probability("power", power)
  if margin is not None or kind == "same":
    check_margin(margin)
  sd = known_error(effect) * math.sqrt(effect.n)
  if math.isnan(effect.estimate):
    return None
  gap = (effect.estimate - target) * (-1.0 if kind == "less" else 1.0)
  # Seeds that all agree: as good as no spread, but not a division by zero.
  sd = max(sd, 1e-12 * max(abs(gap), margin or 0.0), 1e-300)
  # The chance rises with n.
  chance = functools.partial(_chance, kind, gap, margin, sd, alpha=alpha)
  n = 2 + bisect.bisect_left(range(2, cap + 1), power, key=chance)
  return n if n <= cap else None

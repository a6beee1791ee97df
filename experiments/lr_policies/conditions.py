"""Robbins and Monro's two conditions for each rate policy, derived.

Section 12.4: SGD converges if sum eta_t is infinite and sum eta_t^2 finite
(Robbins & Monro 1951; sufficient, with further assumptions). The first says
that any distance can be covered, the second that the noise dies out. Both are
about all t up to infinity, so about the policy as a formula, not about a run:

  fixed       eta: both sums are multiples of t, infinite.
  step        d eta times the geometric series of gamma: finite, d eta /
              (1 - gamma); the squares likewise with gamma^2.
  multistep   after the last boundary a constant above 0: both infinite.
  exp         geometric, eta / (1 - gamma): both finite.
  inv         eta gamma^-p sum (1 / gamma + t)^-p, Hurwitz' zeta: finite for
              p > 1 only; the squares for 2 p > 1 only. So both conditions
              hold for 1/2 < p <= 1, and for no other policy here.
  poly        0 from decay_steps on: both finite.
  exponential_decay
              geometric with factor r^(1/d), or as step if staircase: finite.

A warmup changes finitely many terms and thereby neither condition.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules.config import ScheduleConfig


@dataclasses.dataclass(frozen=True)
class Conditions:
  """The two sums of a policy, infinite where they diverge.

  Attributes:
    policy, formula: which, with its numbers.
    total: sum of eta_t over all t; the first condition wants infinity.
    squares: sum of eta_t^2; the second wants a finite number.
  """

  policy: str
  formula: str
  total: float
  squares: float

  @property
  def reaches_anywhere(self) -> bool:
    """Whether the first condition holds."""
    return math.isinf(self.total)

  @property
  def noise_dies_out(self) -> bool:
    """Whether the second condition holds."""
    return math.isfinite(self.squares)

  @property
  def both(self) -> bool:
    """Whether the sufficient condition of the chapter is met."""
    return self.reaches_anywhere and self.noise_dies_out

  def to_dict(self) -> dict[str, Any]:
    """Fields and answers, with infinite sums as null, for JSON."""
    return {
      "policy": self.policy,
      "formula": self.formula,
      "sum": self.total if math.isfinite(self.total) else None,
      "sum_of_squares": self.squares if self.noise_dies_out else None,
      "sum_is_infinite": self.reaches_anywhere,
      "squares_are_finite": self.noise_dies_out,
      "both": self.both,
    }


def _power_sum(config: ScheduleConfig, k: int) -> float:
  """The sum over t of (eta_t / eta_0)^k, infinite where it diverges."""
  settings = config.settings()
  gamma = settings.get("gamma", math.nan)
  power = k * settings.get("power", math.nan)
  rate = settings.get("decay_rate", math.nan)
  period = settings.get("decay_steps") or 0

  def geometric(factor: float) -> float:
    return 1 / (1 - factor**k)

  def poly() -> float:
    return float(np.sum((1 - np.arange(period) / period) ** power))

  def exponential_decay() -> float:
    if settings["staircase"]:
      return period * geometric(rate)
    # expm1: over a long period the factor of one update is nearly 1.
    return -1 / math.expm1(k * math.log(rate) / period)

  def inv() -> float:
    if power <= 1:
      return math.inf
    return float(gamma**-power * special.zeta(power, 1 / gamma))

  sums: dict[str, Callable[[], float]] = {
    "fixed": lambda: math.inf,
    "step": lambda: period * geometric(gamma),
    "multistep": lambda: math.inf,
    "exp": lambda: geometric(gamma),
    "inv": inv,
    "poly": poly,
    "exponential_decay": exponential_decay,
  }
  return sums[config.policy]()


def _warmup_sum(config: ScheduleConfig, k: int) -> float:
  updates = int(config.warmup_steps or 0)
  ramp = np.arange(1, updates + 1) / (updates + 1)
  return float(np.sum(ramp**k))


def conditions(config: ScheduleConfig) -> Conditions:
  """Both sums of a policy in closed form, over all t up to infinity.

  Args:
    config: in updates; of poly, decay_steps must be given.

  Raises:
    InputError: a config in epochs, or a poly without its end.
  """
  open_end = config.policy == "poly" and config.decay_steps is None
  if config.unit != "updates" or open_end:
    raise InputError(
      f"{config.describe()}: expected a policy in updates with all settings "
      "given (ScheduleConfig.resolve)"
    )
  start = float(config.learning_rate)
  total, squares = (
    start**k * (_power_sum(config, k) + _warmup_sum(config, k)) for k in (1, 2)
  )
  return Conditions(config.policy, config.describe(), total, squares)

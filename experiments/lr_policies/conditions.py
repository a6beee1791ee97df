"""Robbins and Monro's two conditions for each rate policy, derived.

Section 12.4: SGD converges if sum eta_t is infinite and sum eta_t^2 finite
(Robbins & Monro 1951; sufficient, with further assumptions). The first says
that any distance can be covered, the second that the noise dies out. Both are
about all t up to infinity, so about the policy as a formula, not about a run:
the sums are in `schedules.POLICIES`. Both conditions hold for inv with a power
in (1/2, 1], and for no other policy here. A warmup changes finitely many terms
and thereby neither condition.
"""

import dataclasses
import math

import numpy as np

from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules.config import ScheduleConfig


@dataclasses.dataclass(frozen=True)
class Conditions:
  """The two sums of a policy, infinite where they diverge.

  Attributes:
    total: sum of eta_t over all t; the first condition wants infinity.
    squares: sum of eta_t^2; the second wants a finite number.
  """

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


def _warmup_sum(config: ScheduleConfig, k: int) -> float:
  updates = int(config.warmup_steps or 0)
  ramp = np.arange(1, updates + 1) / (updates + 1)
  return float(np.sum(ramp**k))


def conditions(config: ScheduleConfig) -> Conditions:
  """Both sums of a policy in closed form, over all t up to infinity.

  Args:
    config: in updates; its decay_steps must be given, if it takes any.

  Raises:
    InputError: a config in epochs, or a policy without its end.
  """
  open_end = config.constants().get("decay_steps", 1) is None
  if config.schedule_unit != "updates" or open_end:
    raise InputError(
      f"{config.describe()}: expected a policy in updates with all settings "
      "given (ScheduleConfig.resolve)"
    )
  start, power_sum = float(config.learning_rate), config.policy.power_sum
  total, squares = (
    start**k * (power_sum(config.constants(), k) + _warmup_sum(config, k))
    for k in (1, 2)
  )
  return Conditions(total, squares)

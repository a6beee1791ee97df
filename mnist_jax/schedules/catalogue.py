"""The rate policies by name: all that is known of each in one record.

A new policy is its function in `policies` and its record here; flags, checks,
legends and the derived sums follow. Robbins & Monro (1951) ask of a policy
that the sum of its rates over all t is infinite, so that any distance can be
covered, and that of their squares finite, so that the noise dies out.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mnist_jax.schedules import policies

Constants = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Policy:
  """A rate policy.

  `power_sum` is the sum over all t of (lr(t) / lr(0))^k as a function of the
  constants and k, infinite where it diverges.
  """

  function: Callable[..., policies.Schedule]  # of learning_rate and constants
  formula: str  # with {names} for the constants and the update {t}
  power_sum: Callable[[Constants, int], float]
  required: tuple[str, ...] = ()  # the constants that must be given
  # The values of the others; None is the rest of the run.
  defaults: Constants = dataclasses.field(default_factory=dict)
  end: tuple[str, ...] = ()  # the constants whose sum ends it: 0 from there on
  steepness: str = "gamma"  # what can make the decay too fast or too slow
  last_drop: str = ""  # the constant whose last drop the run must reach

  @property
  def takes(self) -> tuple[str, ...]:
    """The names of all constants."""
    return (*self.required, *self.defaults)


def _geometric(factor: float, k: int) -> float:
  return 1 / (1 - factor**k)


def _forever(of: Constants, k: int) -> float:
  """A constant above 0 from some update on: every sum diverges."""
  return math.inf


def _inv(of: Constants, k: int) -> float:
  """gamma^-p sum (1 / gamma + t)^-p, Hurwitz' zeta, finite for p > 1."""
  from scipy import special  # here, as no other policy uses scipy

  power = k * of["power"]
  if power <= 1:
    return math.inf
  return float(of["gamma"] ** -power * special.zeta(power, 1 / of["gamma"]))


def _poly(of: Constants, k: int) -> float:
  end = of["decay_steps"]
  return float(np.sum((1 - np.arange(end) / end) ** (k * of["power"])))


def _cosine(of: Constants, k: int) -> float:
  left = 1 - np.arange(of["decay_steps"]) / of["decay_steps"]
  return float(np.sum(np.sin(np.pi / 2 * left) ** (2 * k)))


def _wsd(of: Constants, k: int) -> float:
  return float(of["stable_steps"]) + _poly({**of, "power": 1.0}, k)


def _smooth(of: Constants, k: int) -> float:
  # expm1: over a long period the factor of one update is nearly 1.
  return -1 / math.expm1(k * math.log(of["decay_rate"]) / of["decay_steps"])


POLICIES: dict[str, Policy] = {
  "fixed": Policy(
    policies.fixed, "{learning_rate}", _forever, steepness="learning_rate"
  ),
  "step": Policy(
    policies.step,
    "{learning_rate} × {gamma}^⌊{t} / {decay_steps}⌋",
    lambda of, k: of["decay_steps"] * _geometric(of["gamma"], k),
    required=("decay_steps",),
    defaults={"gamma": 0.1},
    last_drop="decay_steps",
  ),
  "multistep": Policy(
    policies.multistep,
    "{learning_rate} × {gamma}^#({boundaries} ≤ {t})",
    _forever,
    required=("boundaries",),
    defaults={"gamma": 0.1},
    last_drop="boundaries",
  ),
  "exp": Policy(
    policies.exp,
    "{learning_rate} × {gamma}^{t}",
    lambda of, k: _geometric(of["gamma"], k),
    required=("gamma",),
  ),
  "inv": Policy(
    policies.inv,
    "{learning_rate} × (1 + {gamma} {t})^−{power}",
    _inv,
    required=("gamma",),
    defaults={"power": 0.75},
  ),
  "poly": Policy(
    policies.poly,
    "{learning_rate} × (1 − {t} / {decay_steps})^{power}",
    _poly,
    defaults={"power": 1.0, "decay_steps": None},
    end=("decay_steps",),
    steepness="power",
  ),
  "cosine": Policy(
    policies.cosine,
    "{learning_rate} × (1 + cos(π {t} / {decay_steps})) / 2",
    _cosine,
    defaults={"decay_steps": None},
    end=("decay_steps",),
    steepness="decay_steps",
  ),
  "wsd": Policy(
    policies.wsd,
    "{learning_rate} × min(1, 1 − ({t} − {stable_steps}) / {decay_steps})",
    _wsd,
    required=("stable_steps",),
    defaults={"decay_steps": None},
    end=("stable_steps", "decay_steps"),
    steepness="decay_steps",
    last_drop="stable_steps",
  ),
  "exponential_decay": Policy(
    policies.exponential_decay,
    "{learning_rate} × {decay_rate}^({t} / {decay_steps})",
    _smooth,
    required=("decay_rate", "decay_steps"),
    defaults={"staircase": False},
    steepness="decay_rate",
  ),
}
# What exponential_decay becomes with its constant `staircase` on.
STAIRCASE = dataclasses.replace(
  POLICIES["exponential_decay"],
  formula="{learning_rate} × {decay_rate}^⌊{t} / {decay_steps}⌋",
  power_sum=lambda of, k: of["decay_steps"] * _geometric(of["decay_rate"], k),
  last_drop="decay_steps",
)

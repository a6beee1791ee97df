"""The certificate that the rate policies are their formulas.

Each policy's table (`schedules.tabulate`) against two others: the formula of
section 12.4 in 50-digit decimals, written anew here, and torch's scheduler of
the same name, where torch is installed and has one. T updates.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from mnist_jax import schedules
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules.config import ScheduleConfig

NUM_STEPS = 20_000
DIGITS = 50
EXACT = "exact formula"


@dataclasses.dataclass(frozen=True)
class Parity:
  """How far a table is from another source of the same policy.

  Attributes:
    against: EXACT, or torch's scheduler and version.
    max_relative: the largest |table - other| / |other| of the T steps; infinite
      where the other is 0 and the table is not.
    max_ulps: the largest distance in float32's last places at the other's
      value, at update worst_step.
  """

  policy: str
  formula: str
  against: str
  steps: int
  max_relative: float
  max_ulps: float
  worst_step: int


def studied_policies(
  learning_rate: float = 0.2, num_steps: int = NUM_STEPS
) -> dict[str, ScheduleConfig]:
  """The chapter's six, each to cover a run of T updates, and its formula.

  Constants: step halves every tenth of the run; multistep divides by 10 after
  1/2 and 3/4; exp ends at 1/100; inv has Caffe's power of 0.75 and ends at
  about 1/32; poly is linear; exponential_decay is the chapter's formula, to
  1/100.

  Args:
    num_steps: T, at least 20.
  """
  tenth = max(1, num_steps // 10)
  middle, late = num_steps // 2, 3 * num_steps // 4
  each: dict[str, dict[str, Any]] = {
    "fixed": {},
    "step": {"gamma": 0.5, "decay_steps": tenth},
    "multistep": {"gamma": 0.1, "boundaries": (middle, late)},
    "exp": {"gamma": 0.01 ** (1 / num_steps)},
    "inv": {"gamma": 100 / num_steps, "power": 0.75},
    "poly": {"power": 1.0, "decay_steps": num_steps},
    "exponential_decay": {"decay_rate": 0.01, "decay_steps": num_steps},
  }
  return {
    name: ScheduleConfig(name, learning_rate, **settings)
    for name, settings in each.items()
  }


# --- the formulas, once more -------------------------------------------------


def _exact_factor(config: ScheduleConfig) -> Callable[[int], Decimal]:
  """lr(t) / lr(0); a setting means the float that it is."""
  settings = config.constants()
  of = {
    name: Decimal(float(settings[name]))
    for name in ("gamma", "power", "decay_rate")
    if name in settings
  }
  period = int(settings.get("decay_steps") or 0)
  boundaries = settings.get("boundaries", ())
  staircase = settings.get("staircase", False)
  formulas: dict[str, Callable[[int], Decimal]] = {
    "fixed": lambda t: Decimal(1),
    "step": lambda t: of["gamma"] ** (t // period),
    "multistep": lambda t: of["gamma"] ** sum(b <= t for b in boundaries),
    "exp": lambda t: of["gamma"] ** t,
    "inv": lambda t: 1 / (1 + of["gamma"] * t) ** of["power"],
    "poly": lambda t: max(1 - Decimal(t) / period, Decimal(0)) ** of["power"],
    "exponential_decay": lambda t: (
      of["decay_rate"] ** (t // period if staircase else Decimal(t) / period)
    ),
  }
  return formulas[config.schedule]


def exact_rates(config: ScheduleConfig, num_steps: int) -> list[Decimal]:
  """The rates of updates 0 to T - 1 by the formula, in 50 digits.

  Args:
    config: in updates, without warmup, every setting given.

  Raises:
    InputError: a config in epochs or with warmup.
  """
  if config.schedule_unit != "updates" or config.warmup_steps is not None:
    raise InputError(
      f"{config.describe()}: expected a policy in updates, without warmup"
    )
  factor = _exact_factor(config)
  with localcontext(prec=DIGITS):
    start = Decimal(float(config.learning_rate))
    return [start * factor(t) for t in range(num_steps)]


def compare(
  rates: Float32[np.ndarray, " T"], others: list[Decimal]
) -> tuple[float, float, int]:
  """Largest relative distance, largest in last places, and its update.

  Computed in decimals: in float64 the quotient itself would round.
  """
  exact = np.array(others, object)
  with localcontext(prec=DIGITS):
    apart = np.abs(np.array([*map(Decimal, rates.tolist())], object) - exact)
    relative = max(
      float(a / other) if other else math.inf if a else 0.0
      for a, other in zip(apart, others, strict=True)
    )
  place = np.spacing(exact.astype(np.float64).astype(np.float32))
  ulps = apart.astype(np.float64) / place.astype(np.float64)
  return relative, float(ulps.max()), int(ulps.argmax())


def _parity(
  config: ScheduleConfig, against: str, num_steps: int, others: list[Decimal]
) -> Parity:
  table = schedules.learning_rates(config, num_steps, num_steps)
  found = compare(table, others)
  return Parity(config.schedule, config.describe(), against, num_steps, *found)


def against_formula(
  configs: Mapping[str, ScheduleConfig], num_steps: int = NUM_STEPS
) -> tuple[Parity, ...]:
  """Each table against its exact formula; at most half a last place apart,
  and float64's own error, if tables are rounded once.

  Raises:
    InputError: as `exact_rates` and `schedules.learning_rates`.
  """
  return tuple(
    _parity(config, EXACT, num_steps, exact_rates(config, num_steps))
    for config in configs.values()
  )


# --- torch -------------------------------------------------------------------


def torch_rates(
  config: ScheduleConfig, num_steps: int
) -> Float64[np.ndarray, " T"] | None:
  """What torch's scheduler of this policy gives; None if it has none.

  torch has no inv, and its recursive forms carry their rounding along in
  float64. Needs torch.
  """
  import torch

  optimizer = torch.optim.SGD(
    [torch.nn.Parameter(torch.zeros(()))], lr=float(config.learning_rate)
  )
  scheduler = torch.optim.lr_scheduler
  settings = config.constants()
  gamma = settings.get("gamma")
  makers: dict[str, Callable[[], Any]] = {
    "fixed": lambda: scheduler.ConstantLR(optimizer, factor=1.0),
    "step": lambda: scheduler.StepLR(optimizer, settings["decay_steps"], gamma),
    "multistep": lambda: scheduler.MultiStepLR(
      optimizer, list(settings["boundaries"]), gamma
    ),
    "exp": lambda: scheduler.ExponentialLR(optimizer, gamma),
    "poly": lambda: scheduler.PolynomialLR(
      optimizer, settings["decay_steps"], settings["power"]
    ),
  }
  if config.schedule not in makers:
    return None
  policy = makers[config.schedule]()
  rates = []
  for _ in range(num_steps):
    rates.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    policy.step()
  return np.array(rates, np.float64)


def against_torch(
  configs: Mapping[str, ScheduleConfig], num_steps: int = NUM_STEPS
) -> tuple[Parity, ...] | str:
  """Each table against torch's scheduler, for the policies that torch has.

  Returns:
    "torch is not installed" where it is not.
  """
  spec = importlib.util.find_spec("torch")
  if spec is None or spec.origin is None:  # a mere folder of that name
    return "torch is not installed"
  import torch

  source = f"torch {torch.__version__.partition('+')[0]}"
  found = []
  for config in configs.values():
    theirs = torch_rates(config, num_steps)
    if theirs is not None:
      others = [*map(Decimal, theirs.tolist())]
      found.append(_parity(config, source, num_steps, others))
  return tuple(found)

"""A schedule from the settings of the command line, in updates or epochs."""

import dataclasses
import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import policies

Number = int | float  # what a flag may give

_POLICIES: dict[str, Callable[..., policies.Schedule]] = {
  "fixed": policies.fixed,
  "step": policies.step,
  "multistep": policies.multistep,
  "exp": policies.exp,
  "inv": policies.inv,
  "poly": policies.poly,
  "exponential_decay": policies.exponential_decay,
}
POLICIES = tuple(_POLICIES)

_REQUIRED: dict[str, tuple[str, ...]] = {
  "step": ("decay_steps",),
  "multistep": ("boundaries",),
  "exp": ("gamma",),
  "inv": ("gamma",),
  "exponential_decay": ("decay_rate", "decay_steps"),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
  "step": {"gamma": 0.1},
  "multistep": {"gamma": 0.1},
  "inv": {"power": 0.75},
  "poly": {"power": 1.0, "decay_steps": None},  # the rest of the run
  "exponential_decay": {"staircase": False},
}
_SETTINGS = (
  "gamma",
  "decay_rate",
  "decay_steps",
  "boundaries",
  "power",
  "staircase",
)
# The setting that makes a policy's decay too fast or too slow for float32.
_STEEPNESS = {
  "fixed": "learning_rate",
  "poly": "power",
  "exponential_decay": "decay_rate",
}
_FORMULAS = {
  "fixed": "{learning_rate}",
  "step": "{learning_rate} × {gamma}^⌊{t} / {decay_steps}⌋",
  "multistep": "{learning_rate} × {gamma}^#({boundaries} ≤ {t})",
  "exp": "{learning_rate} × {gamma}^{t}",
  "inv": "{learning_rate} × (1 + {gamma} {t})^−{power}",
  "poly": "{learning_rate} × (1 − {t} / {decay_steps})^{power}",
  "exponential_decay": "{learning_rate} × {decay_rate}^({t} / {decay_steps})",
  "staircase": "{learning_rate} × {decay_rate}^⌊{t} / {decay_steps}⌋",
}


def to_updates(
  epochs: Number, steps_per_epoch: int, flag: str = "epochs"
) -> int:
  """A duration in epochs as updates, rounded to the nearest, halves up.

  Epochs are taken as the decimal number they print as, so that 0.145 epochs of
  100 updates are 14.5 updates, thus 15, though the float is a little less.

  Args:
    epochs: above 0, may be a fraction.
    steps_per_epoch: updates per epoch, with the last short batch if trained.
    flag: the setting to name in the error.

  Raises:
    InputError: epochs not finite, or less than half an update.
  """
  updates = 0
  if math.isfinite(epochs):
    exact = Decimal(str(epochs)) * steps_per_epoch
    updates = int(exact.to_integral_value(ROUND_HALF_UP))
  if updates < 1:
    raise InputError(
      f"--{flag}={epochs} epochs of {steps_per_epoch} updates: "
      "expected at least 1 update"
    )
  return updates


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
  """The settings of a schedule as flags give them; None is "not given".

  A setting that the policy has no use for is an error; it is not ignored.
  Values are checked by `from_config`.

  Attributes:
    policy: --schedule, one of POLICIES, with what it needs and its defaults:
      fixed; step (decay_steps, gamma = 0.1); multistep (boundaries,
      gamma = 0.1); exp (gamma); inv (gamma, power = 0.75); poly (power = 1,
      decay_steps = the rest of the run); exponential_decay (decay_rate,
      decay_steps, staircase = False).
    learning_rate: the rate at the start, and after warmup.
    warmup_steps: linear warmup before any policy, whose own count, boundaries
      included, then starts after it (`policies.with_warmup`).
    unit: --schedule_unit, "updates" or "epochs": what decay_steps, boundaries
      and warmup_steps are in, and what one t is in exp and inv, whose gamma
      belongs to one update or one epoch.

  Raises:
    InputError: unknown policy or unit, a setting missing or not the policy's.
  """

  policy: str = "fixed"
  learning_rate: Number = 0.2
  gamma: Number | None = None
  decay_rate: Number | None = None
  decay_steps: Number | None = None
  boundaries: tuple[Number, ...] | None = None
  power: Number | None = None
  staircase: bool | None = None
  warmup_steps: Number | None = None
  unit: str = "updates"

  def __post_init__(self) -> None:
    if self.policy not in _POLICIES:
      expected = ", ".join(POLICIES)
      raise InputError(f"--schedule={self.policy}: expected one of {expected}")
    if self.unit not in ("updates", "epochs"):
      raise InputError(
        f"--schedule_unit={self.unit}: expected updates or epochs"
      )
    required = _REQUIRED.get(self.policy, ())
    known = [*required, *_DEFAULTS.get(self.policy, ())]
    for name in required:
      if getattr(self, name) is None:
        raise InputError(
          f"--{name}: not given, expected with --schedule={self.policy}"
        )
    for name in _SETTINGS:
      value = getattr(self, name)
      if name not in known and value is not None:
        takes = ", ".join(f"--{name}" for name in known) or "no setting"
        raise InputError(
          f"--{name}={_text(value)}: --schedule={self.policy} has no use for "
          f"it, expected {takes}"
        )

  def settings(self) -> dict[str, Any]:
    """What the policy takes beside the rate, with its defaults filled in.

    Only poly's decay_steps can be None: it needs the length of the run.
    """
    settings = dict(_DEFAULTS.get(self.policy, {}))
    for name in _SETTINGS:
      value = getattr(self, name)
      if value is not None:
        real = name in ("gamma", "decay_rate", "power")
        settings[name] = float(value) if real else value
    return settings

  def resolve(self, steps_per_epoch: int, total_steps: int) -> "ScheduleConfig":
    """The same schedule in updates, with every default filled in.

    Args:
      steps_per_epoch: updates per epoch.
      total_steps: updates of the run, warmup included.

    Raises:
      InputError: a duration that is not a whole number of updates, or in
        epochs rounds to none (`to_updates`).
    """
    per_epoch = steps_per_epoch if self.unit == "epochs" else None
    settings = self.settings()
    warmup = self.warmup_steps
    if warmup is not None:
      warmup = _updates("warmup_steps", warmup, per_epoch)
    if self.policy == "poly" and self.decay_steps is None:
      settings["decay_steps"] = max(1, total_steps - (warmup or 0))
    elif self.decay_steps is not None:
      settings["decay_steps"] = _updates(
        "decay_steps", self.decay_steps, per_epoch
      )
    if self.boundaries is not None:
      settings["boundaries"] = tuple(
        _updates("boundaries", b, per_epoch) for b in self.boundaries
      )
    if per_epoch and self.gamma is not None:
      settings["gamma"] = _gamma_per_update(
        self.policy, settings["gamma"], per_epoch
      )
    return dataclasses.replace(
      self, warmup_steps=warmup, unit="updates", **settings
    )

  def describe(self) -> str:
    """The formula with its numbers, for a legend; t in updates, e in epochs.

    #(5,8 ≤ t) counts the boundaries reached. Of a resolved config no number is
    missing; else poly's T is the rest of the run.
    """
    settings = self.settings()
    shape = "staircase" if settings.get("staircase") else self.policy
    values = {name: _text(value) for name, value in settings.items()}
    if "decay_steps" in settings and settings["decay_steps"] is None:
      values["decay_steps"] = "T"
    text = _FORMULAS[shape].format(
      learning_rate=_text(self.learning_rate),
      t="e" if self.unit == "epochs" else "t",
      **values,
    )
    if self.warmup_steps is not None:
      text += f" after {_text(self.warmup_steps)} {self.unit} of warmup"
    return f"{self.policy}: {text}"


def from_config(
  config: ScheduleConfig, steps_per_epoch: int, total_steps: int
) -> policies.Schedule:
  """The schedule of a run, counting updates; see `schedules` for formulas.

  What the run would never reach is refused with the rest: a warmup, a boundary
  or a first drop not before its end; and a decay that float32 turns into 0 or
  into a constant. A poly may end before the run: its rate is then 0.

  Args:
    steps_per_epoch: updates per epoch.
    total_steps: updates of the run, warmup included.

  Raises:
    InputError: a setting out of its range, or without effect in this run.
  """
  for name, value in (
    ("steps_per_epoch", steps_per_epoch),
    ("total_steps", total_steps),
  ):
    if value < 1:
      raise InputError(f"{name}={value}: expected at least 1 update")
  resolved = config.resolve(steps_per_epoch, total_steps)
  settings = resolved.settings()
  schedule = _POLICIES[config.policy](float(config.learning_rate), **settings)
  warmup = resolved.warmup_steps
  if warmup is not None:
    schedule = policies.with_warmup(schedule, int(warmup))
  _check_reached(resolved, total_steps)
  _check_decay(resolved, schedule, total_steps)
  return schedule


def _updates(flag: str, value: Number, steps_per_epoch: int | None) -> int:
  if steps_per_epoch is not None:
    return to_updates(value, steps_per_epoch, flag)
  if not math.isfinite(value) or value != int(value):
    raise InputError(
      f"--{flag}={value}: expected a whole number of updates "
      "(or --schedule_unit=epochs)"
    )
  return int(value)


def _gamma_per_update(policy: str, gamma: float, steps_per_epoch: int) -> float:
  # Out of range it is passed on as given, for the policy to refuse.
  if policy == "exp" and 0 < gamma < 1:
    return gamma ** (1 / steps_per_epoch)
  if policy == "inv" and gamma > 0:
    return gamma / steps_per_epoch
  return gamma


def _check_reached(resolved: ScheduleConfig, total_steps: int) -> None:
  settings = resolved.settings()
  warmup = int(resolved.warmup_steps or 0)
  if warmup >= total_steps:
    raise InputError(
      f"--warmup_steps={warmup} updates: expected less than the "
      f"{total_steps} of the run"
    )
  drops: dict[str, int] = {}
  if resolved.boundaries is not None:
    drops["boundaries"] = int(max(resolved.boundaries))
  if resolved.decay_steps is not None and (
    resolved.policy == "step" or settings.get("staircase")
  ):
    drops["decay_steps"] = int(resolved.decay_steps)
  for flag, update in drops.items():
    if update >= total_steps - warmup:
      raise InputError(
        f"--{flag}: a drop at update {update} is never reached, expected less "
        f"than the {total_steps - warmup} updates of the run after warmup"
      )


def _check_decay(
  resolved: ScheduleConfig, schedule: policies.Schedule, total_steps: int
) -> None:
  warmup = int(resolved.warmup_steps or 0)
  end = total_steps
  if resolved.policy == "poly" and resolved.decay_steps is not None:
    end = min(end, warmup + int(resolved.decay_steps))
  rates = policies.tabulate(schedule, end)
  flag = _STEEPNESS.get(resolved.policy, "gamma")
  given = f"--{flag}={getattr(resolved, flag)}"
  # Smaller numbers are 0 on an accelerator: training would stand still.
  lost = np.flatnonzero(rates < np.finfo(np.float32).tiny)
  if lost.size:
    raise InputError(
      f"{given}: the rate is 0 in float32 at update {lost[0]} of "
      f"{total_steps}, expected a slower decay"
    )
  decays = resolved.policy != "fixed" and end - warmup > 1
  if decays and rates[warmup] == rates[-1]:
    raise InputError(
      f"{given}: the rate stays {rates[-1]:g} in float32 for all {total_steps} "
      "updates, expected a faster decay"
    )


def _text(value: object) -> str:
  if isinstance(value, tuple):
    return ",".join(_text(v) for v in value)
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return str(value)
  return f"{value:.10g}"

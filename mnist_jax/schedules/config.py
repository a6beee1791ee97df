"""A schedule as settings, in updates or epochs, and its table of rates."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Float32

from mnist_jax.runtime import fields
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import policies
from mnist_jax.schedules.batch_sizes import Clock, steady
from mnist_jax.schedules.catalogue import POLICIES, STAIRCASE, Policy

Number = int | float  # what a flag may give

# The settings that only some policies take.
_CONSTANTS = tuple(
  dict.fromkeys(name for each in POLICIES.values() for name in each.takes)
)


def to_updates(
  epochs: Number, steps_per_epoch: int, name: str = "epochs"
) -> int:
  """A duration in epochs as updates, rounded as `Clock.updates` does.

  Raises:
    InputError: Epochs that are not finite, or less than half an update.
  """
  finite = math.isfinite(epochs)
  updates = steady(int(steps_per_epoch)).updates(epochs) if finite else 0
  if updates < 1:
    raise InputError(
      f"{name}={epochs} epochs of {steps_per_epoch} updates: "
      "expected at least 1 update"
    )
  return updates


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
  """The settings of a schedule; None is "not given".

  A constant that the policy has no use for is an error; it is not ignored.
  What the constants must be is checked by `learning_rates`.

  Attributes:
    schedule: The policy, one of `catalogue.POLICIES`, whose records say which
      constants each requires and the defaults of the others.
    learning_rate: The rate at the start, and after warmup.
    warmup_steps: The length of a linear warmup before any policy, whose own
      count, boundaries included, then starts after it
      (`policies.with_warmup`).
    schedule_unit: What decay_steps, stable_steps, boundaries and warmup_steps
      are in, and what one t is in exp and inv, whose gamma belongs to one
      update or one epoch.

  Raises:
    InputError: An unknown policy or unit, or a constant that is missing, not
      the policy's or no finite number.
  """

  schedule: str = fields.setting(
    "fixed", "rate policy", str, choices=tuple(POLICIES)
  )
  learning_rate: Number = policies.LEARNING_RATE.field()
  gamma: Number | None = fields.setting(
    None, "factor of step, multistep, exp, inv"
  )
  decay_rate: Number | None = fields.setting(
    None, "factor of exponential_decay"
  )
  decay_steps: Number | None = fields.setting(
    None, "period of a decay, or its end"
  )
  boundaries: tuple[Number, ...] | None = fields.setting(
    None, "where multistep drops, as 4000,8000", many=True
  )
  power: Number | None = fields.setting(None, "exponent of inv and poly")
  staircase: bool | None = fields.setting(
    None, "exponential_decay by whole periods", bool
  )
  warmup_steps: Number | None = fields.setting(None, "linear rise to the rate")
  schedule_unit: str = fields.setting(
    "updates", "of the schedule's settings", str, choices=("updates", "epochs")
  )
  stable_steps: Number | None = fields.setting(
    None, "of wsd: how long the rate stays before its decay", newer=True
  )

  def __post_init__(self) -> None:
    fields.settle(self)
    policy = POLICIES[self.schedule]
    for name in policy.required:
      if getattr(self, name) is None:
        raise InputError(
          f"{name}: not given, expected with schedule={self.schedule}"
        )
    for name in _CONSTANTS:
      value = getattr(self, name)
      if name not in policy.takes and value is not None:
        raise InputError(
          f"{name}={_text(value)}: schedule={self.schedule} has no use for "
          f"it, expected {', '.join(policy.takes) or 'no constant'}"
        )

  @property
  def policy(self) -> Policy:
    """The policy's record."""
    return STAIRCASE if self.staircase else POLICIES[self.schedule]

  def constants(self) -> dict[str, Any]:
    """What the policy takes beside the rate, with its defaults filled in.

    Only a decay_steps can be None, that of poly, cosine and wsd: it needs the
    length of the run.
    """
    constants = dict(self.policy.defaults)
    for name in _CONSTANTS:
      value = getattr(self, name)
      if value is not None:
        real = name in ("gamma", "decay_rate", "power")
        constants[name] = float(value) if real else value
    return constants

  def resolve(self, steps_per_epoch: int, total_steps: int) -> "ScheduleConfig":
    """The same schedule in updates, of a run of `total_steps` with its warmup.

    Raises:
      InputError: A duration that is not a whole number of updates, or in
        epochs rounds to none (`to_updates`).
    """
    per_epoch = steps_per_epoch if self.schedule_unit == "epochs" else None
    found = self.constants()
    for name in ("warmup_steps", "stable_steps", "decay_steps"):
      value = getattr(self, name)
      if value is not None:
        found[name] = _updates(name, value, per_epoch)
    if found.get("decay_steps", 1) is None:
      before = sum(found.get(k, 0) for k in ("warmup_steps", "stable_steps"))
      found["decay_steps"] = max(1, total_steps - before)
    if self.boundaries is not None:
      found["boundaries"] = tuple(
        _updates("boundaries", b, per_epoch) for b in self.boundaries
      )
    if per_epoch and self.gamma is not None:
      found["gamma"] = _gamma_per_update(
        self.schedule, found["gamma"], per_epoch
      )
    return dataclasses.replace(self, schedule_unit="updates", **found)

  def describe(self) -> str:
    """The formula with its numbers, for a legend; t in updates, e in epochs.

    #(5,8 ≤ t) counts the boundaries reached. Of a resolved config no number is
    missing; else T is the rest of the run.
    """
    values = {name: _text(value) for name, value in self.constants().items()}
    if values.get("decay_steps") == "None":
      values["decay_steps"] = "T"
    text = self.policy.formula.format(
      learning_rate=_text(self.learning_rate),
      t="e" if self.schedule_unit == "epochs" else "t",
      **values,
    )
    if self.warmup_steps is not None:
      warmup = f"{_text(self.warmup_steps)} {self.schedule_unit}"
      text += f" after {warmup} of warmup"
    return f"{self.schedule}: {text}"


@functools.lru_cache(maxsize=256)  # a sweep's seeds have the same table
def learning_rates(
  config: ScheduleConfig, clock: Clock | int, num_updates: int
) -> Float32[np.ndarray, " T"]:
  """The rate of every update of a run: the one table that training reads.

  What the run would never reach is refused with the rest: a warmup, a boundary
  or a first drop not before its end; and a decay that float32 turns into 0 or
  into a constant. A poly, cosine or wsd may end before the run: its rate is
  then 0. Where the
  batch size changes, a schedule in epochs goes by those of the data.

  Args:
    clock: Where the run's epochs begin, or its updates per epoch.
    num_updates: T, the updates of the run, warmup included.

  Returns:
    Rates within one unit in the last place of their formula. The array is
    shared between equal calls and cannot be written to.

  Raises:
    InputError: A setting out of its range, or without effect in this run.
  """
  for name, value in (("clock", clock), ("num_updates", num_updates)):
    if not isinstance(value, Clock) and value < 1:
      raise InputError(f"{name}={value}: expected at least 1 update")
  clock = clock if isinstance(clock, Clock) else steady(clock)
  per_epoch, places, length = clock.table_places(num_updates)
  if config.schedule_unit == "updates":
    places, length = np.arange(num_updates), num_updates
  resolved = config.resolve(per_epoch, length)
  schedule = config.policy.function(
    float(config.learning_rate), **resolved.constants()
  )
  warmup = int(resolved.warmup_steps or 0)
  if resolved.warmup_steps is not None:
    schedule = policies.with_warmup(schedule, warmup)
  _check_reached(resolved, warmup, length)
  rates = policies.tabulate(schedule, length)
  _check_decay(resolved, warmup, rates)
  rates = rates[places]
  rates.flags.writeable = False
  return rates


def _updates(name: str, value: Number, steps_per_epoch: int | None) -> int:
  if steps_per_epoch is not None:
    return to_updates(value, steps_per_epoch, name)
  if not math.isfinite(value) or value != int(value):
    raise InputError(
      f"{name}={value}: expected a whole number of updates "
      "(or schedule_unit=epochs)"
    )
  return int(value)


def _gamma_per_update(
  schedule: str, gamma: float, steps_per_epoch: int
) -> float:
  # Out of range it is passed on as given, for the policy to refuse.
  if schedule == "exp" and 0 < gamma < 1:
    return gamma ** (1 / steps_per_epoch)
  if schedule == "inv" and gamma > 0:
    return gamma / steps_per_epoch
  return gamma


def _check_reached(
  resolved: ScheduleConfig, warmup: int, total_steps: int
) -> None:
  if warmup >= total_steps:
    raise InputError(
      f"warmup_steps={warmup} updates: expected less than the "
      f"{total_steps} of the run"
    )
  name = resolved.policy.last_drop
  if name:
    update = np.max(resolved.constants()[name])
    if update >= total_steps - warmup:
      raise InputError(
        f"{name}: a drop at update {update} is never reached, expected less "
        f"than the {total_steps - warmup} updates of the run after warmup"
      )


def _check_decay(
  resolved: ScheduleConfig, warmup: int, rates: Float32[np.ndarray, " T"]
) -> None:
  total_steps, policy = len(rates), resolved.policy
  if policy.end:  # from there on 0, as it should be
    rates = rates[: warmup + sum(resolved.constants()[k] for k in policy.end)]
  name = policy.steepness
  given = f"{name}={getattr(resolved, name)}"
  # Smaller numbers are 0 on an accelerator: training would stand still.
  lost = np.flatnonzero(rates < np.finfo(np.float32).tiny)
  if lost.size:
    raise InputError(
      f"{given}: the rate is 0 in float32 at update {lost[0]} of "
      f"{total_steps}, expected a slower decay"
    )
  decays = resolved.schedule != "fixed" and len(rates) - warmup > 1
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

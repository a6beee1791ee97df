"""The learning-rate policies of section 12.4, joins, warmup, and their tables.

Every policy is an ordinary optax schedule: a function from `count`, the number
of updates made before this one (0, 1, ...), to the rate. It goes into any
optax optimiser. Computed there in float32, a policy is only near its formula:
over 20,000 updates relative errors grow to 1e-5 (`step`), 5e-4 (`exp`) and
1e-3 (`poly`, near its end), and a warmup of 500 starts 1e-5 off; `multistep`
and `inv` stay at 1e-7. `tabulate` gives the same schedule as a row of T rates,
computed in float64 and rounded once. Training here uses rows.

Names and formulas of fixed, step, multistep, exp, inv and poly: section 12.4
and Caffe's solver documentation; T is the number of updates. Each policy
raises an InputError for a setting out of its range: a learning_rate that is
not a positive float32, a factor that is not in (0, 1), a power that is not
above 0, or boundaries and counts that are not updates, at least 1.
"""

import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Float32, Float64

from mnist_jax.runtime import fields, precision
from mnist_jax.runtime.errors import InputError

Schedule = Callable[[ArrayLike], ArrayLike]

_INT32_MAX = np.iinfo(np.int32).max  # what optax counts in

LEARNING_RATE = fields.Setting(
  0.2,
  "step size",
  # Below the smallest normal number accelerators take a float32 for 0.
  least=float(np.finfo(np.float32).tiny),
  most=float(np.finfo(np.float32).max),
)


def fixed(learning_rate: float) -> Schedule:
  """lr(t) = learning_rate."""
  _check_learning_rate(learning_rate)
  return optax.constant_schedule(learning_rate)


def step(learning_rate: float, gamma: float, decay_steps: int) -> Schedule:
  """lr(t) = learning_rate gamma^floor(t / decay_steps)."""
  _check_factor("gamma", gamma)
  return _staircase(learning_rate, gamma, decay_steps)


def multistep(
  learning_rate: float, gamma: float, boundaries: Sequence[int]
) -> Schedule:
  """lr(t) = learning_rate gamma^(number of boundaries <= t), rising ones."""
  _check_learning_rate(learning_rate)
  _check_factor("gamma", gamma)
  _check_boundaries(boundaries)
  return _signed(
    optax.piecewise_constant_schedule(
      learning_rate, {int(boundary): gamma for boundary in boundaries}
    )
  )


def exp(learning_rate: float, gamma: float) -> Schedule:
  """lr(t) = learning_rate gamma^t."""
  _check_learning_rate(learning_rate)
  _check_factor("gamma", gamma)
  return optax.exponential_decay(learning_rate, 1, gamma)


def inv(learning_rate: float, gamma: float, power: float) -> Schedule:
  """lr(t) = learning_rate (1 + gamma t)^-power, gamma > 0; optax has none.

  Robbins and Monro's two conditions hold for a power in (1/2, 1].
  """
  _check_learning_rate(learning_rate)
  _check_positive(gamma=gamma, power=power)

  def schedule(count: ArrayLike) -> ArrayLike:
    # A join evaluates its children before their turn, at negative counts,
    # where this would be NaN: not used, but caught by jax_debug_nans.
    count = jnp.maximum(count, 0)
    return learning_rate * jnp.power(1 + gamma * count, -power)

  return schedule


def poly(learning_rate: float, power: float, decay_steps: int) -> Schedule:
  """lr(t) = learning_rate (1 - t / decay_steps)^power, 0 from decay_steps on.

  Caffe's rises again after its end when power is even.
  """
  _check_learning_rate(learning_rate)
  _check_positive(power=power)
  _check_updates("decay_steps", decay_steps)
  decay = optax.polynomial_schedule(learning_rate, 0.0, power, decay_steps)
  # XLA divides by a constant through its rounded reciprocal, so that optax's
  # 1 - T / T is not 0 for every T (49, say).
  return lambda count: jnp.where(
    jnp.asarray(count) < decay_steps, decay(count), 0.0
  )


def cosine(learning_rate: float, decay_steps: int) -> Schedule:
  """lr(t) = learning_rate (1 + cos(pi t / decay_steps)) / 2, from there on 0.

  Half a period, without restarts (Loshchilov & Hutter 2017).
  """
  _check_learning_rate(learning_rate)
  _check_updates("decay_steps", decay_steps)

  def schedule(count: ArrayLike) -> ArrayLike:
    # The same as a square: optax's cosine_decay_schedule takes the small rates
    # near the end from 1 - 1, where float64 keeps few digits of them.
    left = 1 - jnp.clip(count, 0, decay_steps) / decay_steps
    rate = learning_rate * jnp.sin(jnp.pi / 2 * left) ** 2
    return jnp.where(jnp.asarray(count) < decay_steps, rate, 0.0)

  return schedule


def wsd(learning_rate: float, stable_steps: int, decay_steps: int) -> Schedule:
  """lr(t) = learning_rate min(1, 1 - (t - stable_steps) / decay_steps).

  Stable, then linearly to 0, where it stays; with a warmup before it this is
  warmup-stable-decay (Hu et al. 2024; Hägele et al. 2024).
  """
  _check_updates("stable_steps", stable_steps)
  return join(
    [fixed(learning_rate), poly(learning_rate, 1.0, decay_steps)],
    [stable_steps],
  )


def exponential_decay(
  learning_rate: float,
  decay_rate: float,
  decay_steps: int,
  staircase: bool = False,
) -> Schedule:
  """The chapter's formula: learning_rate decay_rate^(t / decay_steps).

  LR_current in the text must be the initial rate, as the exponent already
  counts all updates: this is TensorFlow's and optax's exponential decay.
  `staircase` floors the exponent, which makes it the policy `step`.
  """
  _check_factor("decay_rate", decay_rate)
  if staircase:
    return _staircase(learning_rate, decay_rate, decay_steps)
  _check_learning_rate(learning_rate)
  _check_updates("decay_steps", decay_steps)
  return optax.exponential_decay(learning_rate, decay_steps, decay_rate)


def _staircase(learning_rate: float, factor: float, steps: int) -> Schedule:
  _check_learning_rate(learning_rate)
  _check_updates("decay_steps", steps)
  decay = optax.exponential_decay(learning_rate, 1, factor)
  # Not optax's staircase: it floors the product of count and the rounded
  # reciprocal of steps, and so drops an update late for some steps (on jax
  # 0.10: 41 in float32, 49 in float64). Whole numbers divide exactly.
  return lambda count: decay(jnp.asarray(count) // steps)


def join(
  schedules: Sequence[Schedule],
  boundaries: Sequence[int],
  restart: bool = True,
) -> Schedule:
  """One schedule after the other.

  Args:
    boundaries: The update at which each schedule but the first takes over;
      increasing, the first at least 1.
    restart: Whether each schedule counts from its own boundary, as in optax,
      or sees the count of the whole run.

  Raises:
    InputError: not one boundary fewer than schedules, or boundaries that are
      unsorted, repeated or below 1.
  """
  if len(boundaries) != len(schedules) - 1:
    raise InputError(
      f"boundaries: {len(boundaries)} for {len(schedules)} schedules, "
      "expected one fewer than schedules"
    )
  if boundaries:
    _check_boundaries(boundaries)
  if not restart:
    schedules = list(map(_advanced, schedules, (0, *boundaries)))
  return _signed(optax.join_schedules(schedules, boundaries))


def _signed(schedule: Schedule) -> Schedule:
  """The schedule for any count; optax subtracts, and 0 - 1 may be 2^32 - 1."""

  def signed(count: ArrayLike) -> ArrayLike:
    if jnp.issubdtype(jnp.result_type(count), jnp.unsignedinteger):
      count = jnp.asarray(count).astype(int)
    return schedule(count)

  return signed


def _advanced(schedule: Schedule, updates: int) -> Schedule:
  return lambda count: schedule(count + updates)


def with_warmup(
  schedule: Schedule, warmup_steps: int, restart: bool = True
) -> Schedule:
  """Linear warmup: update t < W uses (t + 1) / (W + 1) of the schedule's rate.

  The first update has a rate above 0, the rates rise by equal amounts, and the
  first after warmup is the schedule's own (Goyal et al. 2017, section 2.2).

  Args:
    warmup_steps: W, the updates of the ramp, at least 1.
    restart: Whether to warm up to schedule(0), from where the schedule then
      counts, so that its whole course is W updates later. Otherwise the ramp
      multiplies the schedule, which counts from the start of the run;
      boundaries keep their place and the rate never reaches schedule(0) if
      that decays at once.

  Raises:
    InputError: warmup_steps below 1.
  """
  _check_updates("warmup_steps", warmup_steps)
  ramp = optax.linear_schedule(1 / (warmup_steps + 1), 1.0, warmup_steps)

  def warmup(count: ArrayLike) -> ArrayLike:
    return ramp(count) * schedule(0 if restart else count)

  return join([warmup, schedule], [warmup_steps], restart)


def tabulate(
  schedule: Schedule, num_steps: SupportsIndex
) -> Float32[np.ndarray, " T"]:
  """The rates of updates 0 ... T - 1, computed in float64 and rounded once.

  For this module's schedules each is within one unit in the last place of
  float32 of the exact value. Any other optax schedule is as exact as its own
  constants: one that holds float32 arrays keeps their rounding. One that jax
  cannot trace, for an `if` on its count, is called T times.

  Raises:
    InputError: num_steps, T, below 1; no single number a count, or one that
      jax traces; or a rate that is not finite and >= 0 in float32. Rates too
      small for float32 round to 0 (`learning_rates` refuses them).
  """
  _check_updates("num_steps", num_steps)
  exact = _evaluate(schedule, int(num_steps))
  with np.errstate(over="ignore"):
    rates = exact.astype(np.float32)
  bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
  if bad.size:
    raise InputError(
      f"learning rate {exact[bad[0]]:g} at update {bad[0]}: "
      "expected a finite float32, at least 0"
    )
  return rates


def _evaluate(schedule: Schedule, num_steps: int) -> Float64[np.ndarray, " T"]:
  # XLA compiles each operation once per length (half a second a schedule), so
  # tables of many lengths are cut from few; the last count fills up.
  length = max(1024, 1 << (num_steps - 1).bit_length())
  counts = np.minimum(np.arange(length, dtype=np.int64), num_steps - 1)
  with precision.float64(), jax.default_device(_cpu()):
    rates: ArrayLike | list[ArrayLike]
    try:
      rates = jax.vmap(schedule)(jnp.asarray(counts))
    except TypeError:  # with jax's own for what it cannot trace
      rates = [schedule(count) for count in range(num_steps)]
    try:
      table = np.asarray(rates, dtype=np.float64)[:num_steps]
    except jax.errors.JAXTypeError:
      raise InputError(
        "schedule: its rates are traced by jax, expected numbers (make the "
        "table outside of jit, grad and vmap)"
      ) from None
    except (TypeError, ValueError, IndexError):
      table = np.empty(0)
  if table.shape != (num_steps,):
    found = " ".join(repr(schedule(0)).split())
    raise InputError(
      f"schedule: found {found:.60} for update 0, expected one number"
    )
  return table


def _cpu() -> jax.Device | None:
  """Float64 is native there and the same for every accelerator."""
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:  # JAX_PLATFORMS may leave the CPU out
    return None


def _check_learning_rate(value: float) -> None:
  LEARNING_RATE.check("learning_rate", LEARNING_RATE.hold(value))


def _check(name: str, value: object, good: bool, expected: str) -> None:
  if not good:
    raise InputError(f"{name}={value}: expected {expected}")


def _check_positive(**values: float) -> None:
  for name, value in values.items():
    good = _is_known(value) and 0 < value < math.inf
    _check(name, value, good, "a finite number above 0")


def _check_factor(name: str, value: float) -> None:
  expected = "a factor above 0 and below 1 (for no decay: schedule=fixed)"
  _check(name, value, _is_known(value) and 0 < value < 1, expected)


def _is_known(value: object) -> bool:
  return not isinstance(value, jax.core.Tracer)


def _check_updates(name: str, value: SupportsIndex) -> None:
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  good = whole and 1 <= int(value) <= _INT32_MAX
  _check(name, value, good, f"a whole number of updates in [1, {_INT32_MAX}]")


def _check_boundaries(boundaries: Sequence[int]) -> None:
  text = ",".join(str(boundary) for boundary in boundaries)
  _check("boundaries", text, len(boundaries) > 0, "at least one update")
  for boundary in boundaries:
    _check_updates("boundaries", boundary)
  rising = all(a < b for a, b in itertools.pairwise(boundaries))
  _check("boundaries", text, rising, "increasing updates, none twice")

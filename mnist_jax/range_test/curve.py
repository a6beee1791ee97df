"""The curve of a learning-rate range test: ramp, smoothing, and where it ends.

S seeds, T updates, K updates kept. The test raises the rate after every update
and watches the loss (section 12.4; Smith 2015, section 3.3): update t is made
at rate eta_t, and losses[t] is the loss found *after* it, so that what a rate
breaks stands at that rate. This module knows no model and no jax.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Real

from mnist_jax.runtime.errors import InputError

SHAPES = ("exponential", "linear")
MEASURES = ("train", "dev")
FEWEST_STEPS = 10
SMOOTHING = 0.9
DIVERGENCE_FACTOR = 4.0  # fastai's

StopReason = Literal["diverged", "not finite"]


@dataclasses.dataclass(frozen=True)
class Ramp:
  """The rates of a range test, rising from `low` to `high` in T updates.

  Raises:
    InputError: A value is out of its range.
  """

  low: float = 1e-4  # 0 < low < high, in float32's range
  high: float = 100.0
  steps: int = 400  # T, at least FEWEST_STEPS
  shape: str = "exponential"  # equal factors; or "linear", equal differences

  def __post_init__(self) -> None:
    limits = np.finfo(np.float32)
    if not float(limits.tiny) <= self.low < self.high <= float(limits.max):
      raise InputError(
        f"the ramp goes from {self.low:g} to {self.high:g}, expected two "
        "rates above 0, the first one smaller"
      )
    if self.steps < FEWEST_STEPS:
      raise InputError(
        f"the ramp has {self.steps} updates, expected at least {FEWEST_STEPS}"
      )
    if self.shape not in SHAPES:
      raise InputError(
        f"the ramp is {self.shape!r}, expected one of {', '.join(SHAPES)}"
      )

  def rates(self) -> Float[np.ndarray, " T"]:
    """The rates of updates 0 to T - 1, float32, both ends exact."""
    space = np.geomspace if self.shape == "exponential" else np.linspace
    return space(self.low, self.high, self.steps).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Stop:
  """Where a curve is cut: the first update after which the loss was lost.

  Attributes:
    reason: "diverged", the smoothed loss exceeded the factor times its best;
      or "not finite", the loss was NaN or infinite.
  """

  reason: StopReason
  update: int  # from 0 on, as in the ramp
  rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class LossCurve:
  """One seed's range test, cut where it stopped."""

  rates: Float[np.ndarray, " K"]
  losses: Float[np.ndarray, " K"]  # after each update kept, all finite
  smoothed: Float[np.ndarray, " K"]  # the same, by `smooth`
  smoothing: float
  initial: float  # before the first update; where it is not finite, K is 0
  stop: Stop | None  # where it was cut; None if the ramp ended first
  noise: Float[np.ndarray, "2 K"] | None = None  # as in `Recording`


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
  """What a range test of S seeds measured, before any judgement.

  Attributes:
    noise: Two estimates at the parameters before each update: |G|^2, the
      squared length of the true gradient, and tr(Sigma) / B, the variance of
      the batch's, summed over its entries. Their ratio is B_simple / B, the
      gradient noise scale of McCandlish et al. (2018), section 2.2, over the
      batch size; each may be negative, being unbiased. None: not measured.
    measured_on: "train", each loss on a batch not yet trained on, or "dev",
      all on the same examples.
  """

  rates: Float[np.ndarray, " T"]
  initial: Float[np.ndarray, " S"]  # before the first update
  losses: Float[np.ndarray, "S T"]  # not finite once a seed is lost
  noise: Float[np.ndarray, "S 2 T"] | None = None
  measured_on: str = "train"
  seeds: tuple[int, ...] = (0,)
  note: str | None = None  # what the optimiser made of the rates, one line

  def __post_init__(self) -> None:
    if len(self.seeds) != len(self.losses):
      raise InputError(
        f"{len(self.losses)} curves for {len(self.seeds)} seeds, expected one "
        "curve for each seed"
      )


def smooth(
  losses: Real[np.ndarray, "*S T"], smoothing: float = SMOOTHING
) -> Float[np.ndarray, "*S T"]:
  """Exponential moving average over updates, corrected for its start.

  s_t = beta s_(t-1) + (1 - beta) l_t, over 1 - beta^(t+1) (Kingma & Ba 2015,
  section 3): an average of l_0 ... l_t whose weights add up to 1, so that a
  constant curve stays what it is. From a value that is not finite on, all are
  not finite.

  Args:
    smoothing: The beta, in [0, 1); 0 leaves the curve as it is.

  Raises:
    InputError: The smoothing is out of its range.
  """
  if not 0 <= smoothing < 1:
    raise InputError(f"smoothing is {smoothing}, expected a number in [0, 1)")
  averages = (1 - smoothing) * np.asarray(losses, np.float64)
  # Not scipy.signal.lfilter, which takes longer to import than a test to run.
  with np.errstate(invalid="ignore"):  # infinities of both signs
    for t in range(1, averages.shape[-1]):
      averages[..., t] += smoothing * averages[..., t - 1]
  return averages / (1 - smoothing ** np.arange(1, averages.shape[-1] + 1))


def check_factor(divergence_factor: float) -> None:
  """Raises InputError unless the factor is finite and above 1."""
  if not 1 < divergence_factor < math.inf:
    raise InputError(
      f"the divergence factor is {divergence_factor}, expected one above 1"
    )


def find_stop(
  losses: Float[np.ndarray, " T"],
  smoothed: Float[np.ndarray, " T"],
  rates: Float[np.ndarray, " T"],
  initial: float = 0.0,
  divergence_factor: float = DIVERGENCE_FACTOR,
) -> Stop | None:
  """The first update whose loss is not finite or whose smoothed loss is too
  high; None if there is neither.

  Too high: more than |best| (factor - 1) above the best smoothed loss so far,
  which for losses above 0 is factor x best, and is no trap for others. NaN is
  looked for by itself, since `nan > 4 * best` is False.

  Raises:
    InputError: The factor is not finite, or not above 1.
  """
  check_factor(divergence_factor)
  lost = ~np.isfinite(losses)
  if not math.isfinite(initial):
    lost = np.ones_like(lost)
  good = np.where(lost, np.inf, smoothed)
  best = np.minimum.accumulate(good)
  with np.errstate(invalid="ignore"):
    high = good > best + (divergence_factor - 1) * np.abs(best)
  stops = np.flatnonzero(lost | high)
  if not stops.size:
    return None
  t = int(stops[0])
  return Stop("not finite" if lost[t] else "diverged", t, float(rates[t]))


def loss_curves(
  recording: Recording,
  *,
  smoothing: float = SMOOTHING,
  divergence_factor: float = DIVERGENCE_FACTOR,
) -> tuple[LossCurve, ...]:
  """Each seed's curve, smoothed and cut where it stopped.

  Raises:
    InputError: The smoothing or the factor is out of its range.
  """
  losses = np.asarray(recording.losses, np.float64)
  smoothed = smooth(losses, smoothing)
  rates = np.asarray(recording.rates, np.float64)
  result = []
  for i, initial in enumerate(map(float, recording.initial)):
    stop = find_stop(losses[i], smoothed[i], rates, initial, divergence_factor)
    end = len(rates) if stop is None else stop.update
    noise = recording.noise
    result.append(
      LossCurve(
        rates=rates[:end],
        losses=losses[i, :end],
        smoothed=smoothed[i, :end],
        smoothing=smoothing,
        initial=initial,
        stop=stop,
        noise=None if noise is None else noise[i, :, :end].astype(np.float64),
      )
    )
  return tuple(result)


def warning(curves: tuple[LossCurve, ...]) -> str | None:
  """One line if the ramp ended before the rate was too large; else None."""
  ended = [curve for curve in curves if curve.stop is None]
  if not ended:
    return None
  return (
    f"{len(ended)} of {len(curves)} seeds had not diverged at the ramp's end, "
    f"rate {ended[0].rates[-1]:.3g}: a higher end may show more"
  )

"""What finite differences at several steps say of a derivative, how surely.

A difference at step h is wrong by about noise / h, because the two losses are
rounded, plus a power of h, because the function is not straight; where the
step crosses a kink it is wrong by a fraction of the kink. One step cannot tell
these apart, several can. NumPy only; nothing here evaluates a function.

Shapes: K steps (largest first), n entries or lines.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# An error bar is this many standard deviations of rounding noise wide: with
# 1e5 entries 5 would do if the noise were known and Gaussian; it is measured.
SIGMAS = 10.0
# Extrapolation removes the leading power of h. What it leaves is taken to be
# at most this fraction of what the step's halving changed; where that is too
# bold the entry is looked at with many steps.
TRUNCATION = 0.01


class Estimate(NamedTuple):
  """Derivatives and the half-widths of the intervals they must lie in, [n]."""

  value: Float[np.ndarray, " n"]
  noise: Float[np.ndarray, " n"]  # the part of the half-width due to rounding
  truncation: Float[np.ndarray, " n"]

  @property
  def bar(self) -> Float[np.ndarray, " n"]:
    """The half-width."""
    return self.noise + self.truncation

  @classmethod
  def unknown(cls, size: int) -> "Estimate":
    """No value yet, and infinite bars."""
    return cls(np.full(size, np.nan), np.full(size, np.inf), np.zeros(size))

  def improved_by(self, other: "Estimate") -> "Estimate":
    """The other's entries where they are finite and have the smaller bars."""
    better = np.isfinite(other.value) & (other.bar < self.bar)
    return Estimate(
      *(
        np.where(better, new, old) for new, old in zip(other, self, strict=True)
      )
    )


def difference_noise(sigma: Any, step: float, method: str) -> Any:
  """Bar of one difference when each loss has noise sigma (independent)."""
  spread = 2**0.5 * sigma / step
  return SIGMAS * (spread / 2 if method == "two_sided" else spread)


def extrapolate(
  coarse: np.ndarray, fine: np.ndarray, ratio: float, order: int
) -> np.ndarray:
  """Richardson: from differences at h and h / ratio, without the h^order."""
  return fine + (fine - coarse) / (ratio**order - 1)


def extrapolated_noise(coarse: Any, fine: Any, ratio: float, order: int) -> Any:
  """The bar of `extrapolate` from the bars of its two (independent) parts."""
  gain = ratio**order
  return np.hypot(gain * fine, coarse) / (gain - 1)


def best_pair(
  differences: Float[np.ndarray, "K n"],
  steps: tuple[float, ...],
  sigma: float,
  method: str,
) -> Estimate:
  """The extrapolation of two neighbouring steps with the smallest bar.

  Args:
    differences: The differences, one row for each step.
    steps: The steps, falling.
    sigma: The noise of one loss, a standard deviation.
    method: The formula, "two_sided" (error h^2) or "one_sided" (error h).

  Returns:
    The best estimate of each entry; its bar is infinite where no difference is
    finite.
  """
  order = 2 if method == "two_sided" else 1
  best = Estimate.unknown(differences.shape[1])
  bars = [difference_noise(sigma, step, method) for step in steps]
  for k, (large, small) in enumerate(itertools.pairwise(steps)):
    coarse, fine = differences[k], differences[k + 1]
    ratio = large / small
    noise = extrapolated_noise(bars[k], bars[k + 1], ratio, order)
    found = Estimate(
      extrapolate(coarse, fine, ratio, order),
      np.full(fine.shape, noise),
      TRUNCATION * np.abs(coarse - fine),
    )
    best = best.improved_by(found)
  return best


_Reading = tuple[np.ndarray, np.ndarray]  # value and bar, [n]


def _select(where: np.ndarray, first: _Reading, second: _Reading) -> _Reading:
  return (
    np.where(where, first[0], second[0]),
    np.where(where, first[1], second[1]),
  )


def longest_agreement(
  values: Float[np.ndarray, "K n"], bars: Float[np.ndarray, "K n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """The most precise estimate that all smaller steps agree with.

  Small steps are noisy but see the function where it is straight, so going up
  from the smallest, estimates are accepted while all intervals so far have a
  point in common (Lepski 1991; the intersection of confidence intervals of
  Goldenshluger & Nemirovski 1997). The one before the last accepted is
  returned: the last one's bias may be as large as the bars, the one before's,
  a power of the steps' ratio smaller, is not.

  Args:
    values: The estimates, the largest step's first.
    bars: The bar of each.

  Returns:
    Value and bar, [n]; NaN and infinity where the smallest step is not finite.
  """
  count = values.shape[1]
  low, high = np.full(count, -np.inf), np.full(count, np.inf)
  current = previous = (np.full(count, np.nan), np.full(count, np.inf))
  going = np.ones(count, bool)
  accepted = np.zeros(count, int)
  for value, bar in zip(values[::-1], bars[::-1], strict=True):
    with np.errstate(invalid="ignore"):
      meets = (value - bar <= high) & (value + bar >= low)
      going &= meets & np.isfinite(value)
    low = np.where(going, np.maximum(low, value - bar), low)
    high = np.where(going, np.minimum(high, value + bar), high)
    previous = _select(going, current, previous)
    current = _select(going, (value, bar), current)
    accepted += going
  return _select(accepted <= 1, current, previous)


class Lines(NamedTuple):
  """Losses along n lines at K steps (largest first), and at their middle."""

  steps: tuple[float, ...]
  above: Float[np.ndarray, "K n"]
  below: Float[np.ndarray, "K n"]
  up: Float[np.ndarray, "K n"]  # the steps really taken
  down: Float[np.ndarray, "K n"]
  middle: float

  @property
  def forward(self) -> Float[np.ndarray, "K n"]:
    """The one-sided differences (f(x + h) - f(x)) / h."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
      return (self.above - self.middle) / self.up

  @property
  def backward(self) -> Float[np.ndarray, "K n"]:
    """The one-sided differences (f(x) - f(x - h)) / h."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
      return (self.middle - self.below) / self.down

  @property
  def two_sided(self) -> Float[np.ndarray, "K n"]:
    """The differences (f(x + h) - f(x - h)) / 2h."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
      return (self.above - self.below) / (self.up + self.down)

  def differences(self, method: str) -> Float[np.ndarray, "K n"]:
    """Those of "two_sided" or "one_sided", the forward ones."""
    return self.two_sided if method == "two_sided" else self.forward


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What many steps say of each line. All [n].

  Attributes:
    value, bar: The best estimate of the derivative.
    forward, backward: The one-sided derivatives.
    wrong: Whether the given value cannot be the derivative.
    kink: Whether the line has a kink at every step, so that the given value
      may be right.
    not_finite: Whether no step gave a finite difference.
  """

  value: Float[np.ndarray, " n"]
  bar: Float[np.ndarray, " n"]
  forward: Float[np.ndarray, " n"]
  backward: Float[np.ndarray, " n"]
  wrong: Bool[np.ndarray, " n"]
  kink: Bool[np.ndarray, " n"]
  not_finite: Bool[np.ndarray, " n"]


def _scatter(
  differences: Float[np.ndarray, "K n"], steps: tuple[float, ...]
) -> Float[np.ndarray, " n"]:
  """The noise of one loss that the two-sided differences themselves show.

  Between the smallest steps a smooth function's differences change by noise
  alone, which tells of lines that are noisier than the others.
  """
  spreads = []
  for k in range(max(0, len(steps) - 5), len(steps) - 1):
    scale = np.hypot(1 / steps[k], 1 / steps[k + 1]) / 2**0.5
    with np.errstate(invalid="ignore"):
      spreads.append(np.abs(differences[k] - differences[k + 1]) / scale)
  return np.nan_to_num(np.sqrt(np.mean(np.square(spreads), axis=0)), posinf=0.0)


def _readings(lines: Lines, sigma: float) -> dict[str, _Reading]:
  """Value and bar of each reading of the lines.

  "two", "forward" and "backward": the derivative from two- and one-sided
  differences. "jump": the forward less the backward derivative, which is zero
  without a kink; the differences' h f'' is extrapolated away and h^3 is left.
  "smallest": from the smallest two-sided steps alone.
  """
  two, forward, backward = lines.two_sided, lines.forward, lines.backward
  with np.errstate(invalid="ignore", over="ignore"):
    jump = forward - backward
  sigmas = np.maximum(sigma, _scatter(two, lines.steps))
  found = {}
  # How many noises of one loss are in each kind of difference, times h.
  for name, table, noises, order in (
    ("two", two, 0.5**0.5, 2),
    ("forward", forward, 2**0.5, 1),
    ("backward", backward, 2**0.5, 1),
    ("jump", jump, 6**0.5, 1),
  ):
    values, bars = [], []
    unit = SIGMAS * noises * sigmas
    for k, (coarse, fine) in enumerate(itertools.pairwise(lines.steps)):
      ratio = coarse / fine
      with np.errstate(invalid="ignore", over="ignore"):
        values.append(extrapolate(table[k], table[k + 1], ratio, order))
      bars.append(extrapolated_noise(unit / coarse, unit / fine, ratio, order))
    found[name] = longest_agreement(np.stack(values), np.stack(bars))
    if name == "two":
      found["smallest"] = (values[-1], bars[-1])
  return found


def judge_lines(
  lines: Lines,
  given: Float[np.ndarray, " n"],
  tolerance: Float[np.ndarray, " n"],
  sigma: float,
) -> Judgement:
  """Judges given derivatives by two- and one-sided differences at many steps.

  A kink beside the point leaves one side clean and all steps below its
  distance; a kink at the point makes the sides differ for good. "Wrong" is
  said only of values outside what any kink that may be there allows: half its
  jump to either side of the two-sided value.

  Args:
    lines: The losses along each of n lines, at two steps or more.
    given: The derivatives to judge.
    tolerance: The rounding error allowed in them.
    sigma: The noise of one loss, a standard deviation; a line that is noisier
      is treated as such.
  """
  found = _readings(lines, sigma)
  two, forward, backward = found["two"], found["forward"], found["backward"]
  finite = np.isfinite(two[1])

  def agrees(reading: _Reading) -> np.ndarray:
    return np.abs(given - reading[0]) <= reading[1] + tolerance

  with np.errstate(invalid="ignore"):
    jump, jump_bar = found["jump"]
    kinked = np.abs(jump) > jump_bar
    half = (np.abs(jump) + jump_bar) / 2
    half = np.where(np.isfinite(half), half, 0.0)
    widened = (two[0], two[1] + half)
    near = _select(agrees(forward), forward, backward)
    side = _select(forward[1] <= backward[1], forward, backward)
    best = _select(side[1] < two[1], side, two)
    possible = agrees(found["smallest"])
    # Beside a kink too near for the small steps to see, one side is right.
    resolved = np.where(
      kinked,
      (agrees(forward) | agrees(backward)) & possible,
      agrees(best) | agrees(widened),
    )
    wrong = ~resolved & ~agrees(widened) & ~(kinked & possible) & finite
  # A resolved line takes the reading that the given value agrees with.
  value, bar = _select(kinked, near, _select(agrees(best), best, widened))
  value, bar = _select(resolved, (value, bar), two)
  return Judgement(
    value=value,
    bar=bar,
    forward=forward[0],
    backward=backward[0],
    wrong=wrong,
    kink=kinked & ~resolved & ~wrong & finite,
    not_finite=~finite,
  )

"""What finite differences at several steps say of a derivative, how surely.

A difference at step h is wrong by about noise / h, because the two losses are
rounded, plus a power of h, because the function is not straight; where the
step crosses a kink it is wrong by a fraction of the kink. One step cannot tell
these apart, several can. NumPy only; nothing here evaluates a function.

Shapes: K steps (largest first), n entries or lines.
"""

import dataclasses
import itertools
from collections.abc import Iterator
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


# Of a kind of difference how many noises of one loss are in it, times h, and
# the power of h by which it is wrong; "jump" is forward less backward.
_NOISES_AND_ORDER = {
  "two_sided": (0.5**0.5, 2),
  "one_sided": (2**0.5, 1),
  "jump": (6**0.5, 1),
}


def difference_noise(sigma: Any, step: float, method: str) -> Any:
  """Bar of one difference when each loss has noise sigma (independent)."""
  return SIGMAS * _NOISES_AND_ORDER[method][0] * sigma / step


_Reading = tuple[np.ndarray, np.ndarray]  # value and bar, [n]


def _extrapolated(
  differences: Float[np.ndarray, "K n"],
  steps: tuple[float, ...],
  sigma: Any,
  kind: str,
) -> Iterator[_Reading]:
  """Richardson's, of each two neighbouring steps: without the leading power.

  The bars are those of the two differences, which are independent.
  """
  noises, order = _NOISES_AND_ORDER[kind]
  unit = SIGMAS * noises * sigma
  for k, (coarse, fine) in enumerate(itertools.pairwise(steps)):
    gain = (coarse / fine) ** order
    with np.errstate(invalid="ignore", over="ignore"):
      change = differences[k + 1] - differences[k]
      value = differences[k + 1] + change / (gain - 1)
    yield value, np.hypot(gain * (unit / fine), unit / coarse) / (gain - 1)


def best_pair(
  differences: Float[np.ndarray, "K n"],
  steps: tuple[float, ...],
  sigma: Any,
  method: str,
) -> Estimate:
  """The extrapolation of two neighbouring steps with the smallest bar.

  The bar is infinite where no difference is finite. Sigma, a number or [n], is
  the standard deviation of one loss, in the unit of the steps.
  """
  best = Estimate.unknown(differences.shape[1])
  readings = _extrapolated(differences, steps, sigma, method)
  with np.errstate(invalid="ignore"):
    changes = np.diff(differences, axis=0)
  for change, (value, noise) in zip(changes, readings, strict=True):
    bar = np.full(value.shape, noise)
    found = Estimate(value, bar, TRUNCATION * np.abs(change))
    best = best.improved_by(found)
  return best


def _select(where: np.ndarray, first: _Reading, second: _Reading) -> _Reading:
  return (
    np.where(where, first[0], second[0]),
    np.where(where, first[1], second[1]),
  )


def longest_agreement(
  values: Float[np.ndarray, "K n"],
  bars: Float[np.ndarray, "K n"],
  back: int = 1,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """The most precise estimate that all smaller steps agree with.

  Small steps are noisy but see the function where it is straight, so going up
  from the smallest, estimates are accepted while all intervals so far have a
  point in common (Lepski 1991; the intersection of confidence intervals of
  Goldenshluger & Nemirovski 1997). The one so many before the last accepted is
  returned: the last one's bias may be as large as the bars, the one before's,
  a power of the steps' ratio smaller, is not. Kinks that several steps cross
  have a bias that falls more slowly, for which one goes further back. NaN and
  infinity where the smallest step is not finite.
  """
  count = values.shape[1]
  low, high = np.full(count, -np.inf), np.full(count, np.inf)
  unknown = (np.full(count, np.nan), np.full(count, np.inf))
  latest = [unknown] * (back + 1)  # the last accepted at the end
  going = np.ones(count, bool)
  for value, bar in zip(values[::-1], bars[::-1], strict=True):
    with np.errstate(invalid="ignore"):
      meets = (value - bar <= high) & (value + bar >= low)
      going &= meets & np.isfinite(value)
    low = np.where(going, np.maximum(low, value - bar), low)
    high = np.where(going, np.minimum(high, value + bar), high)
    shifted = [*latest[1:], (value, bar)]
    pairs = zip(shifted, latest, strict=True)
    latest = [_select(going, newer, old) for newer, old in pairs]
  result = latest[-1]
  for reading in latest[-2::-1]:  # where fewer were accepted, the first of them
    result = _select(np.isfinite(reading[1]), reading, result)
  return result


class Lines(NamedTuple):
  """Losses along n lines at K steps (largest first), and at their middle."""

  steps: tuple[float, ...]
  above: Float[np.ndarray, "K n"]
  below: Float[np.ndarray, "K n"]
  up: Float[np.ndarray, "K n"]  # the steps really taken
  down: Float[np.ndarray, "K n"]
  middle: float

  def differences(self, method: str) -> Float[np.ndarray, "K n"]:
    """Those of "two_sided", "one_sided" (the forward ones) or "backward"."""
    high: Any = self.middle if method == "backward" else self.above
    low = self.middle if method == "one_sided" else self.below
    up = 0 if method == "backward" else self.up
    down = 0 if method == "one_sided" else self.down
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
      return (high - low) / (up + down)


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What many steps say of each line."""

  value: Float[np.ndarray, " n"]  # the best estimate of the derivative
  bar: Float[np.ndarray, " n"]
  forward: Float[np.ndarray, " n"]  # the one-sided derivatives
  backward: Float[np.ndarray, " n"]
  wrong: Bool[np.ndarray, " n"]  # the given value cannot be the derivative
  kink: Bool[np.ndarray, " n"]  # at every step: the given value may be right
  jump: Bool[np.ndarray, " n"]  # the function itself: there is no derivative
  not_finite: Bool[np.ndarray, " n"]  # no step gave a finite difference


def _scatter(
  differences: Float[np.ndarray, "K n"], steps: tuple[float, ...]
) -> Float[np.ndarray, " n"]:
  """The noise of one loss that the two-sided differences themselves show.

  Between the smallest steps a smooth function's differences change by noise
  alone, which tells of lines that are noisier than the others.
  """
  inverse = 1 / np.array(steps[-5:])[:, None]
  with np.errstate(invalid="ignore"):
    changes = np.diff(differences[-5:], axis=0)
    spreads = changes / (np.hypot(inverse[:-1], inverse[1:]) / 2**0.5)
  with np.errstate(over="ignore"):
    square = np.mean(np.square(spreads), axis=0)
  return np.nan_to_num(np.sqrt(square), posinf=0.0)


def _readings(lines: Lines, sigma: Any, back: int) -> dict[str, _Reading]:
  """Value and bar of each reading of the lines.

  "two", "forward" and "backward": the derivative from two- and one-sided
  differences. "jump": the forward less the backward derivative, which is zero
  without a kink; the differences' h f'' is extrapolated away and h^3 is left.
  "smallest": from the smallest two-sided steps alone.
  """
  two, forward, backward = map(
    lines.differences, ("two_sided", "one_sided", "backward")
  )
  with np.errstate(invalid="ignore", over="ignore"):
    jump = forward - backward
  sigmas = np.maximum(sigma, _scatter(two, lines.steps))
  found = {}
  for name, table, kind in (
    ("two", two, "two_sided"),
    ("forward", forward, "one_sided"),
    ("backward", backward, "one_sided"),
    ("jump", jump, "jump"),
  ):
    readings = list(_extrapolated(table, lines.steps, sigmas, kind))
    values, bars = map(np.stack, zip(*readings, strict=True))
    found[name] = longest_agreement(values, bars, back)
    if name == "two":
      found["smallest"] = readings[-1]
  return found


_JUMP_STEPS = 4  # over so many of the smallest steps a jump stays what it is


def _jumps(
  lines: Lines, sigma: Any
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, "2 n"]]:
  """Whether the function jumps at the point, and which sides go on from it.

  What is left between f(x + h) and f(x - h) as h falls does not fall with it.
  """
  noise = sigma * lines.up[0] / lines.steps[0]
  with np.errstate(invalid="ignore"):
    apart = lines.above - lines.below
    last = apart[-1]
    stays = np.abs(apart[-1 - _JUMP_STEPS :] - last) <= 0.1 * np.abs(last)
    jump = np.all(stays, axis=0) & (np.abs(last) > 2 * SIGMAS * noise)
    sides = np.stack([lines.above[-1], lines.below[-1]]) - lines.middle
    return jump, np.abs(sides) <= 0.1 * np.abs(last)


def judge_lines(
  lines: Lines,
  given: Float[np.ndarray, " n"],
  tolerance: Float[np.ndarray, " n"],
  sigma: Any,
  back: int = 1,
) -> Judgement:
  """Judges given derivatives by two- and one-sided differences at many steps.

  A kink beside the point leaves one side clean and all steps below its
  distance; a kink at the point makes the sides differ for good. "Wrong" is
  said only of values outside what any kink that may be there allows: half its
  jump to either side of the two-sided value. A line that is noisier than
  sigma, the standard deviation of one loss, is treated as such.
  """
  found = _readings(lines, sigma, back)
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
  jump, (up, down) = _jumps(lines, sigma)
  one = _select(up, forward, backward)
  known = jump & (up ^ down) & np.isfinite(one[1])
  value, bar = _select(known, one, (value, bar))
  wrong = np.where(jump, known & ~agrees(one), wrong)
  return Judgement(
    value=value,
    bar=bar,
    forward=forward[0],
    backward=backward[0],
    wrong=wrong,
    kink=kinked & ~resolved & ~wrong & finite & ~jump,
    jump=jump & ~wrong,
    not_finite=~finite & ~jump,
  )


# A mean over many entries has noise that is known better than that of one.
_POOLED_SIGMAS = 6.0
_POOLED_LEAST = 3.0  # derivatives of fewer standard deviations are left out
# The biases of many entries may have one sign, unlike their noise.
_POOLED_TRUNCATION = 20.0


def pooled_miss(
  given: Float[np.ndarray, " n"],
  numeric: Estimate,
  tolerance: Float[np.ndarray, " n"],
) -> tuple[float, float]:
  """How far a factor common to all entries is from one, and its error bar.

  The weighted least-squares factor c of given = c numeric, from entries whose
  noise is independent: what no single entry shows, many do.
  """
  sigma = numeric.noise / SIGMAS
  use = np.isfinite(sigma) & np.isfinite(numeric.value) & (sigma > 0)
  # Where a step moves the loss by less than its rounding, that is no chance.
  use &= np.abs(given) > _POOLED_LEAST * sigma
  if use.sum() < 2:
    return 0.0, np.inf
  given, value, sigma = given[use], numeric.value[use], sigma[use]
  bias = _POOLED_TRUNCATION * numeric.truncation[use] + tolerance[use]
  # In units of the largest, so that no square leaves the range.
  unit = float(np.abs(given).max())
  given, value, sigma, bias = (a / unit for a in (given, value, sigma, bias))
  weights = given / sigma * (sigma.min() / sigma)
  size = float(np.sum(weights * given))
  if not size > 0:
    return 0.0, np.inf
  off = float(np.sum(weights * (given - value))) / size
  noise = float(np.sqrt(np.sum((weights * sigma) ** 2)))
  return off, (_POOLED_SIGMAS * noise + float(np.abs(weights) @ bias)) / size

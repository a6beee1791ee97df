"""Given and numeric derivatives side by side, looked at closer where needed.

Shapes: P all parameters, N of them covered, n of those in one tensor, K steps.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from mnist_jax.gradcheck._coverage import Coverage
from mnist_jax.gradcheck._layout import (
  Layout,
  flatten_like,
  norm,
  vector_distance,
)
from mnist_jax.gradcheck._numeric import error_bars, scales
from mnist_jax.gradcheck._numeric.differences import blamed_on
from mnist_jax.gradcheck._numeric.error_bars import Estimate
from mnist_jax.gradcheck._problem import Problem, first_step

STATES = ("agrees", "wrong", "kink", "jump", "not finite")
AGREES, WRONG, KINK, JUMP, NOT_FINITE = range(5)
_LARGEST_STEP = 0.2
RECHECK = 1e-2  # section 12.3: above this, look at the backward again
# A tensor is resolved when rounding may cause a distance of at most that mark
# in it; whole theta, at most epsilon^(1/3): any well chosen step does better
# than that (epsilon^(2/3) two-sided, ^(1/2) one-sided).
# Rounding errors, in standard deviations, that a correct gradient may carry.
GIVEN_SIGMAS = 32
# A tensor this many roundings below the largest derivative is zero in effect
# (a key's bias in attention, a bias before normalisation).
_ZERO_ROUNDINGS = 1e5
_LARGEST_ZERO = 1e-4
# Numeric values are made good to this part of the tensor's largest entry.
_ENOUGH = 1e-8
_BATCH = 128  # entries refined at a time
_MOST_WHEN_WRONG = 2048  # per tensor, when it is known to be wrong
_PROBED = 32  # of the worst, the mildest and the poor, before the rest
_SEEN = 30.0  # noises are what one step does where suspects are seen nearer
_FEW_BITS = 1e-4  # the spacing at 1 of float16 is above, of float32 below
_GROSS = 0.2  # of a derivative: so much steps that are too large may hide
_OWN = 8  # suspects of a batch whose own scale is looked for, before the rest


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Given and numeric derivatives of the covered coordinates, [N] each."""

  problem: Problem
  coverage: Coverage
  numeric: Estimate
  state: Int[np.ndarray, " N"]  # the number in `STATES`
  crossed: Bool[np.ndarray, " N"]  # whether the steps crossed a kink
  # The backward and forward derivatives, NaN where none looked closer.
  sides: Float[np.ndarray, "2 N"]

  @property
  def layout(self) -> Layout:
    return self.problem.losses.layout

  @functools.cached_property
  def parts(self) -> list[slice]:
    """Where each leaf lies among the covered coordinates."""
    ends = [(part.start, part.stop) for part in self.layout.slices()]
    found = np.searchsorted(self.coverage.positions, ends)
    return [slice(int(start), int(stop)) for start, stop in found]

  def by_tensor(self, vector: np.ndarray) -> list[np.ndarray]:
    """The covered entries of a vector [P], tensor by tensor."""
    return [vector[self.coverage.positions[part]] for part in self.parts]

  @functools.cached_property
  def given(self) -> Float[np.ndarray, " N"]:
    """The given derivatives."""
    return self.problem.given[self.coverage.positions]

  @functools.cached_property
  def tolerance(self) -> Float[np.ndarray, " N"]:
    """The rounding error allowed in them."""
    return self.problem.tolerance[self.coverage.positions]

  @property
  def bar(self) -> Float[np.ndarray, " N"]:
    """How far given and numeric derivative may be apart."""
    return self.numeric.bar + self.tolerance

  @property
  def miss(self) -> Float[np.ndarray, " N"]:
    """How far they are apart, in bars; infinite where that is no number."""
    with np.errstate(invalid="ignore"):
      miss = np.abs(self.given - self.numeric.value) / self.bar
    return np.where(np.isfinite(miss), miss, np.inf)

  def distance(self, part: slice = slice(None)) -> float:
    """The chapter's diff between given and numeric derivatives."""
    return vector_distance(self.given[part], self.numeric.value[part])

  def resolution(self, part: slice = slice(None)) -> float:
    """The distance (one standard deviation) that the numeric bars allow."""
    size = float(norm(self.given[part]) + norm(self.numeric.value[part]))
    bars = norm(self.numeric.bar[part]) / error_bars.SIGMAS
    bars = math.hypot(bars, norm(self.tolerance[part]) / GIVEN_SIGMAS)
    return bars / size if size else 0.0

  @functools.cached_property
  def live_leaves(self) -> list[int]:
    """The numbers of the tensors that are not 0 in effect.

    Each derivative counts by what it does to the loss over its entry's scale.
    What is less than the rounding of what was given is 0, if it is resolved.
    """
    epsilon, scale = self.problem.epsilon, self.problem.scale
    scale = scale[self.coverage.positions]
    effect = np.abs(self.given) * scale
    zero = min(_ZERO_ROUNDINGS * epsilon, _LARGEST_ZERO) * effect.max()
    found = []
    for leaf, part in enumerate(self.parts):
      rounding = (self.tolerance[part] * scale[part]).max()
      noise = (self.numeric.bar[part] * scale[part]).max()
      if effect[part].max() > max(zero, rounding if noise < rounding else 0.0):
        found.append(leaf)
    return found

  def unresolved_leaves(self) -> list[int]:
    """The numbers of the tensors that are not 0 and whose bars are too wide."""
    return [
      leaf
      for leaf in self.live_leaves
      if not self.resolution(self.parts[leaf]) <= RECHECK
    ]

  def limited_leaves(self) -> list[int]:
    """Those, and the ones that agree though they are beyond the mark."""
    return [
      leaf
      for leaf in self.live_leaves
      if not self.resolution(self.parts[leaf]) <= RECHECK
      or not self.distance(self.parts[leaf]) <= RECHECK
    ]

  def hidden(self, part: slice = slice(None)) -> int:
    """How many entries are not 0, but too small to be told from it."""
    size = np.fmax(np.abs(self.given[part]), np.abs(self.numeric.value[part]))
    return int(np.sum((size > 0) & ~(size > self.bar[part])))

  def common_factor(self, part: slice = slice(None)) -> tuple[float, float]:
    """How far given / numeric is from 1 over all entries, and its error bar."""
    clean = (self.state[part] == AGREES) & ~self.crossed[part]
    numeric = Estimate(*(row[part][clean] for row in self.numeric))
    return error_bars.pooled_miss(
      self.given[part][clean], numeric, self.tolerance[part][clean]
    )

  def coarse(self) -> bool:
    """Whether larger steps might resolve more."""
    fine = self.resolution() <= self.problem.epsilon ** (1 / 3)
    return not fine or len(self.unresolved_leaves()) > 0

  def unresolved(self) -> bool:
    """Whether rounding hides too much of theta as a whole.

    Steps that the caller chose must be as good as well chosen ones are; with
    ours, what is left is the loss's own and need only be told.
    """
    limit = RECHECK
    if self.problem.request.steps is not None:
      limit = self.problem.epsilon ** (1 / 3)
    return not (self.resolution() <= limit and self.distance() <= RECHECK)


def measure(
  problem: Problem, coverage: Coverage
) -> tuple[Comparison, tuple[tuple[float, float], ...]]:
  """The numeric derivatives at the problem's steps, and each step's distance.

  Larger steps are tried as well while rounding hides too much, unless the
  caller chose the steps.
  """
  request, positions = problem.request, coverage.positions
  count = positions.size
  comparison = Comparison(
    problem,
    coverage,
    Estimate.unknown(count),
    np.full(count, AGREES),
    np.zeros(count, bool),
    np.full((2, count), np.nan),
  )
  unit = problem.unit[positions]
  sigma, least = problem.noise[positions] / unit, problem.least_noise / unit
  still = np.ones(count, bool)  # the loss has not moved so far
  by_step: tuple[tuple[float, float], ...] = ()
  for steps in _step_sets(problem):
    if by_step and not comparison.coarse():
      break
    if request.numeric_fn is None:
      two_sided = request.method == "two_sided"
      lines = problem.losses.lines(positions, steps, unit, backward=two_sided)
      differences = lines.differences(request.method)
    else:
      rows = [_supplied(problem, request.numeric_fn, step) for step in steps]
      differences = np.stack(rows)[:, positions]
    if not by_step:
      by_step = tuple(
        (h, vector_distance(comparison.given, row))
        for h, row in zip(steps, differences, strict=True)
      )
    found = error_bars.best_pair(differences, steps, sigma, request.method)
    still &= np.all(differences == 0, axis=0)
    floor = error_bars.difference_noise(least, steps[0], request.method)
    noise = np.where(still, np.maximum(floor, found.noise), found.noise)
    numeric = comparison.numeric.improved_by(found._replace(noise=noise))
    comparison = dataclasses.replace(comparison, numeric=numeric)
  return comparison, by_step


def _step_sets(problem: Problem) -> Iterator[tuple[float, ...]]:
  """The problem's steps, then pairs that are ten times as large each time."""
  yield problem.steps
  larger = problem.steps[0] * 10
  while problem.request.steps is None and larger <= _LARGEST_STEP:
    yield larger, larger / 2
    larger *= 10


def _supplied(
  problem: Problem, numeric_fn: Callable[[PyTree, float], PyTree], step: float
) -> Float[np.ndarray, " P"]:
  """The differences that the caller's own function gives."""
  with blamed_on("numeric_fn"):
    tree = numeric_fn(problem.losses.params(), step)
  return flatten_like(problem.losses.layout, tree, "numeric_fn's result")


def refine(comparison: Comparison) -> Comparison:
  """Looks closer at entries that do not fit or that kinks have spoiled.

  Entries that disagree are judged, the worst first, until all are or until
  their tensor is known to be wrong and there are too many; then those whose
  numeric value is poor though they agree.
  """
  # Written so that a NaN disagrees.
  miss = np.abs(comparison.given - comparison.numeric.value)
  disagrees = ~(miss <= comparison.bar)
  # Batch after batch is judged in place, in arrays of its own.
  refined = dataclasses.replace(
    comparison,
    numeric=Estimate(*map(np.array, comparison.numeric)),
    state=np.where(disagrees, WRONG, AGREES),
    crossed=comparison.crossed.copy(),
    sides=comparison.sides.copy(),
  )
  rng = np.random.default_rng(0)
  problem = comparison.problem
  losses, ladder = problem.losses, problem.ladder
  for part in comparison.parts:
    for chosen in _in_turn(refined, part, disagrees, rng):
      positions = comparison.coverage.positions[chosen]
      noise, scale = problem.noise[positions], problem.scale[positions]
      lines = losses.lines(positions, ladder, scale)
      _judge(refined, chosen, lines, noise / scale)
      suspect = np.flatnonzero(refined.state[chosen] != AGREES)
      for some in (suspect[:_OWN], suspect[_OWN:]):
        if not some.size:
          break
        at, those = positions[some], chosen[some]
        found = scales.reach(losses, at)
        own, noise, scale = _of_their_own(problem, at, found)
        if own.any():
          lines = losses.lines(at[own], ladder, scale)
          _judge(refined, those[own], lines, noise / scale)
        near, noise, scale = _nearer(refined, those)
        cleared = np.zeros(0, bool)
        if near.any():
          lines = losses.lines(at[near], ladder, scale)
          cleared = _clear(refined, those[near], lines, noise / scale)
        if not own.any() and not cleared.any():
          break  # the tensor's scale is theirs
  return refined


_Look = tuple[Bool[np.ndarray, " n"], np.ndarray, np.ndarray]


def _of_their_own(
  problem: Problem, positions: Int[np.ndarray, " n"], found: scales.Reach
) -> _Look:
  """Which entries differ in noise or scale from their tensor, and those."""
  noise, scale = scales.own(
    problem.losses, problem.loss, problem.precision, positions, found
  )
  unlike = (scale < problem.scale[positions] / 8) | (
    noise > 4 * problem.noise[positions]
  )
  return unlike, noise[unlike], scale[unlike]


def _nearer(comparison: Comparison, chosen: Int[np.ndarray, " n"]) -> _Look:
  """Which suspects can be seen from nearer, and their noise and scale there.

  At the first step of such a scale the noise is a thirtieth of what the given
  derivative, or that found, does to the loss. A mistake that is a small part of
  the derivative was seen too sharply to be the work of steps too large.
  """
  problem = comparison.problem
  positions = comparison.coverage.positions[chosen]
  noise = problem.noise[positions]
  given, value = comparison.given[chosen], comparison.numeric.value[chosen]
  with np.errstate(invalid="ignore", divide="ignore"):
    slopes = np.abs([given, *comparison.sides[:, chosen]])
    size = np.fmax.reduce(slopes)
    scale = _SEEN * noise / size / first_step(problem.precision)
    gross = ~(np.abs(given - value) < _GROSS * size)
  gross |= comparison.state[chosen] != WRONG
  near = (scale > 0) & (scale < problem.scale[positions] / 8) & gross
  return near, noise[near], scale[near]


def _clear(
  comparison: Comparison,
  chosen: Int[np.ndarray, " n"],
  lines: error_bars.Lines,
  sigma: Float[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
  """Clears suspects, in place, that are right when seen from nearer.

  That is, what larger steps took for the derivative, or for a kink or a jump,
  is none there. A mistake that large steps show truly, small ones show as well
  or are too noisy to contradict.
  """
  numeric = comparison.numeric
  given, tolerance = comparison.given[chosen], comparison.tolerance[chosen]
  seen = error_bars.judge_lines(lines, given, tolerance, sigma)
  state, sides = comparison.state[chosen], comparison.sides[:, chosen]
  with np.errstate(invalid="ignore"):
    other = np.abs(seen.value - numeric.value[chosen]) > (
      seen.bar + numeric.bar[chosen]
    )
    straight = np.all(np.abs(sides - seen.value) > seen.bar, axis=0)
  apart = np.select([state == WRONG, state == KINK], [other, straight], True)
  # Of few bits large steps prove nothing that small ones do not show.
  apart |= comparison.problem.epsilon > _FEW_BITS
  bad = seen.wrong | seen.kink | seen.jump | seen.not_finite
  # Where one was mistaken the tensor's steps were too large for all.
  right = ~bad & (apart | np.any(apart & ~bad))
  there = chosen[right]
  comparison.state[there] = AGREES
  comparison.crossed[there] = True
  numeric.value[there] = seen.value[right]
  numeric.noise[there] = seen.bar[right]
  numeric.truncation[there] = 0.0
  return right


def _judge(
  comparison: Comparison,
  chosen: Int[np.ndarray, " n"],
  lines: error_bars.Lines,
  sigma: Float[np.ndarray, " n"],
) -> None:
  """Judges the chosen covered coordinates by the whole ladder, in place.

  Sigma is the noise of one loss in the unit of the lines' steps.
  """
  problem, numeric = comparison.problem, comparison.numeric
  given, tolerance = comparison.given[chosen], comparison.tolerance[chosen]
  verdict = error_bars.judge_lines(lines, given, tolerance, sigma, problem.back)
  middle = lines.middle
  still = np.all((lines.above == middle) & (lines.below == middle), axis=0)
  least = error_bars.difference_noise(
    problem.least_noise / np.abs(lines.up[0]), 1.0, "two_sided"
  )
  quiet = still & (np.abs(given) <= least + tolerance)
  state = np.where(verdict.wrong & ~quiet, WRONG, AGREES)
  state = np.where(verdict.kink, KINK, state)
  state = np.where(verdict.jump, JUMP, state)
  state = np.where(verdict.not_finite, NOT_FINITE, state)
  before = numeric.value[chosen]
  after = np.where(verdict.not_finite, np.nan, verdict.value)
  with np.errstate(invalid="ignore"):
    moved = ~(
      np.abs(before - after)
      <= 2 * (numeric.noise[chosen] + verdict.bar) + 1e-6 * np.abs(after)
    )
  comparison.crossed[chosen] = moved | verdict.kink | verdict.jump
  comparison.state[chosen] = state
  comparison.sides[:, chosen] = verdict.backward, verdict.forward
  numeric.value[chosen] = after
  numeric.noise[chosen] = np.where(
    still, np.maximum(verdict.bar, least), verdict.bar
  )
  numeric.truncation[chosen] = 0.0


def _batches(chosen: Int[np.ndarray, " n"]) -> Iterator[np.ndarray]:
  for start in range(0, chosen.size, _BATCH):
    yield chosen[start : start + _BATCH]


def _in_turn(
  comparison: Comparison,
  part: slice,
  disagrees: Bool[np.ndarray, " N"],
  rng: np.random.Generator,
) -> Iterator[np.ndarray]:
  """Batches of one tensor's entries, each to be judged before the next.

  First those that disagree, the worst first. Not all of a great many where
  that tells nothing new: the worst, the mildest and those with a poor value
  are looked at before the rest. Then others with a poor value.
  """
  numeric, state = comparison.numeric, comparison.state
  size = np.nanmax(np.abs(numeric.value[part]), initial=0.0)
  poor = numeric.truncation[part] > np.maximum(
    numeric.noise[part], _ENOUGH * size
  )
  miss = comparison.miss[part]
  suspects = np.flatnonzero(disagrees[part])
  suspects = suspects[np.argsort(-miss[suspects], kind="stable")]
  others = np.flatnonzero(poor & ~disagrees[part])
  others = part.start + rng.permutation(others)[:_MOST_WHEN_WRONG]
  poor = poor[suspects]
  suspects = part.start + suspects
  if suspects.size > 3 * _PROBED:
    ends = np.r_[0:_PROBED, suspects.size - _PROBED : suspects.size]
    first = np.union1d(ends, np.flatnonzero(poor)[:_PROBED])
    yield from _batches(suspects[first])
    seen, crossed = state[suspects[ends]], comparison.crossed[suspects[ends]]
    suspects = np.delete(suspects, first)
    if np.all((seen == WRONG) & ~crossed):
      suspects = suspects[:0]  # a closer look brings nothing new
  many = suspects.size > _MOST_WHEN_WRONG
  for chosen in _batches(suspects):
    yield chosen
    if many and np.any(state[chosen] == WRONG):
      break
  yield from _batches(others)

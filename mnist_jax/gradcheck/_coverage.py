"""Which coordinates and directions a gradient check looks at.

Up to a limit, all. Beyond it, some of every tensor: those with the largest
given derivatives, some with any, some at random; and random directions, which
feel every coordinate. Where a direction within a tensor disagrees, the
coordinate at fault is searched by halving and joins the sample.
"""

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from mnist_jax.gradcheck._layout import Layout
from mnist_jax.gradcheck._numeric.error_bars import (
  Judgement,
  Lines,
  judge_lines,
)
from mnist_jax.gradcheck._problem import Problem

_MOST = 100_000  # coordinates checked one by one, and that in about
_SECONDS = 20.0
_FEW, _TIMED = 4096, 8  # no question of time; losses by which it is told


@dataclasses.dataclass(frozen=True)
class Coverage:
  """What is looked at."""

  positions: Int[np.ndarray, " N"]  # in theta, rising
  total: int  # P
  directions: int = 0  # how many were evaluated
  # By number of the leaf a direction within it that disagrees.
  wrong_leaves: Mapping[int, Float[np.ndarray, " _"]] = dataclasses.field(
    default_factory=dict
  )
  wrong_overall: int = 0  # of the directions over all parameters

  def __str__(self) -> str:
    count = self.positions.size
    if not self.directions:
      return f"all {self.total} coordinates"
    return (
      f"{count} of {self.total} coordinates, some of every tensor, and "
      f"{self.directions} random directions; {self.total - count} coordinates "
      "were felt by the directions only"
    )


def _sample(
  layout: Layout,
  given: Float[np.ndarray, " P"],
  limit: int,
  rng: np.random.Generator,
) -> Int[np.ndarray, " N"]:
  """About `limit` coordinates, at least a few of every tensor."""
  chosen = []
  share = limit / given.size
  floor = max(1, limit // (4 * len(layout.shapes)))
  for part in layout.slices():
    size = part.stop - part.start
    count = min(size, max(min(floor, 64), int(share * size)))
    values = np.abs(given[part])
    live = np.flatnonzero(values)
    quarter = (count + 3) // 4
    top = np.argsort(-values, kind="stable")[:quarter]
    some = rng.permutation(live)[:quarter]
    first = np.union1d(top, some)[:count]
    rest = rng.permutation(np.setdiff1d(np.arange(size), first))
    within = np.concatenate([first, rest[: count - first.size]])
    chosen.append(part.start + np.sort(within))
  return np.concatenate(chosen)


def _judge(
  problem: Problem, vectors: Float[np.ndarray, "M P"], lines: Lines
) -> Judgement:
  """Judges the given gradient along directions by the losses along them."""
  slack = np.sqrt(vectors**2 @ problem.tolerance**2)
  noise = np.where(vectors, problem.noise, 0).max(axis=1)
  given = vectors @ problem.given
  return judge_lines(lines, given, slack, noise, problem.back)


def _limit(problem: Problem) -> int:
  """How many coordinates are checked at most: as many as asked for, or
  `_MOST`, or as many as their losses take `_SECONDS`.
  """
  request, total = problem.request, problem.given.size
  if request.max_coordinates is not None:
    return request.max_coordinates
  if total <= _FEW:
    return _MOST
  losses, times = problem.losses, []
  for _ in range(3):  # the first compiles
    begun = time.perf_counter()
    losses.at(losses.theta, np.arange(_TIMED), losses.theta[:_TIMED])
    times.append((time.perf_counter() - begun) / _TIMED)
  return min(_MOST, int(_SECONDS / min(times) / (2 * len(problem.steps))))


def choose(problem: Problem) -> Coverage:
  """All coordinates, or a sample and what directions say of the others.

  Each tensor has two directions of its own, besides those over all parameters.
  """
  request, total = problem.request, problem.given.size
  limit = _limit(problem)
  if request.numeric_fn is not None or total <= limit:
    return Coverage(np.arange(total), total)
  rng = np.random.default_rng(request.seed)
  layout = problem.losses.layout
  positions = _sample(layout, problem.given, limit, rng)
  wrong = {}
  for leaf, part in enumerate(layout.slices()):
    vectors = np.zeros((2, total))
    size = part.stop - part.start
    signs = rng.choice([-1.0, 1.0], (2, size)) / size**0.5
    vectors[:, part] = signs * problem.scale[part]
    lines = problem.losses.along(vectors, problem.ladder)
    bad = np.flatnonzero(_judge(problem, vectors, lines).wrong)
    if bad.size:
      wrong[leaf] = signs[bad[0]]
  overall = 0
  if request.directions:
    shape = (request.directions, total)
    vectors = rng.choice([-1.0, 1.0], shape) / total**0.5 * problem.scale
    lines = problem.losses.along(vectors, problem.ladder)
    overall = int(_judge(problem, vectors, lines).wrong.sum())
  count = 2 * len(layout.shapes) + request.directions
  return Coverage(positions, total, count, wrong, overall)


def pinpoint(problem: Problem, coverage: Coverage) -> Coverage:
  """Adds a coordinate at fault for each tensor that a direction finds wrong.

  It is found by halving the direction; the parts' misses add up to the
  whole's, so one of them has at least half of it.
  """
  slices = problem.losses.layout.slices()
  found = []
  for leaf, direction in coverage.wrong_leaves.items():
    support = np.arange(direction.size)
    while support.size > 1:
      halves = np.array_split(support, 2)
      vectors = np.zeros((2, coverage.total))
      for row, half in zip(vectors, halves, strict=True):
        signs = np.sign(direction[half])
        there = slices[leaf].start + half
        row[there] = signs / half.size**0.5 * problem.scale[there]
      lines = problem.losses.along(vectors, problem.ladder)
      value = _judge(problem, vectors, lines).value
      miss = np.abs(value - vectors @ problem.given)
      miss *= np.sqrt([half.size for half in halves])
      support = halves[int(np.argmax(miss))]
    found.append(slices[leaf].start + int(support[0]))
  positions = np.union1d(coverage.positions, np.array(found, dtype=int))
  return dataclasses.replace(coverage, positions=positions)

"""Which coordinates and directions a gradient check looks at.

Up to a limit, all. Beyond it, some of every tensor: those with the largest
given derivatives, some with any, some at random; and random directions, which
feel every coordinate. Where a direction within a tensor disagrees, the
coordinate at fault is searched by halving and joins the sample.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from mnist_jax.gradcheck._differences import Layout, Losses
from mnist_jax.gradcheck._error_bars import Judgement, Lines, judge


@dataclasses.dataclass(frozen=True)
class Coverage:
  """What is looked at.

  Attributes:
    positions: coordinates in theta, rising, [N].
    total: P.
    directions: how many were evaluated.
    wrong_leaves: leaves in which a direction disagrees.
    wrong_overall: directions over all parameters that disagree.
    text: all this in a sentence.
  """

  positions: Int[np.ndarray, " N"]
  total: int
  directions: int
  wrong_leaves: frozenset[int]
  wrong_overall: int
  text: str


def per_tensor_max(
  layout: Layout, vector: Float[np.ndarray, " P"]
) -> Float[np.ndarray, " P"]:
  """At each position the largest absolute value of its tensor."""
  result = np.empty_like(vector)
  for part in layout.slices():
    result[part] = np.abs(vector[part]).max()
  return result


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


def _along(
  losses: Losses, vectors: Float[np.ndarray, "M P"], steps: tuple[float, ...]
) -> Lines:
  """Losses along directions, one after the other."""
  shape = (len(steps), len(vectors))
  above, below = np.empty(shape), np.empty(shape)
  base = losses.round(losses.theta)
  for k, step in enumerate(steps):
    for m, vector in enumerate(vectors):
      above[k, m] = losses.at(losses.round(base + step * vector))
      below[k, m] = losses.at(losses.round(base - step * vector))
  taken = np.broadcast_to(np.array(steps)[:, None], shape)
  return Lines(steps, above, below, taken, taken, losses.at(base))


@dataclasses.dataclass(frozen=True)
class _Prober:
  """Judges the given gradient along directions."""

  losses: Losses
  given: Float[np.ndarray, " P"]
  tolerance: Float[np.ndarray, " P"]
  noise: float
  steps: tuple[float, ...]

  def judge(self, vectors: Float[np.ndarray, "M P"]) -> Judgement:
    slack = np.sqrt(vectors**2 @ self.tolerance**2)
    lines = _along(self.losses, vectors, self.steps)
    return judge(lines, vectors @ self.given, slack, self.noise)

  def find(self, vector: Float[np.ndarray, " P"]) -> int:
    """A coordinate at fault, by halving a direction that disagrees."""
    support = np.flatnonzero(vector)
    while support.size > 1:
      halves = np.array_split(support, 2)
      vectors = np.zeros((2, vector.size))
      for row, half in zip(vectors, halves, strict=True):
        row[half] = np.sign(vector[half]) / half.size**0.5
      miss = np.abs(self.judge(vectors).value - vectors @ self.given)
      # The parts' misses add up to the whole's: one has at least half of it.
      miss *= np.sqrt([half.size for half in halves])
      support = halves[int(np.argmax(miss))]
    return int(support[0])


def choose(
  losses: Losses,
  given: Float[np.ndarray, " P"],
  tolerance: Float[np.ndarray, " P"],
  noise: float,
  steps: tuple[float, ...],
  limit: int,
  directions: int,
  seed: int,
  *,
  whole: bool,
) -> Coverage:
  """All coordinates, or a sample and directions.

  Args:
    tolerance: rounding error allowed in `given`.
    noise: of one loss.
    steps: the ladder, falling.
    limit: up to here all coordinates are taken.
    directions: over all parameters; each tensor has two of its own besides.
    whole: take all in any case.
  """
  total = given.size
  if whole or total <= limit:
    everything = np.arange(total)
    return Coverage(
      everything, total, 0, frozenset(), 0, f"all {total} coordinates"
    )
  rng = np.random.default_rng(seed)
  positions = _sample(losses.layout, given, limit, rng)
  prober = _Prober(losses, given, tolerance, noise, steps)
  wrong: set[int] = set()
  found: list[int] = []
  for leaf, part in enumerate(losses.layout.slices()):
    vectors = np.zeros((2, total))
    size = part.stop - part.start
    vectors[:, part] = rng.choice([-1.0, 1.0], (2, size)) / size**0.5
    bad = np.flatnonzero(prober.judge(vectors).wrong)
    if bad.size:
      wrong.add(leaf)
      found.append(prober.find(vectors[bad[0]]))
  overall = 0
  if directions:
    signs = rng.choice([-1.0, 1.0], (directions, total)) / total**0.5
    overall = int(prober.judge(signs).wrong.sum())
  count = 2 * len(losses.layout.shapes) + directions
  positions = np.union1d(positions, np.array(found, dtype=positions.dtype))
  text = (
    f"{positions.size} of {total} coordinates, some of every tensor, and "
    f"{count} random directions; {total - positions.size} coordinates were "
    "felt by the directions only"
  )
  return Coverage(positions, total, count, frozenset(wrong), overall, text)

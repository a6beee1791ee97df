"""Where on a grid each seed's loss is least, and whether the grid holds it.

The grid is of learning rates, or of batch sizes. S seeds, K points. A loss
that is infinite or NaN is that of a run that is lost: worse than every other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from mnist_jax.runtime.errors import InputError


class GridMinimum(NamedTuple):
  """Where each seed's loss is least.

  Attributes:
    at: The place, in the units of the grid and within its ends.
    edge: A mark: -1 where the least loss is at the grid's lowest point, 1
      where it is at the highest (the minimum is there or beyond it, that is,
      censored), else 0.
  """

  at: Float[np.ndarray, " S"]
  edge: Int[np.ndarray, " S"]

  def censored(self) -> tuple[int, int]:
    """How many seeds have their least loss at the low and the high end."""
    return int((self.edge < 0).sum()), int((self.edge > 0).sum())


def _log_losses(losses: Real[np.ndarray, "S K"]) -> Float[np.ndarray, "S K"]:
  losses = np.asarray(losses, np.float64)
  if (losses <= 0).any():
    raise InputError(
      f"losses have a value of {np.nanmin(losses)}, expected all above 0"
    )
  return np.log(np.where(np.isfinite(losses), losses, np.inf))


def _vertices(
  x: Float[np.ndarray, "S 3"], y: Float[np.ndarray, "S 3"]
) -> Float[np.ndarray, " S"]:
  """Of parabolas through three points each, the middle one the lowest.

  Where a neighbour's y is infinite, the limit as it grows: the middle between
  the two others; where both are, the middle point.
  """
  finite = np.isfinite(y)
  height = np.where(finite, y, 0.0)
  left, right = x[:, 1] - x[:, 0], x[:, 2] - x[:, 1]
  down = (height[:, 0] - height[:, 1]) * right
  up = (height[:, 2] - height[:, 1]) * left
  both = down + up
  flat = both == 0
  move = (down * right - up * left) / np.where(flat, 1.0, 2 * both)
  vertex = x[:, 1] + np.where(flat, 0.0, move)
  limit = np.where(finite, x, 0.0).sum(axis=1) / finite.sum(axis=1)
  return np.where(finite.all(axis=1), vertex, limit)


def minimum(
  grid: Real[np.ndarray, " K"], losses: Real[np.ndarray, "S _"]
) -> GridMinimum:
  """The vertex of a parabola through log loss over the log grid, seed by seed.

  It goes through the least loss (of equal ones that at the lowest point) and
  its two neighbours, so the vertex lies at most half way to one of them. At an
  end of the grid there is one neighbour only: the end itself is returned, and
  marked.

  Args:
    grid: At least 3 points, rising, above 0.
    losses: Above 0; infinite or NaN for a lost run.

  Raises:
    InputError: a grid or losses that are not so, or a seed with no finite loss.
  """
  grid = np.asarray(grid, np.float64)
  if len(grid) < 3 or grid[0] <= 0 or (np.diff(grid) <= 0).any():
    raise InputError(
      f"grid is {grid.tolist()}, expected at least 3 points, above 0, rising"
    )
  log_losses = _log_losses(losses)
  if log_losses.shape[1:] != grid.shape:
    raise InputError(
      f"losses have shape {list(log_losses.shape)}, expected a column for "
      f"each of {len(grid)} points"
    )
  hopeless = np.flatnonzero(np.isinf(log_losses).all(axis=1))
  if len(hopeless):
    raise InputError(
      f"no loss of row {hopeless[0]} is finite, expected one at least"
    )
  x = np.log(grid)
  least = log_losses.argmin(axis=1)
  edge = np.where(least == 0, -1, np.where(least == len(grid) - 1, 1, 0))
  found = grid[least]
  inner = np.flatnonzero(edge == 0)
  near = least[inner, None] + np.arange(-1, 2)
  found[inner] = np.exp(_vertices(x[near], log_losses[inner[:, None], near]))
  return GridMinimum(found, edge)


class MeanMinima(NamedTuple):
  """Where the mean log loss of each of B grids is least.

  Attributes:
    at: In the units of the grids.
    draws: The same of R resamples of the seeds, which all grids share.
    censored: The share of the resamples with the minimum at an end of a grid.
  """

  at: Float[np.ndarray, " B"]
  draws: Float[np.ndarray, "R B"]
  censored: Float[np.ndarray, " B"]
  n: int  # seeds


def mean_minima(
  grids: Sequence[Real[np.ndarray, " _"]],
  losses: Sequence[Real[np.ndarray, "S _"]],
  *,
  seed: int,
  resamples: int = 1_000,
) -> MeanMinima:
  """`minimum` of the mean log loss over seeds, with the seeds resampled.

  The mean of each seed's own minimum is another number: where the curve is
  steeper to one side, noise moves a seed's minimum to the other side further
  than to this one.

  Args:
    grids, losses: As in `minimum`, the same S seeds in each, in one order.

  Raises:
    InputError: As `minimum`, or other seeds in a grid.
  """
  n = len(losses[0])
  if any(len(each) != n for each in losses):
    raise InputError(
      f"losses have {sorted({len(each) for each in losses})} seeds, expected "
      "the same in each grid"
    )
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples)
  weights = np.vstack([np.full(n, 1.0), counts]) / n
  found = []
  for grid, each in zip(grids, losses, strict=True):
    logs = _log_losses(each)
    lost = np.isinf(logs)
    means = weights @ np.where(lost, 0.0, logs)
    means = np.where(weights @ lost > 0.0, np.inf, means)
    found.append(minimum(grid, np.exp(means)))
  at = np.stack([best.at for best in found], axis=1)
  edge = np.stack([best.edge != 0 for best in found], axis=1)
  return MeanMinima(at[0], at[1:], edge[1:].mean(axis=0), n)


def least_column(losses: Real[np.ndarray, "S K"]) -> int:
  """The column of the least mean log loss; a lost run makes it infinite."""
  return int(_log_losses(losses).mean(axis=0).argmin())


def open_ends(
  losses: Real[np.ndarray, "S K"], share: float = 1.0
) -> tuple[bool, bool]:
  """Whether a grid must go on below its lowest and above its highest point.

  It must where the mean log loss is least at the end, or where more than
  `share` of the seeds have their least loss there.

  Args:
    losses: Above 0, along the rising grid; infinite or NaN for a lost run.
    share: A fraction in [0, 1]; at 1 the mean alone decides.
  """
  last = losses.shape[1] - 1
  mean = least_column(losses)
  own = _log_losses(losses).argmin(axis=1)
  low, high = (
    bool(mean == end or (own == end).mean() > share) for end in (0, last)
  )
  return low, high


def largest_stable(
  rates: Real[np.ndarray, " K"], stable: Bool[np.ndarray, "S _"]
) -> Float[np.ndarray, " S"]:
  """The largest of the rising rates such that it and all below are stable.

  By seed; NaN where the lowest rate is not stable.
  """
  count = np.cumprod(stable, axis=1).sum(axis=1)
  padded = np.concatenate([[np.nan], np.asarray(rates, np.float64)])
  return padded[count]

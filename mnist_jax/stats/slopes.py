"""Slopes on log axes over seeds; one line against lines with breaks by BIC.

x [K] are the settings (batch sizes, step sizes, depths), y [S, K] what each
of S seeds measured there. The seed is the unit that is resampled: the points
of one seed's curve move together, and treating them as K independent points
would give intervals that are too short.
"""

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import (
  Effect,
  as_ratio,
  from_draws,
  logs,
  mean_interval,
)

_PER_GAP = 3
_RESAMPLES = 1_000
_NAMES = ("line", "one break", "two breaks")


@dataclasses.dataclass(frozen=True)
class Segments:
  """A continuous fit of straight pieces in log-log coordinates."""

  name: str  # "line", "one break" or "two breaks"
  bic: float  # lower is better; comparable within one call only
  breakpoints: tuple[Effect, ...]  # in the units of x
  slopes: tuple[Effect, ...]  # the exponents, from left to right


@dataclasses.dataclass(frozen=True)
class PiecewiseFit:
  """All fits of one call, by number of breaks.

  A difference in BIC above 10 is very strong, one below 2 not worth mentioning
  (Kass & Raftery 1995, section 3.2).
  """

  fits: tuple[Segments, ...]
  best: str  # the name of the fit with the lowest BIC
  bic_difference: float  # how much worse the next best is
  n: int  # seeds

  def fit(self, name: str) -> Segments:
    """The fit of that name; KeyError if it was not made."""
    return {fit.name: fit for fit in self.fits}[name]


def _logs(
  x: Real[np.ndarray, " K"], y: Real[np.ndarray, "S _"], fewest: int
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"]]:
  log_x, log_y = logs("x", x, fewest=0), logs("y", y, ndim=2)
  if log_y.shape[1] != len(log_x) or len(log_x) < fewest:
    raise InputError(
      f"x has {len(log_x)} points and y {log_y.shape[1]} columns, expected the "
      f"same number, at least {fewest}"
    )
  points = np.asarray(x, np.float64)  # unsigned differences would wrap
  if (np.diff(points) <= 0.0).any():
    raise InputError(
      f"x is {points.tolist()}, expected it to rise at each point"
    )
  return log_x, log_y


def seed_slopes(
  x: Real[np.ndarray, " K"], y: Real[np.ndarray, "S _"]
) -> Float[np.ndarray, " S"]:
  """The exponent p of y ~ x^p of each seed, by least squares on log axes.

  A spread between seeds that is only the logarithm's rounding is taken out.

  Args:
    x: At least two points, rising, above 0.
    y: Above 0, of at least two seeds.

  Raises:
    InputError: a value not finite or not above 0, x that does not rise, or
      shapes that do not fit.
  """
  log_x, log_y = _logs(x, y, fewest=2)
  centred = log_x - log_x.mean()
  slopes = log_y @ centred / (centred @ centred)
  # What remains after this rounding is the data's, not the logarithm's.
  scale = np.abs(log_y).max() / np.abs(centred).max()
  if np.ptp(slopes) <= 16.0 * np.finfo(np.float64).eps * scale:
    slopes = np.full_like(slopes, np.median(slopes))
  return slopes


def loglog_slope(
  x: Real[np.ndarray, " K"], y: Real[np.ndarray, "S _"], *, seed: int
) -> Effect:
  """The mean of `seed_slopes` over seeds, its interval and test.

  With the same x for each seed the slope of the averaged logs is the average
  of the seeds' slopes, so resampling seeds is resampling those S numbers.

  Raises:
    InputError: as `seed_slopes`.
  """
  return mean_interval(seed_slopes(x, y), seed=seed)


def draws_slope(
  x: Real[np.ndarray, " K"],
  y: Real[np.ndarray, " K"],
  draws: Real[np.ndarray, "R K"],
  n: int,
) -> Effect:
  """The exponent of y ~ x^p where y is known with its resamples.

  Args:
    x: At least two points, rising, above 0.
    y, draws: Of `grid_minimum.mean_minima`, say: the estimates, and the same of
      R resamples of the n seeds.

  Raises:
    InputError: as `seed_slopes`.
  """
  slopes = seed_slopes(x, np.vstack([y, draws]))
  return from_draws(slopes[0], slopes[1:], n)


def _basis(
  log_x: Float[np.ndarray, " K"], breaks: Float[np.ndarray, "C J"]
) -> Float[np.ndarray, "C K P"]:
  """Columns 1, x and max(0, x - b) for each break b of each candidate."""
  hinges = np.maximum(0.0, log_x[None, :, None] - breaks[:, None, :])
  line = np.stack([np.ones_like(log_x), log_x], axis=1)
  lines = np.broadcast_to(line, (len(breaks), *line.shape))
  return np.concatenate([lines, hinges], axis=2)


def _allowed(
  log_x: Float[np.ndarray, " K"], breaks: Float[np.ndarray, "C J"]
) -> Bool[np.ndarray, " C"]:
  """Each piece, ends included, holds at least two points: else no slope."""
  first = np.full((len(breaks), 1), log_x[0])
  last = np.full((len(breaks), 1), log_x[-1])
  edges = np.concatenate([first, breaks, last], axis=1)[:, :, None]
  inside = (log_x >= edges[:, :-1]) & (log_x <= edges[:, 1:])
  return (inside.sum(axis=2) >= 2).all(axis=1)


def _candidates(
  log_x: Float[np.ndarray, " K"], n_breaks: int
) -> Float[np.ndarray, "C J"]:
  """Where breaks are looked for: the points, and a few places in each gap."""
  inner = log_x[1:-1]
  gaps = [np.linspace(a, b, _PER_GAP + 1) for a, b in itertools.pairwise(inner)]
  places = np.unique(np.concatenate(gaps))
  combos = list(itertools.combinations(places, n_breaks))
  breaks = np.asarray(combos, np.float64).reshape(len(combos), n_breaks)
  return breaks[_allowed(log_x, breaks)]


def _nearest_candidate(
  log_x: Float[np.ndarray, " K"],
  means: Float[np.ndarray, "R K"],
  candidates: Float[np.ndarray, "C J"],
) -> Float[np.ndarray, "R J"]:
  """The candidate that explains most of each curve."""
  q = np.linalg.qr(_basis(log_x, candidates))[0]
  parts = means @ np.moveaxis(q, 1, 0).reshape(len(log_x), -1)
  explained = parts.reshape(len(means), q.shape[0], q.shape[2]) ** 2
  return candidates[explained.sum(axis=2).argmax(axis=1)]


def _solve(
  basis: Float[np.ndarray, "R K P"], means: Float[np.ndarray, "R K"]
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, "R P"]]:
  """Least squares of each curve: sum of squared residuals, coefficients."""
  inverse = np.linalg.pinv(basis, rcond=1e-10)
  coefficients = (inverse @ means[:, :, None])[:, :, 0]
  fitted = (basis @ coefficients[:, :, None])[:, :, 0]
  return ((means - fitted) ** 2).sum(axis=1), coefficients


def _refine(
  log_x: Float[np.ndarray, " K"],
  means: Float[np.ndarray, "R K"],
  breaks: Float[np.ndarray, "R J"],
) -> Float[np.ndarray, "R J"]:
  """Moves the breaks to where the fit is best within their gaps.

  One step of Muggeo (2003): with a column -1[x > b] beside each hinge,
  its coefficient over the hinge's is the move to where the two lines meet.
  That is the optimum if it lies in the gap; a step that does not help is
  not taken.
  """
  n_breaks = breaks.shape[1]
  gap = np.searchsorted(log_x, breaks, side="right") - 1
  basis = _basis(log_x, breaks)
  jumps = -1.0 * (log_x[None, :, None] > breaks[:, None, :])
  _, full = _solve(np.concatenate([basis, jumps], axis=2), means)
  hinges = full[:, 2 : 2 + n_breaks]
  bent = hinges != 0.0
  move = np.where(bent, full[:, 2 + n_breaks :] / np.where(bent, hinges, 1), 0)
  moved = np.clip(breaks + move, log_x[gap], log_x[gap + 1])
  moved = np.where(_allowed(log_x, moved)[:, None], moved, breaks)
  better = _solve(_basis(log_x, moved), means)[0] < _solve(basis, means)[0]
  return np.where(better[:, None], moved, breaks)


def _bic(
  squares: float, count: int, n_breaks: int, log_y: Float[np.ndarray, "S K"]
) -> float:
  """N log(SSE / N) + p log N with p = intercept, variance, slopes, breaks."""
  # Below this the residuals are rounding, and no model is better than another.
  floor = (1e-9 * max(1.0, float(np.abs(log_y).max()))) ** 2
  mean_square = max(squares / count, floor)
  return count * math.log(mean_square) + (3 + 2 * n_breaks) * math.log(count)


def _on_x(place: Effect) -> Effect:
  """A breakpoint found on log x, back in the units of x; it has no test."""
  return Effect(*as_ratio(place), place.n, place.confidence, place.interval)


def _fit(
  log_x: Float[np.ndarray, " K"],
  log_y: Float[np.ndarray, "S K"],
  counts: Int[np.ndarray, "R S"],
  n_breaks: int,
) -> Segments:
  """The fit with that many breaks; `counts` of each seed in each resample."""
  n = len(log_y)
  # A seed's own level is not in question, only the shape is.
  shapes = log_y - log_y.mean(axis=1, keepdims=True)
  mean = shapes.mean(axis=0, keepdims=True)
  # The data themselves are row 0, the resamples the rows after it.
  means = np.concatenate([mean, counts @ shapes / n])
  breaks = _nearest_candidate(log_x, means, _candidates(log_x, n_breaks))
  if n_breaks:
    breaks = _refine(log_x, means, breaks)
  residuals, coefficients = _solve(_basis(log_x, breaks), means)
  slopes = np.cumsum(coefficients[:, 1:], axis=1)
  squares = float(((shapes - mean) ** 2).sum() + n * residuals[0])
  return Segments(
    name=_NAMES[n_breaks],
    bic=_bic(squares, log_y.size, n_breaks, log_y),
    breakpoints=tuple(
      _on_x(from_draws(draws[0], draws[1:], n)) for draws in breaks.T
    ),
    slopes=tuple(from_draws(draws[0], draws[1:], n) for draws in slopes.T),
  )


def piecewise_slopes(
  x: Real[np.ndarray, " K"],
  y: Real[np.ndarray, "S _"],
  *,
  seed: int,
  n_resamples: int = _RESAMPLES,
) -> PiecewiseFit:
  """One power law against continuous ones with one and two breaks, by BIC.

  Least squares on log y, each seed about its own level; breaks anywhere that
  leaves two points to each piece. BIC (Schwarz 1978) counts each break as a
  parameter beside its slope. The intervals resample seeds and search the
  breaks anew each time, so they include the doubt about where a break is.

  Args:
    x: At least 5 points, rising, above 0. Two breaks have as many parameters
      as 6 points, so they are tried from 7 points on.
    y: Above 0, of at least two seeds.

  Raises:
    InputError: as `loglog_slope`, or fewer than 5 points.
  """
  log_x, log_y = _logs(x, y, fewest=5)
  n = len(log_y)
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(n, np.full(n, 1.0 / n), size=n_resamples)
  fits = tuple(
    _fit(log_x, log_y, counts, n_breaks)
    for n_breaks in range(3 if len(log_x) >= 7 else 2)
  )
  first, second = sorted(fits, key=lambda fit: fit.bic)[:2]
  return PiecewiseFit(fits, first.name, second.bic - first.bic, n)

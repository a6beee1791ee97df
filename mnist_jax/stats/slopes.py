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
from jaxtyping import Bool, Float, Real

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
  log_x: Float[np.ndarray, " K"],
  mean: Float[np.ndarray, " K"],
  covariance: Float[np.ndarray, "K K"],
  n: int,
  breaks: Float[np.ndarray, "C J"],
) -> float:
  """(n - K) log(1 + r' S^-1 r) + p log n, the least over candidates' breaks.

  That is BIC for n curves, one a seed, drawn from a normal distribution about
  the pieces, with any covariance S [K, K] of a curve's points: the curves are
  independent, the points of one are not. r is the mean curve less the pieces,
  p their slopes and breaks. n - K in place of n makes up for S being estimated,
  which in few seeds favours many pieces. A curve's own level is no part of it,
  so steps from point to point are compared.

  Args:
    covariance: Of a seed's points, at its maximum likelihood (over n).
  """
  count = n - len(log_x)
  if count < 1:  # too few to tell how points go together
    count, covariance = n, np.diag(np.diag(covariance))
  steps = np.diff(np.eye(len(log_x)), axis=0)
  # Below this residuals are rounding, and no model is better than another.
  floor = (1e-9 * max(1.0, float(np.abs(mean).max()))) ** 2
  noise = steps @ (covariance + floor * np.eye(len(log_x))) @ steps.T
  white = np.linalg.solve(np.linalg.cholesky(noise), steps)
  basis = white @ _basis(log_x, breaks)[:, :, 1:]
  targets = np.broadcast_to(white @ mean, (len(breaks), len(white)))
  squares = float(_solve(basis, targets)[0].min())
  n_parameters = 1 + 2 * breaks.shape[1]
  return count * math.log1p(squares) + n_parameters * math.log(n)


def _on_x(place: Effect) -> Effect:
  """A breakpoint found on log x, back in the units of x; it has no test."""
  return Effect(*as_ratio(place), place.n, place.confidence, place.interval)


def _fit(
  log_x: Float[np.ndarray, " K"],
  curves: Float[np.ndarray, "R K"],
  covariance: Float[np.ndarray, "K K"],
  n: int,
  n_breaks: int,
) -> Segments:
  """The fit with that many breaks; the data's curve first, then resamples'."""
  candidates = _candidates(log_x, n_breaks)
  breaks = _nearest_candidate(log_x, curves, candidates)
  if n_breaks:
    breaks = _refine(log_x, curves, breaks)
  coefficients = _solve(_basis(log_x, breaks), curves)[1]
  slopes = np.cumsum(coefficients[:, 1:], axis=1)
  tried = np.concatenate([candidates, breaks[:1]])
  return Segments(
    name=_NAMES[n_breaks],
    bic=_bic(log_x, curves[0], covariance, n, tried),
    breakpoints=tuple(
      _on_x(from_draws(draws[0], draws[1:], n)) for draws in breaks.T
    ),
    slopes=tuple(from_draws(draws[0], draws[1:], n) for draws in slopes.T),
  )


def _compared(
  log_x: Float[np.ndarray, " K"],
  curves: Float[np.ndarray, "R K"],
  covariance: Float[np.ndarray, "K K"],
  n: int,
) -> PiecewiseFit:
  """All fits of curves without a level, as `_fit` has them."""
  fits = tuple(
    _fit(log_x, curves, covariance, n, n_breaks)
    for n_breaks in range(3 if len(log_x) >= 7 else 2)
  )
  first, second = sorted(fits, key=lambda fit: fit.bic)[:2]
  return PiecewiseFit(fits, first.name, second.bic - first.bic, n)


def piecewise_slopes(
  x: Real[np.ndarray, " K"],
  y: Real[np.ndarray, "S _"],
  *,
  seed: int,
  n_resamples: int = _RESAMPLES,
) -> PiecewiseFit:
  """One power law against continuous ones with one and two breaks, by BIC.

  Least squares on the mean of log y, each seed about its own level; breaks
  anywhere that leaves two points to each piece. BIC (Schwarz 1978) counts the
  seeds, and each break as a parameter beside its slope. The intervals resample
  seeds and search the breaks anew each time, so they include the doubt about
  where a break is.

  Args:
    x: At least 5 points, rising, above 0. Two breaks have as many parameters
      as 6 points, so they are tried from 7 points on.
    y: Above 0, of at least two seeds. Up to K of them cannot tell how the
      points of a curve go together, and are taken for independent there.

  Raises:
    InputError: as `loglog_slope`, or fewer than 5 points.
  """
  log_x, log_y = _logs(x, y, fewest=5)
  n = len(log_y)
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(n, np.full(n, 1.0 / n), size=n_resamples)
  # A seed's own level is not in question, only the shape is.
  shapes = log_y - log_y.mean(axis=1, keepdims=True)
  curves = np.vstack([shapes.mean(axis=0), counts @ shapes / n])
  return _compared(log_x, curves, np.cov(shapes.T, ddof=0), n)


def draws_piecewise(
  x: Real[np.ndarray, " K"],
  y: Real[np.ndarray, " K"],
  draws: Real[np.ndarray, "R K"],
  n: int,
) -> PiecewiseFit:
  """`piecewise_slopes` where y is known with its resamples, as `draws_slope`.

  Args:
    x, y, draws, n: As there, at least 5 points; the draws' spread, times n, is
      taken for that of a seed.

  Raises:
    InputError: as `piecewise_slopes`.
  """
  log_x, log_y = _logs(x, np.vstack([y, draws]), fewest=5)
  curves = log_y - log_y.mean(axis=1, keepdims=True)
  return _compared(log_x, curves, n * np.cov(curves[1:].T, ddof=0), n)

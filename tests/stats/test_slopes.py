"""Exponents with intervals, and breaks found by BIC."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes

X = 2.0 ** np.arange(2, 13)


def curve(x, breaks, exponents):
  """A continuous power law with these breaks."""
  log_x = np.log(x)
  y = exponents[0] * log_x
  for at, (before, after) in zip(
    breaks, itertools.pairwise(exponents), strict=True
  ):
    y = y + (after - before) * np.maximum(0.0, log_x - np.log(at))
  return y


def noisy(x, breaks, exponents, sd, rng, seeds=30):
  """Seeds of it, each with a level of its own besides the noise."""
  level = 0.3 * rng.normal(size=(seeds, 1))
  noise = sd * rng.normal(size=(seeds, len(x)))
  return np.exp(curve(x, breaks, exponents) + level + noise)


@given(st.floats(-3.0, 3.0), st.floats(0.1, 10.0))
def test_an_exact_power_law_gives_its_exponent(exponent, factor):
  y = np.outer(factor * np.linspace(1.0, 2.0, 30), X**exponent)
  effect = slopes.loglog_slope(X, y, seed=0)
  assert effect.estimate == pytest.approx(exponent, abs=1e-12)
  assert effect.high - effect.low < 1e-12


def test_slope_is_the_mean_of_scipys_fits():
  y = noisy(X, [], [-1.0], 0.2, np.random.default_rng(0))
  effect = slopes.loglog_slope(X, y, seed=0)
  fits = [stats.linregress(np.log(X), np.log(row)).slope for row in y]
  assert effect.estimate == pytest.approx(np.mean(fits))
  pooled = stats.linregress(np.tile(np.log(X), len(y)), np.log(y).ravel())
  assert effect.estimate == pytest.approx(pooled.slope)
  assert effect.n == 30
  assert effect.low < -1.0 < effect.high


def test_the_seed_is_the_unit():
  # Each seed has an exponent of its own, and its points lie on its line: the
  # points say nothing more than the 30 exponents do.
  rng = np.random.default_rng(1)
  own = rng.normal(0.5, 0.1, size=30)
  y = np.exp(np.outer(own, np.log(X)))
  effect = slopes.loglog_slope(X, y, seed=0)
  assert effect.standard_error == pytest.approx(own.std(ddof=1) / 30**0.5)


@pytest.mark.parametrize(
  ("breaks", "exponents", "name"),
  [
    ([], [-1.0], "line"),
    ([40.0], [1.0, 0.5], "one break"),
    ([64.0], [1.0, 0.5], "one break"),
    ([20.0, 300.0], [1.0, 0.5, 0.0], "two breaks"),
  ],
)
@pytest.mark.parametrize("sd", [0.0, 0.05])
def test_the_true_shape_is_found(breaks, exponents, name, sd):
  rng = np.random.default_rng(5)
  y = noisy(X, breaks, exponents, sd, rng)
  result = slopes.piecewise_slopes(X, y, seed=0, n_resamples=300)
  assert result.best == name
  assert result.bic_difference > 2.0
  fit = result.fit(name)
  within = (
    {"rel": 1e-6, "abs": 1e-6} if sd == 0.0 else {"rel": 0.1, "abs": 0.03}
  )
  found = [place.estimate for place in fit.breakpoints]
  assert found == pytest.approx(breaks, **within)
  found = [slope.estimate for slope in fit.slopes]
  assert found == pytest.approx(exponents, **within)
  json.dumps(dataclasses.asdict(result), allow_nan=False)


def test_bic_of_one_line_is_that_of_a_regression_on_curves():
  # The maximum likelihood of 30 curves, each one draw from a normal about a
  # line: generalised least squares on the mean of their steps.
  y = noisy(X, [], [0.7], 0.1, np.random.default_rng(2))
  steps, run = np.diff(np.log(y), axis=1), np.diff(np.log(X))
  inverse = np.linalg.inv(np.cov(steps.T, ddof=0))
  mean = steps.mean(axis=0)
  slope = run @ inverse @ mean / (run @ inverse @ run)
  away = mean - slope * run
  expected = (30 - 11) * np.log(1 + away @ inverse @ away) + np.log(30)
  line = slopes.piecewise_slopes(X, y, seed=0, n_resamples=50).fits[0]
  assert line.bic == pytest.approx(expected, rel=1e-4)


def test_points_of_a_seed_s_curve_that_move_together_are_no_evidence():
  # A line, about which each seed's curve bends in its own way: taken for S x K
  # independent points, the mean curve's own bend is often a break.
  rng = np.random.default_rng(6)
  x = X[:9]
  away = np.abs(np.log(x) - np.log(x).mean())
  found, by_points = [], []
  for _ in range(40):
    bends = 0.15 * rng.normal(size=(30, 1)) * away
    y = np.exp(np.log(x) + bends + 0.02 * rng.normal(size=(30, len(x))))
    result = slopes.piecewise_slopes(x, y, seed=0, n_resamples=3)
    found.append(result.best == "line")
    shapes = np.log(y) - np.log(y).mean(axis=1, keepdims=True)
    within = ((shapes - shapes.mean(axis=0)) ** 2).sum()
    old = []
    for fit in result.fits[:2]:
      places = [place.estimate for place in fit.breakpoints]
      squares = within + 30 * residual(x, np.log(y), places)
      old.append(np.log(squares) * y.size + 2 * len(places) * np.log(y.size))
    by_points.append(old[0] < old[1])
  assert np.mean(found) >= 0.9
  assert np.mean(by_points) <= 0.8


def test_a_curve_with_its_resamples_is_fitted_as_that_of_its_seeds():
  rng = np.random.default_rng(7)
  y = noisy(X, [50.0], [1.0, 0.5], 0.1, rng)
  counts = rng.multinomial(30, np.full(30, 1 / 30), size=2_000) / 30
  logs = np.log(y)
  whole = slopes.draws_piecewise(
    X, np.exp(logs.mean(axis=0)), np.exp(counts @ logs), 30
  )
  direct = slopes.piecewise_slopes(X, y, seed=0)
  assert whole.best == direct.best == "one break"
  for one, other in zip(whole.fits, direct.fits, strict=True):
    assert one.bic == pytest.approx(other.bic, rel=0.2, abs=2.0)
  one, other = (each.fit("one break") for each in (whole, direct))
  for a, b in zip(one.slopes, other.slopes, strict=True):
    assert a.estimate == pytest.approx(b.estimate)
    assert a.standard_error == pytest.approx(b.standard_error, rel=0.15)


def residual(x, log_y, breaks):
  """Sum of squares of the mean curve about its best lines with breaks."""
  log_x = np.log(x)
  mean = (log_y - log_y.mean(axis=1, keepdims=True)).mean(axis=0)
  columns = [np.ones_like(log_x), log_x]
  columns += [np.maximum(0.0, log_x - np.log(b)) for b in breaks]
  basis = np.stack(columns, axis=1)
  return np.sum((mean - basis @ np.linalg.lstsq(basis, mean)[0]) ** 2)


def least_residual(x, log_y, places):
  """The least over all allowed pairs of places."""
  return min(
    residual(x, log_y, (low, high))
    for low, high in itertools.combinations(places, 2)
    if ((x >= low) & (x <= high)).sum() >= 2
  )


def test_breaks_are_the_best_there_are():
  # Against a fine search over every pair of places.
  x = X[:8]
  y = noisy(x, [12.0, 90.0], [1.0, 0.3, -0.4], 0.05, np.random.default_rng(8))
  fit = slopes.piecewise_slopes(x, y, seed=0, n_resamples=50).fit("two breaks")
  mine = residual(x, np.log(y), [p.estimate for p in fit.breakpoints])
  places = np.geomspace(x[1], x[-2], 60)
  assert mine <= least_residual(x, np.log(y), places)


@pytest.mark.parametrize("trial", range(10))
def test_on_noise_pieces_keep_two_points_and_beat_every_pair_of_points(trial):
  # Here the best residual would bend about single points, and the step to
  # where two lines meet often overshoots.
  x = X[:7]
  y = np.exp(np.random.default_rng(trial).normal(size=(5, 7)))
  fit = slopes.piecewise_slopes(x, y, seed=0, n_resamples=50).fit("two breaks")
  places = [place.estimate for place in fit.breakpoints]
  for low, high in itertools.pairwise([x[0], *places, x[-1]]):
    # A break on a point counts for both sides; exp(log(x)) is x to rounding.
    inside = (x >= low * (1 - 1e-12)) & (x <= high * (1 + 1e-12))
    assert inside.sum() >= 2
  best = least_residual(x, np.log(y), x[1:-1])
  assert residual(x, np.log(y), places) <= best * (1 + 1e-9)


def test_a_step_that_leaves_a_piece_one_point_is_not_taken():
  # One of 3,000 curves of noise in which that step lowers the residual.
  x = X[:8]
  curve_of_noise = np.random.default_rng(8).normal(size=(3_000, 8))[890]
  y = np.exp(np.stack([curve_of_noise, curve_of_noise]))
  fit = slopes.piecewise_slopes(x, y, seed=0, n_resamples=10).fit("two breaks")
  low, high = [place.estimate for place in fit.breakpoints]
  inside = (x >= low * (1 - 1e-12)) & (x <= high * (1 + 1e-12))
  assert inside.sum() >= 2


def test_bootstrap_error_of_a_slope_is_that_of_its_seeds():
  # With three seeds a forgotten n / (n - 1) is 22 %.
  y = noisy(X, [], [1.0], 0.2, np.random.default_rng(3), seeds=3)
  line = slopes.piecewise_slopes(X, y, seed=0, n_resamples=4_000).fits[0]
  direct = slopes.loglog_slope(X, y, seed=0)
  assert line.slopes[0].estimate == pytest.approx(direct.estimate)
  assert line.slopes[0].standard_error == pytest.approx(
    direct.standard_error, rel=0.05
  )


def test_intervals_and_choice_hold_over_many_studies():
  rng = np.random.default_rng(4)
  x = X[:9]
  trials, right = 60, []
  covered = []
  for trial in range(trials):
    y = noisy(x, [50.0], [1.0, 0.5], 0.15, rng)
    result = slopes.piecewise_slopes(x, y, seed=trial, n_resamples=200)
    fit = result.fit("one break")
    right.append(result.best == "one break")
    for effect, truth in zip(
      (*fit.slopes, *fit.breakpoints), (1.0, 0.5, 50.0), strict=True
    ):
      covered.append(effect.low <= truth <= effect.high)
  assert np.mean(right) > 0.9
  # 180 shares that are not independent: 0.95 less four standard errors of 60.
  assert np.mean(covered) > 0.95 - 4.0 * (0.95 * 0.05 / trials) ** 0.5
  assert np.mean(covered) < 1.0


def test_too_few_points_for_two_breaks_are_not_fitted_with_them():
  y = noisy(X[:6], [], [1.0], 0.1, np.random.default_rng(0))
  result = slopes.piecewise_slopes(X[:6], y, seed=0, n_resamples=50)
  assert [fit.name for fit in result.fits] == ["line", "one break"]
  with pytest.raises(KeyError):
    result.fit("two breaks")


def test_same_seed_same_fit():
  y = noisy(X, [50.0], [1.0, 0.5], 0.2, np.random.default_rng(0))
  first = slopes.piecewise_slopes(X, y, seed=1, n_resamples=50)
  assert first == slopes.piecewise_slopes(X, y, seed=1, n_resamples=50)
  assert first != slopes.piecewise_slopes(X, y, seed=2, n_resamples=50)


@pytest.mark.parametrize(
  ("x", "y", "message"),
  [
    (X, np.ones((30, 10)), "x has 11 points and y 10 columns"),
    (X, np.ones((1, 11)), "at least 2 seeds"),
    (X, np.zeros((30, 11)), "y has a value of 0.0"),
    (X, np.full((30, 11), np.nan), "y has 330 of 330 values not finite"),
    (X[::-1].copy(), np.ones((30, 11)), "expected it to rise"),
    (X - 4.0, np.ones((30, 11)), "x has a value of 0.0"),
  ],
)
def test_bad_input_is_one_clear_line(x, y, message):
  for call in (slopes.loglog_slope, slopes.piecewise_slopes):
    with pytest.raises(InputError, match=message) as caught:
      call(x, y, seed=0)
    assert "\n" not in str(caught.value)


def test_unsigned_points_that_fall_are_refused():
  with pytest.raises(InputError, match="expected it to rise"):
    slopes.seed_slopes(np.array([4, 2, 1], np.uint32), np.ones((2, 3)))


def test_breaks_need_five_points():
  with pytest.raises(InputError, match="at least 5"):
    slopes.piecewise_slopes(X[:4], np.ones((30, 4)), seed=0)


def test_a_slope_of_resampled_places_has_their_doubt():
  rng = np.random.default_rng(0)
  x = np.array([8.0, 16.0, 32.0, 64.0])
  y = x**0.5
  draws = y * np.exp(0.1 * rng.normal(size=(1_000, 4)))
  found = slopes.draws_slope(x, y, draws, 30)
  assert found.estimate == pytest.approx(0.5)
  centred = np.log(x) - np.log(x).mean()
  assert found.standard_error == pytest.approx(
    0.1 / np.sqrt((centred**2).sum()), rel=0.1
  )
  assert found.low < 0.5 < found.high
  assert found.n == 30

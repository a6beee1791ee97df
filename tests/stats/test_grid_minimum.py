"""The best rate on a grid, against losses whose optimum is known."""

import math

import numpy as np
import pytest

from mnist_jax import stats
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import grid_minimum

RATES = 2.0 ** np.arange(-4, 3)


def bowls(optima, rates=RATES, width=1.0):
  """Losses whose log is a parabola in log rate, least at each optimum."""
  away = np.log(rates)[None] - np.log(np.asarray(optima))[:, None]
  return np.exp(width * away**2 - 1)


def test_a_parabola_s_vertex_is_found_exactly():
  optima = np.array([0.1, 0.2, 0.37, 0.5, 1.9])
  found = grid_minimum.minimum(RATES, bowls(optima))
  np.testing.assert_allclose(found.at, optima, rtol=1e-12)
  np.testing.assert_array_equal(found.edge, 0)
  uneven = np.array([0.01, 0.15, 0.3, 1.0, 7.0])
  found = grid_minimum.minimum(uneven, bowls([0.2, 0.5], uneven))
  np.testing.assert_allclose(found.at, [0.2, 0.5], rtol=1e-12)


def test_an_optimum_at_an_end_is_the_end_and_marked():
  found = grid_minimum.minimum(RATES, bowls([0.001, 0.5, 50.0, 4.0]))
  np.testing.assert_allclose(found.at, [RATES[0], 0.5, 4.0, 4.0])
  np.testing.assert_array_equal(found.edge, [-1, 0, 1, 1])
  assert found.censored() == (1, 2)


def test_a_lost_neighbour_moves_the_vertex_half_way_to_the_other():
  rates = np.array([1.0, 2.0, 4.0])
  losses = np.array([[2, 1, math.inf], [math.nan, 1, 2], [math.inf, 1, np.inf]])
  found = grid_minimum.minimum(rates, losses)
  np.testing.assert_allclose(found.at, [2**0.5, 2**1.5, 2.0])
  finite = np.where(np.isfinite(losses[:1]), losses[:1], 1e300)
  limit = grid_minimum.minimum(rates, finite).at
  np.testing.assert_allclose(limit, [2**0.5], rtol=1e-3)


def test_equal_losses_have_no_vertex_between_them():
  found = grid_minimum.minimum(RATES, np.ones((2, len(RATES))))
  np.testing.assert_array_equal(found.edge, -1)  # the lowest of equal ones
  flat = np.array([[2.0, 1.0, 1.0, 2.0]])
  found = grid_minimum.minimum(np.array([1.0, 2.0, 4.0, 8.0]), flat)
  np.testing.assert_allclose(found.at, [8**0.5])


@pytest.mark.parametrize(
  ("grid", "losses", "message"),
  [
    ([1.0, 2.0], np.ones((1, 2)), "at least 3"),
    ([1.0, 3.0, 2.0], np.ones((1, 3)), "rising"),
    ([0.0, 1.0, 2.0], np.ones((1, 3)), "above 0"),
    ([1.0, 2.0, 3.0], np.ones((1, 4)), r"shape \[1, 4\]"),
    ([1.0, 2.0, 3.0], np.zeros((1, 3)), "value of 0.0"),
    ([1.0, 2.0, 3.0], np.full((1, 3), np.nan), "no loss of row 0"),
  ],
)
def test_what_has_no_minimum_is_refused(grid, losses, message):
  with pytest.raises(InputError, match=message):
    grid_minimum.minimum(np.array(grid), losses)


def test_a_grid_goes_on_where_its_optimum_is_at_an_end():
  assert grid_minimum.open_ends(bowls([0.5, 0.6])) == (False, False)
  assert grid_minimum.open_ends(bowls([0.01, 0.02])) == (True, False)
  assert grid_minimum.open_ends(bowls([9.0, 8.0])) == (False, True)
  spread = bowls([0.01, 0.5, 0.5, 50.0])
  assert grid_minimum.open_ends(spread) == (False, False)
  assert grid_minimum.open_ends(spread, 0.25) == (False, False)
  assert grid_minimum.open_ends(spread, 0.2) == (True, True)


def test_one_lost_run_keeps_a_rate_from_being_the_best():
  losses = bowls([0.5, 0.5])
  assert RATES[grid_minimum.least_column(losses)] == 0.5
  losses[1, 3] = math.nan
  assert RATES[grid_minimum.least_column(losses)] == 0.25


def test_largest_stable_rate_has_all_below_it_stable():
  stable = np.array(
    [[1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], bool
  )
  found = grid_minimum.largest_stable(np.array([1.0, 2.0, 4.0, 8.0]), stable)
  np.testing.assert_array_equal(found, [2, 1, 8, math.nan])


def skewed_losses(rng, grid, seeds, best):
  """Losses that rise faster above their minimum than below it."""
  away = np.log(np.asarray(grid) / best)
  mean = 0.1 * (np.exp(away) - 1.0 - away)
  return np.exp(mean + 0.15 * rng.normal(size=(seeds, len(grid))))


def test_the_minimum_of_the_mean_is_not_drawn_to_the_flat_side():
  rng = np.random.default_rng(0)
  grid, best = 2.0 ** np.arange(-4, 5), 1.0
  losses = skewed_losses(rng, grid, 2_000, best)
  own = stats.mean_interval(
    np.log(grid_minimum.minimum(grid, losses).at), seed=0
  )
  assert own.high < -0.2  # the mean of each seed's own, with its interval
  found = grid_minimum.mean_minima([grid], [losses], seed=0)
  low, high = np.log(np.quantile(found.draws[:, 0], [0.025, 0.975]))
  assert low < 0.0 < high
  assert abs(np.log(found.at[0])) < 0.2
  assert found.censored[0] == 0.0
  assert found.n == 2_000


def test_a_minimum_at_an_end_is_censored():
  rng = np.random.default_rng(0)
  grid = np.array([1.0, 2.0, 4.0])
  inside = skewed_losses(rng, grid, 30, 2.0)
  beyond = np.exp(-np.log(grid) + 0.01 * rng.normal(size=(30, 3)))
  found = grid_minimum.mean_minima([grid, grid], [inside, beyond], seed=0)
  assert found.censored[1] == 1.0
  assert found.censored[0] < 1.0
  assert found.at[1] == 4.0


def test_a_lost_run_makes_its_mean_infinite():
  grid = np.array([1.0, 2.0, 4.0, 8.0])
  losses = np.tile([3.0, 2.0, 1.0, 0.5], (30, 1))
  losses[0, 3] = np.inf
  found = grid_minimum.mean_minima([grid], [losses], seed=0)
  assert found.at[0] < 8.0
  assert 0.0 < found.censored[0] < 1.0  # the resamples without that seed


def test_grids_share_their_seeds():
  losses = [np.ones((30, 3)), np.ones((29, 3))]
  with pytest.raises(InputError, match=r"\[29, 30\] seeds"):
    grid_minimum.mean_minima([RATES[:3]] * 2, losses, seed=0)

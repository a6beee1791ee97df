"""Regions and critical batch of known curves; roughness; a rate's search."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from experiments._shared import rate_search
from experiments.updates_to_target import runs, scaling
from mnist_jax import stats
from mnist_jax.runtime.errors import InputError

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

BATCHES = 2.0 ** np.arange(14)


def curves(critical, spread=0.02, seeds=30):
  """[S, K] updates of a trade-off with that critical batch."""
  rng = np.random.default_rng(0)
  exact = 150 * (1 + critical / BATCHES)
  return exact * np.exp(spread * rng.normal(size=(seeds, len(BATCHES))))


def test_critical_batch_over_seeds():
  effect = scaling.critical_batch(BATCHES, curves(200))
  assert effect.low < math.log(200) < effect.high
  assert effect.high - effect.low < 0.1


def test_rates_of_one_law_share_the_noise_of_tuning():
  """A batch mistuned by sqrt 2 bends no local slope beyond perfect scaling."""
  exact = 2 / (1 + 32 / BATCHES)
  found = scaling.smooth_rates(BATCHES, exact)
  np.testing.assert_allclose(found, exact, rtol=1e-3)
  mistuned = exact * np.where(BATCHES == 2, 2**-0.5, 1)
  found = scaling.smooth_rates(BATCHES, mistuned)
  np.testing.assert_allclose(found, exact, rtol=0.08)


def test_best_rate_is_the_vertex_of_the_mean_score():
  rates = 2.0 ** np.arange(-2, 3)
  rows = [
    {"seed": seed, "learning_rate": rate, "score": score}
    for seed in (1000, 1001)
    for rate in rates
    for score in [np.log2(rate / 1.3) ** 2 + 0.1 * (seed - 1000)]
  ]
  assert runs.best_rate(pd.DataFrame(rows)) == pytest.approx(1.3, rel=1e-6)


def test_regions_of_a_tradeoff():
  found = scaling.local_slopes(BATCHES, curves(200, spread=0.001))
  assert len(found) == 12
  # The slope -(c / B) / (1 + c / B) is -0.9 at c / 9 = 22, -0.1 at 9 c = 1800.
  regions = scaling.regions(BATCHES, found)
  assert regions == scaling.Regions(16.0, 2048.0)
  names = [regions.name(size) for size in (1, 16, 32, 1024, 2048, 8192)]
  assert names == ["perfect"] * 2 + ["diminishing"] * 2 + ["none"] * 2


def test_regions_that_are_not_there():
  slopes = scaling.local_slopes(BATCHES, 1e4 * curves(0) / BATCHES**0.5)
  assert scaling.regions(BATCHES, slopes) == (None, None)
  # One slope in between that is perfect is no region: it must be the first.
  dip = 1000 / np.where(BATCHES < 64, 1, np.where(BATCHES < 1024, BATCHES, 9))
  slopes = scaling.local_slopes(BATCHES, np.stack([dip, 2 * dip]))
  assert scaling.regions(BATCHES, slopes).perfect_to is None


def test_roughness_leaves_the_trend_out():
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(2, 4000)) * np.array([[0.1], [0.4]])
  found = runs.roughness(noise + np.linspace(3, 1, 4000))
  np.testing.assert_allclose(found, [0.1, 0.4], rtol=0.05)
  for bad in (noise[:, :2], np.array([1.0, np.nan, 2.0])):
    with pytest.raises(InputError, match="at least 3 windows, all finite"):
      runs.roughness(bad)


def tune(best, asked, **more):
  """A search in which the score is the distance to `best`, on a log axis."""

  def run(cells):
    asked.extend(cell.learning_rate for cell in cells)
    return pd.DataFrame(
      [
        {
          "cell": f"{cell.learning_rate}-{cell.seed}",
          "batch_size": cell.batch_size,
          "learning_rate": cell.learning_rate,
          "seed": cell.seed,
          "step": 9,
        }
        for cell in cells
      ]
    )

  def score(rows):
    return (np.log2(rows["learning_rate"]) - math.log2(best)).abs()

  return rate_search.tune(run, 32, 1.0, range(2), score, **more)


def test_best_rate_is_found_inside_and_beyond_the_grid():
  asked = []
  assert tune(1.4, asked).rate == pytest.approx(2**0.5, rel=1e-3)
  assert sorted(set(asked)) == pytest.approx(
    [2.0**k for k in (-1, -0.5, 0, 0.5, 1)], rel=1e-3
  )
  found = tune(9.0, [])
  assert found.rate == 8
  assert found.runs["learning_rate"].max() == pytest.approx(8 * 2**0.5, 1e-3)
  assert len(found.runs) == 2 * 10
  asked = []
  assert tune(0.2, asked, step=2).rate == 0.25
  assert set(asked) == {2, 1, 0.5, 0.25, 0.125}


def test_search_ends_somewhere():
  assert tune(1e9, []).rate == 2.0 ** ((2 + rate_search.FURTHER) / 2)
  with pytest.raises(ValueError, match="not finite"):
    tune(math.inf, [])


def test_budget_to_a_target():
  budget = runs.budget(1600, 0.25)
  places = np.array(budget.evaluate_at)
  assert 90 < places[0] <= 100
  assert places[-1] == 1600
  assert (places[1:] / places[:-1]).max() < 1.06
  assert runs.budget(10, 0.25).evaluate_at[0] == 1


def test_score_ranks_rates_that_fall_short():
  rows = pd.DataFrame(
    {
      "step": [100, 400, 400, 400],
      "reached": [True, False, False, False],
      "dev_loss": [0.2, 0.3, 0.5, 0.1],
      "diverged_step": [None, None, None, 7.0],
    }
  )
  found = runs.score(rows, 0.25)
  log = math.log
  lost = log(400) + log(log(10) / 0.25)  # what its last weights say is naught
  np.testing.assert_allclose(
    found, [log(100), log(480), log(800), lost], rtol=1e-12
  )
  assert runs.took(rows[:2]) == 200


def test_regions_reach_as_far_as_the_intervals_do():
  middle = stats.mean_interval(np.array([-0.7, -0.3]), seed=0)
  wide = [dataclasses.replace(middle, low=-0.95, high=-0.05)] * 3
  batches = np.array([1.0, 2, 4, 8, 16])
  assert scaling.regions(batches, wide) == (8.0, 2.0)
  short = [dataclasses.replace(middle, low=-0.85, high=-0.15)] * 3
  assert scaling.regions(batches, short) == (None, None)

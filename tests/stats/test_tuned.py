"""Arms that were tuned: the doubt about the choice is in the interval."""

import numpy as np
import pytest

from mnist_jax import stats
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import TunedArm


def arm(rng, worth, tuning=5, judged=40, noise=1.0):
  """Outcomes about `worth` at each candidate, and scores that say so badly."""
  worth = np.asarray(worth, float)
  scores = -worth + noise * rng.normal(size=(tuning, len(worth)))
  return TunedArm(scores, worth + 0.1 * rng.normal(size=(judged, len(worth))))


def test_the_choice_as_given_has_too_short_an_interval():
  """Between equal methods, one of which drew a poor candidate in tuning."""
  rng = np.random.default_rng(0)
  trials, covered = 40, {"given": 0, "resampled": 0}
  for _ in range(trials):
    worth = (0.0, 0.3, 0.6)
    a, b = arm(rng, worth), arm(rng, worth)
    picks = [x.outcomes[:, x.scores.mean(0).argmin()] for x in (a, b)]
    given = stats.paired_difference(*picks, seed=0)
    found = stats.tuned_difference(a, b, seed=0)
    assert found.estimate == pytest.approx(given.estimate)
    covered["given"] += given.low <= 0.0 <= given.high
    covered["resampled"] += found.low <= 0.0 <= found.high
  assert covered["given"] / trials < 0.7
  assert covered["resampled"] / trials > 0.9


def test_a_clear_choice_changes_nothing():
  rng = np.random.default_rng(1)
  a, b = (arm(rng, worth, noise=0.01) for worth in ((0.0, 1.0), (0.5, 0.0)))
  found = stats.tuned_difference(a, b, seed=0)
  given = stats.paired_difference(a.outcomes[:, 1], b.outcomes[:, 0], seed=0)
  assert found.estimate == pytest.approx(given.estimate)
  assert found.high - found.low == pytest.approx(
    given.high - given.low, rel=0.1
  )


def test_lost_runs_are_not_chosen_and_columns_not_run_neither():
  scores = np.array([[np.inf, 1.0, 0.0], [0.0, 1.0, 0.0]])
  outcomes = np.stack(
    [np.full(30, 9.0), np.arange(30.0), np.full(30, np.nan)], 1
  )
  found = stats.tuned_contrast([TunedArm(scores, outcomes)], [2.0], seed=0)
  assert found.estimate == pytest.approx(2 * 14.5)
  # Resamples without the lost run choose the first, the others the second.
  assert found.low == pytest.approx(18.0)
  assert found.high > 30.0
  assert found.n == 30


def test_a_few_lost_runs_do_not_hide_what_the_others_say():
  """A fifth of the runs fails: the mean's interval is wide, the median's not.

  Now and then most runs of a resample fail, which its quantiles do not see.
  """
  rng = np.random.default_rng(2)
  outcomes = 0.5 + 0.01 * rng.normal(size=(30, 1))
  outcomes[:7] = -100.0
  arms = [TunedArm(np.zeros((1, 1)), each) for each in (outcomes, outcomes * 0)]
  mean = stats.tuned_difference(*arms, seed=0)
  assert mean.low < 0.0
  for median in (True, None):
    found = stats.tuned_difference(*arms, seed=0, median=median)
    assert 0.48 < found.low < 0.5 < found.high < 0.52
    assert found.p_value < 1e-6


def test_the_likely_candidates_are_those_that_other_seeds_may_choose():
  scores = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0], [0.0, 0.9, np.inf]])
  assert stats.chosen(scores) == 0
  assert stats.likely_choices(scores, seed=0) == (0, 1)
  assert stats.likely_choices(scores, share=0.9, seed=0) == (0,)
  assert stats.likely_choices(scores[:1], seed=0) == (0,)


@pytest.mark.parametrize(
  ("arms", "weights", "message"),
  [
    ([], [], "0 weights"),
    ([TunedArm(np.zeros((2, 2)), np.zeros((9, 2)))], [1.0, 1.0], "2 weights"),
    ([TunedArm(np.zeros((2, 3)), np.zeros((9, 2)))], [1.0], "2 candidates"),
    (
      [TunedArm(np.zeros((2, 1)), np.zeros((s, 1))) for s in (8, 9)],
      [1.0, 1.0],
      r"\[8, 9\] judged seeds",
    ),
    (
      [TunedArm(np.zeros((2, 1)), np.array([[0.0], [np.nan]]))],
      [1.0],
      "not finite",
    ),
  ],
)
def test_bad_input_is_one_clear_line(arms, weights, message):
  with pytest.raises(InputError, match=message):
    stats.tuned_contrast(arms, weights, seed=0)

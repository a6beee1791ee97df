"""H6 on made-up losses whose answer is known, and on their opposite."""

import itertools

import numpy as np
import pandas as pd
import pytest

from experiments import schedule_budget
from experiments._shared import study
from mnist_jax import stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 40


def values():
  found = study.preset_values(schedule_budget.STUDY, "full")
  found.seeds = SEEDS
  return found


def rows(arm, loss, seeds):
  own = {"arm": arm, "diverged_step": None, "step": 1, "epoch": 30.0}
  for seed in seeds:
    value = loss + 0.0005 * np.sin(sum(map(ord, arm)) + 5 * seed)
    metrics = {f"{split}_loss": value for split in ("dev", "test")}
    metrics |= {f"{split}_accuracy": 1 - value for split in ("dev", "test")}
    yield own | metrics | {"cell": f"{arm}, {seed}", "seed": seed}


def measured(default, tuned, judged=None):
  """Linear to zero `default` lower untuned, and `tuned` at its best trial."""
  of = values()
  tuning, table = [], []
  for method in schedule_budget.SPACES:
    linear = method == schedule_budget.LINEAR
    own = method in schedule_budget.DEFAULTS
    gain = tuned if linear else 0.0
    seen = tuned if judged is None else judged
    for i, arm in enumerate(schedule_budget.names(method, of)):
      loss = 0.1 + 0.001 * ((i + 5) % of.trials)
      tuning += rows(arm, loss - gain, study.tuning_seeds(5 if own else 2))
      if loss < 0.0999 + 0.001 * (3 if own else 1):
        seeds = range(SEEDS if own else schedule_budget.SHOWN_SEEDS)
        table += rows(arm, loss - (seen if linear else 0.0), seeds)
    if own:
      table += rows(f"{method} default", 0.3 - default * linear, range(SEEDS))
  return {"tuning": pd.DataFrame(tuning), "table": pd.DataFrame(table)}


@pytest.mark.parametrize(
  ("default", "tuned", "judged", "expected"),
  [
    (0.02, 0.02, None, Verdict.HOLDS),
    (0.02, 0.0, None, Verdict.FAILS),
    (-0.02, 0.02, None, Verdict.FAILS),
    (0.02, 0.02, -0.02, Verdict.FAILS),  # the tuning seeds do not judge
  ],
)
def test_judge(default, tuned, judged, expected):
  (claim,) = schedule_budget.judge(measured(default, tuned, judged), values())
  assert (claim.claim, claim.verdict) == ("H6", expected)
  part = claim["default, loss"]
  assert part.effect.estimate == pytest.approx(default, abs=5e-4)
  part = claim["tuned, loss"]
  seen = tuned if judged is None else judged
  assert part.effect.estimate == pytest.approx(seen, abs=1e-3)
  assert part.test_effect.estimate == pytest.approx(seen, abs=1e-3)
  assert part.effect.n == SEEDS
  assert f"{default:.4f} nats".replace("-", "") in claim.sentence


def test_the_interval_has_the_doubt_about_the_trials():
  """Where the second best trial is far worse, other trials might be too."""
  rng = np.random.default_rng(0)
  scores = np.tile([0.1, 0.1, 0.1, 0.9], (5, 1))
  flat = stats.TunedArm(scores, np.full((SEEDS, 4), 0.1))
  flat = flat._replace(outcomes=flat.outcomes + 0.01 * rng.normal(size=(40, 1)))
  one = np.tile([0.1, 0.5, 0.6, 0.9], (5, 1))
  outcomes = np.tile([0.1, 0.5, np.nan, np.nan], (SEEDS, 1))
  lucky = schedule_budget.tuned_gain(stats.TunedArm(one, outcomes), flat, -1)
  safe = schedule_budget.tuned_gain(flat, flat, -1)
  assert safe.estimate == pytest.approx(0)
  assert safe.high - safe.low < 0.01
  assert lucky.low < -0.35  # without the best trial the next
  assert lucky.estimate == pytest.approx(0, abs=0.01)


def test_chances_are_those_of_all_subsets():
  n = 6
  for k in range(1, n + 1):
    best = [min(some) for some in itertools.combinations(range(n), k)]
    counted = np.bincount(best, minlength=n) / len(best)
    np.testing.assert_allclose(schedule_budget.chances(n)[k - 1], counted)


def test_the_expected_best_is_not_judged_by_the_luck_that_chose_it():
  """Trials that are all alike are worth the same, however many there are."""
  rng = np.random.default_rng(1)
  scores = 1 + 0.1 * rng.normal(size=(5, 200))
  estimate, low, high = schedule_budget.expected_best(scores)
  assert estimate[-1] == pytest.approx(1, abs=0.12)
  assert scores.min(axis=1).mean() < 0.75  # the naive best of 200
  assert (low <= estimate).all()
  assert (estimate <= high).all()

  scores = np.tile([3.0, 1.0, 2.0], (2, 1))
  estimate, _, _ = schedule_budget.expected_best(scores)
  np.testing.assert_allclose(estimate, [2, 4 / 3, 1])


def test_more_trials_begin_with_those_of_fewer_and_all_can_be_run():
  few, many = schedule_budget.trials(30, 1), schedule_budget.trials(30, 2)
  budget = sweep.Budget(epochs=30)
  for method, cells in many.items():
    assert cells[:1] == few[method]
    assert len({sweep.cell_key(cell, budget) for cell in cells}) == 2
    for cell in cells:
      rates = cell.learning_rates(1280, budget.total(cell.clock(1280)))
      assert len(rates) == 300


def test_too_few_trials_are_refused():
  of = values()
  of.trials = 1
  with pytest.raises(InputError, match="--trials=1"):
    schedule_budget.check(of)

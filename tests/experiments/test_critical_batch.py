"""H3 on runs whose critical batches are known."""

import numpy as np
import pandas as pd
import pytest

from experiments import critical_batch
from experiments._shared import study
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy alone

VALUES = study.preset_values(critical_batch.STUDY, "full")
SEEDS = [*range(VALUES.seeds), *study.tuning_seeds(VALUES.tuning_seeds)]
LOSSES = (0.3, 0.2, 0.15)  # of the base after each of epochs_at
BEST = 1  # the place of the best power


def made_up(exponents, keeps_up=True, budget=1e6):
  """Critical batches of 100 (loss / 0.2)^exponent by each measure."""
  rng = np.random.default_rng(0)
  rows, curves = [], []
  at = {
    name: 100 * (np.array(LOSSES) / 0.2) ** power
    for name, power in exponents.items()
  }
  for i, (epoch, loss) in enumerate(zip(VALUES.epochs_at, LOSSES, strict=True)):
    for seed in SEEDS:
      noise = np.exp(rng.normal(0, 0.02))
      row = {"epoch": epoch, "seed": seed}
      rows.append(row | {"measure": "noise", "value": at["noise"][i] * noise})
      for factor in VALUES.factors:
        for p, power in enumerate(critical_batch.POWERS):
          # log(1.05) behind at the critical batch, by log k; the wrong powers
          # are further behind.
          end = np.log(at["branch"][i] / critical_batch.BASE)
          behind = np.log(1.05) * np.log(factor) / end if keeps_up else 0.0
          if factor > 1:
            behind += 0.1 * abs(p - BEST)
          value = 0.9 * loss * np.exp(behind) * noise
          own = {"measure": "branch", "factor": factor, "power": power}
          own |= {"begin": loss} if factor == 1 else {}
          rows.append(row | own | {"value": value})
  for factor in VALUES.target_factors:
    size = critical_batch.BASE * factor
    # S = S_min (1 + critical / B), with an S_min that rises as losses fall.
    least = np.array([100.0, 200.0, 400.0])
    steps = least * (1 + at["target"] / size)
    for p, power in enumerate(critical_batch.POWERS):
      for seed in SEEDS:
        slow = 1 + 0.5 * abs(p - BEST)
        points = slow * np.array([1e-9, *steps, 1.5 * steps[-1]])
        losses = np.array([0.5, *LOSSES, 0.1])
        grid = np.geomspace(1, 1e5, 200)
        reached = np.exp(np.interp(grid, points, np.log(losses)))
        reached = np.where(grid <= budget, reached, 0.5)
        curves.append(
          pd.DataFrame(
            {
              "arm": f"{factor} {power}",
              "seed": seed,
              "step": grid,
              "dev_loss": reached * np.exp(rng.normal(0, 0.002)),
            }
          )
        )
  return {"there": pd.DataFrame(rows), "target": pd.concat(curves)}


def judged(*args, **more):
  (found,) = critical_batch.judge(made_up(*args, **more), VALUES)
  return found


@pytest.mark.parametrize(
  ("noise", "word"), [(-2.0, Verdict.HOLDS), (1.0, Verdict.FAILS)]
)
def test_critical_batches_are_found_and_their_exponents(noise, word):
  powers = {"noise": noise, "target": -2.0, "branch": -1.0}
  found = judged(powers)
  assert found.verdict == word
  for name, power in powers.items():
    assert found.found(name).estimate == pytest.approx(power, abs=0.15), name
  # All three are 100 at the middle loss.
  for name in ("noise", "branch"):
    ratio = found.found(f"{name} for target").estimate
    assert ratio == pytest.approx(0, abs=0.15)


def test_that_one_is_twice_another_is_seen():
  table = made_up({"noise": -2.0, "target": -2.0, "branch": -1.0})
  own = table["there"]["measure"] == "noise"
  table["there"].loc[own, "value"] *= 5
  (found,) = critical_batch.judge(table, VALUES)
  assert found.verdict == Verdict.LIMITS
  assert found["noise for target"].verdict == Verdict.FAILS


def test_where_every_batch_keeps_up_nothing_is_judged():
  powers = {"noise": -2.0, "target": -2.0, "branch": -1.0}
  found = judged(powers, keeps_up=False)
  assert found["branch"].verdict == Verdict.UNDECIDED
  assert "censored" in found["branch"].note


def test_runs_that_do_not_get_there_leave_their_measure_open():
  powers = {"noise": -2.0, "target": -2.0, "branch": -1.0}
  found = judged(powers, budget=1000)
  assert found["target"].verdict == Verdict.UNDECIDED


def test_the_place_where_a_curve_first_passes_a_level():
  x = np.array([0.0, 1.0, 2.0])
  y = np.array([[0, 1, 2], [0, 2, 0], [0, 0.1, 0.2]])
  at, never = critical_batch.first_above(x, y, 0.5)
  assert at == pytest.approx([0.5, 0.25, 2.0])
  assert never == 0.5


def test_updates_to_a_loss_lie_between_evaluations():
  steps = np.array([0.0, 10.0, 20.0])
  losses = np.array([[1.0, 0.5, 0.25], [1.0, np.nan, np.nan], [1.0, 0.9, 0.8]])
  found = critical_batch.updates_to(losses, steps, np.sqrt(0.125), 60)
  assert found == pytest.approx([15, 60, 60])


def test_a_run_that_missed_counts_as_the_longest_of_its_batch():
  """Else a short run that is lost would seem faster than a long one."""
  table = made_up({"noise": -2.0, "target": -2.0, "branch": -1.0})["target"]
  short = (table["arm"] == "64 1.0") & (table["step"] <= 50)
  table = pd.concat([table[table["arm"] != "64 1.0"], table[short]])
  logs, missed = critical_batch._updates(table, 64, LOSSES[-1], VALUES)
  assert missed.mean(axis=0).tolist() == [0, 0, 1]
  assert (logs[:, 2] == np.log(1e5)).all()


def test_only_rates_that_are_too_slow_go_on():
  seeds = study.tuning_seeds(VALUES.tuning_seeds)
  ends = {
    "gets there": [0.1] * len(seeds),
    "too slow": [0.2] * len(seeds),
    "mostly there": [0.2] + [0.1] * (len(seeds) - 1),
    "one is lost": [3.0] + [0.2] * (len(seeds) - 1),
  }
  rows = [
    {"cell": f"{arm}{seed}", "arm": arm, "seed": seed, "step": 9}
    | {"dev_loss": loss, "diverged_step": None}
    for arm, losses in ends.items()
    for seed, loss in zip(seeds, losses, strict=True)
  ]
  fresh = [row | {"seed": 0, "dev_loss": 0.2, "cell": "0"} for row in rows[:1]]
  table = pd.DataFrame(rows + fresh)
  assert critical_batch.too_slow(table, 0.15, VALUES) == ["too slow"]

"""The verdicts of grow_batch on tables whose answer is known, and its arms."""

import numpy as np
import pandas as pd
import pytest

from experiments import grow_batch
from experiments._shared import study
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict

SEEDS = 40
VALUES = study.preset_values(grow_batch.STUDY, "full")
UPDATES = {"decay": 5160, "grow": 2892, "half": 3096, "fixed": 5160}


def measured(accuracy, updates=UPDATES):
  """Runs whose accuracy is accuracy(arm, epoch, base); loss is 1 less it."""
  rows = []
  for base in (VALUES.base, VALUES.large_base):
    for number, arm in enumerate(grow_batch.ARMS):
      for seed in range(SEEDS):
        for epoch in range(VALUES.epochs + 1):
          shared = np.random.default_rng([seed, epoch]).standard_normal()
          own = 2e-4 * np.sin(37 * number + 11 * epoch + seed)
          value = accuracy(arm, epoch, base) + 0.002 * shared + own
          rows.append(
            {
              "cell": f"{base}-{arm}-{seed}",
              "base": base,
              "arm": arm,
              "seed": seed,
              "learning_rate": 0.8,
              "epoch": float(epoch),
              "step": updates[arm] * epoch // VALUES.epochs,
              "dev_accuracy": value,
              "dev_loss": 1 - value,
              "diverged_step": pd.NA,
            }
          )
  table = pd.DataFrame(rows)
  rates = {VALUES.base: 0.8, VALUES.large_base: 1.2}
  return {"table": table, "tuning": table, "rates": rates}


def as_claimed(arm, epoch, base):
  """Those that are matched are one curve; from the large base grow lags."""
  lags = 0.02 * (arm == "grow" and base == VALUES.large_base and epoch > 6)
  better = 0.02 if arm != "fixed" and epoch > 6 else 0.0
  return 0.94 + better - lags


def opposite(arm, epoch, base):
  """Fixed is best; grow lags just after the boundary, half at the end."""
  if epoch <= 6:
    return 0.94
  lost = {"fixed": 0, "decay": 0.01, "grow": 0.01, "half": 0.01}[arm]
  late = arm == "half" and epoch == VALUES.epochs
  return 0.96 - lost - 0.01 * (late or (arm == "grow" and epoch == 7))


def verdicts_of(parts):
  assert len({part.name for part in parts}) == len(parts)
  assert {part.claim for part in parts} == {"B5"}
  return {part.name: part.verdict for part in parts}


def test_holds_when_the_curves_are_one():
  found = verdicts_of(grow_batch.judge(measured(as_claimed), VALUES))
  # decay against fixed; two arms at six epochs; by two metrics; and updates.
  assert len(found) == 2 * (1 + 2 * 6) + 1
  assert set(found.values()) == {Verdict.HOLDS}


def test_fails_at_the_epochs_that_differ():
  more = UPDATES | {"grow": 5160}
  found = verdicts_of(grow_batch.judge(measured(opposite, more), VALUES))
  failed = {name for name, each in found.items() if each is Verdict.FAILS}
  places = ("decay against fixed", "grow at epoch 7", "half at the end")
  expected = {f"{at}, {of}" for at in places for of in ("accuracy", "loss")}
  assert failed == expected | {"updates"}
  assert set(found.values()) == {Verdict.FAILS, Verdict.HOLDS}


def test_the_break_is_judged_apart_and_summarised():
  runs = measured(as_claimed)
  found = verdicts_of(grow_batch.judge_break(runs, VALUES))
  assert set(found.values()) == {Verdict.FAILS}
  summary = grow_batch.summarise(runs, VALUES)
  large = summary[summary["base"] == VALUES.large_base]
  assert (large["verdict"].dropna() == "does not hold").all()
  at_end = large[large["what"] == "grow at the end, accuracy"].iloc[0]
  assert -0.021 < at_end["low"] < at_end["high"] < -0.019
  ends = summary[(summary["what"] == "end") & (summary["base"] == VALUES.base)]
  assert dict(zip(ends["arm"], ends["updates"], strict=True)) == UPDATES


@pytest.mark.parametrize("base", [128, 640])
def test_the_arms_are_matched(base):
  cells = {
    arm: grow_batch.arm_settings(arm, base, 0.8, (6, 9))
    for arm in grow_batch.ARMS
  }
  for arm, cell in cells.items():
    clock = cell.clock(55_000)
    rates = cell.learning_rates(55_000, clock.before(12))
    shrunk = [
      round(rates[clock.before(epoch)] / cell.batches.size_at(epoch), 12)
      for epoch in (0, 5, 6, 8, 9, 11)
    ]
    factors = np.array(
      [1, 1, 1, 1, 1, 1] if arm == "fixed" else [1, 1, 5, 5, 25, 25]
    )
    np.testing.assert_allclose(
      np.array(shrunk) * factors, 0.8 / base, rtol=1e-5
    )
  assert len({cell.batches.size_at(0) for cell in cells.values()}) == 1
  if base == 128:
    made = {arm: cell.clock(55_000).before(12) for arm, cell in cells.items()}
    assert made == UPDATES


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"boundaries": (6,)}, "expected two epochs"),
    ({"boundaries": (9, 6)}, "rising epochs"),
    ({"boundaries": (0, 6)}, "rising epochs"),
    ({"epochs": 9}, "--epochs=9"),
    ({"large_base": 128}, "--large_base=128"),
  ],
)
def test_values_that_do_not_go_together(given, said):
  values = study.preset_values(grow_batch.STUDY, "full")
  grow_batch.check(values)
  vars(values).update(given)
  with pytest.raises(InputError, match=said):
    grow_batch.check(values)

"""L3's and L1's verdicts on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from experiments import lr_range_audit
from experiments._shared import study, tuning
from mnist_jax import range_test, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS, FEW = 30, 10
SIZES = (32, 256)
RATES = (0.2, 0.4, 0.8)
HOLDS, FAILS, UNDECIDED = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED


def values():
  found = study.preset_values(lr_range_audit.STUDY, "full")
  found.batch_sizes, found.seeds, found.few = SIZES, SEEDS, FEW
  return found


def runs(arm, size, regret, seeds=SEEDS, **more):
  seeds = np.arange(100, 100 + seeds)
  accuracy = 0.96 - regret + 2e-4 * np.sin(37 * seeds + size + len(arm))
  columns = {
    "arm": arm,
    "batch_size": size,
    "drop_last": True,
    "cell": [f"{arm} {size} {more} {seed}" for seed in seeds],
    "seed": seeds,
    "epoch": 30.0,
    "step": 1,
    "learning_rate": 0.4,
    "dev_accuracy": accuracy,
    "test_accuracy": accuracy - 0.01,
    "dev_loss": np.where(accuracy < 0.5, 3.0, 1 - accuracy),
    "diverged_step": np.nan,
    "refused": arm == "valley",
  }
  return pd.DataFrame(columns | more)


def audited(regret, doubt=0.0):
  """Every rule at its regret; rate 0.4 is best, 0.8 `doubt` better if likely.

  Args:
    regret: By rule, or by rule and batch size.
  """
  table, reference, scores = [], [], {}
  for size in SIZES:
    for rule in range_test.RULES:
      seeds = SEEDS if rule in lr_range_audit.JUDGED else FEW
      own = regret.get((rule, size), regret.get(rule, 0.0))
      table.append(runs(rule, size, own, seeds))
    reference.append(runs(str(size), size, 0.0, candidate=1))
    scores[str(size)] = np.tile([1.0, 0.0, 1.0], (5, 1))
    if doubt:
      scores[str(size)][:, 1:] = [[0, 1], [1, 0], [0, 1], [1, 0], [0, 0.5]]
      reference.append(runs(str(size), size, -doubt, candidate=2))
  candidates = dict.fromkeys(scores, sweep.product(learning_rate=RATES))
  return {
    "table": pd.concat(table, ignore_index=True),
    "reference": pd.concat(reference, ignore_index=True),
    "tuned": tuning.Tuned(candidates, scores, pd.DataFrame()),
    "rates": one_epoch(
      {0.03: 1.0, 0.1: 0.7, 0.3: 0.4, 1.0: 0.3, 3.0: 0.5, 10.0: 5.0}
    ),
  }


def one_epoch(ends):
  """L1's runs; a rate's losses go up and down by a twentieth of its end."""
  seeds = (*range(100, 100 + SEEDS), *study.tuning_seeds(2))
  rows = [
    {
      "cell": f"{rate}-{seed}",
      "learning_rate": rate,
      "seed": seed,
      "step": step,
      "epoch": step / 429,
      "dev_loss": (loss := end * (1 + (k % 2 - 0.5) / 10 + wobble)),
      "test_loss": loss if k == 20 else np.nan,
      "diverged_step": np.nan,
    }
    for rate, end in ends.items()
    for seed in seeds
    for k, step in enumerate(range(229, 430, 10))
    for wobble in [0.002 * np.sin(37 * seed + step + 7 * rate)]
  ]
  return pd.DataFrame(rows)


def judged(measured):
  return {each.claim: each for each in lr_range_audit.judge(measured, values())}


LOW = dict.fromkeys(range_test.RULES, 0.0005)


def test_one_reading_of_the_curve_suffices():
  found = judged(audited(LOW | {"descending": 0.01, "valley": 0.05}))["L3"]
  assert found["rule noise"].verdict is HOLDS
  assert found["rule descending"].verdict is FAILS
  assert found["rule valley"].verdict is UNDECIDED  # few seeds
  assert found["rule valley"].note.endswith("refused 20 of 20, lost 0 of 20")
  assert found["rule descending, batch 32"].verdict is FAILS
  assert found["rule noise: lost runs"].verdict is HOLDS
  assert found.verdict is Verdict.LIMITS
  part = found["rule noise"]
  assert part.effect.estimate == pytest.approx(0.0005, abs=1e-4)
  assert part.test_effect.estimate == pytest.approx(0.0005, abs=1e-4)
  assert "by the turn of the curve costs 1.00 point" in found.sentence
  assert judged(audited(LOW))["L3"].verdict is HOLDS


def test_both_readings_can_be_wrong_and_right_at_one_batch_size():
  bad = dict.fromkeys(range_test.RULES, 0.01)
  assert judged(audited(bad))["L3"].verdict is FAILS
  found = judged(audited(bad | {("noise", 32): 0.0}))["L3"]
  assert found.verdict is Verdict.MOSTLY_NOT
  assert found.restriction == "of the rule noise at batch 32"


def test_a_few_lost_runs_are_counted_and_do_not_move_the_regret():
  measured = audited(LOW)
  table = measured["table"]
  lost = (table["arm"] == "noise") & (table["seed"] < 109)
  table.loc[lost & (table["batch_size"] == 256), "dev_accuracy"] = 0.1
  table.loc[lost & (table["batch_size"] == 256), "dev_loss"] = 3.0
  found = judged(measured)["L3"]
  assert found["rule noise"].verdict is HOLDS
  assert found["rule noise: lost runs"].effect.estimate == pytest.approx(0.3)
  assert found["rule noise: lost runs"].verdict is UNDECIDED
  assert "9 of 60 runs lost" in found.sentence


def test_a_reference_that_other_seeds_would_have_tuned_better_undoes_it():
  """The old way, with the best rate as given, says that the rule is as good."""
  found = judged(audited(LOW, doubt=0.004))["L3"]
  assert found["rule noise"].effect.estimate == pytest.approx(5e-4, abs=1e-4)
  assert found["rule noise"].verdict is UNDECIDED
  assert found["rule noise"].effect.high > 0.004


def test_too_small_and_too_large():
  measured = audited(LOW)
  found = judged(measured)["L1"]
  assert found.verdict is HOLDS
  assert {part.verdict for part in found.parts} == {HOLDS}
  assert found["too small, loss"].effect.estimate == pytest.approx(0.4, abs=0.1)
  assert "30 of 30 runs at 10 end above ln 10" in found.sentence
  tame = {0.03: 0.3, 0.1: 0.3, 0.3: 0.29, 1.0: 0.3, 3.0: 0.3}
  found = judged(measured | {"rates": one_epoch(tame)})["L1"]
  assert found["worse than guessing, loss"].verdict is FAILS
  assert found.verdict is FAILS


def test_the_best_rate_is_chosen_on_other_seeds():
  measured = audited(LOW)
  rates = measured["rates"]
  fresh = rates["seed"] < study.TUNING_SEED
  rates.loc[fresh & (rates["learning_rate"] == 0.3), "dev_loss"] = 0.01
  assert "where rate 1 is best" in judged(measured)["L1"].sentence


def test_short_batches_are_refused():
  measured = audited(LOW)
  measured["table"]["drop_last"] = False
  with pytest.raises(InputError, match="short last batches"):
    judged(measured)

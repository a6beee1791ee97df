"""The verdicts of grow_batch on tables whose answer is known, and its arms."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments import grow_batch
from experiments._shared import study
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Finding, Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 30
VALUES = study.preset_values(grow_batch.STUDY, "full")
VALUES.epochs, VALUES.change = 15, 10
VALUES.adam_epochs, VALUES.adam_change = 7, 4
NOISE = np.random.default_rng(0).normal(size=(SEEDS, 16))


def measured(loss, *, drop_last=True):
  """Runs whose loss after the change is .1 + loss(arm, power); noise small.

  power: The exponent of the rule that the runs follow, by optimizer.
  """
  rows = []
  for optimizer, power in (("sgd", 1), ("adam", 2)):
    epochs, change = grow_batch._length(optimizer, VALUES)
    for number, (name, arm) in enumerate(grow_batch.ARMS.items()):
      after = grow_batch.batch_after(name, VALUES.base)
      for seed in range(SEEDS):
        for epoch in range(epochs + 1):
          own = 2e-4 * np.sin(37 * number + 11 * epoch + seed)
          value = 0.1 + 0.002 * NOISE[seed, epoch] + own
          if epoch > change:
            value += loss(arm, power)
          row = {"optimizer": optimizer, "arm": name, "seed": seed}
          row |= {"cell": f"{optimizer}-{name}-{seed}", "epoch": float(epoch)}
          row |= {"batch_after": after, "drop_last": drop_last}
          row |= {"learning_rate": 0.8, "diverged_step": pd.NA}
          row["step"] = round(epoch * 430 / arm.growth)
          for split in ("dev", "test"):
            row |= {f"{split}_loss": value, f"{split}_accuracy": 1.07 - value}
          rows.append(row)
  table = pd.DataFrame(rows)
  return {"table": table, "tuning": table}


def by_rule(arm, power):
  """The rate's factor is worth the batch's 1/power-th: nothing else counts."""
  return 0.04 * math.exp(-math.log(arm.cut) - math.log(arm.growth) / power)


def the_other_way(arm, power):
  """The rule of the other optimizer; what does nothing is best."""
  return -by_rule(arm, 3 - power)


def claims_of(loss):
  claims = grow_batch.judge(measured(loss), VALUES)
  return {claim.claim: claim for claim in claims}


def test_what_follows_the_rules_holds():
  found = claims_of(by_rule)
  # With Adam and the batch alone, twice the exponent is missing.
  assert found["B5"].verdict is Verdict.LIMITS
  assert found["H2"].verdict is Verdict.HOLDS
  for claim in found.values():
    for part in claim.parts:
      if "least distance" in part.name:
        continue
      fails = part.name.startswith("Adam: grow") and "is decay" in part.name
      assert (part.verdict is Verdict.FAILS) == fails, part.name
  least = found["H2"]["SGD: least distance from decay 5"]
  assert least.verdict is Verdict.HOLDS
  beyond = found["H2"]["Adam: least distance from decay 5"]
  assert beyond.censored == 1  # at the end of the grid, where it says nothing
  assert "15 epochs" in found["H2"].sentence
  assert "n = 30" in found["B5"].sentence
  assert "6,450" in found["B5"].sentence


def test_what_follows_the_other_rules_does_not():
  found = claims_of(the_other_way)
  assert found["B5"].verdict is found["H2"].verdict is Verdict.FAILS
  assert found["B5"]["SGD: grow 5 is decay 5, loss"].verdict is Verdict.FAILS
  assert not found["H2"].restriction
  against = found["H2"]["Adam: split 5, p = 1 is further from decay 5"]
  assert against.finding is Finding.AGAINST
  replaced = found["B5"]["SGD: decay 5 against fixed, accuracy"]
  assert replaced.finding is Finding.AGAINST


def test_what_follows_sgd_alone_does_so_mostly_not():
  claim = claims_of(lambda arm, power: by_rule(arm, 1))["H2"]
  assert claim.verdict is Verdict.MOSTLY_NOT
  assert claim.restriction == "with SGD alone"


def test_one_epoch_beyond_the_margin_is_enough():
  """Where all other epochs agree, and the mean over them is well within."""
  runs = measured(by_rule)
  table = runs["table"]
  lags = (table["arm"] == "grow 5") & (table["epoch"] == 13)
  table.loc[lags & (table["optimizer"] == "sgd"), "dev_loss"] += 0.007
  claim = grow_batch.judge(runs, VALUES)[0]
  part = claim["SGD: grow 5 is decay 5, loss"]
  assert part.verdict is Verdict.FAILS
  assert "furthest at epoch 13" in part.note
  assert part.test_effect.high < 0.005


def test_a_curve_is_not_told_by_its_end():
  """Arms that all end where decay does; the wrong factors were off before."""
  runs = measured(by_rule)
  table = runs["table"]
  for optimizer, epochs in (("sgd", 15), ("adam", 7)):
    ends = (table["optimizer"] == optimizer) & (table["epoch"] == epochs)
    table.loc[ends, ["dev_loss", "dev_accuracy"]] = (0.1, 0.97)
  claim = grow_batch.judge(runs, VALUES)[0]
  for arm in ("grow 2", "grow 25"):
    part = claim[f"SGD: {arm} is further from decay 5"]
    assert part.verdict is Verdict.HOLDS


def test_short_batches_are_refused():
  with pytest.raises(InputError, match="short last batches"):
    grow_batch.judge(measured(by_rule, drop_last=False), VALUES)


def test_summary():
  summary = grow_batch.summarise(measured(by_rule), VALUES)
  ends = summary[summary["what"] == "end"]
  assert len(ends) == 2 * len(grow_batch.ARMS)
  assert (ends["seeds"] == SEEDS).all()
  away = summary[summary["what"] == "distance"]
  own = away[(away["optimizer"] == "adam") & (away["factor"] == 5)]
  assert own.set_index("arm")["distance"].idxmin() in (
    "grow 25",
    "split 5, p = 2",
  )


def test_the_arms_share_all_but_the_change():
  noise = {}
  for name, arm in grow_batch.ARMS.items():
    cell = grow_batch.arm_settings(name, 128, 0.8, 10, "adam")
    assert cell.drop_last
    clock = cell.clock(55_000)
    rates = cell.learning_rates(55_000, clock.before(30))
    sizes = [cell.batches.size_at(epoch) for epoch in (0, 9, 10, 29)]
    assert sizes == [128, 128, *[round(128 * arm.growth)] * 2]
    begins = [clock.before(epoch) for epoch in (0, 9, 10, 29)]
    expected = [0.8, 0.8, *[0.8 / arm.cut] * 2]
    np.testing.assert_allclose(rates[begins], expected, rtol=1e-5)
    noise[name] = rates[begins[-1]] / sizes[-1] * 128 / 0.8
  same = [noise[a] for a in ("decay 5", "grow 5", "split 5, p = 1")]
  np.testing.assert_allclose(same, 0.2, rtol=2e-3)
  assert noise["grow 25"] == pytest.approx(0.04, rel=1e-5)


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"change": 30}, "--change=30: .* --epochs=30"),
    ({"adam_change": 0}, "--adam_change=0: "),
  ],
)
def test_values_that_do_not_go_together(given, said):
  values = study.preset_values(grow_batch.STUDY, "full")
  grow_batch.check(values)
  vars(values).update(given)
  with pytest.raises(InputError, match=said):
    grow_batch.check(values)

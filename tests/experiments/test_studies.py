"""Verdicts of studies on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from experiments import (
  lr_comparison,
  lr_decay,
  seeds,
)
from experiments._shared import study
from mnist_jax.stats import verdicts
from mnist_jax.stats.verdicts import Finding, Verdict

SEEDS = 40


def noise(seed, epoch, arm):
  """A little, the same at every call, mostly shared by the arms of a seed."""
  rng = np.random.default_rng([seed, epoch])
  return 0.002 * rng.standard_normal() + 0.0005 * np.sin(37 * arm + seed)


def table(arms, epochs, accuracy, column="learning_rate", **more):
  """Runs whose accuracy is accuracy(arm, epoch) and whose loss is 1 less it."""
  rows = []
  for number, arm in enumerate(arms):
    for seed in range(SEEDS):
      for epoch in range(epochs + 1):
        value = accuracy(arm, epoch) + noise(seed, epoch, number)
        rows.append(
          {
            "cell": f"{arm}-{seed}",
            column: arm,
            "seed": seed,
            "epoch": float(epoch),
            "step": epoch * 430,
            "dev_accuracy": value,
            "dev_loss": 1 - value,
            "test_accuracy": value,
            **more,
          }
        )
  return pd.DataFrame(rows)


def verdict_of(parts):
  assert len({(part.claim, part.name) for part in parts}) == len(parts)
  return {part.name: part.verdict for part in parts}


def as_claimed(rate, epoch):
  """0.8 ahead until epoch 5, 0.5 from there on; the others behind."""
  if rate == 0.8:
    return 0.95 if epoch else 0.1
  if rate == 0.5:
    return (0.94 if epoch < 5 else 0.96) if epoch else 0.1
  return 0.9


def opposite(rate, epoch):
  swapped = {0.8: 0.5, 0.5: 0.8}
  return as_claimed(swapped.get(rate, rate), epoch)


@pytest.mark.parametrize(
  ("accuracy", "expected"),
  [(as_claimed, Verdict.HOLDS), (opposite, Verdict.FAILS)],
)
def test_lr_comparison(accuracy, expected):
  values = study.preset_values(lr_comparison.STUDY, "full")
  values.epochs = 14
  runs = table(values.rates, 14, accuracy)
  found = verdict_of(lr_comparison.judge(runs, values))
  assert len(found) == 12
  for metric in ("accuracy", "loss"):
    for name in ("first", "passed", "stays", "best of 0.5 and 0.8"):
      assert found[f"{name}, {metric}"] is expected
    assert found[f"best of 0.5 and 0.2, {metric}"] is Verdict.HOLDS


def test_lr_comparison_of_equals_does_not_hold_by_its_margin():
  values = study.preset_values(lr_comparison.STUDY, "full")
  values.epochs = 14
  runs = table(values.rates, 14, lambda rate, epoch: 0.95)
  found = verdict_of(lr_comparison.judge(runs, values))
  assert found["best of 0.5 and 0.8, accuracy"] is Verdict.FAILS


def test_seeds():
  values = study.preset_values(seeds.STUDY, "full")
  arms = ("64,16", "256,16")

  def near(arm, epoch):
    return 0.9745 if arm == arms[0] else 0.978

  runs = table(arms, 2, near, "hidden_sizes")
  for column in ("dev", "test"):
    runs[f"{column}_loss"] = 1.0725 - runs[f"{column}_accuracy"]
  n1, n2 = seeds.judge(runs, values)
  assert n1["test accuracy"].verdict is Verdict.HOLDS
  assert n1["dev loss"].verdict is Verdict.HOLDS  # 0.098 against 0.098
  # The loss is 0.0035 lower, real but below its margin.
  assert (n1.verdict, n2.verdict) == (Verdict.HOLDS, Verdict.LIMITS)
  assert n2["wider, accuracy"].test_effect is not None
  assert "gain 0.35 point" in n2.sentence
  runs["test_accuracy"] -= 0.01  # five of the seeds' standard deviations
  n1, _ = seeds.judge(runs, values)
  assert n1.verdict is Verdict.FAILS
  assert n1["test accuracy"].finding is Finding.OUTSIDE
  assert n1["mean test accuracy"].margin == pytest.approx(0.0030, abs=1e-4)


def test_lr_decay():
  values = study.preset_values(lr_decay.STUDY, "full")
  ends = {"decayed": 0.97, "best fixed": 0.96, "large alone": 0.97}

  def accuracy(arm, epoch):
    return ends.get(arm, 0.95)

  choice = {
    "fixed": 0.5,
    "learning_rate": 0.8,
    "gamma": 0.1,
    "boundaries": (20.0,),
  }
  measured = {
    "table": table(lr_decay.ARMS, 2, accuracy, "arm"),
    "choice": choice,
  }
  parts = lr_decay.judge(measured, values)
  found = verdict_of(parts)
  assert found["against best fixed, accuracy"] is Verdict.HOLDS
  assert found["against small alone, loss"] is Verdict.HOLDS
  assert found["against large alone, accuracy"] is Verdict.FAILS
  assert "from epoch 20 on 0.08; best fixed 0.5" in parts[0].note
  assert verdicts.combine(parts) is Verdict.FAILS

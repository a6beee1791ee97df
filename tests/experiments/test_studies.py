"""Verdicts of studies on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from experiments import (
  lr_range_audit,
  seeds,
)
from experiments._shared import study
from mnist_jax import range_test
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


def audited(regret, size):
  """Runs of every rule at its regret, beside a grid of which 0.5 is best."""
  accuracy = {"grid 0.2": 0.95, "grid 0.5": 0.96, "grid 1": 0.95}
  accuracy |= {rule: 0.96 - regret[rule] for rule in range_test.RULES}
  runs = table(accuracy, 0, lambda arm, epoch: accuracy[arm], "arm")
  rates = (
    runs["arm"]
    .str.removeprefix("grid ")
    .replace(dict.fromkeys(range_test.RULES, "0.4"))
  )
  return runs.assign(
    learning_rate=rates.astype(float),
    batch_size=size,
    refused=runs["arm"] == "valley",
    grid_best=0.5,
  )


def one_epoch(ends):
  """L1's runs; a rate's losses go up and down by a twentieth of its end."""
  rows = []
  for rate, end in ends.items():
    for seed in range(SEEDS):
      for step in range(0, 430, 20):
        wave = (step // 20 % 2 - 0.5) / 10 + noise(seed, step, 0)
        rows.append(
          {
            "cell": f"{rate}-{seed}",
            "learning_rate": rate,
            "seed": seed,
            "step": step,
            "dev_loss": end * (1 + wave),
            "diverged_step": np.nan,
          }
        )
  return pd.DataFrame(rows)


def test_lr_range_audit():
  values = study.preset_values(lr_range_audit.STUDY, "full")
  values.batch_sizes = (32, 256)
  regret = dict.fromkeys(range_test.RULES, 0.0005) | {"valley": 0.01}
  runs = [audited(regret, 32), audited(regret | {"noise": 0.0035}, 256)]
  losses = {0.03: 1.0, 0.1: 0.7, 0.3: 0.4, 1.0: 0.3, 3.0: 0.5, 10.0: 5.0}
  measured = {"table": pd.concat(runs), "rates": one_epoch(losses)}
  parts = lr_range_audit.judge(measured, values)
  found = verdict_of(parts)
  assert found["rule steepest"] is Verdict.HOLDS
  assert found["rule valley"] is Verdict.FAILS
  assert found["rule noise"] is Verdict.FAILS  # 0.2 point over both
  assert found["rule noise, batch 32"] is Verdict.HOLDS
  assert found["rule noise, batch 256"] is Verdict.FAILS
  by_name = {part.name: part for part in parts}
  assert "refused 80 of 80" in by_name["rule valley"].note
  assert "median 0.19 point" in by_name["rule noise"].note
  for name in ("too small", "too large", "worse than guessing", "fluctuates"):
    assert found[name] is Verdict.HOLDS

  few = {name: runs[runs["seed"] < 2] for name, runs in measured.items()}
  parts = lr_range_audit.judge(few, values)
  assert set(verdict_of(parts).values()) == {Verdict.UNDECIDED}
  assert "median" in parts[0].note

  tame = dict.fromkeys(losses, 0.3) | {0.1: 0.29}
  measured["rates"] = one_epoch(tame)
  found = verdict_of(lr_range_audit.judge(measured, values))
  assert found["worse than guessing"] is Verdict.FAILS

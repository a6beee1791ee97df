"""Verdicts of studies on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from experiments import seeds
from experiments._shared import study
from mnist_jax.stats.verdicts import Finding, Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

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

"""L6 and L2 judged on made-up tables, and on their opposite."""

import numpy as np
import pandas as pd
import pytest

from experiments._shared import study
from experiments.lr_policies import parity
from experiments.lr_policies.study import STUDY
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 40
HOLDS, FAILS = Verdict.HOLDS, Verdict.FAILS


def own_of(seed):
  """What sets a seed apart, the same at every call, around 0."""
  return float(np.sin(37 * seed + 5))


def policies(exponent, below, ulps):
  """Excess losses ~ t^exponent, those of inv below fixed by a log ratio."""
  updates = 2 ** np.arange(5, 15)
  names = ("fixed", "step", "multistep", "exp", "inv", "poly", "inv, power 1")
  rows = [
    {
      "policy": policy,
      "seed": seed,
      "step": int(step),
      "excess": (step / updates[-1]) ** (exponent + 0.02 * own_of(seed))
      * np.exp(-below * policy.startswith("inv") + 0.02 * own_of(seed + k)),
    }
    for k, policy in enumerate(names)
    for seed in range(SEEDS)
    for step in updates
  ]
  found = {"policy": "exp", "formula": "f", "steps": 20_000}
  exact = {"against": parity.EXACT, "max_ulps": ulps, "max_relative": 1e-8}
  torch = {"against": "torch 2", "max_ulps": 9.0, "max_relative": 1e-6}
  return {
    "convex": pd.DataFrame(rows),
    "parity": pd.DataFrame([found | exact, found | torch]),
  }


@pytest.mark.parametrize(
  ("exponent", "below", "ulps", "falling", "lower", "exact"),
  [
    (-0.5, 0.7, 0.5, HOLDS, HOLDS, HOLDS),
    (0.5, -0.7, 1.5, FAILS, FAILS, FAILS),
    (-0.5, -0.7, 1.0, HOLDS, FAILS, HOLDS),
  ],
)
def test_judge(exponent, below, ulps, falling, lower, exact):
  values = study.preset_values(STUDY, "full")
  l2, l6 = STUDY.judge(policies(exponent, below, ulps), values)
  assert (l6.claim, l2.claim) == ("L6", "L2")
  assert l6.verdict is exact  # whatever torch's rounding is
  assert l2.verdict is (HOLDS if falling is lower is HOLDS else FAILS)
  assert l2["which have both conditions"].verdict is HOLDS
  for policy in ("inv", "inv, power 1"):
    slope = l2[f"{policy}: still falling"]
    assert slope.verdict is falling
    assert slope.effect.estimate == pytest.approx(exponent, abs=0.01)
    ratio = l2[f"{policy}: below the fixed rate"]
    assert ratio.verdict is lower
    assert ratio.effect.estimate == pytest.approx(-below, abs=0.01)


def test_the_sentence_says_which_end_lower_though_they_break_a_condition():
  values = study.preset_values(STUDY, "full")
  measured = policies(-0.5, 0.7, 0.5)
  table = measured["convex"]
  table.loc[table["policy"] == "step", "excess"] /= 10
  l2, _ = STUDY.judge(measured, values)
  lower, _, other = l2.sentence.partition("do not:")
  assert "step 0.20" in lower
  assert "multistep 2.0" in other

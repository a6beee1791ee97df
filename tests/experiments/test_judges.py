"""Judges on made-up measurements whose answer is known, and on their opposite.

Those of the studies that test_studies.py and the studies' own tests leave out.
"""

import numpy as np
import pandas as pd
import pytest

from experiments import lr_decay
from experiments._shared import study
from experiments.gradient_check import judge as gradient_check
from experiments.lr_policies.study import STUDY as LR_POLICIES
from mnist_jax.stats.verdicts import Verdict

SEEDS = 40
HOLDS, FAILS = Verdict.HOLDS, Verdict.FAILS


def own_of(seed):
  """What sets a seed apart, the same at every call, around 0."""
  return float(np.sin(37 * seed + 5))


def verdicts_of(parts):
  assert len({(part.claim, part.name) for part in parts}) == len(parts)
  return {part.name: part.verdict for part in parts}


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
  parity = {"policy": "exp", "against": "exact formula", "formula": "f"}
  parity |= {"steps": 20_000, "max_ulps": ulps, "max_relative": 1e-8}
  return {"convex": pd.DataFrame(rows), "parity": pd.DataFrame([parity])}


@pytest.mark.parametrize(
  ("exponent", "below", "ulps", "falling", "lower", "exact"),
  [
    (-0.5, 0.7, 0.5, HOLDS, HOLDS, HOLDS),
    (0.5, -0.7, 1.5, FAILS, FAILS, FAILS),
    (-0.5, -0.7, 1.0, HOLDS, FAILS, HOLDS),
  ],
)
def test_lr_policies(exponent, below, ulps, falling, lower, exact):
  values = study.preset_values(LR_POLICIES, "full")
  parts = LR_POLICIES.judge(policies(exponent, below, ulps), values)
  found = verdicts_of(parts)
  assert found["exp, exact formula"] is exact
  assert found["which have both conditions"] is HOLDS
  for policy in ("inv", "inv, power 1"):
    assert found[f"{policy}: still falling"] is falling
    assert found[f"{policy}: below the fixed rate"] is lower
  assert len(found) == 6
  by_name = {part.name: part for part in parts}
  slope = by_name["inv: still falling"].effect.estimate
  assert slope == pytest.approx(exponent, abs=0.01)
  ratio = by_name["inv: below the fixed rate"].effect.estimate
  assert ratio == pytest.approx(-below, abs=0.01)


def errors_of(one_sided, two_sided, valley, floors):
  """Distances ~ h^order, from where rounding stops them at the valley."""
  h = gradient_check.STEPS
  noise = np.exp([[0.02 * own_of(seed)] for seed in range(SEEDS)])
  orders = {"one_sided": one_sided, "two_sided": two_sided}

  def curve(dtype, method):
    least, least_at = floors[method], valley[method]
    if dtype == "float32":  # all comes sooner, for the same shape
      least_at = max(least_at, 1e-2)
    falling = least * (h / least_at) ** orders[method]
    return noise * np.where(h >= least_at, falling, least * least_at / h)

  return {key: curve(*key) for key in gradient_check.FIT_RANGES}


def moment(distance, no_l2, late):
  return {
    "plain": {"all": distance, "[0].w": 1.5 * distance},
    "no_l2": {"caught": no_l2},
    "late": {"caught": late},
  }


def made_up(*, claimed):
  """Measurements as the chapter claims, or the other way round."""
  sign = 1 if claimed else -1
  first, last = (1e-9, 1e-8) if claimed else (1e-5, 1e-6)
  jitter = [10 ** (0.05 * own_of(seed)) for seed in range(SEEDS)]
  ways = ("one_sided", "two_sided")[::sign]
  depths = (1, 2, 4, 8)
  return gradient_check.Measurements(
    errors_of(
      1.0 if claimed else 2.0,
      2.0 if claimed else 1.0,
      dict(zip(ways, (10**-8.0, 10**-5.5), strict=True)),
      dict(zip(ways, (1e-7, 1e-10), strict=True)),
    ),
    depths,
    {
      "numeric, tanh": np.array(
        [
          1e-9 * np.array(depths) ** (sign * (1 + 0.1 * (j - 1)))
          for j in jitter
        ]
      )
    },
    (0, 1),
    [
      [
        moment(first * j, no_l2=float(claimed), late=float(not claimed)),
        moment(last * j**2, no_l2=float(claimed), late=float(claimed)),
      ]
      for j in jitter
    ],
    {"dropout is checked": claimed},
  )


@pytest.mark.parametrize("claimed", [True, False])
def test_gradient_check(claimed):
  parts = gradient_check.parts(made_up(claimed=claimed))
  found = verdicts_of(parts)
  assert {part.claim for part in parts} == {"G1", "G2", "G3", "G5"}
  unlike = {
    name: verdict.value
    for name, verdict in found.items()
    if verdict is not (HOLDS if claimed else FAILS)
    # Both valleys of float32 are put where its range begins.
    and name != "valley, float32"
  }
  assert not unlike
  assert len(found) == 15


def runs(ends, column, **more):
  """Runs of two moments whose accuracy ends at ends[arm]; loss is 1 less it."""
  rows = [
    {
      "cell": f"{arm}-{seed}",
      column: arm,
      "seed": seed,
      "epoch": float(epoch),
      "step": epoch,
      "learning_rate": 1.0,
      "dev_accuracy": (value := end + 0.0005 * own_of(seed + 7 * k)),
      "dev_loss": 1 - value,
      **more,
    }
    for k, (arm, end) in enumerate(ends.items())
    for seed in range(SEEDS)
    for epoch in range(2)
  ]
  return pd.DataFrame(rows)


@pytest.mark.parametrize(("gain", "expected"), [(0.02, HOLDS), (-0.02, FAILS)])
def test_lr_decay_both_ways(gain, expected):
  ends = dict.fromkeys(lr_decay.ARMS, 0.95) | {"decayed": 0.95 + gain}
  choice = {"fixed": 0.5, "learning_rate": 0.8, "gamma": 0.1}
  measured = {
    "table": runs(ends, "arm"),
    "choice": choice | {"boundaries": (20.0,)},
  }
  values = study.preset_values(lr_decay.STUDY, "full")
  found = verdicts_of(lr_decay.judge(measured, values))
  assert len(found) == 6
  assert set(found.values()) == {expected}

"""Judges on made-up measurements whose answer is known, and on their opposite.

Those of the studies that test_studies.py and the studies' own tests leave out.
"""

import numpy as np
import pandas as pd
import pytest

from experiments import adaptive_rates
from experiments._shared import study
from experiments.gradient_check import judge as gradient_check
from mnist_jax.stats.verdicts import Verdict

SEEDS = 40
HOLDS, FAILS = Verdict.HOLDS, Verdict.FAILS


def own_of(seed):
  """What sets a seed apart, the same at every call, around 0."""
  return float(np.sin(37 * seed + 5))


def verdicts_of(parts):
  assert len({(part.claim, part.name) for part in parts}) == len(parts)
  return {part.name: part.verdict for part in parts}


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
    {f"mistake {i}": 1e-1 if claimed else 1e-9 for i in range(200)},
  )


@pytest.mark.parametrize("claimed", [True, False])
def test_gradient_check(claimed):
  judged = gradient_check.judged(made_up(claimed=claimed))
  assert [claim.claim for claim in judged] == ["G1", "G2", "G3", "G5"]
  parts = [part for claim in judged for part in claim.parts]
  unlike = {
    part.name: str(part.verdict)
    for part in parts
    if part.verdict is not (HOLDS if claimed else FAILS)
    # Both valleys of float32 are put where its range begins, and the deepest
    # network is below the bar either way.
    and part.name
    not in ("valley, float32", "numeric, tanh, deepest, below the bar")
  }
  assert not unlike
  assert len(parts) == 17
  for claim in judged:
    assert claim.verdict is (HOLDS if claimed else FAILS)
    assert claim.sentence.endswith(".")


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
def test_adaptive_rates_both_ways(gain, expected):
  ends = dict.fromkeys(adaptive_rates.GRIDS, 0.9)
  better = {kind: 0.9 + gain * (kind != "sgd") for kind in ends}
  table = pd.concat(
    [
      runs(better, "optimizer", data="sparse"),
      runs(ends, "optimizer", data="control"),
    ]
  )
  values = study.preset_values(adaptive_rates.STUDY, "full")
  found = verdicts_of(adaptive_rates.judge({"table": table}, values))
  assert len(found) == 12
  assert set(found.values()) == {expected}

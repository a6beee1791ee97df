"""The gradient check's judge on made-up measurements, and on their opposite."""

import numpy as np
import pytest

from experiments.gradient_check import judge as gradient_check
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 40
HOLDS, FAILS = Verdict.HOLDS, Verdict.FAILS


def own_of(seed):
  """What sets a seed apart, the same at every call, around 0."""
  return float(np.sin(37 * seed + 5))


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

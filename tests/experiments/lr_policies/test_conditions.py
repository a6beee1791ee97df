import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.lr_policies import conditions, parity
from mnist_jax import schedules
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules.config import ScheduleConfig

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

LONG = 1 << 17


def partial_sums(config, num_steps=LONG):
  """Both sums over the first updates, by the schedule itself."""
  rates = schedules.learning_rates(config, num_steps, num_steps).astype(float)
  return np.cumsum(rates), np.cumsum(rates**2)


CASES = {
  "fixed": ScheduleConfig("fixed", 0.2),
  "step": ScheduleConfig("step", 0.2, gamma=0.5, decay_steps=3000),
  "multistep": ScheduleConfig("multistep", 0.2, boundaries=(50, 900)),
  "exp": ScheduleConfig("exp", 0.2, gamma=0.9995),
  "inv 0.4": ScheduleConfig("inv", 0.2, gamma=0.1, power=0.4),
  "inv 0.75": ScheduleConfig("inv", 0.2, gamma=0.1, power=0.75),
  "inv 1": ScheduleConfig("inv", 0.2, gamma=0.1, power=1.0),
  "inv 1.5": ScheduleConfig("inv", 0.2, gamma=0.1, power=1.5),
  "poly": ScheduleConfig("poly", 0.2, power=2.0, decay_steps=5000),
  "exponential_decay": ScheduleConfig(
    "exponential_decay", 0.2, decay_rate=0.5, decay_steps=3000
  ),
  "staircase": ScheduleConfig(
    "exponential_decay", 0.2, decay_rate=0.5, decay_steps=3000, staircase=True
  ),
  "warmup, then exp": ScheduleConfig("exp", 0.2, gamma=0.9995, warmup_steps=99),
}
# Whether the sum is infinite, and whether that of squares is finite.
EXPECTED = {
  "fixed": (True, False),
  "multistep": (True, False),
  "inv 0.4": (True, False),
  "inv 0.75": (True, True),
  "inv 1": (True, True),
}


@pytest.mark.parametrize("name", CASES)
def test_the_table_says_what_the_partial_sums_do(name):
  found = conditions.conditions(CASES[name])
  expected = EXPECTED.get(name, (False, True))
  assert (found.reaches_anywhere, found.noise_dies_out) == expected
  sums = partial_sums(CASES[name])
  for partial, whole in zip(sums, (found.total, found.squares), strict=True):
    doubling = partial[-1] - partial[LONG // 2 - 1]
    before = partial[LONG // 2 - 1] - partial[LONG // 4 - 1]
    if math.isinf(whole):
      # Each doubling of the updates adds at least what the last one did.
      assert doubling > 0.99 * before > 0
    else:
      # Each adds less, by a factor; the rest is a geometric series at most.
      assert doubling <= 0.9 * before
      ratio = doubling / before if before else 0.0
      rest = doubling * ratio / (1 - ratio)
      assert partial[-1] + rest == pytest.approx(whole, rel=2e-3)


@given(st.floats(0.05, 3.0))
def test_inv_meets_both_between_a_half_and_one(power):
  config = ScheduleConfig("inv", 0.2, gamma=0.1, power=power)
  assert conditions.conditions(config).both == (0.5 < power <= 1)


def test_of_the_chapters_six_inv_alone_meets_both():
  configs = parity.studied_policies()
  table = {
    name: conditions.conditions(config) for name, config in configs.items()
  }
  assert [name for name, found in table.items() if found.both] == ["inv"]


def test_what_is_no_formula_in_updates_is_refused():
  for config in (
    ScheduleConfig("poly", 0.2),
    ScheduleConfig("exp", 0.2, gamma=0.9, schedule_unit="epochs"),
  ):
    with pytest.raises(InputError, match="in updates with all settings"):
      conditions.conditions(config)

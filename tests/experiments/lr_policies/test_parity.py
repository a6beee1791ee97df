import sys
import types
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.lr_policies import parity as policy_parity
from mnist_jax import schedules
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import policies
from mnist_jax.schedules.config import ScheduleConfig

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run


@pytest.fixture(scope="module")
def certificate():
  return policy_parity.against_formula(policy_parity.studied_policies())


def test_every_policy_is_its_formula_to_half_a_last_place(certificate):
  assert [parity.policy for parity in certificate] == [
    "fixed", "step", "multistep", "exp", "inv", "poly", "exponential_decay"
  ]  # fmt: skip
  for parity in certificate:
    assert parity.steps == 20_000
    assert parity.against == "exact formula"
    assert parity.max_ulps <= 0.5 + 1e-4
    # Half a last place of 24 bits, relative.
    assert parity.max_relative <= 2.0**-24 * (1 + 1e-4)


def test_a_drifting_schedule_is_caught(certificate, monkeypatch):
  """The float32 view that optax itself computes in, as the table."""
  config = policy_parity.studied_policies()["exp"]

  def in_float32(schedule, num_steps):
    return np.asarray(schedule(np.arange(num_steps)), np.float32)

  monkeypatch.setattr(policies, "tabulate", in_float32)
  schedules.learning_rates.cache_clear()
  (drifted,) = policy_parity.against_formula({"exp": config})
  schedules.learning_rates.cache_clear()  # no other test may read that table
  assert drifted.max_ulps > 20
  assert drifted.max_relative > 1e-6
  assert drifted.worst_step > 0


@given(st.integers(0, 60))
def test_the_decimals_are_the_rationals_they_stand_for(t):
  """Where a formula is rational, in fractions of the float settings."""
  rate, factor = Fraction(0.2), Fraction(0.9)
  expected = {
    ScheduleConfig("fixed", 0.2): rate,
    ScheduleConfig("step", 0.2, gamma=0.9, decay_steps=7): (
      rate * factor ** (t // 7)
    ),
    ScheduleConfig("multistep", 0.2, gamma=0.9, boundaries=(5, 20)): (
      rate * factor ** ((t >= 5) + (t >= 20))
    ),
    ScheduleConfig("exp", 0.2, gamma=0.9): rate * factor**t,
    ScheduleConfig("inv", 0.2, gamma=0.9, power=2.0): (
      rate / (1 + factor * t) ** 2
    ),
    ScheduleConfig("poly", 0.2, power=2.0, decay_steps=50): (
      rate * max(1 - Fraction(t, 50), Fraction(0)) ** 2
    ),
    ScheduleConfig(
      "exponential_decay", 0.2, decay_rate=0.9, decay_steps=7, staircase=True
    ): rate * factor ** (t // 7),
  }
  for config, value in expected.items():
    found = Fraction(policy_parity.exact_rates(config, t + 1)[t])
    assert abs(found - value) <= value / 10**47, config.schedule


def test_the_smooth_decay_is_a_root():
  config = ScheduleConfig(
    "exponential_decay", 0.2, decay_rate=0.5, decay_steps=4
  )
  start, middle, period = (
    Fraction(policy_parity.exact_rates(config, 9)[t]) for t in (0, 2, 4)
  )
  assert abs(middle**2 / (start * period) - 1) < Fraction(1, 10**47)
  assert abs(period / start - Fraction(1, 2)) < Fraction(1, 10**47)


def test_distances_are_relative_in_last_places_and_at_their_update():
  others = [Decimal(1), Decimal(2), Decimal(0)]
  rates = np.array([1, 2 + 2**-22, 0], np.float32)
  relative, ulps, worst = policy_parity.compare(rates, others)
  assert (relative, ulps, worst) == (2.0**-23, 1.0, 1)
  rates[2] = 1e-20
  assert policy_parity.compare(rates, others)[0] == np.inf


def test_only_a_policy_in_updates_has_a_formula_here():
  for config in (
    ScheduleConfig("fixed", 0.2, schedule_unit="epochs"),
    ScheduleConfig("fixed", 0.2, warmup_steps=5),
  ):
    with pytest.raises(InputError, match="in updates, without warmup"):
      policy_parity.exact_rates(config, 10)


def test_without_torch_it_says_so(monkeypatch):
  monkeypatch.setattr(policy_parity.importlib.util, "find_spec", lambda _: None)
  configs = policy_parity.studied_policies(num_steps=100)
  assert policy_parity.against_torch(configs, 100) == "torch is not installed"
  # A folder of that name on the path is no torch either.
  folder = types.SimpleNamespace(origin=None)
  monkeypatch.setattr(
    policy_parity.importlib.util, "find_spec", lambda _: folder
  )
  assert policy_parity.against_torch(configs, 100) == "torch is not installed"


def test_torch_agrees_where_it_is_installed():
  if isinstance(policy_parity.against_torch({}), str):
    pytest.skip("torch is not installed")
  configs = policy_parity.studied_policies(num_steps=1000)
  found = policy_parity.against_torch(configs, 1000)
  assert {parity.policy for parity in found} == (
    set(configs) - {"inv", "exponential_decay"}
  )
  assert "torch" in sys.modules
  for parity in found:
    assert parity.max_ulps <= 0.51

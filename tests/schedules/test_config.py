"""Settings to schedules: units, defaults, and every refusal by its flag."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax import schedules
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import POLICIES, ScheduleConfig
from mnist_jax.schedules.config import to_updates

EPOCH, TOTAL = 43, 430


def table(config: ScheduleConfig) -> np.ndarray:
  return schedules.learning_rates(config, EPOCH, TOTAL)


# Settings in updates beside what they must build.
SAME = [
  (ScheduleConfig(), schedules.fixed(0.2)),
  (ScheduleConfig("step", 0.5, decay_steps=100), schedules.step(0.5, 0.1, 100)),
  (
    ScheduleConfig("multistep", 0.5, gamma=0.5, boundaries=(9, 300)),
    schedules.multistep(0.5, 0.5, [9, 300]),
  ),
  (ScheduleConfig("exp", 0.5, gamma=0.99), schedules.exp(0.5, 0.99)),
  (ScheduleConfig("inv", 0.5, gamma=0.01), schedules.inv(0.5, 0.01, 0.75)),
  (
    ScheduleConfig("inv", 1, gamma=2, power=1),
    schedules.inv(1.0, 2.0, 1.0),
  ),
  (ScheduleConfig("poly", 0.5), schedules.poly(0.5, 1.0, TOTAL)),
  (
    ScheduleConfig("poly", 0.5, power=2, decay_steps=99.0),
    schedules.poly(0.5, 2.0, 99),
  ),
  (ScheduleConfig("cosine", 0.5), schedules.cosine(0.5, TOTAL)),
  (ScheduleConfig("cosine", 0.5, decay_steps=99), schedules.cosine(0.5, 99)),
  (
    ScheduleConfig("wsd", 0.5, stable_steps=100),
    schedules.wsd(0.5, 100, TOTAL - 100),
  ),
  (
    ScheduleConfig("wsd", 0.5, stable_steps=20, decay_steps=30),
    schedules.wsd(0.5, 20, 30),
  ),
  (
    ScheduleConfig("exponential_decay", 0.5, decay_rate=0.9, decay_steps=50),
    schedules.exponential_decay(0.5, 0.9, 50),
  ),
  (
    ScheduleConfig(
      "exponential_decay",
      0.5,
      decay_rate=0.9,
      decay_steps=50,
      staircase=True,
    ),
    schedules.step(0.5, 0.9, 50),
  ),
]


@pytest.mark.parametrize(("config", "schedule"), SAME)
def test_settings_build_the_policy_they_name(config, schedule):
  np.testing.assert_array_equal(
    table(config), schedules.tabulate(schedule, TOTAL)
  )


def test_every_policy_is_among_those_cases():
  assert {config.schedule for config, _ in SAME} == set(POLICIES)


@pytest.mark.parametrize(("config", "schedule"), SAME)
def test_warmup_goes_before_any_policy(config, schedule):
  warm = table(dataclasses.replace(config, warmup_steps=30))
  if config.constants().get("decay_steps", 1) is None:  # the rest of the run
    schedule = {
      "poly": schedules.poly(0.5, 1.0, TOTAL - 30),
      "cosine": schedules.cosine(0.5, TOTAL - 30),
      "wsd": schedules.wsd(0.5, 100, TOTAL - 130),
    }[config.schedule]
  expected = schedules.with_warmup(schedule, 30)
  np.testing.assert_array_equal(warm, schedules.tabulate(expected, TOTAL))


@pytest.mark.parametrize(("config", "schedule"), SAME)
def test_resolving_changes_no_rate_and_is_done_once(config, schedule):
  del schedule
  resolved = config.resolve(EPOCH, TOTAL)
  np.testing.assert_array_equal(table(resolved), table(config))
  assert resolved.resolve(7, 11) == resolved


def test_durations_in_epochs_are_converted():
  for epochs, updates in (
    (
      ScheduleConfig("step", decay_steps=2.5, schedule_unit="epochs"),
      ScheduleConfig("step", decay_steps=108),  # 107.5 rounds up
    ),
    (
      ScheduleConfig("multistep", boundaries=(1, 3.3), schedule_unit="epochs"),
      ScheduleConfig("multistep", boundaries=(43, 142)),
    ),
    (
      ScheduleConfig(
        "poly", decay_steps=7, warmup_steps=1, schedule_unit="epochs"
      ),
      ScheduleConfig("poly", decay_steps=301, warmup_steps=43),
    ),
  ):
    assert epochs.resolve(EPOCH, TOTAL) == updates.resolve(EPOCH, TOTAL)
    np.testing.assert_array_equal(table(epochs), table(updates))


def test_exp_and_inv_in_epochs_take_time_in_epochs():
  t = np.arange(TOTAL) / EPOCH
  rates = table(ScheduleConfig("exp", 0.5, gamma=0.7, schedule_unit="epochs"))
  np.testing.assert_allclose(rates, 0.5 * 0.7**t, rtol=1e-7)
  rates = table(ScheduleConfig("inv", 0.5, gamma=0.7, schedule_unit="epochs"))
  np.testing.assert_allclose(rates, 0.5 * (1 + 0.7 * t) ** -0.75, rtol=1e-7)
  # step's gamma belongs to a drop, not to a time.
  rates = table(
    ScheduleConfig("step", 1, decay_steps=1, schedule_unit="epochs")
  )
  np.testing.assert_allclose(rates, 0.1 ** np.floor(t), rtol=1e-7)


@settings(max_examples=50)
@given(hundredths=st.integers(1, 10**6), steps_per_epoch=st.integers(50, 10**4))
def test_epochs_round_to_the_nearest_update_halves_up(
  hundredths, steps_per_epoch
):
  expected = (2 * hundredths * steps_per_epoch + 100) // 200
  assert to_updates(hundredths / 100, steps_per_epoch) == max(expected, 1)


def test_halves_are_those_of_the_decimal_number():
  assert 0.145 * 100 < 14.5
  assert to_updates(0.145, 100) == 15


@pytest.mark.parametrize("bad", [0, -1, 0.001, float("nan"), float("inf")])
def test_epochs_of_no_update_are_refused(bad):
  with pytest.raises(InputError, match=r"epochs=.*expected at least 1 update"):
    to_updates(bad, 100)


def test_describe_gives_formula_and_numbers():
  for config, text in (
    (ScheduleConfig(), "fixed: 0.2"),
    (
      ScheduleConfig("step", decay_steps=5, schedule_unit="epochs"),
      "step: 0.2 × 0.1^⌊e / 5⌋",
    ),
    (
      ScheduleConfig("multistep", gamma=0.5, boundaries=(5, 8)),
      "multistep: 0.2 × 0.5^#(5,8 ≤ t)",
    ),
    (ScheduleConfig("exp", gamma=0.9999), "exp: 0.2 × 0.9999^t"),
    (
      ScheduleConfig("inv", gamma=1e-4),
      "inv: 0.2 × (1 + 0.0001 t)^−0.75",
    ),
    (ScheduleConfig("poly"), "poly: 0.2 × (1 − t / T)^1"),
    (
      ScheduleConfig("wsd", stable_steps=2, schedule_unit="epochs"),
      "wsd: 0.2 × min(1, 1 − (e − 2) / T)",
    ),
    (
      ScheduleConfig("poly", power=2, warmup_steps=30).resolve(EPOCH, TOTAL),
      "poly: 0.2 × (1 − t / 400)^2 after 30 updates of warmup",
    ),
    (
      ScheduleConfig("exponential_decay", decay_rate=0.96, decay_steps=50),
      "exponential_decay: 0.2 × 0.96^(t / 50)",
    ),
    (
      ScheduleConfig(
        "exponential_decay", decay_rate=0.96, decay_steps=50, staircase=True
      ),
      "exponential_decay: 0.2 × 0.96^⌊t / 50⌋",
    ),
  ):
    assert config.describe() == text


# --- refusals ----------------------------------------------------------------

STEP = {"schedule": "step", "decay_steps": 50}
DECAY = {"schedule": "exponential_decay", "decay_rate": 0.9, "decay_steps": 50}
REFUSED = [
  # Unknown names.
  ({"schedule": "linear"}, "schedule=linear: expected one of fixed, step"),
  ({"schedule_unit": "days"}, "schedule_unit=days: expected one of updates"),
  # Not given.
  ({"schedule": "step"}, "decay_steps: not given"),
  ({"schedule": "multistep"}, "boundaries: not given"),
  ({"schedule": "exp"}, "gamma: not given"),
  ({"schedule": "inv"}, "gamma: not given"),
  ({"schedule": "exponential_decay", "decay_steps": 5}, "decay_rate: not"),
  ({"schedule": "exponential_decay", "decay_rate": 0.5}, "decay_steps: not"),
  # Of another policy.
  ({"gamma": 0.5}, "gamma=0.5: schedule=fixed has no use .* no constant"),
  ({"decay_steps": 5}, "decay_steps=5: schedule=fixed"),
  (
    {"schedule": "exp", "gamma": 0.9, "boundaries": (5, 8)},
    "boundaries=5,8: schedule=exp has no use for it, expected gamma",
  ),
  ({**STEP, "decay_rate": 0.5}, "decay_rate=0.5: schedule=step"),
  ({**STEP, "staircase": True}, "staircase=True: schedule=step"),
  ({**STEP, "staircase": False}, "staircase=False: schedule=step"),
  ({**DECAY, "power": 2}, "power=2: schedule=exponential_decay"),
  ({"schedule": "poly", "gamma": 0.5}, "gamma=0.5: schedule=poly"),
  ({"schedule": "wsd"}, "stable_steps: not"),
  ({"schedule": "cosine", "stable_steps": 5}, "stable_steps=5: schedule=cosin"),
  # Out of range.
  ({"learning_rate": 0}, "learning_rate=0"),
  ({"learning_rate": float("nan")}, "learning_rate=nan"),
  ({**STEP, "gamma": 1}, "gamma=1.0: expected a factor .*schedule=fixed"),
  ({**STEP, "decay_steps": 0}, "decay_steps=0: expected"),
  ({**STEP, "decay_steps": -5}, "decay_steps=-5: expected"),
  ({**STEP, "decay_steps": 2.5}, "decay_steps=2.5: .*schedule_unit=epochs"),
  ({**STEP, "decay_steps": float("inf")}, "decay_steps=inf"),
  (
    {**STEP, "decay_steps": 0.01, "schedule_unit": "epochs"},
    "decay_steps=0.01 epo",
  ),
  ({**DECAY, "decay_rate": 0}, "decay_rate=0.0"),
  ({"schedule": "exp", "gamma": 1.5, "schedule_unit": "epochs"}, "gamma=1.5"),
  ({"schedule": "exp", "gamma": -0.5, "schedule_unit": "epochs"}, "gamma=-0.5"),
  ({"schedule": "inv", "gamma": -1, "schedule_unit": "epochs"}, "gamma=-1.0"),
  ({"schedule": "inv", "gamma": 1, "power": 0}, "power=0.0"),
  ({"schedule": "poly", "decay_steps": 0}, "decay_steps=0"),
  ({"schedule": "multistep", "boundaries": ()}, "boundaries=:"),
  ({"schedule": "multistep", "boundaries": (8, 5)}, "boundaries=8,5"),
  (
    {
      "schedule": "multistep",
      "boundaries": (1, 1.001),
      "schedule_unit": "epochs",
    },
    "boundaries=43,43: expected increasing",
  ),
  ({"warmup_steps": 0}, "warmup_steps=0"),
  ({"warmup_steps": -3, "schedule_unit": "epochs"}, "warmup_steps=-3 epochs"),
  # Without effect in this run.
  ({"warmup_steps": TOTAL}, "warmup_steps=430 updates: expected less"),
  ({"schedule": "poly", "warmup_steps": 999}, "warmup_steps=999 updates"),
  ({**STEP, "decay_steps": TOTAL}, "decay_steps: a drop at update 430"),
  (
    {**DECAY, "decay_steps": 400, "staircase": True, "warmup_steps": 30},
    "decay_steps: a drop at update 400 .* the 400 updates",
  ),
  (
    {"schedule": "multistep", "boundaries": (5, TOTAL)},
    "boundaries: a drop at update 430",
  ),
  # Nothing left in float32, or nothing changed.
  ({"schedule": "exp", "gamma": 0.5}, "gamma=0.5: the rate is 0 .* update 124"),
  ({"schedule": "poly", "power": 40}, "power=40.0: the rate is 0"),
  (
    {"schedule": "poly", "power": 40, "decay_steps": 20, "warmup_steps": 100},
    "power=40.0: the rate is 0 in float32 at update 118",
  ),
  ({**DECAY, "decay_rate": 1e-9}, "decay_rate=1e-09: the rate is 0"),
  (
    {"schedule": "exp", "gamma": 1 - 1e-12},
    "gamma=0.999999999999: the rate stays 0.2",
  ),
  (
    {"schedule": "inv", "gamma": 1e-15, "warmup_steps": 5},
    "gamma=1e-15: the rate stays 0.2",
  ),
]


@pytest.mark.parametrize(("given_settings", "message"), REFUSED)
def test_degenerate_settings_are_refused_by_their_flag(given_settings, message):
  with pytest.raises(InputError, match=message) as caught:
    schedules.learning_rates(ScheduleConfig(**given_settings), EPOCH, TOTAL)
  assert "\n" not in str(caught.value)


def test_the_last_update_that_counts_is_taken():
  last = TOTAL - 1
  rates = table(ScheduleConfig("step", decay_steps=last))
  assert rates[last] < rates[last - 1] == rates[0]
  rates = table(ScheduleConfig("multistep", boundaries=(last,)))
  assert rates[last] < rates[last - 1] == rates[0]
  rates = table(ScheduleConfig(warmup_steps=last))
  assert rates[last - 1] < rates[last] == np.float32(0.2)


@pytest.mark.parametrize("warmup", [10, 200])
def test_poly_may_end_before_the_run(warmup):
  rates = table(ScheduleConfig("poly", decay_steps=100, warmup_steps=warmup))
  end = warmup + 100
  assert (rates[:end] > 0).all()
  assert (rates[end:] == 0).all()


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_a_run_without_updates_is_refused(sizes):
  with pytest.raises(InputError, match="=0: expected at least 1 update"):
    schedules.learning_rates(ScheduleConfig(), *sizes)


def test_a_run_of_one_update_may_have_any_policy_that_fits():
  for config in (
    ScheduleConfig("exp", gamma=0.9),
    ScheduleConfig("poly"),
    ScheduleConfig("inv", gamma=0.1),
  ):
    assert schedules.learning_rates(config, 1, 1) == np.float32(0.2)

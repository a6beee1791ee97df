"""The policies against their formulas in 40-digit decimals."""

import functools
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import policies

NUM_STEPS = 20_000
SHORT = 300  # one length for all small cases, so that XLA compiles once


@pytest.fixture(autouse=True, scope="module")
def forty_digits() -> Iterator[None]:
  with localcontext() as context:
    context.prec = 40
    yield


def three_quarters(x: Decimal) -> Decimal:
  return x.sqrt() * x.sqrt().sqrt()


@functools.cache
def part_of_period(i: int) -> Decimal:
  return (exact(0.96).ln() * i / 512).exp()


PI = np.longdouble("3.14159265358979323846264338")
LATE = np.longdouble(19_000)

exact = Decimal.from_float  # a setting means the float that it is
LR = exact(0.2)
CASES: dict[str, tuple[policies.Schedule, Callable[[int], Decimal]]] = {
  "fixed": (policies.fixed(0.2), lambda t: LR),
  # 49 and 41: optax's own staircase drops late there, see policies.py.
  "step": (
    policies.step(0.2, 0.9, 49),
    lambda t: LR * exact(0.9) ** (t // 49),
  ),
  "step, few": (
    policies.step(0.2, 0.5, 41 * 49),
    lambda t: LR * exact(0.5) ** (t // (41 * 49)),
  ),
  "multistep": (
    policies.multistep(0.2, 0.1, (1, 7000, 19_999)),
    lambda t: LR * exact(0.1) ** ((t >= 1) + (t >= 7000) + (t >= 19_999)),
  ),
  "exp": (policies.exp(0.2, 0.9995), lambda t: LR * exact(0.9995) ** t),
  "exp, to subnormal": (
    policies.exp(0.2, 0.995),
    lambda t: LR * exact(0.995) ** t,
  ),
  "inv": (
    policies.inv(0.2, 1e-4, 0.75),
    lambda t: LR / three_quarters(1 + exact(1e-4) * t),
  ),
  "poly": (
    policies.poly(0.2, 2.0, NUM_STEPS),
    lambda t: LR * (1 - Decimal(t) / NUM_STEPS) ** 2,
  ),
  "poly, past its end": (
    policies.poly(0.2, 0.5, 49 * 300),
    lambda t: LR * max(1 - Decimal(t) / (49 * 300), Decimal(0)).sqrt(),
  ),
  "cosine, past its end": (
    policies.cosine(0.2, 19_000),
    lambda t: float(LR) * (1 + np.cos(PI * min(t / LATE, 1))) / 2,
  ),
  "wsd": (
    policies.wsd(0.2, 9000, 7000),
    lambda t: LR * min(max(Decimal(16_000 - t) / 7000, Decimal(0)), Decimal(1)),
  ),
  "exponential_decay": (
    policies.exponential_decay(0.2, 0.96, 512),
    lambda t: LR * exact(0.96) ** (t // 512) * part_of_period(t % 512),
  ),
  "exponential_decay, staircase": (
    policies.exponential_decay(0.2, 0.96, 49, staircase=True),
    lambda t: LR * exact(0.96) ** (t // 49),
  ),
  "warmup, then exp": (
    policies.with_warmup(policies.exp(0.2, 0.9995), 500),
    lambda t: (
      LR * (t + 1) / 501 if t < 500 else LR * exact(0.9995) ** (t - 500)
    ),
  ),
}


def ulps(
  rates: np.ndarray, formula: Callable[[int], Decimal]
) -> tuple[np.ndarray, np.ndarray]:
  """Distance from the formula, in float32's last places; and the formula."""
  wanted = np.array([float(formula(t)) for t in range(len(rates))])
  ulp = np.spacing(wanted.astype(np.float32)).astype(np.float64)
  return np.abs(rates.astype(np.float64) - wanted) / ulp, wanted


def short(schedule: policies.Schedule) -> np.ndarray:
  return policies.tabulate(schedule, SHORT)


@pytest.mark.parametrize("name", CASES)
def test_table_is_the_formula_rounded_once(name):
  schedule, formula = CASES[name]
  rates = policies.tabulate(schedule, NUM_STEPS)
  assert rates.dtype == np.float32
  assert rates.shape == (NUM_STEPS,)
  # 1 would do; rounding once means half a place, and float64's own error.
  assert ulps(rates, formula)[0].max() <= 0.5 + 1e-4


# Of the float32 view under jit, as the module's docstring states them.
VIEW_ERROR = {
  "fixed": 1e-7,
  "step": 2e-5,
  "multistep": 2e-7,
  "exp": 1e-3,
  "inv": 5e-7,
  "poly": 2e-3,
  "exponential_decay": 5e-6,
  "warmup, then exp": 1e-3,
}


@pytest.mark.parametrize("name", VIEW_ERROR)
def test_optax_view_under_jit_is_as_near_as_documented(name):
  schedule, formula = CASES[name]
  counts = jnp.arange(NUM_STEPS, dtype=jnp.int32)
  rates = np.asarray(jax.jit(jax.vmap(schedule))(counts))
  assert rates.dtype == np.float32
  wanted = ulps(rates, formula)[1]
  assert np.abs(rates / wanted - 1).max() < VIEW_ERROR[name]


@pytest.mark.parametrize("decay_steps", [7, 41, 49, 61])
def test_staircase_drops_at_its_update_in_float32_too(decay_steps):
  counts = jnp.arange(20 * decay_steps, dtype=jnp.int32)
  for schedule in (
    policies.step(1.0, 0.5, decay_steps),
    policies.exponential_decay(1.0, 0.5, decay_steps, staircase=True),
  ):
    rates = np.asarray(jax.jit(jax.vmap(schedule))(counts))
    np.testing.assert_array_equal(
      np.rint(-np.log2(rates)), np.arange(20 * decay_steps) // decay_steps
    )


def test_poly_ends_at_zero_and_stays_for_every_length():
  # Even powers rise again in Caffe; a rounded 1 - T / T leaves a rest.
  for decay_steps in range(1, 120):
    schedule = policies.poly(0.2, 2.0, decay_steps)
    rates = short(schedule)
    assert (rates[:decay_steps] > 0).all()
    assert (rates[decay_steps:] == 0).all()
  for decay_steps in (41, 49, 98):
    jitted = jax.jit(policies.poly(0.2, 2.0, decay_steps))
    assert float(jitted(decay_steps)) == float(jitted(decay_steps + 9)) == 0


rates = st.floats(1e-6, 10)
factors = st.floats(0.9, 0.99999)
powers = st.integers(1, 4)
periods = st.integers(1, 2 * SHORT)


@settings(max_examples=25)
@given(lr=rates, factor=factors, period=periods)
def test_step_and_exponential_decay_for_any_setting(lr, factor, period):
  start, base = Decimal(lr), Decimal(factor)
  log = base.ln() / period

  def stairs(t: int) -> Decimal:
    return start * base ** (t // period)

  def smooth(t: int) -> Decimal:
    return start * (log * t).exp()

  for schedule, formula in (
    (policies.step(lr, factor, period), stairs),
    (policies.exponential_decay(lr, factor, period, True), stairs),
    (policies.exponential_decay(lr, factor, period), smooth),
  ):
    assert ulps(short(schedule), formula)[0].max() <= 0.5 + 1e-4


@settings(max_examples=25)
@given(
  lr=rates,
  factor=factors,
  boundaries=st.lists(
    st.integers(1, SHORT), min_size=3, max_size=3, unique=True
  ),
)
def test_exp_and_multistep_for_any_setting(lr, factor, boundaries):
  start, base = Decimal(lr), Decimal(factor)
  boundaries = sorted(boundaries)
  multistep = policies.multistep(lr, factor, boundaries)
  assert (
    ulps(
      short(multistep),
      lambda t: start * base ** sum(b <= t for b in boundaries),
    )[0].max()
    <= 0.5 + 1e-4
  )
  exp = short(policies.exp(lr, factor))
  assert ulps(exp, lambda t: start * base**t)[0].max() <= 0.5 + 1e-4


@settings(max_examples=25)
@given(lr=rates, gamma=st.floats(1e-7, 10), power=powers, period=periods)
def test_inv_and_poly_for_any_setting(lr, gamma, power, period):
  start, slope = Decimal(lr), Decimal(gamma)
  inv = short(policies.inv(lr, gamma, float(power)))
  errors = ulps(inv, lambda t: start / (1 + slope * t) ** power)[0]
  assert errors.max() <= 0.5 + 1e-4
  poly = short(policies.poly(lr, float(power), period))
  errors = ulps(
    poly, lambda t: start * max(1 - Decimal(t) / period, Decimal(0)) ** power
  )[0]
  assert errors.max() <= 0.5 + 1e-4


# --- joins -------------------------------------------------------------------


def test_join_restarts_each_count_or_keeps_it():
  parts = [policies.exp(0.5, 0.9), policies.poly(0.3, 1.0, 50)]
  parts.append(policies.inv(0.1, 0.5, 1.0))
  alone = [short(part) for part in parts]
  restarted = short(policies.join(parts, [20, 60]))
  np.testing.assert_array_equal(restarted[:20], alone[0][:20])
  np.testing.assert_array_equal(restarted[20:60], alone[1][:40])
  np.testing.assert_array_equal(restarted[60:], alone[2][: SHORT - 60])
  kept = short(policies.join(parts, [20, 60], restart=False))
  np.testing.assert_array_equal(kept[:20], alone[0][:20])
  np.testing.assert_array_equal(kept[20:60], alone[1][20:60])
  np.testing.assert_array_equal(kept[60:], alone[2][60:])


def test_warmup_rises_by_equal_amounts_to_the_schedules_first_rate():
  schedule = policies.step(0.5, 0.1, 30)
  rates = short(policies.with_warmup(schedule, 4))
  np.testing.assert_allclose(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-7)
  np.testing.assert_array_equal(rates[4:], short(schedule)[:-4])


def test_warmup_without_restart_leaves_the_boundaries_in_place():
  schedule = policies.multistep(0.5, 0.1, [2, 30])
  rates = short(policies.with_warmup(schedule, 4, restart=False))
  expected = [0.1, 0.2, 0.03, 0.04]
  np.testing.assert_allclose(rates[:4], expected, rtol=1e-7)
  np.testing.assert_array_equal(rates[4:], short(schedule)[4:])


def test_a_join_makes_no_nan_on_the_way():
  # inv before its turn would be a power of a negative number.
  schedule = policies.with_warmup(policies.inv(0.1, 1.0, 0.5), 10)
  with jax.debug_nans(True):
    assert np.isfinite(short(schedule)).all()


# --- tables and optimisers ---------------------------------------------------


def updates_of(schedule: policies.Schedule, num_steps: int) -> np.ndarray:
  """Minus what SGD adds to a parameter whose gradient is 1, under jit."""
  tx = optax.sgd(schedule)
  param = jnp.float32(0)
  state = tx.init(param)

  @jax.jit
  def update(state):
    return tx.update(jnp.float32(1), state, param)

  out = []
  for _ in range(num_steps):
    change, state = update(state)
    out.append(-np.asarray(change))
  return np.array(out)


@pytest.mark.parametrize("name", CASES)
def test_every_policy_drives_an_optax_optimiser(name):
  schedule, _ = CASES[name]
  table = policies.tabulate(schedule, 12)
  np.testing.assert_allclose(updates_of(schedule, 12), table, rtol=2e-5)


def test_tabulate_takes_any_optax_schedule_and_leaves_no_mode_behind(
  strict_promotion,
):
  cosine = optax.warmup_cosine_decay_schedule(0.0, 0.5, 10, 100)
  rates = policies.tabulate(cosine, 100)
  t = np.arange(90)
  expected = 0.25 * (1 + np.cos(np.pi * t / 90))
  np.testing.assert_allclose(rates[10:], expected, rtol=1e-6, atol=1e-9)
  assert jnp.arange(3.0).dtype == jnp.float32
  for name in ("step", "multistep", "poly"):
    policies.tabulate(CASES[name][0], 10)


def test_tabulate_asks_for_no_update_past_the_last():
  def schedule(count):
    return jnp.where(count < 20, 0.1, jnp.nan)

  with jax.debug_nans(True):
    assert (policies.tabulate(schedule, 20) == np.float32(0.1)).all()


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), 1e39])
def test_tabulate_refuses_rates_that_are_none(bad):
  schedule = optax.piecewise_constant_schedule(0.1, {})
  joined = optax.join_schedules([schedule, lambda count: bad], [7])
  with pytest.raises(InputError, match="at update 7: expected a finite"):
    policies.tabulate(joined, 10)


@pytest.mark.parametrize(
  "schedule",
  [
    lambda count: 0.1 if count < 5 else 0.01,
    lambda count: [0.1, 0.01][int(count) // 5],
    lambda count: np.where(count < 5, 0.1, 0.01),
  ],
)
def test_tabulate_takes_a_schedule_in_plain_python(schedule):
  expected = policies.tabulate(policies.multistep(0.1, 0.1, [5]), 9)
  found = policies.tabulate(schedule, np.int64(9))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  "rates", [(0.1, 0.2), np.array([0.1, 0.2]), {"lr": 0.1}, None, "fast"]
)
@pytest.mark.parametrize("num_steps", [2, 5])
def test_tabulate_refuses_more_and_less_than_a_number(rates, num_steps):
  with pytest.raises(InputError, match="for update 0, expected one number"):
    policies.tabulate(lambda count: rates, num_steps)


def test_a_rate_that_jax_traces_is_one_line():
  with pytest.raises(InputError, match="are traced by jax, expected numbers"):
    jax.jit(lambda rate: policies.tabulate(lambda count: rate, 5))(0.1)


@pytest.mark.parametrize(
  "kind", [np.uint8, np.uint32, np.uint64, jnp.uint32, np.int64]
)
@pytest.mark.parametrize(
  "schedule",
  [
    policies.multistep(0.1, 0.5, [3, 6]),
    policies.step(0.1, 0.5, 3),
    policies.with_warmup(policies.poly(0.1, 2.0, 8), 3),
    policies.join([policies.fixed(0.1)] * 2, [4], restart=False),
  ],
)
def test_a_count_of_any_whole_type(schedule, kind):
  found = [float(schedule(kind(t))) for t in range(9)]
  assert found == [float(schedule(np.int32(t))) for t in range(9)]


@pytest.mark.parametrize("num_steps", [0, -3])
def test_tabulate_refuses_an_empty_run(num_steps):
  with pytest.raises(InputError, match=f"num_steps={num_steps}"):
    policies.tabulate(policies.fixed(0.1), num_steps)


# --- degenerate settings -----------------------------------------------------

NAN, INF = float("nan"), float("inf")
POLICIES_OF_RATE = [
  policies.fixed,
  lambda lr: policies.step(lr, 0.5, 3),
  lambda lr: policies.multistep(lr, 0.5, [3]),
  lambda lr: policies.exp(lr, 0.5),
  lambda lr: policies.inv(lr, 0.5, 1.0),
  lambda lr: policies.poly(lr, 1.0, 3),
  lambda lr: policies.exponential_decay(lr, 0.5, 3),
  lambda lr: policies.exponential_decay(lr, 0.5, 3, True),
]


@pytest.mark.parametrize("policy", POLICIES_OF_RATE)
@pytest.mark.parametrize("lr", [0.0, -0.1, NAN, INF, 1e-45, 1e39])
def test_rate_must_be_a_positive_float32(policy, lr):
  with pytest.raises(InputError, match="learning_rate="):
    policy(lr)


@pytest.mark.parametrize("bad", [0.0, -0.5, 1.0, 1.5, NAN, INF])
def test_decay_factor_must_be_inside_zero_and_one(bad):
  for policy in (
    lambda: policies.step(0.1, bad, 3),
    lambda: policies.multistep(0.1, bad, [3]),
    lambda: policies.exp(0.1, bad),
  ):
    with pytest.raises(InputError, match="gamma="):
      policy()
  for staircase in (False, True):
    with pytest.raises(InputError, match="decay_rate="):
      policies.exponential_decay(0.1, bad, 3, staircase)


@pytest.mark.parametrize("bad", [0, -5, 2**31])
def test_durations_must_be_at_least_one_update(bad):
  for policy in (
    lambda: policies.step(0.1, 0.5, bad),
    lambda: policies.poly(0.1, 1.0, bad),
    lambda: policies.exponential_decay(0.1, 0.5, bad),
    lambda: policies.exponential_decay(0.1, 0.5, bad, True),
  ):
    with pytest.raises(InputError, match=f"decay_steps={bad}: expected"):
      policy()
  with pytest.raises(InputError, match=f"warmup_steps={bad}: expected"):
    policies.with_warmup(policies.fixed(0.1), bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF])
def test_inv_and_poly_need_positive_finite_settings(bad):
  with pytest.raises(InputError, match="gamma="):
    policies.inv(0.1, bad, 1.0)
  with pytest.raises(InputError, match="power="):
    policies.inv(0.1, 1.0, bad)
  with pytest.raises(InputError, match="power="):
    policies.poly(0.1, bad, 3)


@pytest.mark.parametrize("bad", [[], [0, 3], [-1], [5, 3], [3, 3], [3, 2**31]])
def test_boundaries_must_increase_from_one(bad):
  with pytest.raises(InputError, match="boundaries="):
    policies.multistep(0.1, 0.5, bad)
  if bad:
    parts = [policies.fixed(0.1)] * (len(bad) + 1)
    with pytest.raises(InputError, match="boundaries="):
      policies.join(parts, bad)


def test_join_needs_one_boundary_between_two():
  for parts, boundaries in (([], []), ([policies.fixed(0.1)] * 2, [])):
    with pytest.raises(InputError, match="one fewer than schedules"):
      policies.join(parts, boundaries)
  alone = policies.join([policies.fixed(0.5)], [])
  assert float(alone(3)) == 0.5

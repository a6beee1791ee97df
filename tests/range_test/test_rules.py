import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax import range_test
from mnist_jax.range_test import rules
from mnist_jax.runtime.errors import InputError

STEPS = 300


def ramp(shape="exponential", steps=STEPS):
  return range_test.Ramp(1e-4, 10.0, steps, shape).rates().astype(float)


def valley_curve(rates, *, knee=0.05, edge=1.0, noise=0.0, seed=0):
  """Falls from 2.3 around `knee`, rises past `edge`; sd of noise given."""
  fall = 2.0 / (1 + knee / rates)
  rise = (rates / edge) ** 3
  jitter = noise * np.random.default_rng(seed).standard_normal(len(rates))
  return 2.3 - fall + rise + jitter


def judged(losses, rates=None, noise=None, **kwargs):
  losses = np.atleast_2d(losses)
  recording = range_test.Recording(
    ramp() if rates is None else rates,
    np.where(np.isfinite(losses[:, 0]), losses[:, 0], 2.3),
    losses,
    noise,
    seeds=tuple(range(len(losses))),
  )
  return rules.judge(recording, **kwargs)


def test_the_minimum_and_its_tenth():
  rates = ramp()
  test = judged(valley_curve(rates), smoothing=0.0)
  best = rates[valley_curve(rates).argmin()]
  assert test.suggestion("descending").rate == pytest.approx(best)
  assert test.suggestion("minimum/10").rate == pytest.approx(best / 10)


@pytest.mark.parametrize("shape", ["exponential", "linear"])
def test_the_steepest_slope_is_per_log_rate(shape):
  """Per rate, the slope of this curve is largest at the ramp's low end."""
  rates = ramp(shape, 4000)
  test = judged(valley_curve(rates, edge=5.0), rates, smoothing=0.0)
  # d/dlog of 1 / (1 + knee / rate) is largest at the knee.
  assert test.suggestion("steepest").rate == pytest.approx(0.05, rel=0.1)


def test_the_valley_is_fastais():
  """Their loops, written out, on curves of every kind."""
  for seed in range(5):
    rates = ramp(steps=80)
    losses = valley_curve(rates, noise=0.05, seed=seed)
    test = judged(losses, rates)
    curve = test.curves[0]
    values = curve.smoothed
    n = len(values)
    lds, start, end = [1] * n, 0, 0
    for i in range(1, n):
      for j in range(i):
        if values[i] < values[j] and lds[i] < lds[j] + 1:
          lds[i] = lds[j] + 1
        if lds[end] < lds[i]:
          end = i
          start = end - lds[end]
    sections = (end - start) / 3
    index = start + int(sections) + int(sections / 2)
    assert test.suggestion("valley").rate == curve.rates[max(0, index)]


def test_the_limit_is_where_the_loss_is_back():
  rates = ramp()
  losses = valley_curve(rates)
  (curve,) = judged(losses, smoothing=0.0).curves
  limit = rules.limit(curve)
  start = losses[: STEPS // 10].mean()
  assert losses[rates < limit][-1] <= start * 1.001 < losses[rates == limit][0]


def test_the_limit_of_a_lost_curve_is_where_it_was_lost():
  losses = valley_curve(ramp())
  losses[200:] = np.nan
  (curve,) = judged(losses).curves
  assert rules.limit(curve) == pytest.approx(ramp()[200])


def constant_noise(signal, variance, seeds=1):
  table = np.stack([np.full(STEPS, signal), np.full(STEPS, variance)])
  return np.broadcast_to(table, (seeds, 2, STEPS)).copy()


@settings(max_examples=25)
@given(st.floats(0.01, 100.0))
def test_noise_divides_half_the_limit(ratio):
  losses = valley_curve(ramp())
  test = judged(losses, noise=constant_noise(2.0, 2.0 * ratio))
  limit = rules.limit(test.curves[0])
  rate = test.suggestion("noise").rate
  assert rate == pytest.approx(limit / 2 / (1 + ratio))


def test_noise_is_read_on_the_way_down_alone():
  losses = valley_curve(ramp())
  noise = constant_noise(1.0, 3.0)
  (curve,) = judged(losses, noise=noise).curves
  half = (curve.smoothed[0] + curve.smoothed.min()) / 2
  end = int((curve.smoothed > half).argmin())
  noise[:, 1, : end // 2 - 2] = 1e6
  noise[:, 1, end + 3 :] = 1e6
  (curve,) = judged(losses, noise=noise).curves
  assert rules.noise_ratio(curve) == pytest.approx(3.0)


def test_noise_refuses_what_it_cannot_know():
  losses = valley_curve(ramp())
  for noise, reason in (
    (None, "gradient noise not measured"),
    (constant_noise(-1.0, 1.0), "gradient noise hides its mean"),
  ):
    found = judged(losses, noise=noise).suggestion("noise")
    assert found.rate is None
    assert reason in found.reason
  short = judged(
    losses[:180], ramp()[:180], constant_noise(1.0, 1.0)[:, :, :180]
  )
  assert "ended before the loss was back" in short.suggestion("noise").reason


def test_the_reason_counts_the_seeds_whose_loss_did_not_rise_again():
  rates = ramp()
  least = int(valley_curve(rates).argmin())
  jitter = 0.01 * np.random.default_rng(0).standard_normal(STEPS)
  falling = np.where(
    np.arange(STEPS) < least, valley_curve(rates), valley_curve(rates).min()
  )
  rising = valley_curve(rates)
  told = "the loss had not risen again at the ramp's end"
  for losses in (falling, falling + jitter):
    found = range_test.judge(judged(losses).recording, rule="minimum/10")
    assert f"{told}, so" in found.reason
  both = judged(np.stack([rising, falling])).recording
  found = range_test.judge(both, rule="steepest")
  assert f"{told} in 1 of 2 seeds, so" in found.reason
  for losses in (rising, rising + jitter):
    found = range_test.judge(judged(losses).recording, rule="minimum/10")
    assert told not in found.reason


@pytest.mark.parametrize(
  ("losses", "reason"),
  [
    (np.full(STEPS, 2.3), "flat"),
    (2.3 + 0.1 * np.random.default_rng(1).standard_normal(STEPS), "flat"),
    (2.3 + np.linspace(0, 1, STEPS), "rising"),
    (2.3 + (ramp() / 0.5) ** 2, "rising"),
    (np.where(np.arange(STEPS) < 5, 2.3, np.nan), "too few points"),
    (np.full(STEPS, np.nan), "too few points: 0 of at least 10: not finite"),
  ],
)
def test_a_curve_without_descent_has_no_suggestion(losses, reason):
  test = judged(losses, noise=constant_noise(1.0, 1.0))
  for found in test.suggestions:
    assert found.rate is None
    assert found.low is None
    assert found.per_seed == (None,)
    assert reason in found.reason


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.0, 0.95))
def test_noise_alone_is_seldom_a_descent(seed, smoothing):
  jitter = np.random.default_rng(seed).standard_normal((20, STEPS))
  test = judged(2.3 + 0.1 * jitter, smoothing=smoothing)
  assert test.suggestion("descending").n <= 1


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.0, 0.15))
def test_a_descent_in_noise_is_found(seed, noise):
  losses = valley_curve(ramp(), noise=noise, seed=seed)
  test = judged(losses)
  assert test.suggestion("descending").n == 1
  assert 0.1 < test.suggestion("descending").rate < 2.0


def test_a_linear_ramp_begins_before_its_descent():
  """Its first tenth is not the start: it goes down to the valley's floor."""
  rates = ramp("linear", 400)
  losses = valley_curve(rates, knee=0.05, edge=3.0)
  (curve,) = judged(losses, rates, smoothing=0.0, divergence_factor=9.0).curves
  assert rules.refusal(curve) is None
  limit = rules.limit(curve)
  assert losses[rates == limit][0] > losses[0]


def test_seeds_give_a_geometric_mean_and_its_interval():
  edges = np.geomspace(0.5, 2.0, 12)
  losses = np.stack([valley_curve(ramp(), edge=edge) for edge in edges])
  found = judged(losses, smoothing=0.0).suggestion("descending")
  assert found.n == found.seeds == 12
  assert found.rate == pytest.approx(
    math.exp(np.log(np.array(found.per_seed)).mean())
  )
  assert found.low < found.rate < found.high
  assert 1 < found.spread < 10


def test_seeds_that_disagree_have_no_suggestion():
  edges = np.geomspace(0.01, 5.0, 12)
  losses = np.stack(
    [valley_curve(ramp(), knee=edge / 20, edge=edge) for edge in edges]
  )
  found = judged(losses, smoothing=0.0).suggestion("descending")
  assert found.rate is None
  assert found.n == 12
  assert found.spread > 10
  assert "seeds disagree" in found.reason


def test_a_majority_must_have_one():
  good, flat = valley_curve(ramp()), np.full(STEPS, 2.3)
  most = judged(np.stack([good, good, flat])).suggestion("descending")
  assert most.rate == pytest.approx(most.per_seed[0])
  assert most.n == 2
  half = judged(np.stack([good, flat])).suggestion("descending")
  assert half.rate is None
  assert "flat" in half.reason
  assert "1 of 2 seeds" in half.reason


def test_one_seed_has_no_interval():
  found = judged(valley_curve(ramp())).suggestion("descending")
  assert (found.low, found.high) == (None, None)
  assert found.rate > 0


def test_unknown_rules_and_no_curves_are_refused():
  curves = judged(valley_curve(ramp())).curves
  with pytest.raises(InputError, match="rule=best: expected one of steepest"):
    rules.suggest(curves, "best")
  with pytest.raises(InputError, match="no curve"):
    rules.suggest((), "valley")


def test_a_judged_test_as_json():
  losses = valley_curve(ramp())
  losses[280:] = np.nan
  shown = json.loads(json.dumps(judged(losses).to_dict(), allow_nan=False))
  assert shown["stops"][0]["reason"] in ("diverged", "not finite")
  assert [s["rule"] for s in shown["suggestions"]] == list(rules.RULES)

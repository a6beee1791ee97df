"""Estimates and intervals: textbook figures, and coverage by simulation."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects

# Student (1908), the paired data that the t test was published with: hours of
# extra sleep of ten patients under two drugs. R's `t.test` on them prints
# t = 4.0621, p = 0.002833, 95 % interval 0.7001142 to 2.4598858.
SLEEP_A = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SLEEP_B = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])

# Darwin's maize, crossed less self-fertilised, in eighths of an inch. Fisher
# (1935, The Design of Experiments, section 21) gives t = 2.148.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])


def test_paired_t_on_students_own_data():
  effect = effects.paired_difference(SLEEP_B, SLEEP_A, seed=0)
  assert effect.estimate == pytest.approx(1.58)
  assert effect.estimate / effect.standard_error == pytest.approx(4.0621, 1e-4)
  assert effect.p_value == pytest.approx(0.002833, rel=1e-3)
  student = effects.student_interval(SLEEP_B - SLEEP_A)
  assert student.low == pytest.approx(0.7001142, rel=1e-6)
  assert student.high == pytest.approx(2.4598858, rel=1e-6)


def test_t_on_darwins_maize():
  t = effects.mean_interval(DARWIN, seed=0)
  assert t.estimate / t.standard_error == pytest.approx(2.148, abs=5e-4)


def test_interval_is_scipys_bca_at_the_widened_level():
  x = np.random.default_rng(3).gamma(2.0, size=40)
  effect = effects.mean_interval(x, seed=5)
  ends = stats.bootstrap(
    (x,),
    np.mean,
    n_resamples=4_999,
    confidence_level=effects.widened_level(0.95, 40),
    random_state=np.random.default_rng(5),
  ).confidence_interval
  assert (effect.low, effect.high) == pytest.approx(tuple(ends), rel=1e-12)
  other = effects.mean_interval(x, seed=6)
  assert (other.low, other.high) != (effect.low, effect.high)


@pytest.mark.parametrize("n", [10, 30, 50, 500])
def test_widened_level_makes_the_normal_reach_as_far_as_t(n):
  level = effects.widened_level(0.95, n)
  z = stats.norm.ppf(0.5 + level / 2.0)
  assert z * math.sqrt((n - 1) / n) == pytest.approx(stats.t.ppf(0.975, n - 1))


# How far a share of 2,000 trials may stray by chance: 3 standard errors. The
# lower bounds of the last two are those of the coverage the module states.
@pytest.mark.parametrize("n", [30, 50])
@pytest.mark.parametrize(
  ("draw", "mean", "least"),
  [
    (lambda rng, size: rng.normal(size=size), 0.0, 0.95),
    (lambda rng, size: rng.gamma(4.0, size=size), 4.0, 0.945),
    (lambda rng, size: rng.exponential(size=size), 1.0, 0.93),
    (lambda rng, size: rng.laplace(size=size), 0.0, 0.93),
  ],
  ids=["normal", "gamma", "exponential", "laplace"],
)
def test_intervals_cover_at_their_rate(n, draw, mean, least, monkeypatch):
  monkeypatch.setattr(effects, "RESAMPLES", 999)
  trials = 2_000
  x = draw(np.random.default_rng(n), (trials, n))
  low, high = effects.bootstrap_interval(x, seed=0)
  covered = ((low <= mean) & (mean <= high)).mean()
  chance = 3.0 * math.sqrt(0.95 * 0.05 / trials)
  assert least - chance < covered < 0.95 + chance


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_other_levels_are_kept_too(confidence, monkeypatch):
  monkeypatch.setattr(effects, "RESAMPLES", 1_999)
  x = np.random.default_rng(9).normal(size=(2_000, 40))
  low, high = effects.bootstrap_interval(x, seed=0, confidence=confidence)
  covered = ((low <= 0.0) & (high >= 0.0)).mean()
  chance = 3.5 * math.sqrt(confidence * (1.0 - confidence) / 2_000)
  assert covered == pytest.approx(confidence, abs=chance)


def test_few_seeds_get_students_interval():
  d = np.array([0.1, 0.3, 0.2])
  effect = effects.mean_interval(d, seed=0)
  expected = stats.ttest_1samp(d, 0.0).confidence_interval(0.95)
  assert (effect.low, effect.high) == pytest.approx(tuple(expected))
  assert effect.interval == "Student t interval"
  ten = effects.mean_interval(np.arange(10.0), seed=0)
  assert ten.interval == "BCa bootstrap interval"


@given(
  st.lists(st.floats(-1e3, 1e3, width=16), min_size=2, max_size=40),
  st.floats(-100.0, 100.0, width=16),
)
def test_any_finite_data_give_a_finite_ordered_effect(values, shift):
  x = np.array(values)
  effect = effects.mean_interval(x, seed=0)
  assert effect.low <= effect.estimate <= effect.high
  assert 0.0 <= effect.p_value <= 1.0
  json.dumps(asdict(effect), allow_nan=False)
  pair = effects.paired_difference(x + shift, np.full_like(x, shift), seed=0)
  assert pair.estimate == pytest.approx(effect.estimate, abs=1e-9)
  back = effects.paired_difference(np.full_like(x, shift), x + shift, seed=0)
  assert back.estimate == -pair.estimate
  assert back.p_value == pair.p_value


def test_pairing_removes_what_the_arms_share():
  rng = np.random.default_rng(0)
  shared = rng.normal(size=40)
  a = shared + 0.1 + 0.01 * rng.normal(size=40)
  effect = effects.paired_difference(a, shared, seed=0)
  assert effect.p_value < 1e-6
  broken = effects.paired_difference(a, shared[::-1].copy(), seed=0)
  assert broken.p_value > 0.05


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_difference_equal_in_all_seeds(dtype):
  b = np.linspace(0.1, 0.9, 30).astype(dtype)
  same = effects.paired_difference(b, b, seed=0)
  assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
  assert same.p_value == 1.0
  # In binary b + 0.1 - b is not the same number for each b.
  a = (b + dtype(0.1)).astype(dtype)
  assert np.ptp(a - b) > 0.0
  moved = effects.paired_difference(a, b, seed=0)
  assert moved.low == moved.high == moved.estimate
  assert moved.estimate == pytest.approx(0.1, rel=1e-5)
  assert moved.p_value == 2.0 * 0.5**30


def test_a_degenerate_row_leaves_the_others_as_they_are():
  x = np.random.default_rng(1).normal(size=(3, 30))
  expected = effects.bootstrap_interval(x[[0, 2]], seed=4)
  x[1] = 7.0
  low, high = effects.bootstrap_interval(x, seed=4)
  assert (low[1], high[1]) == (7.0, 7.0)
  np.testing.assert_allclose(low[[0, 2]], expected[0])
  np.testing.assert_allclose(high[[0, 2]], expected[1])


def test_the_books_wilson_interval():
  book = effects.wilson_interval(9_749, 10_000)
  # The formula by hand: (p + z2/2n -+ z sqrt(p q/n + z2/4n2)) / (1 + z2/n).
  assert book.low == pytest.approx(0.971647, abs=1e-6)
  assert book.high == pytest.approx(0.977788, abs=1e-6)


@pytest.mark.parametrize(
  ("successes", "n", "low", "high"),
  [  # Newcombe (1998), table I, method 3.
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ],
)
def test_wilson_as_in_newcombes_table(successes, n, low, high):
  effect = effects.wilson_interval(successes, n)
  assert effect.low == pytest.approx(low, abs=5e-5)
  assert effect.high == pytest.approx(high, abs=5e-5)
  assert effect.estimate == successes / n


def test_median_interval_is_the_order_statistics():
  # n = 10: from the second to the ninth value covers 97.9 %, third to eighth
  # only 89.1 % (binomial tables).
  x = np.random.default_rng(2).permutation(np.arange(1.0, 11.0))
  effect = effects.median_interval(x)
  assert (effect.low, effect.estimate, effect.high) == (2.0, 5.5, 9.0)
  assert effect.p_value == pytest.approx(2.0 * 0.5**10)
  assert effects.median_interval(np.arange(6.0)).high == 5.0
  with pytest.raises(InputError, match="at least 6"):
    effects.median_interval(np.arange(5.0))


def test_log_ratio_is_the_ratio_of_geometric_means():
  rng = np.random.default_rng(0)
  b = rng.lognormal(size=30)
  a = b * 1.5 * np.exp(0.01 * rng.normal(size=30))
  ratio, low, high = effects.as_ratio(effects.paired_log_ratio(a, b, seed=0))
  assert ratio == pytest.approx(stats.gmean(a) / stats.gmean(b))
  assert low < ratio < high
  assert 1.49 < low < 1.5 < high < 1.51
  with pytest.raises(InputError, match=r"b has a value of 0\.0"):
    effects.paired_log_ratio(a, np.zeros(30), seed=0)


@pytest.mark.parametrize("effect_of", ["above", "below"])
def test_one_sided_p_is_scipys(effect_of):
  effect = effects.mean_interval(SLEEP_A, seed=0)
  if effect_of == "above":
    p, side = effects.p_above(effect, 0.2), "greater"
  else:
    p, side = effects.p_below(effect, 0.2), "less"
  assert p == pytest.approx(
    stats.ttest_1samp(SLEEP_A, 0.2, alternative=side)[1]
  )


def test_diverged_runs_are_refused_with_their_place():
  a, b = np.zeros(30), np.ones(30)
  a[4] = np.nan
  a[7] = np.inf
  with pytest.raises(InputError, match=r"a has 2 of 30 .* first at \[4\]"):
    effects.paired_difference(a, b, seed=0)
  with pytest.raises(InputError, match="b has 2 of 30"):
    effects.paired_difference(b, a, seed=0)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: effects.mean_interval(np.ones(1), seed=0), "at least 2 seeds"),
    (
      lambda: effects.paired_difference(np.ones(3), np.ones(4), seed=0),
      "b has 4 values, expected one per value of a, which has 3",
    ),
    (
      lambda: effects.mean_interval(np.ones(9), seed=0, confidence=95.0),
      r"confidence is 95.0, expected a number in \(0, 1\)",
    ),
    (
      lambda: effects.bootstrap_interval(np.ones((2, 9)), seed=0),
      "9 seeds, expected at least 10",
    ),
    (
      lambda: effects.bootstrap_interval(
        np.ones((2, 10)), seed=0, confidence=1.5
      ),
      r"confidence is 1.5, expected a number in \(0, 1\)",
    ),
    (lambda: effects.wilson_interval(3, 2), "3 successes of 2"),
    (lambda: effects.wilson_interval(0, 0), "0 successes of 0"),
    (
      lambda: effects.p_above(effects.wilson_interval(1, 2), 0.0),
      "no standard error",
    ),
  ],
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


def test_same_seed_same_effect():
  x = np.random.default_rng(0).normal(size=30)
  first = effects.mean_interval(x, seed=3)
  np.random.default_rng().normal()
  assert asdict(first) == asdict(effects.mean_interval(x, seed=3))


def test_a_value_beyond_five_deviations_is_far_off():
  x = np.sin(np.arange(40.0))
  assert not effects.far_off(x).any()
  x[5] = 9.0
  assert effects.far_off(x).tolist() == [i == 5 for i in range(40)]
  # Most are equal: the deviation is 0, and says nothing of the others.
  assert not effects.far_off(np.array([1.0] * 30 + [2.0])).any()


def test_the_typical_value_is_the_median_where_a_run_fails():
  x = 1.0 + 0.1 * np.sin(np.arange(40.0))
  assert effects.typical_interval(x, seed=0) == effects.mean_interval(x, seed=0)
  x[5] = -100.0
  mean, found = (
    effects.mean_interval(x, seed=0),
    effects.typical_interval(x, seed=0),
  )
  assert mean.low < 0.0
  assert 0.9 < found.low <= found.estimate <= found.high < 1.1


def test_the_exact_binomial_of_a_proportion():
  none, all_of_them = effects.proportion(0, 30), effects.proportion(30, 30)
  # The ends are where the tail is 2.5 %: 0.025^(1/30) (Clopper & Pearson).
  assert all_of_them.low == pytest.approx(0.025 ** (1 / 30))
  assert none.high == pytest.approx(1 - 0.025 ** (1 / 30))
  assert effects.p_above(all_of_them, 0.9) == pytest.approx(0.9**30)
  assert effects.p_below(none, 0.1) == pytest.approx(0.9**30)
  assert effects.p_above(none, 0.0) == 1.0


def test_the_signs_of_a_median_at_any_threshold():
  found = effects.median_interval(np.arange(40.0))
  assert effects.p_above(found, 9.5) == pytest.approx(
    stats.binom.sf(29, 40, 0.5)
  )
  assert effects.p_below(found, 9.5) == pytest.approx(
    stats.binom.sf(9, 40, 0.5)
  )

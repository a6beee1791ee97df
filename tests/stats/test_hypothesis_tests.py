"""Equivalence, Holm and power: published figures and error rates."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects, hypothesis_tests


def effect_of(mean: float, sd: float, n: int) -> effects.Effect:
  """An effect with exactly this mean and sd."""
  x = np.arange(n) - (n - 1) / 2.0
  x = x / x.std(ddof=1)
  return effects.student_interval(mean + sd * x)


def test_tost_is_two_one_sided_t_tests():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 40))
  p = max(
    stats.ttest_rel(a, b - 0.5, alternative="greater").pvalue,
    stats.ttest_rel(a, b + 0.5, alternative="less").pvalue,
  )
  effect = effects.paired_difference(a, b, seed=0)
  assert hypothesis_tests.tost(effect, 0.5) == pytest.approx(p)


@given(
  st.floats(-2.0, 2.0),
  st.floats(0.1, 3.0),
  st.integers(3, 60),
  st.floats(0.01, 2.0),
)
def test_equivalent_exactly_when_the_90_percent_interval_is_inside(
  mean, sd, n, margin
):
  effect = effect_of(mean, sd, n)
  reach = stats.t.isf(0.05, n - 1) * effect.standard_error
  inside = abs(effect.estimate) + reach < margin
  assert (hypothesis_tests.tost(effect, margin) < 0.05) == inside


def test_tost_around_a_target():
  effect = effect_of(1.02, 0.05, 30)
  assert hypothesis_tests.tost(effect, 0.1, target=1.0) < 0.05
  assert hypothesis_tests.tost(effect, 0.1) > 0.05
  assert hypothesis_tests.tost(effect, 0.01, target=1.0) > 0.05


@pytest.mark.parametrize("n", [30, 50])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_at_the_margin_equivalence_is_wrong_5_percent_of_the_time(n, sign):
  trials, margin = 1_000, 0.5
  d = np.random.default_rng(n).normal(sign * margin, 1.0, size=(trials, n))
  p = [hypothesis_tests.tost(effects.student_interval(x), margin) for x in d]
  share = np.mean(np.array(p) < 0.05)
  assert share == pytest.approx(0.05, abs=3.0 * math.sqrt(0.0475 / trials))


def test_seeds_that_all_agree():
  same = np.linspace(0.0, 1.0, 30)
  for shift, equal in ((0.0, True), (0.01, False)):
    effect = effects.paired_difference(same + shift, same, seed=0)
    assert (hypothesis_tests.tost(effect, 0.001) < 0.05) == equal


@pytest.mark.parametrize(
  ("p", "adjusted"),
  [  # The first is R's p.adjust example in many texts; both agree with it.
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
    ([0.9, 0.5], [1.0, 1.0]),
    ([0.02], [0.02]),
    ([], []),
  ],
)
def test_holm_as_published(p, adjusted):
  assert hypothesis_tests.holm(p) == pytest.approx(adjusted)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_is_the_closure_of_bonferroni(p):
  # The definition it is derived from: a hypothesis is rejected at alpha when
  # every intersection that contains it is, each by Bonferroni.
  for i, adjusted in enumerate(hypothesis_tests.holm(p)):
    others = [j for j in range(len(p)) if j != i]
    closure = max(
      (1 + size) * min([p[i], *(p[j] for j in rest)])
      for size in range(len(p))
      for rest in itertools.combinations(others, size)
    )
    assert adjusted == pytest.approx(min(1.0, closure))


@given(
  st.lists(
    st.tuples(st.floats(0.0, 1.0), st.integers(0, 3)), min_size=1, max_size=8
  )
)
def test_groups_count_once_and_never_hurt(tests):
  p, groups = [t[0] for t in tests], [t[1] for t in tests]
  grouped, plain = hypothesis_tests.holm(p, groups), hypothesis_tests.holm(p)
  assert all(a <= b for a, b in zip(grouped, plain, strict=True))
  assert all(q >= raw for q, raw in zip(grouped, p, strict=True))
  first = int(np.argmin(p))
  assert grouped[first] == min(1.0, len(set(groups)) * p[first])


def test_holm_keeps_the_family_wise_error():
  # Ten true nulls and five false ones, all correlated over shared seeds.
  rng = np.random.default_rng(0)
  trials, n = 1_000, 30
  x = rng.normal(size=(trials, n, 15)) + rng.normal(size=(trials, n, 1))
  x[:, :, :5] += 2.0
  p = stats.ttest_1samp(x, 0.0, axis=1).pvalue
  rejected = np.array([hypothesis_tests.holm(row) for row in p.tolist()]) < 0.05
  errors = rejected[:, 5:].any(axis=1).mean()
  assert errors <= 0.05 + 3.0 * math.sqrt(0.0475 / trials)
  assert rejected[:, :5].mean() > 0.95
  assert (p[:, 5:] < 0.05).any(axis=1).mean() > 0.1


@pytest.mark.parametrize(
  ("d", "n"),
  [  # R: power.t.test(type = "paired") gives 198.15, 33.37, 14.30.
    (0.2, 199),
    (0.5, 34),
    (-0.5, 34),
    (0.8, 15),
  ],
)
def test_seeds_to_tell_a_difference_as_in_power_tables(d, n):
  assert hypothesis_tests.seeds_to_decide(effect_of(d, 1.0, 40)) == n


def test_power_counts_are_those_simulation_needs():
  rng = np.random.default_rng(1)
  n = hypothesis_tests.seeds_to_decide(
    effect_of(0.1, 1.0, 40), "same", margin=0.6
  )
  assert n is not None
  x = rng.normal(0.1, 1.0, size=(4_000, n))
  error = x.std(axis=1, ddof=1) / math.sqrt(n)
  reach = stats.t.isf(0.025, n - 1) * error  # of the 95 % interval
  decided = (np.abs(x.mean(axis=1)) + reach < 0.6).mean()
  assert decided == pytest.approx(0.8, abs=0.03)


def test_an_effect_that_is_not_known_is_not_decided_by_any_number():
  unknown = effects.Effect(math.nan, math.nan, math.nan, 10, 0.95, "t", 0.1)
  assert hypothesis_tests.seeds_to_decide(unknown, "greater") is None


def test_an_effect_of_nothing_is_not_decided_by_any_number():
  nothing = effect_of(1e-9, 1.0, 40)
  assert hypothesis_tests.seeds_to_decide(nothing) is None
  # ... but a margin can be ruled out, and sameness shown.
  ruled_out = hypothesis_tests.seeds_to_decide(nothing, margin=0.5)
  assert ruled_out == 34  # d = 0.5, as R has it
  assert hypothesis_tests.seeds_to_decide(nothing, "same", margin=0.5) == 44
  at_margin = effect_of(0.5, 1.0, 40)
  assert hypothesis_tests.seeds_to_decide(at_margin, "same", margin=0.5) is None


def test_seeds_needed_turn_with_the_claim():
  effect = effect_of(-0.4, 1.0, 40)
  mirrored = effect_of(0.4, 1.0, 40)
  assert hypothesis_tests.seeds_to_decide(
    effect, "less", margin=0.9
  ) == hypothesis_tests.seeds_to_decide(mirrored, "greater", margin=0.9)
  assert hypothesis_tests.seeds_to_decide(
    effect_of(1.4, 1.0, 40), target=1.0
  ) == hypothesis_tests.seeds_to_decide(mirrored)


def test_more_is_needed_for_more():
  effect = effect_of(0.3, 1.0, 40)
  base = hypothesis_tests.seeds_to_decide(effect)
  assert base is not None
  assert hypothesis_tests.seeds_to_decide(effect, power=0.95) > base
  assert hypothesis_tests.seeds_to_decide(effect, alpha=0.005) > base
  assert hypothesis_tests.seeds_to_decide(effect, cap=base) == base
  assert hypothesis_tests.seeds_to_decide(effect, cap=base - 1) is None


def test_seeds_that_agree_need_no_more():
  agreed = effects.student_interval(np.full(30, 0.1))
  assert hypothesis_tests.seeds_to_decide(agreed) == 2


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: hypothesis_tests.tost(effect_of(0.0, 1.0, 9), 0.0),
      "margin is 0.0",
    ),
    (
      lambda: hypothesis_tests.tost(effect_of(0.0, 1.0, 9), math.inf),
      "margin is inf",
    ),
    (
      lambda: hypothesis_tests.holm([0.1, math.nan]),
      r"expected all in \[0, 1\]",
    ),
    (lambda: hypothesis_tests.holm([1.1]), r"expected all in \[0, 1\]"),
    (lambda: hypothesis_tests.holm([0.1], groups=[1, 2]), "2 groups"),
    (
      lambda: hypothesis_tests.seeds_to_decide(effect_of(0.0, 1.0, 9), "same"),
      "margin is None",
    ),
    (
      lambda: hypothesis_tests.seeds_to_decide(effects.wilson_interval(1, 2)),
      "no standard error",
    ),
    (
      lambda: hypothesis_tests.seeds_to_decide(
        effect_of(0.0, 1.0, 9), power=1.0
      ),
      "power is 1.0",
    ),
  ],
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)

"""The rules of a verdict, one by one, and their error rates."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects, verdicts
from mnist_jax.stats.verdicts import Claim, Finding, Question, Verdict

HOLDS, FAILS, UNDECIDED = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED


def effect_of(mean: float, sd: float = 1.0, n: int = 36) -> effects.Effect:
  """An effect with exactly this mean and sd: standard error sd / 6."""
  x = np.arange(n) - (n - 1) / 2.0
  x = x / x.std(ddof=1)
  return effects.mean_interval(mean + sd * x, seed=0)


def ask(mean: float, name: str = "part", n: int = 36, **options) -> Question:
  return Question(name, "is it?", effect_of(mean, n=n), **options)


def judged(*parts, logic="all", **options) -> verdicts.Judged:
  claim = Claim("L4", parts, lambda found: f"n is {found.n}", logic)
  return verdicts.judge(claim, **options)


def part_of(mean: float, **options) -> verdicts.Part:
  return judged(ask(mean, **options))["part"]


# The standard error is 1/6: the interval reaches about 0.33 to either side.
@pytest.mark.parametrize(
  ("mean", "options", "verdict", "finding"),
  [
    (0.5, {}, HOLDS, Finding.MATTERS),
    (-0.5, {}, FAILS, Finding.AGAINST),
    (0.2, {}, UNDECIDED, Finding.OPEN),
    (0.0, {}, UNDECIDED, Finding.OPEN),
    (0.5, {"kind": "less"}, FAILS, Finding.AGAINST),
    (-0.5, {"kind": "less"}, HOLDS, Finding.MATTERS),
    (1.5, {"target": 1.0}, HOLDS, Finding.MATTERS),
    (0.5, {"target": 1.0}, FAILS, Finding.AGAINST),
    # The interval against 0 and the margin.
    (1.0, {"margin": 0.6}, HOLDS, Finding.MATTERS),
    (0.7, {"margin": 0.6}, UNDECIDED, Finding.OPEN_SIZE),
    (0.5, {"margin": 0.9}, FAILS, Finding.SMALL),
    (0.2, {"margin": 0.6}, FAILS, Finding.NONE),
    (0.0, {"margin": 0.4}, FAILS, Finding.NONE),
    (-0.2, {"margin": 0.3}, FAILS, Finding.NO_GAIN),
    (0.1, {"margin": 0.2}, UNDECIDED, Finding.OPEN),
    (-0.5, {"margin": 0.3}, FAILS, Finding.AGAINST),
    (-1.0, {"margin": 0.3}, FAILS, Finding.AGAINST),
    (-1.0, {"kind": "less", "margin": 0.6}, HOLDS, Finding.MATTERS),
    (-0.5, {"kind": "less", "margin": 0.9}, FAILS, Finding.SMALL),
    (2.0, {"target": 1.0, "margin": 0.6}, HOLDS, Finding.MATTERS),
    # The same within a margin.
    (0.0, {"kind": "same", "margin": 0.4}, HOLDS, Finding.INSIDE),
    (0.2, {"kind": "same", "margin": 0.4}, UNDECIDED, Finding.OPEN),
    (0.9, {"kind": "same", "margin": 0.4}, FAILS, Finding.OUTSIDE),
    (-0.9, {"kind": "same", "margin": 0.4}, FAILS, Finding.OUTSIDE),
    (
      1.0,
      {"kind": "same", "target": 1.0, "margin": 0.4},
      HOLDS,
      Finding.INSIDE,
    ),
  ],
)
def test_the_rules(mean, options, verdict, finding):
  part = part_of(mean, **options)
  assert (part.verdict, part.finding) == (verdict, finding)


def test_more_seeds_never_turn_a_small_effect_round():
  """The old rule: undecided, does not hold, holds, as n grows."""
  words = [part_of(0.3, n=n, margin=1.0).verdict for n in (30, 60, 200, 1000)]
  assert words == [FAILS] * 4
  words = [part_of(0.7, n=n, margin=1.0).verdict for n in (30, 60, 200, 1000)]
  assert words == [UNDECIDED, FAILS, FAILS, FAILS]


@pytest.mark.parametrize(("n", "verdict"), [(29, UNDECIDED), (30, HOLDS)])
def test_no_verdict_below_thirty_seeds(n, verdict):
  part = part_of(5.0, n=n)
  assert part.verdict == verdict
  if verdict == UNDECIDED:
    assert part.note == "n = 29, at least 30 needed for a verdict"
    assert part.seeds_needed == 30
    assert part.p_holds is None


def test_censored_values_carry_no_verdict():
  assert part_of(5.0, censored=0.1).verdict == HOLDS
  part = part_of(5.0, censored=0.11)
  assert (part.verdict, part.note) == (
    UNDECIDED,
    "11 % of the values are censored",
  )


# t = 2.1 is shown alone, and not beside another test that is corrected for.
WEAK = 0.36


def test_that_all_hold_needs_no_correction_that_any_fails_does():
  both = judged(ask(WEAK, "a"), ask(WEAK, "b"))
  assert both.verdict == HOLDS
  against = judged(ask(-WEAK, "a"), ask(0.0, "b"))
  assert against.verdict == UNDECIDED
  assert against["a"].note == "the other way alone, not after Holm"
  assert judged(ask(-WEAK, "a")).verdict == FAILS


def test_that_any_holds_is_corrected_that_all_fail_is_not():
  some = {"logic": "any"}
  assert judged(ask(WEAK, "a"), ask(0.0, "b"), **some).verdict == UNDECIDED
  assert judged(ask(0.6, "a"), ask(-0.6, "b"), **some).verdict == HOLDS
  assert judged(ask(-WEAK, "a"), ask(-WEAK, "b"), **some).verdict == FAILS
  assert judged(ask(-0.6, "a"), ask(0.0, "b"), **some).verdict == UNDECIDED


def test_in_order_what_follows_an_open_part_is_not_asked():
  order = {"logic": "ordered"}
  parts = ask(0.6, "a"), ask(0.0, "b"), ask(-0.9, "c")
  assert judged(*parts, **order).verdict == UNDECIDED
  assert judged(*parts).verdict == FAILS
  assert judged(parts[0], parts[2], **order).verdict == FAILS
  assert judged(parts[0], **order).verdict == HOLDS


@pytest.mark.parametrize(
  ("primary", "secondary", "options", "verdict"),
  [
    (0.6, 0.6, {}, HOLDS),
    (0.6, 0.0, {}, HOLDS),
    (0.6, -0.6, {}, Verdict.LIMITS),
    (-0.6, 0.6, {}, FAILS),
    (-0.6, 0.6, {"restriction": "at batch 32"}, Verdict.MOSTLY_NOT),
    (-0.6, 0.0, {"restriction": "at batch 32"}, FAILS),
    (0.0, 0.6, {"restriction": "at batch 32"}, UNDECIDED),
  ],
)
def test_primary_then_secondary(primary, secondary, options, verdict):
  found = judged(
    ask(primary, "a"), ask(secondary, "b", role="secondary", **options)
  )
  assert found.verdict == verdict
  kept = options["restriction"] if verdict == Verdict.MOSTLY_NOT else ""
  assert found.restriction == kept


def test_secondaries_are_corrected_among_themselves_alone():
  many = [ask(0.0, str(i), role="secondary") for i in range(9)]
  assert judged(ask(WEAK, "a"), *many).verdict == HOLDS
  weak = ask(-WEAK, "weak", role="secondary")
  assert judged(ask(WEAK, "a"), weak).verdict == Verdict.LIMITS
  assert judged(ask(WEAK, "a"), weak, *many).verdict == HOLDS


def test_diagnostics_and_pictures_never_count():
  beside = ask(-5.0, "b", role="diagnostic"), ask(-5, "c", role="illustration")
  found = judged(ask(0.6, "a"), *beside)
  assert found.verdict == HOLDS
  assert [part.verdict for part in found.parts] == [HOLDS, FAILS, "illustrated"]
  assert judged(beside[1]).verdict == Verdict.ILLUSTRATED


def test_careful_parts_do_not_lower_a_true_claim():
  """Twelve true parts at 3.3 standard errors held in 14 % of old studies."""
  rng = np.random.default_rng(0)
  holds = 0
  for _ in range(40):
    x = 3.3 / math.sqrt(40) + rng.normal(size=(12, 40))
    first, *more = (effects.student_interval(row) for row in x)
    parts = [Question("0", "?", first)]
    parts += [
      Question(str(i), "?", effect, role="secondary")
      for i, effect in enumerate(more, 1)
    ]
    holds += judged(*parts).verdict == HOLDS
  assert holds / 40 > 0.7


@pytest.mark.parametrize(
  ("mean", "options", "odd"),
  [
    (0.5, {}, {"low": -0.1}),
    (-0.5, {}, {"high": 0.1}),
    (0.9, {"kind": "same", "margin": 0.4}, {"low": 0.3}),
  ],
)
def test_test_and_interval_must_agree(mean, options, odd):
  question = ask(mean, **options)
  assert judged(question).verdict != UNDECIDED
  effect = dataclasses.replace(question.effect, **odd)
  part = judged(dataclasses.replace(question, effect=effect))["part"]
  assert part.verdict == UNDECIDED
  assert part.note == "the test and the interval disagree"


# t with 35 degrees of freedom at (mean - bar) * 6, by SciPy.
@pytest.mark.parametrize(
  ("mean", "options", "p_holds", "p_fails"),
  [
    (0.5, {}, 2 * stats.t.sf(3.0, 35), 1.0),
    (0.5, {"target": 1.0, "kind": "less"}, 2 * stats.t.sf(3.0, 35), 1.0),
    (0.2, {"margin": 0.6}, 1.0, 2 * stats.t.sf(2.4, 35)),
    (
      0.6,
      {"kind": "same", "margin": 0.4},
      1.0,
      2 * stats.t.sf(1.2, 35),
    ),
  ],
)
def test_p_for_and_against(mean, options, p_holds, p_fails):
  part = part_of(mean, **options)
  assert part.p_holds == pytest.approx(p_holds)
  assert part.p_fails == pytest.approx(p_fails)


def test_undecided_says_how_many_seeds_would_do():
  assert part_of(0.2).seeds_needed == 199
  assert part_of(0.0).seeds_needed is None
  small = part_of(0.7, margin=0.9)
  assert small.verdict == UNDECIDED
  assert small.seeds_needed == 199  # as far from the bar


def test_a_fraction_is_judged_by_the_exact_binomial():
  def share(k, n, target):
    return Question("share", "?", effects.proportion(k, n), target=target)

  assert judged(share(30, 30, 0.99))["share"].verdict == UNDECIDED
  assert judged(share(30, 30, 0.85))["share"].verdict == HOLDS
  none = share(0, 30, 0.12)
  assert judged(none)["share"].verdict == FAILS
  assert judged(none)["share"].p_fails == pytest.approx(2 * 0.88**30)


def test_a_median_is_judged_by_the_signs():
  x = np.arange(40.0) - 5.0
  found = judged(Question("a", "?", effects.median_interval(x)))
  assert found.verdict == HOLDS
  assert found["a"].seeds_needed is None
  at_the_middle = Question("a", "?", effects.median_interval(x), target=15.0)
  assert judged(at_the_middle).verdict == UNDECIDED


def test_one_run_that_failed_does_not_hide_the_others():
  gains = np.full(40, 0.5) + 0.1 * np.sin(np.arange(40))
  gains[7] = -30.0
  mean = Question("a", "?", effects.mean_interval(gains, seed=0))
  typical = Question("a", "?", effects.typical_interval(gains, seed=0))
  assert judged(mean).verdict == UNDECIDED
  assert judged(typical).verdict == HOLDS


@settings(max_examples=8)
@given(st.permutations(range(6)))
def test_the_order_of_parts_does_not_matter(order):
  means = [0.36, -0.8, 0.9, 0.1, -0.41, 0.2]
  questions = [ask(m, str(i), margin=0.5) for i, m in enumerate(means)]
  expected = judged(*questions)
  found = judged(*(questions[i] for i in order))
  assert found.verdict == expected.verdict
  assert all(found[str(i)] == expected[str(i)] for i in range(6))


def test_derived_parts_need_no_seeds():
  right = verdicts.derived("J", "is J 0.25?", True)
  wrong = verdicts.derived("K", "is J 0.25?", False, note="0.2125")
  assert judged(right).verdict == HOLDS
  found = judged(right, wrong)
  assert found.verdict == FAILS
  assert found.n is None
  assert found.to_dict()["parts"][1]["note"] == "0.2125"
  with pytest.raises(KeyError, match="derived"):
    found.found("J")


def test_a_record_is_json_with_its_sentence():
  beside = effect_of(0.4)
  found = judged(
    ask(0.5, "a", test_effect=beside), ask(0.6, "b", n=40, role="secondary")
  )
  again = json.loads(json.dumps(found.to_dict()))
  assert again == found.to_dict()
  assert (again["claim"], again["verdict"], again["n"]) == ("L4", "holds", 36)
  assert again["sentence"] == "n is 36"
  assert [part["name"] for part in again["parts"]] == ["a", "b"]
  first = again["parts"][0]
  assert first["effect"] == pytest.approx(0.5)
  assert first["interval"][0] < 0.5 < first["interval"][1]
  assert first["test_effect"] == [beside.estimate, beside.low, beside.high]
  assert {"role", "finding", "test", "seeds_needed", "note"} <= first.keys()


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: ask(0.0, kind="same"), "margin is None"),
    (lambda: ask(0.0, margin=-1.0), "margin is -1.0"),
    (lambda: ask(0.0, restriction="at 32"), "restriction to be secondary"),
    (lambda: judged(ask(0.0), ask(1.0)), "occurs twice"),
    (lambda: judged(ask(0.0, role="secondary")), "expected a primary one"),
    (lambda: judged(ask(0.0), min_seeds=1), "min_seeds is 1"),
    (lambda: judged(ask(0.0), alpha=5.0), "alpha is 5.0"),
    (lambda: judged(ask(0.0, target=math.nan)), "the parts of L4"),
    (
      lambda: judged(Question("a", "?", effects.wilson_interval(20, 40))),
      "Wilson score interval has no standard",
    ),
  ],
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)

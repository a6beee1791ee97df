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
from mnist_jax.stats.verdicts import Question, Verdict


def effect_of(mean: float, sd: float = 1.0, n: int = 36) -> effects.Effect:
  """An effect with exactly this mean and sd: standard error sd / 6."""
  x = np.arange(n) - (n - 1) / 2.0
  x = x / x.std(ddof=1)
  return effects.mean_interval(mean + sd * x, seed=0)


def ask(mean: float, name: str = "part", n: int = 36, **options) -> Question:
  return Question("L4", name, "is it?", effect_of(mean, n=n), **options)


def verdict_of(mean: float, **options) -> Verdict:
  return verdicts.judge([ask(mean, **options)])[0].verdict


# The standard error is 1/6, so t = 6 * mean; the 5 % points of t with 35
# degrees of freedom are 2.03 (two sides) and 1.69 (one side).
@pytest.mark.parametrize(
  ("mean", "options", "verdict"),
  [
    (0.5, {}, "holds"),
    (-0.5, {}, "does not hold"),
    (0.2, {}, "undecided"),
    (-0.2, {}, "undecided"),
    (0.0, {}, "undecided"),
    (0.5, {"kind": "less"}, "does not hold"),
    (-0.5, {"kind": "less"}, "holds"),
    (0.2, {"kind": "less"}, "undecided"),
    (1.5, {"target": 1.0}, "holds"),
    (0.5, {"target": 1.0}, "does not hold"),
    (0.9, {"target": 1.0}, "undecided"),
    # A margin given beforehand: an effect that large is ruled out, or not.
    (0.2, {"margin": 0.6}, "does not hold"),
    (0.2, {"margin": 0.4}, "undecided"),
    (0.0, {"margin": 0.3}, "does not hold"),
    (-0.5, {"margin": 0.3}, "does not hold"),
    (0.5, {"margin": 0.3}, "holds"),
    (0.5, {"margin": 9.0}, "holds"),
    (-0.2, {"kind": "less", "margin": 0.6}, "does not hold"),
    (-0.2, {"kind": "less", "margin": 0.4}, "undecided"),
    (1.2, {"target": 1.0, "margin": 0.6}, "does not hold"),
    # The same within a margin.
    (0.0, {"kind": "same", "margin": 0.3}, "holds"),
    (0.2, {"kind": "same", "margin": 0.5}, "holds"),
    (0.2, {"kind": "same", "margin": 0.4}, "undecided"),
    (0.0, {"kind": "same", "margin": 0.2}, "undecided"),
    (0.9, {"kind": "same", "margin": 0.4}, "does not hold"),
    (-0.9, {"kind": "same", "margin": 0.4}, "does not hold"),
    (0.6, {"kind": "same", "margin": 0.4}, "undecided"),
    (1.0, {"kind": "same", "target": 1.0, "margin": 0.3}, "holds"),
    (0.0, {"kind": "same", "target": 1.0, "margin": 0.3}, "does not hold"),
  ],
)
def test_the_rules(mean, options, verdict):
  assert verdict_of(mean, **options) == verdict


@pytest.mark.parametrize(("n", "verdict"), [(29, "undecided"), (30, "holds")])
def test_no_verdict_below_thirty_seeds(n, verdict):
  part = verdicts.judge([ask(5.0, n=n)])[0]
  assert part.verdict == verdict
  if verdict == "undecided":
    assert part.note == "29 seeds, at least 30 needed for a verdict"
    assert part.seeds_needed == 30
    assert part.p_holds is None


def test_few_seeds_do_not_count_as_tests():
  # t = 2.1 holds alone and not beside a second test.
  alone = ask(0.36, "a")
  few = ask(5.0, "b", n=10)
  many = ask(0.0, "c")
  assert verdicts.judge([alone, few])[0].verdict == "holds"
  part = verdicts.judge([alone, few, many])[0]
  assert part.verdict == "undecided"
  assert part.note == "significant alone, not after Holm"
  p = alone.effect.p_value
  assert part.p_holds == pytest.approx(2.0 * p)


def test_holm_steps_down_over_the_parts():
  # p of the weakest is judged at 5 %, since all stronger ones are settled.
  parts = verdicts.judge([ask(0.36, "a"), ask(-0.8, "b"), ask(0.9, "c")])
  assert [p.verdict for p in parts] == ["holds", "does not hold", "holds"]
  assert [p.p_holds < 0.05 for p in parts] == [True, False, True]
  assert parts[1].p_fails < 0.05


@pytest.mark.parametrize(
  ("mean", "options", "odd"),
  [
    (0.5, {}, {"low": -0.1}),
    (-0.5, {}, {"high": 0.1}),
    (0.9, {"kind": "same", "margin": 0.4}, {"low": 0.3}),
    (-0.9, {"kind": "same", "margin": 0.4}, {"high": -0.3}),
  ],
)
def test_test_and_interval_must_agree(mean, options, odd):
  question = ask(mean, **options)
  assert verdicts.judge([question])[0].verdict != "undecided"
  effect = dataclasses.replace(question.effect, **odd)
  part = verdicts.judge([dataclasses.replace(question, effect=effect)])[0]
  assert part.verdict == "undecided"
  assert part.note == "the test and the interval disagree"


def test_the_effects_own_test_is_used():
  effect = dataclasses.replace(effect_of(0.5), p_value=0.4)
  part = verdicts.judge([Question("L4", "x", "?", effect)])[0]
  assert part.verdict == "undecided"
  assert part.p_holds == 0.4


# t with 35 degrees of freedom at (mean - null) * 6, by SciPy.
@pytest.mark.parametrize(
  ("mean", "options", "p_holds", "p_fails"),
  [
    (0.5, {}, 2 * stats.t.sf(3.0, 35), 1.0),
    (-0.5, {}, 1.0, 2 * stats.t.sf(3.0, 35)),
    (1.5, {"target": 1.0}, 2 * stats.t.sf(3.0, 35), 1.0),
    (0.5, {"target": 1.0, "kind": "less"}, 2 * stats.t.sf(3.0, 35), 1.0),
    (
      0.2,
      {"margin": 0.6},
      2 * stats.t.sf(1.2, 35),
      stats.t.sf(2.4, 35),
    ),
    (
      0.6,
      {"kind": "same", "margin": 0.4},
      stats.t.sf(-1.2, 35),
      2 * stats.t.sf(1.2, 35),
    ),
  ],
)
def test_p_for_and_against(mean, options, p_holds, p_fails):
  part = verdicts.judge([ask(mean, **options)])[0]
  assert part.p_holds == pytest.approx(p_holds)
  assert part.p_fails == pytest.approx(p_fails)


def test_a_part_carries_its_evidence_and_its_note():
  part = verdicts.judge(
    [ask(0.5, margin=0.6, note="2 of 36 diverged, counted as 0.1")]
  )[0]
  assert part.note == (
    "but the effect seen is smaller than the margin; "
    "2 of 36 diverged, counted as 0.1"
  )
  assert part.n == 36
  assert part.interval == (part.effect.low, part.effect.high)
  assert part.test.startswith("Student t over seeds, Holm")
  assert part.seeds_needed is None


def test_undecided_says_how_many_seeds_would_do():
  part = verdicts.judge([ask(0.2)])[0]
  assert part.seeds_needed == 199
  two = verdicts.judge([ask(0.2, "a"), ask(0.0, "b")])
  assert two[0].seeds_needed > 199
  assert two[1].seeds_needed is None
  wide = verdicts.judge([ask(0.0, kind="same", margin=0.2)])[0]
  assert wide.seeds_needed == pytest.approx(215, abs=2)  # 8.56 / 0.2^2


def test_median_and_proportion():
  x = np.arange(40.0) - 5.0
  part = verdicts.judge(
    [Question("N1", "median", "?", effects.median_interval(x))]
  )[0]
  assert part.verdict == "holds"
  assert part.seeds_needed is None
  share = effects.wilson_interval(20, 40)
  with pytest.raises(InputError, match="Wilson score interval has no standard"):
    verdicts.judge([Question("N1", "share", "?", share)])


@settings(max_examples=20)
@given(st.permutations(range(6)))
def test_the_order_of_questions_does_not_matter(order):
  means = [0.36, -0.8, 0.9, 0.1, -0.41, 0.2]
  questions = [ask(m, str(i), margin=0.5) for i, m in enumerate(means)]
  expected = verdicts.judge(questions)
  found = verdicts.judge([questions[i] for i in order])
  assert found == [expected[i] for i in order]


@pytest.mark.parametrize(
  ("mean", "options", "false"),
  [
    (0.0, {}, ("holds", "does not hold")),
    (0.0, {"margin": 0.5}, ("holds",)),
    (0.5, {"margin": 0.5}, ("does not hold",)),
    (0.5, {"kind": "same", "margin": 0.5}, ("holds",)),
    (0.4999, {"kind": "same", "margin": 0.5}, ("does not hold",)),
  ],
)
def test_a_family_is_wrong_at_most_5_percent_of_the_time(mean, options, false):
  rng = np.random.default_rng(0)
  trials, n = 200, 30
  wrong = 0
  for _ in range(trials):
    shared = rng.normal(size=(n, 1))
    x = mean + (shared + rng.normal(size=(n, 4))) / math.sqrt(2.0)
    # Student's interval: the same rules, without a thousand bootstraps.
    found = [effects.student_interval(column) for column in x.T]
    parts = verdicts.judge(
      [Question("L4", str(i), "?", e, **options) for i, e in enumerate(found)]
    )
    wrong += any(part.verdict in false for part in parts)
  assert wrong / trials <= 0.05 + 3.0 * math.sqrt(0.0475 / trials)


def part(claim: str, verdict: Verdict, name: str = "x") -> verdicts.Part:
  return verdicts.Part(claim, name, "?", verdict, "derived")


@pytest.mark.parametrize(
  ("of_parts", "verdict"),
  [
    (["holds"], "holds"),
    (["holds", "holds"], "holds"),
    (["holds", "undecided"], "undecided"),
    (["undecided", "does not hold"], "does not hold"),
    (["holds", "does not hold"], "does not hold"),
  ],
)
def test_parts_combine(of_parts, verdict):
  parts = [part("L4", Verdict(v)) for v in of_parts]
  assert verdicts.combine(parts) == verdict


def test_derived_parts_need_no_seeds():
  assert verdicts.derived("B9", "J", "is J 0.25?", True).verdict == "holds"
  wrong = verdicts.derived("B9", "J", "is J 0.25?", False, note="0.2125")
  assert wrong.verdict == "does not hold"
  assert wrong.to_dict()["n"] is None
  assert wrong.to_dict()["note"] == "0.2125"


def test_records_are_json_by_claim():
  judged = verdicts.judge([ask(0.5, "a"), ask(0.2, "b", n=40), ask(0.6, "c")])
  records = verdicts.claim_records(
    [judged[0], verdicts.derived("B9", "J", "?", True), *judged[1:]]
  )
  again = json.loads(json.dumps(records))
  assert again == records
  assert [r["claim"] for r in again] == ["L4", "B9"]
  assert again[0]["verdict"] == "undecided"
  assert [r["n"] for r in again] == [36, None]
  assert [p["name"] for p in again[0]["parts"]] == ["a", "b", "c"]
  first = again[0]["parts"][0]
  assert first["effect"] == pytest.approx(0.5)
  assert first["interval"][0] < 0.5 < first["interval"][1]
  assert {"verdict", "n", "test", "seeds_needed", "note"} <= first.keys()
  assert first["verdict"] == "holds"


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: ask(0.0, kind="same"), "margin is None"),
    (lambda: ask(0.0, margin=-1.0), "margin is -1.0"),
    (lambda: verdicts.judge([ask(0.0), ask(1.0)]), "occurs twice"),
    (lambda: verdicts.judge([ask(0.0)], min_seeds=1), "min_seeds is 1"),
    (lambda: verdicts.judge([ask(0.0)], alpha=5.0), "alpha is 5.0"),
    (lambda: verdicts.combine([]), "no parts"),
    (lambda: verdicts.claim_records([]), "no parts"),
    (
      lambda: verdicts.claim_records(
        [dataclasses.replace(part("L4", Verdict.HOLDS), p_holds=math.nan)]
      ),
      "L4",
    ),
  ],
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)

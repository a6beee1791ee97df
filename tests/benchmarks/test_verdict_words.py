"""The simulation of verdicts: its tables at a tiny size, and what is wrong."""

import pytest

from benchmarks import verdict_words
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
  ("said", "effect", "wrong"),
  [
    (Verdict.HOLDS, 1.0, True),
    (Verdict.HOLDS, verdict_words.ABOVE, False),
    (Verdict.FAILS, 1.0, False),
    (Verdict.FAILS, verdict_words.ABOVE, True),
    (Verdict.UNDECIDED, 0.0, False),
  ],
)
def test_a_word_is_wrong_where_it_says_what_is_not_so(said, effect, wrong):
  assert verdict_words.is_wrong(said, effect) is wrong


def test_the_old_rule_turns_round_and_this_one_does_not():
  few, many = (verdict_words.words("normal", 0.5, n, 20, 0) for n in (100, 600))
  assert few["before: does not hold"] > 0.4
  assert many["before: holds"] > 0.9
  assert few["does not hold"] > 0.4
  assert many["does not hold"] == 1.0
  assert many["real but small"] > 0.9


@pytest.mark.parametrize("name", verdict_words.CLAIMS)
def test_a_claim_gets_its_right_word_with_many_seeds(name):
  primary, secondary, _, right = verdict_words.CLAIMS[name]
  row = verdict_words.claim_words(name, 1000, 2, 0)
  assert row["right"] == right
  at_a_bar = any(abs(effect - 1.0) < 1e-6 for effect in primary + secondary)
  assert row["said right"] == 1.0 or at_a_bar


def test_failing_runs_and_the_page():
  row = verdict_words.failures(0.03, 100, 10, 0)
  assert row["typical: held"] > row["mean: held"]
  row = verdict_words.words("normal", 3.0, 100, 2, 0)
  page = verdict_words.page({"words": verdict_words.pd.DataFrame([row])}, "x")
  assert "| normal | 3 | 100 | 100.0 | 0.0 | 0.0 |" in page

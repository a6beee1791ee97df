"""The sentence of a claim in both languages."""

import json
from pathlib import Path

import pytest

from experiments import claims
from experiments.report.words import Words, told

RESULTS = Path(__file__).parents[4] / "results"


def part(name, effect, interval=(0.0, 1.0)):
  return {
    "name": name,
    "effect": effect,
    "interval": interval,
    "verdict": "holds",
    "role": "primary",
  }


def claim(*parts, **more):
  return {"verdict": "holds", "n": 30, "parts": list(parts)} | more


@pytest.mark.parametrize(
  ("template", "expected"),
  [
    ("{a}", "0.5（0.25 至 0.75）"),
    ("{a|percent}", "50.00 %（25.00 % 至 75.00 %）"),
    ("{a|point}", "50.00（25.00 至 75.00）"),
    ("{a|times}", "1.65（1.28 至 2.12）"),
    ("{a|times10}", "3.16（1.78 至 5.62）"),
    ("{a|power}", "3.2e+00（1.8e+00 至 5.6e+00）"),
    ("{n}", "30"),
    ("{a, 2*}", "2（1 至 3）"),
    ("{nothing|point}", "0.00（-1.00 至 0.00）"),
    ("{b}", None),
  ],
)
def test_a_template_is_filled_with_effects(template, expected):
  found = claim(
    part("a", 0.5, (0.25, 0.75)),
    part("a, 2 epochs", 2.0, (1, 3)),
    part("nothing", -1e-6, (-0.01, -1e-6)),
  )
  assert told.filled(template, found) == expected


def test_a_value_may_have_words_of_its_own():
  words = Words()
  words.add("some", "{} trees", "{} 棵树")
  words.add("some.1", "a tree", "一棵树")
  assert words.label("some", 1) == "some.1"
  assert words.table[words.label("some", 2)]["zh"] == "2 棵树"


def test_a_sentence_is_the_verdicts_own_and_chinese_has_its_numbers():
  words = Words()
  found = claim(part("wider, accuracy", 0.0028, (0.002, 0.0036)), sentence="S.")
  key = told.tell("N2", found, words)
  assert words.table[key]["en"] == "S."
  assert "0.28（0.20 至 0.36） 个百分点" in words.table[key]["zh"]


def test_where_a_part_lacks_chinese_says_the_word_and_the_count():
  words = Words()
  key = told.tell("N2", claim(part("other", 1.0), sentence="S."), words)
  assert "成立（1 个主要部分中证实了 1 个" in words.table[key]["zh"]


def chinese(text):
  return any("\u4e00" <= sign <= "\u9fff" for sign in text)


def test_every_claim_published_has_a_sentence_in_chinese():
  for name, (found, _) in claims.read(RESULTS).items():
    words = Words()
    key = told.tell(name, found, words)
    assert chinese(words.table[key]["zh"])
    assert json.dumps(words.table[key])


def test_every_part_shown_and_every_limit_has_its_chinese():
  for name, (found, _) in claims.read(RESULTS).items():
    words = Words()
    for place, own in enumerate(found["parts"]):
      if own["role"] == "primary":
        shown = words.table[told.part(place, found, words)]
        assert chinese(shown["zh"]), (name, own["name"])
        assert own["text"] in shown["en"]
    key = told.beside(found, words)
    limited = found["verdict"] in ("mostly not", "holds with limits")
    assert bool(key) == limited
    for each in words.table[key]["zh"].split("；") if key else ():
      assert chinese(each.partition("：")[2] or each), (name, each)

"""From effects to verdicts: holds, does not hold, undecided.

The rules, fixed before any study is run:

* At least 30 seeds, or the part is undecided, whatever the numbers say.
* "greater" (or "less") holds when the test of no difference rejects, after
  Holm over all parts judged together, and the 95 % bootstrap interval lies
  on the claimed side of the target. It does not hold when they say the
  opposite; or, where a margin was given beforehand, when a one-sided t test
  rejects, after Holm, an effect as large as the margin in that direction.
* "same" holds when the effect is equivalent to the target within the margin
  (two one-sided t tests, after Holm). It does not hold when a t test, after
  Holm, and the 95 % interval both place it beyond the margin.
* Anything else is undecided: the interval admits both.

Asking the test and the interval to agree can only make a wrong verdict rarer
than Holm's 5 % over the family.
"""

import dataclasses
import enum
import json
from collections.abc import Iterable, Sequence
from typing import Any

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import (
  Effect,
  check_probability,
  known_error,
  p_above,
  p_below,
  two_sided_p,
)
from mnist_jax.stats.hypothesis_tests import (
  Kind,
  check_margin,
  holm,
  seeds_to_decide,
  tost,
)

MIN_SEEDS = 30


class Verdict(enum.StrEnum):
  """What a study says of a claim, or of a part of it."""

  HOLDS = "holds"
  FAILS = "does not hold"
  UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True)
class Question:
  """One part of a claim, put so that numbers can answer it.

  Attributes:
    kind: What is claimed: the effect is above target ("greater"), below it
      ("less") or within +-margin of it ("same"). So "the slope is in [0.9,
      1.1]" is "same", target 1, margin 0.1.
  """

  claim: str  # its id in the list of claims, "L4"
  name: str  # short and unique in the claim: "accuracy at epoch 10"
  text: str
  effect: Effect
  kind: Kind = "greater"
  target: float = 0.0  # in the units of the effect, fixed before the run
  margin: float | None = None  # likewise
  note: str = ""

  def __post_init__(self) -> None:
    if self.margin is not None or self.kind == "same":
      check_margin(self.margin)


@dataclasses.dataclass(frozen=True)
class Part:
  """One part of a claim, judged.

  Attributes:
    p_holds, p_fails: The Holm-adjusted p for and against; 1 where the effect
      points the other way; None where nothing was tested.
    seeds_needed: An estimate of how many would decide; None where decided, or
      where no affordable number would.
  """

  claim: str
  name: str
  text: str
  verdict: Verdict
  kind: str
  effect: Effect | None = None
  target: float = 0.0
  margin: float | None = None
  test: str | None = None  # in words; None if derived, not measured
  p_holds: float | None = None
  p_fails: float | None = None
  seeds_needed: int | None = None
  note: str = ""

  @property
  def n(self) -> int | None:
    """Seeds behind the part; None if it was derived."""
    return self.effect.n if self.effect else None

  @property
  def interval(self) -> tuple[float, float] | None:
    """The effect's interval; None if the part was derived."""
    return (self.effect.low, self.effect.high) if self.effect else None

  def to_dict(self) -> dict[str, Any]:
    """For verdict.json: numbers, strings, lists and None only."""
    effect = self.effect
    return vars(self) | {
      "verdict": self.verdict.value,
      "effect": effect.estimate if effect else None,
      "interval": list(self.interval) if self.interval else None,
      "interval_kind": effect.interval if effect else None,
      "confidence": effect.confidence if effect else None,
      "p_value": effect.p_value if effect else None,
      "n": self.n,
    }


def derived(
  claim: str, name: str, text: str, truth: bool, note: str = ""
) -> Part:
  """A part settled by computing, not by sampling: B9's numbers, L2's table."""
  verdict = Verdict.HOLDS if truth else Verdict.FAILS
  return Part(claim, name, text, verdict, "derived", note=note)


def _tests(question: Question) -> tuple[float, float | None]:
  """p for the claim, and p against it where that is a test of its own.

  The null hypotheses of the two exclude each other. Without a margin one
  two-sided test serves both, by its sign.
  """
  effect, target, margin = question.effect, question.target, question.margin
  if question.kind == "same":
    assert margin is not None
    above = p_above(effect, target + margin)
    beyond = min(above, p_below(effect, target - margin))
    return tost(effect, margin, target=target), min(1.0, 2.0 * beyond)
  if target == 0.0 and effect.p_value is not None:
    p = effect.p_value  # the effect's own test, where it fits
  else:
    p = two_sided_p(effect.estimate - target, known_error(effect), effect.n)
  if margin is None:
    return p, None
  if question.kind == "less":
    return p, p_above(effect, target - margin)
  return p, p_below(effect, target + margin)


def _test_name(question: Question) -> str:
  if question.kind == "same":
    return "two one-sided t tests, Holm"
  name = f"{question.effect.test or 'Student t'}, Holm"
  if question.margin is None:
    return name
  return f"{name}; against: one-sided t at the margin, Holm"


def _sides(question: Question) -> tuple[bool, bool]:
  """Whether the 95 % interval allows "holds", and "does not hold"."""
  effect, target = question.effect, question.target
  if question.kind == "same":
    margin = question.margin or 0.0
    beyond = effect.low > target + margin or effect.high < target - margin
    return not beyond, beyond
  above, below = effect.low > target, effect.high < target
  for_it, against = (
    (below, above) if question.kind == "less" else (above, below)
  )
  return for_it, against or question.margin is not None


def _adjusted(questions: Sequence[Question]) -> list[tuple[float, float]]:
  """Holm-adjusted (p for, p against) of each, over all tests of all."""
  raw = [_tests(question) for question in questions]
  flat = [(i, p) for i, pair in enumerate(raw) for p in pair if p is not None]
  corrected = iter(holm([p for _, p in flat], groups=[i for i, _ in flat]))
  pairs = []
  for question, (_, against) in zip(questions, raw, strict=True):
    p_for = next(corrected)
    p_against = p_for if against is None else next(corrected)
    if question.kind != "same":
      gap = question.effect.estimate - question.target
      gap = -gap if question.kind == "less" else gap
      if against is None and gap >= 0.0:
        p_against = 1.0
      if gap <= 0.0:
        p_for = 1.0
    pairs.append((p_for, p_against))
  return pairs


def _decide(
  question: Question, p_for: float, p_against: float, alpha: float
) -> tuple[Verdict, str]:
  may_hold, may_fail = _sides(question)
  if p_for < alpha and may_hold:
    margin = question.margin
    gap = abs(question.effect.estimate - question.target)
    if question.kind != "same" and margin is not None and gap < margin:
      return Verdict.HOLDS, "but the effect seen is smaller than the margin"
    return Verdict.HOLDS, ""
  if p_against < alpha and may_fail:
    return Verdict.FAILS, ""
  if min(p_for, p_against) < alpha:
    return Verdict.UNDECIDED, "the test and the interval disagree"
  p, against = _tests(question)
  alone = min(p, 1.0 if against is None else against)
  if alone < alpha:
    return Verdict.UNDECIDED, "significant alone, not after Holm"
  return Verdict.UNDECIDED, "the interval admits both"


def _needed(
  question: Question, family: int, alpha: float, min_seeds: int
) -> int | None:
  if question.effect.standard_error is None:
    return None
  seeds = seeds_to_decide(
    question.effect,
    question.kind,
    target=question.target,
    margin=question.margin,
    alpha=alpha / family,
  )
  return None if seeds is None else max(seeds, min_seeds)


def judge(
  questions: Sequence[Question],
  *,
  alpha: float = 0.05,
  min_seeds: int = MIN_SEEDS,
) -> list[Part]:
  """Judges all questions of a study together, by the rules of this module.

  Holm runs over every test of every question that has enough seeds, so give
  all parts of a study at once. Questions with fewer seeds cannot be decided
  and do not count as tests.

  Returns:
    One part per question, in their order.

  Raises:
    InputError: two parts of a claim with one name; an effect with nothing to
      test it by; alpha outside (0, 1); min_seeds below 2.
  """
  check_probability("alpha", alpha)
  if min_seeds < 2:
    raise InputError(f"min_seeds is {min_seeds}, expected at least 2")
  names = [(question.claim, question.name) for question in questions]
  for name in names:
    if names.count(name) > 1:
      raise InputError(f"part {name} occurs twice, expected each name once")
  enough = [q for q in questions if q.effect.n >= min_seeds]
  pairs = dict(
    zip([(q.claim, q.name) for q in enough], _adjusted(enough), strict=True)
  )
  parts = []
  for question, name in zip(questions, names, strict=True):
    if name in pairs:
      verdict, why = _decide(question, *pairs[name], alpha)
    else:
      n = question.effect.n
      verdict = Verdict.UNDECIDED
      why = f"{n} seeds, at least {min_seeds} needed for a verdict"
    seeds = None
    if verdict is Verdict.UNDECIDED:
      seeds = _needed(question, len(questions), alpha, min_seeds)
    p_holds, p_fails = pairs.get(name, (None, None))
    found = {
      "verdict": verdict,
      "test": _test_name(question),
      "p_holds": p_holds,
      "p_fails": p_fails,
      "seeds_needed": seeds,
      "note": "; ".join(note for note in (why, question.note) if note),
    }
    parts.append(Part(**vars(question) | found))
  return parts


def combine(parts: Iterable[Part]) -> Verdict:
  """The claim's verdict: holds if all parts do, fails if any part does.

  Raises:
    InputError: no parts.
  """
  verdicts = [part.verdict for part in parts]
  if not verdicts:
    raise InputError("no parts to combine, expected at least one")
  worst_first = (Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS)
  return next(verdict for verdict in worst_first if verdict in verdicts)


def claim_records(parts: Sequence[Part]) -> list[dict[str, Any]]:
  """One record per claim for verdict.json, in order of first appearance.

  Keys: claim, verdict, n (the fewest seeds of its parts, None if all were
  derived), parts (see `Part.to_dict`).

  Raises:
    InputError: no parts, or a number in them that JSON cannot hold.
  """
  if not parts:
    raise InputError("no parts to record, expected at least one")
  records = []
  for claim in dict.fromkeys(part.claim for part in parts):
    own = [part for part in parts if part.claim == claim]
    seeds = [part.n for part in own if part.n is not None]
    records.append(
      {
        "claim": claim,
        "verdict": combine(own).value,
        "n": min(seeds) if seeds else None,
        "parts": [part.to_dict() for part in own],
      }
    )
  try:
    json.dumps(records, allow_nan=False)
  except ValueError as error:
    raise InputError(f"the parts of {records[0]['claim']}: {error}") from None
  return records

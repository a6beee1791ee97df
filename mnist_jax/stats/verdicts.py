"""From effects to verdicts: what is said of a claim, by rules fixed before.

A part of a claim is judged by its interval against 0 and the margin, the
smallest effect that matters, fixed before the run:

* "greater" (or "less") holds when the effect is shown to be beyond the margin
  on the claimed side of the target, and does not when it is shown not to be:
  real but small, no difference that matters, or the other way. An effect that
  is really as large as it is has one right word, which more seeds only make
  likelier; "above 0" and "below the margin" are never asked in turn.
  Without a margin the target itself is the bar.
* "same" holds within the margin of the target, and does not beyond it.
* Anything else is undecided. So is a part with fewer than 30 seeds, or one of
  which more than a tenth of the values are censored.

Shown is what both the 95 % interval and a test (two-sided, 5 %) say, so that a
reader who sees the interval sees the verdict; the chance of a wrong word is
2.5 % a part.

A claim has primary parts, the chapter's sentence in its own setting. Their
logic is declared: "all" hold, "any" of them suffices, or they hold in order
("ordered"). That all hold needs no correction, since a claim that is wrong in
one part has to pass that part's test (intersection-union, Berger 1982); that
any part fails does, and for "any" it is the other way round. Holm (1979)
corrects. Secondary parts say how far the claim goes, Holm over them; diagnostic
ones never count, and an illustration is a picture.
"""

import dataclasses
import enum
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import (
  Effect,
  check_probability,
  p_above,
  p_below,
)
from mnist_jax.stats.hypothesis_tests import (
  Kind,
  check_margin,
  holm,
  seeds_to_decide,
  tost,
)

MIN_SEEDS = 30
MOST_CENSORED = 0.1  # of the values behind a part
Role = Literal["primary", "secondary", "diagnostic", "illustration"]
Logic = Literal["all", "any", "ordered"]


class Verdict(enum.StrEnum):
  """What a study says of a claim; of a part the first, fourth to last."""

  HOLDS = "holds"
  LIMITS = "holds with limits"  # the primary does, a secondary does not
  MOSTLY_NOT = "mostly not"  # the primary does not, a restriction of it does
  FAILS = "does not hold"
  UNDECIDED = "undecided"
  ILLUSTRATED = "illustrated"


class Finding(enum.StrEnum):
  """Where the interval of an effect lies, seen from the claimed side."""

  MATTERS = "beyond the margin"
  OPEN_SIZE = "real, its size open"
  SMALL = "real but small"
  NONE = "no difference that matters"
  NO_GAIN = "no gain that matters"
  AGAINST = "the other way"
  INSIDE = "within the margin"
  OUTSIDE = "outside the margin"
  OPEN = "open"


@dataclasses.dataclass(frozen=True)
class Question:
  """One part of a claim, put so that numbers can answer it.

  Attributes:
    name: Short and unique in the claim: "accuracy at epoch 10".
    kind: What is claimed: the effect is above target by more than the margin
      ("greater"), below it ("less") or within +-margin of it ("same"). So "the
      slope is in [0.9, 1.1]" is "same", target 1, margin 0.1.
    target, margin: In the units of the effect, fixed before the run.
    role: "primary": the chapter's sentence in its own setting; "secondary":
      how far it goes; "diagnostic" and "illustration": never counted.
    restriction: Of a secondary part: the words in which the claim still holds
      where the primary does not and this does ("at batch 32").
    censored: The share of the values that are known only to be at least, or
      at most, so large.
    test_effect: The same effect on the test set, to be printed beside.
  """

  name: str
  text: str
  effect: Effect
  kind: Kind = "greater"
  target: float = 0.0
  margin: float | None = None
  role: Role = "primary"
  restriction: str = ""
  censored: float = 0.0
  test_effect: Effect | None = None
  note: str = ""

  def __post_init__(self) -> None:
    if self.margin is not None or self.kind == "same":
      check_margin(self.margin)
    if self.restriction and self.role != "secondary":
      raise InputError(
        f"part {self.name!r} is {self.role}, expected a restriction to be "
        "secondary"
      )


@dataclasses.dataclass(frozen=True)
class Part:
  """One part of a claim, judged.

  Attributes:
    p_holds, p_fails: The p for and against, two-sided, corrected as its role
      and the claim's logic ask; None where nothing was tested.
    seeds_needed: An estimate of how many would decide; None where decided, or
      where no affordable number would.
  """

  name: str
  text: str
  verdict: Verdict
  kind: str
  role: Role = "primary"
  finding: Finding | None = None  # None if derived
  effect: Effect | None = None
  target: float = 0.0
  margin: float | None = None
  restriction: str = ""
  censored: float = 0.0
  test_effect: Effect | None = None
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
    effect, test = self.effect, self.test_effect
    return vars(self) | {
      "verdict": self.verdict.value,
      "finding": self.finding.value if self.finding else None,
      "effect": effect.estimate if effect else None,
      "interval": list(self.interval) if self.interval else None,
      "interval_kind": effect.interval if effect else None,
      "confidence": effect.confidence if effect else None,
      "test_effect": [test.estimate, test.low, test.high] if test else None,
      "n": self.n,
    }


def derived(
  name: str, text: str, truth: bool, note: str = "", role: Role = "primary"
) -> Part:
  """A part settled by computing, not by sampling: B9's numbers, L2's table."""
  verdict = Verdict.HOLDS if truth else Verdict.FAILS
  if role == "illustration":
    verdict = Verdict.ILLUSTRATED
  return Part(name, text, verdict, "derived", role, note=note)


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim as a study puts it.

  Attributes:
    name: Its id in the list of claims, "L4".
    parts: Those to be judged, and those that were derived.
    sentence: From the judged claim to one sentence of its numbers: what, by
      how much with its unit, at what budget, n. It does not say the verdict,
      which stands beside it.
    logic: How the primary parts make the verdict.
  """

  name: str
  parts: Sequence[Question | Part]
  sentence: Callable[["Judged"], str]
  logic: Logic = "all"


@dataclasses.dataclass(frozen=True)
class Judged:
  """A claim, judged."""

  claim: str
  verdict: Verdict
  logic: Logic
  parts: tuple[Part, ...]
  restriction: str = ""  # in which a claim that mostly does not hold does
  sentence: str = ""

  def __getitem__(self, name: str) -> Part:
    """The part of that name; KeyError if there is none."""
    return {part.name: part for part in self.parts}[name]

  def found(self, name: str) -> Effect:
    """The measured effect of a part; KeyError if there is no such part."""
    effect = self[name].effect
    if effect is None:
      raise KeyError(f"{name} was derived, not measured")
    return effect

  @property
  def n(self) -> int | None:
    """The fewest seeds of its primary parts; None if all were derived."""
    seeds = [p.n for p in self.parts if p.role == "primary" and p.n is not None]
    return min(seeds) if seeds else None

  def to_dict(self) -> dict[str, Any]:
    """For verdict.json."""
    return vars(self) | {
      "verdict": self.verdict.value,
      "n": self.n,
      "parts": [part.to_dict() for part in self.parts],
    }


def _seen(question: Question) -> tuple[float, float]:
  """The interval about the target, the claimed side above 0."""
  low, high = (
    end - question.target for end in (question.effect.low, question.effect.high)
  )
  return (-high, -low) if question.kind == "less" else (low, high)


def _finding(question: Question) -> Finding:
  low, high = _seen(question)
  margin = question.margin or 0.0
  if question.kind == "same":
    if -margin < low and high < margin:
      return Finding.INSIDE
    beyond = low > margin or high < -margin
    return Finding.OUTSIDE if beyond else Finding.OPEN
  cases = (
    (low > margin, Finding.MATTERS),
    (high < 0.0, Finding.AGAINST),
    (low > 0.0 and high < margin, Finding.SMALL),
    (low > 0.0, Finding.OPEN_SIZE),
    (-margin < low and high < margin, Finding.NONE),
    (high < margin, Finding.NO_GAIN),
  )
  return next((finding for so, finding in cases if so), Finding.OPEN)


_FOR = (Finding.MATTERS, Finding.INSIDE)
_NEITHER = (Finding.OPEN, Finding.OPEN_SIZE)


def _tests(question: Question) -> tuple[float, float]:
  """p for the claim and p against it, each two-sided."""
  effect, target, margin = question.effect, question.target, question.margin
  if question.kind == "same":
    assert margin is not None
    above = p_above(effect, target + margin)
    beyond = min(above, p_below(effect, target - margin))
    pair = tost(effect, margin, target=target), beyond
  elif question.kind == "less":
    bar = target - (margin or 0.0)
    pair = p_below(effect, bar), p_above(effect, bar)
  else:
    bar = target + (margin or 0.0)
    pair = p_above(effect, bar), p_below(effect, bar)
  return min(1.0, 2.0 * pair[0]), min(1.0, 2.0 * pair[1])


def _corrections(role: Role, logic: Logic) -> tuple[bool, bool]:
  """Whether Holm corrects the p for, and the p against, the parts of a role."""
  if role == "primary":
    return logic == "any", logic != "any"
  return (role == "secondary",) * 2


def _corrected(
  pairs: Sequence[tuple[float, float]], which: tuple[bool, bool]
) -> list[tuple[float, float]]:
  """Those p of (for, against) pairs that are to be, after Holm.

  A pair's two exclude each other, so it counts once where both are corrected.
  """
  if not any(which) or not pairs:
    return list(pairs)
  flat = [
    (i, side, pair[side])
    for i, pair in enumerate(pairs)
    for side in (0, 1)
    if which[side]
  ]
  adjusted = holm([p for _, _, p in flat], groups=[i for i, _, _ in flat])
  result = [list(pair) for pair in pairs]
  for (i, side, _), p in zip(flat, adjusted, strict=True):
    result[i][side] = p
  return [(for_it, against) for for_it, against in result]


def _decide(
  question: Question,
  raw: tuple[float, float],
  corrected: tuple[float, float],
  alpha: float,
) -> tuple[Verdict, str]:
  finding = _finding(question)
  if question.censored > MOST_CENSORED:
    share = f"{100 * question.censored:.0f} %"
    return Verdict.UNDECIDED, f"{share} of the values are censored"
  if finding in _NEITHER:
    if min(corrected) < alpha:
      return Verdict.UNDECIDED, "the test and the interval disagree"
    size = "real; whether it is beyond the margin is open"
    return Verdict.UNDECIDED, size if finding is Finding.OPEN_SIZE else ""
  holds = finding in _FOR
  side = 0 if holds else 1
  if corrected[side] < alpha:
    return (Verdict.HOLDS if holds else Verdict.FAILS), ""
  why = "alone, not after Holm" if raw[side] < alpha else "by its interval only"
  return Verdict.UNDECIDED, f"{finding} {why}"


def _needed(question: Question, alpha: float, min_seeds: int) -> int | None:
  if question.effect.standard_error is None:
    return None
  seeds = seeds_to_decide(
    question.effect,
    question.kind,
    target=question.target,
    margin=question.margin,
    alpha=alpha,
  )
  return None if seeds is None else max(seeds, min_seeds)


def _judge_role(
  questions: Sequence[Question],
  which: tuple[bool, bool],
  alpha: float,
  min_seeds: int,
) -> list[Part]:
  """The parts of one role, judged together."""
  enough = [q for q in questions if q.effect.n >= min_seeds]
  raw = [_tests(question) for question in enough]
  corrected = _corrected(raw, which)
  tested = dict(
    zip([q.name for q in enough], zip(raw, corrected, strict=True), strict=True)
  )
  parts = []
  for question in questions:
    p: tuple[float | None, float | None] = None, None
    if question.role == "illustration":
      verdict, why = Verdict.ILLUSTRATED, ""
    elif question.name in tested:
      p = tested[question.name][1]
      verdict, why = _decide(question, *tested[question.name], alpha)
    else:
      verdict = Verdict.UNDECIDED
      why = (
        f"n = {question.effect.n}, at least {min_seeds} needed for a verdict"
      )
    seeds = None
    if verdict is Verdict.UNDECIDED:
      seeds = _needed(question, alpha, min_seeds)
    test = question.effect.test or "Student t"
    found = {
      "verdict": verdict,
      "finding": _finding(question),
      "test": test + (", Holm" if any(which) else ""),
      "p_holds": p[0],
      "p_fails": p[1],
      "seeds_needed": seeds,
      "note": "; ".join(note for note in (why, question.note) if note),
    }
    parts.append(Part(**vars(question) | found))
  return parts


def _primary(parts: Sequence[Part], logic: Logic) -> Verdict:
  verdicts = [part.verdict for part in parts]
  if all(verdict is Verdict.ILLUSTRATED for verdict in verdicts):
    return Verdict.ILLUSTRATED
  best_last = (Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS)
  if logic == "any":
    return next(v for v in reversed(best_last) if v in verdicts)
  if logic == "ordered":  # what comes after the first that is not shown is not
    open_from = next(
      (i for i, v in enumerate(verdicts) if v is not Verdict.HOLDS), None
    )
    return Verdict.HOLDS if open_from is None else verdicts[open_from]
  return next(verdict for verdict in best_last if verdict in verdicts)


def _word(parts: Sequence[Part], logic: Logic) -> tuple[Verdict, str]:
  """The claim's verdict, and the restriction in which it holds, if any."""
  primary = [part for part in parts if part.role == "primary"]
  secondary = [part for part in parts if part.role == "secondary"]
  word = _primary(primary or parts, logic)
  if word is Verdict.HOLDS:
    limited = any(part.verdict is Verdict.FAILS for part in secondary)
    return (Verdict.LIMITS if limited else word), ""
  if word is Verdict.FAILS:
    kept = [
      part.restriction
      for part in secondary
      if part.restriction and part.verdict is Verdict.HOLDS
    ]
    if kept:
      return Verdict.MOSTLY_NOT, "; ".join(kept)
  return word, ""


def _check(claim: Claim) -> None:
  names = [part.name for part in claim.parts]
  for name in names:
    if names.count(name) > 1:
      raise InputError(
        f"part {name!r} of {claim.name} occurs twice, expected each name once"
      )
  roles = {part.role for part in claim.parts}
  if not roles & {"primary", "illustration"}:
    raise InputError(
      f"{claim.name} has parts {sorted(roles)}, expected a primary one"
    )


def judge(
  claim: Claim, *, alpha: float = 0.05, min_seeds: int = MIN_SEEDS
) -> Judged:
  """Judges a claim by the rules of this module.

  Parts with fewer seeds cannot be decided and do not count as tests.

  Raises:
    InputError: two parts with one name; no primary part; an effect with
      nothing to test it by; alpha outside (0, 1); min_seeds below 2; numbers
      that JSON cannot hold.
  """
  check_probability("alpha", alpha)
  if min_seeds < 2:
    raise InputError(f"min_seeds is {min_seeds}, expected at least 2")
  _check(claim)
  asked = [part for part in claim.parts if isinstance(part, Question)]
  done: dict[str, Part] = {
    part.name: part for part in claim.parts if isinstance(part, Part)
  }
  for role in dict.fromkeys(question.role for question in asked):
    own = [question for question in asked if question.role == role]
    which = _corrections(role, claim.logic)
    judged = _judge_role(own, which, alpha, min_seeds)
    done |= {part.name: part for part in judged}
  parts = tuple(done[part.name] for part in claim.parts)
  verdict, restriction = _word(parts, claim.logic)
  result = Judged(claim.name, verdict, claim.logic, parts, restriction)
  result = dataclasses.replace(result, sentence=claim.sentence(result))
  try:
    json.dumps(result.to_dict(), allow_nan=False)
  except ValueError as error:
    raise InputError(f"the parts of {claim.name}: {error}") from None
  return result

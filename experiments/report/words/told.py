"""What was found of a claim, in one sentence of each language."""

import math
import re
from collections.abc import Mapping
from typing import Any

from experiments import claims
from experiments.report.words import Words

_FIELD = re.compile(r"\{([^{}|]+)(?:\|(\w+))?\}")


def _number(value: float, kind: str) -> str:
  if kind == "times":
    return f"{math.exp(value):.3g}"
  if kind == "times10":
    return f"{10**value:.3g}"
  if kind == "power":
    return f"{10**value:.1e}"
  if kind == "percent":
    return f"{100 * value:.2f} %"
  if kind == "point":
    return f"{100 * value:.2f}"
  return f"{value:.4g}"


def _part(part: Mapping[str, Any], kind: str) -> str:
  low, high = part["interval"]
  shown = [_number(v, kind) for v in (part["effect"], low, high)]
  return f"{shown[0]}（{shown[1]} 至 {shown[2]}）"


def filled(template: str, claim: Mapping[str, Any]) -> str | None:
  """A template with the effects of the claim's parts; None where one lacks.

  A field is {name of a part|kind}, the kind one of times (of a logarithm),
  times10 and power (of one to base 10), percent, point or none. A name that
  ends in * is that of the first part which begins so; {n} is the number of
  seeds.
  """
  measured = [part for part in claim["parts"] if part["effect"] is not None]
  lacking = []

  def value(match: re.Match[str]) -> str:
    name = match[1]
    if name == "n":
      return str(claim["n"])
    for part in measured:
      begins = name.endswith("*") and part["name"].startswith(name[:-1])
      if begins or part["name"] == name:
        return _part(part, match[2] or "")
    lacking.append(name)
    return ""

  text = _FIELD.sub(value, template)
  return None if lacking else text


def _counted(claim: Mapping[str, Any]) -> tuple[int, int]:
  """How many of its primary parts hold, and of how many."""
  own = [p for p in claim["parts"] if p.get("role", "primary") == "primary"]
  return sum(part["verdict"] == "holds" for part in own), len(own)


def tell(name: str, claim: Mapping[str, Any], words: Words) -> str:
  """The key of the sentence.

  A verdict of before this rule has none of its own, and gets one that says so.
  """
  table = words.table
  held, count = _counted(claim)
  word = table[f"verdict.{claim['verdict']}"]
  sentence = claim.get("sentence")
  n = claim["n"]
  seeds = table[words.label("facts.n", n) if n else "facts.derived"]
  form = table["told.now" if sentence else "told.before"]
  en = claims.CLAIMS[name]
  summary = {
    "en": en[0].upper() + en[1:],
    "zh": table[f"claim.{name}"]["zh"],
  }
  said = {
    lang: form[lang].format(
      summary=summary[lang],
      word=word[lang],
      held=held,
      count=count,
      seeds=seeds[lang],
    )
    for lang in ("en", "zh")
  }
  if sentence:
    said["en"] = sentence
    template = table.get(f"told.{name}", {}).get("zh")
    said["zh"] = (template and filled(template, claim)) or said["zh"]
  return words.add(f"found.{name}", said["en"], said["zh"])

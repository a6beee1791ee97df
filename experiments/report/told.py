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
  if kind == "percent":
    return f"{100 * value:.2f} %"
  if kind == "point":
    return f"{100 * value:.2f}"
  return f"{value:.4g}"


def _part(part: Mapping[str, Any], kind: str) -> str:
  low, high = part["interval"]
  shown = [_number(v, kind) for v in (part["effect"], low, high)]
  if kind in ("times", "times10") and part["effect"] < 0:
    pass  # a factor below 1 is said as it is
  return f"{shown[0]}（{shown[1]} 至 {shown[2]}）"


def filled(template: str, claim: Mapping[str, Any]) -> str | None:
  """A template with the effects of the claim's parts; None where one lacks.

  A field is {name of a part|kind}, the kind one of times (of a logarithm),
  times10, percent, point or none; {n} is the number of seeds.
  """
  parts = {part["name"]: part for part in claim["parts"]}
  parts = {k: p for k, p in parts.items() if p["effect"] is not None}
  names = {name for name, _ in _FIELD.findall(template)} - {"n"}
  if not names <= set(parts):
    return None

  def value(match: re.Match[str]) -> str:
    if match[1] == "n":
      return str(claim["n"])
    return _part(parts[match[1]], match[2] or "")

  return _FIELD.sub(value, template)


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
  values = {"held": held, "count": count, "n": claim["n"] or "–"}
  form = table["told.now" if sentence else "told.before"]
  summary = {"en": claims.CLAIMS[name], "zh": table[f"claim.{name}"]["zh"]}
  said = {
    lang: form[lang].format(summary=summary[lang], word=word[lang], **values)
    for lang in ("en", "zh")
  }
  if sentence:
    said["en"] = sentence
    template = table.get(f"told.{name}", {}).get("zh")
    said["zh"] = (template and filled(template, claim)) or said["zh"]
  return words.add(f"found.{name}", said["en"], said["zh"])

"""What was found of a claim and what its parts ask, in each language."""

import functools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
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
    return f"{100 * value:z.2f} %"
  if kind == "point":
    return f"{100 * value:z.2f}"
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


def tell(name: str, claim: Mapping[str, Any], words: Words) -> str:
  """The key of the sentence.

  That in Chinese is a template's; without one it is the claim and its word.
  """
  table = words.table
  held = [p["verdict"] == "holds" for p in _primary(claim)]
  n = claim["n"]
  seeds = table[words.label("facts.n", n) if n else "facts.derived"]
  template = table.get(f"told.{name}", {}).get("zh")
  zh = template and filled(template, claim)
  zh = zh or table["told.counted"]["zh"].format(
    summary=table[f"claim.{name}"]["zh"],
    word=table[f"verdict.{claim['verdict']}"]["zh"],
    held=sum(held),
    count=len(held),
    seeds=seeds["zh"],
  )
  return words.add(f"found.{name}", claim["sentence"], zh)


@functools.cache
def _chinese() -> dict[str, dict[str, str]]:
  """By claim: its parts, and what its restriction names, in Chinese."""
  path = Path(__file__).parent / "parts.json"
  found: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))
  return found


def part(place: int, claim: Mapping[str, Any], words: Words) -> str:
  """The key of what a part of the claim asks; in English after its name."""
  name, text = (claim["parts"][place][key] for key in ("name", "text"))
  en = text if name == text else f"{name}: {text}"
  zh = _chinese().get(claim["claim"], {}).get(name, text)
  return words.add(f"part.{claim['claim']}.{place}", en, zh)


def beside(claim: Mapping[str, Any], words: Words) -> str | None:
  """The key of what the claim's word leaves out, if there is any."""
  kind, what = claims.beside(claim)
  if not kind:
    return None
  own = _chinese().get(claim["claim"], {})
  start = words.table[f"beside.{kind}"]
  zh = "；".join(own.get(each, each) for each in what.split("; "))
  key = f"beside.{claim['claim']}"
  return words.add(key, f"{start['en']} {what}", f"{start['zh']}{zh}")


def _primary(claim: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  return [part for part in claim["parts"] if part["role"] == "primary"]

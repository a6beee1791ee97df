"""The committed results, as the page reads them."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import claims

_SECTION = re.compile(r"^### (\w+)\n(.*?)(?=^#|\Z)", re.M | re.S)


class Results:
  """The results of the studies in a folder.

  Args:
    folder: Has a folder for each study.
    said: docs/results.md, which has the chapter's sentences.
  """

  def __init__(self, folder: Path, said: Path) -> None:
    self.folder = folder
    self.found = claims.read(folder)
    self.said = sentences(said.read_text("utf-8"))

  @functools.cache  # noqa: B019
  def summary(self, study: str) -> pd.DataFrame | None:
    """summary.csv, if it is there."""
    path = self.folder / study / "summary.csv"
    return pd.read_csv(path) if path.is_file() else None

  @functools.cache  # noqa: B019
  def json(self, study: str, name: str = "page") -> dict[str, Any]:
    """NAME.json; nothing where it is not there."""
    path = self.folder / study / f"{name}.json"
    if not path.is_file():
      return {}
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content

  def command(self, study: str) -> str:
    """That of its verdict, or the one that would make it."""
    verdict = self.json(study, "verdict")
    usual = f"python -m experiments.{study} --preset=full"
    return str(verdict.get("command", usual))


def sentences(text: str) -> dict[str, tuple[str, str]]:
  """The chapter's sentence of each claim in Chinese and in English.

  They are the two paragraphs of the quotation that its section begins with.
  """
  found = {}
  for name, body in _SECTION.findall(text):
    lines = [line[1:].strip() for line in body.splitlines() if line[:1] == ">"]
    quoted = " ".join(line or "\n" for line in lines).split("\n")
    if len(quoted) == 2:
      found[name] = (quoted[0].strip(), quoted[1].strip())
  return found

"""Puts the page together: template, words, figures, scripts, one file."""

import base64
import hashlib
import json
import string
from pathlib import Path
from typing import Any

from experiments.report import bundle, vega

ASSETS = Path(__file__).parent / "assets"
# In the order in which they are run; worker.js runs after network.js, in the
# worker.
SCRIPTS = ("state", "charts", "network", "pad", "tiles", "training", "page")
WORKER = ("network", "worker")


def asset(name: str) -> str:
  return (ASSETS / name).read_text("utf-8")


def _in_script(text: str) -> str:
  """Text that a script element can hold, whatever strings are in it."""
  return text.replace("</", "<\\/").replace("<!--", "<\\!--")


def _json(content: Any) -> str:
  text = json.dumps(
    content,
    ensure_ascii=False,
    sort_keys=True,
    separators=(",", ":"),
    allow_nan=False,
  )
  return _in_script(text)


def _hash(script: str) -> str:
  digest = hashlib.sha256(script.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"


def policy(scripts: list[str]) -> str:
  """The content-security policy: these scripts, and nothing from outside."""
  return "; ".join(
    (
      "default-src 'none'",
      f"script-src {' '.join(map(_hash, scripts))}",
      "style-src 'unsafe-inline'",
      "img-src data: blob:",
      "worker-src blob:",
      "base-uri 'none'",
      "form-action 'none'",
    )
  )


def words() -> dict[str, dict[str, str]]:
  """Every string of the page, by key and language."""
  path = Path(__file__).parent / "words.json"
  table: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))
  return table


PARTS = ("tiles", "unit", "passes", "training", "pad")


def page(results: Path, said: Path) -> str:
  """The whole page.

  Args:
    results: the folder of the studies' results.
    said: docs/results.md, which has the chapter's sentences.
  """
  table = words()
  library = vega.library()
  script = "".join(_in_script(asset(f"{name}.js")) for name in SCRIPTS)
  body = "".join(f'<div data-part="{part}"></div>' for part in PARTS)
  return string.Template(asset("page.html")).substitute(
    csp=policy([library, script]),
    title=table["title"]["en"],
    css=asset("page.css"),
    body=body,
    words=_json(table),
    charts=_json({}),
    bundle=_json(bundle.bundle()),
    worker=_in_script("".join(asset(f"{name}.js") for name in WORKER)),
    vega=library,
    script=script,
  )

"""Puts the page together: template, words, figures, scripts, one file."""

import base64
import hashlib
import html
import json
import string
from pathlib import Path
from typing import Any

from experiments import claims
from experiments.report import figures
from experiments.report.figures import vega
from experiments.report.page import bundle, markup
from experiments.report.page.sections import SECTIONS, Section
from experiments.report.results import Results
from experiments.report.words import Words

ASSETS = Path(__file__).parents[1] / "assets"
# In the order in which they are run; worker.js runs after network.js, in the
# worker.
SCRIPTS = (
  *("state", "charts", "parts/network", "parts/book", "parts/mistakes"),
  *("parts/tiles", "parts/prepare", "parts/pad", "parts/training", "page"),
)
WORKER = ("parts/network", "parts/worker")
STYLES = ("page", "parts/parts")
_OVERVIEW = 'id="overview-title"'


def asset(name: str) -> str:
  return (ASSETS / name).read_text("utf-8")


def styles() -> str:
  return "".join(asset(f"{name}.css") for name in STYLES)


def _in_script(text: str) -> str:
  """Text that a script element can hold, whatever strings are in it."""
  return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


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


class _Page:
  """The page as it grows.

  Attributes:
    charts: The live figures' specs by name, and the data of blocks.
  """

  def __init__(self, results: Results, words: Words) -> None:
    self.results, self.words = results, words
    self.panels = figures.panels(results, words)
    self.charts: dict[str, Any] = {
      each.name: vega.finished(each)
      for panel in self.panels.values()
      for each in panel.figures
    }

  def _map(self) -> str:
    cells = self.results.json("lr_batch_size").get("cells", [])
    if not cells:
      return markup.panel(
        figures.Panel("map", "lr_batch_size"), self.results, self.words
      )
    self.charts["cells"] = {
      f"{cell['rate']:g} {cell['batch']}": cell for cell in cells
    }
    self.charts["cell"] = vega.finished(figures.cell(cells[0]["dev_loss"]))
    return markup.heat_map(cells, self.words)

  def content(self, name: str) -> str:
    kind, _, rest = name.rpartition(":")
    if name in claims.CLAIMS:
      return markup.claim(name, self.results, self.words)
    if kind == "part":
      lacking = self.words.element("part.lacking", "p")
      return f'<div data-part="{rest}"><noscript>{lacking}</noscript></div>'
    if kind == "block":
      return self._map()
    return markup.panel(self.panels[name], self.results, self.words)

  def section(self, section: Section) -> str:
    key = f"section.{section.name}"
    words = self.words
    term = html.escape(words.table[key]["zh"])
    title = words.element(key)
    return (
      f'<section id="{section.name}" aria-labelledby="{section.name}-title">'
      f'<h2 id="{section.name}-title">{title} '
      f'<span class="term" lang="zh">{term}</span></h2>'
      f"{words.element(f'{key}.about', 'p')}"
      f"{''.join(map(self.content, section.content))}</section>"
    )

  def contents(self) -> str:
    items = "".join(
      f'<li><a href="#{s.name}">{self.words.element(f"section.{s.name}")}'
      "</a></li>"
      for s in SECTIONS
    )
    return (
      f'<nav data-label="contents" aria-label="Contents"><ol>{items}</ol></nav>'
    )

  def foot(self) -> str:
    versions = sorted(
      {
        study.get("code_version", "–")
        for _, study in self.results.found.values()
      }
    )
    words = self.words
    return (
      f"<footer><p>{words.element('foot')} <code>python -m experiments.report"
      f"</code></p><p>{words.element('foot.code')} "
      f"<code>{', '.join(versions)}</code></p></footer>"
    )

  def body(self) -> str:
    words = self.words
    walked = "".join(map(self.section, SECTIONS))
    table = markup.overview(claims.CLAIMS, self.results, words)
    return (
      f'<a class="skip" href="#main">{words.element("skip")}</a><header>'
      f"{words.element('title', 'h1')}"
      '<p><button type="button" data-lang="en" lang="en">English</button> '
      '<button type="button" data-lang="zh" lang="zh">中文</button></p>'
      f"{words.element('intro', 'p')}{markup.meanings(words)}"
      f"{self.contents()}</header>"
      f'<main id="main" tabindex="-1">{walked}'
      '<section id="overview" aria-labelledby="overview-title">'
      f"{words.element('overview', 'h2', _OVERVIEW)}{table}"
      f"</section></main>{self.foot()}"
    )


def page(results: Path, said: Path) -> str:
  """The whole page; the same results give the same bytes.

  Args:
    results: The folder of the studies' results.
    said: docs/results.md, which has the chapter's sentences.

  Raises:
    InputError: As `claims.read`.
  """
  words = Words()
  made = _Page(Results(results, said), words)
  body = made.body()
  library = _in_script(vega.library())
  script = _in_script("".join(asset(f"{name}.js") for name in SCRIPTS))
  return string.Template(asset("page.html")).substitute(
    csp=policy([library, script]),
    title=words.table["title"]["en"],
    css=styles(),
    body=body,
    words=_json(words.table),
    charts=_json(made.charts),
    bundle=_json(bundle.bundle()),
    worker=_in_script("".join(asset(f"{name}.js") for name in WORKER)),
    vega=library,
    script=script,
  )

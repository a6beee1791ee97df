"""The pieces of the page's HTML: figures, their numbers, claims, the map."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.report.figures import Panel, vega
from experiments.report.figures.vega import Figure, Series
from experiments.report.results import Results
from experiments.report.words import LANGUAGES, Words, told

_MARKS = {
  "circle": '<circle cx="16" cy="7" r="4"/>',
  "square": '<rect x="12" y="3" width="8" height="8"/>',
  "triangle-up": '<path d="M16 2l5 9h-10z"/>',
  "diamond": '<path d="M16 1.5l5 5.5-5 5.5-5-5.5z"/>',
  "cross": '<path d="M14.5 2h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z"/>',
  "triangle-down": '<path d="M16 12l5-9h-10z"/>',
  "triangle-right": '<path d="M21 7l-9 5v-10z"/>',
}


def _number(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:.4g}" if vega.finite(value) else ""
  return "" if value is None else str(value)


def swatch(place: int, series: Series) -> str:
  """The series as its figure draws it: colour, dash and shape."""
  colour = vega.COLOURS[place % len(vega.COLOURS)]
  line = mark = ""
  if series.joined:
    dash = " ".join(map(str, vega.DASHES[place % len(vega.DASHES)]))
    line = f'<path d="M0 7h32" stroke-width="2" stroke-dasharray="{dash}"/>'
  if not series.plain:
    mark = _MARKS[vega.SHAPES[place % len(vega.SHAPES)]]
  return (
    '<svg class="swatch" width="32" height="14" aria-hidden="true" '
    f'fill="{colour}" stroke="{colour}" stroke-width="0">{line}{mark}</svg>'
  )


def legend(figure: Figure, words: Words) -> str:
  entries = "".join(
    f"<li>{swatch(i, series)} {words.element(series.word)}</li>"
    for i, series in enumerate(figure.series)
  )
  lists = f'<ul class="legend">{entries}</ul>'
  if figure.y.categories:
    named = "".join(words.element(key, "li") for key in figure.y.categories)
    lists += f'<ol class="categories">{named}</ol>'
  return lists


def numbers(figure: Figure, words: Words) -> str:
  """The hidden table of all that the figure shows."""
  heads = ["figure.series", figure.x.word, figure.y.word]
  heads += ["figure.low", "figure.high"]
  head = "".join(words.element(key, "th", 'scope="col"') for key in heads)
  rows = []
  for series in figure.series:
    for point in series.points:
      cells = [words.element(series.word, "td")]
      for axis, value in zip((figure.x, figure.y), point[:2], strict=True):
        cells.append(
          words.element(axis.categories[int(value or 0)], "td")
          if axis.categories
          else f"<td>{_number(value)}</td>"
        )
      cells += [f"<td>{_number(v)}</td>" for v in (*point[2:4], None, None)[:2]]
      rows.append(f"<tr>{''.join(cells)}</tr>")
  summary = words.element("numbers", "summary")
  return (
    f'<details class="numbers">{summary}<div class="scroll" tabindex="0">'
    f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    "</table></div></details>"
  )


def facts(figure: Figure, study: str, results: Results, words: Words) -> str:
  """n, the interval and the command."""
  if figure.n is None:
    count = words.element("facts.derived")
  else:
    count = words.element(words.label("facts.n", figure.n))
    if any(len(p) > 2 for series in figure.series for p in series.points):
      count += f" · {words.element('facts.interval')}"
  line = figure.command or results.command(study)
  return f'<p class="facts">{count} · {command(line, words)}</p>'


def command(line: str, words: Words) -> str:
  return f"{words.element('command')} <code>{html.escape(line)}</code>"


def _pick(figure: Figure, words: Words) -> str:
  """The slider that lets one series stand out."""
  if not figure.pick:
    return ""
  last = len(figure.series) - 1
  return (
    f'<label class="pick">{words.element(f"pick.{figure.pick}")} '
    f'<input type="range" min="0" max="{last}" value="{last // 2}" '
    f'data-pick="{figure.pick}" '
    f'data-values="{html.escape(" ".join(figure.values))}">'
    "<output></output></label>"
  )


def drawing(
  figure: Figure, panel: Panel, results: Results, words: Words, shown: bool
) -> str:
  """A figure: caption, legend, both drawings, numbers, facts."""
  statics = "".join(
    f'<div class="static" lang="{lang}" aria-hidden="true">'
    f"{vega.drawn(figure, words.of(lang))}</div>"
    for lang in LANGUAGES
  )
  seeds = ""
  if figure.has_seeds():
    seeds = (
      '<label class="seeds"><input type="checkbox" data-seeds> '
      f"{words.element('seeds')}</label>"
    )
  hidden = "" if shown else " hidden"
  caption = words.element(figure.word, "figcaption")
  return (
    f'<figure class="drawing" data-figure="{figure.name}"{hidden}>'
    f"{caption}{legend(figure, words)}{seeds}{_pick(figure, words)}"
    f'{statics}<div class="live" role="img" data-label="{figure.word}">'
    f"</div>{numbers(figure, words)}"
    f"{facts(figure, panel.study, results, words)}</figure>"
  )


def panel(found: Panel, results: Results, words: Words) -> str:
  """A place with one figure of several; what is not there says so."""
  start = f'<div class="panel" id="panel-{found.name}">'
  if not found.figures:
    lacking = words.element(f"lacking.{found.name}", "strong")
    why = words.element("lacking")
    line = command(results.command(found.study), words)
    return f'{start}<p class="lacking">{lacking} {why} {line}</p></div>'
  choice = ""
  if len(found.figures) > 1:
    options = "".join(
      words.element(each.word, "option", f'value="{each.name}"')
      for each in found.figures
    )
    choice = (
      f'<label class="choice">{words.element("choose")} '
      f"<select data-choose>{options}</select></label>"
    )
  drawings = "".join(
    drawing(each, found, results, words, i == 0)
    for i, each in enumerate(found.figures)
  )
  return f"{start}{choice}{drawings}</div>"


_ROW = 'scope="row"'
_FOUND, _CAPTION = 'class="found"', 'class="caption"'

# --- claims -------------------------------------------------------------------

_SIGNS = {
  "holds": "✓",
  "holds with limits": "◐",
  "mostly not": "◔",
  "does not hold": "✗",
  "undecided": "?",
  "illustrated": "○",
  "not judged yet": "…",
}


def badge(verdict: str, words: Words) -> str:
  """The claim's word, with a sign for those who see no colours."""
  kind = verdict.replace(" ", "-")
  word = words.element(f"verdict.{verdict}")
  sign = f'<span aria-hidden="true">{_SIGNS.get(verdict, "")} </span>'
  return f'<span class="badge {kind}">{sign}{word}</span>'


def _aim(part: Mapping[str, Any]) -> str:
  aim = {"same": "=", "greater": ">", "less": "<"}.get(part["kind"], "")
  if not aim:
    return ""
  margin = "" if part["margin"] is None else f" ± {part['margin']:.4g}"
  return html.escape(f"{aim} {part['target']:.4g}{margin}")


def _effect(part: Mapping[str, Any]) -> str:
  if part["effect"] is None:
    return ""
  low, high = part["interval"]
  return f"{part['effect']:.4g} [{low:.4g}, {high:.4g}]"


def _parts(claim: Mapping[str, Any], words: Words) -> str:
  heads = ("part", "part.claimed", "part.effect", "part.n", "part.verdict")
  head = "".join(words.element(key, "th", 'scope="col"') for key in heads)
  rows = "".join(
    f"<tr>{words.element(told.part(place, claim, words), 'th', _ROW)}"
    f"<td>{_aim(part)}</td><td>{_effect(part)}</td>"
    f"<td>{part['n'] or ''}</td>"
    f"{words.element(_verdict(part, words), 'td')}</tr>"
    for place, part in enumerate(claim["parts"])
    if part["role"] == "primary"
  )
  return (
    f'<details class="parts">{words.element("parts", "summary")}'
    f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
    f"<tbody>{rows}</tbody></table></div></details>"
  )


def _verdict(part: Mapping[str, Any], words: Words) -> str:
  return words.label(f"verdict.{part['verdict']}")


def _said(name: str, results: Results, words: Words) -> str:
  """The key of the chapter's sentence; of our own questions that of theirs."""
  if name in results.said:
    zh, en = results.said[name]
    return words.add(f"said.{name}", en, zh)
  return words.label(f"question.{name}")


def claim(name: str, results: Results, words: Words) -> str:
  """A claim: its sentence, its word, what was found, its parts, its command."""
  said = words.element(_said(name, results, words), "p")
  head = f'<span class="name">{name}</span>'
  start = f'<article class="claim" id="{name}"><h3>{head} '
  if name not in results.found:
    return (
      f"{start}{badge('not judged yet', words)}</h3>"
      f"<blockquote>{said}</blockquote>"
      f"{words.element('told.not yet', 'p', _FOUND)}</article>"
    )
  found, study = results.found[name]
  n = found["n"]
  count = words.label("facts.n", n) if n else "facts.derived"
  beside = told.beside(found, words)
  within = f" ({words.element(beside)})" if beside else ""
  return (
    f"{start}{badge(found['verdict'], words)}{within}</h3>"
    f"<blockquote>{said}</blockquote>"
    f"{words.element(told.tell(name, found, words), 'p', _FOUND)}"
    f'<p class="facts">{words.element(count)} · '
    f"{command(study['command'], words)}</p>{_parts(found, words)}</article>"
  )


def meanings(words: Words) -> str:
  """What each word of a verdict says."""
  rows = "".join(
    f"<dt>{badge(verdict, words)}</dt>{words.element(f'means.{verdict}', 'dd')}"
    for verdict in _SIGNS
  )
  return (
    f'<details class="meanings">{words.element("means", "summary")}'
    f"<dl>{rows}</dl></details>"
  )


def overview(names: Iterable[str], results: Results, words: Words) -> str:
  """Every claim with its word and what was found; its name leads to it."""
  rows = []
  for name in names:
    found = results.found.get(name)
    verdict = found[0]["verdict"] if found else "not judged yet"
    key = f"found.{name}" if found else "told.not yet"
    rows.append(
      f'<tr><th scope="row"><a href="#{name}">{name}</a></th>'
      f"<td>{badge(verdict, words)}</td>{words.element(key, 'td')}</tr>"
    )
  keys = ("overview.claim", "part.verdict", "overview.found")
  head = "".join(words.element(key, "th", 'scope="col"') for key in keys)
  return (
    '<div class="scroll" tabindex="0"><table class="overview"><thead>'
    f"<tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
  )


# --- the map ------------------------------------------------------------------


def shade(share: float) -> tuple[str, str]:
  """A cell's colour from 0, worst, to 1, and that of its text.

  A scale of one hue that also falls in grey.
  """
  dark = (8, 48, 107)
  light = (247, 251, 255)
  mixed = [round(a + (b - a) * share) for a, b in zip(light, dark, strict=True)]
  return (
    f"rgb({','.join(map(str, mixed))})",
    "#fff" if share > 0.645 else "#000",
  )


_HORIZONS = (1, 2, 5, 10, 20)  # epochs
_WORST = 8.0  # times the least loss, from which on a cell has no colour


def _ends(cells: Sequence[Mapping[str, Any]]) -> dict[int, list[Any]]:
  """By epochs of training: each cell's loss, None where it ended before."""
  last = max(int(cell["dev_loss"][-1][0]) for cell in cells)
  losses = [{int(p[0]): p[1] for p in cell["dev_loss"]} for cell in cells]
  return {
    epochs: [own.get(epochs) for own in losses]
    for epochs in sorted({*_HORIZONS, last})
    if epochs <= last
  }


def _painted(
  losses: Sequence[float | None],
) -> list[tuple[str, str, str]]:
  """Of each cell its text and the colours behind it and of it."""
  least = min((loss for loss in losses if loss), default=1.0)
  found = []
  for loss in losses:
    if loss is None:
      found.append(("–", "transparent", "inherit"))
      continue
    bad = math.log(max(loss, least) / least) / math.log(_WORST)
    found.append((f"{loss:.3f}", *shade(1 - min(bad, 1.0))))
  return found


def heat_map(cells: Sequence[Mapping[str, Any]], words: Words) -> str:
  """The cells of rate x batch as a table of buttons, by epochs of training."""
  batches = sorted({cell["batch"] for cell in cells})
  rates = sorted({cell["rate"] for cell in cells}, reverse=True)
  ends = {epochs: _painted(losses) for epochs, losses in _ends(cells).items()}
  last = max(ends)
  at = {(cell["rate"], cell["batch"]): i for i, cell in enumerate(cells)}
  rows = []
  for rate in rates:
    row = [f'<th scope="row">{rate:g}</th>']
    for batch in batches:
      i = at.get((rate, batch))
      if i is None:
        row.append("<td></td>")
        continue
      text, back, ink = ends[last][i]
      own = {str(epochs): painted[i] for epochs, painted in ends.items()}
      packed = html.escape(json.dumps(own, separators=(",", ":")))
      row.append(
        f'<td><button type="button" data-rate="{rate:g}" '
        f'data-batch="{batch}" aria-pressed="false" data-ends="{packed}" '
        f'style="background:{back};color:{ink}">{text}</button></td>'
      )
    rows.append(f"<tr>{''.join(row)}</tr>")
  head = "".join(f'<th scope="col">{batch}</th>' for batch in batches)
  corner = words.element("map.corner", "th", 'scope="col"')
  choices = "".join(
    f'<option value="{epochs}"{" selected" if epochs == last else ""}>{epochs}'
    "</option>"
    for epochs in ends
  )
  return (
    f'<div class="panel">{words.element("map.caption", "p", _CAPTION)}'
    f'<label class="choice">{words.element("map.epochs")} '
    f'<select id="horizon">{choices}</select></label>'
    '<div class="scroll" tabindex="0"><table class="map" id="cells"><thead><tr>'
    f"{corner}{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    '<div id="cell" aria-live="polite">'
    f"{words.element('map.none', 'p')}</div></div>"
  )

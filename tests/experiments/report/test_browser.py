"""The committed page in a real Chromium: what a reader does, and sees."""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from experiments import claims
from experiments.report.page import build
from experiments.report.page.sections import SECTIONS

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "chapter.html"
WIDTHS = (390, 1280, 1920)
SLOWEST = 15  # seconds, on a machine that has other things to do


class Watched:
  """The committed page, with what went wrong in it and what it asked for.

  Attributes:
    page: Playwright's.
    trouble: Errors and warnings on the console, and requests.
  """

  def __init__(self, browser, query="", path=PAGE, **context):
    options = {"viewport": {"width": 1280, "height": 900}} | context
    self.trouble = []
    self.page = browser.new_context(**options).new_page()
    self.page.on("console", self._said)
    self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
    self.page.on("request", self._asked)
    self.page.goto(f"{path.as_uri()}{query}")

  def _said(self, message):
    if message.type in ("error", "warning"):
      self.trouble.append(message.text)

  def _asked(self, request):
    if not request.url.startswith(("file:", "data:", "blob:")):
      self.trouble.append(f"asked for {request.url}")


@pytest.fixture
def watch(chromium):
  """Opens a page that must have had no trouble when the test ends."""
  opened_pages = []

  def open_one(query="", **context):
    opened_pages.append(Watched(chromium, query, **context))
    return opened_pages[-1].page

  yield open_one
  for each in opened_pages:
    each.page.context.close()
  assert [each.trouble for each in opened_pages] == [[]] * len(opened_pages)


def draw_all(page):
  """Scrolls by every figure, so that each is drawn."""
  page.evaluate(
    """async () => {
      const all = document.querySelectorAll("[data-figure]:not([hidden])");
      for (const f of all) {
        f.scrollIntoView({ block: "center" });
        while (!f.classList.contains("is-live")) {
          await new Promise((done) => setTimeout(done, 20));
        }
      }
    }"""
  )


@pytest.fixture(scope="module", params=[("en", "light"), ("zh", "dark")])
def walked(request, chromium):
  """(page, language) of a page by which one has scrolled to its end."""
  lang, scheme = request.param
  seen = Watched(chromium, f"?lang={lang}", color_scheme=scheme)
  draw_all(seen.page)
  yield seen.page, lang
  assert seen.trouble == []
  seen.page.context.close()


def test_every_section_is_there_and_every_figure_is_drawn(walked):
  page, lang = walked
  assert page.locator("main > section").evaluate_all(
    "all => all.map(each => each.id)"
  ) == [*(section.name for section in SECTIONS), "overview"]
  drawn = page.locator("[data-figure].is-live .live svg")
  assert drawn.count() == page.locator("[data-figure]:not([hidden])").count()
  assert drawn.count() > 12
  for name in claims.CLAIMS:
    claim = page.locator(f"#{name}")
    assert claim.locator(".badge").inner_text()
    assert claim.locator(".found").inner_text()
  for part in page.locator("[data-part]").all():
    assert part.inner_text()
  shown = page.locator("main").inner_text()
  assert not re.search(r"undefined|NaN|\{\w*\}|\[object", shown)
  for heading in page.locator("h2 [data-word]").all_inner_texts():
    assert bool(re.search("[\u4e00-\u9fff]", heading)) == (lang == "zh")


def test_axe_finds_no_violation(walked):
  page, _ = walked
  # One of each kind: what is in the others is alike, and axe is slow.
  for kind in ("parts", "numbers"):
    page.locator(f"details.{kind}:visible").first.evaluate("d => d.open = true")
  tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
  # Drawings: hidden from readers, or told as one picture with a name.
  context = {"exclude": [[".live svg"], [".static"]]}
  options = {"runOnly": {"type": "tag", "values": tags}}
  found = Axe().run(page, context, options)
  assert [
    (each["id"], [node["target"] for node in each["nodes"]][:3])
    for each in found.response["violations"]
  ] == []


def test_the_language_is_switched_and_kept_in_the_address(watch):
  page = watch()
  page.get_by_role("button", name="中文").click()
  assert page.title() == "学习率与批大小：逐条实测"
  assert "lang=zh" in page.url
  assert page.evaluate("document.documentElement.lang") == "zh"
  page.get_by_role("button", name="English").click()
  assert "lang" not in page.url


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(watch, width):
  page = watch(viewport={"width": width, "height": 900})
  page.locator("[data-figure]:visible").first.scroll_into_view_if_needed()
  page.locator("[data-figure].is-live").first.wait_for()
  too_wide = page.evaluate(
    """() => [...document.querySelectorAll("main *")].filter((each) => {
      for (let above = each.parentElement; above; above = above.parentElement) {
        // What scrolls in a box of its own may be as wide as it likes.
        if (getComputedStyle(above).overflowX !== "visible") return false;
      }
      const { right, width } = each.getBoundingClientRect();
      return width && right > document.documentElement.clientWidth + 1;
    }).map((each) => each.outerHTML.slice(0, 100))"""
  )
  assert too_wide == []
  root = "document.documentElement"
  assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


def test_the_first_figure_is_soon_there_on_a_slow_machine(chromium, capsys):
  """The tiles, drawn, and then the first curves, by a CPU slowed 4 times."""
  page = chromium.new_context().new_page()
  page.context.new_cdp_session(page).send(
    "Emulation.setCPUThrottlingRate", {"rate": 4}
  )
  page.goto(PAGE.as_uri(), wait_until="commit")
  seen = """(selector) => document.querySelector(selector) &&
    new Promise((done) => requestAnimationFrame(() =>
      requestAnimationFrame(() => done(performance.now() / 1e3))))"""
  tiles = page.wait_for_function(seen, arg="canvas.wall").json_value()
  figure = page.locator("[data-figure]").first
  began = page.evaluate("performance.now() / 1e3")
  figure.scroll_into_view_if_needed()
  curves = page.wait_for_function(seen, arg=".is-live .live svg").json_value()
  with capsys.disabled():
    print(
      f"\nfirst figure {tiles:.1f} s after the page is asked for, the first "
      f"curves {curves - began:.1f} s after they are scrolled to"
    )
  page.context.close()
  assert max(tiles, curves - began) < SLOWEST


def test_a_choice_shows_another_figure(watch):
  page = watch()
  panel = page.locator("#panel-comparison")
  choice = panel.locator("select")
  second = choice.locator("option").nth(1).get_attribute("value")
  choice.select_option(second)
  figure = panel.locator(f"[data-figure={second}]")
  figure.scroll_into_view_if_needed()
  figure.locator(".live svg").wait_for()
  assert figure.is_visible()
  assert panel.locator("[data-figure]:visible").count() == 1


def test_the_keyboard_reaches_and_works_everything(watch):
  page = watch()
  page.keyboard.press("Tab")
  assert page.evaluate("document.activeElement.className") == "skip"
  page.keyboard.press("Tab")
  page.keyboard.press("Tab")
  page.keyboard.press("Enter")  # 中文
  assert "lang=zh" in page.url
  details = page.locator("[data-figure]:visible details summary").first
  details.focus()
  page.keyboard.press("Enter")
  assert details.locator("..").locator("table").is_visible()


def test_print_has_all_figures_and_no_controls(watch):
  page = watch()
  page.emulate_media(media="print")
  count = page.locator("[data-figure]").count()
  statics = page.locator('[data-figure] .static[lang="en"] svg:visible')
  assert statics.count() == count > 20
  assert page.locator("select:visible, .live:visible").count() == 0


def test_without_script_the_words_and_the_figures_are_there(chromium):
  seen = Watched(chromium, java_script_enabled=False)
  page = seen.page
  assert page.locator('.static[lang="en"] svg:visible').count() > 10
  assert page.locator("#L4 .found").inner_text()
  page.context.close()


def test_a_link_restores_what_was_shown(watch):
  page = watch("?lang=zh&section=noise&rate=0.5&batch=32&unit=7")
  page.wait_for_timeout(200)
  assert page.evaluate("state.get('unit')") == "7"
  top = page.locator("#noise").bounding_box()["y"]
  assert abs(top) < 900
  assert "section=noise" in page.url


def test_the_policy_allows_no_network_and_no_eval():
  text = PAGE.read_text("utf-8")
  policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
  rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
  assert rules["default-src"] == "'none'"
  assert "unsafe" not in rules["script-src"]
  assert "http" not in policy


def test_the_policy_is_kept(chromium):
  seen = Watched(chromium)
  assert (
    seen.page.evaluate(
      """() => new Promise((done) => {
      document.addEventListener("securitypolicyviolation",
        (event) => done(event.effectiveDirective), { once: true });
      const image = new Image();
      image.src = "http://127.0.0.1:9/none.png";
    })"""
    )
    == "img-src"
  )
  seen.page.context.close()


def test_the_numbers_of_a_figure_are_those_of_the_study(watch):
  page = watch()
  said = json.loads(
    (ROOT / "results" / "seeds" / "page.json").read_text("utf-8")
  )
  best = max(
    value for values in said["test_accuracy"].values() for value in values
  )
  table = page.locator("[data-figure=seeds_test] table")
  assert f"{best:.4g}" in table.text_content()


def test_the_single_runs_are_shown_when_asked_for(watch):
  page = watch("?section=comparison")
  figure = page.locator("[data-figure=comparison_dev_accuracy]")
  figure.scroll_into_view_if_needed()
  page.locator("[data-figure=comparison_dev_accuracy].is-live").wait_for()
  lines = figure.locator(".live .mark-line path[d]")
  means = lines.count()
  figure.locator("[data-seeds]").check()
  lines.nth(means + 1).wait_for()
  found = json.loads(
    (ROOT / "results" / "lr_comparison" / "page.json").read_text("utf-8")
  )
  runs = sum(len(curve["seeds"]) for curve in found["dev_accuracy"])
  assert runs > 100
  assert lines.count() == means + runs
  # A run goes through the points of its curve, which leaves out the start.
  longest = max(
    lines.evaluate_all(
      "all => all.map(each => each.getAttribute('d').split('L').length)"
    )
  )
  assert longest == len(found["dev_accuracy"][0]["points"]) - 1


CELLS = [
  {
    "batch": batch,
    "rate": rate,
    "n": 30,
    "lost": 0,
    "command": f"python -m experiments.replay --cell={rate}-{batch}",
    "dev_accuracy": [[0, 0.1, 0.09, 0.11], [1, 0.9, 0.89, 0.91]],
    "dev_loss": [[0, 2.3, 2.2, 2.4], [1, rate * batch / 100, 0.1, 0.2]],
  }
  for batch in (16, 32)
  for rate in (0.1, 0.5)
]
CELLS[-1]["dev_loss"].append([2, 0.05, 0.04, 0.06])  # the others end before
RUNS = [
  {"key": key, "n": 3, "points": [[0, 2.3, 2.2, 2.4], [10, end, None, None]]}
  for key, end in (("0.1", 0.9), ("1", 0.4), ("10", 80.0))
]


@pytest.fixture(scope="module")
def small_page(tmp_path_factory):
  """A page of two studies: a map of four cells, and a slider over rates."""
  folder = tmp_path_factory.mktemp("results")
  for study, found in (
    ("lr_batch_size", {"cells": CELLS, "panels": {}}),
    ("lr_range_audit", {"loss": RUNS}),
  ):
    (folder / study).mkdir()
    (folder / study / "page.json").write_text(json.dumps(found), "utf-8")
  path = folder / "page.html"
  path.write_text(build.page(folder, ROOT / "docs" / "results.md"), "utf-8")
  return path


def test_a_cell_of_the_map_opens_its_curve_and_command(chromium, small_page):
  seen = Watched(chromium, path=small_page)
  page = seen.page
  cells = page.locator("#cells button")
  assert cells.all_inner_texts() == ["–", "0.050", "–", "–"]
  page.get_by_label("Epochs of training").select_option("1")
  # Rates 0.5 and 0.1 at batches of 16 and 32.
  assert cells.all_inner_texts() == ["0.080", "0.160", "0.016", "0.032"]
  assert "horizon=1" in page.url
  cells.nth(3).focus()
  page.keyboard.press("Enter")
  page.locator("#cell .mark-line path[stroke-dasharray]").wait_for()
  assert cells.nth(3).get_attribute("aria-pressed") == "true"
  assert "--cell=0.1-32" in page.locator("#cell code").inner_text()
  assert "rate=0.1&batch=32" in page.url
  page.get_by_role("button", name="中文").click()
  assert "学习率 0.1、批大小 32" in page.locator("#cell").inner_text()
  assert seen.trouble == []
  page.context.close()


def test_a_link_opens_a_cell(chromium, small_page):
  query = "?rate=0.5&batch=32&horizon=1&section=map"
  seen = Watched(chromium, query, path=small_page)
  assert seen.page.locator("#cells button").first.inner_text() == "0.080"
  code = seen.page.locator("#cell code")
  assert "--cell=0.5-32" in code.inner_text()
  seen.page.context.close()


def test_the_slider_lets_one_run_stand_out(chromium, small_page):
  seen = Watched(chromium, path=small_page)
  page = seen.page
  slider = page.locator("[data-pick=rate]")
  slider.scroll_into_view_if_needed()
  figure = page.locator("[data-figure=rate_tried].is-live")
  figure.wait_for()
  slider.focus()
  page.keyboard.press("End")
  assert page.locator(".pick output").inner_text() == "10"
  assert "rate=10" in page.url
  lines = figure.locator(".live .mark-line path[stroke-dasharray]")
  shown = lines.evaluate_all(
    "all => all.map(each => Number(each.getAttribute('opacity')))"
  )
  assert sorted(shown)[-1] == 1
  assert sum(value == 1 for value in shown) == 1
  assert seen.trouble == []
  page.context.close()

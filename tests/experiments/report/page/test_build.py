"""The page's build: the same bytes, whole in words, and honest where empty."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import claims
from experiments.report import __main__ as command
from experiments.report import figures
from experiments.report.page import build
from experiments.report.page.sections import SECTIONS
from experiments.report.results import Results, sentences
from experiments.report.words import LANGUAGES, Words
from mnist_jax.runtime.errors import InputError

ROOT = Path(__file__).parents[4]
RESULTS, SAID = ROOT / "results", ROOT / "docs" / "results.md"
ASSETS = ROOT / "experiments" / "report" / "assets"
MOST_BYTES = 6_000_000


@pytest.mark.once
def test_the_committed_page_is_what_the_results_give():
  committed = (ROOT / "docs" / "chapter.html").read_text("utf-8")
  assert len(committed.encode()) < MOST_BYTES
  made = build.page(RESULTS, SAID)
  assert made == build.page(RESULTS, SAID)
  difference = first_difference(made, committed)
  assert not difference, (
    f"make page, and commit docs/chapter.html: {difference}"
  )


def first_difference(made, committed):
  """Where two pages part, with what stands around; "" if nowhere."""
  if made == committed:
    return ""
  pairs = enumerate(zip(made, committed, strict=False))
  at = next(
    (i for i, (a, b) in pairs if a != b), min(len(made), len(committed))
  )
  ours, theirs = (text[at : at + 80] for text in (made, committed))
  before = committed[max(at - 80, 0) : at]
  return f"after {before!r} {ours!r}, committed {theirs!r}"


def test_differences_of_pages_are_found():
  assert not first_difference("a 1.5 b", "a 1.5 b")
  for made, committed, places in (
    ("a 0.001562 b", "a 0.001563 b", "'2 b', committed '3 b'"),
    ("a 1.5 c", "a 1.5 b", "'c', committed 'b'"),
    ("a 1.5 b2.5", "a 1.5 b", "'2.5', committed ''"),
  ):
    assert places in first_difference(made, committed)


def test_a_page_without_a_folder_is_refused_before_it_is_built(
  monkeypatch, tmp_path
):
  path = tmp_path / "nowhere" / "page.html"
  given = SimpleNamespace(results=None, output=str(path))
  monkeypatch.setattr(command, "FLAGS", given)
  monkeypatch.setattr(build, "page", lambda *_: pytest.fail("was built"))
  with pytest.raises(InputError, match=r"^--output=.*nowhere is no folder$"):
    command.main([])


def test_no_string_is_missing_in_a_language():
  words = Words()
  for key, texts in words.table.items():
    assert set(texts) == set(LANGUAGES), key
    assert all(text.strip() for text in texts.values()), key
  for lang, texts in (("en", words.of("en")), ("zh", words.of("zh"))):
    slots = {
      key: re.findall(r"\{(\w*)\}", text)
      for key, text in texts.items()
      if not key.startswith("told.")
    }
    other = words.of("zh" if lang == "en" else "en")
    for key, found in slots.items():
      assert sorted(found) == sorted(re.findall(r"\{(\w*)\}", other[key])), key


def test_every_string_that_a_script_asks_for_is_there():
  table = Words().table
  for path in sorted(ASSETS.rglob("*.js")):
    text = path.read_text("utf-8")
    for key in re.findall(r"""words\("([^"]+)"\)""", text):
      assert key in table, f"{path.name}: {key}"


def test_every_claim_has_its_place_and_every_panel_is_shown():
  shown = [name for section in SECTIONS for name in section.content]
  assert len(shown) == len(set(shown))
  assert set(claims.CLAIMS) <= set(shown)
  words = Words()
  panels = figures.panels(Results(RESULTS, SAID), words)
  assert set(panels) == {
    name for name in shown if ":" not in name and name not in claims.CLAIMS
  }
  names = [f.name for panel in panels.values() for f in panel.figures]
  assert len(names) == len(set(names))


def test_the_chapter_says_its_sentence_in_both_languages():
  said = sentences(SAID.read_text("utf-8"))
  assert {name for name in claims.CLAIMS if name[0] != "H"} == set(said)
  for zh, en in said.values():
    assert re.search("[\u4e00-\u9fff=]", zh)
    assert not re.search("[\u4e00-\u9fff]", en)


@pytest.mark.once
def test_without_results_every_place_says_what_would_make_it(tmp_path):
  text = build.page(tmp_path, SAID)
  for name in claims.CLAIMS:
    article = text.partition(f'<article class="claim" id="{name}">')[2]
    assert "not judged yet" in article.partition("</article>")[0]
  lacking = re.findall(r'class="lacking">(.*?)</p>', text)
  assert len(lacking) > 15
  assert all("python -m experiments." in place for place in lacking)


def test_a_script_cannot_be_ended_by_what_is_in_it():
  held = build._in_script("a </script> b <!-- c")
  assert "</script" not in held
  assert "<!--" not in held
  assert json.loads(build._json({"a": "</script>"})) == {"a": "</script>"}


def test_a_figure_is_changed_by_a_changed_result(tmp_path):
  folder = tmp_path / "largest_rate"
  shutil.copytree(RESULTS / "largest_rate", folder)

  def shown():
    panels = figures.panels(Results(tmp_path, SAID), Words())
    return panels["largest_rate"].figures[0].series[0].points

  before = shown()
  path = folder / "summary.csv"
  path.write_text(path.read_text().replace("1.569", "1.111"), "utf-8")
  assert shown() != before
  assert shown()[0][1] == 1.111

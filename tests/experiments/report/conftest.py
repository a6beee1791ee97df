"""A real Chromium, and the page's interactive parts in it."""

import string
import subprocess
from pathlib import Path

import pytest

from experiments.report.page import build, bundle

PARTS = ("tiles", "unit", "passes", "pad", "mistake", "training")


ROOT = Path(__file__).parents[3]
OPTIONS = (  # without them a machine without a network is asked for it
  *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
  *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="session")
def chromium():
  """A browser; the tests are skipped, with the reason, where there is none."""
  sync_api = pytest.importorskip("playwright.sync_api")
  found = subprocess.run(
    ["sh", ROOT / "tools" / "browser.sh"], capture_output=True, text=True
  )
  if not found.stdout:
    pytest.skip(found.stderr.strip())
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=found.stdout.strip(), args=OPTIONS
    )
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def parts_file(tmp_path_factory):
  """The page with its interactive parts alone: no figure has to be drawn."""
  script = build._in_script(
    "".join(build.asset(f"{name}.js") for name in build.SCRIPTS)
  )
  worker = "".join(build.asset(f"{name}.js") for name in build.WORKER)
  text = string.Template(build.asset("page.html")).substitute(
    csp=build.policy([script]),
    title="",
    css=build.styles(),
    body="".join(f'<div data-part="{name}"></div>' for name in PARTS),
    words=build._json(build.Words().table),
    charts="{}",
    bundle=build._json(bundle.bundle()),
    worker=build._in_script(worker),
    vega="",
    script=script,
  )
  path = tmp_path_factory.mktemp("page") / "parts.html"
  path.write_text(text, "utf-8")
  return path


@pytest.fixture(scope="session")
def open_page(chromium, parts_file):
  """open_page(query, **context) -> the page, which may log no error."""

  def opened(query="", **context):
    page = chromium.new_context(**context).new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(f"file://{parts_file}{query}")
    return page

  return opened


@pytest.fixture(scope="module")
def page(open_page):
  opened = open_page(has_touch=True)
  yield opened
  assert not opened.said
  opened.context.close()

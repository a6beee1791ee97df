"""A real Chromium for the tests of the page, and what they ask of it."""

import contextlib
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "chapter.html"
OPTIONS = (  # without them a machine without a network is asked for it
  *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
  *("--disable-background-networking", "--disable-component-update"),
)


@functools.cache
def chromium() -> tuple[str, str]:
  """Its path, or "" and why there is none."""
  found = subprocess.run(
    ["sh", ROOT / "tools" / "browser.sh"], capture_output=True, text=True
  )
  return found.stdout.strip(), found.stderr.strip()


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
  """A browser; skips with the reason where none can be had."""
  path, reason = chromium()
  if not path:
    pytest.skip(reason)
  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
    yield browser
    browser.close()


class Watched:
  """A page of the browser, with what went wrong in it and what it asked for.

  Attributes:
    page: Opened at `address`.
    trouble: Errors and warnings on the console, and requests.
  """

  def __init__(
    self,
    browser: Browser,
    query: str = "",
    path: Path = PAGE,
    **context: object,
  ) -> None:
    options = {"viewport": {"width": 1280, "height": 900}} | context
    self.trouble: list[str] = []
    self.page: Page = browser.new_context(**options).new_page()
    self.page.on("console", self._said)
    self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
    self.page.on("request", self._asked)
    self.page.goto(f"{path.as_uri()}{query}")

  def _said(self, message: object) -> None:
    if message.type in ("error", "warning"):
      self.trouble.append(message.text)

  def _asked(self, request: object) -> None:
    if not request.url.startswith(("file:", "data:", "blob:")):
      self.trouble.append(f"asked for {request.url}")

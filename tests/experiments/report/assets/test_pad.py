"""Digits drawn on the page's pad, by mouse, finger and keys."""

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from experiments.report import snapshot
from experiments.report.page import bundle
from mnist_jax import training
from mnist_jax.data import picture
from mnist_jax.training import runner

pytestmark = pytest.mark.once
DIGITS, BY_MOUSE = 200, 10
# Skeletons in a box of 1 by 1, y downwards: lists of strokes.
_O = [(0.5, 0), (0.1, 0.25), (0.1, 0.75), (0.5, 1), (0.9, 0.75), (0.9, 0.25)]
SKELETONS = {
  0: [[*_O, (0.5, 0)]],
  1: [[(0.35, 0.2), (0.55, 0), (0.55, 1)]],
  2: [[(0.1, 0.2), (0.5, 0), (0.85, 0.25), (0.1, 1), (0.9, 1)]],
  3: [
    [(0.1, 0.1), (0.6, 0), (0.8, 0.25), (0.4, 0.48)],
    [(0.4, 0.48), (0.85, 0.72), (0.55, 1), (0.1, 0.9)],
  ],
  4: [[(0.2, 0), (0.1, 0.55), (0.85, 0.55)], [(0.75, 0.05), (0.7, 1)]],
  5: [
    [(0.85, 0), (0.2, 0), (0.15, 0.45), (0.7, 0.45), (0.85, 0.75), (0.4, 1)],
    [(0.4, 1), (0.1, 0.9)],
  ],
  6: [
    [(0.7, 0), (0.2, 0.5), (0.25, 0.95), (0.7, 0.95), (0.7, 0.6), (0.2, 0.6)],
  ],
  7: [[(0.1, 0), (0.9, 0), (0.45, 1)]],
  8: [
    [(0.5, 0.5), (0.15, 0.2), (0.5, 0), (0.85, 0.2), (0.5, 0.5)],
    [(0.5, 0.5), (0.1, 0.8), (0.5, 1), (0.9, 0.8), (0.5, 0.5)],
  ],
  9: [
    [(0.8, 0.4), (0.3, 0.45), (0.2, 0.1), (0.75, 0.05), (0.8, 0.4), (0.65, 1)],
  ],
}


def strokes(digit, rng, specks=0.0):
  """A skeleton turned, stretched, placed and shaken, in parts of the pad."""
  turn = rng.normal(0, 0.12)
  # Large ones are widened by the preparation, as their pen is thin for them.
  size = rng.uniform(0.3, 0.96) * np.array([rng.uniform(0.6, 0.9), 1])
  start = rng.uniform(0.02, 0.98 - size)
  c, s = np.cos(turn), np.sin(turn)
  for line in SKELETONS[digit]:
    points = np.asarray(line) + rng.normal(0, 0.03, (len(line), 2))
    points = (points - 0.5) @ np.array([[c, -s], [s, c]]) + 0.5
    yield np.clip(start + points * size, -0.02, 1.02)
  if rng.random() < specks:  # a dot, which some digits are large enough to lose
    yield np.array([[0.06, 0.06], [0.06, 0.06]])


def on_screen(page, points):
  x, y, width, height = page.evaluate(
    """() => {
      const canvas = document.querySelector(".pad");
      canvas.scrollIntoView({ block: "center" });
      const box = canvas.getBoundingClientRect();
      return [box.x, box.y, box.width, box.height];
    }"""
  )
  return np.array([x, y]) + points * np.array([width, height])


def draw(page, digit, rng):
  for line in strokes(digit, rng):
    first, *others = on_screen(page, line)
    page.mouse.move(*np.maximum(first, 1))
    page.mouse.down()
    for point in others:
      page.mouse.move(*point)
    page.mouse.up()


def clear(page):
  page.evaluate("document.querySelector('[data-part=pad] button').click()")


def drawing(page):
  """The saved picture, the image made of it in the page, and a3."""
  png, pixels, found = page.evaluate(
    """() => {
      const pixels = pad.image();
      return [pad.picture().toDataURL().split(",")[1], Array.from(pixels),
        Array.from(pad.probabilities(pixels).a[3])];
    }"""
  )
  return base64.b64decode(png), np.uint8(pixels).reshape(28, 28), found


def said(page):
  return page.locator("[data-part=pad] .said").inner_text()


def predict(images):
  with np.load(bundle.BOOK_RUN / "network.npz") as arrays:
    theta = arrays[f"theta_{snapshot.EPOCHS[-1]}"]
  config = training.Settings().train_config()
  return runner.probabilities(config, snapshot.unflat(theta), images)


def test_a_blank_pad_says_so(page):
  clear(page)
  assert "blank" in said(page)
  assert page.evaluate("pad.image()") is None
  draw(page, 7, np.random.default_rng(0))
  assert "blank" not in said(page)
  clear(page)
  assert "blank" in said(page)


def draw_at_once(page, digit, rng):
  """As `draw`, by the events alone that the browser makes of a pen."""
  found = strokes(digit, rng, specks=0.2)
  lines = [on_screen(page, line).tolist() for line in found]
  page.evaluate(
    """(lines) => {
      const canvas = document.querySelector(".pad");
      const tell = (type, [clientX, clientY]) => canvas.dispatchEvent(
        new PointerEvent(type, { clientX, clientY, pointerId: 1,
          pointerType: "pen", isPrimary: true, bubbles: true }));
      for (const line of lines) {
        tell("pointerdown", line[0]);
        for (const point of line.slice(1)) tell("pointermove", point);
        tell("pointerup", line[line.length - 1]);
      }
    }""",
    lines,
  )


def test_200_drawn_digits_are_read_as_predict_reads_them(page, tmp_path):
  rng = np.random.default_rng(1)
  expected, prepared, found, right = [], [], [], 0
  for n in range(DIGITS):
    clear(page)
    (draw if n < BY_MOUSE else draw_at_once)(page, n % 10, rng)
    png, pixels, probabilities = drawing(page)
    path = tmp_path / "digit.png"
    path.write_bytes(png)
    expected.append(picture.read(path))  # as experiments.predict does
    prepared.append(pixels)
    found.append(probabilities)
    right += int(np.argmax(probabilities)) == n % 10
  expected, prepared = np.stack(expected), np.stack(prepared)
  assert np.array_equal(expected, prepared)
  error = np.abs(found - predict(expected.reshape(DIGITS, -1))).max()
  assert error < 1e-5
  assert right > 0.7 * DIGITS


def test_layers_and_probabilities_are_shown(page):
  clear(page)
  draw(page, 0, np.random.default_rng(2))
  _, _, found = drawing(page)
  best = int(np.argmax(found))
  assert f"a {best}," in said(page)
  row = page.locator(".probabilities tr.best")
  assert row.locator("th").inner_text() == str(best)
  lit = page.evaluate(
    """() => Array.from(document.querySelectorAll(".layers canvas.tile"),
      (c) => new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height)
        .data).size)"""
  )
  assert len(lit) == 3
  assert min(lit) > 10


def test_the_saved_picture_is_the_drawing(page):
  with page.expect_download() as download:
    page.locator("[data-part=pad] button").nth(1).click()
  with open(download.value.path(), "rb") as file:
    saved = np.asarray(Image.open(io.BytesIO(file.read())).convert("L"))
  shown = np.asarray(Image.open(io.BytesIO(drawing(page)[0])).convert("L"))
  assert np.array_equal(saved, shown)
  assert saved.max() == 255
  assert not saved[:20].any()


def test_a_finger_draws_and_does_not_scroll(page):
  clear(page)
  lines = [on_screen(page, s) for s in strokes(1, np.random.default_rng(3))]
  before = page.evaluate("scrollY")
  session = page.context.new_cdp_session(page)

  def touch(kind, points):
    touches = [{"x": float(x), "y": float(y)} for x, y in points]
    session.send(
      "Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches}
    )

  for line in lines:
    touch("touchStart", line[:1])
    for a, b in itertools.pairwise(line):
      for part in np.linspace(0.1, 1, 10):
        touch("touchMove", [a + part * (b - a)])
    touch("touchEnd", [])
  page.wait_for_timeout(100)
  assert page.evaluate("scrollY") == before
  pixels = drawing(page)[1]
  # A 1 of full height: a stroke that scrolling stole would be a dot.
  rows = np.flatnonzero(pixels.any(axis=1))
  columns = np.flatnonzero(pixels.any(axis=0))
  assert len(rows) == 20
  assert len(columns) < 15
  assert "reads a 1" in said(page)


def test_keys_draw_and_clear(page):
  clear(page)
  page.locator(".pad").focus()
  for key in ("ArrowUp",) * 6 + (" ",) + ("ArrowDown",) * 12:
    page.keyboard.press(key)
  assert "reads a 1" in said(page)
  assert "pen is down" in said(page)
  page.keyboard.press(" ")
  assert "pen is down" not in said(page)
  page.keyboard.press("Delete")
  assert "blank" in said(page)
  page.keyboard.press("Tab")
  assert page.evaluate("document.activeElement.tagName") == "BUTTON"


@pytest.mark.parametrize("end", ["pointerup", "pointercancel"])
def test_a_stroke_ends_with_its_pointer(page, end):
  clear(page)
  x, y = on_screen(page, np.array([[0.5, 0.2]]))[0]
  page.mouse.move(x, y)
  page.mouse.down()
  page.locator(".pad").dispatch_event(end, {"pointerId": 1})
  before = drawing(page)[1]
  page.mouse.move(x, y + 100)
  assert np.array_equal(drawing(page)[1], before)
  page.mouse.up()

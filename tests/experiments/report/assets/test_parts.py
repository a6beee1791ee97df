"""Tiles, passes, mistakes and training, as a reader works them."""

import json
import re

import numpy as np
import pytest

from experiments.report import snapshot
from experiments.report.page import build, bundle
from mnist_jax import data

pytestmark = pytest.mark.once


def part(page, name):
  found = page.locator(f"[data-part={name}]")
  found.scroll_into_view_if_needed()
  return found


def slide(page, name, label, to):
  """Moves a slider by its keys alone, and returns what it says."""
  slider = part(page, name).get_by_label(label)
  slider.focus()
  page.keyboard.press("Home")
  for _ in range(to):
    page.keyboard.press("ArrowRight")
  return slider.get_attribute("aria-valuetext")


def colours(page, selector):
  """Of a canvas, pixel by pixel."""
  return page.evaluate(
    """(selector) => {
      const c = document.querySelector(selector);
      const { width, height } = c;
      const copy = new OffscreenCanvas(width, height).getContext("2d");
      copy.drawImage(c, 0, 0);
      const { data } = copy.getImageData(0, 0, width, height);
      return Array.from(new Uint32Array(data.buffer));
    }""",
    selector,
  )


def test_tiles_follow_epoch_and_unit(page):
  said = slide(page, "tiles", "Weights after epoch", 1)
  run = json.loads((bundle.BOOK_RUN / "run.json").read_text("utf-8"))
  accuracy = run["epochs"][1]["dev_accuracy"]
  assert said == f"1 ({accuracy:.1%} of the dev digits right)".replace(
    "%", " %"
  )
  assert "epoch=1" in page.url
  early = colours(page, "canvas.wall")
  slide(page, "tiles", "Weights after epoch", 6)
  late = colours(page, "canvas.wall")
  assert len(early) == len(late)
  assert early != late
  assert len(set(late)) > 200
  part(page, "tiles").locator("summary").click()
  with np.load(bundle.BOOK_RUN / "network.npz") as arrays:
    layer = snapshot.unflat(arrays["theta_40"])[0]
  row = part(page, "tiles").locator("tbody tr").nth(5).inner_text().split("\t")
  numbers = [float(text.replace("\u2212", "-")) for text in row]
  w = layer.w[:, 5]
  expected = [5, w.min(), w.max(), np.linalg.norm(w), layer.b[5]]
  assert numbers == pytest.approx(expected, rel=1e-3)
  box = page.locator("canvas.wall").bounding_box()
  page.locator("canvas.wall").click(
    position={"x": 2.5 / 8 * box["width"], "y": 1.5 / 8 * box["height"]}
  )
  assert "unit=10" in page.url
  assert part(page, "unit").get_by_label("Hidden unit").input_value() == "10"


def test_a_unit_is_opened(page):
  """784 pixels times weights, and the bias, are z; then a."""
  slide(page, "unit", "Hidden unit", 3)
  slide(page, "unit", "Weights after epoch", 6)
  part(page, "unit").locator("input[type=radio]").nth(4).check(force=True)
  index = int(re.search(r"image=(\d+)", page.url)[1])
  split = data.load().test
  assert split.labels[index] == 2
  with np.load(bundle.BOOK_RUN / "network.npz") as arrays:
    layer = snapshot.unflat(arrays["theta_40"].astype(np.float64))[0]
  z = split.images[index] / 255 @ layer.w[:, 3] + layer.b[3]
  equation = part(page, "unit").locator(".equation").first.inner_text()
  summed = re.search(r"b = (\S+) \+ \((\S+)\)", equation).groups()
  assert [float(text.replace("\u2212", "-")) for text in summed] == (
    pytest.approx([z - layer.b[3], layer.b[3]], rel=1e-3)
  )
  for text, value in zip(
    part(page, "unit").locator("strong").all_inner_texts(),
    (z, 1 / (1 + np.exp(-z))),
    strict=True,
  ):
    found = float(text.replace("\u2212", "-"))
    assert found == pytest.approx(value, rel=1e-3)


def test_passes_put_the_numbers_in(page):
  part(page, "passes").locator("input[type=radio]").nth(0).check(force=True)
  slide(page, "passes", "Class shown", 0)
  rows = part(page, "passes").locator("tbody tr")
  assert rows.count() == 17
  texts = rows.all_inner_texts()
  formulas = [text.split("\t")[0].strip() for text in texts]
  assert formulas[0] == "Z1 = X · W1 + B1"
  assert formulas[6] == "dZ3 = A3 − Y"
  entry = texts[6].split("\t")[1].replace("\u2212", "-")
  a3, y, dz3 = map(float, re.search(r"= (\S+) - (\S+) = (\S+)", entry).groups())
  assert y == 1
  assert dz3 == pytest.approx(a3 - y, abs=2e-4)
  assert "Label Y: 0" in part(page, "passes").locator(".said").inner_text()


@pytest.mark.parametrize(
  ("name", "wrong", "layer", "why"),
  [
    ("dw2_sign", "dW2", 2, "dW2 is \u22121 times"),
    ("mean_missing", "dW1, dB1, dW2, dB2, dW3, dB3", 3, "dW3 is 8 times"),
    ("dz1_missing", "dW1, dB1", 1, "dZ1 := dA1"),
    ("db2_one_example", "dB2", 2, "dZ2 of the first"),
  ],
)
def test_a_mistake_is_found(page, name, wrong, layer, why):
  here = part(page, "mistake")
  here.locator("select").select_option(name)
  text = here.locator("[role=status]").inner_text()
  assert f"wrong are {wrong}." in text
  assert f"layer {layer} is the first" in text
  assert why in text
  assert f"mistake={name}" in page.url
  assert f"--inject={name}" in here.locator("pre").inner_text()


def test_without_a_mistake_and_with_one_below_the_bar(page):
  here = part(page, "mistake")
  here.locator("select").select_option("none")
  text = here.locator("[role=status]").inner_text()
  assert "very satisfying" in text
  assert "wrong are" not in text
  here.locator("select").select_option("dw2_float32")
  text = here.locator("[role=status]").inner_text()
  assert "Every number of dW2 is a float32 number" in text
  assert "very satisfying" in text


def train(page, rate, batch):
  here = part(page, "training")
  page.evaluate(
    "([r, m]) => { state.set('rate', r); state.set('batch', m); }",
    [rate, batch],
  )
  here.get_by_role("button", name="Train").click()
  return here


def losses(page):
  points = page.locator("[data-part=training] polyline.run-0").first
  return [
    float(pair.split(",")[1]) for pair in points.get_attribute("points").split()
  ]


def test_training_falls_and_its_gradient_is_checked(page):
  here = train(page, 0.5, 64)
  here.get_by_text(re.compile("After epoch [1-9]")).wait_for()
  here.get_by_role("button", name="Check the gradient").click()
  checked = here.get_by_text(re.compile("51,450 parameters, 8 examples"))
  checked.wait_for()
  assert "very satisfying" in checked.inner_text()
  assert here.locator(".distances tbody tr").count() == 6
  here.get_by_role("button", name="Stop").click()
  assert here.get_by_role("button", name="Stop").is_disabled()
  assert "Stopped." in here.locator(".said").inner_text()
  drawn = losses(page)
  assert np.mean(drawn[-5:]) > np.mean(drawn[:5]) + 50  # pixels downwards
  here.locator("summary").first.click()
  here.locator("details tbody tr").nth(1).wait_for()  # two of them at least


def test_divergence_is_seen_and_said(page):
  here = train(page, 10, 64)
  here.get_by_text(re.compile("It diverges: .*rate 10 is too large")).wait_for()
  here.get_by_role("button", name="Stop").click()
  assert min(losses(page)) < 13  # at the upper edge of the figure


def test_training_goes_on_where_every_update_outlasts_its_slice(page):
  assert page.evaluate(
    """() => new Promise((done) => {
      const source = document.getElementById("worker-source").textContent;
      const slow = source.replace("SLICE = 40", "SLICE = -1");
      if (slow === source) throw new Error("no slice");
      const worker = new Worker(URL.createObjectURL(new Blob([slow])));
      const updates = [];
      worker.onmessage = ({ data }) => {
        updates.push(data.updates);
        if (data.ended) done(updates);
      };
      worker.postMessage({ type: "start", theta: book.theta(0).slice(),
        train: book.examples("test"), dev: book.examples("test"), epochs: 40,
        rate: 0.1, batch: 10, updates: 3 });
    })"""
  ) == [0, 1, 2, 3]


def test_a_link_restores_the_view(open_page):
  page = open_page(
    "?lang=zh&rate=0.8&batch=32&unit=7&mistake=dw2_sign&epoch=5&image=7"
  )
  assert page.get_by_label("学习率 η").get_attribute("aria-valuetext") == "0.8"
  told = page.get_by_label("批大小 m").get_attribute("aria-valuetext")
  assert told == "32 个样本"
  for label, value in (("隐层 1 的单元", "7"), ("训练轮数", "3")):
    assert page.get_by_label(label).first.input_value() == value
  part(page, "mistake").get_by_text("dW2 是数值梯度的").wait_for()
  assert not page.said
  page.context.close()


def test_every_key_of_the_scripts_has_words():
  table = build.Words().table
  for name in ("mistakes", "tiles", "pad", "training"):
    script = build.asset(f"parts/{name}.js")
    keys = re.findall(
      r'"((?:table|band|image|pad|tiles|unit|passes|mistake|train)\.\w+)"',
      script,
    )
    assert keys
    for key in keys:
      assert table[key]["en"], key
      assert table[key]["zh"], key

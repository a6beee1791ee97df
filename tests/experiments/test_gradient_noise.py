"""B4: what is measured of a small run, and verdicts on known tables."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from experiments import gradient_noise
from experiments._shared import study
from mnist_jax import data
from mnist_jax.analysis import gradient_noise as noise
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 30


def made(power=-1.0, signal=0.01, spread=0.02, among=0.0):
  """Variances ~ batch^power and noise scales 1 / signal."""
  rng = np.random.default_rng(0)
  table, scales, samples = [], [], []
  for seed in range(SEEDS):
    for size in gradient_noise.BATCH_SIZES:
      exact = 3.0 * size**power
      drawn = exact * math.exp(spread * rng.normal())
      row = {"seed": seed, "epoch": 0, "batch_size": size}
      table.append(row | {"variance": drawn, "exact": exact})
    for size in gradient_noise.COMPARED:
      row = {"seed": seed, "epoch": 0, "batch_size": size}
      own = 3.0 * size**among
      drawn = own * math.exp(spread * rng.normal())
      samples.append(row | {"gradients": drawn, "pixels": own})
    scale = math.exp(spread * rng.normal()) / signal
    exact = math.exp(0.02 * (seed - (SEEDS - 1) / 2)) / signal
    found = {"estimate": scale, "low": 0.6 * scale, "high": 1.5 * scale}
    if seed % 3 == 0:
      found = dict.fromkeys(found, math.nan)
    scales.append(
      {"seed": seed, "epoch": 0, "trace": 3.0, "noise_scale": exact}
      | {"square_norm": 3.0 * signal, "undefined": ""}
      | found
    )
  return {
    "table": pd.DataFrame(table),
    "scales": pd.DataFrame(scales),
    "samples": pd.DataFrame(samples),
  }


VALUES = SimpleNamespace(seeds=SEEDS, epochs=(0,), draws=8, pairs=4)


def judged(measured):
  (claim,) = gradient_noise.judge(measured, VALUES)
  return claim, {part.name.split(",")[0]: part for part in claim.parts}


def test_variance_by_one_over_the_batch_is_not_the_same():
  claim, parts = judged(made())
  assert parts["16 and 32"].verdict is Verdict.FAILS
  assert parts["16 and 32"].effect.estimate == pytest.approx(
    math.log(2), abs=0.03
  )
  assert parts["slope"].verdict is Verdict.HOLDS
  assert parts["single sample"].verdict is Verdict.HOLDS
  assert claim.verdict is Verdict.MOSTLY_NOT
  assert claim.restriction == "; ".join(gradient_noise.AMONG.values())
  assert "that of 32 is 2.00 times" in claim.sentence


def test_no_restriction_holds_where_the_samples_differ_too():
  claim, parts = judged(made(among=-1.0))
  assert parts["among the samples' pixels"].verdict is Verdict.FAILS
  assert claim.verdict is Verdict.FAILS


def test_variance_that_does_not_depend_on_the_batch_is_the_same():
  claim, parts = judged(made(power=0.0, signal=30.0))
  assert parts["16 and 32"].verdict is Verdict.HOLDS
  assert parts["slope"].verdict is Verdict.FAILS
  assert parts["single sample"].verdict is Verdict.FAILS
  assert claim.verdict is Verdict.LIMITS


def test_summary_counts_what_agrees_and_what_is_undefined():
  (row,) = gradient_noise.summarise(made(), VALUES).to_dict("records")
  assert row["noise_scale"] == pytest.approx(100)
  assert row["two_batch_undefined"] == 10
  assert row["two_batch_holds_exact"] == 20
  assert row["slope"] == pytest.approx(-1, abs=0.01)


def test_figure():
  figures = gradient_noise.draw(made(), VALUES)
  left, _, right = figures["gradient_noise"].axes
  assert "slope -1.00" in left.get_legend().get_texts()[0].get_text()
  assert any(
    "20 of 30 hold it, 10 undefined" in text.get_text()
    for text in right.get_legend().get_texts()
  )


@pytest.fixture(scope="module")
def small(mnist):
  return dataclasses.replace(
    mnist, train=data.Split(*(x[:1100] for x in mnist.train))
  )


def test_measured_variance_is_the_exact_one(small, monkeypatch):
  monkeypatch.setattr(gradient_noise, "BATCH_SIZES", (16, 32))
  monkeypatch.setattr(gradient_noise, "PAIR", (8, 128))
  values = SimpleNamespace(seeds=1, epochs=(0,), draws=200, pairs=100)
  lab = SimpleNamespace(dataset=small)
  found = gradient_noise.measure(lab, values)
  table, (scale,) = found["table"], found["scales"].to_dict("records")
  np.testing.assert_allclose(table["variance"], table["exact"], rtol=0.15)
  np.testing.assert_allclose(
    table["exact"],
    [scale["trace"] * noise.variance_share(b, 1100) for b in (16, 32)],
    rtol=1e-6,
  )
  samples = found["samples"].set_index("batch_size")
  # Among samples drawn without replacement it is that of all, by N / (N - 1).
  np.testing.assert_allclose(samples["gradients"], scale["trace"], rtol=0.05)
  pixels = small.train.images.reshape(1100, -1) / 255
  total = pixels.var(axis=0, ddof=1).sum()
  np.testing.assert_allclose(samples["pixels"], total, rtol=0.02)
  assert scale["low"] < scale["noise_scale"] < scale["high"]
  again = gradient_noise.measure(lab, values)
  pd.testing.assert_frame_equal(table, again["table"])


@pytest.mark.parametrize(
  ("wrong", "found"),
  [
    ({"epochs": (1, 0)}, "--epochs=1,0"),
    ({"epochs": (0, 0)}, "--epochs=0,0"),
    ({"pairs": 1}, "--pairs=1"),
  ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, found):
  values = study.preset_values(gradient_noise.STUDY, "quick")
  gradient_noise.check(values)
  vars(values).update(wrong)
  with pytest.raises(InputError, match=found):
    gradient_noise.check(values)


def test_too_few_examples_are_refused(small):
  few = dataclasses.replace(
    small, train=data.Split(*(x[:1024] for x in small.train))
  )
  with pytest.raises(InputError, match="1024 training examples, expected more"):
    gradient_noise.measure(SimpleNamespace(dataset=few), VALUES)

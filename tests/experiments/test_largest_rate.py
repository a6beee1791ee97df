"""B3: verdicts on made-up runs, and what is measured of a small one."""

import dataclasses
import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments import largest_rate
from experiments._shared import study
from mnist_jax import data, training
from mnist_jax.analysis import curvature
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict
from mnist_jax.sweep import rate_search

SEEDS = 30


def run_with(limits):
  """A sweep that is stable up to the limit of a batch size, within a step."""

  def run(cells):
    rows = []
    for cell in cells:
      limit = limits[cell.batch_size] * (1.2 if cell.seed % 2 else 0.8)
      stable = cell.learning_rate <= limit
      row = {"cell": repr(cell), "batch_size": cell.batch_size, "step": 200}
      row |= {"learning_rate": cell.learning_rate, "seed": cell.seed}
      row |= {"dev_loss": 0.5 if stable else 40.0, "diverged_step": None}
      rows.append(row)
    return pd.DataFrame(rows)

  return run


def limits(by_size):
  """The table of the first part, from runs with those limits."""
  return rate_search.extended(
    run_with(by_size),
    dict.fromkeys(by_size, range(-2, 11)),
    range(SEEDS),
    largest_rate.more_rates,
  )


def above(accuracy):
  rows = []
  for rate in (largest_rate.BELOW, largest_rate.ABOVE):
    for seed in range(SEEDS):
      for epoch in (0.0, 0.25, 5.0):
        rng = np.random.default_rng([seed, int(10 * rate)])
        value = accuracy[rate] + 0.002 * rng.normal()
        row = {"learning_rate": rate, "seed": seed, "epoch": epoch}
        row |= {"step": int(430 * epoch), "dev_accuracy": value}
        row |= {"dev_loss": 1 - value, "diverged_step": None}
        rows.append(row)
  return pd.DataFrame(rows)


def sharpness():
  rng = np.random.default_rng(0)
  rows = [
    {"seed": seed, "learning_rate": rate, "epoch": epoch}
    | {"sharpness": 2 / rate * math.exp(0.1 * rng.normal())}
    for rate in largest_rate.SHARP_RATES
    for seed in range(SEEDS)
    for epoch in (0.0, 1.0, 5.0)
  ]
  return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def values():
  found = study.preset_values(largest_rate.STUDY, "full")
  found.batch_sizes = (16, 256)
  return found


def made(by_size, accuracy):
  return {
    "table": limits(by_size),
    "above": above(accuracy),
    "sharpness": sharpness(),
  }


def test_rates_go_on_until_every_seed_has_its_limit():
  found = limits({16: 0.1, 256: 100.0})
  spans = found.groupby("batch_size")["learning_rate"].agg(["min", "max"])
  # 0.08 needs 2^-4 = 0.0625 below it, 120 has 2^7 = 128 above it.
  assert spans.to_numpy().tolist() == [[0.0625, 32.0], [0.5, 128.0]]
  small, none = largest_rate.largest(found, 16)
  assert none == 0
  np.testing.assert_allclose(sorted(set(small)), [0.0625, 2**-3.5], rtol=1e-3)
  large, _ = largest_rate.largest(found, 256)
  np.testing.assert_allclose(sorted(set(large)), [64, 2**6.5], rtol=1e-3)


def test_a_seed_with_no_stable_rate_counts_below_the_lowest():
  found = limits({16: 0.0})
  assert found["learning_rate"].min() == 2**-10  # the search's own limit
  rates, none = largest_rate.largest(found, 16)
  assert none == SEEDS
  np.testing.assert_allclose(rates, 2**-10.5, rtol=1e-3)


def test_a_limit_below_one_holds(values):
  measured = made({16: 0.6, 256: 0.7}, {0.5: 0.96, 1.5: 0.6})
  parts = largest_rate.judge(measured, values)
  assert [part.verdict for part in parts] == [Verdict.HOLDS] * 4
  assert "largest stable rate 0.5 " in parts[0].note
  assert "0 of 30 seeds reach it" in parts[2].note


def test_rates_above_one_that_train_do_not_hold(values):
  measured = made({16: 1.5, 256: 6.0}, {0.5: 0.955, 1.5: 0.965})
  parts = largest_rate.judge(measured, values)
  assert [part.verdict for part in parts] == [Verdict.FAILS] * 4
  assert "30 of 30 seeds reach it" in parts[2].note
  summary = largest_rate.summarise(measured, values)
  stable = summary[summary["what"] == "largest stable rate"]
  np.testing.assert_allclose(stable["mean"], [2**0.25, 2**2.25], rtol=1e-3)
  curved = summary[summary["what"] == "2 / sharpness"]
  np.testing.assert_allclose(curved["mean"], curved["learning_rate"], rtol=0.06)
  figures = largest_rate.draw(measured, values)
  assert set(figures) == {"largest_rate", "above_one"}
  share = figures["largest_rate"].axes[3]
  ends = [line.get_ydata()[[0, -1]].tolist() for line in share.lines[:2]]
  assert ends == [[0, 100]] * 2


def test_a_diverged_run_has_the_accuracy_of_guessing():
  table = above({0.5: 0.96, 1.5: 0.96})
  late = (table["learning_rate"] == 1.5) & (table["epoch"] == 5)
  table.loc[late & (table["seed"] == 3), "diverged_step"] = 700
  table.loc[late & (table["seed"] == 4), "dev_loss"] = 3.0
  found = largest_rate._accuracies(table).arm(1.5)[:, -1]
  np.testing.assert_array_equal(found[[3, 4]], 0.1)
  assert (np.delete(found, [3, 4]) > 0.9).all()


def test_curvature_is_of_the_weights_along_the_run(mnist, monkeypatch):
  dataset = training.to_device(
    dataclasses.replace(
      mnist, train=data.Split(*(x[:300] for x in mnist.train))
    )
  )

  def length(activations, params, split, key, *, tolerance):
    assert len(split.labels) == 200
    return SimpleNamespace(
      value=float(jnp.linalg.norm(params[1].w)), residual=0.0, steps=1
    )

  # Lanczos has its own tests; here it matters of which weights.
  monkeypatch.setattr(curvature, "network_sharpness", length)
  values = SimpleNamespace(examples=200, epochs=1)
  rows = largest_rate._sharpness(dataset, 3, values)
  places = [(row["learning_rate"], row["epoch"]) for row in rows]
  assert places == [(0.2, 0), (0.2, 1), (1.0, 0), (1.0, 1)]
  config = training.TrainConfig(batch_size=128)
  expected = [
    float(jnp.linalg.norm(params[1].w))
    for rate in (0.2, 1.0)
    for _, params in training.params_at(config, rate, dataset.train, 3, (0, 1))
  ]
  assert [row["sharpness"] for row in rows] == expected
  assert len(set(expected)) == 3  # the same start, different ends


@pytest.mark.parametrize("sizes", [(16,), (64, 16), (16, 16), (0, 16)])
def test_batch_sizes_that_do_not_rise_are_refused(sizes):
  with pytest.raises(InputError, match="at least 2 numbers above 0 that rise"):
    largest_rate.OPTIONS[0]._numbers(list(map(str, sizes)))

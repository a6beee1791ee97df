"""B3 and H4: verdicts on made-up runs, and what is measured of a small one."""

import numpy as np
import pandas as pd
import pytest

from experiments._shared import rate_search, study
from experiments.largest_rate import edge, limit
from experiments.largest_rate import study as largest_rate
from mnist_jax import data, training
from mnist_jax.analysis import gradient_noise
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 30


def run_with(limits):
  """A sweep that is stable up to the limit of a batch size, within a step."""

  def run(cells):
    rows = []
    for cell in cells:
      bound = limits[cell.batch_size] * (1.2 if cell.seed % 2 else 0.8)
      stable = cell.learning_rate <= bound
      row = {"cell": repr(cell), "batch_size": cell.batch_size, "step": 200}
      row |= {"learning_rate": cell.learning_rate, "seed": cell.seed}
      row |= {"dev_loss": 0.5 if stable else 40.0, "diverged_step": None}
      rows.append(row | {"drop_last": True})
    return pd.DataFrame(rows)

  return run


def limits(by_size):
  """The table of the short runs, from runs with those limits."""
  return rate_search.extended(
    run_with(by_size),
    dict.fromkeys(by_size, range(-2, 11)),
    range(SEEDS),
    limit.more_rates,
  )


def above(accuracy):
  """Long runs that end with the accuracy of their (batch size, rate)."""
  rows = []
  for size, rate in limit.ARMS:
    for seed in range(SEEDS):
      rng = np.random.default_rng([seed, size, int(10 * rate)])
      for epoch in (0.0, 0.25, 30.0):
        end = accuracy[size, rate] + 0.002 * rng.normal()
        value = end if epoch else 0.1
        row = {"batch_size": size, "learning_rate": rate, "seed": seed}
        row |= {"cell": f"{size} {rate} {seed}", "drop_last": True}
        row |= {"epoch": epoch, "step": int(430 * epoch)}
        row |= {"dev_accuracy": value, "test_accuracy": value + 0.01}
        row |= {"dev_loss": 1 - value, "test_loss": 1 - value}
        rows.append(row | {"diverged_step": None})
  return pd.DataFrame(rows)


def curved(share, along=1.0, examples=4000):
  """Eigenvalues that are 5 at the start and end at a share of 2 / rate."""
  rng = np.random.default_rng(0)
  rows = []
  for size in (*edge.SMALL_BATCHES, examples):
    for rate in edge.RATES:
      for seed in range(SEEDS):
        for step in (0, 100, 200):
          own = share[size] * 2 / rate * (1 + 0.05 * rng.normal())
          row = {"batch_size": size, "learning_rate": rate, "seed": seed}
          row |= {"step": step, "sharpness": own if step else 5.0}
          rows.append(row | {"batch_sharpness": along * 2 / rate})
  return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def values():
  found = study.preset_values(largest_rate.STUDY, "full")
  found.batch_sizes = (16, 256)
  return found


GOOD = dict.fromkeys(limit.ARMS, 0.97)
AT_EDGE = {16: 0.5, 128: 0.7, 4000: 1.0}


def made(by_size, accuracy, share=None, **more):
  return {
    "table": limits(by_size),
    "above": above(GOOD | accuracy),
    "curvature": curved(share or AT_EDGE, **more),
  }


def test_rates_go_on_until_every_seed_has_its_limit():
  found = limits({16: 0.1, 256: 100.0})
  spans = found.groupby("batch_size")["learning_rate"].agg(["min", "max"])
  # 0.08 needs 2^-4 = 0.0625 below it, 120 has 2^7 = 128 above it.
  assert spans.to_numpy().tolist() == [[0.0625, 32.0], [0.5, 128.0]]
  small, none = limit.largest(found, 16)
  assert none == 0
  np.testing.assert_allclose(sorted(set(small)), [0.0625, 2**-3.5], rtol=1e-3)
  large, _ = limit.largest(found, 256)
  np.testing.assert_allclose(sorted(set(large)), [64, 2**6.5], rtol=1e-3)


def test_a_seed_with_no_stable_rate_counts_below_the_lowest():
  found = limits({16: 0.0})
  assert found["learning_rate"].min() == 2**-10  # the search's own limit
  rates, none = limit.largest(found, 16)
  assert none == SEEDS
  np.testing.assert_allclose(rates, 2**-10.5, rtol=1e-3)


def test_rates_above_one_that_fail_or_end_worse_hold(values):
  fails = dict.fromkeys([(128, 1.5), (128, 2.0), (32, 1.5)], 0.6)
  for accuracy in (fails, dict.fromkeys(fails, 0.96)):
    measured = made({16: 0.6, 256: 0.7}, accuracy)
    claim = largest_rate.judge(measured, values)[0]
    assert claim.verdict in (Verdict.HOLDS, Verdict.LIMITS)
    assert claim["1.5 is worse at batch 128, accuracy"].verdict is Verdict.HOLDS
    assert claim["limit at batch 16"].verdict is Verdict.HOLDS
  assert claim["1.5 fails at batch 128"].verdict is Verdict.FAILS


def test_rates_above_one_that_train_do_not_hold(values):
  measured = made({16: 1.5, 256: 6.0}, {(128, 1.5): 0.975})
  claim = largest_rate.judge(measured, values)[0]
  assert claim.verdict is Verdict.FAILS
  assert "0 % (0 to 12) of 30 runs at rate 1.5" in claim.sentence
  summary = largest_rate.summarise(measured, values)
  stable = summary[summary["what"] == "largest stable rate"]
  np.testing.assert_allclose(stable["value"], [2**0.25, 2**2.25], rtol=1e-3)


def test_a_restriction_in_which_it_holds_is_named(values):
  accuracy = {(128, 1.5): 0.975, (128, 2.0): 0.1}
  measured = made({16: 1.5, 256: 6.0}, accuracy)
  claim = largest_rate.judge(measured, values)[0]
  assert claim.verdict is Verdict.MOSTLY_NOT
  assert "at batch 128, rate 2" in claim.restriction
  assert "batch 32" not in claim.restriction


def test_a_lost_run_counts_as_guessing():
  table = above(GOOD)
  late = (table["batch_size"] == 128) & (table["learning_rate"] == 1.5)
  late &= table["epoch"] == 30
  table.loc[late & (table["seed"] == 3), "diverged_step"] = 700
  table.loc[late & (table["seed"] == 4), ["dev_loss", "test_loss"]] = 3.0
  arm = (128, 1.5)
  for column in ("dev_accuracy", "test_accuracy"):
    found = limit.ends(table, arm, column)
    np.testing.assert_array_equal(found[[3, 4]], 0.1)
    assert (np.delete(found, [3, 4]) > 0.9).all()
  losses = limit.ends(table, arm, "dev_loss")
  np.testing.assert_allclose(losses[[3, 4]], [np.log(10), 3.0])
  assert limit.failed(table, arm).successes == 2


def test_curvature_at_the_edge_holds_and_elsewhere_does_not(values):
  _, claim = largest_rate.judge(made({16: 1.5, 256: 6.0}, {}), values)
  assert claim.verdict is Verdict.HOLDS
  assert claim["batch 16, eigenvalue below"].verdict is Verdict.HOLDS
  measured = made({16: 1.5, 256: 6.0}, {}, along=0.4)
  _, claim = largest_rate.judge(measured, values)
  assert claim.verdict is Verdict.LIMITS
  flat = AT_EDGE | {4000: 0.3}
  _, claim = largest_rate.judge(made({16: 1, 256: 6}, {}, flat), values)
  assert claim.verdict is Verdict.FAILS
  assert "0.30 (" in claim.sentence


def test_a_curvature_that_is_not_finite_counts_as_beyond_the_edge():
  table = curved(AT_EDGE)
  table.loc[table["seed"] == 3, "sharpness"] = np.nan
  found = edge.in_edges(table, 16, 0.5, "sharpness").values[0]
  np.testing.assert_array_equal(found[3], edge.LOST_AS)
  assert (np.delete(found[:, -1], 3) < 1).all()


def test_figures(values):
  measured = made({16: 1.5, 256: 6.0}, {})
  figures = largest_rate.STUDY.figures(measured, values)
  assert set(figures) == {"largest_rate", "above_one", "curvature"}
  share = figures["largest_rate"].axes[2]
  ends = [line.get_ydata()[[0, -1]].tolist() for line in share.lines[:2]]
  assert ends == [[0, 100]] * 2


def test_curvature_is_of_the_weights_along_the_run(mnist):
  """After one epoch of two updates, as `training.params_at` has them."""
  split = data.take(mnist, 100).train
  config = edge.config_of(50)
  records = edge.curvatures(split, 50, 0.5, (3, 4), (0, 2, 3))
  assert [r["step"] for r in records] == [0, 0, 2, 2, 3, 3]
  loss_fn = gradient_noise.network_loss(config.activations)
  for seed in (3, 4):
    own = {r["step"]: r for r in records if r["seed"] == seed}
    for epoch, params in training.params_at(config, 0.5, split, seed, (0, 1)):
      loss = float(loss_fn(params, split))
      assert own[2 * epoch]["loss"] == pytest.approx(loss, rel=1e-5)
    assert len({record["loss"] for record in own.values()}) == 3
    assert all(record["sharpness"] > 0 for record in own.values())


@pytest.mark.parametrize("sizes", [(16,), (64, 16), (16, 16), (0, 16)])
def test_batch_sizes_that_do_not_rise_are_refused(sizes):
  with pytest.raises(InputError, match="at least 2 numbers above 0 that rise"):
    largest_rate.OPTIONS[0]._numbers(list(map(str, sizes)))

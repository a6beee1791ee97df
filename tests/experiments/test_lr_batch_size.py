"""B1 and B2: the search on runs that are made up, and verdicts of its maps."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments import lr_batch_size
from experiments._shared import study
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict
from mnist_jax.sweep import rate_search

SEEDS = 30


def made_up(optimum, diverges=8.0, spread=0.1):
  """A sweep whose log loss is a parabola about optimum(batch) times noise."""

  def run(cells):
    asked.append(len(cells))
    rows = []
    for cell in cells:
      rng = np.random.default_rng([cell.seed, cell.batch_size])
      best = optimum(cell.batch_size) * math.exp(spread * rng.normal())
      away = math.log(cell.learning_rate / best)
      loss = 0.1 * math.exp(0.05 * away**2)
      if cell.learning_rate >= diverges:
        loss = 50.0
      rows.append(
        {
          "cell": repr(cell),
          "batch_size": cell.batch_size,
          "learning_rate": cell.learning_rate,
          "seed": cell.seed,
          "step": 10,
          "dev_loss": loss,
          "dev_accuracy": 1 - loss if loss < 1 else 0.1,
          "diverged_step": None,
        }
      )
    return pd.DataFrame(rows)

  asked = []
  return run, asked


def test_columns_go_on_until_their_best_rate_is_inside():
  run, asked = made_up(lambda size: {8: 0.009, 64: 0.5, 512: 2.0}[size])
  found = rate_search.search(
    run,
    (8, 64, 512),
    (0.25, 0.5, 1.0),
    tuning_seeds=range(9, 11),
    seeds=range(4),
  )
  coarse = found[found["stage"] == "coarse"]
  assert asked[0] == 3 * 3 * 2  # then single rates, of columns that lack some
  spans = coarse.groupby("batch_size")["learning_rate"].agg(["min", "max"])
  # Up to the first rate that diverges, down to one below the best.
  assert spans.to_numpy().tolist() == [[2**-8, 8], [0.25, 8], [0.25, 8]]
  fresh = found[found["stage"] == "fresh"]
  assert set(fresh["seed"]) == set(range(4))
  best, edge = rate_search.best_rates(fresh, (8, 64, 512))
  np.testing.assert_array_equal(edge, 0)
  np.testing.assert_allclose(
    np.log(best).mean(axis=0), np.log([0.009, 0.5, 2.0]), atol=0.15
  )


def test_a_fresh_column_goes_on_where_many_seeds_are_at_its_end():
  run, _ = made_up(lambda size: 0.5 if size == 8 else 1.4, spread=0.0)
  begin = {8: [-2, -1, 0], 16: [-2, -1, 0]}  # 0.5 to 1
  found = rate_search.extended(
    run,
    begin,
    range(2),
    lambda table, size: rate_search.more_fresh(table, size, -1),
  )
  assert found.groupby("batch_size")["learning_rate"].nunique().to_dict() == {
    8: 4,
    16: 5,
  }


def test_the_search_ends_at_its_limits():
  run, _ = made_up(lambda size: 1e9, diverges=math.inf)
  found = rate_search.search(
    run, (8,), (1.0, 2.0, 4.0), tuning_seeds=range(1), seeds=range(2)
  )
  coarse, fresh = (found[found["stage"] == s] for s in ("coarse", "fresh"))
  assert coarse["learning_rate"].max() == rate_search.rate(16)
  assert fresh["learning_rate"].max() == rate_search.rate(16 + 2 + 3)
  _, edge = rate_search.best_rates(fresh, (8,))
  np.testing.assert_array_equal(edge, 1)  # said, not hidden


def test_rates_of_half_octaves():
  assert [rate_search.rate(k) for k in (-12, -1, 0, 1, 4)] == [
    0.015625,
    0.7071,
    1.0,
    1.414,
    4.0,
  ]
  for k in range(-22, 22):
    assert rate_search.place(rate_search.rate(k)) == k


def as_claimed(size):
  """Linear to 64, like the square root to 512, then constant."""
  return 0.002 * min(size, 64) * (min(max(size, 64), 512) / 64) ** 0.5


def opposite(size):
  return 0.8 * (8 / size) ** 0.5


def panels(best):
  rows = []
  for size in lr_batch_size.PANELS:
    for rate in lr_batch_size.PANEL_RATES:
      for seed in range(SEEDS):
        for epoch in (0.0, 0.25, 1.0):
          rng = np.random.default_rng([seed, int(1000 * rate)])
          accuracy = 0.9 + 0.001 * rng.normal() + 0.01 * (rate == best[size])
          row = {"batch_size": size, "learning_rate": rate, "seed": seed}
          row |= {"epoch": epoch, "dev_accuracy": accuracy, "dev_loss": 0.2}
          rows.append(row)
  return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def values():
  return study.preset_values(lr_batch_size.STUDY, "full")


@pytest.fixture(scope="module")
def measure(values):
  def made(optimum, best):
    run, _ = made_up(optimum)
    table = rate_search.search(
      run,
      values.batch_sizes,
      values.rates,
      tuning_seeds=range(1000, 1002),
      seeds=range(SEEDS),
    )
    both = [table.assign(kind=kind) for kind in lr_batch_size.BUDGETS]
    return {"table": pd.concat(both), "panels": panels(best)}

  return made


def verdict_of(parts):
  assert len({(part.claim, part.name) for part in parts}) == len(parts) == 18
  return {part.name: part.verdict for part in parts}


def test_the_claim_as_made_holds_and_is_drawn(measure, values):
  measured = measure(as_claimed, lr_batch_size.PANELS)
  parts = lr_batch_size.judge(measured, values)
  assert set(verdict_of(parts).values()) == {Verdict.HOLDS}
  (bends,) = [p for p in parts if p.name == "bends, equal updates"]
  assert bends.effect.estimate == pytest.approx(1, abs=0.1)
  assert "BIC prefers two breaks, by " in bends.note
  assert " of 300 censored" in bends.note
  summary = lr_batch_size.summarise(measured, values)
  assert len(summary) == 20
  np.testing.assert_allclose(
    summary["best_rate"][:10],
    list(map(as_claimed, values.batch_sizes)),
    rtol=0.2,
  )
  assert set(summary["diverges_from"]) == {8.0}
  figures = lr_batch_size.draw(measured, values)
  assert set(figures) == {"map_epochs", "map_updates", "ridge", "panels"}
  left, right = figures["map_epochs"].axes[:2]
  for ax in (left, right):
    hatched = [c for c in ax.collections if c.get_hatch()]
    assert len(hatched) == 10  # a diverged cell on top of each column
  legend = figures["ridge"].axes[0].get_legend().get_texts()
  (text,) = [t.get_text() for t in legend if "fit" in t.get_text()]
  exponents = text.removeprefix("fit (two breaks): slope ").split(", ")[:3]
  np.testing.assert_allclose(list(map(float, exponents)), [1, 0.5, 0], atol=0.1)


def test_the_opposite_does_not_hold(measure, values):
  measured = measure(opposite, {16: 0.5, 32: 0.1})
  found = verdict_of(lr_batch_size.judge(measured, values))
  for kind in lr_batch_size.BUDGETS.values():
    for name in ("32 above 16", "slope", "linear", "square root", "none"):
      assert found[f"{name}, {kind}"] is Verdict.FAILS
    assert found[f"bends, {kind}"] is Verdict.FAILS
  assert found["batch 32: 0.5 above 0.1"] is Verdict.FAILS
  assert found["batch 16: 0.1 above 0.5"] is Verdict.FAILS
  assert found["batch 16: 0.1 above 0.3"] is Verdict.FAILS  # within the margin


def test_fitted_line_goes_through_what_it_fits(measure, values):
  measured = measure(as_claimed, lr_batch_size.PANELS)
  found, _ = lr_batch_size._ridge(measured["table"], "epochs", values)
  x = np.array(values.batch_sizes, np.float64)
  np.testing.assert_allclose(
    lr_batch_size.fitted(found, x), list(map(as_claimed, x)), rtol=0.15
  )


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"batch_sizes": (16, 32, 128, 512)}, "at least five"),
    ({"batch_sizes": (32, 16, 128, 512, 1024)}, "rising"),
    ({"batch_sizes": (16, 32, 128, 256, 512)}, "two or more"),
    ({"batch_sizes": (8, 32, 128, 512, 1024)}, "expected 16 among"),
    ({"rates": (0.5, 1.0)}, "at least three"),
    ({"rates": (0.1, 0.3, 0.5)}, "twice the one before"),
    ({"rates": (0.3, 0.6, 1.2)}, "powers of 2"),
    ({"rates": (0.25, 0.5, 2.0)}, "twice the one before"),
    ({"rates": (0.0, 0.3, 0.5)}, "twice the one before"),
  ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, message):
  values = study.preset_values(lr_batch_size.STUDY, "quick")
  lr_batch_size.check(values)
  vars(values).update(wrong)
  with pytest.raises(InputError, match=message):
    lr_batch_size.check(values)

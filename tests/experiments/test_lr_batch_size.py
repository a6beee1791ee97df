"""B1, B2 and H1 on maps that are made up, whose answer is known."""

import functools
import math

import numpy as np
import pandas as pd
import pytest

from experiments._shared import rate_search, study
from experiments.lr_batch_size import panels, ridges, scaling
from experiments.lr_batch_size.study import STUDY
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 30
HOLDS, FAILS = Verdict.HOLDS, Verdict.FAILS
CLIFF = 4.0  # the rate from which all runs diverge


def made_up(optimum, spread=0.1):
  """A sweep whose log loss is a parabola about optimum(batch, epoch)."""

  def run(cells, epochs):
    asked.append((len(cells), epochs))
    rows = []
    for cell in cells:
      rng = np.random.default_rng([cell.seed, cell.batch_size])
      own = math.exp(spread * rng.normal())
      for epoch in (0, *(h for h in (1, 2, 5, 10, 20, 30) if h <= epochs)):
        best = optimum(cell.batch_size, max(epoch, 1)) * own
        loss = 0.1 * math.exp(0.05 * math.log(cell.learning_rate / best) ** 2)
        if cell.learning_rate >= CLIFF:
          loss = 50.0
        correct = 1 - loss if loss < 1 else 0.1
        rows.append(
          {
            "cell": repr((cell, epochs)),
            "batch_size": cell.batch_size,
            "learning_rate": cell.learning_rate,
            "seed": cell.seed,
            "drop_last": cell.drop_last,
            "epoch": float(epoch),
            "dev_loss": loss,
            "dev_accuracy": correct,
            "test_loss": loss if epoch == epochs else math.nan,
            "test_accuracy": correct if epoch == epochs else math.nan,
            "diverged_step": None,
          }
        )
    return pd.DataFrame(rows)

  asked = []
  return run, asked


def as_claimed(size, epoch):
  """Rate x epochs / batch is constant, under a ceiling."""
  return min(1.6, 0.05 * (size / 32) * (30 / epoch))


def opposite(size, epoch):
  return 0.5 * (32 / size) ** 0.3 * epoch**0.1


def made_panels(best):
  """Accuracies a point higher, losses lower, at the best rate of a batch."""
  rows = []
  for size in panels.PANELS:
    for rate in panels.PANEL_RATES:
      for seed in range(SEEDS):
        rng = np.random.default_rng([seed, int(1000 * rate), size])
        more = 0.01 * (rate == best[size]) + 0.001 * rng.normal()
        for epoch in (0.0, 1.0, 5.0, 20.0, 30.0):
          row = {"batch_size": size, "learning_rate": rate, "seed": seed}
          row |= {"epoch": epoch, "step": epoch, "drop_last": True}
          row |= {"cell": f"{size} {rate} {seed}", "diverged_step": None}
          row |= {"dev_accuracy": 0.9 + more, "dev_loss": 0.2 - 2 * more}
          row |= {"test_accuracy": 0.9 + more, "test_loss": 0.2 - 2 * more}
          rows.append(row)
  return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def values():
  return study.preset_values(STUDY, "full")


@pytest.fixture(scope="module")
def measure(values):
  @functools.cache
  def made(optimum, same):
    best = panels.PANELS if same else {16: 0.5, 32: 0.1}
    table = rate_search.search(
      made_up(optimum)[0],
      ridges.targets(values),
      values.rates,
      tuning_seeds=range(1000, 1002),
      seeds=range(SEEDS),
    )
    return {"table": table, "panels": made_panels(best)}

  return made


def judged(measured, values):
  claims = {claim.claim: claim for claim in STUDY.judge(measured, values)}
  assert set(claims) == {"B1", "B2", "H1"}
  return claims


def test_the_claims_as_made_hold_and_are_drawn(measure, values):
  measured = measure(as_claimed, same=True)
  claims = judged(measured, values)
  for claim in claims.values():
    wrong = [p.name for p in claim.parts if p.verdict is not HOLDS]
    # At the ceiling the best rate does not fall, as made.
    assert set(wrong) <= {"falls at batch 2048", "falls at batch 8192"}
    assert claim.verdict is HOLDS
  b1, b2, h1 = (claims[name] for name in ("B1", "B2", "H1"))
  contrast = "0.5 less 0.1 larger at 32 than at 16, 30 epochs, accuracy"
  assert b1.found(contrast).estimate == pytest.approx(0.02, abs=0.002)
  assert b1[contrast].test_effect.estimate == b1.found(contrast).estimate
  assert "0.1 at batch 16 and 0.5 at batch 32 by development" in b1.sentence
  assert b2.found("linear").estimate == pytest.approx(1, abs=0.05)
  assert b2["linear"].test_effect.estimate == b2.found("linear").estimate
  assert b2.found("square root").estimate == pytest.approx(0.5, abs=0.05)
  assert "BIC prefers " in b2["bends"].note
  assert h1.found("falls at batch 32").estimate == pytest.approx(-1, abs=0.05)
  assert h1.found("falls at batch 8192").estimate == pytest.approx(0, abs=0.01)
  assert "-1.0" in h1.sentence
  summary = STUDY.summarise(measured, values)
  assert len(summary) == 2 * 6 + 5 * 5
  expected = list(map(as_claimed, summary["batch_size"], summary["epochs"]))
  np.testing.assert_allclose(summary["best_rate"], expected, rtol=0.15)
  assert set(STUDY.figures(measured, values)) == {"horizons", "map", "panels"}


def test_the_opposite_does_not_hold(measure, values):
  measured = measure(opposite, same=False)
  claims = judged(measured, values)
  for name in ("B1", "B2", "H1"):
    assert claims[name].verdict is FAILS, name
  for part in claims["B1"].parts:
    if ": 0.5" not in part.name and "larger" in part.name:
      assert part.verdict is FAILS
  assert claims["B2"]["falls"].verdict is not HOLDS
  assert claims["H1"]["falls at batch 32"].verdict is FAILS


def test_an_exponent_between_censored_rates_is_not_judged(measure, values):
  measured = measure(as_claimed, same=True)
  table = measured["table"]
  own = (table["batch_size"] == 128) & (table["epoch"] == 30)
  own &= table["stage"] == "fresh"
  lowest = table[own]["learning_rate"].min()
  best = own & (table["learning_rate"] == lowest)
  changed = table.assign(dev_loss=table["dev_loss"].where(~best, 0.01))
  claims = judged(measured | {"table": changed}, values)
  assert claims["B2"]["linear"].verdict is Verdict.UNDECIDED
  assert "censored" in claims["B2"]["linear"].note
  assert claims["B2"]["none"].verdict is HOLDS


def test_columns_go_on_until_their_best_rate_is_inside():
  optima = {8: 0.009, 64: 0.5, 512: 2.0}
  run, asked = made_up(lambda size, epoch: optima[size] / epoch)
  one, five = (rate_search.Target(h, "dev_loss") for h in (1, 5))
  targets = {8: [one], 64: [one, five], 512: [one]}
  found = rate_search.search(
    run,
    targets,
    (0.25, 0.5, 1.0),
    tuning_seeds=range(9, 11),
    seeds=range(20),
  )
  assert asked[0] == (3 * 2, 5)  # the longest first
  assert asked[1] == (2 * 3 * 2, 1)
  fresh = found[found["stage"] == "fresh"]
  assert set(fresh["seed"]) == set(range(20))
  best = rate_search.best_rates(fresh, (8, 64, 512), one)
  np.testing.assert_allclose(best.at, list(optima.values()), rtol=0.15)
  assert (best.censored <= rate_search.AT_END).all()
  later = rate_search.best_rates(fresh, (64,), five)
  np.testing.assert_allclose(later.at, [0.1], rtol=0.1)
  # A rate is run for as long as it is needed, and no longer.
  ends = (
    fresh[fresh["batch_size"] == 64].groupby("learning_rate")["epoch"].max()
  )
  assert ends[0.0625] == ends[0.125] == 5
  assert ends[1.0] == 1
  # Beside the rates that diverge the steps are halves.
  rates = fresh[fresh["batch_size"] == 512]["learning_rate"].unique()
  assert {1.414, 2.0, 2.828} <= set(rates)
  assert not fresh.duplicated(
    ["batch_size", "learning_rate", "seed", "epoch"]
  ).any()


def test_the_search_ends_at_its_limits():
  run, _ = made_up(lambda size, epoch: 1e-4)
  target = rate_search.Target(1, "dev_loss")
  found = rate_search.search(
    run,
    {8: [target]},
    (1.0, 2.0, 4.0),
    tuning_seeds=range(1),
    seeds=range(2),
  )
  fresh = found[found["stage"] == "fresh"]
  assert fresh["learning_rate"].min() == rate_search.rate(rate_search.LOWEST)
  best = rate_search.best_rates(fresh, (8,), target)
  assert best.censored.tolist() == [1.0]  # said, not hidden


def test_lost_runs_count_as_guessing():
  rows = {"dev_loss": [0.1, 5.0, 0.1], "dev_accuracy": [0.97, 0.4, 1.0]}
  rows |= {"diverged_step": [None, None, 3]}
  table = pd.DataFrame(rows)
  loss = rate_search.counted(table, "dev_loss")
  assert loss.tolist() == [0.1, 5.0, math.log(10)]
  error = rate_search.counted(table, "dev_error")
  np.testing.assert_allclose(error, [0.03, 0.9, 0.9])


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


def ridge_of(rates):
  draws = np.tile(np.asarray(rates, np.float64), (50, 1))
  best = rate_search.grid_minimum.MeanMinima(
    draws[0], draws, np.zeros(len(rates)), SEEDS
  )
  return ridges.Ridge(np.array([16, 64, 256, 1024]), best)


def test_where_the_exponent_passes_a_half():
  # Exponents 1, 1/2 - 1/4, 0 over the gaps 16-64, 64-256, 256-1024.
  at, censored = ridges.crossing(ridge_of([1, 4, 4 * 4**0.25, 4 * 4**0.25]))
  middles = 32, 128  # two thirds of the way from 1 to 1/4 is 1/2
  expected = middles[0] * (middles[1] / middles[0]) ** (2 / 3)
  np.testing.assert_allclose(at, expected)
  assert censored == 0.0
  assert "at batch 81 (81 to 81)" in scaling.passes(
    ridge_of([1, 4, 5.65685, 5.65685])
  )


@pytest.mark.parametrize(
  ("rates", "where", "words"),
  [
    ([1, 4, 16, 64], 512, "at no batch that could be told"),
    ([1, 1, 1, 1], 32, "from the smallest batch on"),
  ],
)
def test_where_it_passes_nowhere(rates, where, words):
  at, censored = ridges.crossing(ridge_of(rates))
  np.testing.assert_allclose(at, where)
  assert censored == 1.0
  assert words in scaling.passes(ridge_of(rates))


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"batch_sizes": (8, 32, 128, 512, 1024)}, "at least 5 from 32"),
    ({"rates": (0.5, 1.0)}, "at least three"),
    ({"rates": (0.1, 0.3, 0.5)}, "twice the one before"),
    ({"rates": (0.3, 0.6, 1.2)}, "powers of 2"),
    ({"epochs": 1}, "at least 2"),
  ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, message):
  values = study.preset_values(STUDY, "quick")
  STUDY.check(values)
  vars(values).update(wrong)
  with pytest.raises(InputError, match=message):
    STUDY.check(values)

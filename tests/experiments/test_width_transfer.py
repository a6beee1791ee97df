"""H7 on runs whose answer is known; muP at the base width and beyond it."""

import numpy as np
import pandas as pd
import pytest

from experiments import width_transfer
from experiments._shared import study
from mnist_jax import data, sweep
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the programs that other tests run

VALUES = study.preset_values(width_transfer.STUDY, "full")
SEEDS = [*range(VALUES.seeds), *study.tuning_seeds(VALUES.tuning_seeds)]


def made_up(powers, lost_above=np.inf):
  """Runs whose loss is least at 0.5 (width / 64)^power."""
  rng = np.random.default_rng(0)
  rows = []
  for kind, power in powers.items():
    for width in VALUES.widths:
      best = np.log(0.5 * (width / 64) ** power)
      for seed in SEEDS:
        noise = rng.normal(0, 0.01)
        for rate in VALUES.rates:
          loss = 0.1 * np.exp(0.2 * (np.log(rate) - best) ** 2 + noise)
          loss = np.nan if rate > lost_above else loss
          row = {"kind": kind, "width": width, "rate": rate, "seed": seed}
          both = {"dev_loss": loss, "test_loss": loss, "dev_accuracy": 0.9}
          rows.append(row | both)
  return pd.DataFrame(rows)


@pytest.mark.parametrize(
  ("standard", "mup", "word"),
  [
    (-0.5, 0.0, Verdict.HOLDS),
    (0.0, 0.0, Verdict.FAILS),
    (-0.5, 0.4, Verdict.FAILS),
    (0.5, 0.0, Verdict.FAILS),
  ],
)
def test_what_moves_and_what_stays(standard, mup, word):
  table = made_up({"standard": standard, "muP": mup})
  (found,) = width_transfer.judge(table, VALUES)
  assert found.verdict == word
  for kind, power in (("standard", standard), ("muP", mup)):
    exponent = found.found(f"{kind}: exponent").estimate
    assert exponent == pytest.approx(power, abs=0.02)
    assert f"{power:.1f}" in found.sentence
  # The own rate is up to half a step of the grid off its place as well.
  cost = found.found("standard: cost, loss").estimate
  off = np.log(4) * standard
  assert cost == pytest.approx(0.1 * np.expm1(0.2 * off**2), rel=0.15, abs=1e-3)


def test_where_the_grid_ends_before_the_answer_nothing_is_judged():
  table = made_up({"standard": -2.0, "muP": 0.0})
  (found,) = width_transfer.judge(table, VALUES)
  assert found["standard: exponent"].verdict == "undecided"
  assert "censored" in found["standard: exponent"].note


def test_a_lost_run_is_worse_than_guessing_and_in_no_mean():
  table = made_up({"standard": -0.5, "muP": 0.0}, lost_above=2.0)
  (found,) = width_transfer.judge(table, VALUES)
  assert found.found("muP: exponent").estimate == pytest.approx(0, abs=0.02)
  summary = width_transfer.summarise(table, VALUES)
  assert set(summary["lost"]) == {0, VALUES.seeds}
  assert summary["dev_loss"][summary["lost"] == 0].notna().all()


def test_at_the_base_width_both_are_the_chapters_network():
  assert width_transfer.start_factors(64) == pytest.approx((1, 1, 1))
  assert [tuple(own) for own in width_transfer.rate_factors(64)] == [(1, 1)] * 3


def test_mup_keeps_the_first_layers_spread_and_shrinks_the_last():
  first, middle, last = width_transfer.start_factors(256)

  def xavier(*fans):
    return np.sqrt(2 / sum(fans))

  assert first * xavier(784, 256) == pytest.approx(xavier(784, 64))
  assert middle * xavier(256, 64) == pytest.approx(xavier(64, 16) / 2)
  assert last * xavier(64, 10) == pytest.approx(xavier(16, 10) / 4)


def test_with_one_rate_for_all_they_are_the_sweeps_runs(mnist, tmp_path):
  few = data.take(mnist, 600)
  values = study.preset_values(width_transfer.STUDY, "quick")
  values.widths, values.rates = (16, 64, 128), (0.25, 0.5, 1.0)
  lab = study.Lab(few, tmp_path, overwrite=False)
  table = width_transfer.measure(lab, values)
  assert len(table) == 2 * 3 * 3 * (values.seeds + values.tuning_seeds)
  budget = sweep.Budget(epochs=1, final_splits=("test",))
  cells = sweep.product(learning_rate=values.rates, seed=range(values.seeds))
  theirs = sweep.run(cells, budget, dataset=few)
  ends = theirs[theirs["step"] == theirs["step"].max()]
  index, columns = ["learning_rate", "seed"], ["dev_loss", "test_accuracy"]
  expected = ends.set_index(index).sort_index()[columns].to_numpy()
  for kind in width_transfer.KINDS:  # at the base width muP is the same
    own = table[(table["kind"] == kind) & (table["width"] == 64)]
    own = own[own["seed"] < study.TUNING_SEED]
    found = own.set_index(["rate", "seed"]).sort_index()[columns]
    np.testing.assert_allclose(found, expected, atol=2e-3)
  wide = table[(table["width"] == 128) & (table["rate"] == 1.0)]
  means = wide.groupby("kind")["dev_loss"].mean()
  assert abs(means["muP"] - means["standard"]) > 1e-3

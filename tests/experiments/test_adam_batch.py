"""H5 on runs whose best rates and losses are known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from experiments import adam_batch
from experiments._shared import rate_search, study
from experiments.adam_batch import ARMS, DEFAULT, HALF_LIFE, SGD, SHORT
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy alone

VALUES = study.preset_values(adam_batch.STUDY, "full")
SHORT_IS_WORSE = {(SHORT, 16): 1.2}


def by_power(arm, size, power, peak):
  """SGD's grow like the batch, Adam's like a power of it, and fall so too."""
  if ARMS[arm].beta2 is None:
    return ARMS[arm].guess * size / 64
  return ARMS[arm].guess * (min(size, peak**2 / size) / 64) ** power


def losses(arm, size, rates, seeds, best, worse=1.0):
  """Of each seed and rate, least at the best rate."""
  noise = np.array(
    [np.random.default_rng([seed, size]).normal(0, 0.01) for seed in seeds]
  )
  away = np.log(np.asarray(rates) / best)
  return 0.2 * worse * np.exp(0.1 * away**2 + noise[:, None])


def made_up(power, peak=np.inf, worse=(), lost_above=np.inf):
  """All runs on grids of five rates around the best one."""
  seeds = [*range(VALUES.seeds), *study.tuning_seeds(VALUES.tuning_seeds)]
  found = []
  for arm, size in itertools.product(ARMS, VALUES.batches):
    best = by_power(arm, size, power, peak)
    middle = 2 * round(rate_search.place(best) / 2)
    rates = [rate_search.rate(middle + away) for away in range(-4, 5, 2)]
    factor = dict(worse).get((arm, size), 1.0)
    loss = losses(arm, size, rates, seeds, best, factor).ravel()
    own = pd.DataFrame(
      itertools.product(seeds, rates), columns=["seed", "learning_rate"]
    )
    lost = own["learning_rate"] > lost_above
    found.append(
      own.assign(
        arm=arm,
        batch_size=size,
        drop_last=True,
        dev_loss=np.where(lost, np.nan, loss),
        test_loss=np.where(lost, np.nan, 1.1 * loss),
        diverged_step=np.where(lost, 5, np.nan),
      )
    )
  return pd.concat(found, ignore_index=True)


@pytest.mark.parametrize(
  ("power", "peak", "worse", "word"),
  [
    (0.5, 1024, SHORT_IS_WORSE, Verdict.HOLDS),
    (0.5, 1024, {}, Verdict.LIMITS),
    (0.2, np.inf, SHORT_IS_WORSE, Verdict.FAILS),
  ],
)
def test_powers_peaks_and_losses_are_found(power, peak, worse, word):
  (found,) = adam_batch.judge(made_up(power, peak, worse), VALUES)
  assert found.verdict == word
  last = power if peak == np.inf else -power
  for name, exponent in {
    "root": power,
    "slower": 1 - power,
    "linear": 1.0,
    "momentum": 0.0,
    "falls": last,
  }.items():
    assert found.found(name).estimate == pytest.approx(exponent, abs=0.02)
  for exponent in (power, last):
    assert f"{exponent:.2f}" in found.sentence
  gain = found.found("half-life: gain, loss").estimate
  assert gain == pytest.approx(0.04 if worse else 0.0, rel=0.1, abs=1e-3)
  as_good = found["short: as good, loss"].verdict
  assert as_good == (Verdict.FAILS if worse else Verdict.HOLDS)
  assert found["half-life: as good, loss"].verdict == Verdict.HOLDS


def test_where_the_grid_ends_before_the_answer_nothing_is_judged():
  table = made_up(0.5, 1024)
  cut = (table["arm"] == DEFAULT) & (table["batch_size"] == 64)
  cut &= table["learning_rate"] > ARMS[DEFAULT].guess
  (found,) = adam_batch.judge(table[~cut], VALUES)
  for name in ("root", "slower"):
    assert found[name].verdict == Verdict.UNDECIDED
    assert "censored" in found[name].note
  for name in ("linear", "falls"):
    assert found[name].verdict == Verdict.HOLDS


def test_lost_runs_count_as_guessing_and_are_told():
  table = made_up(0.5, lost_above=3.0)
  values = study.preset_values(adam_batch.STUDY, "full")
  values.batches = (16, 4096)
  rows = adam_batch.summarise(table, values).set_index(["arm", "batch_size"])
  all_lost, none_lost = rows.loc[(SGD, 4096)], rows.loc[(SHORT, 16)]
  assert (all_lost["lost"], none_lost["lost"]) == (all_lost["runs"], 0)
  assert all_lost["dev_loss"] == pytest.approx(np.log(10))
  assert none_lost["dev_loss"] == pytest.approx(0.2, rel=0.02)
  assert none_lost["best_rate"] == pytest.approx(2**-9, rel=0.02)


def test_half_of_the_squares_are_forgotten_in_as_many_examples():
  for size in VALUES.batches:
    updates = np.log(0.5) / np.log(adam_batch.half_life(size))
    assert updates * size == pytest.approx(11_085, rel=1e-3)


class MadeUp:
  """A lab whose runs have their least loss at factor times the guess."""

  def __init__(self, factor):
    self.factor = factor
    self.cells = {}

  def sweep(self, cells, budget):
    ((arm, every),) = cells.items()
    self.cells.setdefault(arm, []).extend(every)
    return pd.DataFrame([self.row(arm, cell) for cell in every])

  def row(self, arm, cell):
    best = self.factor * by_power(arm, cell.batch_size, 0.5, np.inf)
    rates = [cell.learning_rate]
    ((loss,),) = losses(arm, cell.batch_size, rates, [cell.seed], best)
    fields = ("batch_size", "learning_rate", "seed", "drop_last")
    return {name: getattr(cell, name) for name in fields} | {
      "arm": arm,
      "cell": f"{cell}",
      "step": 9,
      "dev_loss": loss,
      "diverged_step": None,
    }


@pytest.mark.parametrize(("factor", "more"), [(1, 0), (4, 2), (1e4, 4)])
def test_what_is_run_and_how_far_grids_go_on(factor, more):
  values = study.preset_values(adam_batch.STUDY, "quick")
  lab = MadeUp(factor)
  adam_batch.measure(lab, values)
  given = {
    (arm, cell.batch_size): (cell.optimizer, cell.optimizer_args)
    for arm, cells in lab.cells.items()
    for cell in cells
  }
  assert given[SGD, 16] == ("sgd", None)
  assert given[DEFAULT, 1024] == given[HALF_LIFE, 16] == ("adam", "b2=0.999")
  assert given[SHORT, 16] == given[HALF_LIFE, 1024] == ("adam", "b2=0.937975")
  for arm, cells in lab.cells.items():
    assert len(cells) == len(set(cells))
    assert all(cell.drop_last for cell in cells)
    for size in values.batches:
      rates = [c.learning_rate for c in cells if c.batch_size == size]
      own = sorted(set(rates))
      assert len(rates) == (values.seeds + values.tuning_seeds) * len(own)
      np.testing.assert_allclose(np.diff(np.log2(own)), 1)
      if arm == DEFAULT:
        assert own[0] == pytest.approx(ARMS[arm].guess * (size / 64) ** 0.5 / 2)
        assert len(own) == 3 + more

"""B6: best batches and verdicts on tables whose answer is known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments import best_batch
from experiments._shared import study
from experiments.best_batch import Curve
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

ALL = 55_000
VALUES = study.preset_values(best_batch.STUDY, "full")
HOLDS, FAILS = Verdict.HOLDS, Verdict.FAILS


def by_root(curve):
  """Grows like the root of rate and of N; 64 at rate 0.5 and all, 30 epochs."""
  grown = (curve.learning_rate / 0.5 * curve.examples / ALL) ** 0.5
  return (64 if curve.epochs > 1 else 16) * grown


def rows_of(curve, batches, best, steep, seeds):
  for size in batches:
    for seed in range(seeds):
      rng = np.random.default_rng([seed, curve.examples, curve.epochs])
      away = np.log(size / best(curve)) + 0.1 * rng.normal()
      error = 0.03 * np.exp(steep * away**2)
      yield (
        dataclasses.asdict(curve)
        | {"seed": seed, "batch_size": int(size), "drop_last": True}
        | {"dev_accuracy": 1 - error, "test_accuracy": 0.99 - error}
        | {"dev_loss": 0.1, "diverged_step": None}
      )


def made(best, seeds=30, steep=0.03):
  """Errors that rise, in log batch, on both sides of best(curve)."""
  todo = best_batch.begin(ALL, VALUES)
  main = best_batch.main_curve(ALL, VALUES)
  rows = []
  while todo:
    for curve, batches in todo.items():
      rows += rows_of(curve, batches, best, steep, seeds)
    table = pd.DataFrame(rows)
    lacking = {c: best_batch.more(table, c) for c in todo if c != main}
    todo = {curve: batches for curve, batches in lacking.items() if batches}
  return table


@pytest.fixture(scope="module")
def with_peaks():
  return made(by_root)


def judged(table):
  (claim,) = best_batch.judge(table, VALUES)
  return claim


def test_peaks_that_move_with_rate_and_data(with_peaks):
  claim = judged(with_peaks)
  assert len(claim.parts) == 2 + 1 + 2
  assert {part.verdict for part in claim.parts} == {HOLDS}
  assert claim.verdict is HOLDS
  for name in ("rate", "N"):
    assert claim.found(name).estimate == pytest.approx(0.5, abs=0.05)
    assert claim[name].test_effect.estimate == pytest.approx(0.5, abs=0.1)
  small = claim["above the smallest, accuracy"]
  assert small.test_effect.estimate == pytest.approx(small.effect.estimate)
  assert "the error is least at batch 6" in claim.sentence
  summary = best_batch.summarise(with_peaks, VALUES)
  row = summary[summary["examples"] == 10_000].iloc[0]
  expected = 64 * (10 / 55) ** 0.5
  assert row["best_batch"] == pytest.approx(expected, rel=0.1)
  noise = 0.5 * (10_000 / row["best_batch"] - 1)
  assert row["noise_scale_at_best"] == pytest.approx(noise)


def test_grids_go_on_until_the_best_batch_is_inside(with_peaks):
  for curve in best_batch.curves_of(with_peaks):
    batches, accuracy = best_batch.by_batch(with_peaks, curve)
    assert batches[0] < by_root(curve) < batches[-1]
    assert accuracy.shape == (30, len(batches))
  tiny = Curve(1, ALL, 0.125)
  table = pd.DataFrame(rows_of(tiny, (8, 16, 32), lambda _: 3.0, 0.03, 30))
  assert best_batch.more(table, tiny) == [4]
  table = pd.DataFrame(rows_of(tiny, (1, 2, 4), lambda _: 0.1, 0.03, 30))
  assert best_batch.more(table, tiny) == []  # there is no half of an example
  few = Curve(30, 400, 0.5)
  table = pd.DataFrame(rows_of(few, (8, 16, 32), lambda _: 1e4, 0.03, 30))
  assert best_batch.more(table, few) == []  # 64 would be above 400 / 8


def test_larger_is_better_and_there_is_no_peak():
  claim = judged(made(lambda curve: 1e4, steep=0.003))
  assert claim["above the smallest, accuracy"].verdict is HOLDS
  assert claim["above the largest, accuracy"].verdict is FAILS
  assert claim.verdict is FAILS
  # All best batches are ends of grids: nothing is said of their slope.
  assert claim["N"].verdict is Verdict.UNDECIDED
  assert "censored" in claim["N"].note


def test_a_peak_after_one_epoch_alone():
  def best(curve):
    return 16 if curve.epochs == 1 else 1e4

  claim = judged(made(best))
  assert claim.verdict is Verdict.MOSTLY_NOT
  assert "after one epoch" in claim.restriction


def test_a_best_batch_that_shrinks():
  claim = judged(made(lambda curve: 1000 / by_root(curve)))
  assert claim["rate"].verdict is FAILS
  assert claim["N"].verdict is FAILS


def test_the_inside_batch_is_chosen_on_other_seeds():
  # Each half's own best would gain from its luck.
  accuracy = np.full((4, 4), 0.5)
  accuracy[::2, 1] = 0.9  # what seeds 0 and 2 like
  accuracy[1::2, 2] = 0.9
  assert best_batch.inside(accuracy).tolist() == [2, 1, 2, 1]
  noise = np.random.default_rng(0).normal(size=(1000, 9))
  rows = np.arange(len(noise))
  gain = noise[rows, best_batch.inside(noise)].mean()
  assert abs(gain) < 0.1
  noise[:, 0] = 99.0  # an end is no inside
  assert (best_batch.inside(noise) > 0).all()


def test_short_last_batches_are_refused(with_peaks):
  with pytest.raises(InputError, match="short last batches"):
    judged(with_peaks.assign(drop_last=False))


def test_noise_scale():
  curve = Curve(30, 1000, 0.5)
  np.testing.assert_allclose(curve.noise_scale(np.array([100.0])), [4.5])


def test_sizes_that_hold_no_grid_are_refused():
  values = study.preset_values(best_batch.STUDY, "full")
  best_batch.check(values)
  values.sizes = (400,)
  with pytest.raises(InputError, match="expected at least 512"):
    best_batch.check(values)


def test_figures(with_peaks):
  figures = best_batch.draw(with_peaks, VALUES)
  assert set(figures) == {"accuracy", "best_batch", "noise_scale"}

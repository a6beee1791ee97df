"""B6: each seed's best batch, and verdicts on tables whose answer is known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments import best_batch
from experiments._shared import study
from experiments.best_batch import Curve
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import grid_minimum
from mnist_jax.stats.verdicts import Verdict

ALL = 55_000
VALUES = study.preset_values(best_batch.STUDY, "full")


def by_root(curve):
  """Grows like the root of rate and of N; 32 at rate 0.4 and 4,000."""
  return 32 * (curve.effective_rate / 0.4 * curve.examples / 4000) ** 0.5


def made(best, seeds=30, steep=0.004):
  """Accuracies that fall off, in log batch, on both sides of best(curve)."""
  rows = []
  for curve in best_batch._curves(VALUES, ALL):
    for cell in best_batch._cells(curve, VALUES, ALL):
      rng = np.random.default_rng([cell.seed, int(curve.examples)])
      if cell.seed < seeds or cell.seed >= study.TUNING_SEED:
        away = np.log(cell.batch_size / best(curve)) + 0.1 * rng.normal()
        accuracy = 0.95 - steep * away**2 + 1e-4 * rng.normal()
        rows.append(
          dataclasses.asdict(curve)
          | {"seed": cell.seed, "batch_size": cell.batch_size}
          | {"dev_accuracy": accuracy, "test_accuracy": accuracy}
        )
  table = pd.DataFrame(rows)
  tuning = table["seed"] >= study.TUNING_SEED
  return {"table": table[~tuning], "tuning": table[tuning]}


def verdicts_of(measured):
  parts = best_batch.judge(measured, VALUES)
  assert len({part.name for part in parts}) == len(parts)
  return {part.name: part for part in parts}


def test_peaks_that_move_with_rate_and_data():
  measured = made(by_root)
  parts = verdicts_of(measured)
  assert len(parts) == 2 * 11 + 4  # both ends of each plain curve, and slopes
  assert {part.verdict for part in parts.values()} == {Verdict.HOLDS}
  for name in ("rate, equal updates, N 1000", "N, equal updates, rate 0.4"):
    assert parts[name].effect.estimate == pytest.approx(0.5, abs=0.05)
  summary = best_batch.summarise(measured, VALUES)
  assert len(summary) == 12
  row = summary[(summary["examples"] == 4000)].iloc[0]
  assert row["best_batch"] == pytest.approx(32, rel=0.05)
  assert row["noise_scale_at_best"] == pytest.approx(0.4 * (125 - 1), rel=0.06)


def test_larger_is_better_and_there_is_no_peak():
  parts = verdicts_of(made(lambda curve: 1e4, steep=0.0004))
  for name, part in parts.items():
    above = name.startswith("peak above the smallest")
    assert part.verdict is (Verdict.HOLDS if above else Verdict.FAILS), name
  assert parts["rate, one epoch, N 55000"].effect.estimate == 0.0
  assert "90 at the largest" in parts["rate, one epoch, N 55000"].note


def test_best_batch_that_shrinks():
  parts = verdicts_of(made(lambda curve: 1000 / by_root(curve)))
  for name in ("rate, equal updates, N 1000", "N, equal updates, rate 0.4"):
    assert parts[name].verdict is Verdict.FAILS


def test_best_batches_are_vertices_of_the_error():
  curve = Curve("updates", 1000, 0.0, 0.4)
  sizes = [8, 16, 32, 64]
  accuracy = [0.8, 0.9, 0.9, 0.8]
  rows = [
    dataclasses.asdict(curve)
    | {"seed": seed, "batch_size": size, "dev_accuracy": found}
    for seed, row in enumerate((accuracy, [*accuracy[:2], 0.95, 1.0]))
    for size, found in zip(sizes, row, strict=True)
  ]
  found = best_batch.best_batches(pd.DataFrame(rows), curve)
  np.testing.assert_allclose(found.at, [16 * 2**0.5, 64])
  assert found.edge.tolist() == [0, 1]
  assert isinstance(found, grid_minimum.GridMinimum)


def test_noise_scale():
  curve = Curve("updates", 1000, 0.9, 0.4)
  np.testing.assert_allclose(curve.noise_scale(np.array([100.0])), [3.6])
  cell = best_batch._cells(curve, VALUES, ALL)[0]
  assert cell.learning_rate == 0.04
  assert cell.momentum == 0.9
  assert cell.num_train == 1000


@pytest.mark.parametrize(
  ("name", "value"),
  [("batches", (4, 8, 16)), ("sizes", (10,))],
)
def test_values_that_do_not_go_together(name, value):
  values = study.preset_values(best_batch.STUDY, "full")
  best_batch.check(values)
  setattr(values, name, value)
  with pytest.raises(InputError, match="expected"):
    best_batch.check(values)


def test_figures():
  figures = best_batch.draw(made(by_root, seeds=3), VALUES)
  assert set(figures) == {"accuracy", "best_batch", "noise_scale"}

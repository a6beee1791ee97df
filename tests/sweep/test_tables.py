"""Tables of sweeps as arrays."""

import numpy as np
import pandas as pd
import pytest

from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import tables


def make(**values):
  """Two rates, two seeds, three evaluations; accuracy tells them apart."""
  rows = [
    {
      "cell": f"{rate}-{seed}",
      "learning_rate": rate,
      "optimizer": "sgd",
      "seed": seed,
      "epoch": float(epoch),
      "step": epoch * 10,
      "dev_accuracy": rate + seed / 10 + epoch / 100,
      "dev_loss": 1 - rate,
      "diverged_step": None,
    }
    for rate in (0.5, 0.2)
    for seed in (1, 0)
    for epoch in (0, 2, 1)
  ]
  table = pd.DataFrame(rows)
  table["diverged_step"] = table["diverged_step"].astype("Int64")
  return table.assign(**values)


def test_curves_are_arms_by_seeds_by_points():
  curves = tables.curves(make(), "learning_rate", "dev_accuracy")
  assert curves.arms == (0.5, 0.2)
  assert curves.seeds == (0, 1)
  np.testing.assert_array_equal(curves.points, [0, 1, 2])
  expected = np.array([0, 0.01, 0.02]) + np.array([[0], [0.1]])
  np.testing.assert_allclose(curves.arm(0.5), 0.5 + expected)
  np.testing.assert_allclose(curves.at(1.2)[1], [0.21, 0.31])
  with pytest.raises(KeyError):
    curves.arm(0.3)


def test_several_columns_tell_arms_apart():
  names = ["learning_rate", "optimizer"]
  curves = tables.curves(make(), names, "dev_loss", point="step")
  assert curves.arms == ((0.5, "sgd"), (0.2, "sgd"))
  np.testing.assert_array_equal(curves.points, [0, 10, 20])


def test_a_missing_seed_and_a_doubled_row_are_refused():
  table = make()
  hole = table[~((table["learning_rate"] == 0.2) & (table["seed"] == 1))]
  with pytest.raises(InputError, match="lacks"):
    tables.curves(hole, "learning_rate", "dev_loss")
  with pytest.raises(InputError, match="twice"):
    tables.curves(pd.concat([table, table[:1]]), "learning_rate", "dev_loss")


def test_best_arm_by_the_end_of_its_runs():
  table = make()
  assert tables.best_arm(table, "learning_rate", "dev_accuracy") == 0.5
  assert tables.best_arm(table, "learning_rate", "dev_loss") == 0.5
  # An arm that was better earlier, but is not at its end, is not the best.
  table.loc[
    (table["learning_rate"] == 0.5) & (table["step"] == 20), "dev_accuracy"
  ] = 0.0
  assert tables.best_arm(table, "learning_rate", "dev_accuracy") == 0.2


def test_last_rows():
  table = make()
  ends = tables.last_rows(table)
  assert set(ends["step"]) == {20}
  assert len(ends) == 4


def test_lost_runs_count_as_guessing_at_least():
  rows = pd.DataFrame(
    {
      "dev_loss": [0.1, 2.3, 2.31, np.nan, np.inf, 0.5],
      "diverged_step": pd.array([None, None, None, None, None, 3], "Int64"),
    }
  )
  assert tables.lost(rows).tolist() == [False, False, True, True, True, True]
  np.testing.assert_allclose(
    tables.counted_loss(rows),
    [0.1, 2.3, 2.31, tables.GUESSING, np.inf, tables.GUESSING],
  )


@pytest.mark.parametrize(
  ("sizes", "drop_last", "refused"),
  [
    ((16, 32), (False, False), True),
    ((16, 32), (True, False), True),
    ((16, 32), (True, True), False),
    ((32, 32), (False, False), False),
  ],
)
def test_no_comparison_across_batch_sizes_has_short_batches(
  sizes, drop_last, refused
):
  table = pd.DataFrame({"batch_size": sizes, "drop_last": drop_last})
  if refused:
    with pytest.raises(InputError, match=r"batch sizes \[16, 32\] with short"):
      tables.require_whole_batches(table)
  else:
    tables.require_whole_batches(table)

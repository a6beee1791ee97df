"""A row of a sweep's table, run again without the commands of experiments/."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from mnist_jax import data, sweep
from mnist_jax.data import sparse
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import _workers, replaying, store

CLOSE = 1e-4  # the tolerance of experiments.replay


@pytest.fixture(scope="module")
def table(mnist):
  cells = sweep.product(
    sweep.Settings(
      hidden_sizes=(8,),
      activations=("relu",),
      num_train=300,
      batch_size=50,
      optimizer="momentum",
    ),
    learning_rate=[0.1, 0.3],
    schedule="multistep",
    gamma=0.5,
    boundaries=(1.0,),
    schedule_unit="epochs",
  )
  budget = sweep.Budget(epochs=2, evaluate_every=1, final_splits=("test",))
  return sweep.run(cells, budget, dataset=mnist)


def test_a_row_gives_all_rows_of_its_cell_again(table):
  row = table.iloc[4]
  then = table[table["cell"] == row["cell"]]
  now = sweep.replay(row)
  assert len(now) == 3
  for name in ("cell", "command"):
    assert now[name].unique() == then[name].unique()
  assert max(sweep.differences(now, then).values()) < CLOSE


@pytest.mark.parametrize("form", ["dict", "csv", "record"])
def test_a_row_may_come_from_a_file(table, tmp_path, form):
  row = table.iloc[0]
  table.to_csv(tmp_path / "table.csv", index=False)
  other = {
    "dict": row.to_dict,
    "csv": lambda: pd.read_csv(tmp_path / "table.csv").iloc[0],
    "record": lambda: json.loads(table.to_json(orient="records"))[0],
  }[form]()
  assert replaying._read(other) == replaying._read(row)


def test_a_row_from_before_a_setting_was_has_its_default(table):
  row = table.iloc[0].drop(["clip_norm", "batch_schedule"])
  assert replaying._read(row) == replaying._read(table.iloc[0])


@pytest.mark.parametrize(
  ("flags", "num_train", "made"),
  [
    ("", None, lambda whole: whole),
    ("--num_train=300", 300, lambda whole: whole),
    ("--num_train=300", None, lambda whole: data.take(whole, 300)),
    (
      "--num_train=300 --sparse_lowest=0.05 --sparse_seed=3",
      None,
      lambda whole: sparse.sparsify(data.take(whole, 300), 0.05, 3),
    ),
    ("--dev_size=99", None, lambda whole: data.load(dev_size=99)),
  ],
)
def test_the_data_are_made_as_the_command_says(mnist, flags, num_train, made):
  command = f"python -m experiments.replay --seed=1 {flags} --budget='{{}}'"
  cell = sweep.Settings(num_train=num_train)
  found = _workers.load(replaying._data_flags(command, cell))
  assert store.data_digest(found) == store.data_digest(made(mnist))


def test_other_data_than_the_sweeps_are_refused(table, mnist):
  dark = data.Split(mnist.train.images // 2, mnist.train.labels)
  dataset = dataclasses.replace(mnist, train=dark)
  with pytest.raises(InputError, match=r"^data_digest=\w+: the data of this"):
    sweep.replay(table.iloc[0], dataset=dataset)


@pytest.mark.parametrize(
  ("changed", "said"),
  [
    (lambda t: t, "row is a DataFrame, expected one row, as table.iloc"),
    (lambda t: t.iloc[0].drop("seed"), "row has no 'seed', expected every"),
    (lambda t: t.assign(seed=7).iloc[0], "expected it as sweep.run gave it"),
    (lambda t: t.assign(l2=-1.0).iloc[0], "row: l2=-1.0: expected a finite"),
    (lambda t: t.assign(budget="{").iloc[0], "row: budget is '{', expected"),
    (lambda t: t.assign(budget=None).iloc[0], "row: budget is None, expected"),
  ],
)
def test_what_is_no_row_is_refused_in_a_line(table, changed, said):
  with pytest.raises(InputError, match=said) as caught:
    sweep.replay(changed(table))
  assert "\n" not in str(caught.value)


def test_differences_are_the_largest_and_infinite_of_other_evaluations(table):
  then = table[:3]
  now = then.assign(dev_loss=then["dev_loss"] + np.array([0.0, -0.5, 0.25]))
  found = sweep.differences(now, then)
  assert found["dev_loss"] == pytest.approx(0.5)
  assert found["dev_accuracy"] == 0
  assert set(sweep.differences(now[1:], then).values()) == {np.inf}

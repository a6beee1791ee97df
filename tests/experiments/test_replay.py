"""A cell's command, pasted into a shell, gives its rows again."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mnist_jax import data, sweep
from mnist_jax.data import sparse

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory, mnist):
  folder = tmp_path_factory.mktemp("results")
  base = sweep.Settings(
    hidden_sizes=(8,), activations=("relu",), num_train=300, batch_size=50
  )
  cells = sweep.product(
    base,
    learning_rate=[0.1, 0.3],
    seed=[0, 1],
    schedule="multistep",
    gamma=0.5,
    boundaries=(1.0,),
    schedule_unit="epochs",
  )
  budget = sweep.Budget(epochs=2, evaluate_every=1, final_splits=("test",))
  table = sweep.run(cells, budget, dataset=mnist, workdir=folder)
  return folder, table


def shell(command, *more):
  """Runs a line as a person would, from the root of the checkout."""
  line = command.replace("python ", f"{sys.executable} ", 1)
  return subprocess.run(
    " ".join([line, *more]),
    shell=True,
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )


def test_the_command_of_a_row_gives_it_again(results):
  folder, table = results
  row = table.iloc[-1]
  done = shell(row["command"], f"--results={folder}")
  assert done.returncode == 0, done.stderr
  for name in ("dev_loss", "dev_accuracy", "test_loss"):
    assert re.search(rf"^{name} +differs by at most \S+, of", done.stdout, re.M)
  last = done.stdout.split("\nbatch_loss")[0].splitlines()[-1].split()
  assert float(last[-1]) == pytest.approx(row["test_accuracy"], abs=2e-3)


def test_other_rows_are_told_apart(results, tmp_path):
  folder, table = results
  row = table.iloc[-1]
  (tmp_path / "cells").mkdir()
  (tmp_path / "manifest.json").write_text(
    (folder / "manifest.json").read_text()
  )
  wrong = pd.read_parquet(folder / "cells")
  wrong["dev_loss"] += 0.01
  wrong.to_parquet(tmp_path / "cells" / "all.parquet")
  done = shell(row["command"], f"--results={tmp_path}")
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == "not the same run"


def test_a_cell_on_sparse_features_is_repeated_on_them(mnist, tmp_path):
  dataset = sparse.sparsify(data.take(mnist, 300), 0.05, 3)
  cell = sweep.Settings(hidden_sizes=(8,), activations=("relu",), batch_size=50)
  table = sweep.run(
    [cell],
    sweep.Budget(epochs=2),
    dataset=dataset,
    data_flags=["--num_train=300", "--sparse_lowest=0.05", "--sparse_seed=3"],
    workdir=tmp_path,
  )
  done = shell(table["command"].iloc[-1], f"--results={tmp_path}")
  assert done.returncode == 0, done.stderr


def test_a_command_refuses_other_data_than_its_sweeps(mnist):
  dark = data.Split(mnist.train.images // 2, mnist.train.labels)
  table = sweep.run(
    [sweep.Settings(num_train=300)],
    sweep.Budget(updates=1),
    dataset=dataclasses.replace(mnist, train=dark),
  )
  done = shell(table["command"].iloc[0])
  assert done.returncode == 2
  assert re.search("--data_digest=.*: the data flags give .*", done.stderr)
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--budget={"], "--budget={: expected JSON"),
    (["'--budget={\"epoch\": 1}'"], "budget has 'epoch'"),
    (['\'--budget={"epochs": "3"}\''], "epochs=3: expected a number > 0"),
    (['\'--budget={"epochs": 1, "evaluate_at": 3}\''], "expected lists"),
    (["--sparse_seed=1"], "--sparse_seed=1: expected --sparse_lowest with it"),
    (["--sparse_lowest=2"], "must be a number in (0, 1]"),
    (["--results=nowhere"], "--results=nowhere: no results of a sweep"),
  ],
)
def test_what_is_wrong_is_one_line(flags, said):
  done = shell("python -m experiments.replay", *flags)
  assert done.returncode == 2
  assert said in done.stderr
  assert len(done.stderr.splitlines()) == 1
